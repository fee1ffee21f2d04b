"""What PyLops alone makes of every entry of the catalogue, for dask arrays to be held against."""

from __future__ import annotations

import functools
import itertools

import pylops_dispatch

from .catalogue import CATALOGUE, adjoint, build, data, model
from .helpers import is_compiled

DIRECTIONS = ["forward", "adjoint"]


def start(entry, op, direction, extra=(), seed=1):
    """The vector that an operator is applied to, and its shape in dimensions."""
    if direction == "forward":
        return model(entry, op, extra, seed), op.dims
    return data(entry, op, extra, seed), op.dimsd


def apply(op, direction, x):
    return op @ x if direction == "forward" else adjoint(op, x)


def has_columns(entry):
    """Whether it is applied to columns here; Numba would compile for them once more."""
    return entry.adjoint and entry.matmat and "numba" not in entry.id


@functools.cache
def numpy_results(extra, compiled):
    """What PyLops alone gives for all such entries, found together: to switch it takes its time.

    For each entry, direction and shape the input, and the output or the error.
    """
    with pylops_dispatch.disabled():
        return {
            (entry.id, *how): numpy_attempt(entry, *how, extra)
            for entry in CATALOGUE
            if is_compiled(entry.id) == compiled and (not extra or has_columns(entry))
            for how in itertools.product(DIRECTIONS, [False, True])
        }


def numpy_attempt(entry, direction, shaped, extra):
    x = None
    try:
        with build(entry) as op:
            x, dims = start(entry, op, direction, extra)
            x = x.reshape((*dims, *extra)) if shaped else x
            return x, apply(op, direction, x)
    except Exception as error:
        return x, error


def numpy_result(entry, direction, shaped, extra=()):
    """The input, and what PyLops alone gives for it, or the ValueError that it raises."""
    x, found = numpy_results(extra, is_compiled(entry.id))[entry.id, direction, shaped]
    if isinstance(found, Exception) and not isinstance(found, ValueError):
        raise found
    return x, found
