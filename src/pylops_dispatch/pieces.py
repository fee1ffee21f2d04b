"""Pieces: the N-D dask arrays, or zeros, that a vector is the flattening of."""

from __future__ import annotations

import functools
import hashlib
import math
import uuid
import weakref
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask._task_spec import DataNode, Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.array.core import normalize_chunks, slices_from_chunks
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.utils import parse_bytes

from pylops_dispatch.workers import client_in_use

_HASHED = 1 << 16  # bytes: what is hashed in less time than a task takes

Shape = tuple[int, ...]
Chunks = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Zeros:
    """Zeros that have no layout yet: they take that of the first array that they meet."""

    shape: Shape
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


Piece = DaskArray | Zeros


_new = DaskArray.__new__


def array_of(graph: HighLevelGraph, name: str, chunks: Chunks, meta: Any) -> DaskArray:
    """Return an array of what is known to fit.

    dask's constructor checks it all, and a step of a solver on small blocks makes some forty.
    """
    if DaskArray.__new__ is not _new or dask.config.config.get("array_plugins"):
        return DaskArray(graph, name, chunks, meta=meta)
    array: DaskArray = object.__new__(DaskArray)
    array.dask = graph
    array._name = name
    array._chunks = chunks
    array._meta = meta
    return array


def real_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the dtype of the real part of numbers of `dtype`."""
    return np.empty(0, dtype).real.dtype


def size(piece: Piece) -> int:
    """Return the number of elements of `piece` as a plain int."""
    return math.prod(piece.shape)


def realise(piece: Piece, chunks: Chunks | None = None) -> DaskArray:
    """Return `piece` as a dask array, zeros with `chunks`."""
    if isinstance(piece, Zeros):
        # "auto" is as dask is set when they are asked for
        limit = min(parse_bytes(dask.config.get("array.chunk-size")), LARGE)
        return _zeros(piece, "auto" if chunks is None else chunks, limit).copy()
    return piece


@functools.lru_cache(maxsize=64)
def _zeros(piece: Zeros, chunks: Any, limit: int) -> DaskArray:
    """Return zeros, the same again in every step: dask pickles a function to name them."""
    sizes = normalize_chunks(chunks, piece.shape, limit, piece.dtype)
    return da.zeros(piece.shape, dtype=piece.dtype, chunks=sizes)


def ravel(piece: Piece) -> DaskArray:
    """Return `piece` as a 1-D dask array: this is where dask has to move data."""
    if len(piece.shape) != 1 and 0 in piece.shape:  # dask cannot reshape what is empty
        piece = Zeros((0,), piece.dtype)
    piece = realise(piece)
    if piece.ndim < 2 or piece.nbytes <= LARGE or not piece.numblocks[0] == 1 < piece.npartitions:
        return piece if piece.ndim == 1 else piece.ravel()
    # dask makes one block of the axes after the first
    if len(piece) <= piece.npartitions:
        return da.concatenate([ravel(part) for part in piece])
    whole = dict.fromkeys(range(1, piece.ndim), -1)
    return rechunk(piece, {0: balanced(len(piece), piece.npartitions), **whole}).ravel()


def reshape(piece: Piece, shape: Shape) -> Piece:
    """Reshape one piece, without touching its chunks where only unit axes differ."""
    if piece.shape == shape:
        return piece
    if isinstance(piece, Zeros) or 0 in shape:
        return Zeros(shape, piece.dtype)
    core = [n for n in piece.shape if n != 1]
    if core == [n for n in shape if n != 1]:
        squeezed = piece[tuple(0 if n == 1 else slice(None) for n in piece.shape)]
        return squeezed[tuple(None if n == 1 else slice(None) for n in shape)]
    try:
        return piece.reshape(shape)
    except NotImplementedError:  # dask cannot merge and split axes in one go
        return piece.ravel().reshape(shape)


def assemble(pieces: Sequence[Piece], shape: Shape) -> Piece:
    """Return the array of `shape` whose flattening is that of `pieces`, one after another.

    Stacking and concatenating whole pieces keeps their chunks; anything else goes through
    dask's own ravel and reshape.
    """
    if len(pieces) == 1:
        return reshape(pieces[0], shape)
    if all(isinstance(piece, Zeros) for piece in pieces):
        return Zeros(shape, pieces[0].dtype)
    if len(shape) > 1:
        row = math.prod(shape[1:])
        if len(pieces) == shape[0] and all(size(p) == row for p in pieces):
            parts = [reshape(p, shape[1:]) for p in pieces]
            if all(isinstance(p, Zeros) or p is q for p, q in zip(parts, pieces, strict=True)):
                return da.stack(_realise_alike(parts))
        if row and all(size(p) % row == 0 for p in pieces):
            parts = [reshape(p, (size(p) // row, *shape[1:])) for p in pieces]
            if all(isinstance(p, Zeros) or p is q for p, q in zip(parts, pieces, strict=True)):
                return da.concatenate(_realise_alike(parts, first=1))
    return da.concatenate([ravel(p) for p in pieces]).reshape(shape)


def _realise_alike(parts: Sequence[Piece], first: int = 0) -> list[DaskArray]:
    model = next(p for p in parts if not isinstance(p, Zeros))
    return [
        realise(p, (*((n,) for n in p.shape[:first]), *model.chunks[first:]))
        if isinstance(p, Zeros)
        else p
        for p in parts
    ]


def take_range(pieces: Sequence[Piece], start: int, stop: int) -> list[Piece]:
    """Return the pieces whose flattening is elements `start` to `stop`.

    A range that falls on the boundaries of pieces, or of rows of a piece, keeps their layout.
    """
    found: list[Piece] = []
    offset = 0
    for piece in pieces:
        n = size(piece)
        low, high = max(start - offset, 0), min(stop - offset, n)
        offset += n
        if low >= high:
            continue
        if high - low == n:
            found.append(piece)
        elif isinstance(piece, Zeros):
            found.append(Zeros((high - low,), piece.dtype))
        else:
            found.append(_rows(piece, low, high))
    return found


def _rows(piece: DaskArray, low: int, high: int) -> DaskArray:
    row = math.prod(piece.shape[1:])
    if piece.ndim > 1 and low % row == 0 and high % row == 0:
        first, last = low // row, high // row
        return piece[first] if last - first == 1 else piece[first:last]
    if piece.ndim > 1 and low // row == (high - 1) // row:
        inner = piece[low // row]
        return _rows(inner, low % row, low % row + high - low)
    return ravel(piece)[low:high]


def split_like(pieces: Sequence[Piece], model: Sequence[Piece]) -> list[Piece]:
    """Cut `pieces` where `model` is cut, and give each the shape of its counterpart."""
    out: list[Piece] = []
    offset = 0
    for target in model:
        n = size(target)
        part = take_range(pieces, offset, offset + n)
        out.append(assemble(part, target.shape) if part else Zeros(target.shape, pieces[0].dtype))
        offset += n
    return out


LARGE = 1 << 24  # bytes of an array that is not to be one block, so that others run beside it
_DIRECT = 16  # in dask's measure of graphs: up to 32 blocks go straight to as many others


def rechunk(x: DaskArray, chunks: Any) -> DaskArray:
    """Rechunk, a large array on the way by no larger blocks than those that there are or will be.

    dask's plan puts up to 128 MiB (``array.chunk-size``) into one block, in one task, where blocks
    go to more than four others; on a cluster it shuffles them instead.
    """
    if x.nbytes <= LARGE or client_in_use() is not None:
        return x.rechunk(chunks)
    return x.rechunk(chunks, threshold=_DIRECT, block_size_limit=1)


def balanced(n: int, blocks: int) -> tuple[int, ...]:
    """Cut `n` into at most `blocks` parts of nearly equal size."""
    blocks = max(1, min(blocks, n))
    small, larger = divmod(n, blocks)
    return (small + 1,) * larger + (small,) * (blocks - larger) if n else (0,)


def chunks_like(shape: Shape, model: DaskArray) -> Chunks:
    """Chunks for an array of `shape` that follow those of `model` wherever an axis agrees."""
    offset = model.ndim - len(shape)
    return tuple(
        model.chunks[axis + offset]
        if axis + offset >= 0 and model.shape[axis + offset] == n
        else (n,)
        for axis, n in enumerate(shape)
    )


_identities: dict[int, tuple[weakref.ref[Any], str]] = {}


def identity(obj: Any) -> str:
    """Return a name for `obj` that lasts as long as it does, without looking at its contents."""
    known = _identities.get(id(obj))
    if known is not None and known[0]() is obj:
        return known[1]
    name = uuid.uuid4().hex
    _identify(obj, name)
    return name


def keep_for(owner: Any, table: dict[str, Any], value: Any) -> None:
    """Put a value into a table by the identity of an object, until the object has gone.

    Operators of users may be equal to others, or have no hash (``dataclasses.dataclass``).
    """
    key = identity(owner)
    place = id(table), key
    if place not in _watched:  # the table may have let it go meanwhile
        _watched.add(place)
        weakref.finalize(owner, _let_go, table, place)
    table[key] = value


_watched: set[tuple[int, str]] = set()


def _let_go(table: dict[str, Any], place: tuple[int, str]) -> None:
    _watched.discard(place)
    table.pop(place[1], None)


def share_identity(new: Any, old: Any) -> None:
    """Let a copy have the name of what it is a copy of, as it is made."""
    _identify(new, identity(old))


def _identify(obj: Any, name: str) -> None:
    key = id(obj)
    _identities[key] = (weakref.ref(obj, lambda _: _identities.pop(key, None)), name)


def samples(array: np.ndarray[Any, Any]) -> str:
    """Return a name for some samples of a large array, which change when it is filled anew."""
    return array[_samples(array.shape)].tobytes().hex()


@functools.lru_cache(maxsize=1024)
def _samples(shape: Shape) -> tuple[np.ndarray[Any, Any], ...]:
    where = np.linspace(0, math.prod(shape) - 1, 64).astype(int)
    return np.unravel_index(where, shape)


def contents(array: np.ndarray[Any, Any]) -> str:
    """Return a name for what an array holds.

    dask's ``tokenize`` hashes the bytes as they lie in memory, and so gives a square matrix
    and its transpose the same name; and it takes ten times as long for a small array.
    """
    if type(array) is not np.ndarray or array.dtype.hasobject or array.nbytes > _HASHED:
        return tokenize(array, array.strides)
    kind = (name_of_dtype(array.dtype), array.shape, array.strides)
    digest = hashlib.blake2b(array.tobytes(), digest_size=16, person=b"contents")
    digest.update(repr(kind).encode())
    return digest.hexdigest()


def name_of_number(value: np.generic) -> tuple[str, str]:
    """Return a name for one of NumPy's numbers.

    How it is printed is up to the user: ``np.set_printoptions(legacy="1.25")`` leaves out the type.
    """
    return name_of_dtype(value.dtype), value.tobytes().hex()


@functools.lru_cache(maxsize=1024)
def name_of_dtype(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype; NumPy works it out each time."""
    return repr(dtype)


def copied_if_small(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a copy of a small array, which may be a buffer that is filled again; else itself."""
    return array.copy(order="K") if array.nbytes <= _HASHED else array


# what a graph refers to in place of a NumPy array: while a user's code runs, it is refilling.py
taking: ContextVar[Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = ContextVar(
    "taking", default=copied_if_small
)


def wrap_numpy(array: np.ndarray[Any, Any], chunks: Any = "auto", named: Any = None) -> DaskArray:
    """Wrap a NumPy array: each block holds a view, so that no array is in more than one task.

    Small arrays are copied, and named by contents. The bytes of a large one are not hashed: the
    same array object (or `named`, if given) with the same chunks gets the same keys again.
    Nothing outlives the graphs.
    """
    sizes: Chunks = normalize_chunks(chunks, array.shape, dtype=array.dtype)
    held, array = array, taking.get()(array)
    if named is None:
        copied = array is not held or array.nbytes <= _HASHED  # of a number there is no copy
        named = contents(array) if copied else identity(array)
    elif array is not held:
        named = named, contents(array)
    name = f"coefficient-{tokenize(named, sizes)}"
    blocks = zip(np.ndindex(*(len(c) for c in sizes)), slices_from_chunks(sizes), strict=True)
    graph: dict[Any, Any] = {
        (name, *index): DataNode((name, *index), array[where]) for index, where in blocks
    }
    return DaskArray(graph, name, sizes, dtype=array.dtype)


def one_block(
    name: str,
    function: Callable[..., Any],
    given: Sequence[Any],
    arrays: Sequence[DaskArray],
    shape: Shape,
    dtype: Any,
) -> DaskArray:
    """Return what a function makes of whole arrays, as the one block of an array, lazily.

    Unlike ``dask.delayed``, it keeps the arrays' own graphs, with the futures that those of a
    cluster are made of.

    Parameters
    ----------
    name : str
        Of the result, and of its layer in the graph.
    function : callable
        It is given all of `given`, and then the blocks of `arrays`.
    given : sequence
        What is no input of the task.
    arrays : sequence of dask.array.Array
        Each in one block.
    shape, dtype : tuple of int, dtype
        Of the result.
    """
    key = (name, *(0,) * len(shape))
    blocks = (TaskRef((array.name, *(0,) * array.ndim)) for array in arrays)
    task = Task(key, function, *given, *blocks)
    graph = HighLevelGraph.from_collections(name, {key: task}, dependencies=arrays)
    return DaskArray(graph, name, tuple((n,) for n in shape), dtype=dtype)


def in_memory(array: DaskArray) -> bool:
    """Whether every block of `array` is data, or a future, and no task is left to run."""
    layers = array.dask.layers
    return len(layers) == 1 and array.name in layers and is_data(layers[array.name])


def is_data(layer: Any) -> bool:
    """Whether a layer holds blocks as data, or futures: there is nothing to run for it."""
    nodes = layer.mapping if isinstance(layer, MaterializedLayer) else {}
    kinds = {type(node) for node in nodes.values()}
    return bool(kinds) and all(map(_is_data, kinds))


def _is_data(kind: type) -> bool:
    return issubclass(kind, (np.ndarray, np.generic, DataNode)) or hasattr(
        kind, "add_done_callback"
    )


def largest_block(x: DaskArray) -> int:
    """Return the bytes of the largest block of an array."""
    return math.prod(max(axis, default=0) for axis in x.chunks) * int(x.dtype.itemsize)
