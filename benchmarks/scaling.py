"""Time what it takes to build graphs, chunk by chunk, where nothing is run.

Run ``python benchmarks/scaling.py [--chunks 100 1000 10000 100000]``. Each chunk is some samples
along the axis that is cut, and nothing is computed: this is what the client does for a problem
with so many chunks, whatever their size. A step of ``cgls`` is PyLops's own, on blocks that
stand in for what an execution would give; its graphs are pickled as for a scheduler.
"""

from __future__ import annotations

import argparse
import csv
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pylops
from dask.array.core import Array as DaskArray

import pylops_dispatch  # noqa: F401  (the import is what makes PyLops take dask arrays)
from pylops_dispatch.foresight import stand_in
from pylops_dispatch.solvers import Session, new_session
from side_by_side import print_table

WIDTH = 8  # samples of a chunk along the axis that is cut
STEPS = 3


def derivative(n: int) -> pylops.LinearOperator:
    """Return a derivative along the axis that is cut."""
    return pylops.FirstDerivative((n * WIDTH, 2), axis=0)


def stencils(n: int) -> pylops.LinearOperator:
    """Return a tree of stencils, one task for each block."""
    return pylops.Identity((n * WIDTH, 2)) + 0.3 * pylops.SecondDerivative((n * WIDTH, 2), axis=0)


def diagonal(n: int) -> pylops.LinearOperator:
    """Return weights held as one NumPy array."""
    return pylops.Diagonal(np.ones((n * WIDTH, 2)))


def transform(n: int) -> pylops.LinearOperator:
    """Return a Fourier transform along the axis that is not cut."""
    return pylops.signalprocessing.FFT((n * WIDTH, 2), axis=1, real=True)


def stack(n: int) -> pylops.LinearOperator:
    """Return two stencils over one another."""
    return pylops.VStack([derivative(n), stencils(n)])


CASES: dict[str, Callable[[int], pylops.LinearOperator]] = {
    "Diagonal": diagonal,
    "FirstDerivative": derivative,
    "Identity + 0.3 SecondDerivative": stencils,
    "FFT": transform,
    "VStack of two": stack,
}


def in_blocks(dims: tuple[int, ...]) -> DaskArray:
    """Return an array of blocks that take no memory."""
    return stand_in(da.empty(dims, chunks=(WIDTH, *dims[1:])))


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Let solvers go on with blocks that stand in for what they ask for."""

    class Idle(Session):
        def execute(self, arrays: list[DaskArray]) -> tuple[DaskArray, ...]:
            pickle.dumps([array.__dask_graph__() for array in arrays])  # as a client does
            return tuple(stand_in(array, array.name) for array in arrays)

        def values(self, scalars: list[DaskArray]) -> list[Any]:
            return [np.ones((), array.dtype)[()] for array in scalars]

    token = new_session.set(Idle)
    try:
        yield
    finally:
        new_session.reset(token)


def application(op: pylops.LinearOperator) -> tuple[float, int, float]:
    """Return seconds, tasks and bytes of the graph of one application."""
    x = in_blocks(op.dims)
    op @ x  # what is learnt once for an operator
    start = time.perf_counter()
    y = op @ x
    graph = dict(y.__dask_graph__())
    seconds = time.perf_counter() - start
    size = len(pickle.dumps(y.__dask_graph__())) if len(graph) <= 100_000 else float("nan")
    return seconds, len(graph), size


def step(op: pylops.LinearOperator) -> float:
    """Return the seconds that building the graphs of a step of cgls takes."""
    marks: list[float] = []
    with nothing_runs():
        pylops.cgls(
            op,
            in_blocks(op.dimsd) if len(op.dimsd) == 2 else op @ in_blocks(op.dims),
            niter=STEPS + 1,
            tol=0.0,
            callback=lambda x: marks.append(time.perf_counter()),
        )
    return (marks[-1] - marks[0]) / STEPS


def main() -> int:
    """Run the cases that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", nargs="+", type=int, default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="NAME", help="cases to run")
    parser.add_argument("--csv", type=Path, help="where to write the figures, for the documents")
    options = parser.parse_args()
    rows = []
    for name in options.only or CASES:
        for chunks in options.chunks:
            op = CASES[name](chunks)
            seconds, tasks, size = application(op)
            rows.append(
                {
                    "operator": name,
                    "chunks": f"{chunks}",
                    "application [us / chunk]": f"{1e6 * seconds / chunks:.0f}",
                    "tasks / chunk": f"{tasks / chunks:.1f}",
                    "bytes / chunk": f"{size / chunks:.0f}",
                    "cgls step [us / chunk]": f"{1e6 * step(op) / chunks:.0f}"
                    if op.dims == op.dimsd or name.startswith("VStack")
                    else "",
                }
            )
    print_table(rows)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
