"""Timing two ways of doing the same thing alternately, and printing the outcome.

What the scripts in this folder share. Other work on the machine slows whatever happens to
run, so the two ways take turns in one process, and medians and their ratio are what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pylops
from dask import threaded
from dask.callbacks import Callback

import pylops_dispatch


@dataclass
class Comparison:
    """Seconds that NumPy PyLops and pylops_dispatch took for the same thing.

    Attributes
    ----------
    name : str
        What was done.
    numpy : list of float
        Seconds of each repeat of PyLops on NumPy arrays, with the dispatch disabled.
    dispatch : list of float
        Seconds of each repeat of PyLops on dask arrays.
    numpy_cpu, dispatch_cpu : list of float
        The same in seconds of processor time, over all threads of the process. Where other
        work keeps the processors busy, their ratio says more than that of the seconds.
    free : list of float
        Processors that threads of plain arithmetic got just before each repeat.
    error : float
        Largest difference of the results, relative to the largest value.
    tolerance : float
        Largest `error` that counts as equal.
    target : float or None
        Ratio asked for.
    extra : dict
        Other columns to print.
    """

    name: str
    numpy: list[float]
    dispatch: list[float]
    numpy_cpu: list[float]
    dispatch_cpu: list[float]
    free: list[float]
    error: float
    tolerance: float
    target: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times faster pylops_dispatch was, by medians."""
        return statistics.median(self.numpy) / statistics.median(self.dispatch)

    @property
    def cpu_ratio(self) -> float:
        """How many times less processor time pylops_dispatch took, by medians."""
        return statistics.median(self.numpy_cpu) / statistics.median(self.dispatch_cpu)

    @property
    def equal(self) -> bool:
        """Whether the results agree."""
        return self.error <= self.tolerance

    def row(self) -> dict[str, str]:
        """Return the row of the printed table."""
        spread = [n / d for n, d in zip(self.numpy, self.dispatch, strict=True)]
        return {
            "case": self.name,
            "NumPy [s]": f"{statistics.median(self.numpy):.3f}",
            "dask [s]": f"{statistics.median(self.dispatch):.3f}",
            "ratio": f"{self.ratio:.2f}",
            "(each)": f"{min(spread):.1f}-{max(spread):.1f}",
            "CPU ratio": f"{self.cpu_ratio:.2f}",
            "free": f"{statistics.median(self.free):.1f}",
            "target": "" if self.target is None else f"{self.target:g}",
            "met": "" if self.target is None else ("yes" if self.ratio >= self.target else "NO"),
            "difference": "none" if self.error == 0 else f"{self.error:.0e}",
            "equal": "yes" if self.equal else "NO",
            **{key: str(value) for key, value in self.extra.items()},
        }

    def record(self) -> dict[str, Any]:
        """Return what goes into the JSON file."""
        return {**vars(self), "ratio": self.ratio, "cpu_ratio": self.cpu_ratio, "equal": self.equal}


def compare(
    name: str,
    plain: Callable[[], Any],
    dispatched: Callable[[], Any],
    *,
    repeats: int,
    workers: int,
    target: float | None = None,
    tolerance: float = 1e-12,
    trial: float = 0.5,
) -> Comparison:
    """Run two functions alternately, and compare their results once.

    Parameters
    ----------
    name : str
        What they do.
    plain : callable
        Runs PyLops on NumPy arrays. The dispatch is disabled meanwhile.
    dispatched : callable
        Runs PyLops on dask arrays, and returns a dask array in memory.
    repeats : int
        How often each runs.
    workers : int
        Threads of dask.
    target : float, optional
        Ratio asked for.
    tolerance : float, optional
        Largest relative difference that counts as equal.
    trial : float, optional
        Seconds that it takes to find out how many processors are free, before each repeat.

    Returns
    -------
    Comparison
        The seconds, and the difference of the results.
    """
    result = Comparison(name, [], [], [], [], [], 0.0, tolerance, target)
    for repeat in range(repeats):
        result.free.append(processors_free(workers, trial))
        with pylops_dispatch.disabled():
            expected = timed(plain, result.numpy, result.numpy_cpu)
        found = timed(dispatched, result.dispatch, result.dispatch_cpu)
        if repeat == 0:
            result.error = difference(found, expected)
        # the results must not be alive in the next repeat: it would need other memory
        del expected, found
    return result


def timed(function: Callable[[], Any], seconds: list[float], cpu: list[float]) -> Any:
    """Return what a function returns, and add the times that it took to the lists."""
    start, cpu_start = time.perf_counter(), time.process_time()
    result = function()
    seconds.append(time.perf_counter() - start)
    cpu.append(time.process_time() - cpu_start)
    return result


def difference(found: Any, expected: np.ndarray) -> float:
    """Return the largest difference of a dask array from what NumPy gave, relative to it."""
    if not isinstance(found, da.Array):
        raise TypeError(f"expected a dask array, got {type(found).__name__}")
    values = found.compute()
    if values.shape != expected.shape or values.dtype != expected.dtype:
        raise ValueError(
            f"expected {expected.dtype}{expected.shape}, got {values.dtype}{values.shape}"
        )
    largest = float(np.abs(expected).max())
    return float(np.abs(values - expected).max()) / (largest or 1.0)


class CountingScheduler:
    """Dask's threaded scheduler, which counts what it is asked to run.

    Attributes
    ----------
    tasks : list of int
        Tasks that ran in each execution, in order. Data that is in memory is not a task.
    seconds : float
        Time spent in running graphs, as opposed to making them.
    """

    def __init__(self) -> None:
        self.tasks: list[int] = []
        self.seconds = 0.0

    def __call__(self, dsk: Any, keys: Any, **options: Any) -> Any:
        """Run a graph, as ``dask.threaded.get`` does."""
        # a collection comes as an expression, which is turned into tasks only here
        graph = dsk.__dask_graph__() if hasattr(dsk, "__dask_graph__") else dsk
        self.tasks.append(0)
        start = time.perf_counter()
        with Callback(pretask=self._count):
            result = threaded.get(graph, keys, **options)
        self.seconds += time.perf_counter() - start
        return result

    def _count(self, *_: Any) -> None:
        self.tasks[-1] += 1


@contextmanager
def threads(workers: int) -> Iterator[CountingScheduler]:
    """Run dask on `workers` threads, and count the executions."""
    scheduler = CountingScheduler()
    with dask.config.set(scheduler=scheduler, num_workers=workers):
        yield scheduler


def in_memory(x: np.ndarray, chunks: tuple[int, ...]) -> da.Array:
    """Return a dask array whose blocks are contiguous copies of the parts of `x`."""
    return da.from_array(x, chunks=chunks).map_blocks(np.array, order="C", copy=True).persist()


def processors_free(workers: int, seconds: float = 0.5) -> float:
    """Return how many processors threads of plain arithmetic get at present.

    Parameters
    ----------
    workers : int
        Number of threads.
    seconds : float, optional
        How long to try.

    Returns
    -------
    float
        About `workers` on an idle machine. If it is less, other work takes its share, and
        the ratios of seconds are too low.
    """

    def work(stop: float) -> None:
        x = np.ones(100_000)
        while time.perf_counter() < stop:
            np.sin(x, out=x)

    start, cpu_start = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, [start + seconds] * workers))
    return (time.process_time() - cpu_start) / (time.perf_counter() - start)


def argument_parser(description: str | None, repeats: int = 3) -> argparse.ArgumentParser:
    """Return a parser with the options that all scripts have."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=repeats, help="of each case (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="threads of dask (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    return parser


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """Print rows with the same keys under a heading."""
    if not rows:
        return
    columns = {key: max(len(key), *(len(row.get(key, "")) for row in rows)) for key in rows[0]}
    first = next(iter(columns))

    def line(cells: dict[str, str]) -> str:
        return "  ".join(
            cells.get(key, "").ljust(width) if key == first else cells.get(key, "").rjust(width)
            for key, width in columns.items()
        )

    print(line({key: key for key in columns}))
    for row in rows:
        print(line(row))


def report(
    title: str, comparisons: Sequence[Comparison], options: argparse.Namespace, **settings: Any
) -> int:
    """Print comparisons, write the JSON file that was asked for, and return an exit status.

    Parameters
    ----------
    title : str
        Heading.
    comparisons : sequence of Comparison
        The rows.
    options : argparse.Namespace
        Of :func:`argument_parser`.
    **settings
        What the numbers depend on, for the JSON file.

    Returns
    -------
    int
        1 where results were not equal, else 0. A missed target is printed, no more: how fast
        a machine is, and what else it does, is not the code's fault.
    """
    print(f"\n{title}: medians of {options.repeats}, {options.workers} threads")
    print_table([comparison.row() for comparison in comparisons])
    print("CPU ratio: of processor time. free: processors that other work leaves to the threads.")
    write_json(options, [comparison.record() for comparison in comparisons], **settings)
    wrong = [comparison.name for comparison in comparisons if not comparison.equal]
    if wrong:
        print(f"results differ: {', '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))


def write_json(
    options: argparse.Namespace, results: Sequence[dict[str, Any]], **settings: Any
) -> None:
    """Write results with what they depend on to the file that was asked for, if any."""
    if options.json is None:
        return
    content = {
        "settings": {
            "repeats": options.repeats,
            "workers": options.workers,
            "processors": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "dask": dask.__version__,
            "pylops": pylops.__version__,
            "pylops_dispatch": pylops_dispatch.__version__,
            **settings,
        },
        "results": list(results),
    }
    options.json.write_text(json.dumps(content, indent=2) + "\n")
