"""
Restoring an elevation model
============================

A real elevation model (metres above sea level, over the Jacksboro fault in Tennessee; it comes
with Matplotlib) is blurred, half of its rows are dropped, and noise is added. PyLops's own
``cgls`` then restores it, once on dask arrays and once on NumPy arrays, by the same function,
and the two answers are compared.

Run it with ``python examples/demo.py [picture.png]``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import dask
import dask.array as da
import matplotlib.cbook as cbook
import numpy as np
import pylops
from matplotlib import colormaps
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from numpy.typing import NDArray

import pylops_dispatch

CHUNKS = (172, 202)  # two by two
BLUR = 2.0  # standard deviation, in samples
NOISE = 2.0  # standard deviation, in metres
SMOOTHNESS = 0.1
STEPS = 60
TOLERANCE = 1e-8


class Survey(NamedTuple):
    """What was measured, and what would have been measured without error."""

    elevation: NDArray[np.float64]
    rows: NDArray[np.int64]
    noise: NDArray[np.float64]
    blur: NDArray[np.float64]


class Answer(NamedTuple):
    """A restored model, the residual norm after each step, and what it took."""

    model: NDArray[np.float64]
    data: NDArray[np.float64]
    cost: NDArray[np.float64]
    seconds: float
    executions: int
    tasks: int


def load_survey() -> Survey:
    """Read the elevation model and draw what the measurement does to it."""
    dem: Any = cbook.get_sample_data("jacksboro_fault_dem.npz")
    with dem:
        elevation = dem["elevation"].astype(np.float64)
    rng = np.random.default_rng(2026)
    n_rows = elevation.shape[0]
    inner = rng.choice(np.arange(1, n_rows - 1), n_rows // 2 - 2, replace=False)
    rows = np.sort(np.concatenate([[0, n_rows - 1], inner]))
    noise = NOISE * rng.standard_normal(elevation.shape)
    half = int(4 * BLUR)
    profile = np.exp(-0.5 * (np.arange(-half, half + 1) / BLUR) ** 2)
    blur = np.outer(profile, profile)
    return Survey(elevation, rows, noise, blur / blur.sum())


def restore(survey: Survey, as_array: Callable[[NDArray[np.float64]], Any]) -> Answer:
    """Simulate the measurement and invert it, on the arrays that `as_array` makes.

    Parameters
    ----------
    survey : Survey
        What is measured.
    as_array : callable
        Takes a NumPy array and returns the array to compute with.

    Returns
    -------
    Answer
        The restored model and the data, as NumPy arrays, and what they took.
    """
    mean = survey.elevation.mean()
    truth = as_array(survey.elevation - mean)
    dims = survey.elevation.shape

    with pylops_dispatch.ledger() as log:
        start = time.perf_counter()
        centre = (survey.blur.shape[0] // 2, survey.blur.shape[1] // 2)
        blur = pylops.signalprocessing.Convolve2D(dims, h=survey.blur, offset=centre)
        keep = pylops.Restriction(dims, survey.rows, axis=0)
        measure = keep @ blur
        data = measure @ truth + keep @ as_array(survey.noise)

        # Minimise |measure m - data|^2 + |SMOOTHNESS laplacian m|^2.
        system = pylops.VStack([measure, SMOOTHNESS * pylops.Laplacian(dims, edge=True)])
        # The zeros below the data come from an operator too, so that the data keep their chunks.
        extend = pylops.VStack([pylops.Identity(data.shape), pylops.Zero(dims, data.shape)])
        model, _, _, _, _, cost = pylops.cgls(system, extend @ data, niter=STEPS, tol=0.0)
        model, data = dask.compute(model, data)
        seconds = time.perf_counter() - start
    return Answer(
        model=model + mean,
        data=data + mean,
        cost=np.asarray(cost, dtype=np.float64),
        seconds=seconds,
        executions=len(log),
        tasks=log.tasks,
    )


def fill_rows(survey: Survey, data: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put straight lines between the measured rows: the answer without an inversion."""
    at = np.arange(survey.elevation.shape[0])
    return np.stack([np.interp(at, survey.rows, column) for column in data.T], axis=1)


def rms(difference: NDArray[np.float64]) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(difference**2)))


def picture(survey: Survey, on_dask: Answer, on_numpy: Answer, path: Path) -> None:
    """Draw the true, the observed and the restored elevation, and the cost."""
    low, high = np.percentile(survey.elevation, [0.5, 99.5])
    colours = colormaps["gist_earth"].with_extremes(bad="0.85")
    light = LightSource(azdeg=315, altdeg=40)

    def shaded(elevation: NDArray[np.float64]) -> Any:
        return light.shade(
            elevation, cmap=colours, vmin=low, vmax=high, vert_exag=0.02, blend_mode="soft"
        )

    observed = np.full(survey.elevation.shape, np.nan)
    observed[survey.rows] = on_dask.data
    before = rms(fill_rows(survey, on_dask.data) - survey.elevation)
    after = rms(on_dask.model - survey.elevation)

    figure = Figure(figsize=(11, 9.2), layout="constrained")
    axes = figure.subplots(2, 2)
    figure.suptitle("PyLops cgls on dask arrays: a blurred elevation model, half of its rows lost")
    axes[0, 0].imshow(shaded(survey.elevation))
    axes[0, 0].set_title("True elevation")
    mapped = axes[0, 1].imshow(observed, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axes[0, 1].set_title(f"Observed: {survey.rows.size} of {survey.elevation.shape[0]} rows, noise")
    axes[1, 0].imshow(shaded(on_dask.model))
    axes[1, 0].set_title(f"Restored: {after:.1f} m rms error (interpolated: {before:.1f} m)")
    for ax in (axes[0, 0], axes[0, 1], axes[1, 0]):
        ax.set_xticks([])
        ax.set_yticks([])
    figure.colorbar(mapped, ax=axes[0, 1], label="metres", shrink=0.9)

    cost = axes[1, 1]
    cost.semilogy(on_dask.cost, lw=5, color="#f4a261", label="dask arrays")
    cost.semilogy(on_numpy.cost, lw=1.5, color="#264653", label="NumPy arrays")
    cost.set_title("Residual norm of data and smoothness")
    cost.set_xlabel("step of cgls")
    cost.grid(alpha=0.3, which="both")
    cost.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> int:
    """Run the demo.

    Returns
    -------
    int
        The exit status: 0 if dask and NumPy agree.
    """
    parser = argparse.ArgumentParser(description="Restore a real elevation model with PyLops.")
    parser.add_argument("picture", nargs="?", type=Path, default=Path("demo.png"))
    path: Path = parser.parse_args().picture

    survey = load_survey()
    with dask.config.set(scheduler="threads"):
        on_dask = restore(survey, lambda array: da.from_array(array, chunks=CHUNKS))
        on_numpy = restore(survey, np.asarray)

    shape = survey.elevation.shape
    chunks = da.core.normalize_chunks(CHUNKS, shape)
    before = rms(fill_rows(survey, on_dask.data) - survey.elevation)
    after = rms(on_dask.model - survey.elevation)
    model_error = rms(on_dask.model - on_numpy.model) / rms(on_numpy.model)
    data_error = rms(on_dask.data - on_numpy.data) / rms(on_numpy.data)
    print(f"model       {shape[0]} x {shape[1]} samples, dask chunks {chunks}")
    print(f"data        {survey.rows.size} x {shape[1]} samples: blurred, half of the rows, noise")
    print(f"solver      pylops.cgls, {on_dask.cost.size - 1} steps")
    print(
        f"dask        {on_dask.seconds:.2f} s, "
        f"{on_dask.executions} executions, {on_dask.tasks} tasks (threaded scheduler)"
    )
    print(f"NumPy       {on_numpy.seconds:.2f} s, {on_numpy.executions} executions")
    print(f"agreement   model {model_error:.1e}, data {data_error:.1e} (relative, rms)")
    print(f"elevation   rms error {before:.1f} m interpolated, {after:.1f} m restored")

    picture(survey, on_dask, on_numpy, path)
    print(f"picture     {path}")

    if not max(model_error, data_error) < TOLERANCE:
        print("dask and NumPy disagree", file=sys.stderr)
        return 1
    if not after < before:
        print("the inversion did not improve on interpolation", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__" and (status := main()):
    sys.exit(status)
