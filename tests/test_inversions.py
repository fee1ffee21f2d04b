"""PyLops's regularised, sparse and reweighted inversions on dask arrays, against NumPy."""

import contextlib
import functools
import warnings

import dask.array as da
import numpy as np
import pylops
import pytest
from pylops.optimization import cls_basic, cls_leastsquares, cls_sparsity
from pylops.optimization.eigs import power_iteration
from pylops.optimization.leastsquares import (
    normal_equations_inversion,
)
from pylops.optimization.sparsity import irls, omp, splitbregman
from pylops.utils import deps, estimators

import pylops_dispatch
from pylops_dispatch import solvers
from pylops_dispatch.array import DispatchArray, lift, lower

from .helpers import (
    assert_close,
    count_executions,
    cut,
    forbid_executions,
    noting,
    printed,
    rand,
    to_dask,
)

DTYPES = ["float64", "complex128"]
ENGINES = {"scipy": {"iter_lim": 6}, "pylops": {"niter": 6}}


def lazy(array):
    return da.from_array(array, chunks=tuple(cut(n, [n // 3, n // 2 + 2]) for n in array.shape))


def check(solve, *arrays, limit=None, rtol=1e-8):
    """All that a solver returns is equal for NumPy and for dask arrays."""
    with pylops_dispatch.disabled():
        expected = solve(*[array.copy() for array in arrays])
    with count_executions() as executions:
        found = solve(*[lazy(array) for array in arrays])
    if not isinstance(expected, tuple):
        expected, found = (expected,), (found,)
    assert type(found[0]) is da.Array
    assert found[0].shape == expected[0].shape
    assert found[0].dtype == expected[0].dtype
    for one, other in zip(found, expected, strict=True):
        if other is None or isinstance(other, dict):
            assert type(one) is type(other)
        else:
            one = one.compute() if isinstance(one, da.Array) else one
            assert_close(np.asarray(one, complex), np.asarray(other, complex), rtol=rtol)
    if limit is not None:
        assert executions.count <= limit
    return executions


# spgl1 0.0.3 takes what np.isreal says of an operator for an array, which of NumPy 2.5 it is not
RUNS_SPGL1 = deps.spgl1_enabled and hasattr(np.isreal(pylops.Identity(2)), "all")
needs_spgl1 = pytest.mark.skipif(
    not RUNS_SPGL1, reason="the spgl1 package is not installed, or does not run with this NumPy"
)


class Problem:
    """An overdetermined system, with what regularises, weights and preconditions it."""

    def __init__(self, dtype):
        a = rand((20, 12), dtype)
        self.op = pylops.MatrixMult(a, dtype=dtype)
        self.y = a @ rand(12, dtype, seed=1)
        self.x0 = rand(12, dtype, seed=2)
        self.dataregs = rand(12, dtype, seed=3)
        self.regs = [
            pylops.SecondDerivative(12, dtype=dtype),
            pylops.FirstDerivative(12, dtype=dtype),
        ]
        self.weight = pylops.Diagonal(np.linspace(1, 2, 20), dtype=dtype)
        self.smoothing = pylops.Smoothing1D(3, 12, dtype=dtype)
        self.identity = pylops.Identity(12, dtype=dtype)


@pytest.fixture(params=DTYPES)
def problem(request):
    return Problem(request.param)


# ------------------------------------------------------------------- least squares


@pytest.mark.parametrize("engine", [("scipy", {"maxiter": 6}), ("pylops", {"niter": 6})])
def test_normal_equations(problem, engine):
    name, steps = engine

    def solve(y):
        return pylops.normal_equations_inversion(
            problem.op, y, problem.regs, epsRs=[0.1, 0.2], epsI=0.2, Weight=problem.weight,
            engine=name, **steps,
        )  # fmt: skip

    check(solve, problem.y, limit=8)


@pytest.mark.parametrize("engine", [("scipy", {"maxiter": 6}), ("pylops", {"niter": 6})])
def test_normal_equations_from_a_start_with_data_for_the_regularisation(problem, engine):
    name, steps = engine

    def solve(y, x0, dataregs):
        return pylops.normal_equations_inversion(
            problem.op, y, problem.regs[:1], dataregs=[dataregs], x0=x0, epsRs=[0.1],
            NRegs=[problem.identity], epsNRs=[0.3], engine=name, **steps,
        )  # fmt: skip

    check(solve, problem.y, problem.x0, problem.dataregs, limit=9)


def test_normal_equations_stop_where_scipy_does(problem):
    def solve(y):
        return pylops.normal_equations_inversion(
            problem.op, y, problem.regs, epsRs=[0.1, 0.2], rtol=1e-3
        )

    check(solve, problem.y)


@pytest.mark.parametrize("engine", ENGINES)
def test_regularised(problem, engine):
    def solve(y):
        return pylops.regularized_inversion(
            problem.op, y, problem.regs, epsRs=[0.1, 0.2], Weight=problem.weight,
            engine=engine, **ENGINES[engine],
        )  # fmt: skip

    check(solve, problem.y, limit=3 * 6 + 3)


@pytest.mark.parametrize("engine", ENGINES)
def test_regularised_from_a_start(problem, engine):
    def solve(y, x0, dataregs):
        return pylops.regularized_inversion(
            problem.op, y, problem.regs[:1], dataregs=[dataregs], x0=x0, epsRs=[0.1],
            engine=engine, **ENGINES[engine],
        )  # fmt: skip

    check(solve, problem.y, problem.x0, problem.dataregs, limit=3 * 6 + 3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision(engine, start, dtype):
    """SciPy starts from zeros of double precision, or from `x0` as it is."""
    single = Problem(dtype)

    def solve(y, *x0):
        return pylops.regularized_inversion(
            single.op, y, single.regs, *x0, epsRs=[0.1, 0.2], engine=engine, **ENGINES[engine]
        )

    check(solve, single.y, *[single.x0] * start, rtol=2e-3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("start", [False, True])
def test_preconditioned(problem, engine, start):
    def solve(y, *x0):
        return pylops.preconditioned_inversion(
            problem.op, y, problem.smoothing, *x0, engine=engine, **ENGINES[engine]
        )

    # the Krylov space of a smoothing is badly conditioned
    check(solve, problem.y, *[problem.x0] * start, limit=3 * 6 + 3, rtol=1e-6)


def test_damped_preconditioned_with_scipys_keywords(problem):
    scaling = pylops.Diagonal(np.linspace(1, 2, 12), dtype=problem.op.dtype)

    def solve(y):
        return pylops.preconditioned_inversion(
            problem.op, y, scaling, damp=0.1, atol=1e-3, btol=1e-3, iter_lim=50
        )

    check(solve, problem.y)


DATA = {"zero": 0.0, "not a number": np.nan}


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value):RuntimeWarning")
@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("solver", ["normal_equations", "regularized", "preconditioned"])
def test_data_that_no_step_can_fit_give_what_scipy_gives(solver, data, start):
    """Muted traces, or dead ones: also the dtype, and the reason to stop, are SciPy's."""
    single = Problem("float32")
    y = np.full_like(single.y, 0.0)
    y[4] = DATA[data]
    steps = {"maxiter": 3} if solver == "normal_equations" else {"iter_lim": 3}
    operators = single.smoothing if solver == "preconditioned" else single.regs

    def solve(y, *x0):
        function = getattr(pylops, f"{solver}_inversion")
        return function(single.op, y, operators, *x0, **steps)[:2]

    check(solve, y, *[single.x0] * start, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "int32"])
@pytest.mark.parametrize("damp", [0.0, 1e-3, 3.0, 1e3])
@pytest.mark.parametrize("steps", [1, 4])
def test_damped_solves_have_the_dtype_of_scipy(dtype, damp, steps):
    """Its plane rotations are in double precision once a damped diagonal is the larger number."""
    single = Problem("float32" if dtype == "int32" else dtype)

    def solve(y, x0):
        op = single.op
        return pylops.regularized_inversion(op, y, None, x0, damp=damp, iter_lim=steps)[0]

    x0 = (3 * single.x0).astype(dtype)
    check(solve, single.y, x0, rtol=1e-4)


# -------------------------------------------------------------- reweighted, sparse


@pytest.mark.parametrize(("engine", "preallocate"), [("pylops", True), ("scipy", False)])
@pytest.mark.parametrize("kind", ["data", "model", "datamodel"])
def test_irls(problem, kind, engine, preallocate):
    def solve(y):
        return pylops.irls(
            problem.op, y, nouter=3, epsI=0.1, epsR=0.01, kind=kind, engine=engine,
            preallocate=preallocate, **ENGINES[engine],
        )  # fmt: skip

    # for each outer step those of the inner solver and three more
    per_step = 3 if engine == "scipy" else 1
    check(solve, problem.y, limit=3 * (6 * per_step + 6), rtol=1e-6)


def outer_steps(solver, steps, engine, **settings):
    """A call of a solver that has another one inside, for so many outer steps."""
    op, y = pylops.MatrixMult(rand((20, 30))), lazy(rand(20))
    number = "nouter" if solver == "irls" else "niter_outer"
    exact = (
        {"atol": 0, "btol": 0, "conlim": 0, "iter_lim": 3} if engine == "scipy" else {"niter": 3}
    )
    if solver == "splitbregman":
        settings |= {"RegsL1": [pylops.FirstDerivative(30)], "epsRL1s": [0.1], "tol": 1e-14}
    if solver == "irls":
        settings |= {"epsI": 0.1, "epsR": 0.1, "tolIRLS": 0}
        exact |= {"tol": 0} if engine == "pylops" else {}
    if solver == "omp":
        exact = {"sigma": 0, **settings}
    with count_executions() as executions:
        getattr(pylops, solver)(op, y, engine=engine, **{number: steps}, **{**settings, **exact})
    return executions.count


@pytest.mark.parametrize("engine", ["pylops", "scipy"])
@pytest.mark.parametrize(
    ("solver", "settings", "inside", "more"),
    [
        ("irls", {"kind": "data"}, 1, 1),
        ("irls", {"kind": "model"}, 1, 1),
        ("irls", {"kind": "datamodel", "warm": True}, 1, 2),
        ("splitbregman", {"niter_inner": 1}, 1, 2),
        ("splitbregman", {"niter_inner": 2}, 2, 2),
        ("omp", {"niter_inner": 3}, 1, 1),
        ("omp", {"niter_inner": 0}, 0, 2),
    ],
)
def test_executions_of_an_outer_step(solver, settings, inside, more, engine):
    """As the documentation gives them: three steps inside, their setup, and a constant."""
    found = outer_steps(solver, 4, engine, **settings) - outer_steps(solver, 3, engine, **settings)
    assert found <= inside * (3 * 3 + 3 if engine == "scipy" else 3 + 2) + more


@needs_spgl1
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.filterwarnings("ignore::pylops_dispatch.ImplicitComputeWarning")
def test_spgl1_reads_lazy_arrays_once(first):
    runs = []

    def noted(a):
        made = lazy(a).map_blocks(noting(runs), meta=np.empty(0))
        assert made.npartitions > 1
        return made

    matrix, y, x0 = noted(np.diag(np.arange(1.0, 13))), noted(rand(12)), noted(rand(12, seed=1))
    start = {"x0": x0} if first else {}
    pylops.spgl1(pylops.MatrixMult(matrix), y, tau=0, sigma=1e-2, iter_lim=5, **start)
    assert len(runs) == matrix.npartitions + y.npartitions + first * x0.npartitions


@needs_spgl1
@pytest.mark.filterwarnings("ignore::pylops_dispatch.ImplicitComputeWarning")
def test_executions_of_spgl1():
    op, y = sparse_problem()
    with count_executions() as executions:
        info = pylops.spgl1(op, lazy(y), sigma=1e-2, iter_lim=20)[2]
    # and one for the data
    assert executions.count <= info["nprodA"] + info["nprodAt"] + 1


def test_settings_given_as_an_array_are_numbers(capsys):
    """They are no vectors: printed as NumPy prints them, and no work for dask."""
    op = pylops.MatrixMult(rand((12, 9)))
    y = rand(12)

    def solve(y):
        return pylops.splitbregman(
            op, y, [pylops.FirstDerivative(9)], epsRL1s=np.array([0.1]), niter_outer=1,
            niter_inner=1, show=True, engine="pylops", niter=2,
        )  # fmt: skip

    solve(y)
    expected = printed(capsys.readouterr().out)
    solve(lazy(y))
    words, values = printed(capsys.readouterr().out)
    assert "epsL1" in words
    assert words == expected[0]
    assert_close(values, expected[1], rtol=1e-2)


def sparse_problem(dtype="float64"):
    a = rand((8, 20), dtype)
    x = np.zeros(20, dtype)
    x[[3, 11]] = [1, -2]
    return pylops.MatrixMult(a, dtype=dtype), a @ x


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "settings",
    [{"niter_inner": 6}, {"niter_inner": 0}, {"niter_inner": 6, "normalizecols": True}],
    ids=["orthogonal", "matching", "normalised"],
)
def test_omp(settings, engine, preallocate):
    op, y = sparse_problem()

    def solve(y):
        return pylops.omp(op, y, niter_outer=4, engine=engine, preallocate=preallocate, **settings)

    check(solve, y, limit=4 * (6 * 3 + 4) + 4, rtol=1e-6)


@pytest.mark.parametrize("solver", ["ista", "fista"])
@pytest.mark.parametrize("kind", ["soft", "hard", "half"])
@pytest.mark.parametrize("percentile", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_thresholds(solver, kind, percentile, dtype):
    op, y = sparse_problem(dtype)
    settings = {"threshkind": kind, "eps": 0.1}
    if percentile:
        settings = {"threshkind": f"{kind}-percentile", "perc": 20}

    def solve(y):
        return getattr(pylops, solver)(op, y, niter=5, alpha=0.01, **settings)

    with warnings.catch_warnings():
        # exact ranks need all values at once
        warnings.simplefilter(
            "ignore" if percentile else "error", pylops_dispatch.PerformanceWarning
        )
        check(solve, y, limit=5 + 1)


@pytest.mark.parametrize("kind", ["soft", "hard", "half"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_threshold_works_on_some_rows_of_a_block_at_a_time(kind, dtype, monkeypatch):
    monkeypatch.setattr(solvers, "_TILE_BYTES", 64)
    function = getattr(cls_sparsity, f"_{kind}threshold")
    x = rand((9, 5), dtype)
    found = function(DispatchArray(da.from_array(x, chunks=(7, 3))), 0.3).dask()
    np.testing.assert_array_equal(found.compute(), function(x, 0.3))
    assert found.dtype == function(x, 0.3).dtype


def test_percentiles_are_announced():
    x = pylops.Identity(20) @ da.ones(20, chunks=7)
    op, y = sparse_problem()
    with pytest.warns(pylops_dispatch.PerformanceWarning, match="percentile"):
        pylops.ista(op, lazy(y), niter=1, alpha=0.01, threshkind="soft-percentile", perc=20)
    assert x.shape == (20,)


@pytest.mark.parametrize("solver", ["ista", "fista"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"alpha": 0.01, "monitorres": True, "decay": np.linspace(1, 0.5, 5)}],
    ids=["step_size_from_an_eigenvalue", "decay"],
)
def test_other_settings_of_thresholding(solver, settings):
    op, y = sparse_problem()

    def solve(y):
        return getattr(pylops, solver)(op, y, niter=5, eps=0.1, **settings)

    check(solve, y)


@pytest.mark.parametrize(
    ("of_data", "of_start", "of_matrix"),
    [
        ("float64", "int64", "float64"),
        ("float64", "float32", "float64"),
        ("float32", "float32", "float32"),
        ("complex64", None, "float32"),
        ("float16", None, "float32"),
    ],
)
def test_normal_equations_are_solved_in_the_precision_of_scipy(of_data, of_start, of_matrix):
    def solve(y):
        op = pylops.MatrixMult(np.diag(np.arange(1.0, 13)).astype(of_matrix), dtype=of_matrix)
        x0 = None if of_start is None else np.ones(12, of_start)
        regs = [pylops.FirstDerivative(12)]
        return pylops.normal_equations_inversion(op, y, regs, x0, epsRs=[0.1], maxiter=3)[0]

    y = np.arange(12).astype(of_data)
    expected, found = solve(y), solve(lazy(y))
    assert found.dtype == expected.dtype
    assert_close(found.compute(), expected, rtol=1e-8)


@pytest.mark.parametrize("engine", [{}, {"engine": "pylops"}], ids=["scipy", "pylops"])
@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize("quadratic", [False, True])
def test_split_bregman(engine, preallocate, quadratic):
    op, y = sparse_problem()
    steps = {"niter": 4} if engine else {"iter_lim": 4}
    more = {}
    if quadratic:
        more = {
            "RegsL2": [pylops.SecondDerivative(20)],
            "dataregsL2": [np.zeros(20)],
            "epsRL2s": [0.1],
            "x0": np.ones(20),
            "restart": True,
        }

    def solve(y):
        return pylops.splitbregman(
            op, y, [pylops.FirstDerivative(20, kind="forward")], niter_outer=3, niter_inner=2,
            epsRL1s=[0.1], preallocate=preallocate, **engine, **steps, **more,
        )  # fmt: skip

    check(solve, y, limit=3 * 2 * (4 * 3 + 5))


@needs_spgl1
@pytest.mark.parametrize("settings", [{"tau": 0.5}, {"sigma": 1e-2}], ids=["lasso", "bpdn"])
@pytest.mark.parametrize("transformed", [False, True])
def test_spgl1_works_on_vectors_here_and_says_so(settings, transformed):
    op, y = sparse_problem()
    if transformed:
        settings = {**settings, "SOp": pylops.Identity(20)}

    def solve(y):
        return pylops.spgl1(op, y, iter_lim=20, **settings)

    with pytest.warns(pylops_dispatch.ImplicitComputeWarning, match="spgl1 works on NumPy vectors"):
        check(solve, y)
    with (
        pylops_dispatch.set_policy(numpy_vectors="raise"),
        pytest.raises(pylops_dispatch.NotDispatchedError, match="spgl1"),
    ):
        solve(lazy(y))


# --------------------------------------------------------------- values of an operator


def matrix(wrap):
    return pylops.MatrixMult(wrap(rand((12, 12))))


def weights(wrap):
    return pylops.Diagonal(wrap(rand(12)))


def weighted_derivative(wrap):
    return pylops.FirstDerivative(12) @ pylops.Diagonal(wrap(rand(12)))


@pytest.mark.parametrize("make", [matrix, weights, weighted_derivative])
@pytest.mark.parametrize(
    "value",
    [
        lambda op: op.tosparse().toarray(),
        lambda op: op.trace(neval=9, method="hutchinson"),
        lambda op: op.trace(neval=9, method="hutch++"),
        lambda op: op.trace(neval=9, method="na-hutch++"),
        lambda op: np.sort(np.abs(op.eigs(neigs=3))),
        lambda op: (op.H @ op).eigs(neigs=3, symmetric=True),
    ],
    ids=["tosparse", "hutchinson", "hutchpp", "nahutchpp", "eigs", "eigs_symmetric"],
)
def test_values_of_an_operator_of_dask_arrays(make, value):
    np.random.seed(0)
    expected = value(make(np.asarray))
    np.random.seed(0)
    with pytest.warns(pylops_dispatch.ImplicitComputeWarning, match="NumPy vectors"):
        found = value(make(lazy))
    assert not isinstance(found, da.Array)
    assert_close(found, expected, rtol=1e-8)


@pytest.mark.parametrize("neigs", [None, 8])
@pytest.mark.parametrize("shape", [(8, 8), (12, 8)])
def test_all_eigenvalues_of_a_matrix(shape, neigs):
    """ARPACK would leave out two: one task with the matrix, which only sends them here."""
    a = rand(shape)
    expected = pylops.MatrixMult(a).eigs(neigs=neigs)
    op = pylops.MatrixMult(lazy(a))
    with (
        pytest.warns(pylops_dispatch.PerformanceWarning, match=r"MatrixMult\.eigs"),
        pylops_dispatch.ledger() as log,
    ):
        found = op.eigs(neigs=neigs)
    assert_close(np.abs(found), np.abs(expected), rtol=1e-8)
    assert log.brought <= expected.nbytes


@pytest.mark.parametrize(
    ("a", "value"),
    [
        (rand((4, 8)) @ rand((4, 8)).T, lambda op: op.eigs(2, symmetric=True, uselobpcg=True)),
        (rand((8, 4)), lambda op: op.cond(uselobpcg=True)),
    ],
    ids=["eigs", "cond"],
)
def test_a_small_matrix_is_for_lobpcg(a, value):
    found = [value(pylops.MatrixMult(make(a))) for make in (np.asarray, lazy)]
    assert_close(*found, rtol=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
def test_eigenvalues_of_a_complex_matrix_that_is_not_square(symmetric):
    a = rand((9, 7), "complex128")
    expected = pylops.MatrixMult(a, dtype=a.dtype).eigs(neigs=3, symmetric=symmetric)
    found = pylops.MatrixMult(lazy(a), dtype=a.dtype).eigs(neigs=3, symmetric=symmetric)
    assert found.dtype == expected.dtype
    assert_close(found, expected, rtol=1e-8)


@pytest.mark.parametrize("make", [matrix, weights])
def test_condition_number(make):
    with pytest.warns(pylops_dispatch.ImplicitComputeWarning, match="cond"):
        assert_close(make(lazy).cond(), make(np.asarray).cond(), rtol=1e-6)


@pytest.mark.parametrize("make", [matrix, weights, weighted_derivative])
@pytest.mark.parametrize(
    "value",
    [
        lambda op: op.todense(),
        lambda op: op.conj() @ np.ones(12),
        lambda op: op.apply_columns([1, 3]) @ np.ones(2),
    ],
    ids=["todense", "conj", "apply_columns"],
)
def test_what_is_lazy_of_an_operator_of_dask_arrays(make, value):
    with count_executions(budget=0):
        found = value(make(lazy))
    assert_close(found.compute(), value(make(np.asarray)), rtol=1e-10)


def test_trace_of_a_matrix_is_lazy():
    with count_executions(budget=0):
        found = matrix(lazy).trace()
    assert_close(found.compute(), matrix(np.asarray).trace(), rtol=1e-10)


VALUES = {
    "eigs": lambda op, y: op.eigs(neigs=2),
    "cond": lambda op, y: op.cond(),
    "tosparse": lambda op, y: op.tosparse(),
    "dottest": lambda op, y: pylops.utils.dottest(op),
    "power_iteration": lambda op, y: power_iteration(op, niter=5),
    "trace_hutchpp": lambda op, y: estimators.trace_hutchpp(op, neval=9),
    "trace_nahutchpp": lambda op, y: estimators.trace_nahutchpp(op, neval=9),
    "trace_hutchinson": lambda op, y: estimators.trace_hutchinson(op),
    "ista without alpha": lambda op, y: cls_sparsity.ISTA(op).solve(y, niter=3),
}
if RUNS_SPGL1:
    VALUES["spgl1"] = lambda op, y: pylops.optimization.sparsity.spgl1(op, y, iter_lim=4, sigma=0.1)


@pytest.mark.filterwarnings("ignore::pylops_dispatch.ImplicitComputeWarning")
@pytest.mark.parametrize("name", VALUES)
def test_a_lazy_array_of_the_operator_is_worked_out_once(name):
    made = []

    a = rand((8, 8))
    matrix = da.from_array(a @ a.T, chunks=4).map_blocks(noting(made), dtype=float, meta=a[:0, :0])
    np.random.seed(0)
    VALUES[name](pylops.MatrixMult(matrix), da.from_array(rand(8), chunks=4))
    assert made == [(4, 4)] * 4


def test_power_iteration():
    np.random.seed(0)
    expected = power_iteration(weights(np.asarray), niter=20, tol=1e-9)[0]
    np.random.seed(0)
    found = power_iteration(weights(lazy), niter=20, tol=1e-9)[0]
    assert_close(np.asarray(found), expected, rtol=1e-8)


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("lazily", ["operator", "x0", "data"])
@pytest.mark.parametrize("name", ["lsqr", "cg"])
def test_scipys_solvers_where_one_argument_is_lazy(name, lazily, within):
    """What stands in for them, within another solve or not."""
    a, y, x0 = rand((20, 12)), rand(20), rand(12, seed=2)
    solve, steps = cls_leastsquares.sp_lsqr, {"iter_lim": 4}
    if name == "cg":
        a, y, solve, steps = a.T @ a, y[:12], cls_leastsquares.sp_cg, {"maxiter": 4}
    expected = solve(pylops.MatrixMult(a), y, x0=x0, **steps)[0]
    op = pylops.MatrixMult(lazy(a) if lazily == "operator" else a)
    with solvers.in_session(solvers.Session()) if within else contextlib.nullcontext():
        start = lazy(x0) if lazily == "x0" else x0
        data = lazy(y) if lazily == "data" else y
        given = [lift(x) if within else x for x in (data, start)]
        found = solve(op, given[0], x0=given[1], **steps)[0]
        found = lower(found) if within else found
    assert type(found) is da.Array
    assert_close(found.compute(), expected, rtol=1e-8)


# ------------------------------------------------------------- data of the wrong length

LENGTHS = (20, 12)
OPERATOR = pylops.MatrixMult(rand(LENGTHS))
POSITIVE = OPERATOR.H @ OPERATOR
REGS = [pylops.SecondDerivative(12)]
PRECONDITIONER = pylops.MatrixMult(rand((12, 5)))
FIRST_GUESS = {"cg", "cgls", "lsqr", "normal", "regularized", "preconditioned", "ista", "split"}

WRONG_FUNCTIONS = {
    "cg": lambda y, **start: pylops.cg(POSITIVE, y, **start),
    "cgls": lambda y, **start: pylops.cgls(OPERATOR, y, **start),
    "lsqr": lambda y, **start: pylops.lsqr(OPERATOR, y, **start),
    "normal": lambda y, **start: pylops.normal_equations_inversion(OPERATOR, y, REGS, **start),
    "regularized": lambda y, **start: pylops.regularized_inversion(OPERATOR, y, REGS, **start),
    "preconditioned": lambda y, **start: pylops.preconditioned_inversion(
        OPERATOR, y, PRECONDITIONER, **start
    ),
    "irls": lambda y: pylops.irls(OPERATOR, y, nouter=2),
    "omp": lambda y: pylops.omp(OPERATOR, y),
    "ista": lambda y, **start: pylops.ista(OPERATOR, y, **start),
    "fista": lambda y: pylops.fista(OPERATOR, y),
    "spgl1": lambda y: pylops.optimization.sparsity.spgl1(OPERATOR, y),
    "split": lambda y, **start: pylops.splitbregman(OPERATOR, y, REGS, **start),
    "divide": lambda y: POSITIVE / y,
    "divide-explicit": lambda y: OPERATOR / y,
    "divide-dask-matrix": lambda y: pylops.MatrixMult(da.ones(LENGTHS)) / y,
    "scipy-cg": lambda y: cls_leastsquares.sp_cg(POSITIVE, y),
    "scipy-lsqr": lambda y: cls_leastsquares.sp_lsqr(OPERATOR, y),
}
WRONG_CLASSES = {
    "cg": (cls_basic.CG, ()),
    "cgls": (cls_basic.CGLS, ()),
    "lsqr": (cls_basic.LSQR, ()),
    "normal": (cls_leastsquares.NormalEquationsInversion, (REGS,)),
    "regularized": (cls_leastsquares.RegularizedInversion, (REGS,)),
    "preconditioned": (cls_leastsquares.PreconditionedInversion, (PRECONDITIONER,)),
    "irls": (cls_sparsity.IRLS, ()),
    "omp": (cls_sparsity.OMP, ()),
    "ista": (cls_sparsity.ISTA, ()),
    "fista": (cls_sparsity.FISTA, ()),
    "spgl1": (cls_sparsity.SPGL1, ()),
    "split": (cls_sparsity.SplitBregman, (REGS,)),
}


def refuses(length, expected):
    """The error says both, and nothing runs."""
    stack = contextlib.ExitStack()
    stack.enter_context(forbid_executions())
    said = rf"mismatch.*\b{expected}\b.*\b{length}\b|mismatch.*\b{length}\b.*\b{expected}\b"
    stack.enter_context(pytest.raises(ValueError, match=said))
    return stack


@pytest.mark.parametrize("name", WRONG_FUNCTIONS)
def test_data_of_the_wrong_length_are_refused_before_any_work(name):
    expected = 12 if name in ("cg", "divide", "scipy-cg") else 20
    with refuses(19, expected):
        WRONG_FUNCTIONS[name](da.ones(19, chunks=7))


@pytest.mark.parametrize("way", ["setup", "solve"])
@pytest.mark.parametrize("name", WRONG_CLASSES)
def test_a_solver_object_refuses_data_of_the_wrong_length_before_any_work(name, way):
    cls, args = WRONG_CLASSES[name]
    op, expected = (POSITIVE, 12) if name == "cg" else (OPERATOR, 20)
    with refuses(19, expected):
        getattr(cls(op), way)(da.ones(19, chunks=7), *args)


@pytest.mark.parametrize("kind", ["numpy", "dask"])
@pytest.mark.parametrize("name", sorted(FIRST_GUESS))
def test_a_first_guess_of_the_wrong_length_is_refused_before_any_work(name, kind):
    start = np.ones(11) if kind == "numpy" else da.ones(11, chunks=4)
    with refuses(11, 5 if name == "preconditioned" else 12):
        WRONG_FUNCTIONS[name](da.ones(12 if name == "cg" else 20, chunks=7), x0=start)


def test_numpy_data_of_the_wrong_length_next_to_a_dask_matrix():
    with refuses(19, 20):
        pylops.lsqr(pylops.MatrixMult(da.ones(LENGTHS)), np.ones(19))


def test_a_first_guess_is_as_long_as_the_preconditioned_model():
    def solve(y, x0):
        return pylops.preconditioned_inversion(OPERATOR, y, PRECONDITIONER, x0=x0, iter_lim=3)

    check(solve, rand(20), rand(5))


INVERSIONS = {
    "regularised": lambda op, y, **start: pylops.optimization.leastsquares.regularized_inversion(
        op, y, None, **start, iter_lim=3
    ),
    "preconditioned": lambda op, y, **start: (
        pylops.optimization.leastsquares.preconditioned_inversion(
            op, y, pylops.Identity(8), **start, iter_lim=3
        )
    ),
    "irls": lambda op, y: irls(op, y, nouter=2, kind="model", iter_lim=3),
}


@pytest.mark.parametrize("name", INVERSIONS)
@pytest.mark.parametrize("shape", [(12, 1), (1, 12)])
def test_a_column_or_a_row_of_data_is_a_vector_for_scipy(name, shape):
    op, y = pylops.MatrixMult(rand((12, 8))), rand(12, seed=1).reshape(shape)
    try:
        expected = INVERSIONS[name](op, y)[0]
    except ValueError:
        with pytest.raises(ValueError, match=r"a vector|imension"):
            INVERSIONS[name](op, to_dask(y, 5))
    else:
        found = INVERSIONS[name](op, to_dask(y, 5))[0]
        assert found.shape == expected.shape == (8,)
        assert_close(found.compute(), expected, rtol=1e-8)


@pytest.mark.parametrize("name", ["regularised", "preconditioned"])
@pytest.mark.parametrize("shape", [(8, 1), (1, 8), (4, 2)])
def test_a_first_guess_that_is_no_vector_is_refused_before_any_work(name, shape):
    op, y = pylops.MatrixMult(rand((12, 8))), rand(12, seed=1)
    with pytest.raises(ValueError, match="imension"):
        INVERSIONS[name](op, y, x0=np.ones(shape))
    with forbid_executions(), pytest.raises(ValueError, match=r"vector of 8: x0\.ravel"):
        INVERSIONS[name](op, to_dask(y, 5), x0=da.ones(shape))


def test_a_column_is_a_first_guess_for_conjugate_gradients():
    op, y = pylops.MatrixMult(rand((12, 8))), rand(12, seed=1)
    solve = functools.partial(normal_equations_inversion, epsI=0.1, maxiter=3)
    found = solve(op, to_dask(y, 5), None, x0=da.ones((8, 1), chunks=3))[0]
    assert_close(found.compute(), solve(op, y, None, x0=np.ones((8, 1)))[0], rtol=1e-8)
    with forbid_executions(), pytest.raises(ValueError, match=r"vector of 8: x0\.ravel"):
        solve(op, to_dask(y, 5), None, x0=da.ones((4, 2)))


VECTORS_ONLY = {
    "omp": lambda op, y: omp(op, y, niter_outer=2),
    "irls": lambda op, y: irls(op, y, nouter=2, kind="model"),
    "splitbregman": lambda op, y: splitbregman(
        op, y, [pylops.Identity(12)], epsRL1s=[1.0], niter_outer=2
    ),
    "OMP": lambda op, y: cls_sparsity.OMP(op).solve(y, niter_outer=2),
}


@pytest.mark.parametrize("name", VECTORS_ONLY)
@pytest.mark.parametrize("shape", [(3, 4), (12, 1)])
def test_solvers_that_take_vectors_refuse_other_shapes_before_any_work(name, shape):
    op, y = pylops.Diagonal(np.arange(1.0, 13)), rand(shape)
    with pytest.raises(ValueError, match=r"shape|imension|broadcast"):
        VECTORS_ONLY[name](op, y)
    with forbid_executions(), pytest.raises(ValueError, match=rf"{name} takes a vector: y\.ravel"):
        VECTORS_ONLY[name](op, da.from_array(y, chunks=2))


def test_a_class_that_makes_data_of_its_own_may_take_any_length():
    class Twice(cls_basic.CGLS):
        def setup(self, y, *args, **kwargs):
            return super().setup(np.concatenate([y, y]), *args, **kwargs)

    check(lambda y: Twice(OPERATOR).solve(y, niter=3, tol=0), rand(10))


@pytest.mark.parametrize("threshkind", ["soft", "hard", "half"])
@pytest.mark.parametrize("solver", [pylops.ista, pylops.fista])
def test_functions_of_sparse_solvers_take_matrices_of_data(solver, threshkind):
    op = pylops.MatrixMult(rand((11, 9)))
    y0 = op @ rand((9, 3))
    settings = {"niter": 15, "eps": 0.3, "tol": 0, "threshkind": threshkind}
    expected = solver(op, y0, **settings)[0]
    x = solver(op, da.from_array(y0, chunks=(4, 2)), **settings)[0]
    assert_close(x.compute(), expected, rtol=1e-10)
    with pytest.raises(ValueError, match="Dimension mismatch"):
        solver(op, da.ones((10, 3)), **settings)


FLAT = pylops.FirstDerivative(9)
BREGMAN = {"niter_outer": 2, "niter_inner": 2, "iter_lim": 3}
BESIDE = {
    "Regs of normal equations": lambda op, y, lazy: pylops.normal_equations_inversion(
        op, y, [lazy], epsRs=[0.2], maxiter=3
    ),
    "NRegs": lambda op, y, lazy: pylops.normal_equations_inversion(
        op, y, None, NRegs=[lazy], epsNRs=[0.2], maxiter=3
    ),
    "Regs": lambda op, y, lazy: pylops.regularized_inversion(
        op, y, [lazy], epsRs=[0.2], iter_lim=3
    ),
    "P": lambda op, y, lazy: pylops.preconditioned_inversion(op, y, lazy, iter_lim=3),
    "RegsL1": lambda op, y, lazy: pylops.splitbregman(op, y, [lazy], epsRL1s=[0.1], **BREGMAN),
    "RegsL2": lambda op, y, lazy: pylops.splitbregman(
        op, y, [FLAT], RegsL2=[lazy], epsRL1s=[0.1], epsRL2s=[0.2], **BREGMAN
    ),
    "SOp": lambda op, y, lazy: pylops.fista(op, y, niter=4, alpha=0.01, eps=0.1, SOp=lazy),
    "SOp, thresholds by a mask": lambda op, y, lazy: pylops.ista(
        op, y, niter=4, alpha=0.01, eps=0.1, SOp=lazy, threshkind="half"
    ),
    "SOp of a solver object": lambda op, y, lazy: cls_sparsity.FISTA(op).solve(
        y, niter=4, alpha=0.01, eps=0.1, SOp=lazy
    ),
    "Regs of a solver object": lambda op, y, lazy: cls_leastsquares.RegularizedInversion(op).solve(
        y, [lazy], epsRs=[0.2], iter_lim=3
    ),
}


@pytest.mark.parametrize("name", BESIDE)
def test_one_lazy_operator_next_to_numpy_arrays_makes_a_solve_lazy(name):
    made = []

    weights, op, y = np.linspace(1, 2, 9), pylops.MatrixMult(rand((12, 9))), rand(12, seed=1)
    expected = BESIDE[name](op, y, pylops.Diagonal(weights))[0]
    cut_weights = da.from_array(weights, chunks=4).map_blocks(noting(made), meta=weights)
    found = BESIDE[name](op, y, pylops.Diagonal(cut_weights))[0]
    assert isinstance(found, da.Array)
    assert_close(found.compute(), expected, rtol=1e-8)
    assert sorted(made) == [(1,), (4,), (4,)]


SHIFT = da.from_array(np.linspace(1, 2, 9), chunks=4)


def of_a_closure(weights):
    return pylops.FunctionOperator(lambda x: weights * x, lambda x: weights * x, 9)


def of_a_global(weights):
    return pylops.FunctionOperator(lambda x: SHIFT * x, lambda x: SHIFT * x, 9)


def of_an_attribute(weights):
    class Weighs(pylops.LinearOperator):
        def __init__(self):
            super().__init__(dtype="float64", shape=(9, 9))
            self.weigh = lambda x: weights * x

        def _matvec(self, x):
            return self.weigh(x)

        _rmatvec = _matvec

    return pylops.VStack([Weighs()])


@pytest.mark.parametrize(
    "solver", [pylops.cgls, lambda op, y, niter: cls_basic.CGLS(op).solve(y, niter=niter)]
)
@pytest.mark.parametrize("make", [of_a_closure, of_a_global, of_an_attribute])
def test_functions_that_refer_to_dask_arrays_make_a_solve_lazy(make, solver, monkeypatch):
    made = []

    weights, y = np.linspace(1, 2, 9), rand(9)
    lazy_weights = da.from_array(weights, chunks=4).map_blocks(noting(made), meta=weights)
    monkeypatch.setitem(globals(), "SHIFT", lazy_weights)
    expected = pylops.cgls(pylops.Diagonal(weights), y, niter=4)[0]
    found = solver(make(lazy_weights), y, niter=4)[0]
    assert isinstance(found, da.Array)
    assert_close(found.compute(), expected, rtol=1e-8)
    assert len(made) == 3


SHARING = {
    "cg": lambda op, y: pylops.cg(op, y, niter=40)[0],
    "cgls": lambda op, y: pylops.cgls(op, y, niter=40)[0],
    "lsqr": lambda op, y: pylops.lsqr(op, y, niter=40)[0],
    "fista": lambda op, y: pylops.fista(op, y, niter=60, alpha=1 / 500, eps=1e-9)[0],
    "/": lambda op, y: op / y,
    "normal": lambda op, y: pylops.normal_equations_inversion(op, y, None, maxiter=40)[0],
    "regularized": lambda op, y: pylops.regularized_inversion(op, y, [], iter_lim=40)[0],
    "P": lambda op, y: pylops.preconditioned_inversion(op, y, pylops.Identity(24), iter_lim=40)[0],
    "irls": lambda op, y: pylops.irls(op, y, nouter=2, iter_lim=40, epsR=1e-3)[0],
    "object": lambda op, y: cls_basic.LSQR(op).solve(y, niter=40)[0],
}


@pytest.mark.parametrize("name", SHARING)
def test_weights_that_are_made_of_the_data_are_made_of_the_same_data(name):
    """Even of random numbers, which are others each time that they are worked out."""
    drawn = {}

    def draw(x, block_info=None):
        place = block_info[0]["chunk-location"]
        drawn.setdefault(place, []).append(np.random.default_rng().uniform(9, 11, x.shape))
        return drawn[place][-1]

    numbers = da.map_blocks(draw, da.zeros(24, chunks=8), meta=np.empty(0))
    x = np.asarray(SHARING[name](pylops.Diagonal(2 * numbers), numbers + 1))
    assert all(len(blocks) == 1 for blocks in drawn.values())
    used = np.concatenate([drawn[place][0] for place in sorted(drawn)])
    assert_close(x, (used + 1) / (2 * used), rtol=1e-2)


def test_operators_that_share_an_array_work_it_out_once():
    made = []

    def solved(weights, y):
        op, other = pylops.Diagonal(y * weights), pylops.Diagonal(3 * weights)
        return pylops.preconditioned_inversion(op, 2 * y, other, iter_lim=4)[0]

    given = np.linspace(1, 2, 9), rand(9)
    found = solved(*(da.from_array(a, chunks=4).map_blocks(noting(made), meta=a) for a in given))
    assert_close(found.compute(), solved(*given), rtol=1e-8)
    assert len(made) == 2 * 3


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("shape", [(6, 6), (8, 6)])
def test_columns_of_a_matrix_are_solved_with_all_of_it(shape):
    """As PyLops does: ``_ColumnLinearOperator`` has the matrix as its own."""
    op = pylops.MatrixMult(rand(shape)).apply_columns([0, 2, 4])
    y = rand(shape[0])
    found, expected = op / da.from_array(y, chunks=3), op / y
    assert found.shape == expected.shape
    assert_close(found.compute(), expected, rtol=1e-8)
