"""Shims for functions that change shape, join, and repeat."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from pylops_dispatch.array import DispatchArray, as_box, session
from pylops_dispatch.functions.elementwise import elementwise
from pylops_dispatch.functions.outputs import written
from pylops_dispatch.functions.registry import implements
from pylops_dispatch.pieces import Zeros
from pylops_dispatch.policy import not_dispatched


@implements(np.reshape)
def _reshape(a: Any, /, shape: Any = None, order: str = "C", *, copy: Any = None) -> Any:
    return a.reshape(shape, order=order)


@implements(np.ravel)
def _ravel(a: Any, order: str = "C") -> Any:
    return a.ravel(order=order)


@implements(np.shape)
def _shape(a: Any) -> Any:
    return a.shape


@implements(np.ndim)
def _ndim(a: Any) -> int:
    return int(a.ndim)


@implements(np.size)
def _size(a: Any, axis: Any = None) -> int:
    return int(a.size if axis is None else a.shape[axis])


@implements(np.iscomplexobj)
def _iscomplexobj(x: Any) -> bool:
    return bool(x.dtype.kind == "c")


@implements(np.isrealobj)
def _isrealobj(x: Any) -> bool:
    return bool(x.dtype.kind != "c")


@implements(np.copy)
def _copy(a: Any, order: str = "K", subok: bool = False) -> Any:
    return a.copy()


@implements(np.real)
def _real(val: Any) -> Any:
    return val.real


@implements(np.imag)
def _imag(val: Any) -> Any:
    return val.imag


@implements(np.angle)
def _angle(z: Any, deg: bool = False) -> Any:
    # dask.array.angle wants one array; the pieces of a vector are several
    return z.map(lambda p: da.angle(p, deg=deg))


@implements(np.where)
def _where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None or y is None:
        if session.get() is not None:  # a solver reads values anyway
            return tuple(np.argwhere(condition).T)
        raise not_dispatched("np.where", "The shape of its result depends on values.")
    return elementwise(da.where, (condition, x, y))


@implements(np.select)
def _select(condlist: Any, choicelist: Any, default: Any = 0) -> Any:
    result = default
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        result = np.where(condition, choice, result)
    return result


@implements(np.clip)
def _clip(
    a: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None,
    max: Any = None, **kwargs: Any,
) -> Any:  # fmt: skip
    low, high = (a_min if min is None else min), (a_max if max is None else max)
    low, high = (None if bound is np._NoValue else bound for bound in (low, high))
    a = as_box(a)
    if a.dtype.kind in "iu":  # a Python integer need not be one of the dtype, from NumPy 2.1 on
        limits, nothing = np.iinfo(a.dtype), np.empty(0, a.dtype)
        for pair in ((low, None), (None, high)):
            if any(type(bound) is int for bound in pair):
                np.clip(nothing, *pair)  # raises where this NumPy does
        low = None if type(low) is int and low <= limits.min else low
        high = None if type(high) is int and high >= limits.max else high
    result = a if low is None else np.maximum(a, low)
    result = result if high is None else np.minimum(result, high)
    return written(out, result.copy() if result is a else result, "np.clip")


@implements(np.concatenate)
def _concatenate(
    arrays: Any, /, axis: int | None = 0, out: Any = None, *, dtype: Any = None,
    casting: str = "same_kind",
) -> Any:  # fmt: skip
    model = next((a for a in arrays if isinstance(a, DispatchArray)), out)
    boxes = [as_box(a, model) for a in arrays]
    if out is not None and dtype is not None:
        raise TypeError("concatenate() takes either `out` or `dtype`, not both")
    wanted = np.result_type(*(b.dtype for b in boxes)) if dtype is None else np.dtype(dtype)
    target = wanted if out is None else out.dtype
    for box in boxes:
        if not np.can_cast(box.dtype, target, casting):  # type: ignore[arg-type]
            raise TypeError(
                f"Cannot cast array data from {box.dtype!r} to {target!r} "
                f"according to the rule '{casting}'"
            )
    boxes = [b.astype(wanted) for b in boxes]
    if axis is None or (axis in (0, -1) and all(b.ndim == 1 for b in boxes)):
        pieces = [p for b in boxes for p in b.pieces]
        result = DispatchArray(pieces, (sum(b.size for b in boxes),), wanted)
    else:
        result = DispatchArray(da.concatenate([b.dask() for b in boxes], axis=axis))
    return written(out, result, "np.concatenate", "unsafe")


@implements(np.diff)
def _diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """Take differences; what is put before and after may be lazy (``da.diff`` computes it)."""
    box: Any = as_box(a)
    if box.ndim == 0:
        raise ValueError("diff requires input that is at least one dimensional")
    axis = normalize_axis_index(axis, box.ndim)
    parts = [part for part in (prepend, box, append) if part is not None]
    if len(parts) > 1 and n > 0:
        edge = tuple(1 if i == axis else length for i, length in enumerate(box.shape))
        parts = [part if np.ndim(part) else np.broadcast_to(part, edge) for part in parts]
        box = np.concatenate(parts, axis=axis)
    if n < 0:
        raise ValueError(f"order must be non-negative but got {n}")
    minus = np.not_equal if box.dtype == bool else np.subtract
    after, before = ((slice(None),) * axis + (part,) for part in (slice(1, None), slice(-1)))
    for _ in range(n):
        box = minus(box[after], box[before])
    return box


@implements(np.hstack)
def _hstack(tup: Any, **kwargs: Any) -> Any:
    rows = [np.atleast_1d(a) for a in tup]
    return np.concatenate(rows, axis=0 if np.ndim(rows[0]) < 2 else 1, **kwargs)


@implements(np.vstack)
def _vstack(tup: Any, **kwargs: Any) -> Any:
    # rows that are vectors keep their pieces until they are stacked
    return np.concatenate([np.atleast_2d(a) for a in tup], axis=0, **kwargs)


@implements(np.atleast_1d)
def _atleast_1d(*arrays: Any) -> Any:
    found = [a.reshape(1) if a.ndim == 0 else a for a in (as_box(a) for a in arrays)]
    return found[0] if len(found) == 1 else tuple(found)


@implements(np.atleast_2d)
def _atleast_2d(*arrays: Any) -> Any:
    found = [a.reshape(1, -1) if a.ndim < 2 else a for a in (as_box(a) for a in arrays)]
    return found[0] if len(found) == 1 else tuple(found)


@implements(np.broadcast_to)
def _broadcast_to(array: Any, shape: Any, subok: bool = False) -> Any:
    wanted = tuple(shape) if np.iterable(shape) else (shape,)

    def read(box: DispatchArray) -> DispatchArray:
        piece = box.dask() if len(box.pieces) > 1 else box.pieces[0]
        if isinstance(piece, Zeros):
            return DispatchArray(Zeros(wanted, piece.dtype))
        return DispatchArray(da.broadcast_to(box.dask(), wanted))

    return read(array).reading(array, read)


@implements(np.unstack)
def _unstack(x: Any, /, *, axis: int = 0) -> Any:
    box: Any = as_box(x)
    if not box.ndim:
        raise ValueError("Input array must be at least 1-d.")
    return tuple(np.moveaxis(box, axis, 0))


@implements(np.tile)
def _tile(A: Any, reps: Any) -> Any:
    # Sum._rmatvec tiles an axis of length one: dask's tile makes a block of each copy
    counts = tuple(int(n) for n in np.atleast_1d(reps))
    if A.ndim < len(counts):
        A = A.reshape((1,) * (len(counts) - A.ndim) + A.shape)
    counts = (1,) * (A.ndim - len(counts)) + counts
    if not A.size:
        return DispatchArray(Zeros(tuple(np.multiply(A.shape, counts).tolist()), A.dtype))
    array = A.dask()
    for axis, count in enumerate(counts):
        if count == 1:
            continue
        if array.shape[axis] == 1:
            wanted = (*array.shape[:axis], count, *array.shape[axis + 1 :])
            fixed = tuple("auto" if a == axis else c for a, c in enumerate(array.chunks))
            chunks = da.core.normalize_chunks(fixed, wanted, dtype=array.dtype)
            array = da.broadcast_to(array, wanted, chunks=chunks)
        else:
            array = da.concatenate([array] * count, axis=axis)
    return DispatchArray(array.astype(A.dtype))  # dask joins blocks in native byte order


@implements(np.swapaxes)
def _swapaxes(a: Any, axis1: int, axis2: int) -> Any:
    return a.swapaxes(axis1, axis2)


@implements(np.transpose)
def _transpose(a: Any, axes: Any = None) -> Any:
    return a.transpose(axes)


@implements(np.expand_dims)
def _expand_dims(a: Any, axis: Any) -> Any:
    axes = axis if isinstance(axis, tuple) else (axis,)
    ndim = a.ndim + len(axes)
    places = {ax % ndim for ax in axes}
    rest = iter(a.shape)
    return a.reshape(tuple(1 if i in places else next(rest) for i in range(ndim)))


@implements(np.squeeze)
def _squeeze(a: Any, axis: Any = None) -> Any:
    return a.squeeze(axis)


@implements(np.roll)
def _roll(a: Any, shift: Any, axis: Any = None) -> Any:
    if isinstance(shift, DispatchArray):
        raise not_dispatched("np.roll by a lazy shift", "The shift must be a number.")
    if axis is None:
        return _roll(np.ravel(a), int(np.sum(shift)), 0).reshape(a.shape)
    # dask's roll cuts chunks in two; the layout of the input is put back
    array = a.dask()
    return DispatchArray(da.roll(array, shift, axis).rechunk(array.chunks).astype(array.dtype))
