"""Time every operator of the capability table on dask arrays in memory against NumPy PyLops.

Run ``python benchmarks/every_operator.py [--only NAME ...] [--scale 1.0] [--csv FILE]``. Sizes
are such that PyLops takes of the order of a second on NumPy arrays, or hundreds of megabytes;
`--scale` makes them smaller. Chunks are those of a user who knows which axes an operator
leaves free.
"""

from __future__ import annotations

import csv
import functools
import gc
import operator
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import dask.array as da
import numpy as np
import pylops
from pylops import avo, medical
from pylops import signalprocessing as sp
from pylops import waveeqprocessing as wep
from pylops.utils import deps

import pylops_dispatch
from side_by_side import Comparison, argument_parser, compare, in_memory, report, threads

Chunks = tuple[int, ...]


class Setting(NamedTuple):
    """An operator, and how model and data are cut.

    Attributes
    ----------
    op : LinearOperator
        The operator, of which both sides use the same object.
    chunks : tuple of int
        Of the model.
    data_chunks : tuple of int or None
        Of the data, None for those that the operator gives it.
    dtype : str
        Of the model.
    """

    op: pylops.LinearOperator
    chunks: Chunks
    data_chunks: Chunks | None = None
    dtype: str = "float64"


class Case(NamedTuple):
    """What to time.

    Attributes
    ----------
    make : callable
        Returns the setting for a scale.
    target : float or None
        Ratio asked for.
    threaded : str
        What makes NumPy PyLops use more than one thread, if anything.
    compiled : bool
        Whether the first application compiles or plans something, which is not to be timed.
    available : bool
        Whether the packages that it needs are there.
    tolerance : float
        Largest relative difference that counts as equal.
    """

    make: Callable[[float], Setting]
    target: float | None = None
    threaded: str = ""
    compiled: bool = False
    available: bool = True
    tolerance: float = 1e-12


# names of the table that are not operators to be timed: solvers, and frames for a user's code
NOT_TIMED = {
    "Deghosting",
    "FunctionOperator",
    "JaxOperator",
    "LSM",
    "LinearOperator",
    "MDD",
    "Marchenko",
    "MemoizeOperator",
    "PoststackInversion",
    "PrestackInversion",
    "SeismicInterpolation",
    "ToCupy",
    "WavefieldDecomposition",
}


# ---- lengths, blocks and numbers -------------------------------------------------------------


def length(n: int, scale: float, axes: int = 1) -> int:
    """Return the length of one of `axes` axes that share a scale."""
    return max(8, round(n * scale ** (1 / axes)))


def cut(n: int, count: int) -> int:
    """Return the length of blocks that cut an axis into `count`."""
    return -(-n // count)


def cube(scale: float, n: int = 320) -> tuple[tuple[int, int, int], Chunks]:
    """Return dims of a cube, and chunks of 16 bars along its last axis."""
    n = 8 * round(length(n, scale, 3) / 8)
    return (n, n, n), (cut(n, 4), cut(n, 4), n)


def slabs(scale: float, *dims: int) -> tuple[tuple[int, ...], Chunks]:
    """Return dims, and chunks of 16 slabs along the first axis."""
    first, *rest = (length(n, scale, len(dims)) for n in dims)
    return (first, *rest), (cut(first, 16), *rest)


def last_cut(scale: float, *dims: int) -> tuple[tuple[int, ...], Chunks]:
    """Return dims, and chunks of 16 slabs along the last axis."""
    *rest, last = (length(n, scale, len(dims)) for n in dims)
    return (*rest, last), (*rest, cut(last, 16))


def numbers(*shape: int, dtype: str = "float64") -> np.ndarray:
    """Return random numbers, the same ones in each run."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype, copy=False)


def wavelet(n: int = 51) -> np.ndarray:
    """Return a filter of odd length."""
    t = np.linspace(-3, 3, n)
    return (1 - t**2) * np.exp(-(t**2) / 2)


def along(
    make: Callable[[tuple[int, ...]], pylops.LinearOperator],
    n: int = 320,
    target: float | None = None,
) -> Case:
    """Return the case of an operator on a cube that is cut along two axes."""

    def setting(scale: float) -> Setting:
        dims, chunks = cube(scale, n)
        return Setting(make(dims), chunks)

    return Case(setting, target)


# ---- operators of the top level --------------------------------------------------------------


def of_complex(kind: type) -> Case:
    """Return the case of an operator of complex numbers."""

    def setting(scale: float) -> Setting:
        dims, chunks = cube(scale, 256)
        return Setting(kind(dims, dtype="complex128"), chunks, dtype="complex128")

    return Case(setting)


def terms(dims: tuple[int, ...]) -> list[pylops.LinearOperator]:
    """Return operators of the same shape, to be stacked."""
    return [
        pylops.FirstDerivative(dims, axis=0),
        pylops.Smoothing1D(5, dims, axis=1),
        pylops.Diagonal(numbers(*dims)),
        pylops.Identity(dims),
    ]


def block(scale: float) -> Setting:
    """Return four operators in two rows and two columns."""
    dims, _ = cube(scale, 240)
    a, b, c, d = terms(dims)
    return Setting(pylops.Block([[a, b], [c, d]]), (dims[0] ** 3 // 8,))


def block_diag(scale: float) -> Setting:
    """Return four operators along the diagonal."""
    dims, chunks = cube(scale, 200)
    return Setting(pylops.BlockDiag(terms(dims)), (1, *chunks))


def horizontal(scale: float) -> Setting:
    """Return four operators side by side."""
    dims, _ = cube(scale, 200)
    return Setting(pylops.HStack(terms(dims)), (dims[0] ** 3 // 4,))


def vertical(scale: float) -> Setting:
    """Return four operators one below the other."""
    dims, chunks = cube(scale, 200)
    return Setting(pylops.VStack(terms(dims)), chunks)


def identity(scale: float) -> Setting:
    """Return one that copies, as else there is nothing to time."""
    dims, chunks = cube(scale)
    return Setting(pylops.Identity(dims, inplace=False), chunks)


def kronecker(scale: float) -> Setting:
    """Return a matrix for each column, of which a smoothing is made first."""
    n, m = length(50_000, scale), 320
    op = pylops.Kronecker(pylops.MatrixMult(numbers(m, m)), pylops.Smoothing1D(5, n))
    return Setting(op, (n * cut(m, 16),))


def regression(order: int) -> Case:
    """Return the case of a polynomial: few coefficients, many samples."""

    def setting(scale: float) -> Setting:
        n = length(16_000_000, scale)
        t = np.linspace(-1, 1, n)
        op = pylops.LinearRegression(t) if order == 1 else pylops.Regression(t, order=order)
        return Setting(op, (order + 1,), (cut(n, 16),))

    return Case(setting)


def matrix(scale: float) -> Setting:
    """Return a square matrix that acts along the first axis."""
    dims, chunks = last_cut(scale, 400, 320, 320)
    return Setting(pylops.MatrixMult(numbers(dims[0], dims[0]), otherdims=dims[1:]), chunks)


def directional(kind: type) -> Case:
    """Return the case of a derivative along a direction that differs everywhere."""

    def setting(scale: float) -> Setting:
        dims, chunks = cube(scale, 220)
        return Setting(kind(dims, numbers(3, *dims)), chunks)

    return Case(setting)


def laplacian(dims: tuple[int, ...]) -> pylops.LinearOperator:
    """Return second derivatives along all axes, added up."""
    return pylops.Laplacian(dims, axes=(0, 1, 2), weights=(1, 1, 1), sampling=(1, 1, 1))


def spread(scale: float) -> Setting:
    """Return a spread along tabulated curves, by Numba."""
    n, nt = length(320, scale, 2), 800
    table = np.random.default_rng(1).uniform(0, nt - 2, size=(n, nt, n))
    index = np.floor(table)
    op = pylops.Spread((n, nt), (n, nt), table=index, dtable=table - index, engine="numba")
    return Setting(op, (cut(n, 16), nt), (cut(n, 16), nt))


BASIC = {
    "Block": Case(block),
    "BlockDiag": Case(block_diag),
    "CausalIntegration": along(lambda dims: pylops.CausalIntegration(dims, axis=2)),
    "Conj": of_complex(pylops.Conj),
    "Diagonal": along(lambda dims: pylops.Diagonal(numbers(*dims))),
    "FirstDerivative": along(lambda dims: pylops.FirstDerivative(dims, axis=0)),
    "FirstDirectionalDerivative": directional(pylops.FirstDirectionalDerivative),
    "Flip": along(lambda dims: pylops.Flip(dims, axis=0)),
    "Gradient": along(lambda dims: pylops.Gradient(dims, kind="forward"), 256),
    "HStack": Case(horizontal),
    "Identity": Case(identity),
    "Imag": of_complex(pylops.Imag),
    "Kronecker": Case(kronecker, threaded="BLAS"),
    "Laplacian": along(laplacian),
    "LinearRegression": regression(1),
    "MatrixMult": Case(matrix, threaded="BLAS"),
    "Pad": along(lambda dims: pylops.Pad(dims, ((10, 10), (0, 5), (0, 0)))),
    "Real": of_complex(pylops.Real),
    "Regression": regression(3),
    "Restriction": along(lambda dims: pylops.Restriction(dims, np.arange(0, dims[0], 2), axis=0)),
    "Roll": along(lambda dims: pylops.Roll(dims, axis=0, shift=7)),
    "SecondDerivative": along(lambda dims: pylops.SecondDerivative(dims, axis=0)),
    "SecondDirectionalDerivative": directional(pylops.SecondDirectionalDerivative),
    "Smoothing1D": along(lambda dims: pylops.Smoothing1D(5, dims, axis=0)),
    "Smoothing2D": along(lambda dims: pylops.Smoothing2D((5, 5), dims, axes=(1, 2)), target=1.6),
    "SmoothingND": along(lambda dims: pylops.SmoothingND((5, 5, 5), dims, axes=(0, 1, 2))),
    "Spread": Case(spread, compiled=True, available=deps.numba_enabled),
    "Sum": along(lambda dims: pylops.Sum(dims, axis=0)),
    "Symmetrize": along(lambda dims: pylops.Symmetrize(dims, axis=0), 256),
    "Transpose": along(lambda dims: pylops.Transpose(dims, (2, 0, 1))),
    "VStack": Case(vertical),
    "Zero": along(lambda dims: pylops.Zero(dims, dims)),
}  # fmt: skip


# ---- reservoir characterisation and medical imaging ------------------------------------------


def linearisation(scale: float) -> Setting:
    """Return reflectivities of 15 angles from three parameters."""
    n = length(96, scale, 2)
    op = avo.AVOLinearModelling(
        np.linspace(0, 40, 15), vsvp=np.linspace(0.4, 0.6, 100), spatdims=(n, n)
    )
    return Setting(op, (100, 3, cut(n, 4), cut(n, 4)))


def poststack(scale: float) -> Setting:
    """Return a three-dimensional model of reflectivities."""
    n = length(320, scale, 2)
    op = avo.PoststackLinearModelling(wavelet(), 320, spatdims=(n, n))
    return Setting(op, (320, cut(n, 4), cut(n, 4)))


def prestack(scale: float) -> Setting:
    """Return a three-dimensional model with ten angles."""
    n = length(80, scale, 2)
    op = avo.PrestackLinearModelling(
        wavelet(), np.linspace(0, 40, 10), vsvp=np.linspace(0.4, 0.6, 200), spatdims=(n, n)
    )
    return Setting(op, (200, 3, cut(n, 4), cut(n, 4)))


def prestack_wavelet(scale: float) -> Setting:
    """Return the largest that PyLops can make in no time: it takes a dense matrix."""
    n = length(1000, scale)
    op = avo.PrestackWaveletModelling(numbers(n, 3), np.linspace(0, 40, 10), nwav=61, vsvp=0.5)
    return Setting(op, (61,))


def magnetic(scale: float) -> Setting:
    """Return a spectrum of which only some lines are measured."""
    n = length(2048, scale, 2)
    op = medical.MRI2D((n, n), "vertical-reg", nlines=n // 4, perc_center=0.0)
    return Setting(op, (n, cut(n, 8)), dtype="complex128")


def tomography(scale: float) -> Setting:
    """Return parallel projections of an image."""
    n, angles = length(512, scale, 3), length(256, scale, 3)
    op = medical.CT2D(
        (n, n), 1.0, n, np.linspace(0, np.pi, angles, endpoint=False),
        engine="cpu", projector_type="linear",
    )  # fmt: skip
    return Setting(op, (n, n), (cut(angles, 16), n), dtype="float32")


APPLIED = {
    "AVOLinearModelling": Case(linearisation),
    "PoststackLinearModelling": Case(poststack, 1.6),
    "PrestackLinearModelling": Case(prestack),
    "PrestackWaveletModelling": Case(prestack_wavelet, threaded="BLAS"),
    "CT2D": Case(tomography, available=deps.astra_enabled, tolerance=1e-5),
    "MRI2D": Case(magnetic),
}


# ---- transforms ------------------------------------------------------------------------------


def fourier(scale: float) -> Setting:
    """Return a transform of real numbers along the last axis."""
    dims, chunks = slabs(scale, 4096, 8192)
    return Setting(sp.FFT(dims, axis=1, real=True), chunks)


def fourier_2d(scale: float) -> Setting:
    """Return a transform along the last two axes."""
    dims, chunks = slabs(scale, 64, 720, 720)
    return Setting(sp.FFT2D(dims, axes=(1, 2), real=True), chunks)


def fourier_nd(scale: float) -> Setting:
    """Return a transform along the last three axes."""
    dims, chunks = slabs(scale, 16, 128, 128, 128)
    return Setting(sp.FFTND(dims, axes=(1, 2, 3), real=True), chunks)


def shift(scale: float) -> Setting:
    """Return a shift of part of a sample."""
    dims, chunks = slabs(scale, 2048, 8192)
    return Setting(sp.Shift(dims, 1.3, axis=1, real=True, dtype="float64"), chunks)


def cosine(scale: float) -> Setting:
    """Return a transform along the last two axes."""
    dims, chunks = slabs(scale, 64, 720, 720)
    return Setting(sp.DCT(dims, axes=(1, 2)), chunks)


def wavelets(scale: float) -> Setting:
    """Return a transform along the last axis."""
    dims, chunks = slabs(scale, 4096, 8192)
    return Setting(sp.DWT(dims, axis=1, wavelet="db4", level=4), chunks)


def wavelets_2d(scale: float) -> Setting:
    """Return a transform along the last two axes."""
    dims, chunks = slabs(scale, 64, 640, 640)
    return Setting(sp.DWT2D(dims, axes=(1, 2), wavelet="db4", level=3), chunks)


def wavelets_nd(scale: float) -> Setting:
    """Return a transform along the last three axes."""
    dims, chunks = slabs(scale, 16, 112, 112, 112)
    return Setting(sp.DWTND(dims, axes=(1, 2, 3), wavelet="db2", level=2), chunks)


def complex_wavelets(scale: float) -> Setting:
    """Return a dual-tree transform along the first axis."""
    if not hasattr(np, "asfarray"):
        # NumPy 2 removed it, and dtcwt calls it in each application
        np.asfarray = lambda a, dtype=np.float64: np.asarray(  # noqa: NPY201
            a, dtype=np.result_type(dtype, "f4")
        )
    dims, chunks = last_cut(scale, 2048, 2048)
    dims = (max(16, dims[0] // 16 * 16), *dims[1:])  # dtcwt wants multiples
    return Setting(sp.DTCWT(dims, axis=0, level=3), (dims[0], *chunks[1:]))


def curvelets(scale: float) -> Setting:
    """Return a transform of all of an image."""
    n = 12 * length(64, scale, 2)
    op = sp.UDCT((n, n), num_scales=3, wedges_per_direction=3)
    return Setting(op, (n, cut(n, 8)))


def seislets(scale: float) -> Setting:
    """Return a transform along slopes."""
    n, nt = 256, length(256, scale, 2)
    op = sp.Seislet(0.3 * numbers(n, nt), sampling=(1.0, 0.5))
    return Setting(op, (cut(n, 16), nt))


TRANSFORMS = {
    "FFT": Case(fourier, 1.6),
    "FFT2D": Case(fourier_2d),
    "FFTND": Case(fourier_nd),
    "Shift": Case(shift),
    "DCT": Case(cosine, 1.6),
    "DWT": Case(wavelets, 1.6, available=deps.pywt_enabled),
    "DWT2D": Case(wavelets_2d, available=deps.pywt_enabled),
    "DWTND": Case(wavelets_nd, available=deps.pywt_enabled),
    "DTCWT": Case(complex_wavelets, available=deps.dtcwt_enabled),
    "UDCT": Case(curvelets, available=deps.curvelets_enabled),
    "Seislet": Case(seislets),
}


# ---- filters and interpolation ---------------------------------------------------------------


def convolution(scale: float) -> Setting:
    """Return a filter along the last axis."""
    dims, chunks = cube(scale)
    return Setting(sp.Convolve1D(dims, wavelet(), offset=25, axis=2), chunks)


def convolution_2d(scale: float) -> Setting:
    """Return a filter along the last two axes."""
    dims, chunks = slabs(scale, 64, 640, 640)
    h = np.outer(wavelet(15), wavelet(15))
    return Setting(sp.Convolve2D(dims, h, offset=(7, 7), axes=(1, 2)), chunks)


def convolution_nd(scale: float) -> Setting:
    """Return a filter along all axes, two of which are cut."""
    dims, chunks = cube(scale, 256)
    h = numbers(7, 7, 7)
    return Setting(sp.ConvolveND(dims, h, offset=(3, 3, 3), axes=(0, 1, 2)), chunks)


def nonstationary(scale: float) -> Setting:
    """Return filters along the first axis."""
    dims, chunks = last_cut(scale, 800, 8000)
    at = range(0, 5 * (dims[0] // 5), dims[0] // 5)
    return Setting(sp.NonStationaryConvolve1D(dims, numbers(5, 31), at, axis=0), chunks)


def nonstationary_2d(scale: float) -> Setting:
    """Return filters on an image, in a loop in Python."""
    n = length(192, scale, 2)
    at = tuple(range(8, n, n // 3))
    op = sp.NonStationaryConvolve2D(
        (n, n), numbers(len(at), len(at), 11, 11), at, at, engine="numpy"
    )
    return Setting(op, (cut(n, 4), cut(n, 2)))


def nonstationary_3d(scale: float) -> Setting:
    """Return filters in a volume, in a loop in Python."""
    n = length(32, scale, 3)
    at = (2, 8, 14)
    op = sp.NonStationaryConvolve3D((n, n, n), numbers(3, 3, 3, 3, 3, 3), at, at, at)
    return Setting(op, (cut(n, 4), cut(n, 2), n))


def filters(scale: float) -> Setting:
    """Return the filters of a signal, in a loop in Python."""
    n = length(80_000, scale)
    op = sp.NonStationaryFilters1D(numbers(n), 51, range(0, n, n // 4))
    return Setting(op, (len(range(0, n, n // 4)), 51), (cut(n, 8),))


def filters_2d(scale: float) -> Setting:
    """Return the filters of an image, in a loop in Python."""
    n = length(192, scale, 2)
    at = tuple(range(8, n, n // 3))
    op = sp.NonStationaryFilters2D(numbers(n, n), (11, 11), at, at, engine="numpy")
    return Setting(op, op.dims, (cut(n, 8), n))


def places(n: int, count: int) -> np.ndarray:
    """Return positions between samples, in order."""
    return np.sort(np.random.default_rng(2).uniform(0, n - 1.01, size=count))


def interpolation(scale: float) -> Setting:
    """Return places along the first axis."""
    dims, chunks = cube(scale)
    return Setting(sp.Interp(dims, places(dims[0], dims[0] // 2), axis=0, kind="linear")[0], chunks)


def splines(scale: float) -> Setting:
    """Return places along the last axis."""
    dims, chunks = slabs(scale, 2048, 4096)
    return Setting(sp.InterpCubicSpline(dims, places(dims[1], dims[1] // 2), axis=1), chunks)


def bilinear(scale: float) -> Setting:
    """Return scattered points on an image, with more axes."""
    n = length(1000, scale, 2)
    points = np.random.default_rng(3).uniform(0, n - 1.01, size=(2, n * n // 2))
    return Setting(sp.Bilinear(points, (n, n, 16)), (cut(n, 16), n, 16), (cut(n * n // 2, 16), 16))


FILTERS = {
    "Convolve1D": Case(convolution, 1.6),
    "Convolve2D": Case(convolution_2d),
    "ConvolveND": Case(convolution_nd),
    "NonStationaryConvolve1D": Case(nonstationary),
    "NonStationaryConvolve2D": Case(nonstationary_2d),
    "NonStationaryConvolve3D": Case(nonstationary_3d),
    "NonStationaryFilters1D": Case(filters),
    "NonStationaryFilters2D": Case(filters_2d),
    "Interp": Case(interpolation),
    "InterpCubicSpline": Case(splines),
    "Bilinear": Case(bilinear),
}


# ---- slant stacks, plane waves and integrals -------------------------------------------------


def gather_axes(n: int, nt: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return times, offsets and slopes of a gather."""
    return 0.004 * np.arange(nt), 10.0 * np.arange(n), np.linspace(-3e-4, 3e-4, n)


def radon(n: int, nt: int) -> pylops.LinearOperator:
    """Return the Radon transform of one gather."""
    return sp.Radon2D(*gather_axes(n, nt), engine="numba")


def radon_one(scale: float) -> Setting:
    """Return one large gather, cut along slopes and offsets."""
    n, nt = length(256, scale, 2), 1500
    return Setting(radon(n, nt), (cut(n, 8), nt), (cut(n, 8), nt))


def radon_many(scale: float) -> Setting:
    """Return many gathers, each with an operator of its own."""
    count, n, nt = length(24, scale), 64, 1500
    return Setting(pylops.BlockDiag([radon(n, nt) for _ in range(count)]), (1, n, nt))


def radon_3d(scale: float) -> Setting:
    """Return one gather with offsets in two directions."""
    n, nt = length(18, scale, 4), 500
    t, h, p = gather_axes(n, nt)
    op = sp.Radon3D(t, h, h, p, p, engine="numba")
    return Setting(op, (cut(op.dims[0], 4), *op.dims[1:]), (cut(op.dimsd[0], 4), *op.dimsd[1:]))


def fourier_radon(scale: float) -> Setting:
    """Return slopes and offsets that are worked on by frequency."""
    n, nt = length(120, scale, 2), 1000
    op = sp.FourierRadon2D(*gather_axes(n, nt), nfft=1024)
    return Setting(op, (cut(n, 8), nt), (cut(n, 8), nt))


def fourier_radon_3d(scale: float) -> Setting:
    """Return slopes and offsets in two directions."""
    n, nt = length(14, scale, 4), 400
    t, h, p = gather_axes(n, nt)
    op = sp.FourierRadon3D(t, h, h, p, p, nfft=512)
    return Setting(op, (cut(n, 4), n, nt), (cut(n, 4), n, nt))


def chirp(scale: float) -> Setting:
    """Return a transform along both axes, one after the other."""
    n, nt = length(2000, scale), 1000
    op = sp.ChirpRadon2D(0.004 * np.arange(nt), 10.0 * np.arange(n), 3e-4)
    return Setting(op, (cut(n, 16), nt))


def chirp_3d(scale: float) -> Setting:
    """Return a transform along three axes, one after the other."""
    n, nt = length(80, scale, 2), 400
    h = 10.0 * np.arange(n)
    op = sp.ChirpRadon3D(0.004 * np.arange(nt), h, h, (3e-4, 3e-4))
    return Setting(op, (cut(n, 4), cut(n, 4), nt))


def plane_waves(kind: type) -> Case:
    """Return the case of sprays along slopes, by Numba."""

    def setting(scale: float) -> Setting:
        n = length(2400, scale, 2)
        return Setting(kind((n, n), 0.3 * numbers(n, n), radius=6), (n, cut(n, 8)))

    return Case(setting, threaded="Numba", compiled=True, available=deps.numba_enabled)


def fredholm(scale: float, nz: int, dtype: str) -> Setting:
    """Return slices of a kernel."""
    n = length(64 if nz > 1 else 400, scale)
    m = 400
    op = sp.Fredholm1(numbers(n, m, m, dtype=dtype), nz=nz, dtype=dtype)
    return Setting(op, (cut(n, 16), m, nz), dtype=dtype)


SLANTS = {
    "Radon2D": Case(radon_one, 1.6, compiled=True, available=deps.numba_enabled),
    "Radon2D-gathers": Case(radon_many, 1.6, compiled=True, available=deps.numba_enabled),
    "Radon3D": Case(radon_3d, compiled=True, available=deps.numba_enabled),
    "FourierRadon2D": Case(fourier_radon),
    "FourierRadon3D": Case(fourier_radon_3d),
    "ChirpRadon2D": Case(chirp),
    "ChirpRadon3D": Case(chirp_3d),
    "PWSprayer2D": plane_waves(sp.PWSprayer2D),
    "PWSmoother2D": plane_waves(sp.PWSmoother2D),
    "Fredholm1": Case(lambda s: fredholm(s, 200, "complex128"), 0.9, "BLAS"),
    "Fredholm1-nz1": Case(lambda s: fredholm(s, 1, "float64"), 0.9, "BLAS"),
}


# ---- windows ---------------------------------------------------------------------------------


def spanned(count: int, window: int, overlap: int) -> int:
    """Return how many samples windows span."""
    return count * (window - overlap) + overlap


def sliding_1d(scale: float) -> Setting:
    """Return spectra of windows of a signal."""
    count, window = length(800, scale), 16_384
    n = spanned(count, window, window // 2)
    inner = sp.FFT(window, real=True).H
    op = sp.Sliding1D(inner, count * (window // 2 + 1), n, window, window // 2)
    return Setting(op, (cut(count, 16), window // 2 + 1), (cut(n, 16),), dtype="complex128")


def sliding_radon(scale: float) -> Setting:
    """Return slant stacks of windows of a section."""
    count, window, nt = length(64, scale), 48, 1000
    n = spanned(count, window, 12)
    op = sp.Sliding2D(radon(window, nt), (count * window, nt), (n, nt), window, 12)
    return Setting(op, (cut(count, 16), window, nt), (cut(n, 16), nt))


def sliding_fourier(scale: float) -> Setting:
    """Return spectra of windows of a section."""
    count, window, nt = length(96, scale), 64, 2000
    n = spanned(count, window, 16)
    inner = sp.FFT2D((window, nt)).H
    op = sp.Sliding2D(inner, (count * window, nt), (n, nt), window, 16)
    return Setting(op, (cut(count, 16), window, nt), (cut(n, 16), nt), dtype="complex128")


def sliding_3d(scale: float) -> Setting:
    """Return spectra of windows of a volume."""
    count, window, nt = length(14, scale, 2), 16, 200
    n = spanned(count, window, 8)
    inner = sp.FFTND((window, window, nt)).H
    op = sp.Sliding3D(
        inner,
        (count * window,) * 2 + (nt,),
        (n, n, nt),
        (window,) * 2,
        (8, 8),
        (window, window, nt),
    )
    return Setting(op, (1, *op.dims[1:]), (cut(n, 14), n, nt), dtype="complex128")


def patches_2d(scale: float) -> Setting:
    """Return spectra of patches of an image."""
    count, window = length(48, scale, 2), 64
    n = spanned(count, window, 32)
    inner = sp.FFT2D((window, window)).H
    op = sp.Patch2D(inner, (count * window,) * 2, (n, n), (window,) * 2, (32, 32), (window,) * 2)
    return Setting(op, (cut(count, 16), *op.dims[1:]), (cut(n, 16), n), dtype="complex128")


def patches_3d(scale: float) -> Setting:
    """Return spectra of patches of a volume."""
    count, window = max(6, round(16 * scale ** (1 / 3))), 16
    n = spanned(count, window, 8)
    inner = sp.FFTND((window,) * 3).H
    op = sp.Patch3D(inner, (count * window,) * 3, (n,) * 3, (window,) * 3, (8,) * 3, (window,) * 3)
    return Setting(op, (1, *op.dims[1:]), (cut(n, count), n, n), dtype="complex128")


WINDOWS = {
    "Sliding1D": Case(sliding_1d),
    "Sliding2D": Case(sliding_radon, 1.6, compiled=True, available=deps.numba_enabled),
    "Sliding2D-FFT2D": Case(sliding_fourier, 1.6),
    "Sliding3D": Case(sliding_3d),
    "Patch2D": Case(patches_2d),
    "Patch3D": Case(patches_3d),
}


# ---- wave-equation processing ----------------------------------------------------------------


def blending(scale: float) -> Setting:
    """Return sources that overlap in time."""
    n, nt = length(96, scale), 1000
    times = 2.0 * np.arange(n) + np.random.default_rng(4).uniform(0, 1, size=n)
    op = wep.BlendingContinuous(nt, 96, n, 0.004, times)
    return Setting(op, (cut(n, 16), 96, nt), (6, op.dimsd[1]))


def blending_groups(make: Callable[..., pylops.LinearOperator]) -> Case:
    """Return the case of pairs of sources that overlap."""

    def setting(scale: float) -> Setting:
        n, nt = 2 * length(48, scale), 1000
        times = np.random.default_rng(4).uniform(0, 1, size=(2, n // 2))
        op = make(nt, 96, n, 0.004, times, group_size=2, n_groups=n // 2)
        return Setting(op, (cut(n, 16), 96, nt))

    return Case(setting)


def kirchhoff(scale: float) -> Setting:
    """Return many sources, with travel times of a constant velocity."""
    ns, nr, nt = length(128, scale), 64, 1000
    z, x = 10.0 * np.arange(100), 10.0 * np.arange(150)
    srcs, recs = (np.vstack([np.linspace(0, 1490, n), np.zeros(n)]) for n in (ns, nr))
    with warnings.catch_warnings():
        # Kirchhoff announces changes of PyLops 3
        warnings.simplefilter("ignore")
        op = wep.Kirchhoff(
            z, x, 0.004 * np.arange(nt), srcs, recs, 1500.0, wavelet(41), 20,
            mode="analytic", engine="numba",
        )  # fmt: skip
    return Setting(op, op.dims, (cut(ns, 16), nr, nt))


def convolution_in_space(scale: float) -> Setting:
    """Return a kernel of many frequencies, and many virtual sources."""
    nv, nt = length(160, scale), 401
    op = wep.MDC(numbers(150, 200, 200, dtype="complex128"), nt, nv=nv, dt=0.004, dr=10.0)
    return Setting(op, (nt, 200, cut(nv, 16)))


def extrapolation(scale: float) -> Setting:
    """Return one step of depth of a volume."""
    n, nt = length(160, scale, 2), 400
    k = np.fft.fftshift(np.fft.fftfreq(n, 10.0))
    op = wep.PhaseShift(1500.0, 10.0, nt, np.fft.rfftfreq(nt, 0.004), k, k)
    return Setting(op, (nt, cut(n, 4), cut(n, 4)))


MEDIUM = {"dt": 0.004, "rho": 1000.0, "vel": 1500.0, "critical": 90.0}


def velocity(scale: float) -> Setting:
    """Return particle velocities of a volume of pressures."""
    n, nt = length(128, scale, 2), 400
    op = wep.PressureToVelocity(nt=nt, nr=(n, n), dr=(10.0, 10.0), nffts=(n, n, nt), **MEDIUM)
    return Setting(op, (cut(n, 4), cut(n, 4), nt), dtype="complex128")


def composition_2d(scale: float) -> Setting:
    """Return pressures and particle velocities along a line."""
    n, nt = length(2000, scale), 1000
    op = wep.UpDownComposition2D(nt=nt, nr=n, dr=10.0, nffts=(n, nt), **MEDIUM)
    chunks = (2 * n * nt // 16,) if len(op.dims) == 1 else (1, cut(n, 8), nt)
    return Setting(op, chunks, dtype="complex128")


def composition_3d(scale: float) -> Setting:
    """Return pressures and particle velocities of a volume."""
    n, nt = max(32, length(80, scale, 2)), 400
    op = wep.UpDownComposition3D(nt=nt, nr=(n, n), dr=(10.0, 10.0), nffts=(n, n, nt), **MEDIUM)
    chunks = (2 * n * n * nt // 16,) if len(op.dims) == 1 else (1, cut(n, 4), cut(n, 2), nt)
    return Setting(op, chunks, dtype="complex128")


def acoustic(scale: float) -> Setting:
    """Return a few shots, which Devito models."""
    shape, shots = (101, 101), length(16, scale)
    x = np.linspace(100.0, 900.0, shots)
    recs = np.linspace(0.0, 1000.0, 101)
    op = wep.AcousticWave2D(
        shape=shape, origin=(0, 0), spacing=(10, 10), vp=np.full(shape, 1500.0, dtype="float32"),
        src_x=x, src_z=np.full(shots, 20.0), rec_x=recs, rec_z=np.full(101, 20.0),
        t0=0.0, tn=800.0, nbl=20,
    )  # fmt: skip
    return Setting(op, op.dims, (1, *op.dimsd[1:]), dtype="float32")


WAVES = {
    "BlendingContinuous": Case(blending),
    "BlendingGroup": blending_groups(wep.BlendingGroup),
    "BlendingHalf": blending_groups(wep.BlendingHalf),
    "Kirchhoff": Case(kirchhoff, 1.6, compiled=True, available=deps.numba_enabled),
    "MDC": Case(convolution_in_space, threaded="BLAS"),
    "PhaseShift": Case(extrapolation),
    "PressureToVelocity": Case(velocity),
    "UpDownComposition2D": Case(composition_2d),
    "UpDownComposition3D": Case(composition_3d),
    "AcousticWave2D": Case(
        acoustic, threaded="Devito", compiled=True, available=deps.devito_enabled, tolerance=1e-5
    ),
}


# a name, and a setting of it after a hyphen where there are several
CASES = {**BASIC, **APPLIED, **TRANSFORMS, **FILTERS, **SLANTS, **WINDOWS, **WAVES}


# ---- timing ----------------------------------------------------------------------------------


def kinds() -> dict[str, str]:
    """Return the kinds of the operators of the capability table, by the last part of the name."""
    table = pylops_dispatch.capabilities()
    return {name.rpartition(".")[2]: rule.kind for name, rule in table.items()}


def operator_of(name: str) -> str:
    """Return the operator that a case is of."""
    return name.partition("-")[0]


def measure(name: str, scale: float, repeats: int, workers: int) -> list[Comparison]:
    """Time one operator, forward and adjoint.

    Parameters
    ----------
    name : str
        One of `CASES`.
    scale : float
        Of the number of samples; 1 is what the targets are for.
    repeats : int
        How often each side runs.
    workers : int
        Threads of dask.

    Returns
    -------
    list of Comparison
        Forward, adjoint.
    """
    case = CASES[name]
    setting = case.make(scale)
    op = setting.op
    model = numbers(*op.dims, dtype=setting.dtype)
    lazy_model = in_memory(model, setting.chunks)
    lazy_data = persisted(op, lazy_model)
    data = lazy_data.compute()
    if setting.data_chunks is not None:
        lazy_data = in_memory(data, setting.data_chunks)
    found = []
    for direction, a, x, z in (
        ("forward", op, model, lazy_model),
        ("adjoint", op.H, data, lazy_data),
    ):
        plain = functools.partial(operator.matmul, a, x)
        dispatched = functools.partial(persisted, a, z)
        if case.compiled:
            with pylops_dispatch.disabled():
                plain()
            dispatched()
        comparison = compare(
            f"{name} {direction}",
            plain,
            dispatched,
            repeats=repeats,
            workers=workers,
            target=case.target,
            tolerance=case.tolerance,
            trial=min(0.5, 0.2 * scale),
        )
        comparison.extra = {
            "kind": kinds()[operator_of(name)],
            "MB": round((model.nbytes + data.nbytes) / 1e6),
            "NumPy's threads": case.threaded,
        }
        found.append(comparison)
    return found


def persisted(op: pylops.LinearOperator, x: da.Array) -> da.Array:
    """Apply an operator to a dask array, and compute the result in memory."""
    return (op @ x).persist()


def write_csv(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write the table of the documentation; the forward and adjoint ones take turns."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["operator", "kind", "NumPy [s]", "forward", "adjoint"])
        for forward, adjoint in zip(comparisons[::2], comparisons[1::2], strict=True):
            name, _, setting = forward.name.removesuffix(" forward").partition("-")
            shown = name + (f" ({setting})" if setting else "")
            ratios = [f"{one.ratio:.2f}" for one in (forward, adjoint)]
            rows.writerow(
                [shown, forward.extra["kind"], f"{statistics.median(forward.numpy):.3f}", *ratios]
            )


def main() -> int:
    """Run the cases that the command line asks for."""
    parser = argument_parser(__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="NAME", help="cases to run")
    parser.add_argument("--csv", type=Path, help="where to write the ratios, for the documents")
    options = parser.parse_args()
    missing = sorted(kinds().keys() - NOT_TIMED - {operator_of(name) for name in CASES})
    if missing:
        parser.error(f"no case for {', '.join(missing)}")
    found: list[Comparison] = []
    failed: list[str] = []
    with threads(options.workers):
        for name in options.only or CASES:
            if not CASES[name].available:
                print(f"{name}: its packages are not installed", file=sys.stderr)
                continue
            try:
                found += measure(name, options.scale, options.repeats, options.workers)
            except Exception as error:  # the other cases are still worth their time
                failed.append(name)
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            gc.collect()
    status = report(f"Operators at scale {options.scale:g}", found, options, scale=options.scale)
    if options.csv:
        write_csv(found, options.csv)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(status or failed))


if __name__ == "__main__":
    sys.exit(main())
