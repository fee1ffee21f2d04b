"""Parts of an array that are written one after another: ``for i in range(n): y[i] = ...``.

Each write into a dask array is an array on top of the one before it, and a loop of n of them takes
n times n layers. What is written side by side along one axis is kept apart instead, and put
together once, by as many tasks as the result has blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from dask.highlevelgraph import MaterializedLayer

from pylops_dispatch.array import DispatchArray
from pylops_dispatch.layers import graph_on
from pylops_dispatch.pieces import Piece, Shape, Zeros, array_of, realise

_BYTES = 1 << 24  # of a block where nothing else says how long it is
_BLOCKS = 8  # at least, if there are as many elements along the axis


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
        self._written: dict[tuple[int, int], DispatchArray] = {}
        self._covered = np.zeros(under.shape[axis], bool)

    def write(self, start: int, stop: int, value: DispatchArray) -> bool:
        """Keep a part that has all axes; whether it lies apart from others, or is one of them."""
        if (start, stop) not in self._written and self._covered[start:stop].any():
            return False
        self._written[start, stop] = value
        self._covered[start:stop] = True
        return True

    def read(self, start: int, stop: int) -> DispatchArray | None:
        """Return a part that was written, or one that was not written to at all."""
        if (start, stop) in self._written:
            return self._written[start, stop].copy()
        if self._covered[start:stop].any():
            return None
        shape = list(self.under.shape)
        shape[self.axis] = stop - start
        if isinstance(self.under, Zeros):
            return DispatchArray(Zeros(tuple(shape), self.under.dtype))
        return DispatchArray(self.under[(slice(None),) * self.axis + (slice(start, stop),)])

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
    along = model.chunks[axis] if model is under else _chunks(under.shape, under.dtype, axis)
    chunks = (*others[:axis], along, *others[axis:])
    numblocks = tuple(map(len, chunks))

    arrays: list[DaskArray] = [] if isinstance(under, Zeros) else [under]
    placed: list[tuple[int, int, DaskArray]] = []
    for start, stop, part in parts:
        if isinstance(part, Zeros) and isinstance(under, Zeros):
            continue
        whole = (*others[:axis], (stop - start,), *others[axis:])
        array = realise(part, whole)
        array = array if array.chunks == whole else array.rechunk(whole)
        placed.append((start, stop, array))
        arrays.append(array)

    name = f"put-together-{tokenize([a.name for a in arrays], [p[:2] for p in placed], chunks)}"
    spans = []  # of the blocks along the axis: what is written there, and where
    for last, length in zip(np.cumsum(along).tolist(), along, strict=True):
        first = last - length
        inside = [part for part in placed if part[0] < last and part[1] > first]
        places = [
            (max(a - first, 0), min(b, last) - first, max(first - a, 0)) for a, b, _ in inside
        ]
        spans.append(([array for *_, array in inside], places))
    graph: dict[Any, Any] = {}
    for block in np.ndindex(*numblocks):
        written, places = spans[block[axis]]
        index = (*block[:axis], 0, *block[axis + 1 :])
        there = TaskRef((under.name, *block)) if isinstance(under, DaskArray) else None
        shape = tuple(sizes[i] for sizes, i in zip(chunks, block, strict=True))
        key = (name, *block)
        graph[key] = Task(
            key,
            _block_of_parts,
            there,
            List(*(TaskRef((array.name, *index)) for array in written)),
            places,
            axis,
            shape,
            under.dtype,
        )
    layer = MaterializedLayer(graph)
    return array_of(
        graph_on(name, layer, arrays), name, chunks, np.empty((0,) * len(chunks), under.dtype)
    )


def _chunks(shape: Shape, dtype: np.dtype[Any], axis: int) -> tuple[int, ...]:
    """Return chunks of moderate size along an axis."""
    n = shape[axis]
    row = max(1, math.prod(shape) // max(n, 1) * dtype.itemsize)
    length = min(-(-n // _BLOCKS), max(1, _BYTES // row))
    return (*((length,) * (n // length)), *((n % length,) if n % length else ()))


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
        Whole along the axis.
    places : sequence of tuple
        Where each part begins and ends in the block, and what of it comes before that.
    """
    out = np.zeros(shape, dtype) if under is None else under.copy()
    before = (slice(None),) * axis
    for part, (start, stop, skipped) in zip(parts, places, strict=True):
        out[(*before, slice(start, stop))] = part[(*before, slice(skipped, skipped + stop - start))]
    return out
