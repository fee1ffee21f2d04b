"""
Deblurring a photograph
=======================

A photograph (it comes with Matplotlib) is blurred and noise is added. PyLops's ``cgls`` and
``fista`` restore it from dask arrays cut into two, and the answers are compared with
those from NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import pylops
from matplotlib import cbook
from numpy.typing import NDArray

import pylops_dispatch

Image = NDArray[np.float64]

# %%
# The photograph, in shades of grey between 0 and 1, and a blur of nine samples.

path: Any = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
photograph = plt.imread(path)
truth: Image = photograph[::3, ::3, :3].mean(axis=2)[10:138, 20:148] / 255
dims = truth.shape

t = np.arange(-6, 7) / 1.5
h = np.exp(-(t[:, None] ** 2 + t[None, :] ** 2) / 2)
h /= h.sum()
noise = 0.004 * np.random.default_rng(1).standard_normal(dims)

blur = pylops.signalprocessing.Convolve2D(dims, h=h, offset=(6, 6))

# %%
# The same function restores the photograph on any arrays. ``cgls`` damps the curvature of the
# image; ``fista`` wants few wavelets, which keeps edges.

wavelets = pylops.signalprocessing.DWT2D(dims, wavelet="sym4", level=3)
synthesis = wavelets.H


def restore(as_array: Callable[[Image], Any]) -> tuple[Any, Any, Any]:
    """Return the blurred image, and what ``cgls`` and ``fista`` make of it."""
    data = blur @ as_array(truth) + as_array(noise)

    system = pylops.VStack([blur, 0.05 * pylops.Laplacian(dims, edge=True)])
    extend = pylops.VStack([pylops.Identity(dims), pylops.Zero(dims)])
    smooth = pylops.cgls(system, extend @ data, niter=30, tol=0)[0]

    found = pylops.fista(
        blur @ synthesis, data.ravel(), niter=40, eps=1e-3, alpha=1.0, tol=0
    )[0]  # fmt: skip
    return data, smooth.reshape(dims), synthesis @ found.reshape(synthesis.dims)


# %%
# On dask arrays each step of a solver is one execution. The ledger says what they were.

with pylops_dispatch.ledger() as log:
    data, smooth, sparse = (
        x.compute() for x in restore(lambda x: da.from_array(x, chunks=(64, 128)))
    )
log

# %%
# NumPy arrays go in and come out of the same function, and the numbers are the same.


def error(found: Image, expected: Image) -> float:
    """Return the root mean square of a difference."""
    return float(np.sqrt(np.mean((found - expected) ** 2)))


expected = restore(np.asarray)
for name, found, other in zip(
    ("data", "cgls", "fista"), (data, smooth, sparse), expected, strict=True
):
    difference = float(np.abs(found - other).max())
    print(f"{name:<6}error {error(found, truth):.4f}, dask - NumPy {difference:.0e}")
    assert difference < 1e-8

# %%

figure, axes = plt.subplots(1, 4, figsize=(12, 3.8), layout="constrained")
for ax, image, title in zip(
    axes,
    (truth, data, smooth, sparse),
    ("True", "Blurred, noise", "cgls, smooth", "fista, wavelets"),
    strict=True,
):
    ax.imshow(image, cmap="gray", vmin=0, vmax=1)
    ax.set_title(f"{title}: {error(image, truth):.3f}")
    ax.axis("off")
