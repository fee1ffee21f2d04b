"""Time what the dispatch costs where there is next to nothing to compute.

Run ``python benchmarks/overhead.py``.
"""

from __future__ import annotations

import functools
import operator
import statistics
import sys
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import pylops

import pylops_dispatch
from side_by_side import argument_parser, print_table, threads, write_json

NUMPY_TARGET = 2.0  # microseconds


@dataclass
class Cost:
    """What something costs, in microseconds.

    Attributes
    ----------
    name : str
        What was done.
    microseconds : float
        Median.
    target : float or None
        Largest cost asked for.
    note : str
        What it is made of.
    """

    name: str
    microseconds: float
    target: float | None = None
    note: str = ""

    def row(self) -> dict[str, str]:
        """Return the row of the printed table."""
        met = self.target is not None and self.microseconds < self.target
        return {
            "case": self.name,
            "cost [us]": f"{self.microseconds:.2f}",
            "target": "" if self.target is None else f"< {self.target:g}",
            "met": "" if self.target is None else ("yes" if met else "NO"),
            "note": self.note,
        }


def each(function: Callable[[], Any], number: int) -> float:
    """Return the microseconds of processor time of one call, after a tenth as many to warm up.

    Processor time leaves out what other work on the machine takes.
    """
    timeit.timeit(function, number=max(number // 10, 1))
    return timeit.timeit(function, timer=time.process_time, number=number) / number * 1e6


def numpy_input(repeats: int, number: int = 5000) -> list[Cost]:
    """Time a Diagonal of ten elements on NumPy arrays, enabled and disabled by turns.

    The cost is the median of the differences of neighbouring repeats: a change in the speed
    of the machine spoils few of them.

    Parameters
    ----------
    repeats : int
        How often each side is timed.
    number : int, optional
        Applications in each repeat.

    Returns
    -------
    list of Cost
        For each way to apply the operator.
    """
    op = pylops.Diagonal(np.arange(1.0, 11.0))
    x = np.ones(10)
    ways: dict[str, Callable[[], Any]] = {
        "op @ x": lambda: op @ x,
        "op.matvec(x)": lambda: op.matvec(x),
        "op.rmatvec(x)": lambda: op.rmatvec(x),
        "op.H @ x": lambda: op.H @ x,
    }
    costs = []
    for name, apply in ways.items():
        plain, enabled = [], []
        for _ in range(repeats):
            with pylops_dispatch.disabled():
                plain.append(each(apply, number))
            enabled.append(each(apply, number))
        extra = statistics.median(b - a for a, b in zip(plain, enabled, strict=True))
        note = f"{statistics.median(plain):.2f} disabled, {statistics.median(enabled):.2f} enabled"
        costs.append(Cost(f"NumPy, Diagonal of 10, {name}, added", extra, NUMPY_TARGET, note))
    return costs


def application(repeats: int, number: int = 50) -> list[Cost]:
    """Time the Python code of one application on a dask array of four chunks.

    Parameters
    ----------
    repeats : int
        How often each operator is timed.
    number : int, optional
        Applications in each repeat.

    Returns
    -------
    list of Cost
        For each operator. Nothing is computed.
    """
    dims = (8, 8)
    x = da.from_array(np.ones(dims), chunks=(2, 8)).persist()
    ops = {
        "Diagonal": pylops.Diagonal(np.ones(dims)),
        "FirstDerivative": pylops.FirstDerivative(dims, axis=0),
        "Laplacian": pylops.Laplacian(dims),
        "Identity + 0.3 Laplacian": pylops.Identity(dims) + 0.3 * pylops.Laplacian(dims),
    }
    costs = []
    for name, op in ops.items():
        median = statistics.median(
            each(functools.partial(operator.matmul, op, x), number) for _ in range(repeats)
        )
        graph = dict((op @ x).__dask_graph__())
        note = f"graph of {len(graph)} tasks before optimisation"
        costs.append(Cost(f"dask, 4 chunks, {name} @ x", median, note=note))
    return costs


def solver_step(repeats: int, workers: int, steps: int = 20) -> list[Cost]:
    """Time a step of cgls on 64 small chunks, which is all overhead.

    Parameters
    ----------
    repeats : int
        How often the solver runs.
    workers : int
        Threads of dask.
    steps : int, optional
        Steps in each run.

    Returns
    -------
    list of Cost
        Making and optimising the graph, running it, and both for one task.
    """
    dims = (32, 32)
    laplacian = pylops.Laplacian(dims)
    op = pylops.Identity(dims) + 0.3 * laplacian
    data = da.from_array(np.random.default_rng(0).standard_normal(dims), chunks=(4, 4)).persist()
    making, running, executions, tasks = [], [], [], []
    with threads(workers) as scheduler:
        pylops.cgls(op, data, niter=2, tol=0)
        for _ in range(repeats):
            marks: list[tuple[float, float, int]] = []

            def mark(_: Any, marks: list[tuple[float, float, int]] = marks) -> None:
                marks.append((time.perf_counter(), scheduler.seconds, len(scheduler.tasks)))

            pylops.cgls(op, data, niter=steps, tol=0, callback=mark)
            n = len(marks) - 1
            (t0, s0, e0), (t1, s1, e1) = marks[0], marks[-1]
            making.append((t1 - t0 - (s1 - s0)) / n * 1e6)
            running.append((s1 - s0) / n * 1e6)
            executions.append((e1 - e0) / n)
            tasks.append(sum(scheduler.tasks[e0:e1]) / n)
    count = f"{statistics.median(executions):.1f} executions"
    per_task = statistics.median(running) / statistics.median(tasks)
    return [
        Cost("cgls, 64 chunks, a step, making graphs", statistics.median(making), note=count),
        Cost(
            "cgls, 64 chunks, a step, running graphs",
            statistics.median(running),
            note=f"{statistics.median(tasks):.0f} tasks of {per_task:.0f} us",
        ),
    ]


def main() -> int:
    """Run all measurements."""
    options = argument_parser(__doc__, repeats=9).parse_args()
    costs = numpy_input(options.repeats)
    costs += application(options.repeats)
    costs += solver_step(options.repeats, options.workers)
    print(f"\nOverhead: medians of {options.repeats}, {options.workers} threads")
    print_table([cost.row() for cost in costs])
    write_json(options, [vars(cost) for cost in costs])
    return 0


if __name__ == "__main__":
    sys.exit(main())
