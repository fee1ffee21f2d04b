"""Blocks larger than the cache are worked on in tiles, each with a halo from inside the block.

The tiles are made tiny here, so that small arrays have many: the result is the same.
"""

import numpy as np
import pylops
import pytest

from pylops_dispatch import blocks

from .helpers import assert_same, rand, to_dask

DIMS = (30, 26, 40)


@pytest.fixture(autouse=True)
def tiny_tiles(monkeypatch):
    monkeypatch.setattr(blocks, "_TILE_BYTES", 4096)


def test_blocks_are_cut_but_not_along_whole_axes_nor_for_nothing():
    assert blocks.tile_lengths(DIMS, (1, 0, 0), 8) != DIMS
    assert blocks.tile_lengths(DIMS, (0, 0, 0), 8) == DIMS
    for whole in range(3):
        lengths = blocks.tile_lengths(DIMS, (1, 1, 1), 8, (whole,))
        assert lengths[whole] == DIMS[whole]
        assert np.prod(lengths) <= np.prod(DIMS) / 4


def test_tiles_are_long_in_comparison_with_their_halos():
    lengths = blocks.tile_lengths((64, 64, 64), (3, 0, 2), 8)
    assert lengths[0] >= 24
    assert lengths[2] >= 16


FILTER = rand((3, 5, 1))
POSITIONS = [np.array([6, 15, 24]), np.array([5, 12, 19]), np.array([8, 20, 32])]
OPERATORS = {
    **{
        f"FirstDerivative of order {order} along {axis}, edges {edge}": (
            lambda axis=axis, order=order, edge=edge: pylops.FirstDerivative(
                DIMS, axis=axis, order=order, edge=edge
            )
        )
        for axis in range(3)
        for order, edge in [(3, True), (5, False)]
    },
    **{
        f"SecondDerivative along {axis}": (
            lambda axis=axis: pylops.SecondDerivative(DIMS, axis=axis, edge=True)
        )
        for axis in range(3)
    },
    "Laplacian": lambda: pylops.Laplacian(
        DIMS, axes=(0, 1, 2), weights=(1, 2, 3), sampling=(1, 1, 1)
    ),
    "Smoothing2D": lambda: pylops.Smoothing2D((5, 3), DIMS, axes=(0, 2)),
    "ConvolveND": lambda: pylops.signalprocessing.ConvolveND(DIMS, FILTER, offset=(1, 2, 0)),
    "product": lambda: (
        pylops.Diagonal(rand(DIMS, seed=1))
        @ pylops.FirstDerivative(DIMS, axis=0)
        @ pylops.SecondDerivative(DIMS, axis=1)
    ),
    "sum with a diagonal": lambda: (
        pylops.Laplacian(DIMS, axes=(0, 2))
        + pylops.Diagonal(rand(DIMS[1], seed=1), dims=DIMS, axis=1)
    ),
    "NonStationaryConvolve3D": lambda: pylops.signalprocessing.NonStationaryConvolve3D(
        DIMS, rand((3, 3, 3, 3, 3, 3), seed=2), *POSITIONS, engine="numpy"
    ),
}


@pytest.mark.parametrize("adjoint", [False, True], ids=["forward", "adjoint"])
@pytest.mark.parametrize("chunks", [DIMS, (17, 26, 23)], ids=["one-block", "blocks"])
@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
def test_result_does_not_depend_on_tiles(make, chunks, adjoint):
    op = make()
    op = op.H if adjoint else op
    x0 = rand(DIMS)
    assert_same(op @ to_dask(x0, chunks), op @ x0)


def test_axes_with_halos_are_cut_alike():
    assert blocks.tile_lengths((64, 64, 256), (2, 2, 2), 8) == (16, 16, 16)
    assert blocks.tile_lengths((64, 64, 32), (2, 0, 0), 8)[2] == 32
