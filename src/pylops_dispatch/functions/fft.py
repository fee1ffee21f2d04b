"""Shims for numpy.fft: dask transforms whole axes only, so that these are made one block."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np

from pylops_dispatch.array import DispatchArray, as_box
from pylops_dispatch.functions.outputs import written
from pylops_dispatch.functions.registry import implements


def _transform(func: Any, several: bool) -> None:
    @implements(func)
    def shim(a: Any, n: Any = None, axis: Any = None, norm: Any = None, out: Any = None, **kw: Any):  # type: ignore[no-untyped-def]
        lazy = getattr(da.fft, func.__name__)
        n, axis = kw.pop("s", n), kw.pop("axes", axis)
        array = as_box(a).dask()
        if several:
            last = range(-2, 0) if func.__name__.endswith("2") else range(-array.ndim, 0)
            axis = tuple(last if n is None else last[-len(n) :]) if axis is None else tuple(axis)
            whole = axis
        else:
            axis = -1 if axis is None else axis
            whole = (axis,)
        array = array.rechunk({ax % array.ndim: -1 for ax in whole})
        result = DispatchArray(lazy(array, n, axis, **({} if norm is None else {"norm": norm})))
        return written(out, result, f"np.fft.{func.__name__}")


for _name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"):
    _transform(getattr(np.fft, _name), several=False)
for _name in ("fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn"):
    _transform(getattr(np.fft, _name), several=True)
