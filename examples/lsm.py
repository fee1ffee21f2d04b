"""
Least-squares migration
=======================

Two interfaces in the ground reflect waves from sources at the surface to receivers there.
PyLops's ``LSM`` models that with a Kirchhoff operator, which is a sum over sources, and inverts
it. On dask arrays the shots are cut along the sources.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import pylops
from numpy.typing import NDArray
from pylops.utils.wavelets import ricker

import pylops_dispatch

Array = NDArray[np.float64]

# %%
# The reflectivity, and where sources and receivers are.

nx, nz, nt = 61, 48, 160
x, z, t = 4.0 * np.arange(nx), 4.0 * np.arange(nz), 0.002 * np.arange(nt)
truth = np.zeros((nx, nz))
truth[:, 20] = 1.0
truth[np.arange(nx), (28 + 10 * np.arange(nx) / nx).astype(int)] = -0.8

sources = np.stack([np.linspace(x[2], x[-3], 5), np.full(5, 4.0)])
receivers = np.stack([np.linspace(x[1], x[-2], 16), np.full(16, 4.0)])
wavelet, _, centre = ricker(t[:41], f0=25)

# PyLops's own advice on tables of travel times, of which this example has none
warnings.filterwarnings("ignore", message="A new implementation of Kirchhoff")
lsm = pylops.waveeqprocessing.LSM(
    z, x, t, sources, receivers, 1000.0, wavelet, centre, mode="analytic", engine="numpy"
)
modelling = lsm.Demop

# %%
# The same function models the shots, migrates them with the adjoint, and inverts them.


def migrate(as_model: Callable[[Array], Any]) -> tuple[Any, Any, Any]:
    """Return shots, their migration and their least-squares migration."""
    shots = modelling @ as_model(truth)
    inverse = lsm.solve(shots, solver=pylops.cgls, niter=8, tol=0)
    return shots, modelling.H @ shots, inverse.reshape(truth.shape)


with pylops_dispatch.ledger() as log:
    shots, migrated, inverse = da.compute(*migrate(lambda a: da.from_array(a, chunks=-1)))
log

# %%
# NumPy arrays give the same.

expected = migrate(np.asarray)
for name, found, other in zip(
    ("shots", "migration", "inverse"), (shots, migrated, inverse), expected, strict=True
):
    difference = float(np.abs(found - other).max() / np.abs(other).max())
    print(f"{name:<10} dask - NumPy {difference:.0e}")
    assert difference < 1e-8

# %%

figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")
for ax, panel, title in zip(
    axes.flat,
    (truth, shots[shots.shape[0] // 2], migrated, inverse),
    ("True reflectivity", "A shot", "Migration", "Least-squares migration"),
    strict=True,
):
    clip = 0.8 * float(np.abs(panel).max())
    ax.imshow(panel.T, cmap="gray", vmin=-clip, vmax=clip, aspect="auto")
    ax.set_title(title)
    ax.set_xticks([])
    ax.set_yticks([])
