"""A tile of a convolution: filters are transformed once, and ends that are halo may meet."""

import functools

import numpy as np
import pylops
import pytest
import scipy.fft
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st

from pylops_dispatch import blocks, spectra

from .helpers import assert_same, rand, to_dask


@pytest.fixture(autouse=True)
def none_kept():
    spectra._kept.clear()


@pytest.fixture
def transforms(monkeypatch):
    """The shapes of what SciPy transforms forward."""
    seen = []
    original = scipy.fft.rfftn
    monkeypatch.setattr(
        scipy.fft, "rfftn", lambda x, *args, **kwargs: (
            seen.append(x.shape) or original(x, *args, **kwargs)
        ),
    )  # fmt: skip
    return seen


DIMS = (48, 40)
DTYPES = ["float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_filter_is_transformed_once_for_each_shape_of_tiles(transforms, monkeypatch, adjoint):
    monkeypatch.setattr(blocks, "_TILE_BYTES", 4096)
    op = pylops.signalprocessing.Convolve2D(DIMS, rand((5, 3)), offset=(2, 1))
    x = rand(DIMS)
    y = ((op.H if adjoint else op) @ to_dask(x, (24, 40))).compute()
    np.testing.assert_allclose(y, (op.H if adjoint else op) @ x, atol=1e-12)
    assert len(spectra._kept) < 5
    assert len(transforms) > 4 + len(spectra._kept)


def scipys(x, h, correlate):
    function = scipy.signal.correlate if correlate else scipy.signal.convolve
    return function(x, h, mode="same", method="fft")


def ours(x, h, correlate, inner):
    function = spectra._correlate if correlate else spectra._convolve
    original = functools.partial(scipys, correlate=correlate)
    return function(original, inner, x, h)


@given(
    st.tuples(*[st.integers(1, 12)] * 2), st.tuples(*[st.integers(1, 9)] * 2),
    st.sampled_from(DTYPES), st.sampled_from(DTYPES), st.booleans(),
)  # fmt: skip
def test_a_tile_with_ends_of_the_array_is_as_with_scipy(shape, taps, dtype, other, correlate):
    x, h = rand(shape, dtype), rand(taps, other, seed=1)
    expected = scipys(x, h, correlate)
    found = ours(x, h, correlate, (False, False))
    assert found.dtype == expected.dtype
    tolerance = 1e-4 if np.finfo(found.dtype).bits == 32 else 1e-12
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * (1 + abs(expected).max()))


@given(
    st.integers(9, 40), st.integers(1, 4), st.integers(0, 3), st.sampled_from(DTYPES), st.booleans()
)
def test_only_the_halo_of_inner_ends_differs(samples, half, more, dtype, correlate):
    x, h = rand((samples, 5), dtype), rand((2 * half + 1, 3), dtype, seed=1)
    expected = scipys(x, h, correlate)
    found = ours(x, h, correlate, (True, False))
    kept = slice(half + more, samples - half - more)
    tolerance = 1e-4 if np.finfo(found.dtype).bits == 32 else 1e-12
    np.testing.assert_allclose(found[kept], expected[kept], rtol=0, atol=tolerance * samples)


def test_other_arrays_are_left_to_scipy():
    for x, h in [
        (np.arange(12), np.ones(3, int)),
        (np.ones(12, "float16"), np.ones(3, "float16")),
        (np.ones(12, "float32"), np.ones(3)),
        (np.ones((12, 1)), np.ones((3, 2))),
        (np.ones((0, 3)), np.ones((1, 3))),
    ]:
        found = spectra._convolve(lambda *args: "left", (False,) * x.ndim, x, h)
        assert isinstance(found, str)


def test_operators_that_do_not_transform_keep_their_functions():
    op = pylops.signalprocessing.ConvolveND(DIMS, rand((3, 3)), offset=(1, 1), method="direct")
    before = op.convolve, op.correlate
    spectra.convolve_nd_in_tile(op, (True, True))
    assert (op.convolve, op.correlate) == before
    short = pylops.signalprocessing.Convolve1D(40, rand(3), offset=1).Op
    before = short.convfunc
    spectra.convolve_1d_in_tile(short, (True,))
    assert short.convfunc is before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunks", [(48, 40), (24, 13), (7, 40)])
def test_products_of_filters_have_halo_for_both(monkeypatch, chunks, dtype):
    monkeypatch.setattr(blocks, "_TILE_BYTES", 2048)
    first = pylops.signalprocessing.Convolve2D(
        DIMS, rand((3, 5), dtype), offset=(1, 2), dtype=dtype
    )
    second = pylops.signalprocessing.Convolve1D(
        DIMS, rand(4, dtype, seed=1), offset=1, axis=0, dtype=dtype
    )
    x = rand(DIMS, dtype)
    for op in (first @ second, (first @ second).H, second + first.H, first**2):
        assert_same(op @ to_dask(x, chunks), op @ x)


def test_filters_that_differ_in_anything_have_spectra_of_their_own():
    x = rand((30, 30))
    filters = [rand((3, 5)), -rand((3, 5)), rand((3, 5)).reshape(5, 3)]
    filters += [filters[0].astype("complex128")]
    for h in filters:
        np.testing.assert_allclose(
            ours(x, h, False, (False, False)), scipys(x, h, False), atol=1e-5
        )
    assert len(spectra._kept) == len(filters)
    ours(x[:20], filters[0], False, (False, False))
    assert len(spectra._kept) == len(filters) + 1


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(spectra, "_ROOM", 100_000)
    for seed in range(20):
        ours(rand((40, 60)), rand((3, 5), seed=seed), False, (False, False))
    assert 0 < sum(found.nbytes for found in spectra._kept.values()) <= 100_000


def test_tiles_with_their_halos_have_lengths_for_fast_transforms():
    plain = blocks.tile_lengths((73, 73, 292), (2, 2, 0), 8)
    lengths = blocks.tile_lengths((73, 73, 292), (2, 2, 0), 8, (), transformed=True)
    assert np.prod(lengths) < np.prod(plain)
    for length in lengths[:2]:
        assert length == 73 or scipy.fft.next_fast_len(length + 4, real=True) == length + 4
    assert blocks.tile_lengths((9, 9), (2, 2), 8, (), transformed=True) == (9, 9)
