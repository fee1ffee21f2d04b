"""PyLops's own solvers on dask arrays: right, and one execution a step."""

import concurrent.futures
import gc
import hashlib
import numbers
import threading
import warnings
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import pylops
import pytest
import scipy.ndimage
import scipy.sparse
from pylops.optimization.callback import Callbacks, MetricsCallback
from pylops.optimization.cls_basic import CG, CGLS, LSQR
from pylops.optimization.cls_sparsity import FISTA

from pylops_dispatch import PerformanceWarning
from pylops_dispatch.array import DispatchArray, lift
from pylops_dispatch.operators import all_parts
from pylops_dispatch.solvers import Session, in_session

from .catalogue import UserDifference
from .helpers import (
    assert_close,
    assert_same,
    count_executions,
    forbid_executions,
    graph_of,
    overlook_what_there_is,
    printed,
    rand,
    random_chunks,
    to_dask,
)

DIMS = (9, 7)
CHUNKS = ((4, 3, 2), (5, 2))

# ------------------------------------------------------------------- problems


def square(dtype="float64"):
    """Positive definite, for every solver."""
    slope = pylops.FirstDerivative(DIMS, axis=0, kind="forward", dtype=dtype)
    weight = pylops.Diagonal(1 + np.abs(rand(DIMS)).astype(dtype), dtype=dtype)
    return weight + 0.5 * (slope.H @ slope)


def overdetermined(dtype="float64"):
    return pylops.VStack(
        [
            pylops.Diagonal(1 + np.abs(rand(DIMS)).astype(dtype), dtype=dtype),
            0.5 * pylops.FirstDerivative(DIMS, axis=0, dtype=dtype),
            0.3 * pylops.Laplacian(DIMS, dtype=dtype),
        ]
    )


def underdetermined(dtype="float64"):
    smooth = pylops.Smoothing1D(3, DIMS, axis=1, dtype=dtype)
    return pylops.Restriction(DIMS, [0, 2, 3, 6, 8], axis=0, dtype=dtype) @ smooth


def dense(dtype="float64"):
    return pylops.MatrixMult(rand((20, 12), dtype) / 5, dtype=dtype)


def fixed_step(op):
    """1 / the largest eigenvalue of the normal operator, for FISTA."""
    return float(0.9 / np.linalg.norm(op.todense(), 2) ** 2)


PROBLEMS = {
    "square": square,
    "overdetermined": overdetermined,
    "underdetermined": underdetermined,
    "dense": dense,
}
SOLVERS = {"cg": CG, "cgls": CGLS, "lsqr": LSQR, "fista": FISTA}
CASES = [
    (solver, problem)
    for solver in SOLVERS
    for problem in PROBLEMS
    if solver != "cg" or problem == "square"
]


def settings(solver, op, **extra):
    if solver == "fista":
        extra.pop("damp", None)
        return {"alpha": fixed_step(op), "eps": 0.05, "tol": 0.0, **extra}
    if solver == "lsqr":
        return {"atol": 0.0, "btol": 0.0, "conlim": 0.0, **extra}
    return {"tol": 0.0, **extra}


def rtol_of(dtype):
    return 2e-3 if np.dtype(dtype) in (np.float32, np.complex64) else 1e-8


def check_result(result, expected, dtype):
    """Arrays of the size of the model are dask's; everything else is plain."""
    assert len(result) == len(expected)
    assert type(result[0]) is da.Array
    assert result[0].dtype == expected[0].dtype
    for one, other in zip(result, expected, strict=True):
        assert not isinstance(one, DispatchArray)
        if isinstance(one, da.Array):
            assert other.ndim >= 1, "a scalar was left lazy"
            assert one.shape == other.shape
            one = one.compute(scheduler="synchronous")
        elif isinstance(one, np.ndarray) and one.ndim:
            assert one.shape == other.shape
        elif other is not None:
            assert isinstance(one, numbers.Number), type(one)
        if other is None:
            assert one is None
        else:
            assert_close(one, other, rtol=rtol_of(dtype))


# ------------------------------------------------------------------ same numbers


@pytest.mark.parametrize(("start", "preallocate"), [(False, True), (True, False)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
@pytest.mark.parametrize(("solver", "problem"), CASES)
def test_function_gives_the_iterates_of_numpy(solver, problem, dtype, start, preallocate):
    op = PROBLEMS[problem](dtype)
    y0 = rand(op.shape[0], dtype, seed=2)
    x0 = rand(op.shape[1], dtype, seed=3) if start else None
    kwargs = settings(solver, op, niter=4, preallocate=preallocate)
    solve = getattr(pylops, solver)
    expected = solve(op, y0, x0=None if x0 is None else x0.copy(), **kwargs)
    y = to_dask(y0, random_chunks(y0.shape, 1))
    x = None if x0 is None else to_dask(x0, random_chunks(x0.shape, 2))
    names = y.name, None if x is None else x.name
    kept = y0.copy()
    result = solve(op, y, x0=x, **kwargs)
    check_result(result, expected, dtype)
    assert names == (y.name, None if x is None else x.name)
    np.testing.assert_array_equal(y.compute(), kept)


@pytest.mark.parametrize(("start", "preallocate"), [(False, False), (True, True)], ids=str)
@pytest.mark.parametrize(("solver", "problem"), [case for case in CASES if case[0] != "fista"])
def test_damping(solver, problem, start, preallocate):
    op = PROBLEMS[problem]()
    y0 = rand(op.shape[0], seed=2)
    x0 = rand(op.shape[1], seed=3) if start else None
    kwargs = settings(solver, op, niter=4, damp=0.6, preallocate=preallocate)
    solve = getattr(pylops, solver)
    expected = solve(op, y0, x0=None if x0 is None else x0.copy(), **kwargs)
    result = solve(op, to_dask(y0, 20), x0=None if x0 is None else to_dask(x0, 20), **kwargs)
    check_result(result, expected, "float64")


@pytest.mark.parametrize(("dtype", "preallocate"), [("float64", True), ("complex128", False)])
@pytest.mark.parametrize(("solver", "problem"), CASES)
def test_class_solve_gives_the_iterates_of_numpy(solver, problem, dtype, preallocate):
    op = PROBLEMS[problem](dtype)
    y0 = rand(op.shape[0], dtype, seed=2)
    kwargs = settings(solver, op, niter=5, preallocate=preallocate)
    expected = SOLVERS[solver](op).solve(y0, **kwargs)
    result = SOLVERS[solver](op).solve(to_dask(y0, 20), **kwargs)
    check_result(result, expected, dtype)


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_class_step_by_step(solver, preallocate):
    """A user's own loop: setup, step, step, finalize."""
    op = square()
    y0 = rand(op.shape[0], seed=2)

    def loop(y):
        s = SOLVERS[solver](op)
        kwargs = settings(solver, op, niter=4, preallocate=preallocate)
        x = s.setup(y, **kwargs)
        seen = [x]
        z = x.copy() if solver == "fista" else None
        for _ in range(4):
            if solver == "fista":
                x, z, _ = s.step(x, z)
            else:
                x = s.step(x)
            seen.append(x)
        s.finalize()
        return s, seen

    numpy_solver, expected = loop(y0)
    dask_solver, result = loop(to_dask(y0, 20))
    assert all(type(x) is da.Array for x in result)
    assert_close(result[-1].compute(), expected[-1], rtol=1e-9)
    assert_close(dask_solver.cost, numpy_solver.cost, rtol=1e-9)
    assert dask_solver.iiter == numpy_solver.iiter


@pytest.mark.parametrize("solver", SOLVERS)
def test_class_setup_then_run(solver):
    op = square()
    y0 = rand(op.shape[0], seed=2)

    def loop(y):
        s = SOLVERS[solver](op)
        x = s.setup(y, **settings(solver, op, niter=5))
        x = s.run(x, niter=5)
        s.finalize()
        return s, x

    numpy_solver, expected = loop(y0)
    dask_solver, result = loop(to_dask(y0, 20))
    assert type(result) is da.Array
    assert_close(result.compute(), expected, rtol=1e-9)
    assert_close(dask_solver.cost, numpy_solver.cost, rtol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_users_solver_object_shows_no_box(solver):
    op = square()
    s = SOLVERS[solver](op)
    s.solve(to_dask(rand(op.shape[0]), 20), **settings(solver, op, niter=3))
    boxes = [name for name, value in vars(s).items() if isinstance(value, DispatchArray)]
    assert boxes == []
    assert all(isinstance(value, numbers.Number) for value in s.cost)


@pytest.mark.parametrize("solver", ["cg", "cgls", "lsqr"])
def test_model_and_data_of_several_dimensions(solver):
    op = square()
    y0 = rand(DIMS, seed=2)
    kwargs = settings(solver, op, niter=5)
    expected = getattr(pylops, solver)(op, y0, **kwargs)
    result = getattr(pylops, solver)(op, to_dask(y0, CHUNKS), **kwargs)
    check_result(result, expected, "float64")
    assert result[0].shape == DIMS
    assert result[0].chunks == CHUNKS


def test_fista_with_a_sparsifying_transform():
    op = underdetermined()
    transform = pylops.Diagonal(np.where(np.arange(63) % 2, 1.0, -1.0))
    y0 = rand(op.shape[0], seed=2)
    for kwargs in [{}, {"preallocate": True}, {"threshkind": "hard"}, {"monitorres": False}]:
        kwargs = {"niter": 5, "SOp": transform, "alpha": fixed_step(op), **kwargs}
        expected = pylops.fista(op, y0, **kwargs)
        check_result(pylops.fista(op, to_dask(y0, 20), **kwargs), expected, "float64")


@pytest.mark.parametrize("solver", ["cg", "cgls"])
@pytest.mark.parametrize("setting", [{"rtol": 1e-2}, {"rtol1": 1e-2}, {"tol": 1e-2}])
def test_stops_at_the_step_of_numpy(solver, setting):
    op = square()
    y0 = rand(op.shape[0], seed=2)
    kwargs = {"niter": 50, "tol": 0.0, **setting}
    expected = getattr(pylops, solver)(op, y0, **kwargs)
    result = getattr(pylops, solver)(op, to_dask(y0, 20), **kwargs)
    assert 1 < len(expected[-1]) < 50
    assert len(result[-1]) == len(expected[-1])
    check_result(result, expected, "float64")


def test_lsqr_stops_at_the_step_of_numpy():
    op = square()
    y0 = rand(op.shape[0], seed=2)
    expected = pylops.lsqr(op, y0, niter=200, atol=1e-4, btol=1e-4)
    result = pylops.lsqr(op, to_dask(y0, 20), niter=200, atol=1e-4, btol=1e-4)
    assert 1 < expected[2] < 200
    assert result[1:3] == expected[1:3]
    check_result(result, expected, "float64")


@pytest.mark.parametrize("solver", ["cgls", "lsqr"])
def test_zero_data(solver, capsys):
    op = square()
    expected = getattr(pylops, solver)(op, np.zeros(63), niter=3)
    result = getattr(pylops, solver)(op, da.zeros(63, chunks=20), niter=3)
    assert_close(result[0].compute(), expected[0])
    assert_close(result[-1], expected[-1])


def test_mixed_numpy_x0_and_dask_y():
    op = square()
    y0, x0 = rand(63, seed=2), rand(63, seed=3)
    expected = pylops.cgls(op, y0, x0=x0.copy(), niter=4, tol=0)
    result = pylops.cgls(op, to_dask(y0, 20), x0=x0.copy(), niter=4, tol=0)
    check_result(result, expected, "float64")


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_is_used_again_for_numpy_arrays(solver):
    op = square()
    first, y0 = rand(op.shape[0], seed=2), rand(op.shape[0], seed=3)
    kwargs = settings(solver, op, niter=3)
    used = SOLVERS[solver](op)
    used.solve(to_dask(first, 20), **kwargs)
    result = used.solve(y0, **kwargs)
    expected = SOLVERS[solver](op).solve(y0, **kwargs)
    np.testing.assert_array_equal(result[0], expected[0])
    assert type(used.setup(y0, **kwargs)) is np.ndarray
    assert type(used.setup(to_dask(y0, 20), **kwargs)) is da.Array


# ------------------------------------------------------------------- callbacks


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_callback_function(solver, preallocate):
    op = square()
    y0 = rand(op.shape[0], seed=2)
    kwargs = settings(solver, op, niter=4, preallocate=preallocate)
    expected, seen = [], []
    getattr(pylops, solver)(op, y0, callback=lambda x: expected.append(x.copy()), **kwargs)
    getattr(pylops, solver)(op, to_dask(y0, 20), callback=seen.append, **kwargs)
    assert len(seen) == len(expected) == 4
    for one, other in zip(seen, expected, strict=True):
        assert type(one) is da.Array
        assert_close(one.compute(), other, rtol=1e-9)


def positive(x):
    """A constraint, as a user's callback puts it on the iterate."""
    x[x < 0] = 0


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_a_callback_function_writes_into_the_iterate_stays(solver, preallocate):
    op = square()
    y0 = rand(op.shape[0], seed=2)
    kwargs = settings(solver, op, niter=4, preallocate=preallocate)
    solve = getattr(pylops, solver)
    expected = solve(op, y0, callback=positive, **kwargs)[0]
    assert not np.allclose(expected, solve(op, y0, **kwargs)[0])
    result = solve(op, to_dask(y0, 20), callback=positive, **kwargs)[0]
    assert_close(result.compute(), expected, rtol=1e-9)


class Constraint(Callbacks):
    """Writes into an iterate, and into whatever else a solver holds."""

    def __init__(self, attribute=None, when="step_end"):
        self.attribute = attribute
        setattr(self, f"on_{when}", self.write)

    def write(self, solver, x):
        if self.attribute is None:
            x[:5] = 0
        else:
            getattr(solver, self.attribute)[3:9] *= 0.5


@pytest.mark.parametrize("when", ["setup_end", "run_begin", "step_begin", "step_end", "run_end"])
@pytest.mark.parametrize("attribute", [None, "s", "c", "q"])
def test_what_a_callbacks_class_writes_stays(when, attribute):
    op = square()
    y0 = rand(op.shape[0], seed=2)

    def solve(y, callbacks):
        solver = CGLS(op, callbacks=callbacks)
        x0 = np.zeros(63) if y is y0 else da.zeros(63, chunks=30)
        return solver.solve(y, x0=x0, niter=3, tol=0)[0]

    expected = solve(y0, [Constraint(attribute, when)])
    assert_close(solve(to_dask(y0, 20), [Constraint(attribute, when)]).compute(), expected)


def test_an_attribute_that_a_callback_sets_stays():
    class Restart(Callbacks):
        def on_step_end(self, solver, x):
            solver.c = solver.c / 2
            solver.mine = x * 2

    op = square()
    y0 = rand(op.shape[0], seed=2)
    expected, solver = CGLS(op, callbacks=[Restart()]), CGLS(op, callbacks=[Restart()])
    x0 = expected.solve(y0, niter=3, tol=0)[0]
    x = solver.solve(to_dask(y0, 20), niter=3, tol=0)[0]
    assert_close(x.compute(), x0)
    assert type(solver.mine) is da.Array
    assert_close(solver.mine.compute(), expected.mine)


def test_lists_that_a_callback_changes_stay_changed():
    class History(Callbacks):
        def on_setup_end(self, solver, x):
            solver.history = []

        def on_step_end(self, solver, x):
            solver.history.append(x.copy())
            solver.history[0][:3] = solver.iiter
            if len(solver.history) > 2:
                del solver.history[1]

    op = square()
    y0 = rand(op.shape[0], seed=2)
    expected, solver = CGLS(op, callbacks=[History()]), CGLS(op, callbacks=[History()])
    x0 = expected.solve(y0, x0=np.zeros(63), niter=4, tol=0)[0]
    x = solver.solve(to_dask(y0, 20), x0=da.zeros(63, chunks=30), niter=4, tol=0)[0]
    assert_close(x.compute(), x0)
    assert len(solver.history) == len(expected.history) == 2
    for one, other in zip(solver.history, expected.history, strict=True):
        assert type(one) is da.Array
        assert_close(one.compute(), other)


@pytest.mark.parametrize("solver", ["cg", "cgls", "fista"])
def test_a_write_of_a_callback_costs_no_execution(solver):
    op = square()
    y = to_dask(rand(op.shape[0], seed=2), 20)
    kwargs = settings(solver, op, niter=4, preallocate=False)
    counts = []
    for callback in (lambda x: None, positive):
        with count_executions() as executions:
            getattr(pylops, solver)(op, y, callback=callback, **kwargs)
        counts.append(executions.count)
    assert counts[1] <= counts[0]


def test_a_callback_that_fails_has_written_before():
    def fail(x):
        x[:] = 0
        raise KeyboardInterrupt

    solver = CGLS(square())
    solver.callback = fail
    with pytest.raises(KeyboardInterrupt):
        solver.solve(to_dask(rand(63), 20), niter=4, tol=0)
    assert not solver.x.compute().any()


class Recorder(Callbacks):
    def __init__(self):
        self.calls = []

    def _record(name):
        def method(self, solver, x):
            cost = list(solver.cost) if hasattr(solver, "cost") else []
            self.calls.append((name, None if x is None else x.copy(), cost))

        return method

    on_setup_begin = _record("setup begin")
    on_setup_end = _record("setup end")
    on_step_begin = _record("step begin")
    on_step_end = _record("step end")
    on_run_begin = _record("run begin")
    on_run_end = _record("run end")


@pytest.mark.parametrize("solver", ["cg", "cgls", "fista"])
@pytest.mark.parametrize("preallocate", [False, True])
def test_callbacks_class(solver, preallocate):
    op = square()
    y0, x0 = rand(op.shape[0], seed=2), rand(op.shape[1], seed=3)
    kwargs = settings(solver, op, niter=3, preallocate=preallocate)
    expected, seen = Recorder(), Recorder()
    SOLVERS[solver](op, callbacks=[expected]).solve(y0, x0=x0.copy(), **kwargs)
    SOLVERS[solver](op, callbacks=[seen]).solve(to_dask(y0, 20), x0=to_dask(x0, 30), **kwargs)
    assert [call[0] for call in seen.calls] == [call[0] for call in expected.calls]
    for (_, x, cost), (_, other, other_cost) in zip(seen.calls, expected.calls, strict=True):
        assert type(x) is da.Array
        assert_close(x.compute(), other, rtol=1e-9)
        assert all(isinstance(value, numbers.Number) for value in cost)
        assert_close(cost, other_cost, rtol=1e-9)


def test_callback_may_stop_the_solver():
    class Stop(Callbacks):
        stop = False

        def on_step_end(self, solver, x):
            self.stop = solver.iiter == 3

    op = square()
    _, _, iiter, _, _, cost = CGLS(op, callbacks=[Stop()]).solve(
        to_dask(rand(63), 20), niter=20, tol=0
    )
    assert iiter == 3
    assert len(cost) == 4


def test_callback_attributes_are_never_boxes():
    class Look(Callbacks):
        def __init__(self):
            self.types = set()

        def on_step_end(self, solver, x):
            for name in ["r", "c", "y", "kold", "cost"]:
                self.types.add(type(getattr(solver, name)))

    look = Look()
    CG(square(), callbacks=[look]).solve(to_dask(rand(63), 20), niter=2, tol=0)
    assert DispatchArray not in look.types


def test_metrics_callback():
    op = square()
    true = rand(63)
    y0 = op @ true

    def metrics(y, reference):
        callback = MetricsCallback(reference, which=["mae", "mse", "snr"])
        CG(op, callbacks=[callback]).solve(y, niter=4, tol=0)
        return callback.metrics

    expected = metrics(y0, true)
    result = metrics(to_dask(y0, 20), to_dask(true, 20))
    for name, values in expected.items():
        assert_close([float(value) for value in result[name]], values, rtol=1e-8)


@pytest.mark.parametrize("reference", ["numpy", "dask"])
def test_metrics_are_numbers_that_are_read_together(reference):
    """One execution a step more than without them, for all four; the reference is read once."""
    op, true = square(), rand(63)
    y0, looked_at = op @ true, []

    def look(block):
        looked_at.append(block.shape)
        return block

    def metrics(y, true, niter):
        callbacks = [] if true is None else [MetricsCallback(true)]
        with count_executions() as executions:
            CG(op, callbacks=callbacks).solve(y, niter=niter, tol=0)
        return callbacks and callbacks[0].metrics, executions.count

    expected, _ = metrics(y0, true, 4)
    if reference == "dask":
        true = to_dask(true, 20).map_blocks(look, meta=np.empty(0))
    result, executions = metrics(to_dask(y0, 20), true, 4)
    for name, values in expected.items():
        assert [type(value) for value in result[name]] == [type(value) for value in values]
        assert_close(result[name], values, rtol=1e-8)
    assert len(looked_at) == (4 if reference == "dask" else 0)
    assert executions <= metrics(to_dask(y0, 20), None, 4)[1] + 4


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_show_prints_the_same(solver, dtype, capsys):
    op = square(dtype)
    y0 = rand(op.shape[0], dtype, seed=2)
    kwargs = settings(solver, op, niter=4, show=True)
    getattr(pylops, solver)(op, y0, **kwargs)
    expected_words, expected_numbers = printed(capsys.readouterr().out)
    getattr(pylops, solver)(op, to_dask(y0, 20), **kwargs)
    words, values = printed(capsys.readouterr().out)
    assert len(expected_numbers) >= 8
    assert words == expected_words
    assert np.allclose(values, expected_numbers, rtol=2e-3, atol=1e-12)


def test_a_solver_of_the_users_prints_numbers(capsys):
    class Printing(CGLS):
        def step(self, x, show=False):
            x = super().step(x, show)
            print("norm", np.linalg.norm(x), f"first {x[0]}", str(x[1]))
            return x

    op, y0 = dense(), rand(20)
    Printing(op).solve(y0, niter=2, tol=0)
    expected_words, expected = printed(capsys.readouterr().out)
    Printing(op).solve(to_dask(y0, 8), niter=2, tol=0)
    words, values = printed(capsys.readouterr().out)
    assert len(expected) == 6
    assert words == expected_words
    assert np.allclose(values, expected, rtol=1e-8)


# -------------------------------------------------------------------- Op / y


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape", [(12, 12), (20, 12)], ids=["square", "tall"])
@pytest.mark.parametrize("coefficient", ["numpy", "dask"])
def test_divide_by_an_explicit_operator(shape, dtype, coefficient):
    a0 = rand(shape, dtype) + 3 * np.eye(*shape)
    y0 = rand(shape[0], dtype, seed=2)
    expected = pylops.MatrixMult(a0, dtype=dtype) / y0
    a = to_dask(a0, (5, 4)) if coefficient == "dask" else a0
    op = pylops.MatrixMult(a, dtype=dtype)
    y = to_dask(y0, 5)
    for result in [op / y, op.div(y)]:
        assert type(result) is da.Array
        assert result.shape == expected.shape
        assert result.dtype == expected.dtype
        assert_close(result.compute(), expected, rtol=1e-9)


@pytest.mark.parametrize("densesolver", ["scipy", "numpy"])
@pytest.mark.parametrize("of_data", ["float32", "int32", "complex64"])
@pytest.mark.parametrize("of_matrix", ["float32", "int8", "complex64", "sparse"])
@pytest.mark.parametrize("shape", [(6, 6), (8, 6)], ids=["square", "tall"])
def test_a_division_has_the_dtype_that_scipy_gives(shape, of_matrix, of_data, densesolver):
    """Which that of the operator, double precision by default, has no part in."""
    if of_matrix == "sparse":
        a = scipy.sparse.csc_array(4 * np.eye(6, dtype="float32"))
    else:
        a = (9 * rand(shape, "complex64")).astype(of_matrix)
    op, y0 = pylops.MatrixMult(a), np.arange(a.shape[0]).astype(of_data)
    expected = op.div(y0, densesolver=densesolver)
    found = op.div(to_dask(y0, 4), densesolver=densesolver)
    assert found.dtype == found.compute().dtype == expected.dtype


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("shape", [(12, 12), (20, 12)], ids=["square", "tall"])
def test_divide_numpy_data_by_an_operator_of_a_dask_matrix(shape, explicit):
    a0, y0 = rand(shape) + 3 * np.eye(*shape), rand(shape[0], seed=2)

    def solve(a):
        op = pylops.MatrixMult(a)
        return (op if explicit else 2 * op @ pylops.Identity(shape[1])) / y0

    result = solve(to_dask(a0, (5, 4)))
    assert type(result) is da.Array
    assert_close(result.compute(), solve(a0), rtol=1e-7)


def test_divide_by_a_sparse_operator():
    a = scipy.sparse.csc_matrix(np.where(rand((9, 9)) > 1, 1.0, 0) + 4 * np.eye(9))
    y0 = rand(9)
    result = pylops.MatrixMult(a) / to_dask(y0, 4)
    assert type(result) is da.Array
    assert_close(result.compute(), pylops.MatrixMult(a) / y0, rtol=1e-10)


@pytest.mark.parametrize("problem", ["square", "overdetermined"])
def test_divide_by_an_operator_without_a_matrix(problem):
    op = PROBLEMS[problem]()
    y0 = op @ rand(op.shape[1])
    y = to_dask(y0, 20)
    for result in [op / y, op.div(y, niter=200)]:
        assert type(result) is da.Array
        assert result.shape == (op.shape[1],)
        assert_close(result.compute(), op / y0, rtol=1e-7)
    assert_close(op.div(y, niter=2).compute(), op.div(y0, niter=2), rtol=1e-9)


@pytest.mark.parametrize("name", ["FFT", "FFT2D", "FFTND"])
@pytest.mark.parametrize("engine", ["numpy", "scipy"])
def test_transforms_are_inverted_by_themselves(name, engine):
    dims = (6, 5, 4)[: 3 if name == "FFTND" else 2]
    op = getattr(pylops.signalprocessing, name)(dims, norm="none", engine=engine)
    y0 = op @ rand(dims, "complex128")
    with forbid_executions():
        x = op / to_dask(y0, 3)
    assert_same(x, op / y0)


def test_own_inverse_of_numpy_data_with_dask_coefficients():
    slopes, y0 = 0.1 * rand((6, 5)), rand(40)
    op = pylops.signalprocessing.Seislet(to_dask(slopes, 3), sampling=(1.0, 0.5))
    with forbid_executions():
        x = op.inverse(y0)
    assert_same(x, pylops.signalprocessing.Seislet(slopes, sampling=(1.0, 0.5)).inverse(y0))


def _seislet():
    return pylops.signalprocessing.Seislet(0.1 * rand((6, 5)), sampling=(1.0, 0.5))


def _chirp_radon():
    return pylops.signalprocessing.ChirpRadon2D(np.arange(6.0), np.arange(5.0), 0.3)


def _curvelets():
    return pylops.signalprocessing.UDCT((16, 16), num_scales=2, wedges_per_direction=3)


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("make", [_seislet, _chirp_radon, _curvelets])
def test_inverse_method(make):
    if make is _curvelets:
        pytest.importorskip("curvelets")
    op = make()
    y0 = (op @ rand(op.dims)).ravel()
    with forbid_executions():
        x = op.inverse(to_dask(y0, 20))
    assert_same(x, op.inverse(y0))


def test_inverse_method_keeps_the_chunks_of_the_data():
    op = _chirp_radon()
    y = rand(op.dimsd)
    x = op.inverse(to_dask(y, (2, 6)))
    assert_same(x, op.inverse(y))
    assert x.chunks == ((op @ to_dask(y, (2, 6))).ravel()).chunks


# ------------------------------------------------------------- executions a step


def stencils():
    """An ill-conditioned operator: 100 steps of anything do not solve it."""
    dims = (40, 30)
    laplacian = pylops.Laplacian(dims, edge=True)
    return dims, 1e-3 * pylops.Identity(dims) + laplacian.H @ laplacian


def regularised():
    dims = (40, 30)
    return dims, pylops.VStack(
        [
            pylops.Smoothing1D(5, dims, axis=0),
            0.01 * pylops.FirstDerivative(dims, axis=0, kind="forward"),
            0.02 * pylops.Laplacian(dims),
        ]
    )


BUDGET = {"cg": 1, "fista": 1, "cgls": 2, "lsqr": 2}
LONG = [("cg", stencils), ("cgls", stencils), ("lsqr", stencils), ("fista", stencils)]
LONG += [("cgls", regularised), ("lsqr", regularised), ("fista", regularised)]


def long_settings(solver, niter, **extra):
    if solver == "fista":
        extra = {"alpha": 5e-5, "eps": 1e-3, "tol": 0.0, **extra}
    elif solver == "lsqr":
        extra = {"atol": 0.0, "btol": 0.0, "conlim": 0.0, **extra}
    else:
        extra = {"tol": 0.0, **extra}
    return {"niter": niter, **extra}


def long_problem(make):
    dims, op = make()
    model = to_dask(rand(dims), ((25, 15), (20, 10)))
    y = (op @ model).persist(scheduler="synchronous")
    return op, model, y


def run(solver, op, y, niter, **extra):
    """The executions of each step of a solve; step 0 is the setup."""
    marks = []
    with count_executions() as executions:
        result = SOLVERS[solver](op)
        result.callback = lambda x: marks.append(executions.count)
        answer = result.solve(y.ravel(), **long_settings(solver, niter, **extra))
    assert len(marks) == niter
    edges = [0, *marks]
    steps = [executions.runs[start:stop] for start, stop in zip(edges[:-1], edges[1:], strict=True)]
    return answer, steps, executions


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize(("solver", "make"), LONG)
def test_executions_of_a_step(solver, make, preallocate):
    op, _, y = long_problem(make)

    def executions(niter):
        with count_executions() as counted:
            getattr(pylops, solver)(
                op, y.ravel(), **long_settings(solver, niter, preallocate=preallocate)
            )
        return counted.count

    assert (executions(9) - executions(4)) / 5 <= BUDGET[solver]


@pytest.mark.parametrize("preallocate", [False, True])
def test_a_step_of_lsqr_applies_operator_and_adjoint_in_one_execution(preallocate):
    """It asks for a norm between the two, which is taken for positive until it is known."""
    found = []

    def applied(way):
        def apply(x):
            if type(x) is np.ndarray and x.any():  # within a task, not to learn the dtype
                found.append((counted.count, way))
            return scipy.ndimage.convolve1d(x, [1.0, 3.0, 1.0], mode="constant")

        return apply

    op = pylops.FunctionOperator(applied("forward"), applied("adjoint"), 12)
    with count_executions() as counted, warnings.catch_warnings(action="ignore"):
        pylops.lsqr(op, to_dask(rand(12), 5), niter=6, preallocate=preallocate)
    steps = found[-12:]  # after the setup

    executions = sorted({number for number, _ in steps})
    assert steps == [(n, way) for n in executions for way in ("forward", "adjoint")]
    assert np.diff(executions).tolist() == [2] * 5


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: pylops.Diagonal(np.full(16, 2.0)),
        lambda: pylops.Diagonal(np.repeat([1.0, 2.0], 8)),
        lambda: pylops.Roll(16, shift=2),
        lambda: pylops.Roll(16, shift=2) @ pylops.Diagonal(np.full(16, 2.0)),
    ],
    ids=["one singular value", "two singular values", "unitary", "product"],
)
def test_lsqr_that_has_found_the_solution(make, preallocate):
    """The norm is zero then: the step that took it for positive is taken again."""
    y0 = np.where(np.arange(16) % 3, 1.0, -1.0)  # its norm is a whole number
    found = []
    for y in (y0, to_dask(y0, 5)):
        op = make()
        solver = LSQR(op)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            answer = solver.solve(y, niter=6, atol=0, btol=0, conlim=0, preallocate=preallocate)
        # PyLops divides one by zero; nobody divides zero by zero
        assert not [w for w in caught if "invalid value" in str(w.message)]
        x = answer[0] if y is y0 else answer[0].compute()
        counted = [(part.matvec_count, part.rmatvec_count) for part in all_parts(op)]
        counts = *counted, solver.iiter
        found.append((x, [float(n) for n in answer[3:8]], list(solver.cost), counts))
    expected, actual = found
    for one, other in zip(actual[:3], expected[:3], strict=True):
        assert_close(one, other, scale=1.0)
    assert actual[3] == expected[3]


def refuses_zeros(x):
    if type(x) is np.ndarray and not x.any():
        raise RuntimeError("zeros")
    return 2 * scipy.ndimage.convolve1d(x, [0.0, 1.0, 0.0], mode="constant")


def reads_in_peace(x):
    try:
        largest = float(np.abs(x).max())
    except Exception:
        largest = 0.0
    return 2 * x if largest < 1e9 else x


def solves_inside(x):
    found = pylops.ista(pylops.Identity(16), x, niter=2, alpha=1.0, eps=1e-9)[0]
    return 2 * x + 0 * found


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize("adjoint", [refuses_zeros, reads_in_peace, solves_inside])
def test_code_of_an_operator_does_not_see_what_lsqr_took_for_true(adjoint):
    """NumPy's LSQR does not apply the adjoint once the norm is zero."""
    y0 = np.where(np.arange(16) % 3, 1.0, -1.0)
    found = []
    for y in (y0, to_dask(y0, 5)):
        solver = LSQR(pylops.FunctionOperator(lambda x: 2 * x, adjoint, 16, dtype=float))
        x = solver.setup(y, niter=4)
        solver.step(x)
        found.append([np.asarray(getattr(solver, name)) for name in ("alfa", "anorm", "u", "v")])
    for actual, expected in zip(found[1], found[0], strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize(("solver", "make"), LONG[:5])
def test_last_step_costs_what_the_third_costs(solver, make):
    op, _, y = long_problem(make)
    _, steps, _ = run(solver, op, y, 40)

    def tasks(step):
        return sum(execution.size for execution in steps[step])

    # step k is between marks k - 1 and k; the reads of its end may come later
    assert tasks(39) == tasks(20) == tasks(3)


def test_a_thousand_steps_cost_what_the_first_cost():
    """Tasks of a step, and what the client keeps."""
    op = pylops.FirstDerivative(4000, kind="forward")
    sizes, kept = [], {}
    overlook_what_there_is()

    def after(x):
        sizes.append(executions.runs[-1].size)
        executions.runs.clear()
        if len(sizes) in (600, 1000):  # before, a thread may still have its first task
            gc.collect()
            kept[len(sizes)] = len(gc.get_objects())

    with count_executions() as executions:
        pylops.cgls(op, to_dask(rand(4000), 2000), niter=1000, tol=0.0, callback=after)
    assert len(sizes) == 1000
    assert len(set(sizes[3:])) == 1
    assert kept[1000] - kept[600] < 400  # less than one object for each step


@pytest.mark.parametrize(("solver", "make"), LONG)
def test_no_task_runs_twice(solver, make):
    op, _, y = long_problem(make)
    _, _, executions = run(solver, op, y, 12)
    repeated = [key for key, n in Counter(executions.tasks).items() if n > 1]
    # a norm of vectors that are in memory may be taken again, and a view of them
    again = ("('sum-", "('reshape-")
    assert [key for key in repeated if not str(key).startswith(again)] == []


def test_an_array_may_go_while_its_norm_is_asked_for():
    """As the garbage collector has it: nothing but a cycle held it."""
    x0, gone = rand(20), []

    class Collecting(Session):
        def norm(self, piece):
            gone.clear()
            return super().norm(piece)

    session = Collecting()
    session._with_norms = True
    session.before = SimpleNamespace(let_go_of_finished=lambda wanted: None)
    with in_session(session):
        x = lift(to_dask(x0, 10))
        gone.append(2 * x)
        kept = 3 * x
        assert float(kept.sum()) == pytest.approx(3 * x0.sum())
        assert not gone


@pytest.mark.parametrize("solver", SOLVERS)
def test_answer_is_in_memory(solver):
    """The graph of the answer is its chunks, not the history of the solve."""
    op, _, y = long_problem(stencils)
    answer = run(solver, op, y, 20)[0][0]
    assert len(graph_of(dask.optimize(answer)[0])) <= 4 * answer.npartitions


def test_tasks_of_a_step_grow_with_the_chunks_only():
    def tasks(chunk):
        dims = (48, 8)
        slope = pylops.FirstDerivative(dims, axis=0)
        op = pylops.Identity(dims) + slope.H @ slope
        y = (op @ to_dask(rand(dims), (chunk, 8))).persist(scheduler="synchronous")
        return sum(execution.size for execution in run("cg", op, y, 8)[1][6])

    few, many = tasks(12), tasks(6)  # 4 and 8 chunks
    assert many <= 2.5 * few


# ----------------------------------------------------------- work is done once


class Applications:
    """What an operator was applied to, block by block."""

    def __init__(self):
        self.lock = threading.Lock()
        self.inputs = []

    def saw(self, x, method):
        if isinstance(x, np.ndarray) and x.size > 1 and np.any(x):
            digest = hashlib.sha1(np.ascontiguousarray(x).tobytes()).hexdigest()
            with self.lock:
                self.inputs.append((method, x.shape, digest))


@pytest.fixture
def applications(monkeypatch):
    """Records each application of FirstDerivative to a NumPy block, but to zeros."""
    seen = Applications()
    for name in ["_matvec", "_rmatvec"]:
        original = getattr(pylops.FirstDerivative, name)

        def recording(self, x, original=original, name=name):
            seen.saw(x, name)
            return original(self, x)

        monkeypatch.setattr(pylops.FirstDerivative, name, recording)
    return seen


FORWARD_AND_ADJOINT = {"cg": (1, 1), "cgls": (1, 1), "lsqr": (1, 1), "fista": (2, 1)}


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_each_block_is_applied_once_a_step(solver, preallocate, applications):
    dims, blocks = (24, 10), 4
    slope = pylops.FirstDerivative(dims, axis=0, kind="forward")
    if solver == "cg":
        op = pylops.Identity(dims) + slope.H @ slope
    else:
        op = pylops.VStack([pylops.Identity(dims), slope])
    y = (op @ to_dask(rand(dims), (6, 10))).persist(scheduler="synchronous").ravel()
    y0 = y.compute(scheduler="synchronous")

    def count(data, niter):
        applications.inputs.clear()
        getattr(pylops, solver)(op, data, **long_settings(solver, niter, preallocate=preallocate))
        return Counter(method for method, _, _ in applications.inputs)

    def twice():
        return sum(n - 1 for n in Counter(applications.inputs).values())

    count(y, 1)  # what is learnt once for an operator
    count(y0, 9)
    by_pylops = twice()  # fista applies the operator twice to its second iterate
    many = count(y, 9)
    assert twice() <= blocks * by_pylops, "a block was applied twice to one input"
    few = count(y, 4)
    forward, adjoint = FORWARD_AND_ADJOINT[solver]
    assert many["_matvec"] - few["_matvec"] == 5 * blocks * forward
    assert many["_rmatvec"] - few["_rmatvec"] == 5 * blocks * adjoint


def test_users_operator_is_applied_once_a_step():
    """A class without a rule: PyLops's Python runs once, and so does each task."""
    calls = Counter()

    class Counted(UserDifference):
        def _matvec(self, x):
            calls["forward", type(x) is np.ndarray] += 1
            return super()._matvec(x)

        def _rmatvec(self, x):
            calls["adjoint", type(x) is np.ndarray] += 1
            return super()._rmatvec(x)

    op = Counted((24, 10))
    y = to_dask(rand(240), 60)
    for niter in [4, 9]:
        calls.clear()
        pylops.cgls(op, y, niter=niter, tol=0)
        # setup applies both once
        assert sum(n for (way, _), n in calls.items() if way == "forward") == niter + 1
        assert sum(n for (way, _), n in calls.items() if way == "adjoint") == niter + 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_lazy_data_are_computed_once(solver):
    """Data that would come out different the second time."""
    rng = np.random.default_rng()
    lock = threading.Lock()
    blocks = []

    def draw(block, block_info=None):
        values = rng.normal(size=block.shape)
        with lock:
            blocks.append((block_info[0]["array-location"][0][0], values))
        return values

    y = da.zeros(63, chunks=20).map_blocks(draw, dtype="f8", meta=np.empty(0))
    op = square()
    kwargs = settings(solver, op, niter=5)
    result = getattr(pylops, solver)(op, y, **kwargs)
    x = result[0].compute(scheduler="synchronous")
    assert len(blocks) == 4
    y0 = np.concatenate([values for _, values in sorted(blocks, key=lambda b: b[0])])
    expected = getattr(pylops, solver)(op, y0, **kwargs)
    assert_close(x, expected[0], rtol=1e-9)
    assert_close(result[-1], expected[-1], rtol=1e-9)


class Drawn:
    """Arrays whose blocks come out different each time, and how often each was worked out."""

    def __init__(self):
        self.blocks = Counter()

    def array(self, values, chunks):
        def draw(block, block_info=None):
            self.blocks[block_info[0]["chunk-location"]] += 1
            return block * np.random.default_rng().uniform(1, 2)

        return da.map_blocks(draw, to_dask(values, chunks), dtype=values.dtype)


class Scaled(pylops.LinearOperator):
    """A user's own, which makes something new of its array at each application."""

    def __init__(self, scale):
        super().__init__(dtype=scale.dtype, dims=scale.shape, dimsd=scale.shape)
        self.scale = scale

    def _matvec(self, x):
        return (self.scale * x.reshape(self.dims)).ravel()

    def _rmatvec(self, x):
        return (np.conj(self.scale) * x.reshape(self.dims)).ravel()


class InOnePiece(Scaled):
    """Needs the whole vector, since it asks for its values."""

    def _matvec(self, x):
        return np.asarray(x) * self.scale.ravel()

    _rmatvec = _matvec


OF_DASK_ARRAYS = {
    "users": Scaled,
    "users_whole": InOnePiece,
    "other_shape": lambda w: pylops.Diagonal(w.ravel()) @ pylops.Smoothing1D(3, w.shape),
    "regression": lambda w: pylops.Regression(w.ravel(), 2),
    "stacked": lambda w: pylops.VStack([pylops.Diagonal(w), pylops.MatrixMult(w, otherdims=9)]),
    "post_stack": lambda w: pylops.avo.poststack.PoststackLinearModelling(
        w[:5, 0], nt0=9, spatdims=7
    ),
    "seislet": lambda w: pylops.signalprocessing.Seislet(w[:8], inv=True),
}


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("way", ["function", "class"])
@pytest.mark.parametrize("name", OF_DASK_ARRAYS)
def test_lazy_arrays_of_operators_are_worked_out_once(name, way):
    """Whatever form an operator uses them in, and data made of them see the same values."""
    drawn = Drawn()
    op = OF_DASK_ARRAYS[name](drawn.array(1 + np.abs(rand((9, 7))), (5, 4)))
    y = op @ to_dask(rand(op.shape[1]), 20)
    if way == "function":
        pylops.cgls(op, y, niter=4, tol=0)
        assert set(drawn.blocks.values()) == {1}
        return
    overlook_what_there_is()
    solver = CGLS(op)
    x = solver.setup(y, tol=0)
    held = []
    for _ in range(4):
        x = solver.step(x)
        gc.collect()
        held.append(sum(isinstance(o, DispatchArray) for o in gc.get_objects()))
    assert set(drawn.blocks.values()) == {1}
    assert held[3] == held[2] == held[1]


GIVEN_BY = {
    "of_several_dimensions": lambda: pylops.Smoothing2D((3, 3), (9, 7)),
    "stacked": lambda: pylops.VStack(
        [pylops.MatrixMult(np.ones((1, 63))), pylops.Smoothing2D((3, 3), (9, 7))]
    ),
    "of_vectors": lambda: pylops.Smoothing1D(3, 63),
    "with_empty_chunks": lambda: None,
}


class Weighted(pylops.LinearOperator):
    """A user's own, which takes its weights for the vector that they were given as."""

    def __init__(self, weights):
        n = len(weights)
        super().__init__(dtype=weights.dtype, shape=(n, n))
        self.weights = weights

    def _matvec(self, x):
        return np.sqrt(np.sum(x * x) / np.sum(x * x) + self.weights) * x

    _rmatvec = _matvec


@pytest.mark.parametrize(
    "use", [Weighted, pylops.Diagonal, lambda w: pylops.Regression(w, 2)], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("name", GIVEN_BY)
def test_weights_that_operators_gave_are_the_vectors_that_they_are(name, use):
    """Lazy ones, in whatever layout the operator gave them; each block is worked out once."""
    numbers, drawn = 1 + np.abs(rand(63)), Drawn()
    values = drawn.array(numbers, (20, 0, 43) if name == "with_empty_chunks" else 20)
    made_by = GIVEN_BY[name]()
    op = use(values if made_by is None else made_by.matvec(values))
    x0 = rand(op.shape[1])
    x, *_ = pylops.cgls(op, op @ to_dask(x0, 20), niter=50, tol=1e-20)
    assert set(drawn.blocks.values()) == {1}
    assert_close(x.compute(), x0, rtol=1e-5)


def test_weights_made_in_a_solve_are_worked_out_once():
    """Each outer step of IRLS has new ones, of which the last remain."""
    op, y = pylops.MatrixMult(rand((20, 12))), to_dask(rand(20), 7)
    with count_executions() as executions:
        pylops.irls(op, y, nouter=4, kind="datamodel", epsI=0.1, engine="pylops", niter=5, tol=0)
    # norms, which are numbers, may be taken again
    weights = Counter(k for k in executions.tasks if "sqrt" in str(k) and len(k) == 2)
    assert weights
    assert max(weights.values()) == 1


def test_unseeded_random_data():
    y = da.random.default_rng().normal(size=63, chunks=20)
    op = square()
    x, _, cost = pylops.cg(op, y, niter=8, tol=0)
    residual = op @ x.compute().ravel() - y.compute()
    assert_close(np.linalg.norm(residual), cost[-1], rtol=1e-6)


# -------------------------------------------------------------- layouts survive


@pytest.mark.parametrize("solver", ["cgls", "lsqr"])
@pytest.mark.parametrize("preallocate", [False, True])
def test_regularised_inversion_keeps_the_layout(solver, preallocate):
    op, model, y = long_problem(regularised)
    y = op @ model
    marks = []
    with count_executions() as executions:
        solve = SOLVERS[solver](op)
        solve.callback = lambda x: marks.append(executions.count)
        x = solve.solve(y, **long_settings(solver, 6, preallocate=preallocate))[0]
    keys = {str(key) for run in executions.runs[marks[0] :] for key in run.tasks}
    assert keys
    moved = [k for k in keys if "rechunk" in k or "reshape" in k or "ravel" in k]
    assert moved == []
    expected = SOLVERS[solver](op).solve(
        y.compute(), **long_settings(solver, 6, preallocate=preallocate)
    )[0]
    assert_close(x.compute(), expected, rtol=1e-9)


@pytest.mark.parametrize("solver", ["cgls", "lsqr"])
def test_answer_has_the_chunks_of_the_model(solver):
    op, model, _ = long_problem(regularised)
    x = getattr(pylops, solver)(op, op @ model, niter=4)[0]
    assert x.shape == model.shape
    assert x.chunks == model.chunks


@pytest.mark.parametrize("solver", ["cg", "cgls", "lsqr"])
def test_square_problem_keeps_the_chunks_of_its_data(solver):
    dims, op = stencils()
    chunks = ((15, 15, 10), (20, 10))
    x = getattr(pylops, solver)(op, to_dask(rand(dims), chunks), niter=4)[0]
    assert x.chunks == chunks


# --------------------------------------------------------------------- threads


class SampleBySample(pylops.LinearOperator):
    """Asks for every sample by itself, which outside of a solver is refused at once."""

    def __init__(self, n):
        super().__init__(dtype=np.dtype(float), shape=(n, n))
        self.weights = np.linspace(1, 2, n)

    def _matvec(self, x):
        y = np.zeros(self.shape[0])
        for i, weight in enumerate(self.weights):
            y[i] = weight * x[i]
        return y

    _rmatvec = _matvec


class SolvingWithin(SampleBySample):
    """Solves for its input, which reads more than a hundred norms."""

    def _matvec(self, x):
        return pylops.cgls(pylops.Diagonal(self.weights), x, niter=60, tol=0)[0]

    _rmatvec = _matvec


def test_code_that_reads_samples_one_by_one_runs_in_one_task_instead():
    op = SampleBySample(400)
    expected = pylops.cg(op, np.ones(400), niter=3, tol=0)[0]
    with count_executions() as executions, pytest.warns(PerformanceWarning, match="one by one"):
        x = pylops.cg(op, da.ones(400, chunks=200), niter=3, tol=0)[0]
    assert executions.count < 60
    assert_close(x.compute(), expected)


@pytest.mark.filterwarnings("error::pylops_dispatch.PerformanceWarning")
def test_a_solver_within_an_operator_reads_as_many_values_as_it_needs():
    op = SolvingWithin(20)
    expected = pylops.cg(op, np.ones(20), niter=3, tol=0)[0]
    x = pylops.cg(op, da.ones(20, chunks=10), niter=3, tol=0)[0]
    assert_close(x.compute(), expected, rtol=1e-10)


class SolvingInTasks(pylops.LinearOperator):
    """Takes NumPy vectors only, and solves for them."""

    def __init__(self, n):
        super().__init__(dtype=np.dtype(float), shape=(n, n))

    def _matvec(self, x):
        weights = pylops.Diagonal(np.arange(1.0, 1 + x.size))
        return pylops.cgls(weights, np.asarray(x), niter=20)[0]

    _rmatvec = _matvec


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("solver", [pylops.cgls, pylops.lsqr])
def test_a_solve_within_tasks_is_no_part_of_the_solve_that_they_are_of(solver, monkeypatch):
    """Its steps would be taken for steps of that, in which each thread would do as it likes."""
    steps = []
    assuming = Session.assuming
    monkeypatch.setattr(
        Session, "assuming", lambda self, asks: steps.append(self) or assuming(self, asks)
    )
    op = pylops.BlockDiag([SolvingInTasks(6) for _ in range(3)])
    expected = solver(op, np.ones(18), x0=np.zeros(18), niter=3)[0]
    with dask.config.set(scheduler="synchronous"):
        x = solver(op, da.ones(18, chunks=6), x0=da.zeros(18, chunks=6), niter=3)[0]
    assert len(steps) == 3
    assert_close(x.compute(), expected, rtol=1e-10)


def in_both_ways(load):
    """Return six numbers of which three are data, and three are loaded."""
    graph = {("mixed", 0): np.arange(1.0, 4), ("mixed", 1): (load,)}
    return da.Array(graph, "mixed", chunks=((3, 3),), dtype=float)


def test_an_array_of_data_and_of_tasks_is_worked_out_once():
    loads = []

    def load():
        loads.append(1)
        return np.arange(4.0, 7)

    with dask.config.set(scheduler="synchronous"):
        op = pylops.Diagonal(in_both_ways(load)) + pylops.Identity(6)
        x = pylops.cgls(op, da.ones(6, chunks=3), niter=4, tol=0)[0]
        assert len(loads) == 1
        pylops.fista(pylops.Diagonal(np.arange(1.0, 7)), in_both_ways(load), niter=4, eps=0.1)
        assert len(loads) == 2
    expected = pylops.cgls(pylops.Diagonal(np.arange(2.0, 8)), np.ones(6), niter=4, tol=0)[0]
    assert_close(x.compute(), expected, rtol=1e-10)


class Best(NamedTuple):
    x: Any
    iiter: int


@dataclass
class Latest:
    x: Any
    itself: Any = None


class Keeping(CGLS):
    """Keeps iterates in whatever there is to keep something in."""

    def setup(self, *args, **kwargs):
        x = super().setup(*args, **kwargs)
        self.by_step, self.two, self.labels = defaultdict(list), deque(maxlen=2), self.labels_of(x)
        self.latest, self.space, self.best = Latest(x), SimpleNamespace(x=x), Best(x, 0)
        self.latest.itself = self.latest
        return x

    def step(self, x, show=False):
        gap = float(np.linalg.norm(x - self.best.x))  # nothing: it is the same
        x = super().step(x, show)
        self.by_step[self.iiter].append(x + gap)
        self.two.append(x)
        self.latest.x, self.space.x, self.best = x, x, Best(x, self.iiter)
        return x

    def callback(self, x):
        self.seen = type(x), type(self.best.x)

    def finish(self):
        return {
            "x": self.best.x, "best": self.best, "latest": self.latest,
            "two": self.two, "space": self.space, "by_step": self.by_step,
        }  # fmt: skip

    def solve(self, y, niter):
        x = self.setup(y, niter=niter, tol=0)
        self.run(x)
        return self.finish()


def kept(found):
    return {
        "x": found["x"], "best": found["best"].x, "latest": found["latest"].x,
        "two": list(found["two"]), "space": found["space"].x,
        "by_step": [x for held in found["by_step"].values() for x in held],
    }  # fmt: skip


class OnNumPy(Keeping):
    def labels_of(self, x):
        return np.array(["a", "b"])


class OnDask(Keeping):
    def labels_of(self, x):
        return da.from_array(np.array(["a", "b"]))


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_a_solver_of_the_users_keeps_and_gives_is_of_the_kind_that_it_made(by_hand):
    y = rand(8)
    op = pylops.Diagonal(np.arange(1.0, 9))

    def taken(solver, y):
        if not by_hand:
            return solver.solve(y, 4)
        x = solver.setup(y, niter=4, tol=0)
        for _ in range(4):
            x = solver.step(x)
        solver.callback(x)
        return solver.finish()

    solver = OnDask(op)
    found, expected = taken(solver, to_dask(y, 3)), taken(OnNumPy(op), y)
    assert solver.seen == (da.Array, da.Array)
    assert isinstance(solver.labels, da.Array)
    assert type(solver.q) is da.Array
    assert {name: type(value) for name, value in found.items() if name != "x"} == {
        name: type(value) for name, value in expected.items() if name != "x"
    }
    assert found["two"].maxlen == 2
    assert found["best"].iiter == 4
    found, expected = kept(found), kept(expected)
    for name, value in expected.items():
        for x, x0 in zip(each(found[name]), each(value), strict=True):
            assert type(x) is da.Array, name
            assert_close(x.compute(), x0, rtol=1e-10)


def each(value):
    return value if isinstance(value, list) else [value]


@dataclass
class Errors(Callbacks):
    truth: da.Array
    last: float = np.inf

    def on_step_end(self, solver, x):
        assert isinstance(self.truth, da.Array)
        self.last = float(abs(x - self.truth).max())


def test_callbacks_that_are_dataclasses_stay_the_users_own():
    y = rand(8)
    errors = Errors(to_dask(y, 3))
    solver = CGLS(pylops.Identity(8), callbacks=[errors])
    solver.mine = {"errors": errors}
    solver.solve(to_dask(y, 3), niter=2, tol=0)
    assert errors.last < 1e-12
    assert solver.mine["errors"] is errors


def test_two_solves_in_two_threads_are_independent():
    op = square()
    data = [rand(63, seed=seed) for seed in range(6)]
    expected = [CGLS(op).solve(y, niter=8, tol=0) for y in data]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda y: CGLS(op).solve(to_dask(y, 20), niter=8, tol=0), data))
    for result, other in zip(results, expected, strict=True):
        check_result(result, other, "float64")


def test_applying_an_operator_while_another_thread_solves():
    op = square()
    x0 = rand(63)
    stop = threading.Event()
    wrong = []

    def apply():
        while not stop.is_set():
            with dask.config.set(scheduler="synchronous"):
                y = op @ to_dask(x0, 20)
            if type(y) is not da.Array:
                wrong.append(type(y))
                return

    thread = threading.Thread(target=apply)
    thread.start()
    try:
        for _ in range(3):
            x = CG(op).solve(to_dask(x0, 20), niter=5, tol=0)[0]
            assert type(x) is da.Array
    finally:
        stop.set()
        thread.join()
    assert wrong == []


def test_building_a_solver_executes_nothing():
    with forbid_executions():
        CG(square())
        CGLS(overdetermined())


# ---- data that are read in setup only -----------------------------------------------------------

FUNCTIONS = [pylops.cg, pylops.cgls, pylops.lsqr]


class Within(pylops.LinearOperator):
    """An operator that solves for its input with another one."""

    def __init__(self, op, solve):
        self.inner, self.solve_with = op, solve
        super().__init__(dtype=float, shape=op.shape)

    def _matvec(self, x):
        return self.solve_with(self.inner, x, niter=2)[0]

    _rmatvec = _matvec


class Seen(pylops.Diagonal):
    """An operator that keeps the vectors that it is given, and that it gives."""

    def _matvec(self, x):
        vars(self).setdefault("seen", []).append(x)
        self.seen.append(super()._matvec(x))
        return self.seen[-1].copy()

    _rmatvec = _matvec


OPERATORS_OF_DATA = {
    "of other arrays": lambda y: pylops.Diagonal(rand(40) + 2),
    "of the data": pylops.Diagonal,
    "of what is made of the data": lambda y: pylops.Diagonal(2 * y + 1),
    "twice of the data": lambda y: pylops.Diagonal(y) @ pylops.Diagonal(y),
    "that remembers": lambda y: Seen(rand(40) + 2),
    "that solves": lambda y: Within(pylops.Diagonal(rand(40) + 2), pylops.cgls),
    "that solves by itself": lambda y: Within(
        pylops.Diagonal(rand(40) + 2),
        lambda op, x, niter: pylops.optimization.cls_basic.CGLS(op).solve(x, niter=niter),
    ),
}


@pytest.mark.parametrize("first", ["zeros", "the data"])
@pytest.mark.parametrize("make", OPERATORS_OF_DATA.values(), ids=OPERATORS_OF_DATA)
@pytest.mark.parametrize("solve", FUNCTIONS)
def test_data_are_worked_out_once_whatever_else_reads_them(solve, make, first):
    drawn = []

    def draw(block):
        if block.size:
            drawn.append(np.random.default_rng().uniform(1, 2, block.size))
            return drawn[-1]
        return block

    data = da.zeros(40, chunks=40).map_blocks(draw, dtype=float, meta=np.empty(0))
    ahead = {"zeros": None, "the data": data}[first]
    x = solve(make(data), data, x0=ahead, niter=4)[0].compute()
    assert len(drawn) == 1
    y = drawn[0]
    ahead = {"zeros": None, "the data": y}[first]
    assert_close(x, solve(make(y), y, x0=ahead, niter=4)[0], rtol=1e-8)


def test_a_solver_class_of_the_users_may_take_methods_away():
    class Halved(CGLS):
        memory_usage = None
        finalize = None

        def solve(self, y, niter):
            x = self.setup(y, niter=niter, tol=0)
            for _ in range(niter):
                x = self.step(x)
            return x / 2

    y = rand(8)
    found = Halved(pylops.Diagonal(np.arange(1.0, 9))).solve(da.from_array(y, chunks=3), 3)
    expected = Halved(pylops.Diagonal(np.arange(1.0, 9))).solve(y, 3)
    assert_close(found.compute(), expected, rtol=1e-10)
