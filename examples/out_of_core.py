"""
Vectors larger than the memory
==============================

A solve for vectors that are larger than the memory of the workers, with a picture of where
memory goes. It takes some minutes, and is not run when these pages are built.

A cube is written to Zarr block by block, blurred into data, and deblurred again with PyLops's
own ``cgls`` on a cluster of two processes with 1 GiB of memory each. Each vector of the solve
has 1.5 GiB: blocks that are not needed wait on disk, and none ever comes to this process.

Run ``python examples/out_of_core.py [picture.png] [--vector 1.5GiB] [--memory 1GiB]``.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import psutil
import pylops
from dask.utils import format_bytes, parse_bytes
from numpy.typing import NDArray

import pylops_dispatch

BLOCK = 100  # samples along each axis: 8 MB
STEPS = 5


def dims_of(nbytes: int) -> tuple[int, int, int]:
    """Return the shape of a cube of float64, 800 by 800 samples in its slices."""
    return (max(BLOCK, round(nbytes / (800 * 800 * 8))), 800, 800)


def blocky(block_info: Any = None) -> NDArray[np.float64]:
    """Return one block of the model: layers, and boxes in them."""
    (z0, z1), (y0, y1), (x0, x1) = block_info[None]["array-location"]
    z, y, x = np.ogrid[z0:z1, y0:y1, x0:x1]
    layers = np.sin(2 * np.pi * z / 70)
    boxes = ((z // 23 + y // 31 + x // 41) % 3 == 0).astype(float)
    model: NDArray[np.float64] = layers + boxes
    return model


@contextmanager
def memory_trace() -> Iterator[list[tuple[float, float, list[float]]]]:
    """Record, twice a second, the memory in use by this process and by the workers, in bytes."""
    trace: list[tuple[float, float, list[float]]] = []
    finished = threading.Event()
    own = psutil.Process()
    start = time.perf_counter()

    def watch() -> None:
        while not finished.wait(0.5):
            workers = []
            for child in own.children():
                try:
                    if "spawn_main" in " ".join(child.cmdline()):
                        workers.append(float(child.memory_info().rss))
                except psutil.NoSuchProcess:
                    continue
            trace.append((time.perf_counter() - start, float(own.memory_info().rss), workers))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield trace
    finally:
        finished.set()
        thread.join()


def solve(dims: tuple[int, int, int], folder: Path) -> tuple[Any, float]:
    """Make the data, deblur them, and write the result; return the operator and the misfit."""
    chunks = (BLOCK,) * len(dims)
    smoothing = pylops.Smoothing1D(5, dims, axis=0) @ pylops.Smoothing1D(5, dims, axis=1)
    op = pylops.Identity(dims) + smoothing
    sizes = da.core.normalize_chunks(chunks, dims)
    truth = da.map_blocks(blocky, chunks=sizes, dtype=np.float64, meta=np.empty((0, 0, 0)))
    (op @ truth).to_zarr(folder / "data.zarr")
    y = da.from_zarr(folder / "data.zarr")
    x, *_, cost = pylops.cgls(op, y, niter=STEPS, tol=0.0)
    x.to_zarr(folder / "model.zarr")
    return op, float(cost[-1])


def check(folder: Path, misfit: float) -> float:
    """Compare a part of the result with PyLops on NumPy, and the misfit with its own data.

    Returns
    -------
    float
        Largest difference, relative to the largest value.
    """
    y, x = (da.from_zarr(folder / name) for name in ("data.zarr", "model.zarr"))
    middle = y.shape[0] // 2
    window = (slice(middle - 20, middle + 20), slice(380, 420), slice(380, 420))
    part = x[window].compute()
    dims = part.shape
    op = pylops.Identity(dims) + (
        pylops.Smoothing1D(5, dims, axis=0) @ pylops.Smoothing1D(5, dims, axis=1)
    )
    inner = (slice(5, -5),) * 3
    residual = (y[window].compute() - op @ part)[inner]
    whole = pylops.Identity(y.shape) + (
        pylops.Smoothing1D(5, y.shape, axis=0) @ pylops.Smoothing1D(5, y.shape, axis=1)
    )
    lazy = y - whole @ x
    found, norm = dask.compute(lazy[window][inner], da.sqrt((lazy**2).sum()))
    np.testing.assert_allclose(norm, misfit, rtol=1e-6)
    return float(np.abs(found - residual).max() / np.abs(part).max())


def picture(
    trace: list[tuple[float, float, list[float]]], vector: int, limit: int, path: Path
) -> None:
    """Draw the memory in use over time, next to that of one vector."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    seconds = [t for t, _, _ in trace]
    gib = 2**30
    for worker in range(max(len(w) for _, _, w in trace)):
        values = [w[worker] / gib if worker < len(w) else np.nan for _, _, w in trace]
        axes.plot(seconds, values, label=f"worker {worker + 1}")
    axes.plot(seconds, [own / gib for _, own, _ in trace], "k", label="this process")
    axes.axhline(limit / gib, color="0.5", ls="--", label="limit of a worker")
    axes.axhline(vector / gib, color="C3", ls=":", label="one vector of the solve")
    axes.set(xlabel="time [s]", ylabel="memory in use [GiB]", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("picture", nargs="?", type=Path, default=Path("out_of_core.png"))
    parser.add_argument("--vector", default="1.5GiB", help="size of a vector of the solve")
    parser.add_argument("--memory", default="1GiB", help="memory limit of each of the workers")
    arguments = parser.parse_args()
    dims, limit = dims_of(parse_bytes(arguments.vector)), parse_bytes(arguments.memory)
    vector = 8 * int(np.prod(dims))
    with tempfile.TemporaryDirectory() as name, memory_trace() as trace:
        folder = Path(name)
        spill = {"temporary-directory": name}
        with (
            dask.config.set(spill),
            pylops_dispatch.client(n_workers=2, threads_per_worker=1, memory_limit=limit),
        ):
            start = time.perf_counter()
            _, misfit = solve(dims, folder)
            seconds = time.perf_counter() - start
            difference = check(folder, misfit)
    own = max(own for _, own, _ in trace)
    largest = max(max(workers, default=0.0) for _, _, workers in trace)
    print(f"{STEPS} steps of cgls on vectors of {format_bytes(vector)}: {seconds:.0f} s")
    print(f"largest memory of a worker {format_bytes(int(largest))} of {format_bytes(limit)}")
    print(f"largest memory of this process {format_bytes(int(own))}")
    print(f"misfit {misfit:.6g}; difference from NumPy on a part of it {difference:.1e}")
    picture(trace, vector, limit, arguments.picture)
    print(f"memory over time: {arguments.picture}")


if __name__ == "__main__":
    main()
