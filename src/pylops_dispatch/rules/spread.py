"""Spread: each block of the model spreads into the data by itself."""

from __future__ import annotations

import math
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import Array as DaskArray
from dask.base import tokenize

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.blocks import embed
from pylops_dispatch.functions.indexing import balanced
from pylops_dispatch.operators import duplicate, resized, signature
from pylops_dispatch.pieces import Zeros


def run(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> DispatchArray:
    """Run blocks of model and data in pairs, with their part of the table, and add them.

    The kernels (``_matvec_numpy``, ``_matvec_numba_table``) index sample by sample, which a
    lazy array cannot do.
    """
    dims, dimsd = (tuple(int(n) for n in d) for d in (op.dims, op.dimsd))
    into, out = (dimsd, dims) if adjoint else (dims, dimsd)
    dtype = np.dtype(op.dtype)
    piece = box.as_shape(into)
    if isinstance(piece, Zeros):
        return DispatchArray([Zeros(out, dtype)], (math.prod(out),))
    if adjoint:
        piece = piece.rechunk({1: -1})
        model = (balanced(dims[0], piece.numblocks[0]), (dims[1],))
        traces = piece.chunks[0]
    else:
        model = piece.chunks
        traces = balanced(dimsd[0], piece.numblocks[0])
    # indices: x0, t0 of the model, x and t of the data
    arguments: list[Any] = [piece, (2, 3) if adjoint else (0, 1)]
    for array in (op.table, op.dtable):
        if array is not None:
            arguments += [_wrap(array, (*model, traces)), (0, 1, 2)]
    if op.table is None:
        for index, sizes in enumerate((*model, traces)):
            arguments += [da.arange(sum(sizes), chunks=(sizes,)), (index,)]
    key = tokenize(signature(op), adjoint, piece.name)
    template = duplicate(op)
    template.table = template.dtable = None
    partial = da.blockwise(
        _spread_block,
        (0, 1, 2) if adjoint else (0, 1, 2, 3),
        *arguments,
        name=f"Spread-{'rmatvec' if adjoint else 'matvec'}-{key}",
        adjust_chunks={2: 1} if adjoint else {0: 1, 1: 1},
        new_axes=None if adjoint else {3: dimsd[1]},
        concatenate=True,
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * (3 if adjoint else 4), dtype=dtype),
        op=embed(template),
        with_table=op.table is not None,
        adjoint=adjoint,
    )
    y = partial.sum(axis=2 if adjoint else (0, 1), dtype=dtype)
    return DispatchArray([y], (math.prod(out),))


def _wrap(array: Any, chunks: Any) -> DaskArray:
    return array.rechunk(chunks) if isinstance(array, DaskArray) else pc.wrap_numpy(array, chunks)


def _spread_block(x: Any, *arrays: Any, op: Any, with_table: bool, adjoint: bool) -> Any:
    if with_table:
        table = arrays[0]
        dtable = arrays[1] if len(arrays) > 1 else None
    else:
        table, dtable = _table_of(op, *arrays)
    nt = x.shape[1] if adjoint else op.nt
    new = resized(op, table.shape[:2], (table.shape[2], nt))
    new.nx0, new.nt0, new.nx = table.shape
    new.table, new.dtable, new.usetable, new.fh = table, dtable, True, None
    y = new._rmatvec(x.ravel()) if adjoint else new._matvec(x.ravel())
    return y.reshape((*table.shape[:2], 1)) if adjoint else y.reshape((1, 1, *new.dimsd))


def _table_of(op: Any, x0: Any, t0: Any, x: Any) -> tuple[Any, Any]:
    """Tabulate the user's function for one block."""
    chosen = slice(int(x[0]), int(x[-1]) + 1)
    shape = (len(x0), len(t0), len(x))
    table, dtable = np.empty(shape), np.empty(shape) if op.interp else None
    for i, ix0 in enumerate(x0):
        for j, it in enumerate(t0):
            found = op.fh(int(ix0), int(it))
            # Numba's kernels want a pair even where there is nothing to interpolate
            indices, weights = found if isinstance(found, tuple) else (found, None)
            table[i, j] = np.asarray(indices)[chosen]
            if dtable is not None:
                dtable[i, j] = np.asarray(weights)[chosen]
    return table, dtable
