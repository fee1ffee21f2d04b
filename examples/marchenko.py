"""
Marchenko redatuming
====================

From reflections measured at the surface, and an estimate of when waves from a point in the
ground arrive there first, PyLops's ``Marchenko`` finds the whole wavefield at that point, with
all that the layers above it scatter to and fro. The reflection response is cut along frequency;
each application of the operator is a product of matrices for every frequency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import pylops
from numpy.typing import NDArray
from pylops.utils.wavelets import ricker

import pylops_dispatch

Array = NDArray[Any]

# %%
# A ground of one velocity and four densities: waves go straight, and reflection does not depend
# on the angle. So what is measured, and what is to be found, are known exactly, wavenumber by
# wavenumber.

velocity, dx, dt, nx, nt = 2000.0, 10.0, 0.004, 51, 180
interfaces = [(150.0, 0.4), (300.0, -0.5), (500.0, 0.5)]  # depth, reflection coefficient
focus = 400.0

n_k, n_t = 4 * nx, 8 * nt  # so many that nothing comes round again
omega = 2 * np.pi * np.fft.rfftfreq(n_t, dt)
k = 2 * np.pi * np.fft.fftfreq(n_k, dx)
vertical = np.conj(np.sqrt((omega / velocity) ** 2 - k[:, np.newaxis] ** 2 + 0j))


def scattering(layers: Sequence[tuple[float, float]], top: float = 0.0) -> tuple[Array, ...]:
    """Return reflection from above, transmission, and reflection from below, of interfaces."""
    above, through, below = np.zeros_like(vertical), np.ones_like(vertical), 0 * vertical
    for depth, r in layers:
        phase = np.exp(-1j * vertical * (depth - top))
        again = 1 / (1 - below * phase**2 * r)
        above = above + through**2 * phase**2 * r * again
        below = -r + (1 - r**2) * phase**2 * below * again
        through = through * phase * np.sqrt(1 - r**2) * again
        top = depth
    return above, through, below


def in_time(spectrum: Array) -> Array:
    """Return traces around x = 0 of a spectrum over wavenumber and frequency."""
    traces = np.fft.irfft(np.fft.ifft(spectrum, axis=0), n_t, axis=1)
    return np.asarray(np.roll(traces, n_k // 2, axis=0))


hertz = omega / 2 / np.pi
band = np.clip((100 - hertz) / 30, 0, 1)
source = ricker(np.arange(31) * dt, 20)[0]
pulse = np.fft.rfft(np.roll(np.pad(source, (0, n_t - source.size)), -(source.size // 2)))

shot = in_time(scattering(interfaces)[0] * band)[:, :nt] / (dx * dt)
middle, trace = n_k // 2, np.arange(nx)
reflection = shot[middle + trace[:, np.newaxis] - trace]  # sources, receivers, time

# %%
# The point lies above the last interface. What is there is known too, to compare with.

part = slice(middle - nx // 2, middle + nx // 2 + 1)
direct = in_time(np.exp(-1j * vertical * focus) * pulse)[part, :nt]
arrival = np.hypot((trace - nx // 2) * dx, focus) / velocity

overburden = [layer for layer in interfaces if layer[0] < focus]
_, through, below = scattering(overburden)
step = np.exp(-1j * vertical * (focus - overburden[-1][0]))
under = scattering(interfaces[len(overburden) :], focus)[0]
down = through * step / (1 - below * step**2 * under)
true = in_time((down + under * down) * pulse)[part, :nt]

# %%
# The same function finds the wavefield from NumPy arrays and from dask arrays.

both_sides = np.pad(reflection, ((0, 0), (0, 0), (nt - 1, 0)))
spectra: Array = np.fft.rfft(both_sides, axis=-1)[..., :144] / np.sqrt(2 * nt - 1)


def redatum(as_spectra: Callable[[Array], Any]) -> tuple[Any, Any]:
    """Return the wavefield at the point by one correlation, and by Marchenko's equations."""
    method = pylops.waveeqprocessing.Marchenko(
        as_spectra(spectra), dt=dt, nt=nt, dr=dx, toff=0.04, nsmooth=5
    )
    _, _, single, up, down = method.apply_onepoint(
        arrival, G0=direct, rtm=True, greens=True, iter_lim=6
    )
    return single, up + down


with pylops_dispatch.ledger() as log:
    single, found = da.compute(*redatum(lambda a: da.from_array(a, chunks=(-1, -1, 36))))
log

# %%
# Both agree, and the answer with what is known.

for other, mine in zip(redatum(np.asarray), (single, found), strict=True):
    difference = float(np.abs(other - mine).max() / np.abs(other).max())
    print(f"dask - NumPy {difference:.0e}")
    assert difference < 1e-8

found, single = found[:, nt - 1 :], single[:, nt - 1 :]
likeness = float(np.corrcoef(found[nx // 2], true[nx // 2])[0, 1])
print(f"correlation of the middle trace with the true one: {likeness:.3f}")

# %%

figure, axes = plt.subplots(1, 4, figsize=(12, 5), layout="constrained")
for ax, panel, title in zip(
    axes,
    (reflection[nx // 2], single, found, true),
    ("Reflections of one source", "Single correlation", "Marchenko", "True"),
    strict=True,
):
    clip = 0.3 * float(np.abs(panel).max())
    ax.imshow(panel.T, cmap="gray", vmin=-clip, vmax=clip, aspect="auto", extent=(0, 1, nt * dt, 0))
    ax.set_title(title)
    ax.set_xticks([])
axes[0].set_ylabel("time [s]")
