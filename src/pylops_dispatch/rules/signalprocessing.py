"""Rules of ``pylops.signalprocessing``, but for Fourier transforms and stationary filters."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from pylops import signalprocessing as sp
from scipy.linalg import get_lapack_funcs

from pylops_dispatch.array import DispatchArray
from pylops_dispatch.operators import duplicate, resized
from pylops_dispatch.pieces import real_dtype
from pylops_dispatch.rules import points, seislets, windows
from pylops_dispatch.rules.filters import filters
from pylops_dispatch.rules.running import run_along, run_whole
from pylops_dispatch.rules.table import (
    FUNCTIONS,
    RULES,
    Rule,
    Terms,
    compose,
    halo,
    parallel_sum,
    whole,
    whole_axis,
)

# ---- non-stationary filters ------------------------------------------------------------------

# attributes that tell where the first filter of each axis lies
_ORIGINS: dict[type, tuple[str, ...]] = {
    sp.NonStationaryConvolve2D: ("ohx", "ohz"),
    sp.NonStationaryConvolve3D: ("ohx", "ohy", "ohz"),
    sp.NonStationaryFilters1D: ("oh",),
    sp.NonStationaryFilters2D: ("ohx", "ohz"),
}


def _place_along(op: Any, starts: tuple[int, ...]) -> None:
    op.oh -= starts[op.axis]


def _place(op: Any, starts: tuple[int, ...]) -> None:
    names = next(_ORIGINS[kind] for kind in type(op).__mro__ if kind in _ORIGINS)
    for name, start in zip(names, starts, strict=True):
        setattr(op, name, getattr(op, name) - start)


def _place_in_one_thread(op: Any, starts: tuple[int, ...]) -> None:
    """Place an operator whose threads, where Numba compiles it, write over each other.

    ``for ix in prange(xdims[0])`` adds to samples that others add to: blocks run beside each
    other instead.
    """
    _place(op, starts)
    if op.engine == "numba":
        op._mvrmv = functools.partial(_in_one_thread, op._mvrmv)


def _in_one_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    import numba  # which takes its time

    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        return function(*args, **kwargs)
    finally:
        numba.set_num_threads(threads)


def _half_along(op: Any) -> tuple[int, ...]:
    axis = op.axis % len(op.dims)
    return tuple(op.hsize // 2 if a == axis else 0 for a in range(len(op.dims)))


def _half(op: Any) -> tuple[int, ...]:
    return tuple(int(n) // 2 for n in op.hshape)


_FILTERS = "blocks of the data, with a halo; their shares of the filters are added up"

RULES[sp.NonStationaryConvolve1D] = halo(_half_along, place=_place_along)
RULES[sp.NonStationaryConvolve2D] = halo(_half, place=_place_in_one_thread)
RULES[sp.NonStationaryConvolve3D] = halo(_half, place=_place_in_one_thread)
RULES[sp.NonStationaryFilters1D] = parallel_sum(
    filters(lambda op: (op.hsize // 2,), _place), _FILTERS
)
# its adjoint adds up in zeros(..., dtype=x.dtype), where x are the filtered samples
# (nonstatconvolve2d.py:487)
RULES[sp.NonStationaryFilters2D] = parallel_sum(
    filters(_half, _place, adjoint_dtype=lambda op: op.inp.dtype), _FILTERS
)

# ---- transforms along axes -------------------------------------------------------------------


def _wavelet_axes(op: Any) -> tuple[int, ...]:
    return tuple(op.axes) if hasattr(op, "axes") else (op.axis,)


def _fit_wavelets(op: Any) -> None:
    """Resize the padding, and take all of the axes that are not transformed."""
    op.pad = resized(op.pad, op.dims, op.dimsd)
    whole = {axis % len(op.dims) for axis in _wavelet_axes(op)}

    def cut(where: Any) -> Any:
        if isinstance(where, dict):
            return {key: cut(value) for key, value in where.items()}
        return tuple(s if a in whole else slice(None) for a, s in enumerate(where))

    op.sl = [cut(where) for where in op.sl]


for _cls in (sp.DWT, sp.DWT2D, sp.DWTND):
    RULES[_cls] = whole_axis(_wavelet_axes, fit=_fit_wavelets)


def _complex_wavelets(op: Any) -> Terms:
    axis = op.axis % len(op.dims)
    model = [f"axis{a}" for a in range(len(op.dims))]
    data = list(model)
    model[axis], data[axis] = "samples", "coefficients"
    whole = frozenset({"samples", "coefficients", "parts"})
    return Terms(tuple(model), ("parts", *data), whole=whole)


def _fit_complex_wavelets(op: Any) -> None:
    """Set the shapes that ``DTCWT.__init__`` derives from the dims."""
    op.otherdims = math.prod(op.dims) // op.dims[op.axis]
    for name, dims in (("dims_swapped", op.dims), ("dimsd_swapped", op.dimsd[1:])):
        swapped = list(dims)
        swapped[0], swapped[op.axis] = swapped[op.axis], swapped[0]
        setattr(op, name, tuple(swapped))


RULES[sp.DTCWT] = Rule("whole_axis", terms=_complex_wavelets, fit=_fit_complex_wavelets)


def _curvelet_dtype(op: Any, x: np.dtype[Any], adjoint: bool) -> np.dtype[Any]:
    real = op.transform.transform_kind == "real"
    if real and not adjoint and x.kind == "c":
        raise ValueError(
            f"UDCT of transform_kind 'real' takes real numbers, got {x}: "
            "make it with transform_kind='complex'"
        )
    found = np.result_type(x if x.kind in "fc" else float, np.complex64)
    return real_dtype(found) if adjoint and real else found


RULES[sp.UDCT] = whole(
    "the windows of the curvelets divide the spectrum of the whole array", _curvelet_dtype
)
RULES[sp.Seislet] = Rule(
    "compose", "the traces of each level in parallel", run=seislets.run, inverse=seislets.inverse
)


def _spline(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> DispatchArray:
    """Run on copies without LAPACK's functions, which cannot be pickled."""
    bare = duplicate(op)
    bare._tridiag_factorize = bare._tridiag_lu_solve = None
    return run_along(cls, bare, box, adjoint)


def _fit_spline(op: Any) -> None:
    """Look up LAPACK's solver as ``InterpCubicSpline.__init__`` does."""
    name = "gttrs" if op.dims[op.axis] >= 3 else "gbtrs"
    op._tridiag_lu_solve = get_lapack_funcs((name,), dtype=op.dtype)[0]


RULES[sp.InterpCubicSpline] = Rule(
    "whole_axis", axes=lambda op: (op.axis,), fit=_fit_spline, run=_spline
)


# ---- slant stacks ----------------------------------------------------------------------------


def _chirp_3d(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    if op.engine == "fftw":
        return run_whole(cls, op, box, adjoint, "pyfftw's builders want NumPy arrays")
    return NotImplemented


_CHIRP = "Fourier transforms along time, then along space, in parallel over the other axis"
RULES[sp.ChirpRadon2D] = compose(_CHIRP)
RULES[sp.ChirpRadon3D] = compose(_CHIRP + "; with pyfftw in one task", run=_chirp_3d)
RULES[sp.FourierRadon2D] = parallel_sum(
    note="blocks of slopes and offsets",
    model="slope time",
    data="offset time",
    coefficients={"px": "slope", "haxis": "offset"},
    lengths={"npx": "slope", "nh": "offset"},
    whole="time",
)
RULES[sp.FourierRadon3D] = parallel_sum(
    note="blocks of slopes and offsets",
    model="slope_y slope_x time",
    data="offset_y offset_x time",
    coefficients={"py": "slope_y", "px": "slope_x", "hyaxis": "offset_y", "hxaxis": "offset_x"},
    lengths={"npy": "slope_y", "npx": "slope_x", "nhy": "offset_y", "nhx": "offset_x"},
    whole="time",
)

# ---- plane waves -----------------------------------------------------------------------------

RULES[sp.PWSprayer2D] = halo(
    lambda op: (0, op._radius),
    ("_sigma",),
    "slopes may cross all of the first axis, which is one block",
    axes=lambda op: (0,),
)
RULES[sp.PWSmoother2D] = compose("sprays, and sprays back")


# ---- sums over slices, windows, and the rest --------------------------------------------------


def _slices(op: Any, x: Any, adjoint: bool) -> Any:
    """Multiply slice by slice: ``Fredholm1._matvec`` squeezes its input, and with it blocks."""
    if not adjoint:
        y = np.matmul(op.G, x)
    elif getattr(op, "GT", None) is not None:
        y = np.matmul(op.GT, x)
    else:
        y = np.matmul(x.transpose(0, 2, 1).conj(), op.G).transpose(0, 2, 1).conj()
    return y if op.usematmul else y.astype(op.dtype, copy=False)


def _without_transpose(op: Any, adjoint: bool) -> tuple[str, ...]:
    """Read one of the two; a lazy transpose would take the memory of its kernel once more."""
    transposed = adjoint and isinstance(getattr(op, "GT", None), np.ndarray)
    return ("G",) if transposed else ("GT",)


RULES[sp.Fredholm1] = parallel_sum(
    note="slices apart, NumPy or dask kernels, and blocks of a kernel that is cut",
    model="slice column right",
    data="slice row right",
    coefficients={"G": "slice row column", "GT": "slice column row"},
    lengths={"nsl": "slice", "nx": "row", "ny": "column", "nz": "right"},
    unused=_without_transpose,
    kernel=_slices,
)
for _cls in (sp.Sliding1D, sp.Sliding2D, sp.Sliding3D, sp.Patch2D, sp.Patch3D):
    RULES[_cls] = parallel_sum(windows.run, "blocks of windows; their overlaps are added up")
RULES[sp.Bilinear] = parallel_sum(points.run, "blocks of the grid with the points inside them")

# ---- functions -------------------------------------------------------------------------------

_FOURIER = whole_axis(lambda op: (), "every engine; the axes that are transformed in one block")
FUNCTIONS |= {
    "pylops.signalprocessing.FFT": _FOURIER,
    "pylops.signalprocessing.FFT2D": _FOURIER,
    "pylops.signalprocessing.FFTND": _FOURIER,
    "pylops.signalprocessing.Shift": compose("a transform, a shift of phase, and back"),
    "pylops.signalprocessing.Interp": compose("only the blocks that are touched"),
    "pylops.signalprocessing.Radon2D": parallel_sum(note="blocks of slopes, as Spread"),
    "pylops.signalprocessing.Radon3D": parallel_sum(note="blocks of slopes, as Spread"),
}
