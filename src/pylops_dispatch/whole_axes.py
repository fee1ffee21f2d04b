"""Axes that are worked along become one block each, and another axis is cut instead."""

from __future__ import annotations

import math
from collections.abc import Collection

from dask.array.core import Array as DaskArray
from numpy.lib.array_utils import normalize_axis_index

from pylops_dispatch.pieces import LARGE, balanced, rechunk
from pylops_dispatch.policy import announce_whole

_ONE_TASK = 1 << 20  # bytes that one task works on about as fast as several


def worth_cutting(x: DaskArray, nbytes: int = 0) -> int:
    """Return into how many blocks: of smaller ones, to move them takes longer than it gains.

    Parameters
    ----------
    x : dask.array.Array
        Array.
    nbytes : int, optional
        Of what is made of it, which may be more.
    """
    return 1 + max(int(x.nbytes), nbytes) // LARGE


def is_cut_along(x: DaskArray, axes: Collection[int]) -> bool:
    """Whether an array is cut, and along these axes alone."""
    others = set(range(x.ndim)).difference(axes)
    return x.npartitions > math.prod(x.numblocks[axis] for axis in others) == 1


def would_be_one_task(x: DaskArray, axes: Collection[int], nbytes: int = 0) -> bool:
    """Whether an array that is cut would be worked on in one task, too large for that."""
    return max(int(x.nbytes), nbytes) > _ONE_TASK and is_cut_along(x, axes)


def cut_elsewhere(x: DaskArray, whole: Collection[int], most: int | None = None) -> DaskArray:
    """Rechunk axes to one block each, and cut the longest of the others instead.

    Parameters
    ----------
    x : dask.array.Array
        Cut along some of these axes.
    whole : collection of int
        The axes.
    most : int, optional
        How many blocks the longest axis gets at most. By default as many as there were along it
        and along these axes together.
    """
    longest = max(set(range(x.ndim)).difference(whole), key=lambda axis: x.shape[axis])
    count = math.prod(x.numblocks[axis] for axis in (*whole, longest))
    sizes = balanced(x.shape[longest], count if most is None else min(count, most))
    return rechunk(x, {**dict.fromkeys(whole, -1), longest: sizes})


def whole_along(x: DaskArray, axes: Collection[int], what: str, nbytes: int = 0) -> DaskArray:
    """Rechunk axes to one block each; where no other is cut, cut one, or say that there is none.

    Parameters
    ----------
    x : dask.array.Array
        Array.
    axes : collection of int
        The axes; negative ones count from the last.
    what : str
        What works along them.
    nbytes : int, optional
        Of what it makes of the array.

    Raises
    ------
    numpy.exceptions.AxisError
        If there is no such axis.
    """
    whole = {normalize_axis_index(axis, x.ndim) for axis in axes}
    if would_be_one_task(x, whole, nbytes):
        if any(n > 1 for axis, n in enumerate(x.shape) if axis not in whole):
            return cut_elsewhere(x, whole, worth_cutting(x, nbytes))
        announce_whole(what, "it works along all axes of the data, which are cut")
    return rechunk(x, dict.fromkeys(whole, -1))
