"""Halos: the samples around each block, laid out without copying the block itself."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from dask._task_spec import DataNode, List, Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from pylops_dispatch.pieces import Chunks, Shape

Slices = tuple[slice, ...]
Span = tuple[int, int]


# before the axis in the name of an array of faces: samples before each block, and after it
HALO = ("halo-before", "halo-after")


def halo_faces(x: DaskArray, depth: Sequence[int]) -> list[tuple[int, DaskArray, DaskArray]]:
    """Return, for each axis that needs them, the samples before and after each block.

    Parameters
    ----------
    x : dask.array.Array
        Array.
    depth : sequence of int
        Samples needed on either side, for each axis.

    Returns
    -------
    list of tuple
        Axis, and two arrays with the blocks of `x`: the samples before each block and those
        after it, fewer or None at the ends. The faces of a later axis span the blocks as
        extended by those of the earlier ones, so that corners come along. Several neighbours
        are asked where chunks are thinner than `depth`.
    """
    faces: list[tuple[int, DaskArray, DaskArray]] = []
    for axis, width in enumerate(depth):
        if width and x.numblocks[axis] > 1:
            token = tokenize(x.name, [f[1].name for f in faces], axis, width)
            before = _face(x, faces, axis, width, token, after=False)
            after = _face(x, faces, axis, width, token, after=True)
            faces.append((axis, before, after))
    return faces


def _face(
    x: DaskArray,
    faces: list[tuple[int, DaskArray, DaskArray]],
    axis: int,
    width: int,
    token: str,
    after: bool,
) -> DaskArray:
    edges = np.cumsum([0, *x.chunks[axis]])
    n = int(edges[-1])
    spans = [
        (int(stop), min(int(stop) + width, n))
        if after
        else (max(int(start) - width, 0), int(start))
        for start, stop in itertools.pairwise(edges)
    ]
    name = f"{HALO[after]}-{axis}-{token}"
    sources = _sources(edges, spans)
    axes = [a for a, _, _ in faces]
    graph: dict[Any, Any] = {}
    for index in np.ndindex(*x.numblocks):
        key = (name, *index)
        found = sources[index[axis]]
        if not found:
            graph[key] = DataNode(key, None)
            continue
        if len(found) == 1 and not faces:
            block, span = found[0]
            source = (x.name, *index[:axis], block, *index[axis + 1 :])
            graph[key] = Task(key, _part, TaskRef(source), _along(x.ndim, axis, span))
            continue
        groups = []
        for block, _ in found:
            at = (*index[:axis], block, *index[axis + 1 :])
            names = [x.name, *(f.name for _, *pair in faces for f in pair)]
            groups.append(List(*(TaskRef((n, *at)) for n in names)))
        graph[key] = Task(key, _join_face, axes, axis, [s for _, s in found], List(*groups))
    layers = HighLevelGraph.from_collections(
        name, graph, dependencies=[x, *(f for _, *pair in faces for f in pair)]
    )
    chunks = tuple(
        tuple(high - low for low, high in spans) if a == axis else c for a, c in enumerate(x.chunks)
    )
    return DaskArray(layers, name, chunks, meta=x._meta)


def _sources(edges: np.ndarray[Any, Any], spans: Sequence[Span]) -> list[list[tuple[int, slice]]]:
    """Return, for each span of samples, the blocks that hold them and which part of each."""
    found = []
    for low, high in spans:
        first = int(np.searchsorted(edges, low, side="right")) - 1
        last = int(np.searchsorted(edges, high, side="left"))
        parts = [
            (b, slice(max(low - int(edges[b]), 0), min(high, int(edges[b + 1])) - int(edges[b])))
            for b in range(first, last)
        ]
        found.append([(b, part) for b, part in parts if part.start < part.stop])
    return found


def _part(block: Any, where: Slices) -> Any:
    return block[where]


def _join_parts(axis: int, spans: list[slice], blocks: list[Any]) -> Any:
    parts = [b[_along(b.ndim, axis, s)] for b, s in zip(blocks, spans, strict=True)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)


def _along(ndim: int, axis: int, span: slice) -> Slices:
    return tuple(span if a == axis else slice(None) for a in range(ndim))


def gather(x: DaskArray, axis: int, spans: Sequence[Span]) -> DaskArray:
    """Return the samples of each span of an axis, one block for each; spans may overlap.

    Parameters
    ----------
    x : dask.array.Array
        Array.
    axis : int
        Axis.
    spans : sequence of tuple of int
        First sample and the one after the last, not empty.

    Returns
    -------
    dask.array.Array
        With a block along `axis` for each span.
    """
    edges = np.cumsum([0, *x.chunks[axis]])
    name = f"gather-{tokenize(x.name, axis, tuple(spans))}"
    graph: dict[Any, Any] = {}
    sources = _sources(edges, spans)
    chunks = tuple(
        tuple(high - low for low, high in spans) if a == axis else c for a, c in enumerate(x.chunks)
    )
    for index in np.ndindex(*(len(c) for c in chunks)):
        key = (name, *index)
        found = sources[index[axis]]
        keys = [TaskRef((x.name, *index[:axis], b, *index[axis + 1 :])) for b, _ in found]
        graph[key] = Task(key, _join_parts, axis, [s for _, s in found], List(*keys))
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[x])
    return DaskArray(layers, name, chunks, meta=x._meta)


def fold(x: DaskArray, axis: int, spans: Sequence[Span], sizes: tuple[int, ...]) -> DaskArray:
    """Add up blocks that lie on spans of an axis, the adjoint of :func:`gather`.

    Parameters
    ----------
    x : dask.array.Array
        With a block along `axis` for each span.
    axis : int
        Axis.
    spans : sequence of tuple of int
        Where each block lies: first sample and the one after the last.
    sizes : tuple of int
        Chunks of the result along `axis`; samples that no span reaches are zero.

    Returns
    -------
    dask.array.Array
        With the chunks `sizes` along `axis`.
    """
    edges = np.cumsum([0, *sizes])
    name = f"fold-{tokenize(x.name, axis, tuple(spans), sizes)}"
    found: list[list[tuple[int, slice, slice]]] = [[] for _ in sizes]
    for block, ((low, _), reached) in enumerate(zip(spans, _sources(edges, spans), strict=True)):
        for target, place in reached:
            ahead = int(edges[target]) - low
            part = slice(place.start + ahead, place.stop + ahead)
            found[target].append((block, part, place))
    graph: dict[Any, Any] = {}
    chunks = tuple(sizes if a == axis else c for a, c in enumerate(x.chunks))
    for index in np.ndindex(*(len(c) for c in chunks)):
        key = (name, *index)
        shape = tuple(c[i] for c, i in zip(chunks, index, strict=True))
        terms = found[index[axis]]
        keys = [TaskRef((x.name, *index[:axis], b, *index[axis + 1 :])) for b, _, _ in terms]
        places = [(part, place) for _, part, place in terms]
        graph[key] = Task(key, _add_parts, axis, shape, x.dtype, places, List(*keys))
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[x])
    return DaskArray(layers, name, chunks, meta=x._meta)


def _add_parts(
    axis: int, shape: Shape, dtype: Any, places: list[tuple[slice, slice]], blocks: list[Any]
) -> Any:
    parts = [
        (place, block[_along(len(shape), axis, part)])
        for (part, place), block in zip(places, blocks, strict=True)
    ]
    whole = next((i for i, (p, _) in enumerate(parts) if p == slice(0, shape[axis])), None)
    if whole is None:
        out = np.zeros(shape, dtype)
    else:  # mostly one block spans it all, and its neighbours overlap the ends
        out = parts.pop(whole)[1]
        out = out.copy() if parts else out
    for place, values in parts:
        out[_along(len(shape), axis, place)] += values
    return out


def _join_face(axes: list[int], axis: int, spans: list[slice], groups: list[list[Any]]) -> Any:
    found = []
    for span, (block, *faces) in zip(spans, groups, strict=True):
        where = _along(block.ndim, axis, span)
        cut = [None if f is None else f[where] for f in faces]
        whole = extended(block[where], axes, cut)
        found.append(whole.window(everything(whole.shape)))
    return found[0] if len(found) == 1 else np.concatenate(found, axis=axis)


def _margins(ndim: int, axes: Sequence[int], faces: Sequence[Any]) -> list[tuple[int, int]]:
    margins = [(0, 0)] * ndim
    for axis, before, after in zip(axes, faces[::2], faces[1::2], strict=True):
        margins[axis] = tuple(0 if f is None else f.shape[axis] for f in (before, after))  # type: ignore[assignment]
    return margins


@dataclass
class Extended:
    """A block and its halo, in place: parts of one array, each with where it lies."""

    shape: Shape
    parts: list[tuple[Any, Slices]]

    def window(self, where: Slices) -> Any:
        """Return the samples at `where` as one array, a view if they are in one part."""
        for part, place in self.parts:
            inner = _within(where, place)
            if inner is not None:
                return part[inner]
        shape = tuple(w.stop - w.start for w in where)
        out = np.empty_like(self.parts[0][0], shape=shape, order="C")
        if shape == self.shape:
            for part, place in self.parts:
                out[place] = part
            return out
        for part, place in self.parts:
            both = tuple(
                slice(max(w.start, p.start), min(w.stop, p.stop))
                for w, p in zip(where, place, strict=True)
            )
            if all(b.start < b.stop for b in both):
                out[shifted(both, where)] = part[shifted(both, place)]
        return out


def shifted(where: Slices, origin: Slices) -> Slices:
    return tuple(
        slice(w.start - o.start, w.stop - o.start) for w, o in zip(where, origin, strict=True)
    )


def _within(where: Slices, place: Slices) -> Slices | None:
    if all(p.start <= w.start and w.stop <= p.stop for w, p in zip(where, place, strict=True)):
        return shifted(where, place)
    return None


def extended(block: Any, axes: Sequence[int], faces: Sequence[Any]) -> Extended:
    """Lay out a block with its halo: faces come as before, after for each of `axes`."""
    margins = _margins(block.ndim, axes, faces)
    shape = tuple(n + low + high for n, (low, high) in zip(block.shape, margins, strict=True))
    reached = [slice(low, low + n) for n, (low, _) in zip(block.shape, margins, strict=True)]
    parts = [(block, tuple(reached))]
    for axis, before, after in zip(axes, faces[::2], faces[1::2], strict=True):
        low, high = margins[axis]
        for face, span in (
            (before, slice(0, low)),
            (after, slice(shape[axis] - high, shape[axis])),
        ):
            if face is not None:
                parts.append((face, (*reached[:axis], span, *reached[axis + 1 :])))
        reached[axis] = slice(0, shape[axis])
    return Extended(shape, parts)


class Surroundings(NamedTuple):
    """How a block lies among those around it.

    Attributes
    ----------
    shape : tuple of int
        Of the block with its halo.
    places : list of tuple
        For each block, itself first, which of its samples are in there, and where.
    """

    shape: Shape
    places: list[tuple[Slices, Slices]]

    def filled(self, blocks: Sequence[Any]) -> Extended:
        """Lay out whole blocks, in the order of `places`."""
        pairs = zip(blocks, self.places, strict=True)
        return Extended(self.shape, [(block[part], place) for block, (part, place) in pairs])


def surroundings(
    x: DaskArray, depth: Sequence[int], numblocks: Shape
) -> Iterator[tuple[list[TaskRef], Surroundings]]:
    """Yield, for each block, the blocks that its halo lies in, and how.

    In one process this takes the place of :func:`halo_faces`: nothing is gained there by
    cutting a face where its block lies, and each face is a task. Where `x` has but one block
    along an axis, it is that of all `numblocks`.
    """
    refs = [TaskRef((x.name, *index)) for index in np.ndindex(*x.numblocks)]
    for numbers, how in _surroundings(x.chunks, tuple(depth), numblocks):
        yield [refs[number] for number in numbers], how


@functools.lru_cache(maxsize=8)  # the steps of a solver ask for the same few
def _surroundings(
    chunks: Chunks, depth: Shape, numblocks: Shape
) -> list[tuple[list[int], Surroundings]]:
    """Return numbers of blocks, in C order, and how they lie; blocks alike share the latter."""
    along = [_around(sizes, width) for sizes, width in zip(chunks, depth, strict=True)]
    strides = [math.prod(len(sizes) for sizes in chunks[axis + 1 :]) for axis in range(len(chunks))]
    known: dict[Any, Surroundings] = {}
    result = []
    for index in np.ndindex(*numblocks):
        axes = [found[min(i, len(found) - 1)] for found, i in zip(along, index, strict=True)]
        numbers = [
            sum(block * stride for block, stride in zip(blocks, strides, strict=True))
            for blocks in itertools.product(*(blocks for blocks, _, _ in axes))
        ]
        alike = tuple((n, places) for _, n, places in axes)
        if alike not in known:
            known[alike] = Surroundings(
                tuple(n for n, _ in alike),
                [
                    (
                        tuple(slice(*part) for part, _ in found),
                        tuple(slice(*place) for _, place in found),
                    )
                    for found in itertools.product(*(places for _, places in alike))
                ],
            )
        result.append((numbers, known[alike]))
    return result


def _around(
    sizes: tuple[int, ...], width: int
) -> list[tuple[list[int], int, tuple[tuple[Span, Span], ...]]]:
    """Return, for each block of an axis, which blocks its halo is in, itself first, and how.

    Their numbers, the samples of all, and for each block which of its samples and where.
    """
    edges = np.cumsum([0, *sizes])
    n = int(edges[-1])
    spans = [
        (max(int(start) - width, 0), min(int(stop) + width, n))
        for start, stop in itertools.pairwise(edges)
    ]
    found = []
    for own, ((low, high), sources) in enumerate(zip(spans, _sources(edges, spans), strict=True)):
        sources = sorted(sources, key=lambda source: source[0] != own) or [(own, slice(0, 0))]
        ahead = [int(edges[block]) - low for block, _ in sources]
        places = tuple(
            ((part.start, part.stop), (part.start + a, part.stop + a))
            for (_, part), a in zip(sources, ahead, strict=True)
        )
        found.append(([block for block, _ in sources], high - low, places))
    return found


def everything(shape: Shape) -> Slices:
    return tuple(slice(0, n) for n in shape)
