"""
Post-stack inversion
====================

A seismic section is inverted for the acoustic impedance of the ground. It is modelled with
PyLops's post-stack operator, noise is added, and PyLops's own ``cgls`` inverts it with a
smoothness term, once on dask arrays cut along the section and once on NumPy arrays.

The impedance model is one of PyLops's test data sets (``poststack_model.npz``), read from
``$PYLOPS_DISPATCH_DATA``, else from ``../shared/data`` next to the root of the repository.
Where there is none, layers with a fault take its place.

Run it with ``python examples/poststack.py [picture.png]``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import pylops
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import pylops_dispatch

TRACES = 200  # in one chunk; time is not cut
NOISE = 0.1  # standard deviation, relative to that of the data
SMOOTHNESS = 0.3
STEPS = 100
TOLERANCE = 1e-8


class Section(NamedTuple):
    """A section of log impedance, over time and position, and how it is measured."""

    truth: NDArray[np.float64]
    background: NDArray[np.float64]
    wavelet: NDArray[np.float64]
    noise: NDArray[np.float64]


class Answer(NamedTuple):
    """Modelled data, the inverted log impedance, and what it took."""

    data: NDArray[np.float64]
    model: NDArray[np.float64]
    seconds: float
    executions: int


def find_model() -> Path | None:
    """Return the path of the impedance model, or None if this machine has none."""
    beside = Path(sys.argv[0]).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("PYLOPS_DISPATCH_DATA") or beside)
    path = folder / "poststack_model.npz"
    return path if path.is_file() else None


def layers(n_times: int = 300, n_traces: int = 600) -> NDArray[np.float64]:
    """Return the impedance of bent layers that a fault cuts."""
    rng = np.random.default_rng(7)
    per_layer = rng.uniform(3000, 9000, 24)
    position = np.arange(n_traces)
    bent = 25 * np.sin(position / 110) + np.where(position > 0.6 * n_traces, 22, 0)
    time = np.arange(n_times)[:, np.newaxis] + bent
    layer = np.clip(time // 17, 0, per_layer.size - 1).astype(int)
    impedance: NDArray[np.float64] = per_layer[layer] + 4 * time
    return impedance


def load_section(path: Path | None) -> Section:
    """Read the impedance model and choose a background, a wavelet and noise.

    Parameters
    ----------
    path : Path or None
        Where the model is, None for synthetic layers.

    Returns
    -------
    Section
        The vertical axis is taken for two-way time, 4 ms a sample.
    """
    if path is None:
        truth = np.log(layers())
    else:
        with np.load(path) as file:
            truth = np.log(file["model"])
    background = gaussian_filter(truth, sigma=(25.0, 15.0), mode="nearest")
    wavelet, _, _ = pylops.utils.wavelets.ricker(np.arange(41) * 0.004, f0=15)
    noise = np.random.default_rng(2026).standard_normal(truth.shape)
    return Section(truth, background, wavelet, noise)


def invert(section: Section, as_array: Callable[[NDArray[np.float64]], Any]) -> Answer:
    """Model the data and invert them, on the arrays that `as_array` makes.

    Parameters
    ----------
    section : Section
        The true model, the background that the inversion starts from, wavelet, noise.
    as_array : callable
        Takes a NumPy array and returns the array to compute with.

    Returns
    -------
    Answer
        As NumPy arrays.
    """
    dims = section.truth.shape
    with pylops_dispatch.ledger() as log:
        start = time.perf_counter()
        modelling = pylops.avo.poststack.PoststackLinearModelling(
            section.wavelet / 2, nt0=dims[0], spatdims=dims[1]
        )
        clean = modelling @ as_array(section.truth)
        data = clean + NOISE * clean.std() * as_array(section.noise)

        # Find the update u of the background m: minimise
        # |data - modelling (m + u)|^2 + |SMOOTHNESS (second derivative along the section) u|^2.
        background = as_array(section.background)
        roughness = pylops.SecondDerivative(dims, axis=1)
        system = pylops.VStack([modelling, SMOOTHNESS * roughness])
        # The zeros below the data come from an operator too, so that the data keep their chunks.
        extend = pylops.VStack([pylops.Identity(dims), pylops.Zero(dims)])
        residual = extend @ (data - modelling @ background)
        update = pylops.cgls(system, residual, niter=STEPS, tol=0.0)[0]
        model = background + update
        data, model = dask.compute(data, model)
        seconds = time.perf_counter() - start
    return Answer(data, model, seconds, len(log))


def rms(difference: NDArray[np.float64]) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(difference**2)))


def picture(section: Section, answer: Answer, path: Path) -> None:
    """Draw the true, the background and the inverted impedance, and the data."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    impedance = [
        (axes[0, 0], "True impedance", section.truth),
        (axes[1, 0], "Background", section.background),
        (axes[1, 1], "Inverted with PyLops on dask arrays", answer.model),
    ]
    low, high = np.exp(np.percentile(section.truth, [0.5, 99.5]))
    for ax, title, model in impedance:
        mapped = ax.imshow(np.exp(model), cmap="viridis", vmin=low, vmax=high, aspect="auto")
        ax.set_title(title)
    figure.colorbar(mapped, ax=axes[:, 0], location="left", shrink=0.6, label="impedance")
    clip = float(np.percentile(np.abs(answer.data), 99))
    axes[0, 1].imshow(answer.data, cmap="gray", vmin=-clip, vmax=clip, aspect="auto")
    axes[0, 1].set_title("Data")
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    figure.savefig(path, dpi=130)


def main() -> int:
    """Run the example.

    Returns
    -------
    int
        The exit status: 0 if dask and NumPy agree.
    """
    parser = argparse.ArgumentParser(description="Post-stack inversion with PyLops.")
    parser.add_argument("picture", nargs="?", type=Path)
    path: Path | None = parser.parse_args().picture

    found = find_model()
    section = load_section(found)
    n_times, n_traces = section.truth.shape
    with dask.config.set(scheduler="threads"):
        on_dask = invert(section, lambda array: da.from_array(array, chunks=(n_times, TRACES)))
        on_numpy = invert(section, np.asarray)

    error = rms(on_dask.model - on_numpy.model) / rms(on_numpy.model)
    before = rms(section.background - section.truth)
    after = rms(on_dask.model - section.truth)
    print(f"impedance   {found.name if found else 'synthetic layers'}")
    print(f"model       {n_times} times x {n_traces} traces, dask chunks of {TRACES} traces")
    print(f"solver      pylops.cgls, {STEPS} steps")
    print(
        f"dask        {on_dask.seconds:.2f} s, {on_dask.executions} executions (threaded scheduler)"
    )
    print(f"NumPy       {on_numpy.seconds:.2f} s")
    print(f"agreement   {error:.1e} (relative, rms)")
    print(f"error       rms error of its log {before:.4f} background, {after:.4f} inverted")
    if path is not None:
        picture(section, on_dask, path)
        print(f"picture     {path}")
    if not error < TOLERANCE:
        print("dask and NumPy disagree", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__" and (status := main()):
    sys.exit(status)
