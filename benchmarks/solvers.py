"""Time PyLops's solvers on dask arrays in memory against the same solvers on NumPy arrays.

Run ``python benchmarks/solvers.py [--problem NAME] [--only NAME ...]``. Executions and tasks
are those of dask's scheduler between two callbacks of the solver.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pylops

from side_by_side import (
    Comparison,
    CountingScheduler,
    argument_parser,
    compare,
    in_memory,
    report,
    threads,
)

Callback = Callable[..., None]


class Case(NamedTuple):
    """A solver, which takes operator, data, steps and callback."""

    solve: Callable[[pylops.LinearOperator, Any, int, Callback | None], Any]
    normal: bool = False
    flat: bool = False


class Problem(NamedTuple):
    """A square operator of three axes, its size, and the ratios asked for."""

    operator: Callable[[tuple[int, ...]], pylops.LinearOperator]
    size: int
    chunks: tuple[int, int, int]
    targets: dict[str, float]


def run_cg(op: pylops.LinearOperator, y: Any, steps: int, callback: Callback | None) -> Any:
    """Solve with cg."""
    return pylops.cg(op, y, niter=steps, tol=0, callback=callback)[0]


def run_cgls(op: pylops.LinearOperator, y: Any, steps: int, callback: Callback | None) -> Any:
    """Solve with cgls."""
    return pylops.cgls(op, y, niter=steps, tol=0, callback=callback)[0]


def run_lsqr(op: pylops.LinearOperator, y: Any, steps: int, callback: Callback | None) -> Any:
    """Solve with lsqr."""
    return pylops.lsqr(op, y, niter=steps, atol=0, btol=0, conlim=0, callback=callback)[0]


def run_fista(op: pylops.LinearOperator, y: Any, steps: int, callback: Callback | None) -> Any:
    """Solve with fista; the largest singular value of both problems is below 1 + 0.3 * 12."""
    return pylops.fista(op, y, niter=steps, alpha=1 / 4.6**2, eps=1e-2, tol=0, callback=callback)[0]


CASES = {
    "cgls": Case(run_cgls),
    "lsqr": Case(run_lsqr),
    "cg": Case(run_cg, normal=True),
    "fista": Case(run_fista, flat=True),
}


def laplacian(dims: tuple[int, ...]) -> pylops.LinearOperator:
    """Return ``Identity + 0.3 * Laplacian``."""
    stencil = pylops.Laplacian(
        dims, axes=tuple(range(len(dims))), weights=(1,) * len(dims), sampling=(1,) * len(dims)
    )
    return pylops.Identity(dims) + 0.3 * stencil


def blur(dims: tuple[int, ...]) -> pylops.LinearOperator:
    """Return the mean over 5 points of each axis."""
    h = np.full((5,) * len(dims), 5.0 ** -len(dims))
    return pylops.signalprocessing.ConvolveND(
        dims, h=h, offset=(2,) * len(dims), axes=tuple(range(len(dims)))
    )


PROBLEMS = {
    "laplacian": Problem(laplacian, 256, (64, 64, 256), {"cgls": 4.0}),
    "deblurring": Problem(blur, 292, (73, 146, 146), {"lsqr": 2.5, "fista": 2.5}),
}


def measure(
    name: str,
    problem: Problem,
    dims: tuple[int, ...],
    chunks: tuple[int, ...],
    steps: int,
    repeats: int,
    workers: int,
    scheduler: CountingScheduler,
) -> Comparison:
    """Time one solver.

    Parameters
    ----------
    name : str
        One of `CASES`. Those that need a positive definite operator get ``op.H @ op``; those
        that PyLops gives no n-dimensional data get a vector, made by dask's own ``ravel``.
    problem : Problem
        What is solved.
    dims : tuple of int
        Of the model.
    chunks : tuple of int
        Of model and data.
    steps : int
        Steps of the solver.
    repeats : int
        How often each side runs.
    workers : int
        Threads of dask.
    scheduler : CountingScheduler
        What dask runs on.

    Returns
    -------
    Comparison
        With executions and tasks of a step in `extra`.
    """
    case = CASES[name]
    op = problem.operator(dims)
    if case.normal:
        op = op.H @ op
    model = np.random.default_rng(0).standard_normal(dims)
    lazy_data = (op @ in_memory(model, chunks)).persist()
    if case.flat:
        lazy_data = lazy_data.ravel().persist()
    data = lazy_data.compute()
    marks: list[int] = []

    def dispatched() -> Any:
        marks.clear()
        x = case.solve(op, lazy_data, steps, lambda _: marks.append(len(scheduler.tasks)))
        return x.persist()

    found = compare(
        f"{name}, {steps} steps",
        lambda: case.solve(op, data, steps, None),
        dispatched,
        repeats=repeats,
        workers=workers,
        target=problem.targets.get(name),
        tolerance=1e-8,
    )
    graphs = [scheduler.tasks[a:b] for a, b in zip(marks, marks[1:], strict=False)]
    if graphs:
        executions = [len(graph) for graph in graphs]
        tasks = [sum(graph) for graph in graphs]
        found.extra = {
            "executions/step": span(executions),
            "tasks/step": span(tasks),
            "largest graph": max(max(graph, default=0) for graph in graphs),
        }
    return found


def span(values: list[int]) -> str:
    """Return the range of some numbers, as short as can be."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"


def main() -> int:
    """Run the cases that the command line asks for."""
    parser = argument_parser(__doc__)
    parser.add_argument("--problem", choices=PROBLEMS, default="laplacian", help="(%(default)s)")
    parser.add_argument("--size", type=int, help="of each axis (the problem's)")
    parser.add_argument("--chunks", type=int, nargs=3, help="along each axis (the problem's)")
    parser.add_argument("--steps", type=int, default=10, help="of each solver (%(default)s)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=CASES,
        metavar="NAME",
        help=f"cases to run, of {', '.join(CASES)} (those with a target)",
    )
    parser.add_argument("--all", action="store_true", help="run all cases")
    options = parser.parse_args()
    problem = PROBLEMS[options.problem]
    size = options.size or problem.size
    dims, chunks = (size,) * 3, tuple(options.chunks or problem.chunks)
    names = CASES if options.all else options.only or problem.targets
    with threads(options.workers) as scheduler:
        found = [
            measure(
                name,
                problem,
                dims,
                chunks,
                options.steps,
                options.repeats,
                options.workers,
                scheduler,
            )
            for name in names
        ]
    return report(
        f"Solvers, {options.problem}, {size}^3 float64, chunks {chunks}",
        found,
        options,
        dims=dims,
        chunks=chunks,
        steps=options.steps,
    )


if __name__ == "__main__":
    sys.exit(main())
