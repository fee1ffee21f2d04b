"""Strides that NumPy's array would have: whether a reshape gives a view or a copy hangs on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

Strides = tuple[int, ...]
Shape = tuple[int, ...]


def in_c_order(shape: Shape, itemsize: int) -> Strides:
    """Return the strides, in bytes, of an array without gaps whose last axis varies fastest."""
    return _without_gaps(shape, itemsize, range(len(shape)))


def _without_gaps(shape: Shape, itemsize: int, slowest_first: Sequence[int]) -> Strides:
    strides = [0] * len(shape)
    for axis in reversed(slowest_first):
        strides[axis] = itemsize
        itemsize *= max(1, shape[axis])
    return tuple(strides)


def stand_in(shape: Shape, dtype: np.dtype[Any], strides: Strides) -> np.ndarray[Any, Any]:
    """Return an array of one element of memory, to ask NumPy about: never to be read."""
    return as_strided(np.empty(1, dtype), shape, strides, writeable=False)


def strides_of(view: np.ndarray[Any, Any]) -> Strides | None:
    """Return the strides of a stand-in, None for C order."""
    return None if view.flags.c_contiguous else view.strides


def reshaped(memory: np.ndarray[Any, Any], shape: Shape) -> np.ndarray[Any, Any] | None:
    """Return a stand-in in another shape, or None where NumPy would have to copy."""
    try:
        return memory.reshape(shape, copy=False)
    except ValueError:
        return None


def of_result(shape: Shape, itemsize: int, operands: Sequence[Any]) -> Strides | None:
    """Return the strides of what an element-wise function makes of `operands`, None for C order.

    NumPy's order "K": the axes are sorted by the strides of the operands, and where those do not
    agree C order wins (``npyiter_find_best_axis_ordering`` in NumPy's ``nditer_constr.c``).
    """
    ndim = len(shape)
    found = [_aligned(operand, ndim) for operand in operands if operand.ndim]
    fastest_first: list[int] = []
    for axis in reversed(range(ndim)):
        place = len(fastest_first)
        for number in reversed(range(len(fastest_first))):
            faster = _is_faster(axis, fastest_first[number], found)
            if faster is False:
                break
            if faster:
                place = number
        fastest_first.insert(place, axis)
    if fastest_first == list(reversed(range(ndim))):
        return None
    return strides_of(
        stand_in(
            shape, np.dtype(f"V{itemsize}"), _without_gaps(shape, itemsize, fastest_first[::-1])
        )
    )


def _aligned(operand: Any, ndim: int) -> Strides:
    own = zip(operand.shape, operand.strides, strict=True)
    return (0,) * (ndim - operand.ndim) + tuple(0 if n == 1 else abs(s) for n, s in own)


def _is_faster(axis: int, other: int, found: Sequence[Strides]) -> bool | None:
    """Whether `axis` varies faster than `other`, a later one; None if no operand tells."""
    told = [strides[other] > strides[axis] for strides in found if strides[axis] and strides[other]]
    return all(told) if told else None
