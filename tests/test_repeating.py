"""A solve makes the graph of an application once; what comes of it is as if it was made anew."""

import dask.array as da
import numpy as np
import pylops
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pylops.optimization.basesolver import Solver
from pylops.optimization.callback import Callbacks
from pylops.optimization.cls_basic import CGLS

import pylops_dispatch
from pylops_dispatch import repeating
from pylops_dispatch.operators import all_parts, counters
from pylops_dispatch.solvers import Session
from pylops_dispatch.steps import sessions

from .helpers import assert_close, chunks_for, noting, rand

DIMS = (6, 5)


def kernel():
    return rand((5, 4, 3), "complex128")


def shared(op):
    return pylops.VStack([op, pylops.Diagonal(rand(30)), op.H * (2 * op)])


OPERATORS = {
    "halo": lambda: pylops.Identity(30) + 0.3 * pylops.Laplacian(DIMS),
    "along an axis": lambda: (
        pylops.signalprocessing.FFT(DIMS, axis=0, real=True, nfft=6).H
        * pylops.signalprocessing.FFT(DIMS, axis=0, real=True, nfft=6)
    ),
    "matrix": lambda: pylops.MatrixMult(rand((12, 6)), otherdims=5),
    "stack": lambda: pylops.VStack([pylops.MatrixMult(rand((8, 30), seed=i)) for i in range(3)]),
    "the same many times": lambda: pylops.BlockDiag([pylops.FirstDerivative(10)] * 3),
    "of several pieces": lambda: pylops.Block(
        [[pylops.Identity(15), pylops.Diagonal(rand(15))], [pylops.Zero(15), pylops.Identity(15)]]
    ),
    "convolution": lambda: pylops.waveeqprocessing.MDC(kernel(), nt=9, nv=2),
    "positions": lambda: pylops.Restriction(DIMS, [0, 2, 5], axis=0) * pylops.Diagonal(rand(DIMS)),
    "adjoint": lambda: pylops.CausalIntegration(DIMS, axis=0).H,
    "the same in two places": lambda: shared(pylops.MatrixMult(rand((30, 30)))),
    "interpolation": lambda: pylops.signalprocessing.Interp(30, np.linspace(0, 28, 12))[0],
}


@pytest.fixture
def renamed(monkeypatch):
    """Applications whose graph was there."""
    seen = []
    original = repeating._renamed
    monkeypatch.setattr(repeating, "_renamed", lambda *a: (seen.append(1), original(*a))[1])
    return seen


def steps(op, y, number):
    """Take some steps of a solver."""
    solver = CGLS(op)
    x = solver.setup(y, niter=number, tol=0)
    for _ in range(number):
        x = solver.step(x)
    return np.asarray(x.compute() if isinstance(x, da.Array) else x)


@pytest.mark.parametrize("name", OPERATORS)
@given(data=st.data())
def test_a_solve_gives_what_it_gives_for_numpy(name, data):
    op = OPERATORS[name]()
    y = rand(op.shape[0], op.dtype, seed=4)
    chunks = data.draw(chunks_for(y.shape))
    # a few steps: from where the solution is exact, the rest is rounding
    found = steps(op, da.from_array(y, chunks=chunks), 4)
    assert_close(found, steps(op, y, 4), rtol=1e-9)


@pytest.mark.parametrize("name", OPERATORS)
def test_graphs_are_made_once_and_applications_counted_as_for_numpy(name, renamed):
    op, own = OPERATORS[name](), OPERATORS[name]()
    y = rand(op.shape[0], op.dtype)
    steps(op, da.from_array(y, chunks=-1), 4)
    steps(own, y, 4)
    assert len(renamed) == 8  # all but the first of each direction
    assert counters(op) == counters(own)


@pytest.mark.parametrize("name", OPERATORS)
def test_parts_are_counted_as_where_each_graph_is_made_anew(name, monkeypatch):
    found = []
    for repeats in (True, False):
        monkeypatch.setattr(Session, "repeats", repeats)
        op = OPERATORS[name]()
        steps(op, da.from_array(rand(op.shape[0], op.dtype), chunks=7), 4)
        found.append(list(map(counters, all_parts(op))))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", OPERATORS)
def test_a_graph_is_as_large_as_one_that_is_made_anew(name, monkeypatch):
    def sizes(repeats):
        monkeypatch.setattr(Session, "repeats", repeats)
        op = OPERATORS[name]()
        with pylops_dispatch.ledger() as log:
            steps(op, da.from_array(rand(op.shape[0], op.dtype), chunks=3), 4)
        return [execution.tasks for execution in log]

    assert sizes(True) == sizes(False)


def in_place(op):
    op.diag[2] = 7.0


def anew(op):
    op.diag = 2 * op.diag


@pytest.mark.parametrize("change", [in_place, anew])
def test_an_operator_that_changes_is_applied_as_it_is(change, renamed):
    class Changes(Callbacks):
        def on_step_end(self, solver, x):
            if solver.iiter == 3:
                change(solver.Op)

    def solve(y):
        op = pylops.Diagonal(np.arange(1.0, 9))
        return CGLS(op, callbacks=[Changes()]).solve(y, niter=6, tol=0)[0]

    y = rand(8)
    assert_close(solve(da.from_array(y, chunks=3)).compute(), solve(y), rtol=1e-9)
    assert renamed


def test_lazy_arrays_of_an_operator_are_worked_out_once(renamed):
    runs = []

    def weights(block):
        runs.append(block.shape)
        return block + 1

    given, y = np.arange(8.0), rand(8)
    diagonal = da.from_array(given, chunks=4).map_blocks(weights, meta=np.ones(0))
    found = steps(pylops.Diagonal(diagonal), da.from_array(y, chunks=4), 5)
    assert_close(found, steps(pylops.Diagonal(given + 1), y, 5), rtol=1e-9)
    assert len(runs) == 2
    assert renamed


def test_a_vector_of_an_operators_own_array(renamed):
    """What the graph reads of the operator is not what it reads of the vector."""
    weights = da.from_array(np.arange(1.0, 9), chunks=4)
    found = steps(pylops.Diagonal(weights), weights, 3)
    assert_close(found, steps(pylops.Diagonal(np.arange(1.0, 9)), np.arange(1.0, 9), 3), rtol=1e-9)
    assert renamed


class Untold:
    """Of which nothing can be told."""

    def __dask_tokenize__(self):
        raise AssertionError


class Own(pylops.LinearOperator):
    """Counts how often its code runs."""

    def __init__(self):
        super().__init__(dtype=np.dtype(float), dims=(6,), dimsd=(6,))
        self.runs = 0
        self.held = Untold()

    def _matvec(self, x):
        self.runs += 1
        return 2 * x

    _rmatvec = _matvec


def test_code_of_a_user_runs_each_time(renamed):
    op, own = Own(), Own()
    steps(pylops.Identity(6) + op, da.from_array(rand(6), chunks=4), 4)
    steps(pylops.Identity(6) + own, rand(6), 4)
    assert op.runs == own.runs
    assert not renamed


def test_what_remembers_vectors_is_given_each(renamed):
    def memory():
        return pylops.MemoizeOperator(pylops.Diagonal(np.arange(1.0, 7)), max_neval=10)

    y = rand(6)
    assert_close(steps(memory(), da.from_array(y, chunks=4), 4), steps(memory(), y, 4), rtol=1e-9)
    assert not renamed


def test_vectors_that_are_cut_in_another_way(renamed):
    op = pylops.FirstDerivative(12)
    y = rand(12)
    solver, reference = CGLS(op), CGLS(op)
    x = solver.setup(da.from_array(y, chunks=4), niter=9, tol=0)
    expected = reference.setup(y, niter=9, tol=0)
    for chunks in (4, 4, 5, 3, (1, 11)):
        solver.s = solver.s.rechunk(chunks)
        x, expected = solver.step(x), reference.step(expected)
    assert_close(x.compute(), expected, rtol=1e-9)
    assert renamed


def test_nothing_is_kept_outside_of_solves(renamed):
    op = pylops.FirstDerivative(8)
    for seed in range(4):
        x = rand(8, seed=seed)
        assert_close((op @ da.from_array(x, chunks=4)).compute(), op @ x)
    assert not renamed


def test_an_interrupt_while_a_graph_is_made_leaves_nothing_of_it(monkeypatch):
    """Its traceback holds boxes of what stands for the vector."""
    op = pylops.Identity(30) + 0.3 * pylops.Laplacian((6, 5))
    y = rand(30)
    expected, *_ = pylops.cgls(op, y, niter=5, tol=0)
    original, calls = repeating._output, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(repeating, "_output", interrupted)
    solver = CGLS(op)
    x = solver.setup(da.from_array(y, chunks=7), tol=0)
    caught = None
    for _ in range(5):
        try:
            x = solver.step(x)
        except KeyboardInterrupt as error:
            caught = error
            x = solver.step(x)
    assert caught is not None
    assert_close(x, expected.ravel(), rtol=1e-9)


def test_two_solves_of_one_operator_at_once():
    op = pylops.Identity(30) + 0.3 * pylops.Laplacian(DIMS)
    ys = [rand(30, seed=seed) for seed in range(2)]
    solvers = [CGLS(op), CGLS(op)]
    found = [
        solver.setup(da.from_array(y, chunks=7), niter=9, tol=0)
        for solver, y in zip(solvers, ys, strict=True)
    ]
    for _ in range(5):
        found = [solver.step(x) for solver, x in zip(solvers, found, strict=True)]
    for x, y in zip(found, ys, strict=True):
        assert_close(x.compute(), steps(op, y, 5), rtol=1e-9)


@pytest.mark.parametrize("read", [False, True], ids=["in memory", "lazy"])
def test_arrays_of_an_operator_that_are_not_needed_stay_lazy(renamed, read):
    """The adjoint kernel that Fredholm1 keeps: its rule does without."""
    runs = []

    kernel = rand((4, 3, 3))
    given = da.from_array(kernel, chunks=(2, 3, 3))
    op = pylops.signalprocessing.Fredholm1(given + 0 if read else given, saveGt=True)
    op.GT = op.GT.map_blocks(noting(runs), meta=np.ones((0, 0, 0)))
    y = rand(12)
    own = pylops.signalprocessing.Fredholm1(kernel, saveGt=True)
    assert_close(steps(op, da.from_array(y, chunks=6), 4), steps(own, y, 4), rtol=1e-9)
    assert renamed
    assert not runs


def test_an_operator_that_changes_in_each_step_is_just_applied(renamed, monkeypatch):
    tried = []
    original = repeating._record
    monkeypatch.setattr(repeating, "_record", lambda *a: (tried.append(1), original(*a))[1])

    class Changes(Callbacks):
        def on_step_end(self, solver, x):
            solver.Op.diag = solver.Op.diag * 1.1

    def solve(y):
        op = pylops.Diagonal(np.arange(1.0, 9))
        return CGLS(op, callbacks=[Changes()]).solve(y, niter=12, tol=0)[0]

    y = rand(8)
    assert_close(solve(da.from_array(y, chunks=3)).compute(), solve(y), rtol=1e-9)
    assert len(tried) == 2  # in the first step, before it changes


class Landweber(Solver):
    """Makes the adjoint, and a scaled operator, anew in each step."""

    def step(self, x, y):
        return x + 0.01 * (self.Op.H @ (y - (1.0 * self.Op) @ x))

    def solve(self, y, niter):
        x = np.zeros_like(y)
        for _ in range(niter):
            x = self.step(x, y)
            float(np.linalg.norm(x))
        return x

    setup = run = finalize = memory_usage = None


def test_operators_that_are_made_anew_in_each_step(renamed):
    op = pylops.Identity(30) + 0.3 * pylops.Laplacian(DIMS)
    y = rand(30)
    solver = Landweber(op)
    found = solver.solve(da.from_array(y, chunks=8), 90)
    assert_close(found.compute(), Landweber(op).solve(y, 90), rtol=1e-9)
    assert len(renamed) == 2 * 89  # all but the first step
    kept = sessions[solver].applications
    assert len(kept) <= 64
