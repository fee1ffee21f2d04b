"""Element-wise work on boxes, piece by piece."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from dask.blockwise import Blockwise, blockwise

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray, as_box, is_dask
from pylops_dispatch.layers import Form, graph_on
from pylops_dispatch.pieces import Piece, Zeros, array_of, name_of_number
from pylops_dispatch.policy import not_dispatched
from pylops_dispatch.repeating import layer_of


def elementwise(ufunc: Any, inputs: Sequence[Any], kwargs: dict[str, Any] | None = None) -> Any:
    """Apply `ufunc`, which works element by element, to boxes, arrays and scalars.

    Vectors that are the flattening of the same pieces are worked on piece by piece. Where the
    chunks of two operands differ, those of the left one win, so that layouts do not fragment
    from one step of a solver to the next.
    """
    kwargs = kwargs or {}
    operands = [_plain(x) for x in inputs]
    if not any(isinstance(x, DispatchArray) or is_dask(x) for x in operands):
        return ufunc(*operands, **kwargs)
    model = max(
        (x for x in operands if isinstance(x, DispatchArray)), key=lambda x: x.size, default=None
    )
    operands = [x if _is_scalar(x) else as_box(x, model) for x in operands]
    arrays = [x for x in operands if isinstance(x, DispatchArray) and x.ndim]
    shapes = {x.shape for x in arrays}
    if len(shapes) == 1:
        (shape,) = shapes
        if len(shape) == 1:
            return _join(_by_piece(ufunc, operands, kwargs), shape)
        parts = [x.pieces[0] if isinstance(x, DispatchArray) else x for x in operands]
        return _join([combine(ufunc, parts, kwargs)], shape)
    return _join([combine(ufunc, [_whole(x, arrays) for x in operands], kwargs)], None)


def on_alike(ufunc: np.ufunc, inputs: Sequence[Any]) -> DispatchArray | None:
    """Return what `elementwise` does of vectors that are cut alike, and numbers; else None.

    So are most in a solver: nothing is to be aligned, and the graph is made in half the time.
    """
    shape: tuple[int, ...] = ()
    chunks: list[Any] | None = None
    rows: list[Sequence[Any] | None] = []
    parts: list[Any] = []
    for x in inputs:
        lazy = isinstance(x, DispatchArray) and x.value is None
        part = x.value if isinstance(x, DispatchArray) else x
        row = None
        if lazy:
            pieces = x.pieces
            if not all(map(_is_of_ndarrays, pieces)):
                return None
            if x.ndim:
                cut = [piece.chunks for piece in pieces]
                if chunks is None:
                    shape, chunks = x.shape, cut
                elif x.shape != shape or cut != chunks:
                    return None
                row = pieces
            part = pieces[0]
        elif type(part) not in _SCALARS:
            return None
        rows.append(row)
        parts.append(part)
    if not any(isinstance(part, DaskArray) for part in parts):
        return None
    made = [
        _blockwise(
            ufunc, [p if row is None else row[i] for p, row in zip(parts, rows, strict=True)]
        )
        for i in range(len(chunks or (None,)))
    ]
    return DispatchArray(made, shape)


def _plain(x: Any) -> Any:
    if isinstance(x, DispatchArray):
        return x if x.value is None else x.value
    if isinstance(x, np.ndarray) and x.ndim == 0:
        return x[()]
    return np.asarray(x) if isinstance(x, (list, tuple)) else x


def _is_scalar(x: Any) -> bool:
    return np.isscalar(x) or x is None


def _whole(x: Any, arrays: Sequence[DispatchArray]) -> Any:
    """Return an operand as a dask array; zeros follow the first array with a layout."""
    if not isinstance(x, DispatchArray):
        return x
    piece = x.pieces[0]
    if x.ndim and len(x.pieces) == 1 and isinstance(piece, Zeros):
        models = [a for a in arrays if not isinstance(a.pieces[0], Zeros)]
        if models:
            zeros = Zeros(x.shape, piece.dtype)  # a vector's piece may have other dims
            return pc.realise(zeros, pc.chunks_like(x.shape, models[0].dask()))
    return x.dask()


def _join(parts: list[Any], shape: tuple[int, ...] | None) -> Any:
    if isinstance(parts[0], tuple):
        return tuple(_join(list(group), shape) for group in zip(*parts, strict=True))
    return DispatchArray(parts, parts[0].shape if shape is None else shape)


def partition(boxes: Sequence[DispatchArray]) -> list[list[Piece]]:
    """Cut vectors of one length alike, and give counterparts one shape.

    Returns
    -------
    list of list
        For each vector its pieces; the n-th pieces of all of them have the same shape.
    """
    lead = max(boxes, key=lambda box: (len(box.pieces), _is_laid_out(box)))
    cut = [
        list(box.pieces)
        if [pc.size(p) for p in box.pieces] == [pc.size(p) for p in lead.pieces]
        else pc.split_like(box.pieces, lead.pieces)
        for box in boxes
    ]
    for column in range(len(cut[0])):
        group = [row[column] for row in cut]
        shape = max(group, key=_layout).shape
        for row in cut:
            row[column] = pc.reshape(row[column], shape)
    for box, row in zip(boxes, cut, strict=True):
        box.adopt(row)
    return cut


def _layout(piece: Piece) -> int:
    return piece.ndim if isinstance(piece, DaskArray) else -1


def _is_laid_out(box: DispatchArray) -> bool:
    return any(isinstance(p, DaskArray) and p.ndim > 1 for p in box.pieces)


def _by_piece(ufunc: Any, operands: list[Any], kwargs: dict[str, Any]) -> list[Any]:
    vectors = [x for x in operands if isinstance(x, DispatchArray) and x.ndim]
    cut = iter(partition(vectors))
    rows: list[list[Any] | None] = [
        next(cut) if isinstance(x, DispatchArray) and x.ndim else None for x in operands
    ]
    count = len(next(row for row in rows if row is not None))
    return [
        combine(
            ufunc,
            [
                row[i] if row is not None else (x.dask() if isinstance(x, DispatchArray) else x)
                for x, row in zip(operands, rows, strict=True)
            ],
            kwargs,
        )
        for i in range(count)
    ]


def combine(ufunc: Any, parts: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Apply `ufunc` to pieces of one shape (or that broadcast) and scalars."""
    arrays = [p for p in parts if isinstance(p, DaskArray) and p.ndim]
    zeros = [p for p in parts if isinstance(p, Zeros)]
    if zeros and not kwargs:
        # dask's own would give a lazy number
        numpy_function = np.where if ufunc is da.where else ufunc
        short = _of_zeros(numpy_function, parts, zeros, arrays)
        if short is not None:
            return short
    if arrays:
        lead = max(arrays, key=lambda a: a.npartitions > 1)
        parts = [align(pc.realise(p, lead.chunks), lead) if _sized(p) else p for p in parts]
    else:
        parts = [pc.realise(p) if isinstance(p, Zeros) else p for p in parts]
    if kwargs:
        return _set(ufunc, parts, kwargs)
    if not isinstance(ufunc, np.ufunc) or ufunc.nout > 1 or not _is_plain(parts):
        return ufunc(*parts)
    return _blockwise(ufunc, parts)


def _set(ufunc: np.ufunc, parts: Sequence[Any], settings: dict[str, Any]) -> DaskArray:
    """Apply `ufunc` with settings of its loop, which dask takes for those of the result."""
    if ufunc.nout > 1:
        name = f"np.{ufunc.__name__} with {', '.join(settings)}"
        raise not_dispatched(name, "Convert what it is given, or what it returns.")
    dtype = _dtype(ufunc, parts, settings)
    if dtype.kind == "O":
        raise not_dispatched(f"np.{ufunc.__name__} of objects", "Use numbers.")
    found: DaskArray = da.core.elemwise(functools.partial(ufunc, **settings), *parts, dtype=dtype)
    return found


def _dtype(ufunc: np.ufunc, parts: Sequence[Any], settings: dict[str, Any]) -> np.dtype[Any]:
    """Return the dtype of a result, or raise what NumPy does."""
    with np.errstate(all="ignore"):
        ones = [np.ones((1,) * p.ndim, p.dtype) if isinstance(p, DaskArray) else p for p in parts]
        dtype: np.dtype[Any] = ufunc(*ones, **settings).dtype
    return dtype


def _known_dtype(ufunc: np.ufunc, parts: Sequence[Any]) -> np.dtype[Any]:
    """Return the dtype of a result; it depends on the values of Python's integers alone."""
    if any(type(p) is int for p in parts):
        return _dtype(ufunc, parts, {})
    kinds = tuple(p.dtype if isinstance(p, DaskArray) else type(p) for p in parts)
    key = ufunc, kinds
    if key not in _dtypes:
        if len(_dtypes) >= _DTYPES:
            _dtypes.clear()
        _dtypes[key] = _dtype(ufunc, parts, {})
    return _dtypes[key]


_dtypes: dict[Any, np.dtype[Any]] = {}
_DTYPES = 4096


def _is_plain(parts: Sequence[Any]) -> bool:
    """Whether parts are dask arrays cut alike, and scalars."""
    arrays = [p for p in parts if isinstance(p, DaskArray)]
    cut = {p.chunks for p in arrays if p.ndim}
    scalars = (p for p in parts if not isinstance(p, DaskArray))
    plain = bool(arrays) and len(cut) < 2 and all(map(_is_of_ndarrays, arrays))
    return plain and all(type(p) in _SCALARS for p in scalars)


def _is_of_ndarrays(piece: Any) -> bool:
    """Whether blocks are of NumPy's own kind: what masked arrays give, say, dask works out."""
    return isinstance(piece, DaskArray) and type(piece._meta) is np.ndarray


_SCALARS = {bool, int, float, complex, *(np.dtype(code).type for code in "?bhilqBHILQefdFD")}


def _blockwise(ufunc: np.ufunc, parts: Sequence[Any]) -> DaskArray:
    """Apply `ufunc` as dask would, in a tenth of the time that ``dask.array.elemwise`` takes.

    That looks for chunks to unify, for objects to be named by pickling, and for dtypes, several
    times each; a step of a solver on small blocks mostly waited for it.
    """
    arrays = [p for p in parts if isinstance(p, DaskArray)]
    lead = max(arrays, key=lambda array: array.ndim)
    places = tuple(None if not isinstance(p, DaskArray) else bool(p.ndim) for p in parts)
    given = [p.name if isinstance(p, DaskArray) else p for p in parts]
    named = [name_of_number(a) if isinstance(a, np.generic) else a for a in given]
    # others may share a name: numpy.frompyfunc, numba.vectorize
    own = getattr(np, ufunc.__name__, None) is ufunc
    which = ufunc.__name__ if own else tokenize(ufunc)
    digest = hashlib.blake2b(repr((which, named, places)).encode(), digest_size=16)
    name = f"{ufunc.__name__}-{digest.hexdigest()}"
    reads = tuple(array.name for array in arrays)
    make = functools.partial(_layer, name, ufunc, lead.numblocks, places, reads)
    numbers = tuple(p for p in parts if not isinstance(p, DaskArray))
    layer = layer_of(Form((ufunc, lead.numblocks, places), reads, numbers), make)
    meta = np.empty((0,) * lead.ndim, _known_dtype(ufunc, parts))
    return array_of(graph_on(name, layer, arrays), name, lead.chunks, meta)


def _layer(
    name: str,
    ufunc: np.ufunc,
    numblocks: tuple[int, ...],
    places: Sequence[bool | None],
    reads: Sequence[str],
    numbers: Sequence[Any],
) -> Blockwise:
    """Return the tasks of a ufunc; its operands are arrays of all axes or of none, or numbers."""
    index = tuple(range(len(numblocks)))
    left, right = iter(reads), iter(numbers)
    operands: list[Any] = []
    blocks: dict[str, tuple[int, ...]] = {}
    for place in places:
        if place is None:
            operands += [next(right), None]
        else:
            read = next(left)
            operands += [read, index if place else ()]
            blocks[read] = numblocks if place else ()
    return blockwise(ufunc, name, index, *operands, numblocks=blocks)


def _sized(part: Any) -> bool:
    return isinstance(part, (DaskArray, Zeros)) and bool(part.shape)


def align(array: DaskArray, lead: DaskArray) -> DaskArray:
    """Give `array` the chunks of `lead`, where the two have the same shape."""
    if array.shape == lead.shape and array.chunks != lead.chunks:
        return array.rechunk(lead.chunks)
    return array


def _of_zeros(ufunc: Any, parts: Sequence[Any], zeros: list[Zeros], arrays: list[DaskArray]) -> Any:
    """Work on zeros without making them, where the result is certain."""
    if not arrays:
        if any(isinstance(p, DaskArray) for p in parts):
            return None
        with np.errstate(all="ignore"):
            value = ufunc(*(p.dtype.type(0) if isinstance(p, Zeros) else p for p in parts))
        if isinstance(value, tuple):
            return None
        if value == 0:
            return Zeros(zeros[0].shape, np.asarray(value).dtype)
        return None
    if len(parts) != 2 or ufunc not in (np.add, np.subtract) or len(arrays) != 1:
        return None
    first, second = parts
    dtype = ufunc(*(np.zeros(1, p.dtype) for p in parts)).dtype
    if isinstance(second, Zeros) and isinstance(first, DaskArray):
        return first.astype(dtype)
    if isinstance(second, DaskArray):
        if ufunc is np.add:
            return second.astype(dtype)
        return _blockwise(ufunc, [dtype.type(0), second])  # of 0 it is 0, where -second is -0
    return None
