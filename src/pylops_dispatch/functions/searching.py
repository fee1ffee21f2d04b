"""What depends on the values of a whole vector: positions, order, and percentiles."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.lib.array_utils import normalize_axis_tuple

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray, as_box, holds, is_box, is_lazy, session
from pylops_dispatch.functions.outputs import written
from pylops_dispatch.functions.registry import implements
from pylops_dispatch.policy import announce_whole, not_dispatched
from pylops_dispatch.whole_axes import whole_along


@implements(np.argwhere)
def _argwhere(a: Any) -> Any:
    """Return positions as a NumPy array: inside a solver, which reads values anyway."""
    if session.get() is None:
        raise not_dispatched("numpy.argwhere", "The shape of its result depends on values.")
    arrays = [pc.realise(piece) for piece in a.pieces]
    offsets = itertools.accumulate((pc.size(array) for array in arrays), initial=0)
    keys: list[Any] = []
    graph: dict[Any, Any] = {}
    name = f"argwhere-{tokenize([array.name for array in arrays])}"
    for number, (array, offset) in enumerate(zip(arrays, offsets, strict=False)):
        starts = [np.cumsum([0, *c]) for c in array.chunks]
        for index in np.ndindex(*array.numblocks):
            key = (f"{name}-{number}", *index)
            start = tuple(int(s[i]) for s, i in zip(starts, index, strict=True))
            block = TaskRef((array.name, *index))
            graph[key] = Task(key, _positions, block, start, array.shape, offset)
            keys.append(TaskRef(key))
    graph[(name,)] = Task((name,), _sorted, List(*keys))
    layers = HighLevelGraph.from_collections(name, graph, dependencies=arrays)
    found = DispatchArray(DaskArray(layers, name, (), dtype=object))
    flat = found.read("argwhere()")
    return np.stack(np.unravel_index(flat, a.shape), axis=-1)


def _positions(block: Any, start: Any, shape: Any, offset: int) -> Any:
    if block.ndim == 0:
        return np.flatnonzero(block) + offset
    moved = tuple(i + s for i, s in zip(np.nonzero(block), start, strict=True))
    return np.ravel_multi_index(moved, shape) + offset


def _sorted(parts: list[Any]) -> Any:
    return np.sort(np.concatenate(parts))


_OF_NAN = (np.argmax, np.argmin)  # NaN is an extreme to these


def _first_of(func: Any, extreme: Any) -> None:
    """Register the position of an extreme value: of equal ones, the first in C order.

    ``da.argmax`` of an array with several axes takes the first in the order of the blocks.
    """
    lazy = getattr(da, func.__name__)

    @implements(func)
    def shim(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = np._NoValue) -> Any:
        box = as_box(a)
        keep = keepdims is not np._NoValue and bool(keepdims)
        # of an array of NaN alone dask says it in words of its own
        in_order = func in _OF_NAN and len(box.pieces) == 1 and len(box.pieces[0].shape) == 1
        if axis is not None or in_order:
            array = box.dask()
            result: Any = DispatchArray(lazy(array, axis=axis, keepdims=keep))
        else:
            if not box.size:
                raise ValueError(f"attempt to get {func.__name__} of an empty sequence")
            position = _first_position(box, extreme(box).dask(), func)
            result = DispatchArray(position).reshape((1,) * box.ndim if keep else ())
        return written(out, result, f"np.{func.__name__}")


def _first_position(box: DispatchArray, value: DaskArray, func: Any) -> DaskArray:
    """Return the smallest position, in the flattened array, of a value or of what is no number."""
    first, parts = 0, []
    for piece in filter(pc.size, box.pieces):
        array = pc.realise(piece)
        positions: Any = first
        for axis, length in enumerate(array.shape):
            stride = math.prod(array.shape[axis + 1 :])
            along = da.arange(length, chunks=(array.chunks[axis],)) * stride
            positions = positions + along.reshape((-1,) + (1,) * (array.ndim - axis - 1))
        found = array == value
        if func in _OF_NAN:
            found = found | da.isnan(array)
        parts.append(da.where(found, positions, box.size).min())
        first += pc.size(piece)
    smallest = functools.reduce(da.minimum, parts)
    return smallest.map_blocks(_found, size=box.size, dtype=np.intp)


def _found(position: Any, *, size: int) -> Any:
    if position == size:
        raise ValueError("All-NaN slice encountered")
    return position


def _ordered(func: Any) -> None:
    @implements(func)
    def shim(a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None):  # type: ignore[no-untyped-def]
        if axis is None:
            a, axis = np.ravel(a), -1
        array, name = as_box(a).dask(), f"numpy.{func.__name__}"
        if array.ndim == 1 and array.npartitions > 1:
            announce_whole(name, "exact ranks need all values at once")
            array = array.rechunk(-1)
        array = whole_along(array, (axis,), name)
        dtype = func(np.ones(1, array.dtype)).dtype
        settings = {"kind": kind} if stable is None else {"stable": stable}
        return DispatchArray(da.map_blocks(func, array, axis=axis, dtype=dtype, **settings))


def _ranked(func: Any) -> None:
    @implements(func)
    def shim(a: Any, q: Any, axis: Any = None, **kwargs: Any) -> Any:
        box, keepdims = as_box(a), kwargs.pop("keepdims", False)
        keepdims = keepdims is not np._NoValue and keepdims
        if kwargs.pop("out", None) is not None or kwargs.get("weights") is not None:
            raise not_dispatched(f"numpy.{func.__name__} with out or weights", "Leave them out.")
        kwargs.pop("overwrite_input", None)
        if holds(q, is_lazy):
            raise not_dispatched(f"numpy.{func.__name__} with a lazy q", "Give it as numbers.")
        if axis is not None or np.ndim(q):
            return _along(func, box.dask(), axis, keepdims, q, kwargs)
        announce_whole(f"numpy.{func.__name__}", "exact ranks need all values at once")
        arrays = [pc.realise(piece) for piece in box.pieces]
        dtype = func(np.ones(1, box.dtype), q, **kwargs).dtype
        keys = [
            TaskRef((array.name, *index))
            for array in arrays
            for index in np.ndindex(*array.numblocks)
        ]
        name = f"{func.__name__}-{tokenize([array.name for array in arrays], q, kwargs)}"
        task = Task((name,), _rank, func, q, kwargs, List(*keys))
        layers = HighLevelGraph.from_collections(name, {(name,): task}, dependencies=arrays)
        result = DispatchArray(DaskArray(layers, name, (), dtype=dtype))
        return result.reshape((1,) * box.ndim) if keepdims else result


def _rank(func: Any, q: Any, kwargs: Any, parts: list[Any]) -> Any:
    return func(np.concatenate([part.ravel() for part in parts]), q, **kwargs)


def _along(func: Any, array: DaskArray, axis: Any, keepdims: Any, q: Any, settings: Any) -> Any:
    """Return what a function of sorted values gives along some axes, in parallel over the others.

    Of several `q` the results lie along axes of their own, before the others.
    """
    axes = normalize_axis_tuple(range(array.ndim) if axis is None else axis, array.ndim)
    array = whole_along(array, axes, f"numpy.{func.__name__}")
    given = () if q is None else (q,)
    new = () if q is None else np.shape(q)
    dtype = func(np.ones(1, array.dtype), *given, **settings).dtype
    found = da.map_blocks(
        functools.partial(_along_block, func, given, {**settings, "axis": axes, "keepdims": True}),
        array,
        chunks=(*new, *((1,) if a in axes else c for a, c in enumerate(array.chunks))),
        new_axis=list(range(len(new))),
        dtype=dtype,
        meta=np.empty((0,) * (len(new) + array.ndim), dtype),
    )
    kept = [0 if a in axes and not keepdims else slice(None) for a in range(array.ndim)]
    return DispatchArray(found[(*(slice(None),) * len(new), *kept)])


def _along_block(func: Any, given: Any, settings: Any, block: Any) -> Any:
    return func(block, *given, **settings)


def _middle(func: Any) -> None:
    @implements(func)
    def shim(
        a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False,
        keepdims: Any = False,
    ) -> Any:  # fmt: skip
        keepdims = keepdims is not np._NoValue and keepdims
        result = _along(func, as_box(a).dask(), axis, keepdims, None, {})
        return written(out, result, f"numpy.{func.__name__}")


@implements(np.histogram)
def _histogram(
    a: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> Any:
    if range is None and np.ndim(bins) == 0:
        raise not_dispatched("numpy.histogram without a range", "Its bins depend on values.")
    if holds((bins, range), is_box):
        raise not_dispatched("numpy.histogram with lazy bins", "Give them as a NumPy array.")
    array = as_box(a).dask()
    lazy = None if weights is None else as_box(weights).dask().rechunk(array.chunks)
    counts = da.histogram(array, bins=bins, range=range, density=density, weights=lazy)[0]
    # dask's edges are doubles
    edges = np.histogram_bin_edges(np.empty(0, array.dtype), bins, range)
    return DispatchArray(counts), edges


_first_of(np.argmax, np.max)
_first_of(np.argmin, np.min)
_first_of(np.nanargmax, np.nanmax)
_first_of(np.nanargmin, np.nanmin)
_ordered(np.sort)
_ordered(np.argsort)
_ranked(np.percentile)
_ranked(np.quantile)
_ranked(np.nanpercentile)
_ranked(np.nanquantile)
_middle(np.median)
_middle(np.nanmedian)
