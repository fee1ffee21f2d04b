"""Products with matrices of columns: the columns in parallel, not one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pylops
from dask.array.core import Array as DaskArray
from dask.base import tokenize

from pylops_dispatch.array import DispatchArray
from pylops_dispatch.blocks import (
    as_foreign_code_takes,
    embed,
    filled,
    single,
    taken_apart,
    whole_arguments,
)
from pylops_dispatch.naming import name_of
from pylops_dispatch.notes import noted
from pylops_dispatch.operators import (
    all_parts,
    changes,
    count_applications,
    kept_of,
    lazy_arrays,
    put_back,
    title,
)
from pylops_dispatch.pieces import LARGE
from pylops_dispatch.rules import matrix
from pylops_dispatch.rules.castings import applied_dtype
from pylops_dispatch.rules.running import rule_of
from pylops_dispatch.rules.table import RULES
from pylops_dispatch.turns import Turn, in_turn, out_of_own_memory, turns_of
from pylops_dispatch.whole_axes import whole_along

# a task holds at least one column, up to this many bytes of them, and as many of other arrays
_BYTES = 1 << 27


def matmat(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap ``LinearOperator._matmat`` or ``_rmatmat``, which apply an operator to each column.

    A matrix is multiplied by blocks. Where whole columns and the operator's lazy arrays fit into
    a task, another unmodified operator is applied to some columns in each; else to one column
    after another. Columns count as applications: ``decorators.count`` takes them off again.
    """
    adjoint = name == "_rmatmat"

    def wrapper(self: Any, X: Any) -> Any:
        if not isinstance(X, DispatchArray) or X.size == 0:
            return original(self, X)
        if rule_of(self) is RULES[pylops.MatrixMult]:
            count_applications(self, adjoint, X.shape[1])
            return matrix.run_columns(self, X, adjoint)
        held = sum(lazy.nbytes for _, _, lazy in lazy_arrays(self))
        if rule_of(self) is not None and _are_few(X.dask()):
            return original(self, X)  # vectors, whose blocks run in parallel
        if (
            max(X.shape[0] * X.itemsize, held) > _BYTES
            or isinstance(self, pylops.MemoizeOperator)  # it has a state, which no task may change
        ):
            return original(self, X)
        before = [kept_of(part) for part in all_parts(self)]
        dtype = applied_dtype(self, X.dtype, adjoint)
        if any(map(changes, before)):  # each column is one of another operator
            for kept in before:
                put_back(kept)
            return original(self, X)
        count_applications(self, adjoint, X.shape[1])
        template, whole = taken_apart(self)
        array = whole_along(X.dask(), (0,), f"{title(self)}.{name.strip('_')}")
        if array.nbytes > _BYTES:
            array = array.rechunk({1: "auto"})
        rows = self.shape[1 if adjoint else 0]
        key = tokenize(name_of(self), adjoint, array.name)
        y = da.blockwise(
            _columns,
            (0, 1),
            array,
            (0, 1),
            *whole_arguments(whole, 2),
            name=f"{type(self).__name__.strip('_')}-{name.strip('_')}-{key}",
            adjust_chunks={0: rows},
            dtype=dtype,
            meta=np.empty((0, 0), dtype=dtype),
            op=embed(template),
            turns=turns_of(self),
            adjoint=adjoint,
        )
        return DispatchArray(y)

    return wrapper


def _are_few(columns: DaskArray) -> bool:
    """Whether there is one column, or large ones are cut into more blocks than there are."""
    blocks, n = columns.numblocks[0], columns.shape[1]
    return n == 1 or (columns.nbytes > LARGE and n <= blocks)


def _columns(block: Any, *arrays: Any, op: Any, turns: tuple[Turn, ...], adjoint: bool) -> Any:
    op = filled(op, [single(array) for array in arrays])
    with noted(op, "_rmatmat" if adjoint else "_matmat", block), in_turn(turns):
        op, block = as_foreign_code_takes(op, block, block)
        y = op._rmatmat(block) if adjoint else op._matmat(block)
        return out_of_own_memory(y, op) if turns else y
