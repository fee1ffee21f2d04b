"""Moving elements to and from positions along one axis, block by block.

Which elements go from which block to which is worked out once for an array of positions and the
chunks on either side. On a cluster it lies there, as the coefficients of operators do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from pylops_dispatch.pieces import Shape, balanced
from pylops_dispatch.placing import coefficient, is_large
from pylops_dispatch.remembering import checksum, remembered
from pylops_dispatch.workers import client_in_use

Positions = np.ndarray[Any, Any]
Sizes = tuple[int, ...]


class _Route(NamedTuple):
    """Elements that go from one block to another."""

    source: int  # number of the block along the axis
    low: int  # where they are among all that go to the other block
    high: int
    taken: int | None  # where they start in either block, if they lie one after another
    target: int | None


@dataclass(frozen=True)
class _Routes:
    """Which elements go to each block of the result, along one axis."""

    name: str
    sizes: Sizes  # of the blocks of the result
    routes: list[list[_Route]]
    counts: list[int]  # of elements that go to each block
    # where they are in the blocks: rows of what is not known from where they start
    within: np.ndarray[Any, Any]
    rows: tuple[int | None, int | None]  # of what is taken, and of targets


def positions_of(mask: np.ndarray[Any, Any]) -> Positions:
    """Return where a mask is true, counted in C order."""
    return remembered(mask, "positions", checksum(mask), lambda: np.flatnonzero(mask))


def not_negative(positions: Positions, n: int) -> Positions:
    """Return positions along an axis of length `n` counted from its start.

    Raises
    ------
    IndexError
        If one lies outside, or they are no whole numbers.
    """
    if positions.size and positions.dtype.kind not in "iu":
        raise IndexError(
            f"positions must be of an integer dtype, or a mask, and these are of {positions.dtype}"
        )
    lowest = positions.min(initial=0)
    if lowest < -n or positions.max(initial=0) >= max(n, 1) or (positions.size and not n):
        raise IndexError(f"positions out of bounds for an axis of size {n}")
    if lowest == 0:
        return positions
    return remembered(
        positions,
        ("not negative", n),
        checksum(positions),
        lambda: np.where(positions < 0, positions + n, positions),
    )


def take(array: DaskArray, positions: Positions, axis: int) -> DaskArray:
    """Take `positions` along `axis`, touching only the blocks that they lie in.

    Increasing positions stay in the blocks where they are; others are cut as the array is.
    """
    if positions.ndim != 1:
        taken = take(array, positions.reshape(-1), axis)
        return taken.reshape(array.shape[:axis] + positions.shape + array.shape[axis + 1 :])
    positions = not_negative(positions, array.shape[axis])
    sizes = array.chunks[axis]
    found = remembered(
        positions, ("take", sizes), checksum(positions), lambda: _taking(positions, sizes)
    )
    if isinstance(found, slice):
        return array[(*(slice(None),) * axis, found)]
    name = f"take-{tokenize(array.name, found.name, axis)}"
    return _moved(name, array, found, axis, np.empty_like, accumulate=False)


def _taking(positions: Positions, sizes: Sizes) -> _Routes | slice:
    positions = positions.astype(np.intp, copy=False)
    if positions.size == 0:
        return slice(0, 0)
    steps = np.diff(positions)
    if np.all(steps == 1):
        return slice(int(positions[0]), int(positions[-1]) + 1)
    if np.all(steps >= 0):
        counts = np.diff(np.searchsorted(positions, np.cumsum([0, *sizes])))
        result = tuple(counts[counts > 0].tolist())
    elif positions.size == sum(sizes):
        result = sizes
    else:
        result = balanced(positions.size, -(-positions.size * len(sizes) // sum(sizes)))
    return _routes(positions, np.arange(positions.size), sizes, result)


def scatter(
    values: DaskArray,
    positions: Positions,
    axis: int,
    n: int,
    *,
    accumulate: bool,
    chunks: Sizes | None = None,
) -> DaskArray:
    """Put `values` at `positions` of an axis of length `n`, zeros elsewhere.

    Parameters
    ----------
    values : dask.array.Array
        Values, as many along `axis` as there are positions.
    positions : numpy.ndarray
        Where they go.
    axis : int
        Axis.
    n : int
        Length of the axis in the result.
    accumulate : bool
        Whether values at one position add up; else the last one stays.
    chunks : tuple of int, optional
        Chunks of the result along `axis`; by default as many as `values` has.

    Returns
    -------
    dask.array.Array
        Each block depends only on the blocks of `values` that reach it.
    """
    positions = not_negative(positions, n)
    given = values.chunks[axis]
    sizes = balanced(n, len(given)) if chunks is None else chunks
    found = remembered(
        positions,
        ("scatter", given, sizes),
        checksum(positions),
        lambda: _routes(
            np.arange(positions.size), positions.astype(np.intp, copy=False), given, sizes
        ),
    )
    name = f"scatter-{tokenize(values.name, found.name, axis, accumulate)}"
    return _moved(name, values, found, axis, np.zeros_like, accumulate)


def _routes(taken: Positions, target: Positions, given: Sizes, sizes: Sizes) -> _Routes:
    """Work out how elements at `taken` get to `target`, both of them counted along the axis."""
    name = tokenize(taken, target, given, sizes)
    source, source_local = _in_blocks(taken, given)
    result, result_local = _in_blocks(target, sizes)
    pair = result * len(given) + source
    if np.any(np.diff(pair) < 0):
        order = np.argsort(pair, kind="stable")
        pair, source_local, result_local = pair[order], source_local[order], result_local[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(pair)) + 1, [pair.size]])
    first = starts[:-1] if pair.size else starts[:0]
    taken_from = _runs(source_local, first, starts)
    put_to = _runs(result_local, first, starts)
    routes: list[list[_Route]] = [[] for _ in sizes]
    counts = np.bincount(result, minlength=len(sizes)).tolist()
    begin = np.cumsum([0, *counts])
    for low, high, number, one, other in zip(
        first.tolist(), starts[1:].tolist(), pair[first].tolist(), taken_from, put_to, strict=False
    ):
        block, origin = divmod(number, len(given))
        offset = int(begin[block])
        routes[block].append(_Route(origin, low - offset, high - offset, one, other))
    sides = ((source_local, taken_from), (result_local, put_to))
    kept = [local for local, runs in sides if None in runs]
    within = np.stack(kept) if kept else np.empty((0, pair.size), np.intp)
    rows = (0 if None in taken_from else None, len(kept) - 1 if None in put_to else None)
    return _Routes(name, sizes, routes, counts, within, rows)


def _in_blocks(positions: Positions, sizes: Sizes) -> tuple[Positions, Positions]:
    """Return the numbers of the blocks that positions lie in, and where in these they are."""
    edges = np.cumsum([0, *sizes])
    block = np.searchsorted(edges, positions, side="right") - 1
    return block, positions - edges[block]


def _runs(local: Positions, first: Positions, starts: Positions) -> list[int | None]:
    """Return where groups of positions start; None for those that do not lie one after another."""
    breaks = np.concatenate([[0], np.cumsum(np.diff(local) != 1)])
    unbroken = breaks[starts[1 : first.size + 1] - 1] == breaks[first]
    return [
        start if run else None
        for start, run in zip(local[first].tolist(), unbroken.tolist(), strict=True)
    ]


def _moved(
    name: str,
    array: DaskArray,
    routes: _Routes,
    axis: int,
    make: Callable[..., Any],
    accumulate: bool,
) -> DaskArray:
    chunks = (*array.chunks[:axis], routes.sizes, *array.chunks[axis + 1 :])
    within, dependencies = _shared(routes)
    graph: dict[Any, Any] = {}
    for index in np.ndindex(*(len(c) for c in chunks)):
        found = routes.routes[index[axis]]
        shape = tuple(c[i] for c, i in zip(chunks, index, strict=True))
        keys = [(array.name, *index[:axis], r.source, *index[axis + 1 :]) for r in found]
        key = (name, *index)
        graph[key] = Task(
            key,
            _moved_block,
            _Setting(make, shape, array.dtype, axis, accumulate, found, routes.rows),
            within[index[axis]],
            List(*(TaskRef(k) for k in keys)),
        )
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[array, *dependencies])
    return DaskArray(layers, name, chunks, meta=array._meta)


def _shared(routes: _Routes) -> tuple[list[Any], list[DaskArray]]:
    """Return where elements lie within blocks, for each block of the result: on a cluster, keys."""
    counts = routes.counts
    if client_in_use() is None or not is_large(routes.within.nbytes):
        edges = itertools.pairwise(itertools.accumulate(counts, initial=0))
        return [routes.within[:, low:high] for low, high in edges], []
    rows = len(routes.within)
    placed = coefficient(routes.within, ((rows,), tuple(counts)))
    return [TaskRef((placed.name, 0, number)) for number in range(len(counts))], [placed]


@dataclass(frozen=True)
class _Setting:
    """What a task that moves elements is told."""

    make: Callable[..., Any]  # of the block, from another and a shape
    shape: Shape
    dtype: np.dtype[Any]
    axis: int
    accumulate: bool
    routes: list[_Route]
    rows: tuple[int | None, int | None]


def _moved_block(how: _Setting, within: Positions, blocks: Sequence[Any]) -> Any:
    before = (slice(None),) * how.axis
    moves = [_where(route, how.rows, within) for route in how.routes]
    whole = slice(0, how.shape[how.axis])
    if how.make is np.empty_like and len(moves) == 1 and moves[0][1] == whole:
        return blocks[0][(*before, moves[0][0])]
    model = blocks[0] if blocks else np.empty(0, how.dtype)
    out = how.make(model, shape=how.shape, dtype=how.dtype)
    for (taken, target), block in zip(moves, blocks, strict=True):
        if how.accumulate and isinstance(target, slice):
            out[(*before, target)] += block[(*before, taken)]
        elif how.accumulate:
            np.add.at(out, (*before, target), block[(*before, taken)])
        else:
            out[(*before, target)] = block[(*before, taken)]
    return out


def _where(
    route: _Route, rows: tuple[int | None, int | None], within: Positions
) -> tuple[Any, Any]:
    """Return what is taken of a block, and where it goes."""
    found: list[Any] = []
    for start, row in zip((route.taken, route.target), rows, strict=True):
        if start is not None:
            found.append(slice(start, start + route.high - route.low))
        else:
            found.append(within[row, route.low : route.high])
    return found[0], found[1]
