"""Interpolation at scattered points: each block of the grid with the points inside it."""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask._task_spec import Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from pylops_dispatch import blocks
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.functions.positions import take
from pylops_dispatch.halos import Span, fold, gather
from pylops_dispatch.naming import layer_name, name_of
from pylops_dispatch.operators import dims_of, for_tasks, resized, shaped
from pylops_dispatch.pieces import Chunks, Shape, balanced
from pylops_dispatch.workers import client_in_use

# attributes of Bilinear with one value for each point
_INDICES = (("iava_t", "iava_b"), ("iava_l", "iava_r"))
_WEIGHTS = ("weights_tb", "weights_lr")


@dataclass
class _Plan:
    """Which points lie in which block of the first two axes of the grid."""

    spans: list[list[Span]]  # of the blocks with one more sample, along each of the axes
    order: np.ndarray[Any, Any]  # points, block after block
    back: np.ndarray[Any, Any] | None  # from there to their order; None if that is the same
    operators: list[Any]  # for the points of each block, None where there are none
    counts: list[int]


_plans: weakref.WeakKeyDictionary[Any, dict[Chunks, _Plan]] = weakref.WeakKeyDictionary()


def run(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> DispatchArray:
    """Apply ``Bilinear`` to the blocks of the grid, with the points that lie in them."""
    dims = dims_of(op, False)[0]
    _require_inside(op, dims)
    dtype = np.dtype(op.dtype) if adjoint else np.result_type(op.dtype, box.dtype)
    # indices below zero count from the end of an axis, which then is one block
    wraps = min(int(getattr(op, names[0]).min(initial=0)) for names in _INDICES) < 0

    def apply(x: DaskArray) -> DaskArray:
        if adjoint:
            along = 1 if wraps else min(dims[0], x.numblocks[0])
            return _onto_grid(cls, op, x, (balanced(dims[0], along), (dims[1],)), dtype)
        return _onto_points(cls, op, x.rechunk({0: -1, 1: -1}) if wraps else x, dtype)

    return shaped(op, box, adjoint, dtype, apply)


def _require_inside(op: Any, dims: Shape) -> None:
    """Raise NumPy's error for points whose neighbours are not on the grid, before any work."""
    for axis, names in enumerate(_INDICES):
        first, after = (getattr(op, name) for name in names)
        outside = np.flatnonzero((first < -dims[axis]) | (after >= dims[axis]))
        if outside.size:
            point = outside[0]
            raise IndexError(
                f"Bilinear reads the samples on both sides of a point: point {point} lies at "
                f"{first[point]} or beyond along axis {axis}, which has {dims[axis]} samples"
            )


def _plan(op: Any, grid: Chunks) -> _Plan:
    """Sort the points into blocks; once for each operator and chunks."""
    known = _plans.setdefault(op, {})
    if grid in known:
        return known[grid]
    starts = [np.cumsum([0, *sizes[:-1]]) for sizes in grid]
    spans = [
        [(int(s), int(min(s + n + 1, sum(sizes)))) for s, n in zip(first, sizes, strict=True)]
        for first, sizes in zip(starts, grid, strict=True)
    ]
    within = [
        np.maximum(np.searchsorted(first, getattr(op, names[0]), side="right") - 1, 0)
        for first, names in zip(starts, _INDICES, strict=True)
    ]
    block = within[0] * len(grid[1]) + within[1]
    order = np.argsort(block, kind="stable")
    counts = np.bincount(block, minlength=len(grid[0]) * len(grid[1]))
    edges = np.cumsum([0, *counts])
    operators = []
    for k, (low, high) in enumerate(itertools.pairwise(edges)):
        chosen = order[low:high]
        origin = [int(first[i]) for first, i in zip(starts, divmod(k, len(grid[1])), strict=True)]
        operators.append(_of_points(for_tasks(op), chosen, origin) if high > low else None)
    same = np.array_equal(order, np.arange(order.size))
    back = None if same else np.argsort(order)
    known[grid] = _Plan(spans, order, back, operators, counts.tolist())
    return known[grid]


def _of_points(op: Any, chosen: np.ndarray[Any, Any], origin: list[int]) -> Any:
    new = resized(op, op.dims, (len(chosen), *op.dimsd[1:]))
    for names, start in zip(_INDICES, origin, strict=True):
        for name in names:
            setattr(new, name, getattr(op, name)[chosen] - start)
    for name in _WEIGHTS:
        setattr(new, name, getattr(op, name)[chosen])
    return new


def _arguments(plan: _Plan) -> tuple[list[Any], list[Delayed]]:
    """Return the operators as arguments of tasks: on a cluster, large ones as keys."""
    if client_in_use() is None:
        return plan.operators, []
    given = [None if part is None else blocks.embed(part) for part in plan.operators]
    sent = [part for part in given if isinstance(part, Delayed)]
    return [TaskRef(part.key) if isinstance(part, Delayed) else part for part in given], sent


def _onto_points(cls: type, op: Any, x: DaskArray, dtype: Any) -> DaskArray:
    plan = _plan(op, x.chunks[:2])
    for axis in range(2):
        if x.numblocks[axis] > 1:
            x = gather(x, axis, plan.spans[axis])
    name = layer_name(cls, False, name_of(op), x.name)
    graph: dict[Any, Any] = {}
    operators, sent = _arguments(plan)
    found = [k for k, part in enumerate(plan.operators) if part is not None]
    chunks = (tuple(plan.counts[k] for k in found), *x.chunks[2:])
    for place, k in enumerate(found):
        for rest in np.ndindex(*x.numblocks[2:]):
            key = (name, place, *rest)
            source = TaskRef((x.name, *divmod(k, x.numblocks[1]), *rest))
            graph[key] = Task(key, _points_block, cls, operators[k], source)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[x, *sent])
    y = DaskArray(layers, name, chunks, dtype=dtype)
    return y if plan.back is None else take(y, plan.back, 0)


def _onto_grid(cls: type, op: Any, y: DaskArray, grid: Chunks, dtype: Any) -> DaskArray:
    """Apply the adjoint; the grid is cut along its first axis alone."""
    plan = _plan(op, grid)
    y = take(y, plan.order, 0)
    found = [k for k, part in enumerate(plan.operators) if part is not None]
    y = y.rechunk({0: tuple(plan.counts[k] for k in found)})
    name = layer_name(cls, True, name_of(op), y.name)
    operators, sent = _arguments(plan)
    places = {k: place for place, k in enumerate(found)}
    sizes = [tuple(high - low for low, high in spans) for spans in plan.spans]
    graph: dict[Any, Any] = {}
    chunks = (*sizes, *y.chunks[1:])
    for index in np.ndindex(*(len(c) for c in chunks)):
        key = (name, *index)
        shape = tuple(c[i] for c, i in zip(chunks, index, strict=True))
        k = index[0]
        if k in places:
            source = TaskRef((y.name, places[k], *index[2:]))
            graph[key] = Task(key, _grid_block, cls, operators[k], shape, source)
        else:
            graph[key] = Task(key, np.zeros, shape, dtype)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[y, *sent])
    x = DaskArray(layers, name, chunks, dtype=dtype)
    return fold(x, 0, plan.spans[0], grid[0])


def _points_block(cls: type, op: Any, x: Any) -> Any:
    dimsd = (op.dimsd[0], *x.shape[2:])
    return blocks.run(cls, resized(op, x.shape, dimsd), x, adjoint=False).reshape(dimsd)


def _grid_block(cls: type, op: Any, dims: Any, y: Any) -> Any:
    return blocks.run(cls, resized(op, dims, y.shape), y, adjoint=True).reshape(dims)
