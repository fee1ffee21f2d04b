"""pyproximal, unmodified, on dask arrays: its proximal operators and its solvers."""

import contextlib
import io
import pickle
import warnings

import dask.array as da
import numpy as np
import pylops
import pyproximal
import pytest
from pyproximal.optimization import bregman, palm, pnp, primal, primaldual, red, segmentation, sr3
from pyproximal.utils.bilinear import LowRankFactorizedMatrix

import pylops_dispatch
from pylops_dispatch import NotDispatchedError, PerformanceWarning, set_policy

from .helpers import assert_close, count_executions, noting, rand, random_chunks, to_dask

N, DIMS = 24, (6, 4)
MATRIX = rand((N, N)) / 10


def lazy(x):
    return to_dask(x, random_chunks(x.shape, 1))


# ------------------------------------------------------------- proximal operators

LAZY = {
    "ETP": lambda: pyproximal.ETP(0.5, 1.0),
    "Geman": lambda: pyproximal.Geman(0.5, 1.3),
    "Hankel": lambda: pyproximal.Hankel(DIMS),
    "Huber": lambda: pyproximal.Huber(0.7),
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
    "QuadraticEnvelopeCard": lambda: pyproximal.QuadraticEnvelopeCard(0.4),
    "RelaxedMumfordShah": lambda: pyproximal.RelaxedMumfordShah(sigma=0.5),
    "SCAD": lambda: pyproximal.SCAD(0.4),
    "SingularValuePenalty": lambda: pyproximal.SingularValuePenalty(DIMS, pyproximal.SCAD(0.4)),
    "VStack": lambda: pyproximal.VStack([pyproximal.L1(), pyproximal.L2()], nn=[10, 14]),
}

# they decide by a value: a norm, a sum, a search
READ_VALUES = {
    "Euclidean": (lambda: pyproximal.Euclidean(2.0), 1),
    "EuclideanBall": (lambda: pyproximal.EuclideanBall(np.zeros(N), 1.0), 1),
    "GenericIntersectionProx": (
        lambda: pyproximal.GenericIntersectionProx(
            [
                pyproximal.projection.EuclideanBallProj(np.zeros(N), 1.0),
                pyproximal.projection.HalfSpaceProj(rand(N, seed=3), 0.2),
            ],
            niter=10,
        ),
        60,
    ),
    "HalfSpace": (lambda: pyproximal.HalfSpace(rand(N, seed=3), 0.2), 1),
    "L1Ball": (lambda: pyproximal.L1Ball(N, 2.0), 60),
    "NuclearBall": (lambda: pyproximal.NuclearBall(DIMS, 0.5), 60),
    "Simplex": (lambda: pyproximal.Simplex(N, 1.0), 60),
    "Sum": (lambda: pyproximal.Sum([pyproximal.L1(0.3), pyproximal.L2()]), 60),
    "TV": (lambda: pyproximal.TV(dims=DIMS, sigma=0.1, niter=5), 30),
}

# they solve a system of equations
SOLVE = {
    "AffineSet": lambda: pyproximal.AffineSet(pylops.MatrixMult(MATRIX[:5]), rand(5), 5),
    "L2-of-an-operator": lambda: pyproximal.L2(
        Op=pylops.FirstDerivative(N), b=rand(N, seed=4), niter=5
    ),
    "L2-of-an-operator-cg": lambda: pyproximal.L2(
        Op=pylops.FirstDerivative(N), b=rand(N, seed=4), niter=5, solver="cg"
    ),
    "Quadratic": lambda: pyproximal.Quadratic(
        Op=pylops.FirstDerivative(N).H @ pylops.FirstDerivative(N), b=rand(N, seed=4), niter=5
    ),
}

# Numba's code, and what depends on how many elements a mask selects
ONE_TASK = {
    "Log": lambda: pyproximal.Log(0.5),
    "Simplex-numba": lambda: pyproximal.Simplex(N, 1.0, engine="numba"),
    "Simplex-of-columns": lambda: pyproximal.Simplex(N, 1.0, dims=DIMS, axis=0, engine="numba"),
    "Box-of-arrays": lambda: pyproximal.VStack(
        [pyproximal.Log(0.5), pyproximal.Box(-(rand(N // 2) ** 2), 1.0)], nn=[N // 2, N // 2]
    ),
}


@pytest.mark.parametrize("method", ["prox", "proxdual"])
@pytest.mark.parametrize("make", LAZY.values(), ids=LAZY)
def test_proximal_operator_is_lazy_and_equal_to_numpy(make, method):
    x0 = rand(N)
    expected = getattr(make(), method)(x0.copy(), 0.6)
    with count_executions(budget=0):
        result = getattr(make(), method)(lazy(x0), 0.6)
    assert type(result) is da.Array
    # the dual of a penalty that changes nothing is rounding
    assert_close(result.compute(), expected, rtol=1e-12, scale=1e-2)


@pytest.mark.parametrize("method", ["prox", "proxdual"])
@pytest.mark.parametrize(("make", "budget"), READ_VALUES.values(), ids=READ_VALUES)
def test_proximal_operator_that_may_read_values(make, budget, method):
    x0 = rand(N)
    expected = getattr(make(), method)(x0.copy(), 0.6)
    with set_policy(implicit_compute="allow"), count_executions(budget=budget):
        result = getattr(make(), method)(lazy(x0), 0.6)
    assert type(result) is da.Array
    assert_close(result.compute(), expected, rtol=1e-9)


IN_ONE_TASK = {name: make for name, (make, _) in READ_VALUES.items()} | ONE_TASK


@pytest.mark.parametrize("method", ["prox", "proxdual"])
@pytest.mark.parametrize("make", IN_ONE_TASK.values(), ids=IN_ONE_TASK)
def test_proximal_operator_that_may_not_is_one_lazy_task(make, method):
    x0 = rand(N)
    expected = getattr(make(), method)(x0.copy(), 0.6)
    with count_executions(budget=0), pytest.warns(PerformanceWarning, match="in one task"):
        result = getattr(make(), method)(lazy(x0), 0.6)
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    assert_close(result.compute(), expected, rtol=1e-12)


@pytest.mark.parametrize("make", SOLVE.values(), ids=SOLVE)
def test_proximal_operator_that_solves_runs_one_execution_a_step(make):
    x0 = rand(N)
    expected = make().prox(x0.copy(), 0.6)
    operator = make()
    with count_executions(budget=25) as executions:
        result = operator.prox(lazy(x0), 0.6)
    assert executions.count >= 5
    assert type(result) is da.Array
    assert_close(result.compute(), expected, rtol=1e-9)
    started = getattr(operator, "x0", None)
    assert started is None or type(started) is da.Array, "a warm start that a user may look at"


def test_what_was_given_is_not_written_to():
    # Intersection._call_ writes into its argument
    x0, sigma = rand(N), np.full((3, 3), 0.1)
    x = lazy(x0)
    with set_policy(whole_array="allow"):
        result = pyproximal.Intersection(3, N // 3, sigma, niter=5).prox(x, 1.0)
    expected = pyproximal.Intersection(3, N // 3, sigma, niter=5).prox(x0.copy(), 1.0)
    assert_close(result.compute(), expected, rtol=1e-12)
    assert_close(x.compute(), x0)
    assert_close(result.compute(), expected, rtol=1e-12)  # a task that runs again


def test_one_task_has_the_settings_of_the_call():
    def radius(count):
        return 1.0 + count

    x0 = rand(N)

    class Ball(pyproximal.ProxOperator):
        """Counts its calls, and does what no lazy array can."""

        def __init__(self):
            super().__init__(None, False)
            self.count = 0

        def prox(self, x, tau):
            self.count += 1
            return np.frombuffer(x.tobytes(), x.dtype) / radius(self.count)

    ball = Ball()
    with set_policy(whole_array="allow"):
        first, second = ball.prox(lazy(x0), 1.0), ball.prox(lazy(x0), 1.0)
    assert ball.count == 2
    assert_close(second.compute(), x0 / 3)
    assert_close(first.compute(), x0 / 2)


def test_one_task_takes_dask_arrays_that_the_operator_holds():
    x0, lower = rand(N), -(rand(N, seed=2) ** 2)

    def make(bound):
        penalties = [pyproximal.Log(0.5), pyproximal.Box(bound, 1.0)]
        return pyproximal.projection.GenericIntersectionProj(
            [pyproximal.projection.BoxProj(bound, 0.5), lambda x: penalties[1].prox(x, 1.0)]
        )

    with set_policy(whole_array="allow"), count_executions(budget=0):
        result = make(lazy(lower))(lazy(x0))
    assert_close(result.compute(), make(lower)(x0.copy()), rtol=1e-12)


def test_a_policy_that_wants_no_whole_arrays_names_the_line():
    with (
        set_policy(whole_array="raise"),
        pytest.raises(NotDispatchedError, match=r"numpy\.vstack .* by Log\.prox \(.*Log\.py:\d+"),
    ):
        pyproximal.Log(0.5).prox(lazy(rand(N)), 0.5)
    with (
        set_policy(whole_array="raise"),
        pytest.raises(NotDispatchedError, match=r"float\(\) .*implicit_compute='allow'"),
    ):
        pyproximal.EuclideanBall(np.zeros(N), 1.0).prox(lazy(rand(N)), 0.5)


def test_what_a_vector_is_made_of_is_worked_out_once():
    worked_out = []

    def slow(block):
        worked_out.append(1)
        return block + 1

    x = da.map_blocks(slow, lazy(rand(N)), dtype=float, meta=np.empty(0))
    with set_policy(implicit_compute="allow"), count_executions() as executions:
        pyproximal.L1Ball(N, 2.0).prox(x, 1.0).compute()
    assert executions.count > 5
    assert len(worked_out) == x.npartitions


def test_errors_of_a_proximal_operator_are_its_own():
    with pytest.raises(ValueError, match="x must have size"):
        pyproximal.VStack([pyproximal.L1()], nn=[N]).prox(lazy(rand(N + 1)), 1.0)
    with pytest.raises(ValueError, match="tau must be positive"):
        pyproximal.L1().prox(lazy(rand(N)), -1.0)


VALUES = {**LAZY, **ONE_TASK, **{name: make for name, (make, _) in READ_VALUES.items()}}


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("name", sorted(VALUES))
def test_value_of_a_function_is_a_number_as_in_numpy(name):
    make, x0 = VALUES[name], rand(N)
    with count_executions(budget=9):
        value = make()(lazy(x0))
    expected = make()(x0)
    assert type(value) is type(expected)
    assert_close(value, expected, rtol=1e-12)


def test_projection_by_itself():
    x0 = rand(DIMS)
    with set_policy(whole_array="allow"), count_executions(budget=0):
        result = pyproximal.projection.NuclearBallProj(4, 0.5)(lazy(x0))
    assert_close(result.compute(), pyproximal.projection.NuclearBallProj(4, 0.5)(x0), rtol=1e-12)


def test_combinations_of_proximal_operators():
    x0, v = rand(N), rand(N, seed=2)
    for combine in (lambda f: f + v, lambda f: 2.0 * f, lambda f: f.H, lambda f: f.chain(f)):
        result = combine(pyproximal.L1(0.3)).prox(lazy(x0), 0.6)
        assert_close(result.compute(), combine(pyproximal.L1(0.3)).prox(x0, 0.6), rtol=1e-12)


def test_result_that_does_not_depend_on_the_vector_is_lazy_too():
    b = rand(N)
    gradient = pyproximal.Quadratic(b=b).grad(lazy(rand(N)))
    assert type(gradient) is da.Array
    assert_close(gradient.compute(), b)


class Users(pyproximal.ProxOperator):
    """A class that a user derives, after everything has been imported."""

    def __init__(self):
        super().__init__(None, True)

    def prox(self, x, tau):
        y = np.zeros_like(x)
        y[x > tau] = x[x > tau] - tau
        return y


def test_users_proximal_operator():
    x0 = rand(N)
    with count_executions(budget=0):
        result, gradient = Users().prox(lazy(x0), 0.1), Users().grad(lazy(x0))
    assert_close(result.compute(), Users().prox(x0, 0.1))
    assert_close(gradient.compute(), Users().grad(x0))


def test_bilinear_operator():
    u, v, d = rand((6, 2)), rand((2, 4), seed=1), rand(N, seed=2)

    def use(wrap):
        bilinear = LowRankFactorizedMatrix(wrap(u), wrap(v), wrap(d))
        x, y = wrap(rand(12, seed=3)), wrap(rand(8, seed=4))
        found = [bilinear.gradx(x), bilinear.grady(y), bilinear(x, y)]
        return [*found, bilinear.lx(x), bilinear.ly(y)], bilinear

    (expected, _), (found, bilinear) = use(np.copy), use(lazy)
    assert [type(f) for f in found] == [da.Array, da.Array, float, float, float]
    for one, other in zip(found, expected, strict=True):
        assert_close(np.asarray(one), other, rtol=1e-12)
    assert type(bilinear.x) is da.Array


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
        return primal.ProximalGradient(pyproximal.L2(b=b), make(), x0=x, tau=0.4, niter=12, tol=0)

    expected = solve(b, x0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of elements that are not selected
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)  # of penalties, as in NumPy
        result = solve(lazy(b), lazy(x0)).compute()
    assert_close(result, expected, rtol=1e-9)


@pytest.mark.parametrize("make", ONE_TASK.values(), ids=ONE_TASK)
def test_proximal_operator_in_one_task_inside_a_solver(make):
    b, x0 = rand(N), rand(N, seed=1)

    def solve(b, x):
        return primal.ProximalGradient(pyproximal.L2(b=b), make(), x0=x, tau=0.4, niter=5)

    with pytest.warns(PerformanceWarning, match="in one task"):
        result = solve(lazy(b), lazy(x0))
    assert_close(result.compute(), solve(b, x0), rtol=1e-9)


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


@pytest.mark.parametrize("wrap", [np.copy, lazy])
def test_step_size_that_is_an_array_of_one_number(wrap):
    b, tau = MATRIX @ rand(N), np.array([0.5])  # as 1 / Op.eigs(1) is
    result = primal.ProximalGradient(
        l2(lazy(b)), l1(), x0=da.zeros(N, chunks=7), tau=wrap(tau), niter=5
    )
    expected = primal.ProximalGradient(l2(b), l1(), x0=np.zeros(N), tau=tau, niter=5)
    assert_close(result.compute(), expected, rtol=1e-9)


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
        shown.append([line for line in lines if "Total time" not in line])
    assert shown[0] == shown[1]


@pytest.mark.parametrize("niter", [6, 12])
def test_warm_start_is_a_dask_array_after_a_solve(niter):
    b = rand(N)
    term = pyproximal.L2(Op=pylops.FirstDerivative(N), b=lazy(b), niter=3, warm=True)
    reference = pyproximal.L2(Op=pylops.FirstDerivative(N), b=b, niter=3, warm=True)
    for _ in range(2):  # the second solve starts from where the first one ended
        result = primal.ADMM(term, l1(), x0=da.zeros(N, chunks=7), tau=0.5, niter=niter)[0]
        expected = primal.ADMM(reference, l1(), x0=np.zeros(N), tau=0.5, niter=niter)[0]
        assert type(term.x0) is da.Array
        assert_close(result.compute(), expected, rtol=1e-6)


def test_stepping_with_a_warm_start_executes_as_much_in_each_step():
    b = rand(N)
    term = pyproximal.L2(Op=pylops.FirstDerivative(N), b=lazy(b), niter=3, warm=True)
    solver = pyproximal.optimization.cls_primal.ADMM()
    x, z = solver.setup(term, l1(), x0=da.zeros(N, chunks=7), tau=0.5, niter=8)
    counts = []
    for _ in range(8):
        with count_executions() as executions:
            x, z = solver.step(x, z)
        counts.append(executions.count)
        assert type(term.x0) is da.Array
        assert max(executions.sizes) <= 80
    assert max(counts[2:]) == min(counts[2:])


# ------------------------------------------------ functions that solve, of no solver class


def thresholded(x, tau):
    """A user's denoiser: of NumPy arrays, or of dask arrays."""
    assert isinstance(x, (np.ndarray, da.Array))
    return np.sign(x) * np.maximum(abs(x) - 0.01, 0)


def solve_palm(function, niter, d, x, y):
    bilinear = LowRankFactorizedMatrix(x.reshape(6, 2), y.reshape(2, 4), d)
    return function(bilinear, pyproximal.Box(0, 2), pyproximal.L1(0.01), x, y, niter=niter)


OPERATOR = pylops.MatrixMult(MATRIX)
FUNCTIONS = {
    "PALM": lambda wrap, niter: solve_palm(
        palm.PALM, niter, wrap(rand(N)), wrap(abs(rand(12))), wrap(abs(rand(8)))
    ),
    "iPALM": lambda wrap, niter: solve_palm(
        palm.iPALM, niter, wrap(rand(N)), wrap(abs(rand(12))), wrap(abs(rand(8)))
    ),
    "PALM-backtracking": lambda wrap, niter: palm.PALM(
        LowRankFactorizedMatrix(wrap(abs(rand((6, 2)))), wrap(abs(rand((2, 4)))), wrap(rand(N))),
        pyproximal.Box(0, 2), pyproximal.L1(0.01), wrap(abs(rand(12))), wrap(abs(rand(8))),
        gammaf=None, gammag=1.0, niter=niter,
    ),
    "SR3": lambda wrap, niter: sr3.SR3(
        OPERATOR, DERIVATIVE, wrap(MATRIX @ rand(N)), kappa=1.0, eps=0.1, x0=wrap(np.zeros(N)),
        iter_lim_outer=niter, iter_lim_inner=4,
    ),
    "SR3-scipy": lambda wrap, niter: sr3.SR3(
        OPERATOR, DERIVATIVE, wrap(MATRIX @ rand(N)), kappa=1.0, eps=0.1, x0=wrap(np.zeros(N)),
        adaptive=False, iter_lim_outer=niter, iter_lim_inner=4,
    ),
    "Bregman": lambda wrap, niter: bregman.Bregman(
        near(wrap(rand(N))), l1(), x0=wrap(np.zeros(N)), solver=primal.ADMM, tau=0.5, niter=niter,
        niterouter=3,
    ),
    "Segment": lambda wrap, niter: segmentation.Segment(
        wrap(rand(DIMS)), np.array([-1.0, 0.0, 1.0]), 1.0, 0.1, niter=niter,
        kwargs_simplex={"engine": "numba"},
    ),
    "PlugAndPlay": lambda wrap, niter: pnp.PlugAndPlay(
        near(wrap(rand(N))), thresholded, DIMS, x0=wrap(np.zeros(N)), tau=0.5, niter=niter
    ),
    "RED": lambda wrap, niter: red.RED(
        near(wrap(rand(N))), pyproximal.RED(thresholded, DIMS, 0.5, niter=3), x0=wrap(np.zeros(N)),
        solver=primal.ADMM, tau=0.5, niter=niter,
    ),
    "RED-gradient": lambda wrap, niter: red.RED(
        near(wrap(rand(N))), pyproximal.RED(thresholded, DIMS, 0.5), x0=wrap(np.zeros(N)),
        solver="gradientdescent", alpha=0.1, niter=niter,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("solve", FUNCTIONS.values(), ids=FUNCTIONS)
def test_function_that_solves_gives_what_it_gives_for_numpy(solve):
    tasks = []
    for niter in (2, 4, 8):
        expected = solve(np.copy, niter)
        with count_executions() as executions:
            results = tuple_of(solve(lazy, niter))
            assert all(type(result) is da.Array for result in results)
            for result, other in zip(results, tuple_of(expected), strict=True):
                assert_close(result.compute(), other, rtol=1e-9)
        tasks.append(sum(executions.sizes))
    assert tasks[2] - tasks[1] <= 2.4 * (tasks[1] - tasks[0]), "work is done again"


def test_terms_may_refer_to_each_other():
    first, second = pyproximal.L2(b=rand(N)), pyproximal.L2(b=lazy(rand(N)))
    first.other, second.other = second, first
    expected = pyproximal.L2(b=rand(N)).prox(rand(N), 0.5)
    for term in (first, second):
        found = term.prox(rand(N), 0.5)
        assert isinstance(found, da.Array)
        assert_close(found.compute(), expected)


def test_values_that_are_read_one_by_one_in_a_solve_are_announced():
    """A bisection of each sample: once it has read too much, the next one is a task at once."""

    def segmented(wrap, niter):
        return segmentation.Segment(wrap(rand(DIMS)), np.array([-1.0, 1.0]), 1.0, 0.1, niter=niter)

    counts = []
    for niter in (2, 4):
        with count_executions() as executions, pytest.warns(PerformanceWarning, match="one by one"):
            found = segmented(lazy, niter)
        counts.append(executions.count)
        for result, expected in zip(found, segmented(np.copy, niter), strict=True):
            assert_close(result.compute(), expected, rtol=1e-9)
    assert counts[1] - counts[0] < 2 * 2 * N  # the test of its constraint, by samples
    assert counts[0] < 200 + 2 * 2 * N


HOLDING = {  # terms that hold an array, and what they do with a vector
    "L2 of a gradient": lambda a, x: pyproximal.L2(b=rand(N, seed=4), q=a).prox(x, 0.5),
    "Orthogonal": lambda a, x: pyproximal.Orthogonal(
        pyproximal.L1(), pylops.Identity(N), b=a
    ).prox(x, 0.5),
    "value of L2": lambda a, x: pyproximal.L2(b=a)(x),
    "Sum": lambda a, x: pyproximal.Sum([pyproximal.L1(0.1), pyproximal.L2(b=a)]).prox(x, 0.5),
    "ProximalGradient": lambda a, x: primal.ProximalGradient(
        pyproximal.L2(b=a), pyproximal.L1(0.1), x0=x, tau=0.3, niter=5, tol=1e-12
    ),
    "ProximalGradient that looks for a step": lambda a, x: primal.ProximalGradient(
        pyproximal.L2(b=a), pyproximal.L1(0.1), x0=x, niter=5
    ),
    "Bregman": lambda a, x: bregman.Bregman(
        pyproximal.L2(b=a), pyproximal.L1(0.1), x0=x, solver=primal.ADMM, tau=0.5, niter=2,
        niterouter=2,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("solve", HOLDING.values(), ids=HOLDING)
def test_terms_of_dask_arrays_take_numpy_vectors(solve):
    """The array is worked out once, and what comes of it is lazy."""
    made = []

    held = rand(N, seed=5)
    expected = tuple_of(solve(held, rand(N)))[0]
    found = tuple_of(solve(to_dask(held, 9).map_blocks(noting(made), meta=held), rand(N)))[0]
    assert len(made) in (0, 3)
    if np.ndim(expected):
        assert isinstance(found, da.Array)
        found = found.compute()
    assert_close(found, expected, rtol=1e-9)


def tuple_of(result):
    return result if isinstance(result, tuple) else (result,)


def test_disabled_proximal_operators_are_pyproximals_own():
    before = vars(pyproximal.L1)["prox"]
    with pylops_dispatch.disabled():
        assert vars(pyproximal.L1)["prox"] is not before
        assert "__init_subclass__" not in vars(pyproximal.ProxOperator)
    assert vars(pyproximal.L1)["prox"] is before


def test_proximal_operators_can_be_sent():
    term = pyproximal.VStack([pyproximal.L1(0.3), pyproximal.Log(0.5)], nn=[10, 14])
    copied = pickle.loads(pickle.dumps(term))
    with set_policy(whole_array="allow"):
        result = copied.prox(lazy(rand(N)), 0.5)
    assert_close(result.compute(), term.prox(rand(N), 0.5))
