"""Sliding windows and patches: blocks of windows in parallel, their overlaps added up."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import dask.array as da
import numpy as np
import pylops
from dask.array.core import Array as DaskArray

from pylops_dispatch import blocks
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.blas_threads import one_blas_thread
from pylops_dispatch.halos import Span, fold, gather
from pylops_dispatch.naming import layer_name, name_of
from pylops_dispatch.operators import dims_of, duplicate, left_as_they_are, resized, title
from pylops_dispatch.pieces import Shape, Zeros
from pylops_dispatch.placing import coefficient
from pylops_dispatch.rules.castings import added_up, applied_dtype
from pylops_dispatch.whole_axes import whole_along


def run(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Apply ``Sliding1D``, ``Sliding2D``, ``Sliding3D``, ``Patch2D`` or ``Patch3D``.

    One block holds consecutive windows and the samples that they span; the operator of the
    windows runs inside, as PyLops has it. Where one operator works on all windows at once
    (``simOp``), it runs by its own rule, before or after.
    """
    dims, dimsd = dims_of(op, False)
    n = len(_lengths(op))
    if op.simOp and tuple(op.Op.dimsd[:n]) != dims[:n]:
        return NotImplemented  # PyLops takes windows out of what has no axis of them
    tapers = _tapers(op)
    if tapers is not None and op.savetaper and tapers.shape[:n] != dims[:n]:
        return NotImplemented  # a single window: PyLops stacks two tapers for it
    inner = (*_lengths(op), *dimsd[n:]) if op.simOp else dims[n:]
    if op.simOp and not adjoint:
        box = op.Op.matvec(box.reshape(-1))
    dtype = _dtype(cls, op, box.dtype, adjoint)
    piece = box.as_shape(dimsd if adjoint else (*dims[:n], *inner))
    if isinstance(piece, Zeros):
        out = Zeros((*dims[:n], *inner) if adjoint else dimsd, dtype)
        y: Any = DispatchArray([out], (math.prod(out.shape),))
    else:
        result = _apply(cls, op, piece, inner, adjoint, dtype)
        y = DispatchArray([result], (math.prod(result.shape),))
    return op.Op.rmatvec(y) if op.simOp and adjoint else y


def _spans(op: Any) -> tuple[list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
    """Return where windows start and end along each axis that they slide along."""
    if hasattr(op, "dwin_inends"):
        pairs = [op.dwin_inends]
    else:
        pairs = list(op.dwins_inends)
    return [p[0] for p in pairs], [p[1] for p in pairs]


def _lengths(op: Any) -> Shape:
    return tuple(int(n) for n in np.atleast_1d(op.nwin))


def _tapers(op: Any) -> Any:
    return op.taps if op.tapertype is not None else None


def _apply(
    cls: type, op: Any, x: DaskArray, inner: Shape, adjoint: bool, dtype: np.dtype[Any]
) -> DaskArray:
    dims, dimsd = dims_of(op, False)
    starts, ends = _spans(op)
    n = len(starts)
    tapers = _tapers(op)
    x = whole_along(x, range(n, x.ndim), title(op))
    if adjoint:
        counts = [_windows_in(s, c) for s, c in zip(starts, x.chunks, strict=False)]
    else:
        counts = [x.chunks[axis] for axis in range(n)]
    spans = [_reach(s, e, c) for s, e, c in zip(starts, ends, counts, strict=True)]
    if adjoint:
        for axis in range(n):
            x = gather(x, axis, spans[axis])
    template = duplicate(op)
    template.taps = None
    if op.simOp:
        template.Op = None
    template, held = blocks.taken_apart(template)
    arguments: list[Any] = []
    index = tuple(range(x.ndim))
    rest = dimsd[n:]
    kept = (*range(n), *range(x.ndim, x.ndim + len(inner if adjoint else rest)))
    first = max(*index, *kept) + 1
    if tapers is not None:
        if op.savetaper:
            where = (*range(n), *range(first, first + tapers.ndim - n))
            chunks = (*counts, *((m,) for m in tapers.shape[n:]))
        else:
            where = tuple(range(first, first + tapers.ndim))
            chunks = tuple((m,) for m in tapers.shape)
        first += tapers.ndim
        wrapped = tapers if isinstance(tapers, DaskArray) else coefficient(tapers, chunks)
        arguments += [wrapped.rechunk(chunks), where]
    for axis in range(n):
        arguments += [blocks.starts(tuple(counts[axis])), (axis,)]
    arguments += blocks.whole_arguments(held, first)
    shape = inner if adjoint else rest
    y = da.blockwise(
        functools.partial(
            _windows_block,
            cls=cls,
            dims=dims,
            inner=inner,
            rest=rest,
            with_tapers=tapers is not None,
            adjoint=adjoint,
        ),
        kept,
        x,
        index,
        *arguments,
        name=layer_name(cls, adjoint, name_of(op), x.name),
        new_axes=dict(zip(kept[n:], shape, strict=True)),
        adjust_chunks={
            axis: tuple(counts[axis]) if adjoint else tuple(b - a for a, b in spans[axis])
            for axis in range(n)
        },
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * len(kept), dtype=dtype),
        op=blocks.embed(template),
    )
    if not adjoint:
        for axis in range(n):
            y = fold(y, axis, spans[axis], _cuts(spans[axis], dimsd[axis]))
    return y


def _windows_in(starts: np.ndarray[Any, Any], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many windows start in each chunk, where there are any."""
    edges = np.cumsum([0, *chunks])
    counts = np.diff(np.searchsorted(starts, edges))
    return tuple(int(c) for c in counts if c)


def _reach(starts: Any, ends: Any, counts: tuple[int, ...]) -> list[Span]:
    """Return the samples that each block of windows spans."""
    edges = np.cumsum([0, *counts])
    return [(int(starts[a]), int(ends[b - 1])) for a, b in itertools.pairwise(edges)]


def _cuts(spans: list[Span], n: int) -> tuple[int, ...]:
    """Return chunks of the data that start where blocks of windows do."""
    edges = [0, *(start for start, _ in spans[1:]), n]
    return tuple(b - a for a, b in itertools.pairwise(edges))


def _windows_block(
    x: Any,
    *arrays: Any,
    cls: type,
    op: Any,
    dims: Shape,
    inner: Shape,
    rest: Shape,
    with_tapers: bool,
    adjoint: bool,
) -> Any:
    """Apply the operator to one block of windows, or to the samples that they span."""
    remaining = iter([blocks.single(array) for array in arrays])
    x = blocks.single(x)
    tapers = next(remaining) if with_tapers else None
    n = len(_lengths(op))
    firsts = [int(next(remaining)[0]) for _ in range(n)]
    new = blocks.filled(op, list(remaining))
    steps = [int(a - b) for a, b in zip(_lengths(op), np.atleast_1d(op.nover), strict=True)]
    if adjoint:
        counts = [
            (m - length) // step + 1
            for m, length, step in zip(x.shape, _lengths(op), steps, strict=False)
        ]
    else:
        counts = list(x.shape[:n])
    spanned = tuple(
        (c - 1) * step + length for c, step, length in zip(counts, steps, _lengths(op), strict=True)
    )
    new = resized(new, (*counts, *inner), (*spanned, *rest))
    _slide(new, counts, steps)
    if tapers is not None:
        new.taps = tapers if op.savetaper else _inner_tapers(tapers, firsts, counts, dims)
    if op.simOp:
        new.Op = pylops.Identity((*counts, *inner), dtype=op.dtype)
    with one_blas_thread():
        y = blocks.run(cls, new, x, adjoint)
    return y.reshape((*counts, *inner) if adjoint else (*spanned, *rest))


def _slide(op: Any, counts: list[int], steps: list[int]) -> None:
    pairs = []
    for count, step, length in zip(counts, steps, _lengths(op), strict=True):
        starts = np.arange(count) * step
        pairs.append((starts, starts + length))
    if hasattr(op, "dwin_inends"):
        op.dwin_inends = pairs[0]
    else:
        op.dwins_inends = tuple(pairs)


def _inner_tapers(tapers: Any, firsts: list[int], counts: list[int], dims: Shape) -> Any:
    """Return tapers for the first, inner and last windows of a block, along each axis.

    The ends of a block are inner windows, except where they are those of the data.
    """
    for axis, (first, count) in enumerate(zip(firsts, counts, strict=True)):
        ends = [
            0 if window == 0 else 2 if window == dims[axis] - 1 else 1
            for window in (first, first + count - 1)
        ]
        tapers = tapers.take([ends[0], 1, ends[1]], axis=axis)
    return tapers


def _dtype(cls: type, op: Any, dtype: np.dtype[Any], adjoint: bool) -> np.dtype[Any]:
    # all sums are written into ncp.zeros(..., dtype=self.dtype), but for the adjoint of simOp
    if adjoint and op.simOp:
        tapers = _tapers(op)
        return dtype if tapers is None else np.result_type(dtype, tapers.dtype)
    if adjoint or dtype == op.dtype:
        return np.dtype(op.dtype)
    if not op.simOp:
        with left_as_they_are([op.Op]):
            dtype = applied_dtype(op.Op, dtype, adjoint)
    return added_up(op, dtype)
