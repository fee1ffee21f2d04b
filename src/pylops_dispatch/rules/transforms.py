"""Rules of transforms along axes: the transformed axes are one block, the others parallel."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from pylops import signalprocessing as sp
from pylops.signalprocessing import fft, fft2d, fftnd

from pylops_dispatch.array import DispatchArray
from pylops_dispatch.operators import duplicate
from pylops_dispatch.pieces import real_dtype
from pylops_dispatch.rules.running import run_along
from pylops_dispatch.rules.table import RULES, Rule, whole_axis


def _axes(op: Any) -> tuple[int, ...]:
    axes = op.axes if hasattr(op, "axes") else (op.axis,)
    if axes is None:
        return tuple(range(len(op.dims)))
    return tuple(int(axis) for axis in np.atleast_1d(axes))


def _complex(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the complex dtype in which SciPy transforms."""
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


_planned = threading.local()
_planning = threading.Lock()
_PLANS = 16  # a thread keeps plans for so many shapes of blocks


def _fftw(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> DispatchArray:
    """Run on copies without plans and buffers, which no task can carry."""
    bare = duplicate(op)
    bare.x = bare.y = bare.ifftplan = None
    bare.fftplan = tuple(op.fftplan.flags)
    return run_along(cls, bare, box, adjoint)


def _fit_plans(op: Any) -> None:
    """Give a copy for a block FFTW plans and buffers of its shape, made once in each thread."""
    import pyfftw

    plans = vars(_planned).setdefault("plans", OrderedDict())
    flags = op.fftplan
    key = (op.dims, op.dimsd, op.axis, op.nfft, op.real, op.rdtype, op.cdtype, flags)
    op.dims_t = list(op.dims)
    op.dims_t[op.axis] = op.nfft
    if key not in plans:
        while len(plans) >= _PLANS:
            plans.popitem(last=False)
        x = pyfftw.empty_aligned(op.dims_t, dtype=op.rdtype if op.real else op.cdtype)
        y = pyfftw.empty_aligned(op.dimsd, dtype=op.cdtype)
        with _planning:
            plans[key] = (
                x,
                y,
                pyfftw.FFTW(x, y, axes=(op.axis,), direction="FFTW_FORWARD", flags=flags),
                pyfftw.FFTW(y, x, axes=(op.axis,), direction="FFTW_BACKWARD", flags=flags),
            )
    plans.move_to_end(key)
    op.x, op.y, op.fftplan, op.ifftplan = plans[key]


for _cls in (fft._FFT_numpy, fft2d._FFT2D_numpy, fftnd._FFTND_numpy):
    RULES[_cls] = whole_axis(_axes, dtype=_numpy_dtype)
for _cls in (fft._FFT_scipy, fft2d._FFT2D_scipy, fftnd._FFTND_scipy):
    RULES[_cls] = whole_axis(_axes, dtype=_scipy_dtype)
for _cls in (fft._FFT_mklfft, fft2d._FFT2D_mklfft, fftnd._FFTND_mklfft):
    RULES[_cls] = whole_axis(_axes, dtype=_scipy_dtype)
RULES[fft._FFT_fftw] = Rule(
    "whole_axis", "each thread has plans of its own", axes=_axes, dtype=_numpy_dtype,
    fit=_fit_plans, run=_fftw,
)  # fmt: skip
RULES[sp.DCT] = whole_axis(_axes, dtype=_cosine_dtype)
