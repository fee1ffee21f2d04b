"""Transforms along axes: every engine, in parallel over the other axes."""

from __future__ import annotations

import warnings

import cloudpickle
import dask.array as da
import numpy as np
import pylops
import pytest
from pylops.signalprocessing import DCT, FFT, FFT2D, FFTND
from pylops.utils import deps

import pylops_dispatch
from pylops_dispatch import whole_axes
from pylops_dispatch.policy import WholeArrayError

from .catalogue import adjoint
from .helpers import assert_same, forbid_executions, rand, random_chunks, to_dask

DIMS = (6, 10, 7)
FLAGS = [
    {},
    {"norm": "none"},
    {"norm": "1/n"},
    {"real": True},
    {"ifftshift_before": True},
    {"fftshift_after": True},
]
DTYPES = ["complex128", "complex64", "float64", "float32"]


def transforms():
    for engine in ("numpy", "scipy"):
        for dtype in DTYPES:
            for flags in FLAGS:
                if flags.get("real") and dtype.startswith("complex"):
                    continue
                settings = {"engine": engine, "dtype": dtype, **flags}
                name = f"{engine}-{dtype}-{flags}"
                for axis, nfft in ((0, None), (1, 16), (-1, 8)):
                    yield f"FFT{axis}-{name}", FFT, {"axis": axis, "nfft": nfft, **settings}
                yield f"FFT2D-{name}", FFT2D, {"axes": (0, 2), "nffts": (8, 9), **settings}
                yield f"FFTND-{name}", FFTND, {"axes": (1, 2), **settings}
    for dtype in ("float64", "float32"):
        for axes in (None, (1,), (0, 2)):
            yield f"DCT-{dtype}-{axes}", DCT, {"axes": axes, "dtype": dtype}


@pytest.mark.parametrize(
    ("make", "settings"), [pytest.param(m, s, id=name) for name, m, s in transforms()]
)
@pytest.mark.filterwarnings("ignore:numpy backend always returns")
@pytest.mark.filterwarnings("ignore:Using (fftshift_after|real)")
def test_a_transform_equals_numpy(make, settings):
    op = make(DIMS, **settings)
    x_dtype = settings["dtype"]
    y_dtype = op.dtype
    for direction, dims, dtype in (("forward", op.dims, x_dtype), ("adjoint", op.dimsd, y_dtype)):
        x0 = rand(dims, dtype)
        x = to_dask(x0, random_chunks(dims, seed=3))
        with warnings.catch_warnings(), forbid_executions():
            warnings.simplefilter("error", pylops_dispatch.PerformanceWarning)
            y = op @ x if direction == "forward" else adjoint(op, x)
        expected = op @ x0 if direction == "forward" else adjoint(op, x0)
        assert_same(y, expected)


ALONG_ALL_AXES = {
    "FFT2D": lambda **settings: FFT2D((8, 9), axes=(1, 0), nffts=(10, 8), **settings),
    "FFTND": lambda **settings: FFTND((6, 7, 5), axes=(2, 0, 1), nffts=(4, 7, 6), **settings),
}


@pytest.mark.parametrize("name", ALONG_ALL_AXES)
@pytest.mark.parametrize("engine", ["numpy", "scipy"])
@pytest.mark.parametrize(
    ("dtype", "flags"),
    [
        pytest.param(dtype, flags, id=f"{dtype}-{flags}")
        for dtype in DTYPES
        for flags in FLAGS
        if not (flags.get("real") and dtype.startswith("complex"))
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_transform_along_all_axes_runs_along_one_after_another(
    name, engine, dtype, flags, monkeypatch
):
    """No task has the whole array."""
    monkeypatch.setattr(whole_axes, "_ONE_TASK", 0)
    op = ALONG_ALL_AXES[name](engine=engine, dtype=dtype, **flags)
    for turned, given in ((op, dtype), (op.H, op.dtype)):
        dims = turned.dims
        x0 = rand(dims, given)
        with forbid_executions(), warnings.catch_warnings():
            warnings.simplefilter("error", pylops_dispatch.PerformanceWarning)
            y = turned @ to_dask(x0, 3)
        assert_same(y, turned @ x0)
        assert min(count_blocks(y).values()) > 1


def count_blocks(y):
    """Return how many blocks each layer of a graph has."""
    return {name: len(layer) for name, layer in y.dask.layers.items()}


def test_a_cosine_transform_along_all_axes_runs_along_one_after_another(monkeypatch):
    monkeypatch.setattr(whole_axes, "_ONE_TASK", 0)
    op = DCT((6, 7, 5), type=3)
    for turned in (op, op.H):
        x0 = rand((6, 7, 5))
        y = turned @ to_dask(x0, 3)
        assert_same(y, turned @ x0)
        assert min(count_blocks(y).values()) > 1


@pytest.mark.parametrize(
    ("shape", "chunks", "count"),
    [
        ((2500, 1000), (250, 1000), 3),  # of 20 MB, twice as many
        ((5000, 1000), (250, 1000), 5),
        ((5000, 1000), (2500, 1000), 2),
        ((5000, 1000), (5000, 500), 2),
        ((1000, 1000), (100, 1000), 1),  # less than a block of moderate size
    ],
)
def test_the_other_axis_is_cut_where_all_blocks_lie_along_the_one_transformed(shape, chunks, count):
    op = FFT(shape, axis=0, dtype="float64")
    y = op @ da.ones(shape, chunks=chunks)
    (blocks,) = (n for name, n in count_blocks(y).items() if name.startswith("FFT"))
    assert blocks == count
    assert_same(y[:, :7], (op @ np.ones(shape))[:, :7])


def test_what_can_only_run_on_the_whole_says_so():
    op = pylops.signalprocessing.DWT2D((512, 512), level=2)
    x = da.ones((512, 512), chunks=128)
    with pytest.warns(pylops_dispatch.PerformanceWarning, match="DWT2D runs in one task"):
        op @ x
    with pytest.warns(pylops_dispatch.PerformanceWarning, match="^FFT runs in one task"):
        FFT(512 * 512) @ x.ravel()
    with pylops_dispatch.set_policy(whole_array="raise"):
        with pytest.raises(WholeArrayError):
            op @ x
        op @ x.rechunk(-1)  # as it is in one block already
        pylops.signalprocessing.DWT2D((64, 64)) @ da.ones((64, 64), chunks=16)  # small
        pylops.signalprocessing.DWT((512, 512), axis=0) @ x


def test_axes_that_are_not_transformed_keep_their_chunks():
    op = FFT(DIMS, axis=1, engine="scipy")
    y = op @ to_dask(rand(DIMS, "complex128"), ((2, 3, 1), (10,), (4, 3)))
    assert y.chunks == ((2, 3, 1), (10,), (4, 3))
    assert not [name for name in y.dask.layers if "rechunk" in name]


def test_a_shift_is_a_chain_of_transforms():
    op = pylops.signalprocessing.Shift(DIMS, 1.5, axis=1, real=True, dtype="float64")
    x0 = rand(DIMS)
    with forbid_executions():
        y = op @ to_dask(x0, (2, 4, 7))
    assert_same(y, op @ x0)


# ---------------------------------------------------------------- plans of FFTW


def planned(n=8, **settings):
    return FFT(n, engine="fftw", **settings)


def mdc(n):
    kernel = rand((n // 2, 3, 2), "complex128")
    return pylops.waveeqprocessing.MDC(kernel, n - 1, 1, fftengine="fftw", twosided=False)


PLANNED = {
    "alone": planned,
    "real": lambda: planned(real=True, dtype="float64"),
    "product": lambda: planned().H @ planned(),
    "stack": lambda: pylops.VStack([planned(), 2 * planned()]),
    "Kronecker": lambda: pylops.Kronecker(planned(), pylops.Identity(3)),
    "shift": lambda: pylops.signalprocessing.Shift(8, 1.5, engine="fftw"),
    "MDC": lambda: mdc(8),
}


def applied_in(ways, op, n=4):
    """Results of NumPy and of dask, forward and adjoint, of vectors or matrices."""
    for turned in (op, op.H):
        shape = (turned.shape[1],) if ways == "vector" else (turned.shape[1], n)
        x = rand(shape, op.dtype)
        yield turned @ x, turned @ to_dask(x, (shape[0], *(1,) * (len(shape) - 1)))


@pytest.mark.skipif(not deps.pyfftw_enabled, reason="pyFFTW is not installed")
@pytest.mark.parametrize("ways", ["vector", "matrix"])
@pytest.mark.parametrize("make", PLANNED.values(), ids=PLANNED)
@pytest.mark.filterwarnings("ignore:fftw backend returns")
def test_no_task_holds_a_plan(make, ways):
    op = make()
    results = list(applied_in(ways, op))
    for (expected, y), (_, again) in zip(results, applied_in(ways, op), strict=True):
        assert again.name == y.name  # what NumPy has left in the buffers makes no difference
        assert_same(cloudpickle.loads(cloudpickle.dumps(y)), expected)


@pytest.mark.skipif(not deps.pyfftw_enabled, reason="pyFFTW is not installed")
def test_threads_have_plans_of_their_own():
    op, X = planned(4096), rand((4096, 64), "complex128")
    y = (op @ to_dask(X, (4096, 1))).compute(scheduler="threads", num_workers=4)
    np.testing.assert_allclose(y, np.stack([op @ x for x in X.T], axis=1))


@pytest.mark.parametrize("dtype", [">c8", ">f4", "<f4", ">f8"])
def test_the_dtype_of_a_transform_does_not_depend_on_the_order_of_bytes(dtype):
    op, x0 = DCT((6, 4), axes=0), rand((6, 4)).astype(dtype)
    assert_same(op @ to_dask(x0, (6, 2)), op @ x0)
