"""
Multi-dimensional deconvolution
===============================

The waves that come up to a line of receivers are those that went down, convolved in time and
over all receivers with the response of the ground below. PyLops's ``MDC`` says that, and
``cgls`` inverts it for the response. The kernel is cut along frequency: its matrices are
independent of each other, and work in parallel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import pylops
from numpy.typing import NDArray
from pylops.utils.seismicevents import hyperbolic2d, hyperbolic3d, makeaxis
from pylops.utils.tapers import taper3d
from pylops.utils.wavelets import ricker

import pylops_dispatch

Array = NDArray[Any]

# %%
# Synthetic wavefields: three down-going events from sources at the surface to receivers at
# depth, the kernel; and three reflections from below the receivers, the model that is to be
# found. Times are on both sides of zero.

settings: dict[str, Any] = {"ox": -150, "dx": 10, "nx": 31, "oy": -250, "dy": 10, "ny": 51}
settings |= {"ot": 0, "dt": 0.004, "nt": 200, "f0": 20}
t, t_all, x, y = makeaxis(settings)
dt, dr, nt = settings["dt"], settings["dx"], t_all.size
wavelet = ricker(t[:41], settings["f0"])[0]

_, events = hyperbolic2d(x, t, [0.1, 0.25, 0.4], [1100, 1500, 2000], [1.0, 0.5, -0.6], wavelet)
truth = np.concatenate([np.zeros((x.size, t.size - 1)), events], axis=-1).T
truth = truth[:, :, np.newaxis]  # one virtual source

down = hyperbolic3d(x, y, t, [0.05, 0.15, 0.2], [1200] * 3, [1200] * 3, [1.0, 0.6, 2.0], wavelet)[1]
down = down * taper3d(t.size, (y.size, x.size), (5, 3), tapertype="hanning")
down = np.concatenate([np.zeros((y.size, x.size, t.size - 1)), down], axis=-1)

# %%
# Frequencies come first, and only those that the wavelet has are kept.

kernel: Array = np.moveaxis(np.fft.rfft(down, nt, axis=-1), -1, 0)[:72]
print("kernel:", *kernel.shape, "(frequencies, sources, receivers)")

# %%
# The same function makes the data and inverts them, from NumPy arrays and from dask arrays.


def deconvolve(as_kernel: Callable[[Array], Any], as_model: Callable[[Array], Any]) -> Any:
    """Return the operator, the up-going waves, the adjoint's answer and that of ``cgls``."""
    op = pylops.waveeqprocessing.MDC(as_kernel(kernel), nt=nt, nv=1, dt=dt, dr=dr)
    data = op @ as_model(truth)
    inverse = pylops.cgls(op, data, niter=30, tol=0)[0].reshape(truth.shape)
    return op, data, op.H @ data, inverse


op, *lazy = deconvolve(
    lambda a: da.from_array(a, chunks=(12, -1, -1)), lambda a: da.from_array(a, chunks=-1)
)
data, adjoint, inverse = da.compute(*lazy)

# %%
# What one application takes, before anything runs:

pylops_dispatch.plan(op, da.zeros(truth.shape))

# %%
# Both are equal to rounding.

_, *expected = deconvolve(np.asarray, np.asarray)
for name, found, other in zip(
    ("data", "adjoint", "inverse"), (data, adjoint, inverse), expected, strict=True
):
    difference = float(np.abs(found - other).max() / np.abs(other).max())
    print(f"{name:<8} dask - NumPy {difference:.0e}")
    assert difference < 1e-8

# %%

figure, axes = plt.subplots(1, 4, figsize=(12, 5), layout="constrained")
for ax, panel, title in zip(
    axes,
    (truth, data, adjoint, inverse),
    ("True response", "Up-going waves", "Adjoint: correlation", "cgls: deconvolution"),
    strict=True,
):
    clip = 0.7 * float(np.abs(panel).max())
    ax.imshow(
        panel[:, :, 0],
        cmap="gray",
        vmin=-clip,
        vmax=clip,
        aspect="auto",
        extent=(0, 1, t[-1], -t[-1]),
    )
    ax.set_ylim(t[-1], -0.1)
    ax.set_title(title)
    ax.set_xticks([])
axes[0].set_ylabel("time [s]")
