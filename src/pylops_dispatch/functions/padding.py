"""np.pad, axis by axis as NumPy does it: dask has some modes only, and some of them for less."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import Array as DaskArray

from pylops_dispatch.array import DispatchArray, as_box
from pylops_dispatch.functions.registry import implements
from pylops_dispatch.pieces import Zeros
from pylops_dispatch.policy import not_dispatched
from pylops_dispatch.whole_axes import whole_along

Pairs = list[tuple[Any, Any]]

_KEYWORDS = {
    "empty": None, "edge": None, "wrap": None, "constant": "constant_values",
    "linear_ramp": "end_values", "maximum": "stat_length", "mean": "stat_length",
    "median": "stat_length", "minimum": "stat_length", "reflect": "reflect_type",
    "symmetric": "reflect_type",
}  # fmt: skip


@implements(np.pad)
def _pad(array: Any, pad_width: Any, mode: Any = "constant", **kwargs: Any) -> Any:
    box = as_box(array)
    widths = _widths(pad_width, box.ndim)
    if callable(mode):
        raise not_dispatched("np.pad by a function", "It would see single blocks.")
    if mode not in _KEYWORDS:
        raise ValueError(f"mode '{mode}' is not supported")
    if set(kwargs) - {_KEYWORDS[mode]}:
        raise ValueError(f"unsupported keyword arguments for mode '{mode}': {set(kwargs)}")
    if not any(width for pair in widths for width in pair):
        return box.copy()
    if not box.size and (mode != "constant" or not np.any(kwargs.get("constant_values", 0))):
        return _of_nothing(box, widths, mode)
    padded = _padded(box.dask(), widths, mode, kwargs)
    return DispatchArray(padded.astype(box.dtype))  # joined blocks are in native byte order


def _widths(pad_width: Any, ndim: int) -> Pairs:
    if isinstance(pad_width, dict):
        pairs = np.zeros((ndim, 2), int)
        for axis, width in pad_width.items():
            pairs[axis] = width
        pad_width = pairs
    if np.asarray(pad_width).dtype.kind != "i":
        raise TypeError("`pad_width` must be of integral type.")
    widths = _pairs(pad_width, ndim)
    if any(width < 0 for pair in widths for width in pair):
        raise ValueError("index can't contain negative values")
    return [(int(before), int(after)) for before, after in widths]


def _pairs(value: Any, ndim: int) -> Pairs:
    """Return a pair for each axis, of what may be one number, one pair, or a pair for each."""
    given = np.asarray(value)
    if given.ndim < 3 and given.size == 2 and given.shape != (2, 1):
        given = given.reshape(2)  # also a column or a row in one more dimension
    return [(before, after) for before, after in np.broadcast_to(given, (ndim, 2))]


def _of_nothing(box: DispatchArray, widths: Pairs, mode: str) -> DispatchArray:
    for axis, pair in enumerate(widths):
        if mode not in ("constant", "empty") and not box.shape[axis] and any(pair):
            raise ValueError(
                f"can't extend empty axis {axis} using modes other than 'constant' or 'empty'"
            )
    shape = tuple(n + sum(pair) for n, pair in zip(box.shape, widths, strict=True))
    return DispatchArray(Zeros(shape, box.dtype))


def _padded(array: DaskArray, widths: Pairs, mode: str, kwargs: dict[str, Any]) -> DaskArray:
    if mode == "constant":
        given = _pairs(kwargs.get("constant_values", 0), array.ndim)
        values = [tuple(_written_as(value, array.dtype) for value in pair) for pair in given]
        return da.pad(array, widths, mode, constant_values=values)
    if mode in ("edge", "empty"):
        return da.pad(array, widths, mode)
    for axis, pair in enumerate(widths):
        array = _AXIS[mode](array, axis, pair, kwargs)
    return array


def _written_as(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return a number as it is once written into an array, which raises for some."""
    array = np.empty((), dtype)
    array[()] = value
    return int(array) if dtype.kind == "b" else array[()]  # dask takes no booleans


def _part(array: DaskArray, axis: int, start: int, stop: int, *, back: bool = False) -> DaskArray:
    part = array[(*(slice(None),) * axis, slice(start, stop))]
    return da.flip(part, axis) if back else part


def _joined(array: DaskArray, axis: int, before: DaskArray, after: DaskArray) -> DaskArray:
    parts = [part for part in (before, array, after) if part.shape[axis]]
    return da.concatenate([part.astype(array.dtype) for part in parts], axis=axis)


# ------------------------------------------------------------ ramps, and statistics


def _linear_ramp(array: DaskArray, axis: int, pair: Any, kwargs: dict[str, Any]) -> DaskArray:
    ends = _pairs(kwargs.get("end_values", 0), array.ndim)[axis]
    n = array.shape[axis]
    before = _ramp(_part(array, axis, 0, 1), axis, ends[0], pair[0])
    after = _ramp(_part(array, axis, n - 1, n), axis, ends[1], pair[1])
    return _joined(array, axis, before, da.flip(after, axis))


def _ramp(edge: DaskArray, axis: int, end: Any, width: int) -> DaskArray:
    if edge.dtype.kind not in "fc":
        edge = edge.rechunk(-1)  # np.linspace rounds by what is next to a number
    chunks = (*edge.chunks[:axis], (width,), *edge.chunks[axis + 1 :])
    ramp = functools.partial(_ramp_block, axis=axis, end=end, width=width)
    return da.map_blocks(ramp, edge, chunks=chunks, dtype=edge.dtype, meta=edge._meta)


def _ramp_block(edge: Any, *, axis: int, end: Any, width: int) -> Any:
    return np.linspace(end, edge.squeeze(axis), width, endpoint=False, dtype=edge.dtype, axis=axis)


def _statistic(
    function: Callable[..., DaskArray],
    array: DaskArray,
    axis: int,
    pair: Any,
    kwargs: dict[str, Any],
) -> DaskArray:
    n = array.shape[axis]
    lengths = kwargs.get("stat_length")
    given = (n, n) if lengths is None else _lengths(lengths, array.ndim)[axis]
    first, last = (min(n, length) for length in given)
    if not first or not last:
        if function in (da.max, da.min):
            raise ValueError("stat_length of 0 yields no value for padding")
        raise not_dispatched("np.pad with a stat_length of 0", "There are no numbers in it.")
    found = []
    for part, width in (
        (_part(array, axis, 0, first), pair[0]),
        (_part(array, axis, n - last, n), pair[1]),
    ):
        value = function(part, axis=axis, keepdims=True)
        if array.dtype.kind in "iu":
            value = da.rint(value)
        shape = (*array.shape[:axis], width, *array.shape[axis + 1 :])
        chunks = (*value.chunks[:axis], (width,), *value.chunks[axis + 1 :])
        found.append(da.broadcast_to(value.astype(array.dtype), shape, chunks=chunks))
    return _joined(array, axis, *found)


def _lengths(lengths: Any, ndim: int) -> Pairs:
    found = _pairs(np.round(np.asarray(lengths)).astype(int), ndim)
    if any(length < 0 for pair in found for length in pair):
        raise ValueError("index can't contain negative values")
    return found


def _median(part: DaskArray, axis: int, keepdims: bool) -> DaskArray:
    median = functools.partial(np.median, axis=axis, keepdims=keepdims)
    whole = whole_along(part, (axis,), "numpy.pad")
    chunks = (*whole.chunks[:axis], (1,), *whole.chunks[axis + 1 :])
    dtype = np.median(np.ones(1, part.dtype)).dtype
    return da.map_blocks(median, whole, chunks=chunks, dtype=dtype, meta=part._meta.astype(dtype))


# ------------------------------------------------------- what is in the array already


def _mirrored(
    inner: int, array: DaskArray, axis: int, pair: Any, kwargs: dict[str, Any]
) -> DaskArray:
    """Reflect as often as it takes; `inner` is how many samples at an edge are not repeated."""
    kind = kwargs.get("reflect_type", "even")
    before, after = pair
    if array.shape[axis] == 1 and any(pair):
        widths = [pair if a == axis else (0, 0) for a in range(array.ndim)]
        return da.pad(array, widths, "edge")  # as NumPy has it
    period = array.shape[axis] - inner
    while before > 0 or after > 0:
        n = array.shape[axis]
        usable = (n - inner) // period * period
        first, last = min(usable, before), min(usable, after)
        left = _part(array, axis, inner, inner + first, back=True)
        right = _part(array, axis, n - inner - last, n - inner, back=True)
        if kind == "odd":
            left = 2 * _part(array, axis, 0, 1) - left
            right = 2 * _part(array, axis, n - 1, n) - right
        array = _joined(array, axis, left, right)
        before, after = before - first, after - last
    return array


def _wrapped(array: DaskArray, axis: int, pair: Any, kwargs: dict[str, Any]) -> DaskArray:
    before, after = pair
    period = array.shape[axis]
    while before > 0 or after > 0:
        n = array.shape[axis]
        usable = n // period * period
        first, last = min(usable, before), min(usable, after)
        left = _part(array, axis, usable - first, usable)
        right = _part(array, axis, n - usable, n - usable + last)
        array = _joined(array, axis, left, right)
        before, after = before - first, after - last
    return array


_AXIS: dict[str, Callable[[DaskArray, int, Any, dict[str, Any]], DaskArray]] = {
    "linear_ramp": _linear_ramp,
    "maximum": functools.partial(_statistic, da.max),
    "minimum": functools.partial(_statistic, da.min),
    "mean": functools.partial(_statistic, da.mean),
    "median": functools.partial(_statistic, _median),
    "reflect": functools.partial(_mirrored, 1),
    "symmetric": functools.partial(_mirrored, 0),
    "wrap": _wrapped,
}
