"""Parts of an array that are written one after another: ``for i in range(n): y[i] = ...``.

Each write into a dask array is an array on top of the one before it, and a loop of n of them takes
n times n layers. What is written side by side along one axis is kept apart instead, and put
together once, by as many tasks as the result has blocks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from dask.highlevelgraph import MaterializedLayer

from pylops_dispatch.array import DispatchArray, as_box
from pylops_dispatch.layers import graph_on
from pylops_dispatch.pieces import Piece, Shape, Zeros, array_of, realise

_BYTES = 1 << 24  # of a block where nothing else says how long it is
_BLOCKS = 8  # at least, if there are as many elements along the axis
_FEW = 2  # parts, which keep their chunks


class Parts:
    """What was written into an array along one axis, and what it was written into.

    Parameters
    ----------
    under : dask.array.Array or Zeros
        What is not written to.
    axis : int
        The parts lie one after another along this axis, and are whole along all others.
    """

    def __init__(self, under: Piece, axis: int) -> None:
        self.under = under
        self.axis = axis
        self._written: dict[tuple[int, int], DispatchArray] = {}  # none of them meets another
        self._covered = np.zeros(under.shape[axis], bool)

    def write(self, start: int, stop: int, value: DispatchArray) -> None:
        """Keep a part that has all axes, and of others what it does not cover."""
        for (first, last), held in self._meeting(start, stop):
            del self._written[first, last]
            if first < start:
                self._written[first, start] = self._cut(held, 0, start - first)
            if last > stop:
                self._written[stop, last] = self._cut(held, stop - first, last - first)
        self._written[start, stop] = value
        self._covered[start:stop] = True

    def read(self, start: int, stop: int) -> DispatchArray:
        """Return what there is from one place to another."""
        if (start, stop) in self._written:
            return self._written[start, stop]
        found, here = [], start
        for (first, last), held in sorted(self._meeting(start, stop), key=lambda part: part[0]):
            if first > here:
                found.append(self._cut(self.under, here, first))
            found.append(self._cut(held, max(start - first, 0), min(stop, last) - first))
            here = last
        if here < stop:
            found.append(self._cut(self.under, here, stop))
        joined: Any = found[0] if len(found) == 1 else np.concatenate(found, axis=self.axis)
        return as_box(joined)

    def _meeting(self, start: int, stop: int) -> list[tuple[tuple[int, int], DispatchArray]]:
        if not self._covered[start:stop].any():
            return []
        return [part for part in self._written.items() if part[0][0] < stop and part[0][1] > start]

    def _cut(self, held: DispatchArray | Piece, start: int, stop: int) -> DispatchArray:
        piece = held.as_shape(held.shape) if isinstance(held, DispatchArray) else held
        shape = list(piece.shape)
        if isinstance(piece, Zeros):
            shape[self.axis] = stop - start
            return DispatchArray(Zeros(tuple(shape), piece.dtype))
        whole = (start, stop) == (0, shape[self.axis])
        return DispatchArray(
            piece if whole else piece[(slice(None),) * self.axis + (slice(start, stop),)]
        )

    def __call__(self) -> list[Piece]:
        """Return the array with all that was written."""
        parts = [(*span, value.as_shape(value.shape)) for span, value in self._written.items()]
        if isinstance(self.under, Zeros) and all(isinstance(part, Zeros) for *_, part in parts):
            return [self.under]
        return [_put_together(self.under, self.axis, sorted(parts, key=lambda part: part[0]))]


def _put_together(under: Piece, axis: int, parts: Sequence[tuple[int, int, Piece]]) -> DaskArray:
    lazy = [part for *_, part in parts if isinstance(part, DaskArray)]
    model = under if isinstance(under, DaskArray) else lazy[0]
    others = [sizes for place, sizes in enumerate(model.chunks) if place != axis]
    arrays: list[DaskArray] = [] if isinstance(under, Zeros) else [under]
    placed: list[_Placed] = []
    for start, stop, part in parts:
        if isinstance(part, Zeros) and isinstance(under, Zeros):
            continue
        own = part.chunks[axis] if isinstance(part, DaskArray) else (stop - start,)
        wanted = (*others[:axis], own, *others[axis:])
        array = realise(part, wanted)
        array = array if array.chunks == wanted else array.rechunk(wanted)
        edges = itertools.pairwise(itertools.accumulate(own, initial=start))
        placed += [_Placed(*edge, array, number) for number, edge in enumerate(edges)]
        arrays.append(array)
    along = model.chunks[axis] if model is under else _chunks(under, axis, placed)
    chunks = (*others[:axis], along, *others[axis:])
    numblocks = tuple(map(len, chunks))

    name = f"put-together-{tokenize([a.name for a in arrays], [p[:2] for p in placed], chunks)}"
    spans = []  # of the blocks along the axis: what is written there, and where
    for last, length in zip(np.cumsum(along).tolist(), along, strict=True):
        first = last - length
        inside = [part for part in placed if part.start < last and part.stop > first]
        places = [
            (max(p.start - first, 0), min(p.stop, last) - first, max(first - p.start, 0))
            for p in inside
        ]
        spans.append((inside, places))
    graph: dict[Any, Any] = {}
    for block in np.ndindex(*numblocks):
        written, places = spans[block[axis]]
        before, after = block[:axis], block[axis + 1 :]
        there = None
        if isinstance(under, DaskArray) and sum(b - a for a, b, _ in places) < along[block[axis]]:
            there = TaskRef((under.name, *block))  # some of it is not written anew
        shape = tuple(sizes[i] for sizes, i in zip(chunks, block, strict=True))
        key = (name, *block)
        graph[key] = Task(
            key,
            _block_of_parts,
            there,
            List(*(TaskRef((p.array.name, *before, p.number, *after)) for p in written)),
            places,
            axis,
            shape,
            under.dtype,
        )
    layer = MaterializedLayer(graph)
    return array_of(
        graph_on(name, layer, arrays), name, chunks, np.empty((0,) * len(chunks), under.dtype)
    )


class _Placed(NamedTuple):
    """A block of a part: where it begins and ends along the axis, and its number there."""

    start: int
    stop: int
    array: DaskArray
    number: int


def _chunks(under: Piece, axis: int, placed: Sequence[_Placed]) -> tuple[int, ...]:
    """Return chunks along an axis: those of a few large parts, else of moderate size."""
    n = under.shape[axis]
    row = max(1, math.prod(under.shape) // max(n, 1) * under.dtype.itemsize)
    length = min(-(-n // _BLOCKS), max(1, _BYTES // row))
    edges = {0, n}
    if [part.number for part in placed].count(0) <= _FEW < len(placed):
        edges.update(*(part[:2] for part in placed))
        length = max(length, *(part.stop - part.start for part in placed))
    spans = (divmod(b - a, length) for a, b in itertools.pairwise(sorted(edges)))
    return tuple(m for count, left in spans for m in (*(length,) * count, left) if m)


def _block_of_parts(
    under: Any,
    parts: Sequence[Any],
    places: Sequence[tuple[int, int, int]],
    axis: int,
    shape: Shape,
    dtype: np.dtype[Any],
) -> Any:
    """Return a block: what was there, and the parts from one place to another.

    Parameters
    ----------
    under : numpy.ndarray or None
        What was there, None for zeros.
    parts : sequence of numpy.ndarray
        Blocks of them.
    places : sequence of tuple
        Where each part begins and ends in the block, and what of it comes before that.
    """
    out = np.zeros(shape, dtype) if under is None else under.copy()
    before = (slice(None),) * axis
    for part, (start, stop, skipped) in zip(parts, places, strict=True):
        out[(*before, slice(start, stop))] = part[(*before, slice(skipped, skipped + stop - start))]
    return out
