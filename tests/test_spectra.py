"""The spectrum of a filter is worked out once, whatever the number of tiles and blocks."""

import numpy as np
import pylops
import pytest
import scipy.fft

from pylops_dispatch import blocks, spectra

from .helpers import assert_same, rand, to_dask

pytestmark = pytest.mark.skipif(not spectra.SAFE, reason="SciPy is older than 1.15")


@pytest.fixture(autouse=True)
def none_kept():
    spectra._kept.clear()


@pytest.fixture
def transforms(monkeypatch):
    """The shapes of what SciPy transforms forward."""
    seen = []
    original = scipy.fft._basic_backend.rfftn
    monkeypatch.setattr(
        scipy.fft._basic_backend,
        "rfftn",
        lambda x, *args, **kwargs: seen.append(x.shape) or original(x, *args, **kwargs),
    )
    return seen


DIMS = (48, 40)


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_filter_is_transformed_once_for_each_shape_of_tiles(transforms, monkeypatch, adjoint):
    monkeypatch.setattr(blocks, "_TILE_BYTES", 4096)
    h = rand((5, 3))
    op = pylops.signalprocessing.Convolve2D(DIMS, h, offset=(2, 1))
    x = rand(DIMS)
    y = (op.H if adjoint else op) @ to_dask(x, (24, 40))
    transforms.clear()
    assert_same(y, (op.H if adjoint else op) @ x)
    tiles = [shape for shape in transforms if shape != h.shape]
    assert len(tiles) > len(set(tiles))  # NumPy's own run is among them
    assert transforms.count(h.shape) <= len(set(tiles))


def test_a_spectrum_is_what_scipy_gives():
    for h in [rand((3, 5)), rand((3, 5), "complex64"), rand((4, 1), "float32")]:
        transform = scipy.fft.fftn if h.dtype.kind == "c" else scipy.fft.rfftn
        expected = transform(h, (40, 30), axes=(0, 1))
        for _ in range(2):
            with spectra.kept_spectra():
                found = transform(h, (40, 30), axes=(0, 1))
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype


def test_filters_that_differ_in_anything_have_spectra_of_their_own():
    h = rand((3, 5))
    others = [(h, (40, 30), (0, 1)), (-h, (40, 30), (0, 1)), (h, (30, 40), (1, 0))]
    others += [(h.astype("float32"), (40, 30), (0, 1)), (h.reshape(5, 3), (40, 30), (0, 1))]
    with spectra.kept_spectra():
        found = [scipy.fft.rfftn(x, lengths, axes=axes) for x, lengths, axes in others]
    for spectrum, (x, lengths, axes) in zip(found, others, strict=True):
        np.testing.assert_array_equal(spectrum, scipy.fft.rfftn(x, lengths, axes=axes))


def test_data_are_not_kept():
    with spectra.kept_spectra():
        scipy.fft.rfftn(rand((30, 20)), (40, 30), axes=(0, 1))
        scipy.fft.rfftn(rand((30, 20)))
    assert not spectra._kept


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(spectra, "_ROOM", 100_000)
    with spectra.kept_spectra():
        for seed in range(20):
            scipy.fft.rfftn(rand((3, 5), seed=seed), (40, 60), axes=(0, 1))
    assert 0 < sum(found.nbytes for found in spectra._kept.values()) <= 100_000
