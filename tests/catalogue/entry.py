"""What an entry of the catalogue is, and what the tests do with it.

Each entry builds its operator with ``make(coef)``: ``coef`` is given the arrays
of the operator and returns them as NumPy or as lazy dask arrays, so that the
same entry is tested with both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pylops

from ..helpers import rand

Coef = Callable[[np.ndarray], Any]
Make = Callable[[Coef], pylops.LinearOperator]


@dataclass(frozen=True)
class Entry:
    """One operator in one setting."""

    id: str
    make: Make
    covers: tuple[str, ...] = ()
    coefficients: bool = False  # `make` has coefficients that may be dask arrays
    peeks: int = 0  # executions of a constructor in which PyLops inspects values
    whole: bool = False  # needs the whole-array fallback, so may warn
    adjoint: bool = True
    fresh: bool = False  # has a state: build it again for each application
    kind: str = "plain"  # plain, elementwise or stencil
    x_dtype: str | None = None  # of the model, where it is not the operator's
    y_dtype: str | None = None  # of the data, where it is not the operator's
    dot: str = "op"  # the field of the dot test: the operator's, "real" or "none"
    matmat: bool = True  # PyLops alone applies it to the columns of a matrix

    def __str__(self) -> str:
        return self.id


CATALOGUE: list[Entry] = []

# the names whose entries need an optional package that is not installed
UNAVAILABLE: set[str] = set()


def add(id: str, make: Make, *covers: str, available: bool = True, **settings: Any) -> None:
    covers = covers or (id.split("-")[0],)
    if available:
        CATALOGUE.append(Entry(id, make, covers, **settings))
    else:
        UNAVAILABLE.update(covers)


@contextlib.contextmanager
def build(entry: Entry, coef: Coef = lambda a: a) -> Iterator[pylops.LinearOperator]:
    """The operator of an entry; its pools of threads are closed at the end."""
    op = entry.make(coef)
    try:
        yield op
    finally:
        if getattr(op, "pool", None) is not None:
            op.close()


def model(entry: Entry, op: Any, extra: tuple[int, ...] = (), seed: int = 1) -> Any:
    return rand((op.shape[1], *extra), entry.x_dtype or op.dtype, seed)


def data(entry: Entry, op: Any, extra: tuple[int, ...] = (), seed: int = 2) -> Any:
    return rand((op.shape[0], *extra), entry.y_dtype or op.dtype, seed)


DTYPES = ["float32", "float64", "complex64", "complex128"]


def case_id(value: Any) -> str | None:
    return str(value)


def adjoint(op: Any, y: Any) -> Any:
    """``op.H @ y``; an operator on selected columns has no ``H`` in PyLops 2.8."""
    if isinstance(op.dims, tuple):
        return op.H @ y
    return op.rmatmat(y) if y.ndim == 2 else op.rmatvec(y)


def nd(op: Any) -> bool:
    """The operator takes a model of several dimensions."""
    return isinstance(op.dims, tuple)
