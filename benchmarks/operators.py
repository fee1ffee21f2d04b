"""Time operators on dask arrays in memory against NumPy PyLops.

Run ``python benchmarks/operators.py [--only NAME ...]``.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable
from typing import NamedTuple

import dask.array as da
import numpy as np
import pylops

from side_by_side import Comparison, argument_parser, compare, in_memory, report, threads


class Case(NamedTuple):
    """An operator to time, and the ratio asked for."""

    make: Callable[[tuple[int, ...]], pylops.LinearOperator]
    target: float | None = None


def diagonal(dims: tuple[int, ...]) -> pylops.LinearOperator:
    """Return a Diagonal with NumPy coefficients that differ everywhere."""
    return pylops.Diagonal(np.linspace(1.0, 2.0, int(np.prod(dims))).reshape(dims))


def matrix(dims: tuple[int, ...]) -> pylops.LinearOperator:
    """Return a square matrix that acts along the first axis."""
    n = dims[0]
    return pylops.MatrixMult(np.random.default_rng(1).standard_normal((n, n)), otherdims=dims[1:])


def gradient(dims: tuple[int, ...]) -> pylops.LinearOperator:
    """Return the derivatives along all axes, one below the other."""
    return pylops.Gradient(dims, kind="forward")


CASES = {
    "FirstDerivative": Case(lambda dims: pylops.FirstDerivative(dims, axis=0), 5.0),
    "FirstDerivative5": Case(lambda dims: pylops.FirstDerivative(dims, axis=1, order=5)),
    "SecondDerivative": Case(lambda dims: pylops.SecondDerivative(dims, axis=0)),
    "Laplacian": Case(
        lambda dims: pylops.Laplacian(
            dims, axes=(0, 1, 2), weights=(1, 1, 1), sampling=(1, 1, 1)
        ),
        4.0,
    ),
    "Gradient": Case(gradient),
    "Diagonal": Case(diagonal),
    "Smoothing1D": Case(lambda dims: pylops.Smoothing1D(5, dims, axis=0)),
    "CausalIntegration": Case(lambda dims: pylops.CausalIntegration(dims, axis=2)),
    "Sum": Case(lambda dims: pylops.Sum(dims, axis=0)),
    "MatrixMult": Case(matrix),
}  # fmt: skip


def measure(
    name: str, dims: tuple[int, ...], chunks: tuple[int, ...], repeats: int, workers: int
) -> list[Comparison]:
    """Time one operator, forward and adjoint.

    Parameters
    ----------
    name : str
        One of `CASES`.
    dims : tuple of int
        Of the model.
    chunks : tuple of int
        Of the model. The data has the chunks that the operator gives it.
    repeats : int
        How often each side runs.
    workers : int
        Threads of dask.

    Returns
    -------
    list of Comparison
        Forward, adjoint.
    """
    case = CASES[name]
    op = case.make(dims)
    rng = np.random.default_rng(0)
    model = rng.standard_normal(dims)
    lazy_model = in_memory(model, chunks)
    lazy_data: da.Array = (op @ lazy_model).persist()
    data = lazy_data.compute()
    found = []
    for direction, a, x, z in (
        ("forward", op, model, lazy_model),
        ("adjoint", op.H, data, lazy_data),
    ):
        plain = functools.partial(operator.matmul, a, x)
        dispatched = functools.partial(persisted, a, z)
        name_here = f"{name} {direction}"
        found.append(
            compare(
                name_here, plain, dispatched, repeats=repeats, workers=workers, target=case.target
            )
        )
    return found


def persisted(op: pylops.LinearOperator, x: da.Array) -> da.Array:
    """Apply an operator to a dask array, and compute the result in memory."""
    return (op @ x).persist()


def main() -> int:
    """Run the cases that the command line asks for."""
    parser = argument_parser(__doc__)
    parser.add_argument("--size", type=int, default=320, help="of each axis (%(default)s)")
    parser.add_argument("--chunk", type=int, default=80, help="along axes 0 and 1 (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="NAME", help="cases to run")
    options = parser.parse_args()
    dims = (options.size,) * 3
    chunks = (options.chunk, options.chunk, options.size)
    found = []
    with threads(options.workers):
        for name in options.only or CASES:
            found += measure(name, dims, chunks, options.repeats, options.workers)
    return report(
        f"Operators, {options.size}^3 float64, chunks {chunks}",
        found,
        options,
        dims=dims,
        chunks=chunks,
    )


if __name__ == "__main__":
    sys.exit(main())
