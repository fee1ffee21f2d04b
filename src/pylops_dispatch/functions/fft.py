"""Shims for numpy.fft: dask transforms whole axes only, so that these are made one block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import Array as DaskArray

from pylops_dispatch.array import DispatchArray, as_box
from pylops_dispatch.functions.outputs import written
from pylops_dispatch.functions.registry import implements
from pylops_dispatch.pieces import LARGE
from pylops_dispatch.whole_axes import is_cut_along, whole_along


def _transform(func: Any, several: bool) -> None:
    @implements(func)
    def shim(a: Any, n: Any = None, axis: Any = None, norm: Any = None, out: Any = None, **kw: Any):  # type: ignore[no-untyped-def]
        lazy = getattr(da.fft, func.__name__)
        n, axis = kw.pop("s", n), kw.pop("axes", axis)
        array = as_box(a).dask()
        if several:
            last = range(-2, 0) if func.__name__.endswith("2") else range(-array.ndim, 0)
            axis = tuple(last if n is None else last[-len(n) :]) if axis is None else tuple(axis)
            if n is not None:  # -1 is for as many samples as there are
                n = [array.shape[a] if m == -1 else m for m, a in zip(n, axis, strict=True)]
            whole = axis
        else:
            axis = -1 if axis is None else axis
            whole = (axis,)
        norms = {} if norm is None else {"norm": norm}
        if several and len(set(whole)) == len(whole) > 1 and _is_along_all(array, whole):
            lengths = (None,) * len(whole) if n is None else tuple(n)
            array = _one_after_another(func.__name__, array, lengths, whole, norms)
        else:
            array = whole_along(array, whole, f"numpy.fft.{func.__name__}")
            array = lazy(array, n, axis, **norms)
        return written(out, DispatchArray(array), f"np.fft.{func.__name__}")


def _is_along_all(x: DaskArray, axes: tuple[int, ...]) -> bool:
    """Whether there is no other axis of a large array to be parallel over."""
    whole = {axis % x.ndim for axis in axes}
    others = (n for axis, n in enumerate(x.shape) if axis not in whole)
    return x.nbytes > LARGE and is_cut_along(x, whole) and all(n == 1 for n in others)


def _one_after_another(
    name: str, x: DaskArray, lengths: Sequence[Any], axes: Sequence[int], norms: dict[str, Any]
) -> DaskArray:
    """Transform along one axis after another, in the order of ``numpy.fft``."""
    last = name[:-1]  # without the 2, or the n
    others = "ifft" if last.startswith("i") else "fft"
    *before, final = zip(lengths, axes, strict=True)
    steps = [(others, *step) for step in before]
    steps = [*steps, (last, *final)] if last == "irfft" else [(last, *final), *steps[::-1]]
    for kind, n, axis in steps:
        x = getattr(da.fft, kind)(whole_along(x, (axis,), f"numpy.fft.{name}"), n, axis, **norms)
    return x


for _name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"):
    _transform(getattr(np.fft, _name), several=False)
for _name in ("fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn"):
    _transform(getattr(np.fft, _name), several=True)
