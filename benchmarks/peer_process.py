"""What the processes of ``peers.py`` share: sizes and numbers, memory, and the way back.

Imports neither dask nor MPI, so that no peer pays for the libraries of another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STEPS = {"poststack": 10, "mdd-1": 30, "mdd-32": 5, "vstack": 20, "fista": 10}
SMOOTHNESS = 0.3
MATRICES = 8
FILTERS = 16


def cube(n: int, scale: float) -> tuple[int, int, int]:
    """Return the dims of a cube whose axes are cut into four."""
    n = 4 * max(2, round(n * scale ** (1 / 3) / 4))
    return n, n, n


def section_dims(scale: float) -> tuple[int, int, int]:
    """Return samples in time, and two lengths in space, for the post-stack inversion."""
    nt, ny, nx = cube(128, scale)
    return max(nt, 64), ny, nx  # more than the wavelet has


def kernel_dims(scale: float) -> tuple[int, int, int, int]:
    """Return odd samples in time, frequencies, sources and receivers, for MDC and MDD."""
    n = 4 * max(2, round(320 * scale**0.5 / 4))
    return 511, 192, n, n


def matrix_dims(scale: float) -> tuple[int, int]:
    """Return the shape of each of the matrices."""
    return max(16, round(3000 * scale**0.5)), max(32, round(6000 * scale**0.5))


def filter_dims(scale: float) -> tuple[int, int]:
    """Return the shape of what each of the filters runs over."""
    return max(8, round(200 * scale)), 1000


def wavelet(n: int = 41) -> np.ndarray:
    """Return a filter of odd length whose absolute values add up to one."""
    t = np.linspace(-3, 3, n)
    h = (1 - t**2) * np.exp(-(t**2) / 2)
    return h / np.abs(h).sum()


def numbers(*shape: int, seed: int = 1, dtype: str = "float64") -> np.ndarray:
    """Return random numbers, the same ones for all peers."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind != "c":
        return rng.standard_normal(shape)
    x = np.empty(shape, dtype)
    x.real, x.imag = rng.standard_normal(shape), rng.standard_normal(shape)
    return x


def reset_peak() -> None:
    """Forget the memory that setting up took, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the largest number of bytes that this process had in memory."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def arguments(description: str | None, work: Sequence[str]) -> argparse.Namespace:
    """Return what the command line of one peer asks for."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("peer")
    parser.add_argument("work", choices=work)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--save", type=Path, help="file for the result")
    return parser.parse_args()


def tell(seconds: float, memory: int, result: Callable[[], Any], save: Path | None) -> None:
    """Print what was measured, and write the result where that is asked for."""
    if save is not None:
        np.save(save, np.asarray(result()).ravel())
    print(json.dumps({"seconds": seconds, "peak": memory}), flush=True)
