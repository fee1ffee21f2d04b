"""Rules of transforms along axes: the transformed axes are one block, the others parallel."""

from __future__ import annotations

from typing import Any

import numpy as np
from pylops import signalprocessing as sp
from pylops.signalprocessing import fft, fft2d, fftnd

from pylops_dispatch.pieces import real_dtype
from pylops_dispatch.rules.table import RULES, whole_axis


def _axes(op: Any) -> tuple[int, ...]:
    axes = op.axes if hasattr(op, "axes") else (op.axis,)
    if axes is None:
        return tuple(range(len(op.dims)))
    return tuple(int(axis) for axis in np.atleast_1d(axes))


def _complex(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the complex dtype in which SciPy transforms."""
    dtype = dtype.newbyteorder("=")
    if dtype in (np.longdouble, np.clongdouble):
        return np.dtype(np.clongdouble)
    return np.dtype("complex64" if dtype in (np.float32, np.complex64, np.float16) else complex)


def _numpy_dtype(op: Any, x: np.dtype[Any], adjoint: bool) -> np.dtype[Any]:
    # the numpy engines cast: y.astype(self.cdtype), y.astype(self.rdtype)
    return np.dtype(op.rdtype if adjoint else op.cdtype)


def _scipy_dtype(op: Any, x: np.dtype[Any], adjoint: bool) -> np.dtype[Any]:
    found = _complex(x)
    real = adjoint and (op.real or not op.clinear)
    return real_dtype(found) if real else found


def _cosine_dtype(op: Any, x: np.dtype[Any], adjoint: bool) -> np.dtype[Any]:
    found = _complex(x)
    return found if x.kind == "c" else real_dtype(found)


for _cls in (fft._FFT_numpy, fft2d._FFT2D_numpy, fftnd._FFTND_numpy):
    RULES[_cls] = whole_axis(_axes, dtype=_numpy_dtype)
for _cls in (fft._FFT_scipy, fft2d._FFT2D_scipy, fftnd._FFTND_scipy):
    RULES[_cls] = whole_axis(_axes, dtype=_scipy_dtype)
for _cls in (fft._FFT_mklfft, fft2d._FFT2D_mklfft, fftnd._FFTND_mklfft):
    RULES[_cls] = whole_axis(_axes, dtype=_scipy_dtype)
RULES[fft._FFT_fftw] = whole_axis(_axes, "each thread has plans of its own", _numpy_dtype)
RULES[sp.DCT] = whole_axis(_axes, dtype=_cosine_dtype)
