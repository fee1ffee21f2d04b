"""The operators of signal processing."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pylops
from pylops import signalprocessing as sp
from pylops.utils import deps

from ..helpers import rand
from .entry import Coef, add


def _complex(dtype: str) -> str:
    return np.result_type(dtype, "complex64").name


# --------------------------------------------------------- FFT, FFT2D and FFTND


def _add_fft(setting: str, *args: Any, name: str = "FFT", **kwargs: Any) -> None:
    """A Fourier transform; one of real numbers is linear over these alone."""
    dtype = kwargs.setdefault("dtype", "float64" if kwargs.get("real") else "complex128")
    needs = {"fftw": deps.pyfftw_enabled, "mkl_fft": deps.mkl_fft_enabled}
    add(
        f"{name}-{setting}",
        lambda c: getattr(sp, name)(*args, **kwargs),
        x_dtype=dtype,
        y_dtype=_complex(dtype),
        available=needs.get(kwargs.get("engine", "numpy"), True),
    )


for norm, real in [("ortho", True), ("none", False), ("1/n", True)]:
    setting = f"{norm.replace('/', '_over_')}-{'real' if real else 'complex'}"
    _add_fft(setting, (5, 8), axis=0, norm=norm, real=real)
    _add_fft(setting, (5, 6), name="FFT2D", norm=norm, real=real)
for axis in [0, 1]:
    _add_fft(f"3d-axis{axis}", (4, 5, 6), axis=axis, real=axis == 1)
for nfft in [12, 13, 5]:
    _add_fft(f"nfft{nfft}-real", 9, nfft=nfft, real=True)
_add_fft("nfft12-2d", (9, 4), axis=0, nfft=12, ifftshift_before=True)
_add_fft("nfft6-2d", (9, 4), axis=0, nfft=6, fftshift_after=True)
_add_fft("shifted", (5, 8), axis=1, ifftshift_before=True, fftshift_after=True)
_add_fft("shifted-real", (5, 7), axis=1, ifftshift_before=True, real=True)
_add_fft("real_numbers", (5, 8), axis=0, dtype="float64")
for engine in ["numpy", "scipy", "fftw"]:
    _add_fft(f"{engine}-float32", (5, 8), axis=0, real=True, engine=engine, dtype="float32")
_add_fft("fftw-complex64", (5, 8), nfft=10, engine="fftw", dtype="complex64")
_add_fft("mkl-real", (5, 8), axis=0, real=True, engine="mkl_fft")
_add_fft("mkl", (5, 6), name="FFT2D", engine="mkl_fft", dtype="complex64")
_add_fft("mkl", (4, 3, 5), name="FFTND", engine="mkl_fft")
_add_fft("scipy-none", (5, 8), axis=0, norm="none", real=True, engine="scipy")

for engine in ["numpy", "scipy"]:
    _add_fft(
        f"{engine}-3d",
        (3, 6, 5),
        name="FFT2D",
        axes=(0, 2),
        nffts=(4, 7),
        real=True,
        engine=engine,
        ifftshift_before=(True, False),
    )
    _add_fft(
        f"{engine}-shifted",
        (6, 5),
        name="FFT2D",
        engine=engine,
        # PyLops cannot shorten an axis with SciPy's engine
        nffts=(5 if engine == "numpy" else 7, 8),
        ifftshift_before=True,
        fftshift_after=(False, True),
        dtype="complex64",
    )
    for norm, real in [("ortho", True), ("1/n", False)]:
        _add_fft(
            f"{engine}-3d-{norm.replace('/', '_over_')}",
            (3, 4, 5),
            name="FFTND",
            axes=(0, 1, 2),
            norm=norm,
            real=real,
            engine=engine,
        )
_add_fft("1d", 9, name="FFTND", axes=(0,), dtype="complex64")
_add_fft(
    "3d-axes20",
    (3, 4, 5),
    name="FFTND",
    axes=(2, 0),
    nffts=(6, 2),
    ifftshift_before=(True, False),
    fftshift_after=True,
)
_add_fft("float32", (3, 4, 5), name="FFTND", axes=(1, 2), real=True, dtype="float32")

# ----------------------------------------------------------------------- Shift

for setting, args, kwargs in [
    ("1d", (9, 1.3), {"real": True, "dtype": "float64"}),
    ("axis0", ((9, 4), -2.4), {"axis": 0, "sampling": 0.5, "real": True, "dtype": "float64"}),
    ("nfft-scipy", ((4, 9), 1.0), {"nfft": 16, "engine": "scipy", "dtype": "complex128"}),
    ("complex64", ((4, 9), 0.7), {"dtype": "complex64"}),
    ("float32", ((4, 9), 0.7), {"real": True, "dtype": "float32"}),
]:
    add(f"Shift-{setting}", lambda c, a=args, k=kwargs: sp.Shift(*a, **k))
for dims, axis in [((4, 9), 1), ((9, 4), 0), ((3, 9, 4), 1)]:
    add(
        f"Shift-each-{len(dims)}d-axis{axis}",
        lambda c, d=dims, a=axis: sp.Shift(
            d, c(rand((*d[:a], *d[a + 1 :]))), axis=a, real=True, dtype="float64"
        ),
        coefficients=True,
    )

# ------------------------------------------------------------------------- DCT

for type_ in [1, 2, 3, 4]:
    add(f"DCT-type{type_}", lambda c, t=type_: sp.DCT((6, 5), type=t))
for dims, axes in [((9,), None), ((4, 5, 6), (0, -1))]:
    add(
        f"DCT-{len(dims)}d-axes{'' if axes is None else ''.join(map(str, axes))}",
        lambda c, d=dims, a=axes: sp.DCT(d, axes=a),
    )
add("DCT-float32", lambda c: sp.DCT((6, 5), axes=(0,), dtype="float32"))
add("DCT-complex64", lambda c: sp.DCT((6, 5), dtype="complex64", workers=2))

# ---------------------------------------------------------- wavelet transforms

for wavelet, level, dims, axis in [
    ("haar", 1, (11,), -1),
    ("db2", 2, (11, 4), 0),
    ("sym3", 3, (3, 16, 2), 1),
    ("bior2.2", 2, (4, 12), 1),
]:
    add(
        f"DWT-{len(dims)}d-axis{axis}-{wavelet}-level{level}",
        lambda c, w=wavelet, n=level, d=dims, a=axis: sp.DWT(d, axis=a, wavelet=w, level=n),
    )
add("DWT-float32", lambda c: sp.DWT((4, 11), level=2, dtype="float32"))
add("DWT-complex128", lambda c: sp.DWT((11, 4), axis=0, dtype="complex128"))
for wavelet, level, dims, axes in [
    ("haar", 1, (6, 8), (-2, -1)),
    ("db3", 2, (8, 3, 11), (0, 2)),
    ("bior1.3", 1, (7, 5, 3), (1, 0)),
]:
    add(
        f"DWT2D-{len(dims)}d-{wavelet}-level{level}",
        lambda c, w=wavelet, n=level, d=dims, a=axes: sp.DWT2D(d, axes=a, wavelet=w, level=n),
    )
for wavelet, level, dims, axes in [
    ("haar", 2, (4, 8, 6), (0, 1, 2)),
    ("db2", 1, (5, 3, 4), (0, 2)),
    ("sym2", 1, (3, 4, 2, 5), (-3, -2, -1)),
]:
    add(
        f"DWTND-{len(dims)}d-{wavelet}-level{level}",
        lambda c, w=wavelet, n=level, d=dims, a=axes: sp.DWTND(d, axes=a, wavelet=w, level=n),
    )


def _dtcwt(*args: Any, **kwargs: Any) -> pylops.LinearOperator:
    if not hasattr(np, "asfarray"):
        # NumPy 2 removed it, and dtcwt calls it in each application
        np.asfarray = lambda a, dtype=np.float64: np.asarray(  # noqa: NPY201
            a, dtype=np.result_type(dtype, "f4")
        )
    return sp.DTCWT(*args, **kwargs)


for dims, axis, level in [((16,), -1, 3), ((16, 3), 0, 2), ((2, 12, 3), 1, 1)]:
    add(
        f"DTCWT-{len(dims)}d-axis{axis}-level{level}",
        lambda c, d=dims, a=axis, n=level: _dtcwt(d, axis=a, level=n),
        available=deps.dtcwt_enabled,
        # its adjoint is the inverse
        dot="none",
    )
add(
    "UDCT-real",
    lambda c: sp.UDCT((12, 12), num_scales=2, wedges_per_direction=3),
    whole=True,
    x_dtype="float64",
    y_dtype="complex128",
    available=deps.curvelets_enabled,
)
add(
    "UDCT-complex",
    lambda c: sp.UDCT((12, 12), num_scales=2, wedges_per_direction=3, transform_kind="complex"),
    whole=True,
    available=deps.curvelets_enabled,
)
for kind in ["haar", "linear"]:
    for inv in [False, True]:
        add(
            f"Seislet-{kind}" + ("-inv" if inv else ""),
            lambda c, k=kind, i=inv: sp.Seislet(
                c(0.3 * rand((6, 9))), sampling=(1.0, 0.5), kind=k, inv=i
            ),
            coefficients=True,
            whole=True,
            # its adjoint is then the inverse
            dot="none" if inv else "op",
        )
add(
    "Seislet-level1-float32",
    lambda c: sp.Seislet(c(0.3 * rand((8, 7), "float32")), level=1, dtype="float32"),
    coefficients=True,
    whole=True,
)

# --------------------------------------------------------------- interpolation

IAVA = np.array([0.2, 1.9, 4.0, 5.6])
for kind, tol, dims, axis in [
    ("nearest", None, (8, 4), 0),
    ("nearest", None, (3, 8, 4), 1),
    ("linear", None, (8,), 0),
    ("linear", None, (8, 4), 0),
    ("linear", None, (3, 8, 4), 1),
    ("sinc", None, (8, 4), 0),
    ("sinc", None, (3, 8, 4), 1),
    ("sinc", 0.1, (3, 8), 1),
]:
    add(
        f"Interp-{kind}{'' if tol is None else '-tol'}-{len(dims)}d-axis{axis}",
        lambda c, k=kind, t=tol, d=dims, a=axis: sp.Interp(d, c(IAVA), axis=a, kind=k, tol=t)[0],
        coefficients=True,
        peeks=1,
    )
add(
    "Interp-linear-beyond_the_end",
    lambda c: sp.Interp((8, 3), c(np.array([0.5, 7.0, 3.2])), axis=0, dtype="float32")[0],
    coefficients=True,
    peeks=1,
)
add("Interp-linear-complex128", lambda c: sp.Interp((3, 8), IAVA, axis=1, dtype="complex128")[0])
add(
    "Interp-cubic_spline",
    lambda c: sp.Interp((3, 8), c(IAVA), axis=1, kind="cubic_spline")[0],
    coefficients=True,
    peeks=1,
)
for dims, axis in [((8,), -1), ((8, 4), 0), ((3, 8, 4), 1)]:
    add(
        f"InterpCubicSpline-{len(dims)}d-axis{axis}",
        lambda c, d=dims, a=axis: sp.InterpCubicSpline(d, c(IAVA), axis=a),
        coefficients=True,
        peeks=1,
    )
add("InterpCubicSpline-complex", lambda c: sp.InterpCubicSpline((3, 8), IAVA, dtype="complex128"))
PAIRS = np.array([[0.2, 3.7, 1.0, 2.5, 0.9], [1.1, 0.0, 2.6, 2.2, 2.9]])
for dims, dtype in [((5, 6), "float64"), ((5, 4, 3), "float64"), ((5, 4, 2, 3), "complex64")]:
    add(
        f"Bilinear-{len(dims)}d-{dtype}",
        lambda c, d=dims, t=dtype: sp.Bilinear(c(PAIRS), d, dtype=t),
        coefficients=True,
        peeks=1,
    )
add("Bilinear-forceflat", lambda c: sp.Bilinear(PAIRS, (5, 6), forceflat=True))
# positions just below zero count from the end, as radial masks of MRI2D have them
add("Bilinear-negative", lambda c: sp.Bilinear(PAIRS - np.array([[3.0], [2.0]]), (5, 6)))

# ----------------------------------------------------------------- convolution


def _add_convolve1d(
    setting: str, dims: Any, nh: Any, *, dtype: str = "float64", dot: str = "op", **kwargs: Any
) -> None:
    add(
        f"Convolve1D-{setting}",
        lambda c: sp.Convolve1D(dims, c(rand(nh, dtype)), dtype=dtype, **kwargs),
        coefficients=True,
        dot=dot,
    )


for method in [None, "direct", "fft"]:
    _add_convolve1d(f"1d-{method}", 13, 5, offset=2, method=method)
# "overlapadd" cannot be built: PyLops 2.8 calls SciPy's function with one argument
for method in [None, "fft"]:
    _add_convolve1d(f"3d-{method}", (4, 13, 3), 4, axis=1, offset=1, method=method)
for axis, offset in [(0, 4), (1, 0)]:
    _add_convolve1d(f"2d-axis{axis}-offset{offset}", (9, 8), 5, axis=axis, offset=offset)
_add_convolve1d("float32", (4, 11), 3, axis=-1, offset=1, dtype="float32")
_add_convolve1d("nd_filter", (4, 9), (4, 5), axis=1, offset=2)
# PyLops flips the last axis of such a filter, whichever axis it is for
_add_convolve1d("nd_filter-axis0", (9, 4), (5, 4), axis=0, offset=2, dot="none")
for n in [6, 7]:
    _add_convolve1d(f"long-{n}", n, 10, offset=n // 2)
# PyLops takes the length of the first axis for that of the filter's
_add_convolve1d("long-nd_filter", (4, 9), (4, 11), axis=1, offset=2, dot="none")
# PyLops flips the filter, and does not conjugate it
_add_convolve1d("complex128", (4, 11), 3, axis=1, dtype="complex128", dot="none")

for dims, nh, kwargs in [
    ((7, 8), (3, 4), {"offset": (1, 2)}),
    ((7, 8), (3, 5), {"offset": (0, 4), "method": "direct"}),
    ((6, 4, 7), (3, 2), {"offset": (1, 1), "axes": (0, 2), "method": "auto"}),
]:
    add(
        f"Convolve2D-{len(dims)}d-{kwargs.get('method', 'fft')}",
        lambda c, d=dims, n=nh, k=kwargs: sp.Convolve2D(d, c(rand(n)), **k),
        coefficients=True,
    )
for dims, nh, kwargs in [
    ((9,), (4,), {"axes": (0,), "offset": (1,), "method": "direct"}),
    ((5, 6, 7), (3, 2, 4), {"axes": (0, 1, 2), "offset": (1, 0, 2)}),
    ((5, 6, 7), (3, 3), {"axes": (1, 2), "dtype": "float32"}),
    ((5, 3, 4, 6), (3, 2, 3), {"axes": (0, 2, 3), "offset": (1, 1, 1)}),
]:
    add(
        f"ConvolveND-{len(dims)}d-filter{len(nh)}d",
        lambda c, d=dims, n=nh, k=kwargs: sp.ConvolveND(
            d, c(rand(n, k.get("dtype", "float64"))), **k
        ),
        coefficients=True,
    )

# ------------------------------------------------------ nonstationary operators

for dims, axis, dtype in [
    ((12,), -1, "float64"),
    ((12, 3), 0, "float64"),
    ((2, 12, 3), 1, "float32"),
]:
    add(
        f"NonStationaryConvolve1D-{len(dims)}d-axis{axis}",
        lambda c, d=dims, a=axis, t=dtype: sp.NonStationaryConvolve1D(
            d, c(rand((3, 5), t)), ih=(2, 5, 8), axis=a, dtype=t
        ),
        coefficients=True,
    )
add(
    "NonStationaryFilters1D",
    lambda c: sp.NonStationaryFilters1D(c(rand(12)), 5, ih=(2, 5, 8)),
    coefficients=True,
)
add(
    "NonStationaryFilters1D-float32",
    lambda c: sp.NonStationaryFilters1D(c(rand(9, "float32")), 3, ih=(0, 4, 8), dtype="float32"),
    coefficients=True,
)


# PyLops's compiled kernels add in parallel where filters that are wider than one
# sample on the first axis overlap, and lose some of it
def _nonstationary(c: Coef, name: str, engine: str = "numpy", dtype: str = "float64") -> Any:
    kwargs = {"engine": engine, "dtype": dtype}
    width = 3 if engine == "numpy" else 1
    if name == "NonStationaryConvolve2D":
        hs = c(rand((2, 3, width, 5), dtype))
        return sp.NonStationaryConvolve2D((7, 9), hs, (1, 4), (1, 4, 7), **kwargs)
    if name == "NonStationaryFilters2D":
        inp = c(rand((7, 9), dtype))
        return sp.NonStationaryFilters2D(inp, (width, 5), (1, 4), (1, 4, 7), **kwargs)
    hs = c(rand((2, 2, 2, width, 1, 3), dtype))
    return sp.NonStationaryConvolve3D((4, 3, 6), hs, (0, 2), (0, 1), (1, 4), **kwargs)


@functools.cache
def _compiled(name: str) -> Any:
    # each of them compiles its kernel again, for seconds
    return _nonstationary(lambda a: a, name, "numba", "float32")


for name in ["NonStationaryConvolve2D", "NonStationaryFilters2D", "NonStationaryConvolve3D"]:
    add(name, lambda c, n=name: _nonstationary(c, n), coefficients=True)
    # Numba does not compile the adjoint of NonStationaryFilters2D
    if "Convolve" in name:
        add(f"{name}-numba", lambda c, n=name: _compiled(n))

# its adjoint has the dtype of the samples, whatever the operator says
add(
    "NonStationaryFilters2D-float64-samples",
    lambda c: sp.NonStationaryFilters2D(
        c(rand((7, 9))), (3, 3), (1, 4), (1, 4, 7), dtype="float32"
    ),
    coefficients=True,
)

# ------------------------------------------------------------------- Fredholm1

for nz, saveGt, usematmul, dtype in [
    (1, True, True, "float64"),
    (1, False, True, "complex128"),
    (1, True, False, "complex64"),
    (3, True, True, "complex128"),
    (3, False, True, "float32"),
    (3, True, False, "float64"),
    (3, False, False, "complex128"),
]:
    add(
        f"Fredholm1-nz{nz}-{dtype}"
        + ("-saveGt" if saveGt else "")
        + ("-matmul" if usematmul else ""),
        lambda c, n=nz, s=saveGt, u=usematmul, t=dtype: sp.Fredholm1(
            c(rand((4, 5, 3), t)), nz=n, saveGt=s, usematmul=u, dtype=t
        ),
        coefficients=True,
    )

# ----------------------------------------------------------- Radon transforms

TAXIS, HAXIS, HYAXIS = 0.1 * np.arange(11), 2.0 * np.arange(5), 2.0 * np.arange(4)
PXAXIS, PYAXIS = np.linspace(-0.04, 0.05, 4), np.linspace(-0.03, 0.05, 3)

# a hyperbola has a velocity in the place of a slowness
VXAXIS, VYAXIS = np.array([0.5, 1.0, 2.0, 4.0]), np.array([0.5, 1.0, 2.0])


def _radon2d(c: Coef, kind: str = "linear", **kwargs: Any) -> pylops.LinearOperator:
    px = VXAXIS if kind == "hyperbolic" else PXAXIS
    return sp.Radon2D(TAXIS, HAXIS, px, kind=kind, **kwargs)


def _radon3d(c: Coef, kind: str = "linear", **kwargs: Any) -> pylops.LinearOperator:
    py, px = (VYAXIS, VXAXIS) if kind == "hyperbolic" else (PYAXIS, PXAXIS)
    return sp.Radon3D(TAXIS[:8], HYAXIS[:3], HAXIS[:4], py[:2], px[:3], kind=kind, **kwargs)


for setting, radon, kwargs in [
    ("Radon2D-linear", _radon2d, {}),
    (
        "Radon2D-nearest-float32",
        _radon2d,
        {"interp": False, "centeredh": False, "dtype": "float32"},
    ),
    ("Radon2D-linear-onthefly", _radon2d, {"onthefly": True}),
    ("Radon2D-parabolic", _radon2d, {"kind": "parabolic"}),
    ("Radon2D-onthefly-nearest", _radon2d, {"onthefly": True, "interp": False}),
    ("Radon2D-hyperbolic", _radon2d, {"kind": "hyperbolic"}),
    ("Radon3D-linear", _radon3d, {}),
    ("Radon3D-parabolic-nearest", _radon3d, {"kind": "parabolic", "interp": False}),
    ("Radon3D-hyperbolic", _radon3d, {"kind": "hyperbolic", "centeredh": False}),
    ("Radon3D-linear-onthefly", _radon3d, {"onthefly": True}),
]:
    add(setting, lambda c, f=radon, k=kwargs: f(c, **k))


@functools.cache
def _compiled_radon(radon: Any, **kwargs: Any) -> pylops.LinearOperator:
    return radon(lambda a: a, engine="numba", **kwargs)


for setting, radon, kwargs in [
    ("Radon2D-numba", _radon2d, {}),
    ("Radon2D-numba-onthefly", _radon2d, {"onthefly": True}),
    ("Radon2D-numba-onthefly-nearest", _radon2d, {"onthefly": True, "interp": False}),
    ("Radon3D-numba", _radon3d, {}),
]:
    add(setting, lambda c, f=radon, k=kwargs: _compiled_radon(f, **k), matmat=False)

for setting, kwargs in {
    "linear": {},
    "parabolic-flims": {"kind": "parabolic", "flims": (1, 5)},
    "numba-flims": {"engine": "numba", "flims": (1, 5)},
}.items():
    add(
        f"FourierRadon2D-{setting}",
        lambda c, k=kwargs: sp.FourierRadon2D(TAXIS, HAXIS, PXAXIS, nfft=16, **k),
    )
    if "kind" in kwargs:
        kwargs = {**kwargs, "kind": ("parabolic", "linear")}
    add(
        f"FourierRadon3D-{setting}",
        lambda c, k=kwargs: sp.FourierRadon3D(TAXIS, HYAXIS, HAXIS, PYAXIS, PXAXIS, nfft=12, **k),
    )
add("ChirpRadon2D", lambda c: sp.ChirpRadon2D(TAXIS, HAXIS, 0.05), whole=True)
add("ChirpRadon3D", lambda c: sp.ChirpRadon3D(TAXIS, HYAXIS, HAXIS, (0.05, 0.03)), whole=True)
add(
    "ChirpRadon3D-fftw",
    # a plan that is measured overwrites the data
    lambda c: sp.ChirpRadon3D(
        TAXIS, HYAXIS, HAXIS, (0.05, 0.03), engine="fftw", flags=("FFTW_ESTIMATE",)
    ),
    whole=True,
    available=deps.pyfftw_enabled,
)

# ---------------------------------------------------- PWSprayer2D, PWSmoother2D

for name in ["PWSprayer2D", "PWSmoother2D"]:
    add(
        name,
        lambda c, n=name: getattr(sp, n)((8, 7), c(0.5 * rand((8, 7))), radius=3, alpha=0.8),
        coefficients=True,
    )

# --------------------------------------------------------- Sliding1D, 2D and 3D


def _add_sliding(
    setting: str,
    name: str,
    dimsd: tuple[int, ...],
    nwin: tuple[int, ...],
    nover: tuple[int, ...],
    nop: tuple[int, ...],
    *,
    simultaneous: bool = False,
    dtype: str = "float64",
    **kwargs: Any,
) -> None:
    """Windows on the first axes; an operator for one window, or for them all at once."""
    cut, rest = dimsd[: len(nwin)], dimsd[len(nwin) :]
    nwins = tuple((n - w) // (w - o) + 1 for n, w, o in zip(cut, nwin, nover, strict=True))
    dims = tuple(n * m for n, m in zip(nwins, nop, strict=True)) + rest

    def make(c):
        if simultaneous:
            op = pylops.Diagonal(c(rand((*nwins, *nwin, *rest), dtype)), dtype=dtype)
        else:
            matrix = c(rand((np.prod(nwin), np.prod(nop)), dtype))
            op = pylops.MatrixMult(matrix, otherdims=rest or None, dtype=dtype)
        if name == "Sliding1D":
            return sp.Sliding1D(op, dims[0], dimsd[0], nwin[0], nover[0], **kwargs)
        if name == "Sliding2D":
            return sp.Sliding2D(op, dims, dimsd, nwin[0], nover[0], **kwargs)
        inside = (*nop, *rest) if name in ("Sliding3D", "Patch3D") else nop
        return getattr(sp, name)(op, dims, dimsd, nwin, nover, inside, **kwargs)

    add(f"{name}-{setting}", make, coefficients=True)


SLIDINGS = {
    "Sliding1D": ((15,), (5,), (2,), (3,)),
    "Sliding2D": ((12, 4), (5,), (2,), (3,)),
    "Sliding3D": ((9, 10, 3), (4, 5), (1, 2), (2, 3)),
    "Patch2D": ((11, 9), (4, 5), (1, 2), (3, 2)),
    "Patch3D": ((6, 5, 6), (4, 3, 3), (2, 1, 1), (2, 2, 1)),
}
for name, (dimsd, nwin, nover, nop) in SLIDINGS.items():
    _add_sliding("hanning", name, dimsd, nwin, nover, nop)
    _add_sliding(
        "cosine-nosavetaper-float32",
        name,
        dimsd,
        nwin,
        nover,
        nop,
        tapertype="cosine",
        savetaper=False,
        dtype="float32",
    )
    for savetaper in [True, False] if name in ["Sliding1D", "Patch2D"] else [name == "Sliding2D"]:
        _add_sliding(
            f"simultaneous-{'savetaper' if savetaper else 'nosavetaper'}",
            name,
            dimsd,
            nwin,
            nover,
            nwin,
            simultaneous=True,
            savetaper=savetaper,
        )
    _add_sliding(
        "untapered-no_overlap-complex128",
        name,
        dimsd,
        nwin,
        (0,) * len(nwin),
        nop,
        tapertype=None,
        dtype="complex128",
    )
add(
    "Sliding1D-real_fft",
    lambda c: sp.Sliding1D(
        sp.FFT(6, nfft=8, real=True).H, 5 * 3, 12, nwin=6, nover=3, tapertype="cosine"
    ),
)
add(
    "Sliding2D-radon",
    lambda c: sp.Sliding2D(
        sp.Radon2D(TAXIS, HAXIS, PXAXIS), (3 * PXAXIS.size, TAXIS.size), (11, TAXIS.size), 5, 2
    ),
)
add(
    "Patch2D-scalings",
    lambda c: sp.Patch2D(
        sp.FFT2D((4, 4), nffts=(4, 4)).H,
        (8, 12),
        (7, 10),
        (4, 4),
        (1, 1),
        (4, 4),
        scalings=[1.0, 0.5, 2.0, 1.5, 1.0, 0.3],
    ),
)
