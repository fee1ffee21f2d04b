"""Rules of operators whose model is filters: data samples in parallel, their shares added up."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import Array as DaskArray
from dask.base import tokenize

from pylops_dispatch import blocks
from pylops_dispatch.array import DispatchArray, is_lazy, source
from pylops_dispatch.halos import everything
from pylops_dispatch.naming import layer_name, name_of
from pylops_dispatch.operators import dims_of, duplicate, for_tasks, resized, shaped
from pylops_dispatch.pieces import Shape, balanced
from pylops_dispatch.placing import coefficient
from pylops_dispatch.rules.castings import added_up
from pylops_dispatch.rules.table import Place, Run

# data that nothing else cuts is worked on in up to this many blocks
_BLOCKS = 8


def filters(
    half: Callable[[Any], Shape],
    place: Place,
    adjoint_dtype: Callable[[Any], Any] = lambda op: op.dtype,
) -> Run:
    """Return what runs ``NonStationaryFilters1D`` and its like.

    Parameters
    ----------
    half : callable
        Half of the length of the filters along each axis of the data.
    place : callable
        Tells a copy of the operator for a block of the data where that block lies.
    adjoint_dtype : callable, optional
        Dtype of what the adjoint of an operator gives.
    """

    def run(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> DispatchArray:
        # y is written into ncp.zeros(..., dtype=self.dtype)
        products = np.result_type(op.inp.dtype, box.dtype)
        dtype = added_up(op, products, adjoint_dtype(op) if adjoint else op.dtype)

        def apply(x: DaskArray) -> DaskArray:
            chunks = x.chunks if adjoint else _chunks(op, half(op))
            lazy = is_lazy(op.inp)
            signal = source(op.inp).rechunk(chunks) if lazy else coefficient(op.inp, chunks)
            return _apply(cls, op, x, signal, half(op), place, adjoint, dtype)

        return shaped(op, box, adjoint, dtype, apply)

    return run


def _chunks(op: Any, half: Shape) -> Any:
    if is_lazy(op.inp):
        return source(op.inp).chunks
    chunks: list[tuple[int, ...]] = [(int(n),) for n in op.inp.shape]
    n = chunks[0][0]
    chunks[0] = balanced(n, max(1, min(_BLOCKS, n // (8 * max(half[0], 1)))))
    return tuple(chunks)


def interpolated(original: property) -> property:
    """Wrap ``NonStationaryConvolve1D.hsinterp``, which works out a filter for each sample.

    It fills an array row by row; of a dask array of filters it is made in one lazy task.
    """

    def hsinterp(self: Any) -> Any:
        assert original.fget is not None
        if not is_lazy(self.hs):
            return original.fget(self)
        hs, template = source(self.hs).rechunk(-1), duplicate(self)
        template.hs = None
        shape = int(self.dims[self.axis]), int(self.hsize)
        self._hsinterp = None  # to be deleted; a lazy array would be taken for one of its own
        return da.map_blocks(
            _interpolated, hs, template, name=f"hsinterp-{tokenize(name_of(self))}",
            chunks=tuple((n,) for n in shape), dtype=self.dtype, meta=np.empty((0, 0), self.dtype),
        )  # fmt: skip

    return property(hsinterp, original.fset, original.fdel, original.__doc__)


def _interpolated(hs: Any, template: Any) -> Any:
    op = duplicate(template)
    op.hs = hs
    return op.hsinterp


def _apply(
    cls: type,
    op: Any,
    x: DaskArray,
    signal: DaskArray,
    half: Shape,
    place: Place,
    adjoint: bool,
    dtype: Any,
) -> DaskArray:
    dims, dimsd = dims_of(op, False)
    axes = tuple(range(len(dimsd)))
    arguments, layout = blocks.with_halos((x, signal) if adjoint else (signal,), half)
    for axis in axes:
        arguments += [blocks.starts(signal.chunks[axis]), (axis,)]
    if not adjoint:
        arguments += blocks.whole_arguments([x.rechunk(-1)], len(axes))
    template = duplicate(for_tasks(op))
    template.inp = None
    result = (*axes, *range(len(axes), len(axes) + len(dims))) if adjoint else axes
    partial = da.blockwise(
        functools.partial(_filters_block, cls=cls, layout=layout, place=place, adjoint=adjoint),
        result,
        *arguments,
        name=layer_name(cls, adjoint, name_of(op), signal.name, x.name),
        new_axes=dict(zip(result[len(axes) :], dims, strict=True)) if adjoint else None,
        adjust_chunks=dict.fromkeys(axes, 1) if adjoint else None,
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * len(result), dtype=dtype),
        op=blocks.embed(template),
    )
    return blocks.add_up(partial, axes, partial.dtype) if adjoint else partial


def _filters_block(
    *arrays: Any, cls: type, op: Any, layout: Any, place: Place, adjoint: bool
) -> Any:
    remaining = iter(arrays)
    found = blocks.laid_out(remaining, layout)
    around = found[0].window(everything(found[0].shape))
    core = found[-1].parts[0][1]
    starts = tuple(int(next(remaining)[0]) - c.start for c in core)
    new = resized(duplicate(op), op.dims, around.shape)
    if hasattr(new, "inpdims"):
        new.inpdims = around.shape
    place(new, starts)
    if not adjoint:
        new.inp = around
        y = blocks.run(cls, new, blocks.single(next(remaining)), adjoint)
        return y.reshape(around.shape)[core]
    # samples around the block count for the blocks that they are in
    signal = found[1].window(everything(found[1].shape))
    new.inp = np.zeros_like(signal)
    new.inp[core] = signal[core]
    y = blocks.run(cls, new, around, adjoint)
    return y.reshape((1,) * around.ndim + tuple(int(n) for n in op.dims))
