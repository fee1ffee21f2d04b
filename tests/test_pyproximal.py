"""pyproximal, unmodified, on dask arrays: its proximal operators and its solvers."""

import contextlib
import io
import warnings

import dask.array as da
import numpy as np
import pylops
import pyproximal
import pytest
from pyproximal.optimization import primal, primaldual

from pylops_dispatch import NotDispatchedError

from .helpers import assert_close, count_executions, rand, random_chunks, to_dask

N, DIMS = 24, (6, 4)
MATRIX = rand((N, N)) / 10


def lazy(x):
    return to_dask(x, random_chunks(x.shape, 1))


# ------------------------------------------------------------- proximal operators

LAZY = {
    "L0": lambda: pyproximal.L0(0.7),
    "L1": lambda: pyproximal.L1(0.7),
    "L1-around-a-point": lambda: pyproximal.L1(0.7, g=rand(N, seed=9)),
    "L2": lambda: pyproximal.L2(sigma=2.0),
    "L2-of-data": lambda: pyproximal.L2(b=rand(N, seed=4)),
    "L21": lambda: pyproximal.L21(ndim=2, sigma=0.5),
    "L21_plus_L1": lambda: pyproximal.L21_plus_L1(sigma=0.5, rho=0.4),
    "Box": lambda: pyproximal.Box(-0.5, 0.5),
    "Nuclear": lambda: pyproximal.Nuclear(DIMS, 0.5),
    "Orthogonal": lambda: pyproximal.Orthogonal(pyproximal.L1(), pylops.Identity(N)),
    "RelaxedMumfordShah": lambda: pyproximal.RelaxedMumfordShah(sigma=0.5),
    "SingularValuePenalty": lambda: pyproximal.SingularValuePenalty(DIMS, pyproximal.L1()),
    "VStack": lambda: pyproximal.VStack([pyproximal.L1(), pyproximal.L2()], nn=[10, 14]),
}

# they decide by a value: a norm, a sum, a search
READ_VALUES = {
    "Euclidean": (lambda: pyproximal.Euclidean(2.0), 1),
    "EuclideanBall": (lambda: pyproximal.EuclideanBall(np.zeros(N), 1.0), 1),
    "HalfSpace": (lambda: pyproximal.HalfSpace(rand(N, seed=3), 0.2), 1),
    "AffineSet": (lambda: pyproximal.AffineSet(pylops.MatrixMult(MATRIX[:5]), rand(5), 5), 1),
    "L1Ball": (lambda: pyproximal.L1Ball(N, 2.0), 60),
    "Simplex": (lambda: pyproximal.Simplex(N, 1.0), 60),
    "TV": (lambda: pyproximal.TV(dims=DIMS, sigma=0.1, niter=5), 30),
}


@pytest.mark.parametrize("method", ["prox", "proxdual"])
@pytest.mark.parametrize("make", LAZY.values(), ids=LAZY)
def test_proximal_operator_is_lazy_and_equal_to_numpy(make, method):
    x0 = rand(N)
    expected = getattr(make(), method)(x0.copy(), 0.6)
    with count_executions(budget=0):
        result = getattr(make(), method)(lazy(x0), 0.6)
    assert type(result) is da.Array
    assert_close(result.compute(), expected, rtol=1e-12)


@pytest.mark.parametrize("method", ["prox", "proxdual"])
@pytest.mark.parametrize(("make", "budget"), READ_VALUES.values(), ids=READ_VALUES)
def test_proximal_operator_that_decides_by_values(make, budget, method):
    x0 = rand(N)
    expected = getattr(make(), method)(x0.copy(), 0.6)
    with count_executions(budget=budget):
        result = getattr(make(), method)(lazy(x0), 0.6)
    assert type(result) is da.Array
    assert_close(result.compute(), expected, rtol=1e-9)


# called outside of a solver, where dask itself has no numpy.linalg.eigvalsh
@pytest.mark.parametrize("name", sorted(set(LAZY) - {"Nuclear", "SingularValuePenalty"}))
def test_function_value_is_a_number(name):
    make, x0 = LAZY[name], rand(N)
    with count_executions(budget=2):
        value = make()(lazy(x0))
    assert_close(value, make()(x0), rtol=1e-12)


def test_gradient_of_l2_with_an_operator():
    x0, b0 = rand(N), rand(N, seed=4)
    op = pylops.FirstDerivative(N)
    with count_executions(budget=0):
        gradient = pyproximal.L2(Op=op, b=lazy(b0)).grad(lazy(x0))
    assert_close(gradient.compute(), pyproximal.L2(Op=op, b=b0).grad(x0))


# ------------------------------------------------------------------------- solvers


# what they do inside a solver: write through masks, sort, take matrices apart
INSIDE = {
    "ETP": lambda: pyproximal.ETP(0.5, 1.0),
    "Geman": lambda: pyproximal.Geman(0.5, 1.3),
    "Huber": lambda: pyproximal.Huber(0.7),
    "HuberCircular": lambda: pyproximal.HuberCircular(0.7),
    "L0Ball": lambda: pyproximal.L0Ball(5),
    "L10Ball": lambda: pyproximal.L10Ball(6, 2),
    "Log1": lambda: pyproximal.Log1(0.3, 1e-3),
    "Nuclear": lambda: pyproximal.Nuclear(DIMS, 0.5),
    "NuclearBall": lambda: pyproximal.NuclearBall(DIMS, 0.5),
    "QuadraticEnvelopeCard": lambda: pyproximal.QuadraticEnvelopeCard(0.4),
    "QuadraticEnvelopeCardIndicator": lambda: pyproximal.QuadraticEnvelopeCardIndicator(5),
    "QuadraticEnvelopeRankL2": lambda: pyproximal.QuadraticEnvelopeRankL2(
        DIMS, 2, rand(DIMS, seed=5)
    ),
    "SCAD": lambda: pyproximal.SCAD(0.4),
    "SingularValuePenalty": lambda: pyproximal.SingularValuePenalty(DIMS, pyproximal.L1()),
}


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("make", INSIDE.values(), ids=INSIDE)
def test_proximal_operator_inside_a_solver(make, dtype):
    b, x0 = rand(N, dtype), rand(N, dtype, seed=1)

    def solve(b, x):
        return primal.ProximalGradient(pyproximal.L2(b=b), make(), x0=x, tau=0.4, niter=25, tol=0)

    expected = solve(b, x0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of elements that are not selected
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)  # of penalties, as in NumPy
        result = solve(lazy(b), lazy(x0)).compute()
    assert_close(result, expected, rtol=1e-9)


def test_what_needs_the_number_of_selected_elements_is_refused_by_name():
    with pytest.raises(NotDispatchedError, match=r"numpy\.vstack .* by Log\.prox \(.*Log\.py:\d+"):
        primal.ProximalGradient(
            near(lazy(rand(N))), pyproximal.Log(0.5), x0=lazy(rand(N)), tau=0.5, niter=2
        )


def l2(data):
    return pyproximal.L2(Op=pylops.MatrixMult(MATRIX), b=data)


def near(data):
    return pyproximal.L2(b=data)


def l1():
    return pyproximal.L1(0.1)


DERIVATIVE = pylops.FirstDerivative(N)

# per iteration: one execution for the vectors, one for numbers that are in memory then
SOLVERS = {
    "ProximalPoint": (
        lambda b, x, n: primal.ProximalPoint(l1(), x0=x, tau=0.5, niter=n), 1),
    "ProximalGradient": (
        lambda b, x, n: primal.ProximalGradient(l2(b), l1(), x0=x, tau=0.5, niter=n, tol=0), 2),
    "ProximalGradient-backtracking": (
        lambda b, x, n: primal.ProximalGradient(l2(b), l1(), x0=x, niter=n, tol=0), 6),
    "AcceleratedProximalGradient": (
        lambda b, x, n: primal.AcceleratedProximalGradient(
            l2(b), l1(), x0=x, tau=0.5, niter=n, tol=0), 2),
    "ProximalGradient-vandenberghe": (
        lambda b, x, n: primal.ProximalGradient(
            l2(b), l1(), x0=x, tau=0.5, niter=n, acceleration="vandenberghe"), 2),
    "AndersonProximalGradient": (
        lambda b, x, n: primal.AndersonProximalGradient(
            l2(b), l1(), x0=x, tau=0.5, niter=n, nhistory=3, tol=0), 6),
    "GeneralizedProximalGradient": (
        lambda b, x, n: primal.GeneralizedProximalGradient(
            [l2(b)], [l1()], x0=x, tau=0.5, niter=n), 2),
    "HQS": (lambda b, x, n: primal.HQS(near(b), l1(), x0=x, tau=0.5, niter=n), 2),
    "ADMM": (lambda b, x, n: primal.ADMM(near(b), l1(), x0=x, tau=0.5, niter=n), 1),
    "ADMM-of-a-matrix": (lambda b, x, n: primal.ADMM(l2(b), l1(), x0=x, tau=0.5, niter=n), 1),
    "LinearizedADMM": (
        lambda b, x, n: primal.LinearizedADMM(
            near(b), l1(), DERIVATIVE, x0=x, tau=0.5, mu=0.2, niter=n), 1),
    # each iteration solves for x with five steps of lsqr
    "ADMML2": (
        lambda b, x, n: primal.ADMML2(
            l1(), pylops.MatrixMult(MATRIX), b, DERIVATIVE, x0=x, tau=0.5, niter=n, iter_lim=5),
        20),
    "TwIST": (
        lambda b, x, n: primal.TwIST(
            l1(), pylops.MatrixMult(MATRIX), b, x0=x, eigs=(0.1, 1), niter=n), 2),
    "DouglasRachfordSplitting": (
        lambda b, x, n: primal.DouglasRachfordSplitting(
            near(b), l1(), x0=x, tau=0.5, niter=n), 1),
    "PPXA": (lambda b, x, n: primal.PPXA([near(b), l1()], x0=x, tau=0.5, niter=n), 3),
    "ConsensusADMM": (
        lambda b, x, n: primal.ConsensusADMM([near(b), l1()], x0=x, tau=0.5, niter=n), 1),
    "PrimalDual": (
        lambda b, x, n: primaldual.PrimalDual(
            near(b), l1(), DERIVATIVE, x0=x, tau=0.5, mu=0.5, niter=n), 2),
    "AdaptivePrimalDual": (
        lambda b, x, n: primaldual.AdaptivePrimalDual(
            near(b), l1(), DERIVATIVE, x0=x, tau=0.5, mu=0.5, niter=n), 2),
}  # fmt: skip


def vector_of(result):
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize(("solve", "per_iteration"), SOLVERS.values(), ids=SOLVERS)
def test_solver_gives_what_it_gives_for_numpy(solve, per_iteration):
    b = MATRIX @ rand(N)
    expected = vector_of(solve(b, np.zeros(N), 8))
    counts = []
    for n in (4, 8):
        with count_executions() as executions:
            result = vector_of(solve(lazy(b), da.zeros(N, chunks=7), n))
        counts.append(executions.count)
    assert type(result) is da.Array
    assert_close(result.compute(), expected, rtol=1e-6)
    assert counts[1] - counts[0] <= 4 * per_iteration


def test_the_graph_of_an_iteration_does_not_grow():
    b = MATRIX @ rand(N)
    with count_executions() as executions:
        SOLVERS["AcceleratedProximalGradient"][0](lazy(b), da.zeros(N, chunks=7), 20)
    assert max(executions.sizes[20:]) <= max(executions.sizes[:20])


def test_printing_each_iteration():
    b = MATRIX @ rand(N)
    shown = []
    for data, start in [(b, np.zeros(N)), (lazy(b), da.zeros(N, chunks=7))]:
        with contextlib.redirect_stdout(io.StringIO()) as text:
            primal.ProximalGradient(l2(data), l1(), x0=start, tau=0.5, niter=5, show=True)
        lines = text.getvalue().splitlines()
        shown.append([line for line in lines if "Total time" not in line and "epsg" not in line])
    assert shown[0] == shown[1]
