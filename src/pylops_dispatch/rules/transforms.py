"""Rules of transforms along axes: the transformed axes are one block, the others parallel."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from pylops import signalprocessing as sp
from pylops.signalprocessing import fft, fft2d, fftnd

from pylops_dispatch.pieces import real_dtype
from pylops_dispatch.rules.castings import require_divisible
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


def _require_spectrum(op: Any, x: np.dtype[Any], adjoint: bool) -> None:
    if adjoint and op.real:  # x[...] /= sqrt(2)
        require_divisible(op, x)


def _may_be_refused(op: Any) -> bool:
    """Whether only the transform itself can tell if it takes its settings."""
    return bool(op._kwargs_fft) or any(op.dimsd[axis] == 0 for axis in _axes(op))


def _numpy_dtype(op: Any, x: np.dtype[Any], adjoint: bool) -> np.dtype[Any] | None:
    _require_spectrum(op, x, adjoint)
    return None if _may_be_refused(op) else _own_dtype(op, x, adjoint)


def _own_dtype(op: Any, x: np.dtype[Any], adjoint: bool) -> np.dtype[Any]:
    # numpy engines cast: y.astype(self.cdtype), y.astype(self.rdtype); plans of FFTW have these
    return np.dtype(op.rdtype if adjoint else op.cdtype)


def _scipy_dtype(op: Any, x: np.dtype[Any], adjoint: bool) -> np.dtype[Any] | None:
    _require_spectrum(op, x, adjoint)
    if _may_be_refused(op):
        return None
    found = _complex(x)
    real = adjoint and (op.real or not op.clinear)
    return real_dtype(found) if real else found


def _cosine_dtype(op: Any, x: np.dtype[Any], adjoint: bool) -> np.dtype[Any]:
    found = _complex(x)
    return found if x.kind == "c" else real_dtype(found)


def _fourier_factors(cls: type) -> Callable[[Any], list[Any]]:
    """Return what makes Fourier transforms along one axis each, of a class for any axes.

    The last axis goes first, as in ``numpy.fft.rfftn``: of real numbers it has half the spectrum.
    """

    def factors(op: Any) -> list[Any]:
        found: list[Any] = []
        dims = tuple(op.dims)
        for place in reversed(range(len(op.axes))):
            real = op.real and not found
            with warnings.catch_warnings(action="ignore"):  # those that the operator gave
                factor = cls(
                    dims, axes=(int(op.axes[place]),), nffts=(int(op.nffts[place]),),
                    norm=_NORMS[op.norm.name], real=real,
                    ifftshift_before=(bool(op.ifftshift_before[place]),),
                    fftshift_after=(bool(op.fftshift_after[place]),),
                    dtype=op.cdtype if found else op.rdtype, **op._kwargs_fft,
                )  # fmt: skip
            found.append(factor)
            dims = tuple(factor.dimsd)
        if hasattr(op, "_scale"):  # FFT2D of SciPy has the root of what FFTND has
            found[0]._scale = op._scale / math.prod(factor._scale for factor in found[1:])
        return found

    return factors


_NORMS = {"ORTHO": "ortho", "NONE": "none", "ONE_OVER_N": "1/n"}


def _cosine_factors(op: Any) -> list[Any]:
    return [
        sp.DCT(tuple(op.dims), type=op.type, axes=axis, dtype=op.dtype, workers=op.workers)
        for axis in _axes(op)
    ]


_ALL_AXES = "along one axis after another where all axes are cut and transformed"

RULES[fft._FFT_numpy] = whole_axis(_axes, dtype=_numpy_dtype)
RULES[fft._FFT_scipy] = RULES[fft._FFT_mklfft] = whole_axis(_axes, dtype=_scipy_dtype)
for _cls, _several, _dtype in (
    (fft2d._FFT2D_numpy, fftnd._FFTND_numpy, _numpy_dtype),
    (fftnd._FFTND_numpy, fftnd._FFTND_numpy, _numpy_dtype),
    (fft2d._FFT2D_scipy, fftnd._FFTND_scipy, _scipy_dtype),
    (fftnd._FFTND_scipy, fftnd._FFTND_scipy, _scipy_dtype),
    (fft2d._FFT2D_mklfft, fftnd._FFTND_mklfft, _numpy_dtype),  # y.astype(self.cdtype)
    (fftnd._FFTND_mklfft, fftnd._FFTND_mklfft, _scipy_dtype),
):
    _rule = whole_axis(_axes, _ALL_AXES, _dtype)
    RULES[_cls] = replace(_rule, factors=_fourier_factors(_several))
RULES[fft._FFT_fftw] = whole_axis(_axes, "each thread has plans of its own", _own_dtype)
RULES[sp.DCT] = replace(whole_axis(_axes, _ALL_AXES, _cosine_dtype), factors=_cosine_factors)
