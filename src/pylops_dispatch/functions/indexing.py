"""Reading and writing parts of boxes: slices, rows, masks, and positions along one axis."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from dask.highlevelgraph import Layer, MaterializedLayer

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray, as_box, is_dask, is_lazy
from pylops_dispatch.functions.outputs import written
from pylops_dispatch.functions.parts import Parts
from pylops_dispatch.functions.positions import not_negative, positions_of, scatter, take
from pylops_dispatch.functions.registry import implements
from pylops_dispatch.functions.selecting import Selection, put, select
from pylops_dispatch.layers import Form, graph_on
from pylops_dispatch.memory_layout import strides_of
from pylops_dispatch.pieces import Piece, Shape, Zeros, array_of
from pylops_dispatch.placing import coefficient
from pylops_dispatch.policy import not_dispatched
from pylops_dispatch.remembering import checksum, remembered
from pylops_dispatch.repeating import layer_of

Index = tuple[Any, ...]


def _unwrap(index: Any) -> Any:
    while isinstance(index, tuple) and len(index) == 1:
        index = index[0]
    return index


def _range(index: slice, n: int) -> tuple[int, int] | None:
    """Return start and stop of a slice of step one, else None."""
    start, stop, step = index.indices(n)
    return (start, max(start, stop)) if step == 1 else None


def _is_int(index: Any) -> bool:
    return isinstance(index, (int, np.integer)) and not isinstance(index, (bool, np.bool_))


def _is_mask(index: Any) -> bool:
    return isinstance(index, (DispatchArray, DaskArray, np.ndarray)) and index.dtype == bool


def _is_lazy_mask(index: Any) -> bool:
    return isinstance(index, (DispatchArray, DaskArray)) and index.dtype == bool


def _is_lazy_positions(index: Any) -> bool:
    return isinstance(index, DaskArray) and index.ndim == 1 and index.dtype.kind in "iu"


def _to_index(index: Any) -> Any:
    """Return an index in terms of dask and NumPy arrays."""
    if isinstance(index, tuple):
        return tuple(_to_index(i) for i in index)
    if isinstance(index, DispatchArray):
        return index.dask() if index.value is None else index.value
    if isinstance(index, slice):  # each bound is read once: what follows asks for it again
        return slice(*map(_bound, (index.start, index.stop, index.step)))
    return np.asarray(index) if isinstance(index, (list, range)) else index


def _bound(value: Any) -> Any:
    return operator.index(as_box(value)) if is_lazy(value) else value


# ---- reading -----------------------------------------------------------------------------


def getitem(box: DispatchArray, index: Any) -> Any:
    """Return a part of a box; ranges of a vector keep the layout of its pieces.

    Slices and integers give a view, as in NumPy.
    """
    if _is_lazy_mask(index) and index.shape == box.shape and box.ndim:
        return select(box, as_box(index))
    index = _positions(_to_index(_unwrap(index)), box.shape)
    part = _taken(box, index)
    if not isinstance(part, DispatchArray) or not part.ndim or not _is_basic(index):
        return part
    return part.viewing(
        box,
        lambda owner: _taken(owner, index),
        lambda owner, value: _put_at(owner, index, value),
        strides_of(box.memory()[index]),
    )


def _is_basic(index: Any) -> bool:
    entries = index if isinstance(index, tuple) else (index,)
    return all(isinstance(i, slice) or i is None or i is Ellipsis or _is_int(i) for i in entries)


def _positions(index: Any, shape: Shape) -> Any:
    """Replace NumPy masks along one axis by positions; other masks are looked at as well.

    Raises
    ------
    IndexError
        If a mask does not have the lengths of the axes that it stands for.
    NotDispatchedError
        If a single truth value is among the indices.
    """
    entries = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(i, (bool, np.bool_)) for i in entries):
        raise not_dispatched("indexing with a single truth value", "Use None, or a slice.")
    takes = [0 if i is None else np.ndim(i) if _is_mask(i) else 1 for i in entries]
    axis = 0
    for number, (entry, count) in enumerate(zip(entries, takes, strict=True)):
        if entry is Ellipsis:
            axis = len(shape) - sum(takes[number + 1 :])
            continue
        if _is_mask(entry) and entry.shape != shape[axis : axis + count]:
            raise IndexError(
                f"boolean index of shape {entry.shape} does not match axes {axis} to "
                f"{axis + count - 1} of an array of shape {shape}"
            )
        if isinstance(entry, np.ndarray) and _is_mask(entry) and count == 1:
            entries[number] = positions_of(entry)
        axis += count
    return tuple(entries) if isinstance(index, tuple) else entries[0]


def _flat_positions(index: Any, shape: Shape) -> np.ndarray[Any, Any] | None:
    """Return positions in the flattened array for an index that picks single elements."""
    if isinstance(index, np.ndarray) and index.dtype == bool and index.shape == shape:
        return positions_of(index)
    if (
        isinstance(index, tuple)
        and len(index) == len(shape) > 1
        and all(isinstance(i, np.ndarray) or _is_int(i) for i in index)
        and any(isinstance(i, np.ndarray) for i in index)
    ):
        arrays = [not_negative(np.asarray(i), n) for i, n in zip(index, shape, strict=True)]
        together = _broadcast_positions(arrays)
        try:
            return np.ravel_multi_index(together, shape)
        except ValueError as error:
            raise IndexError(str(error)) from error
    return None


def _broadcast_positions(arrays: Sequence[np.ndarray[Any, Any]]) -> tuple[Any, ...]:
    """Return positions along several axes in one shape; as an index NumPy raises IndexError."""
    try:
        return tuple(np.broadcast_arrays(*arrays))
    except ValueError:
        shapes = " ".join(str(array.shape) for array in arrays)
        raise IndexError(
            f"indexing arrays could not be broadcast together with shapes {shapes}"
        ) from None


def _taken(box: DispatchArray, index: Any) -> Any:
    if index is Ellipsis:
        return box.copy()
    part = _part(box, index) if box.parts is not None else None
    if part is not None:
        return part
    if box.ndim == 1:
        if isinstance(index, slice):
            found = _range(index, box.size)
            if found is not None:
                return _vector(pc.take_range(box.pieces, *found), found[1] - found[0], box)
        if _is_int(index):
            return _element(box, operator.index(index))
    flat = _flat_positions(index, box.shape)
    if flat is not None:
        return DispatchArray(take(box.ravel().dask(), flat, 0))
    index = _without_known_masks(index)
    if _is_mask(index):
        raise not_dispatched(
            "indexing with a mask", "The shape of the result depends on values; use np.where."
        )
    if all(isinstance(piece, Zeros) for piece in box.pieces):
        shape = np.broadcast_to(np.empty(()), box.shape)[index].shape
        return DispatchArray(Zeros(shape, box.dtype)) if shape else box.dtype.type(0)
    full = _in_range(_expand(index, box.ndim), box.shape)
    arrays = sum(isinstance(i, np.ndarray) for i in full)
    if arrays and not any(map(is_dask, full)):
        gather = _gather if arrays == 1 else _gather_together
        return DispatchArray(gather(box.dask(), full, _comes_first(index)))
    try:
        return DispatchArray(box.dask()[full])
    except NotImplementedError as error:
        raise not_dispatched("indexing with lazy positions", str(error)) from error


def _without_known_masks(index: Any) -> Any:
    """Replace each NumPy mask of several axes by the positions along each of them."""
    entries: list[Any] = []
    for entry in index if isinstance(index, tuple) else (index,):
        known = isinstance(entry, np.ndarray) and entry.dtype == bool
        entries += np.nonzero(entry) if known else [entry]
    return _unwrap(tuple(entries))


def _vector(pieces: list[Piece], size: int, box: DispatchArray) -> DispatchArray:
    return DispatchArray(pieces or [Zeros((0,), box.dtype)], (size,), box.dtype)


def _element(box: DispatchArray, index: int) -> Any:
    n = box.size
    if not -n <= index < n:
        raise IndexError(f"index {index} is out of bounds for axis 0 with size {n}")
    index %= n
    for piece in box.pieces:
        if index < pc.size(piece):
            if isinstance(piece, Zeros):
                return box.dtype.type(0)
            return DispatchArray(_element_of_block(piece, index))
        index -= pc.size(piece)
    raise AssertionError("the pieces of a vector add up to its size")


def _element_of_block(piece: DaskArray, index: int) -> DaskArray:
    """Return the 0-d array of one element, by its place in the flattening of an array."""
    block, within = [], []
    for place, sizes in zip(np.unravel_index(index, piece.shape), piece.chunks, strict=True):
        ends = np.cumsum(sizes)
        number = int(np.searchsorted(ends, place, side="right"))
        block.append(number)
        within.append(int(place - ends[number] + sizes[number]))
    name = f"getitem-{tokenize(piece.name, index)}"
    read = (piece.name, *block)

    def make(places: Sequence[Any]) -> Layer:
        return MaterializedLayer({(name,): Task((name,), _item, TaskRef(read), *places)})

    layer = layer_of(Form((_item, *block), (piece.name,), tuple(within)), make)
    return array_of(graph_on(name, layer, [piece]), name, (), np.empty((), piece.dtype))


def _item(block: Any, *index: int) -> Any:
    return block[index]


def _expand(index: Any, ndim: int) -> Index:
    """Return an index with one entry for each axis (and any None)."""
    entries = index if isinstance(index, tuple) else (index,)
    given = sum(i is not None and i is not Ellipsis for i in entries)
    if given > ndim:
        raise IndexError(
            f"too many indices for array: array is {ndim}-dimensional, but {given} were indexed"
        )
    rest = (slice(None),) * (ndim - given)
    for place, entry in enumerate(entries):
        if entry is Ellipsis:
            return (*entries[:place], *rest, *entries[place + 1 :])
    return (*entries, *rest)


def _in_range(index: Index, shape: Shape) -> Index:
    """Return slices that begin and end within their axis; dask's do not all do as NumPy's."""
    lengths = iter(shape)
    sized = [(i, 1 if i is None else next(lengths)) for i in index]
    return tuple(_within_axis(i, n) if isinstance(i, slice) else i for i, n in sized)


def _within_axis(index: slice, n: int) -> slice:
    start, stop, step = index.indices(n)
    if len(range(start, stop, step)) == 0:
        return slice(0, 0)
    return slice(start, None if stop < 0 else stop, step)


def _gather(array: DaskArray, index: Index, first: bool) -> DaskArray:
    """Take positions along one axis, and slices or integers along the others.

    `first` puts the axes of the positions before all others.
    """
    entries = tuple(i for i in index if i is not None)
    axis = next(a for a, i in enumerate(entries) if isinstance(i, np.ndarray))
    positions = entries[axis]
    others = tuple(slice(None) if a == axis else i for a, i in enumerate(entries))
    axis -= sum(_is_int(i) for i in entries[:axis])
    taken = take(array[others], positions, axis)
    if first:
        taken = da.moveaxis(taken, range(axis, axis + positions.ndim), range(positions.ndim))
    new = tuple(None if index[place] is None else slice(None) for place in _order(index, first))
    return taken[new] if None in new else taken


def _gather_together(array: DaskArray, index: Index, first: bool) -> DaskArray:
    """Take elements at positions along several axes, and slices along the others.

    `first` puts the axes of the positions before all others.
    """
    entries = [i for i in index if i is not None]
    axes = [axis for axis, i in enumerate(entries) if not isinstance(i, slice)]
    given = [not_negative(np.asarray(entries[a]), array.shape[a]) for a in axes]
    points = dict(zip(axes, _broadcast_positions(given), strict=True))
    ndim = points[axes[0]].ndim
    others = array[tuple(i if isinstance(i, slice) else slice(None) for i in entries)]
    taken = others.vindex[tuple(points.get(axis, slice(None)) for axis in range(len(entries)))]
    if not first:
        taken = da.moveaxis(taken, range(ndim), range(axes[0], axes[0] + ndim))
    kept: list[Any] = [None if i is None else slice(None) for i in index if _is_axis(i)]
    place = 0 if first else next(p for p, i in enumerate(index) if not _is_axis(i))
    return taken[(*kept[:place], *(slice(None),) * ndim, *kept[place:])]


def _is_axis(entry: Any) -> bool:
    return entry is None or isinstance(entry, slice)


def _comes_first(index: Any) -> bool:
    """Whether the axes of an array in an index are the first of the result.

    NumPy counts integers as arrays as well, and puts what they give first where anything else
    lies between them, be it an ellipsis for no axis.
    """
    entries = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(i, np.ndarray) for i in entries):
        return False
    places = [place for place, i in enumerate(entries) if _is_int(i) or isinstance(i, np.ndarray)]
    return places[-1] - places[0] >= len(places)


def _order(index: Index, first: bool) -> list[int]:
    """Return for each axis of a result the place in `index` that it comes from."""
    ndims = [0 if _is_int(i) else i.ndim if isinstance(i, np.ndarray) else 1 for i in index]
    places = [place for place, ndim in enumerate(ndims) for _ in range(ndim)]
    if not first:
        return places
    return sorted(places, key=lambda place: not isinstance(index[place], np.ndarray))


@implements(np.take)
def _take(
    a: Any, indices: Any, axis: int | None = None, out: Any = None, mode: str = "raise"
) -> Any:
    if axis is None:
        a, axis = np.ravel(a), 0
    box = as_box(a)
    lazy = isinstance(indices, DispatchArray)
    positions = _within(indices if lazy else np.asarray(indices), box.shape[axis], mode)
    if lazy and indices.ndim:
        axis = range(box.ndim)[axis]
        taken = da.take(box.dask(), positions.reshape(-1).dask(), axis=axis)
        shape = (*box.shape[:axis], *indices.shape, *box.shape[axis + 1 :])
        result = DispatchArray(taken).reshape(shape)
    else:
        where: list[Any] = [slice(None)] * box.ndim
        where[axis] = positions
        result = getitem(box, tuple(where))
    return written(out, result, "np.take", "unsafe")


def _within(positions: Any, n: int, mode: str) -> Any:
    """Return positions as ``np.take`` wants them; one alone as an integer, if it is not lazy."""
    if mode == "wrap":
        positions = positions % n
    elif mode == "clip":
        positions = np.clip(positions, 0, n - 1)
    return positions if positions.ndim or is_lazy(positions) else operator.index(positions)


# ---- writing -----------------------------------------------------------------------------


def setitem(box: DispatchArray, index: Any, value: Any) -> None:
    """Write into a box by rebinding its pieces; the layout stays."""
    if isinstance(value, Selection):
        if not _is_lazy_mask(index):
            raise not_dispatched("writing selected elements", "Write through the same mask.")
        put(box, as_box(index), value)
        return
    if type(value) is complex and box.dtype.kind != "c":
        raise TypeError(f"a complex number is written into an array of dtype {box.dtype}")
    index = _to_index(_unwrap(index))
    only = index[0] if isinstance(index, tuple) and len(index) == 1 else index
    if _is_mask(only) and only.ndim == box.ndim and np.ndim(value) > 1:  # as NumPy, for any shapes
        raise TypeError(
            f"values of {np.ndim(value)} dimensions are written through a mask of all axes, which "
            "takes a number or a vector"
        )
    _put_at(box, _positions(index, box.shape), value)


def _put_at(box: DispatchArray, index: Any, value: Any) -> None:
    if index is Ellipsis or (isinstance(index, slice) and _range(index, len(box)) == (0, len(box))):
        _assign(box, value)
        return
    flat = _flat_positions(index, box.shape)
    if flat is not None:
        vector = box.flatten()
        source = value if np.ndim(value) == 0 else _broadcast(value, flat.shape).ravel()
        _put_at(vector, flat.ravel(), source)
        box.assign(vector.reshape(box.shape))
        return
    if _is_mask(index):
        if np.ndim(value):
            raise not_dispatched("writing an array through a mask", "Use np.where.")
        mask = as_box(index, box)
        mask = mask.reshape(mask.shape + (1,) * (box.ndim - mask.ndim))
        _assign(box, np.where(mask, value, box))
        return
    if box.ndim == 1 and _is_int(index):
        start = int(not_negative(np.asarray(operator.index(index)), box.size))
        index = slice(start, start + 1)
    found = _range(index, box.size) if box.ndim == 1 and isinstance(index, slice) else None
    if found is not None:
        _write_range(box, *found, value)
        return
    if _write_part(box, index, value):
        return
    where = _in_range(_expand(index, box.ndim), box.shape)
    lazy = [axis for axis, i in enumerate(where) if _is_lazy_positions(i)]
    others = (axis for axis in range(box.ndim) if axis not in lazy)
    if (
        len(lazy) == 1
        and len(where) == box.ndim
        and all(_is_whole(where[axis], box.shape[axis]) for axis in others)
    ):
        _put_at_lazy(box, where[lazy[0]], lazy[0], value)
        return
    first = _comes_first(index)
    if any(i is None for i in where) and sum(isinstance(i, np.ndarray) for i in where) < 2:
        value = _broadcast(value, np.broadcast_to(np.empty((), bool), box.shape)[index].shape)
        axes = zip(value.shape, _order(where, first), strict=True)
        value = value.reshape(tuple(n for n, place in axes if where[place] is not None))
        where = tuple(i for i in where if i is not None)
    piece = box.as_shape(box.shape)
    box.rebind([write(piece, where, value, box.dtype, first)])


def _span_of(index: Any, shape: Shape) -> tuple[int, int, int] | None:
    """Return axis, start and stop of a part that is whole along all other axes, else None."""
    if not _is_basic(index) or index is None or (isinstance(index, tuple) and None in index):
        return None
    where = _expand(index, len(shape))
    cut = [a for a, (i, n) in enumerate(zip(where, shape, strict=True)) if not _is_whole(i, n)]
    if len(cut) != 1:
        return None
    (axis,) = cut
    entry, n = where[axis], shape[axis]
    if _is_int(entry):
        start = int(entry) % n if -n <= entry < n else n
        return (axis, start, start + 1) if start < n else None
    found = _range(entry, n)
    return None if found is None or found[0] >= found[1] else (axis, *found)


def _part(box: DispatchArray, index: Any) -> DispatchArray | None:
    """Return a part of what was written in parts, without putting them together."""
    parts, span = box.parts, _span_of(index, box.shape)
    if parts is None or span is None or span[0] != parts.axis:
        return None
    found: DispatchArray = parts.read(*span[1:])
    return found.reshape(_shape_of(index, box.shape)).copy()


def _shape_of(index: Any, shape: Shape) -> Shape:
    return np.broadcast_to(np.empty((), bool), shape)[index].shape


def _write_part(box: DispatchArray, index: Any, value: Any) -> bool:
    """Write a part of an array along one axis; whether it is one."""
    span = _span_of(index, box.shape) if box.ndim > 1 and box.is_its_own else None
    if span is None:
        return False
    axis, start, stop = span
    parts = box.parts
    if parts is None or parts.axis != axis:
        parts = Parts(box.as_shape(box.shape), axis)
    source = _broadcast(value, _shape_of(index, box.shape))
    whole = source.reshape((*box.shape[:axis], stop - start, *box.shape[axis + 1 :])).copy()
    parts.write(start, stop, whole if whole.dtype == box.dtype else whole.astype(box.dtype))
    box.hold_parts(parts)
    return True


def _put_at_lazy(box: DispatchArray, positions: DaskArray, axis: int, value: Any) -> None:
    """Write at positions along one axis that are not known yet: each block picks its own."""
    array = pc.realise(box.as_shape(box.shape))
    part = (*box.shape[:axis], positions.shape[0], *box.shape[axis + 1 :])
    index, contracted = tuple(range(box.ndim)), box.ndim
    values: list[Any] = [value, None]
    if np.ndim(value):
        source = as_box(np.broadcast_to(as_box(value), part)).dask()
        follow = {a: -1 if a == axis else c for a, c in enumerate(array.chunks)}
        values = [source.rechunk(follow), (*index[:axis], contracted, *index[axis + 1 :])]
    elif isinstance(value, DispatchArray):
        values = [value.dask(), ()] if value.value is None else [value.value, None]
    edges = np.cumsum([0, *array.chunks[axis][:-1]])
    written = da.blockwise(
        _put_block,
        index,
        array,
        index,
        da.from_array(edges, chunks=1),
        (axis,),
        positions.rechunk(-1),
        (contracted,),
        *values,
        axis=axis,
        n=box.shape[axis],
        concatenate=True,
        align_arrays=False,
        dtype=box.dtype,
        meta=array._meta,
    )
    box.rebind([written])


def _put_block(block: Any, first: Any, positions: Any, values: Any, *, axis: int, n: int) -> Any:
    if np.any((positions < -n) | (positions >= n)):
        raise IndexError(f"positions out of bounds for axis {axis} with size {n}")
    target = np.where(positions < 0, positions + n, positions) - first[0]
    inside = (target >= 0) & (target < block.shape[axis])
    before = (slice(None),) * axis
    out = block.copy()
    out[(*before, target[inside])] = values[(*before, inside)] if np.ndim(values) else values
    return out


def _assign(box: DispatchArray, value: Any) -> None:
    source = as_box(value, box)
    box.assign(source if source.shape == box.shape else _broadcast(source, box.shape))


def _broadcast(value: Any, shape: Shape) -> DispatchArray:
    """Return `value` in the shape of what it is written to; axes of one in front may go."""
    source = as_box(value)
    extra = source.ndim - len(shape)
    if extra > 0 and all(n == 1 for n in source.shape[:extra]):
        source = source.reshape(source.shape[extra:])
    if source.shape == shape:
        return source
    if np.broadcast_shapes(source.shape, shape) != shape:
        raise ValueError(f"cannot write an array of shape {source.shape} into one of {shape}")
    return as_box(np.broadcast_to(source, shape))


def _write_range(box: DispatchArray, start: int, stop: int, value: Any) -> None:
    source = _broadcast(value, (stop - start,))
    if source.dtype != box.dtype:
        source = source.astype(box.dtype)
    before = pc.take_range(box.pieces, 0, start)
    after = pc.take_range(box.pieces, stop, box.size)
    written = [*before, *source.pieces, *after] if stop > start else list(box.pieces)
    real = [p for p in box.pieces if not isinstance(p, Zeros)]
    if len(written) > len(box.pieces) and len(real) == len(box.pieces) == 1:
        # a write into the middle of an array with a layout of its own keeps that layout
        whole = pc.realise(pc.assemble(written, real[0].shape))
        written = [whole.rechunk(real[0].chunks)]
    box.rebind(written)


def write(
    piece: Piece, index: Index, value: Any, dtype: np.dtype[Any], first: bool = False
) -> DaskArray:
    """Return `piece` with `value` written at `index`.

    Parameters
    ----------
    piece : dask array or Zeros
        Of any shape.
    index : tuple
        One entry for each axis: slices, integers, and at most one array of positions.
    value : array-like
        Broadcasts to the part that is written.
    dtype : dtype
        Of the result.
    first : bool, optional
        Whether the axes of the positions are the first of the values.

    Raises
    ------
    NotDispatchedError
        If the index has several arrays.
    """
    if any(i is None for i in index) or len(index) != len(piece.shape):
        raise not_dispatched("writing with new axes and several arrays", "Reshape the values.")
    arrays = [axis for axis, i in enumerate(index) if not isinstance(i, slice) and not _is_int(i)]
    if len(arrays) > 1 or (arrays and not isinstance(index[arrays[0]], np.ndarray)):
        raise not_dispatched(
            "writing with several arrays of positions, or a lazy one",
            "Write along one axis at a time, with positions as a NumPy array.",
        )
    lengths = [_lengths(i, n) for i, n in zip(index, piece.shape, strict=True)]
    if first:
        (array,) = arrays
        place, ndim = sum(map(len, lengths[:array])), len(lengths[array])
        others = [n for axis, part in enumerate(lengths) if axis != array for n in part]
        moved: Any = _broadcast(value, (*lengths[array], *others))
        source = np.moveaxis(moved, range(ndim), range(place, place + ndim))
    else:
        source = _broadcast(value, tuple(n for part in lengths for n in part))
    # integers drop an axis: give it back, so that values and target have the same axes
    source = source.reshape(tuple(math.prod(part) for part in lengths))
    if source.dtype != dtype:
        source = source.astype(dtype)
    spans = tuple(_span(i, n) for i, n in zip(index, piece.shape, strict=True))
    return _write_axes(piece, spans, source.as_shape(source.shape), 0)


def _lengths(index: Any, n: int) -> Shape:
    """Return the lengths of the axes that an index gives for an axis of length `n`."""
    if isinstance(index, slice):
        return (len(range(*index.indices(n))),)
    return () if _is_int(index) else index.shape


def _span(index: Any, n: int) -> Any:
    """Return what is written along an axis: a slice, or positions in one row."""
    if _is_int(index):
        start = int(not_negative(np.asarray(operator.index(index)), n))
        return slice(start, start + 1)
    return index if isinstance(index, slice) else not_negative(index.reshape(-1), n)


def _write_axes(piece: Piece, index: Index, value: Piece, axis: int) -> DaskArray:
    while axis < len(index) and isinstance(index[axis], slice):
        if _range(index[axis], piece.shape[axis]) != (0, piece.shape[axis]):
            break
        axis += 1
    if axis == len(index):
        array = pc.realise(value, piece.chunks if isinstance(piece, DaskArray) else None)
        return array.rechunk(piece.chunks) if isinstance(piece, DaskArray) else array
    n = piece.shape[axis]
    everything = (slice(None),) * axis
    if isinstance(index[axis], np.ndarray) or index[axis].indices(n)[2] != 1:
        entry = index[axis]
        positions = entry if isinstance(entry, np.ndarray) else np.arange(n)[entry]
        inner = _at(piece, (*everything, positions))
        written = _write_axes(inner, index, value, axis + 1)
        return _put(piece, positions, written, axis)
    start, stop = index[axis].indices(n)[:2]
    inner = _at(piece, (*everything, slice(start, stop)))
    written = _write_axes(inner, index, value, axis + 1)
    parts = [
        pc.realise(p, (*written.chunks[:axis], (p.shape[axis],), *written.chunks[axis + 1 :]))
        for p in (
            _at(piece, (*everything, slice(0, start))),
            written,
            _at(piece, (*everything, slice(stop, n))),
        )
        if p.shape[axis]
    ]
    joined = da.concatenate(parts, axis=axis) if len(parts) > 1 else parts[0]
    return joined.rechunk(piece.chunks) if isinstance(piece, DaskArray) else joined


def _at(piece: Piece, index: Index) -> Piece:
    if isinstance(piece, Zeros):
        return Zeros(np.broadcast_to(np.empty(()), piece.shape)[index].shape, piece.dtype)
    axis = next((a for a, i in enumerate(index) if isinstance(i, np.ndarray)), None)
    return piece[index] if axis is None else take(piece, index[axis], axis)


def _put(piece: Piece, positions: np.ndarray[Any, Any], value: DaskArray, axis: int) -> DaskArray:
    n = piece.shape[axis]
    target = piece.chunks[axis] if isinstance(piece, DaskArray) else None
    placed = scatter(value, positions, axis, n, accumulate=False, chunks=target)
    if isinstance(piece, Zeros):
        return placed
    held = remembered(positions, ("mask", n), checksum(positions), lambda: _mask_of(positions, n))
    mask = held.reshape((n,) + (1,) * (len(piece.shape) - axis - 1))
    written = coefficient(mask, pc.chunks_like(mask.shape, piece), held)
    return da.where(written, placed, piece).rechunk(piece.chunks)


def _mask_of(positions: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
    mask = np.zeros(n, dtype=bool)
    mask[positions] = True
    return mask


def add_at(ufunc: np.ufunc, target: Any, index: Any, values: Any = None) -> None:
    """Run ``np.add.at`` on a box, along one axis."""
    if ufunc is not np.add or not isinstance(target, DispatchArray):
        raise not_dispatched(f"np.{ufunc.__name__}.at", "Only np.add.at on a lazy array is.")
    where = _expand(_to_index(index), target.ndim)
    axes = [axis for axis, i in enumerate(where) if isinstance(i, np.ndarray)]
    whole = [_is_whole(i, target.shape[axis]) for axis, i in enumerate(where) if axis not in axes]
    if len(axes) != 1 or not all(whole) or where[axes[0]].ndim != 1 or _is_mask(where[axes[0]]):
        raise not_dispatched("np.add.at", "Only positions along one axis are lazy.")
    axis = axes[0]
    n = target.shape[axis]
    positions = not_negative(where[axis], n)
    part = (*target.shape[:axis], positions.size, *target.shape[axis + 1 :])
    source = _broadcast(values, part)
    piece = target.as_shape(target.shape)
    chunks = piece.chunks[axis] if isinstance(piece, DaskArray) else None
    # values of small integers that come to one position would overflow before they are added
    exact = source.astype(np.result_type(target.dtype, source.dtype)).dask()
    added = scatter(exact, positions, axis, n, accumulate=True, chunks=chunks)
    target.assign(np.add(target, DispatchArray(added)))


@implements(np.bincount)
def _bincount(x: Any, /, weights: Any = None, minlength: int = 0) -> DispatchArray:
    if isinstance(x, DispatchArray):
        if not minlength:
            raise not_dispatched("np.bincount of lazy numbers", "Give it minlength.")
        lazy = None if weights is None else as_box(weights, x).dask().rechunk(x.dask().chunks)
        return DispatchArray(da.bincount(x.dask(), weights=lazy, minlength=minlength))
    positions, values = np.asarray(x), as_box(weights).dask()
    if positions.min(initial=0) < 0:
        raise ValueError("np.bincount: positions must not be negative")
    if values.shape != positions.shape:
        raise ValueError(
            f"np.bincount: {values.shape} weights of {positions.shape} positions: there must be "
            "one for each"
        )
    if not np.can_cast(values.dtype, float):
        raise TypeError(f"np.bincount: weights are real numbers, not of {values.dtype}")
    n = max(int(positions.max(initial=-1)) + 1, minlength)
    return DispatchArray(scatter(values.astype(float), positions, 0, n, accumulate=True))


def _is_whole(index: Any, n: int) -> bool:
    return isinstance(index, slice) and _range(index, n) == (0, n)
