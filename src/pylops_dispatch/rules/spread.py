"""Spread, and the Radon transforms that are made of it: slopes of the model apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from dask.array.core import Array as DaskArray
from pylops import basicoperators as basic

from pylops_dispatch.array import holds, is_lazy
from pylops_dispatch.operators import dims_of, duplicate
from pylops_dispatch.pieces import balanced
from pylops_dispatch.rules.castings import added_up
from pylops_dispatch.rules.running import run_terms, run_whole
from pylops_dispatch.rules.table import RULES, Rule, Terms

# data of more bytes are cut into traces too; else each task has all of them
_WHOLE_DATA = 1 << 27


def _sizes(op: Any, x: DaskArray, adjoint: bool) -> dict[str, tuple[int, ...]]:
    """Cut the first axis of the model, along which tables are contiguous."""
    dims, dimsd = dims_of(op, False)
    nbytes = math.prod(dimsd) * np.dtype(op.dtype).itemsize
    if adjoint:
        traces = x.chunks[0] if nbytes > _WHOLE_DATA else (dimsd[0],)
        slopes = balanced(dims[0], min(dims[0], x.npartitions))
    else:
        traces = balanced(dimsd[0], min(dimsd[0], -(-nbytes // _WHOLE_DATA)))
        slopes = x.chunks[0]
    return {"x0": slopes, "t0": (dims[1],), "x": traces, "t": (dimsd[1],)}


_SPREAD = Terms(
    ("x0", "t0"),
    ("x", "t"),
    {"table": ("x0", "t0", "x"), "dtable": ("x0", "t0", "x")},
    {"nx0": "x0", "nt0": "t0", "nx": "x", "nt": "t"},
    positions={"_slopes": "x0", "_traces": "x"},
    sizes=_sizes,
)


def _run(cls: type, op: Any, box: Any, adjoint: bool) -> Any:
    if len(op.dims) + len(op.dimsd) != 4:
        return run_whole(cls, op, box, adjoint, "its model and data do not have two axes each")
    if not op.usetable:
        if op.engine == "numpy" and holds(op.fh(0, 0), is_lazy):
            raise TypeError(
                "fh of Spread gives dask arrays, and is called for each sample of the model: "
                "let it give NumPy arrays, or give Spread a table"
            )
        op = duplicate(op)
        op._all_traces = op.nx
    return run_terms(cls, op, box, adjoint, _SPREAD)


def _dtype(op: Any, x: Any, adjoint: bool) -> np.dtype[Any]:
    # y = np.zeros(..., dtype=self.dtype); NumPy's adjoint writes each sum into it at once
    return np.dtype(op.dtype) if adjoint and op.engine == "numpy" else added_up(op, x)


def _fit(op: Any) -> None:
    """Let the user's function, where there is no table, count from the start of the block."""
    first, start, stop = int(op._slopes[0]), int(op._traces[0]), int(op._traces[-1]) + 1
    if op.usetable or (first == start == 0 and stop == op._all_traces):
        return
    if hasattr(op.fh, "py_func"):  # compiled by Numba, as is the kernel that would call it
        from pylops_dispatch.rules import tabulation  # Numba is there, but takes its time

        op.table = np.empty((op.nx0, op.nt0, op.nx))
        if op.interp:
            op.dtable = np.empty_like(op.table)
            tabulation.indices_and_weights(op.fh, first, start, op.table, op.dtable)
        else:
            op.dtable = None
            tabulation.indices_alone(op.fh, first, start, op.table)
        op.usetable = True
        return
    whole, chosen = op.fh, slice(start, stop)

    def fh(ix0: int, it: int) -> Any:
        found = whole(ix0 + first, it)
        return tuple(part[chosen] for part in found) if op.interp else found[chosen]

    op.fh = fh


RULES[basic.Spread] = Rule(
    "parallel_sum",
    "blocks of the first axis of the model, added up",
    terms=lambda op: _SPREAD,
    dtype=_dtype,
    fit=_fit,
    run=_run,
)
