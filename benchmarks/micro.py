"""Micro-benchmarks of what the dispatch costs where there is next to nothing to compute.

Run ``pytest benchmarks/micro.py`` with pytest-benchmark; ``--benchmark-autosave`` keeps a record,
``--benchmark-compare`` compares with the last one.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator
from typing import Any

import dask.array as da
import numpy as np
import pylops
import pytest

from side_by_side import CountingScheduler, threads

DIMS = (64, 64)
OPERATORS: dict[str, Callable[[], Any]] = {
    "Diagonal": lambda: pylops.Diagonal(np.ones(DIMS)),
    "FirstDerivative": lambda: pylops.FirstDerivative(DIMS, axis=0),
    "Laplacian": lambda: pylops.Laplacian(DIMS),
    "Identity + 0.3 Laplacian": lambda: pylops.Identity(DIMS) + 0.3 * pylops.Laplacian(DIMS),
    "VStack": lambda: pylops.VStack([pylops.Identity(DIMS), pylops.Laplacian(DIMS)]),
}
each_operator = pytest.mark.parametrize("name", OPERATORS)

running: list[CountingScheduler] = []


def apart_from_running() -> float:
    """Return a time that stands still while dask runs a graph: what is left is Python's share."""
    return time.perf_counter() - sum(scheduler.seconds for scheduler in running)


@pytest.fixture
def scheduler() -> Iterator[CountingScheduler]:
    """Run on threads, and leave that out of the times."""
    with threads(2) as counting:
        running.append(counting)
        yield counting
        running.remove(counting)


def small(chunks: tuple[int, int]) -> da.Array:
    """Return an array in memory."""
    return da.from_array(np.random.default_rng(0).standard_normal(DIMS), chunks=chunks).persist()


@each_operator
def test_application(benchmark: Any, name: str) -> None:
    """Apply an operator to four chunks, which computes nothing."""
    benchmark(operator.matmul, OPERATORS[name](), small((16, 64)))


@each_operator
def test_graph(benchmark: Any, name: str, scheduler: CountingScheduler) -> None:
    """Make and optimise the graph of an application to 64 chunks; see "us per chunk"."""
    op, x = OPERATORS[name](), small((8, 8))
    benchmark(lambda: dict((op @ x).__dask_graph__()))
    benchmark.extra_info["us per chunk"] = benchmark.stats.stats.median * 1e6 / x.npartitions


@pytest.mark.benchmark(timer=apart_from_running)
def test_step(benchmark: Any, scheduler: CountingScheduler) -> None:
    """Make the graphs of 20 steps of cgls on 64 chunks; see "ms per step"."""
    op, data = OPERATORS["Identity + 0.3 Laplacian"](), small((8, 8))
    steps, rounds = 20, 5
    pylops.cgls(op, data, niter=2, tol=0)
    before, executions = scheduler.seconds, len(scheduler.tasks)
    benchmark.pedantic(pylops.cgls, (op, data), {"niter": steps, "tol": 0}, rounds=rounds)
    benchmark.extra_info["ms per step"] = benchmark.stats.stats.median * 1e3 / steps
    benchmark.extra_info["running, ms per step"] = (
        (scheduler.seconds - before) * 1e3 / steps / rounds
    )
    benchmark.extra_info["executions per step"] = (
        (len(scheduler.tasks) - executions) / steps / rounds
    )  # fmt: skip
    benchmark.extra_info["tasks"] = max(scheduler.tasks)
