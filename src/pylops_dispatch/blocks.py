"""Running an unmodified PyLops operator on blocks: alone, with a halo, along whole axes, whole."""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import DataNode, List, Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from threadpoolctl import ThreadpoolController

from pylops_dispatch.namespace import inside_block
from pylops_dispatch.operators import (
    duplicate,
    lazy_arrays,
    parts,
    rebuilt,
    resized,
    signature,
    without_pools,
)
from pylops_dispatch.pieces import Chunks, Shape
from pylops_dispatch.policy import announce_whole

Slices = tuple[slice, ...]

# blocks are worked on in tiles of this size: temporaries stay in the cache, and smaller tiles
# lose to the interpreter lock
_TILE_BYTES = 3 << 20


# ---- threads of BLAS ---------------------------------------------------------------------


class _OneBlasThread:
    """Counts the blocks that are running, and gives BLAS one thread while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._controller: ThreadpoolController | None = None
        self._limit: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._controller = self._controller or ThreadpoolController()
                self._limit = self._controller.limit(limits=1, user_api="blas")
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    self._limit.restore_original_limits()


one_blas_thread = _OneBlasThread()


# ---- an operator in a graph --------------------------------------------------------------


def embed(op: Any, token: str) -> Any:
    """Return an operator as an argument of tasks: with large arrays, as a key of its own."""
    op = without_pools(op)
    held = sum(
        value.nbytes
        for part in _all_parts(op)
        for value in vars(part).values()
        if isinstance(value, np.ndarray)
    )
    if held < 1 << 16:
        return op
    key = f"operator-{token}"
    return Delayed(key, HighLevelGraph.from_collections(key, {key: DataNode(key, op)}))


def _all_parts(op: Any) -> Iterator[Any]:
    yield op
    for part in parts(op):
        yield from _all_parts(part)


def run(cls: type, op: Any, x: Any, adjoint: bool) -> Any:
    """Apply the operator, as `cls` defines it, to the block `x`, and return a vector."""
    method = cls._rmatvec if adjoint else cls._matvec  # type: ignore[attr-defined]
    with inside_block():
        return method(op, x.ravel())


# ---- halos -------------------------------------------------------------------------------


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
            before = _face(x, faces, axis, width, after=False)
            after = _face(x, faces, axis, width, after=True)
            faces.append((axis, before, after))
    return faces


def _face(
    x: DaskArray, faces: list[tuple[int, DaskArray, DaskArray]], axis: int, width: int, after: bool
) -> DaskArray:
    edges = np.concatenate([[0], np.cumsum(x.chunks[axis])])
    n = int(edges[-1])
    spans = [
        (int(stop), min(int(stop) + width, n))
        if after
        else (max(int(start) - width, 0), int(start))
        for start, stop in itertools.pairwise(edges)
    ]
    name = f"halo-{tokenize(x.name, [f[1].name for f in faces], axis, width, after)}"
    sources = []
    for low, high in spans:
        first = int(np.searchsorted(edges, low, side="right")) - 1
        last = int(np.searchsorted(edges, high, side="left"))
        sources.append(
            [
                (
                    b,
                    slice(
                        max(low - int(edges[b]), 0), min(high, int(edges[b + 1])) - int(edges[b])
                    ),
                )
                for b in range(first, last)
            ]
            if high > low
            else []
        )
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
            where = tuple(span if a == axis else slice(None) for a in range(x.ndim))
            source = (x.name, *index[:axis], block, *index[axis + 1 :])
            graph[key] = Task(key, _part, TaskRef(source), where)
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


def _part(block: Any, where: Slices) -> Any:
    return block[where]


def _join_face(axes: list[int], axis: int, spans: list[slice], groups: list[list[Any]]) -> Any:
    found = []
    for span, (block, *faces) in zip(spans, groups, strict=True):
        where = tuple(span if a == axis else slice(None) for a in range(block.ndim))
        cut = [None if f is None else f[where] for f in faces]
        extended = _extended(block[where], axes, cut)
        found.append(extended.window(_everything(extended.shape)))
    return found[0] if len(found) == 1 else np.concatenate(found, axis=axis)


def _margins(ndim: int, axes: Sequence[int], faces: Sequence[Any]) -> list[tuple[int, int]]:
    margins = [(0, 0)] * ndim
    for axis, before, after in zip(axes, faces[::2], faces[1::2], strict=True):
        margins[axis] = tuple(0 if f is None else f.shape[axis] for f in (before, after))  # type: ignore[assignment]
    return margins


@dataclass
class _Extended:
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
        for part, place in self.parts:
            both = tuple(
                slice(max(w.start, p.start), min(w.stop, p.stop))
                for w, p in zip(where, place, strict=True)
            )
            if all(b.start < b.stop for b in both):
                out[_shifted(both, where)] = part[_shifted(both, place)]
        return out


def _shifted(where: Slices, origin: Slices) -> Slices:
    return tuple(
        slice(w.start - o.start, w.stop - o.start) for w, o in zip(where, origin, strict=True)
    )


def _within(where: Slices, place: Slices) -> Slices | None:
    if all(p.start <= w.start and w.stop <= p.stop for w, p in zip(where, place, strict=True)):
        return _shifted(where, place)
    return None


def _extended(block: Any, axes: Sequence[int], faces: Sequence[Any]) -> _Extended:
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
    return _Extended(shape, parts)


def _everything(shape: Shape) -> Slices:
    return tuple(slice(0, n) for n in shape)


# ---- local operators ---------------------------------------------------------------------


def apply_local(
    cls: type,
    template: Any,
    x: DaskArray,
    depth: Shape,
    coefficients: Sequence[DaskArray],
    adjoint: bool,
    dtype: np.dtype[Any],
    token: Any,
) -> DaskArray:
    """Apply an operator that needs a halo of `depth` on each block of `x`.

    Parameters
    ----------
    cls : type
        Class whose ``_matvec`` runs.
    template : LinearOperator
        The operator without its coefficients.
    x : dask.array.Array
        Input, of the operator's dims.
    depth : tuple of int
        Halo for each axis.
    coefficients : sequence of dask.array.Array
        Arrays that the operator multiplies by, in the order of :func:`leaves`, with the chunks
        of `x` along each axis where their length is not one.
    adjoint : bool
        Whether to apply the adjoint.
    dtype : dtype
        Of the result.
    token : object
        What the result is named after.

    Returns
    -------
    dask.array.Array
        With the chunks of `x`.
    """
    axes = tuple(range(x.ndim))
    arguments: list[Any] = []
    layout = []
    for array in (x, *coefficients):
        faces = halo_faces(
            array,
            [d if n > 1 or array is x else 0 for d, n in zip(depth, array.shape, strict=True)],
        )
        layout.append([axis for axis, _, _ in faces])
        for item in (array, *(f for _, *pair in faces for f in pair)):
            arguments += [item, axes]
    key = tokenize(token, adjoint, x.name, [c.name for c in coefficients], depth)
    return da.blockwise(
        _local_block,
        axes,
        *arguments,
        name=f"{cls.__name__.strip('_')}-{'rmatvec' if adjoint else 'matvec'}-{key}",
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * x.ndim, dtype=dtype),
        cls=cls,
        template=template,
        layout=layout,
        depth=depth,
        adjoint=adjoint,
        out_dtype=dtype,
    )


def _local_block(
    *blocks: Any,
    cls: type,
    template: Any,
    layout: list[list[int]],
    depth: Shape,
    adjoint: bool,
    out_dtype: Any,
) -> Any:
    remaining = iter(blocks)
    arrays = []
    for axes in layout:
        block = next(remaining)
        arrays.append(_extended(block, axes, [next(remaining) for _ in range(2 * len(axes))]))
    x = arrays[0]
    core = x.parts[0][1]
    lengths = tile_lengths(x.parts[0][0].shape, depth, x.parts[0][0].itemsize)
    starts = [range(c.start, c.stop, n) for c, n in zip(core, lengths, strict=True)]
    out = None
    for corner in itertools.product(*starts):
        tile = tuple(
            slice(s, min(s + n, c.stop)) for s, n, c in zip(corner, lengths, core, strict=True)
        )
        # the tile with its own halo, as far as there are samples
        where = tuple(
            slice(max(t.start - d, 0), min(t.stop + d, n))
            for t, d, n in zip(tile, depth, x.shape, strict=True)
        )
        held = [
            a.window(
                tuple(w if m > 1 else slice(0, m) for w, m in zip(where, a.shape, strict=True))
            )
            for a in arrays[1:]
        ]
        window = x.window(where)
        y = run(cls, fitted(template, window.shape, held), window, adjoint)
        y = y.reshape(window.shape)[_shifted(tile, where)]
        if tile == core:
            return y
        if out is None:
            out = np.empty_like(y, shape=x.parts[0][0].shape, order="C")
        out[_shifted(tile, core)] = y
    return np.empty(x.parts[0][0].shape, dtype=out_dtype) if out is None else out


def tile_lengths(shape: Shape, depth: Shape, itemsize: int) -> Shape:
    """Return the shape of the tiles that a block is worked on in.

    Axes without a halo are cut first; the last axis, contiguous in memory, last of all. A
    tile is at least eight times as long as the halo of an axis.
    """
    lengths = list(shape)

    def excess() -> float:
        return math.prod(lengths) * itemsize / _TILE_BYTES

    if not any(depth) or excess() < 4 / 3:
        return shape
    free = [axis for axis in range(len(shape) - 1) if not depth[axis]]
    for axis in free:
        lengths[axis] = max(1, int(lengths[axis] / max(excess(), 1)))
    for group in (range(len(shape) - 1), [len(shape) - 1]):
        cut = [axis for axis in group if depth[axis] or axis == len(shape) - 1]
        while excess() > 4 / 3:
            room = [a for a in cut if lengths[a] >= 2 * max(8 * depth[a], 1)]
            if not room:
                break
            longest = max(room, key=lambda a: lengths[a] / max(depth[a], 1))
            lengths[longest] = -(-lengths[longest] // 2)
    return tuple(lengths)


def leaves(op: Any, names: Callable[[Any], tuple[str, ...]]) -> Iterator[tuple[Any, str]]:
    """Yield operator and attribute for all coefficients in a tree of operators, in order."""
    for name in names(op):
        yield op, name
    for part in parts(op):
        yield from leaves(part, names)


def stripped(op: Any, names: Callable[[Any], tuple[str, ...]]) -> Any:
    """Return a copy of a tree of operators with a placeholder for each coefficient."""
    new = rebuilt(op, lambda part: stripped(part, names))
    for name in names(op):
        setattr(new, name, _Placeholder(name))
    return new


class _Placeholder:
    """Stands where a block's coefficient goes."""

    def __init__(self, name: str) -> None:
        self.name = name


def fitted(template: Any, dims: Shape, coefficients: Sequence[Any]) -> Any:
    """Return a copy of a tree of local operators for a block of shape `dims`."""
    return _refilled(template, lambda op: resized(op, dims, dims), coefficients)


def _refilled(template: Any, copy: Callable[[Any], Any], arrays: Sequence[Any]) -> Any:
    remaining = iter(arrays)

    def fill(op: Any) -> Any:
        new = copy(op)
        for name, value in vars(op).items():
            if isinstance(value, _Placeholder):
                setattr(new, name, next(remaining))
        return rebuilt(op, fill, new)

    return fill(template)


# ---- along whole axes --------------------------------------------------------------------


def apply_along(
    cls: type,
    op: Any,
    x: DaskArray,
    dims: Shape,
    dimsd: Shape,
    axes: Sequence[int],
    adjoint: bool,
    dtype: np.dtype[Any],
) -> DaskArray:
    """Apply an operator whose work lies along `axes`, which become one block, to the others.

    `dims` and `dimsd` are the operator's own (not exchanged for the adjoint).
    """
    whole = {axis % x.ndim for axis in axes}
    x = x.rechunk(dict.fromkeys(whole, -1))
    result = dims if adjoint else dimsd
    chunks: Chunks = tuple((result[a],) if a in whole else c for a, c in enumerate(x.chunks))
    key = tokenize(signature(op), adjoint, x.name)
    index = tuple(range(x.ndim))
    return da.blockwise(
        _along_block,
        index,
        x,
        index,
        name=f"{cls.__name__.strip('_')}-{'rmatvec' if adjoint else 'matvec'}-{key}",
        adjust_chunks=dict(enumerate(chunks)),
        dtype=dtype,
        meta=np.empty((0,) * x.ndim, dtype=dtype),
        cls=cls,
        op=embed(op, key),
        dims=dims,
        dimsd=dimsd,
        axes=tuple(whole),
        adjoint=adjoint,
    )


def _along_block(
    block: Any, *, cls: type, op: Any, dims: Shape, dimsd: Shape, axes: Shape, adjoint: bool
) -> Any:
    part, partd = (
        tuple(d[a] if a in axes else n for a, n in enumerate(block.shape)) for d in (dims, dimsd)
    )
    y = run(cls, resized(op, part, partd), block, adjoint)
    return y.reshape(part if adjoint else partd)


# ---- the whole vector --------------------------------------------------------------------


def apply_whole(cls: type, op: Any, x: DaskArray, adjoint: bool, dtype: np.dtype[Any]) -> DaskArray:
    """Apply an operator to the whole vector in one lazy task.

    Dask arrays that the operator holds come in as inputs of the task.
    """
    n = op.shape[1 if adjoint else 0]
    key = tokenize(signature(op), adjoint, x.name)
    name = f"{cls.__name__.strip('_')}-{'rmatvec' if adjoint else 'matvec'}-{key}"
    template, whole, inputs = _taken_apart(op, x)
    task = Task(
        (name, 0),
        _whole_block,
        cls,
        dtype,
        DataNode(None, template),
        adjoint,
        *inputs,
    )
    graph = HighLevelGraph.from_collections(name, {(name, 0): task}, dependencies=whole)
    return DaskArray(graph, name, ((n,),), dtype=dtype)


def _taken_apart(op: Any, x: DaskArray) -> tuple[Any, list[DaskArray], list[TaskRef]]:
    """Return an operator for one task, and the arrays that the task needs, each in one block."""
    op = without_pools(op)
    held = list(lazy_arrays(op))
    template = _without(op, [(id(owner), attribute) for owner, attribute, _ in held])
    whole = [a.rechunk(-1) for a in (x, *(array for _, _, array in held))]
    return template, whole, [TaskRef((a.name, *(0,) * a.ndim)) for a in whole]


def _without(op: Any, held: list[tuple[int, str]]) -> Any:
    """Return a copy of a tree of operators with placeholders where dask arrays were."""
    if not held:
        return op
    new = rebuilt(op, lambda part: _without(part, held))
    for owner, name in held:
        if owner == id(op):
            setattr(new, name, _Placeholder(name))
    return new


def filled(template: Any, arrays: Sequence[Any]) -> Any:
    """Return a copy of a tree of operators with `arrays` where the placeholders are."""
    return _refilled(template, duplicate, arrays)


def _whole_block(cls: type, dtype: Any, template: Any, adjoint: bool, x: Any, *arrays: Any) -> Any:
    op = filled(template, arrays) if arrays else template
    # what was announced holds, whatever the operator makes of the values
    return method_of(cls, op, adjoint)(x).reshape(-1).astype(dtype, copy=False)


def method_of(cls: type, op: Any, adjoint: bool) -> Callable[[Any], Any]:
    """Return an operator's method: its own, or as a base class `cls` of its class defines it."""
    name = "_rmatvec" if adjoint else "_matvec"
    if not isinstance(op, cls) or cls is type(op):
        return getattr(op, name)
    return functools.partial(getattr(cls, name), op)


def solve_explicit(
    op: Any, divide: Any, y: DaskArray, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> DaskArray:
    """Solve with the matrix of an explicit operator in one lazy task, as PyLops does."""
    announce_whole(type(op).__name__, "a dense or sparse matrix is factorised by SciPy")
    template, whole, inputs = _taken_apart(op, y)
    name = f"solve-{tokenize(signature(op), y.name, args, kwargs)}"
    shape = (op.shape[1], *y.shape[1:])
    key = (name, *(0,) * y.ndim)
    task = Task(
        key,
        _solve_block,
        divide,
        DataNode(None, template),
        args,
        kwargs,
        *inputs,
    )
    graph = HighLevelGraph.from_collections(name, {key: task}, dependencies=whole)
    dtype = np.result_type(op.dtype, y.dtype, np.float32)
    return DaskArray(graph, name, tuple((n,) for n in shape), dtype=dtype)


def _solve_block(divide: Any, template: Any, args: Any, kwargs: Any, y: Any, *arrays: Any) -> Any:
    return divide(filled(template, arrays) if arrays else template, y, *args, **kwargs)
