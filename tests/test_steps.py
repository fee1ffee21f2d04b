"""Steps of a solver: interrupted ones are undone, and the thousandth costs what the tenth did."""

import gc

import dask.array as da
import numpy as np
import pylops
import pytest
from dask.callbacks import Callback
from pylops.optimization.callback import Callbacks, CostToDataCallback
from pylops.optimization.cls_basic import CG, CGLS, LSQR
from pylops.optimization.cls_sparsity import FISTA, ISTA, SplitBregman

import pylops_dispatch
from pylops_dispatch import solvers
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.steps import steps_of

from .helpers import assert_close, count_executions, overlook_what_there_is, rand, to_dask

DIMS = (9, 7)
CHUNKS = ((4, 3, 2), (5, 2))


class CtrlC(Callback):
    """Pressed after so many tasks, when `tasks` is set."""

    def __init__(self):
        self.tasks = None

    def _pretask(self, key, dsk, state):
        if self.tasks is not None:
            self.tasks -= 1
            if self.tasks < 0:
                self.tasks = None
                raise KeyboardInterrupt


def problem():
    slope = pylops.FirstDerivative(63, kind="forward")
    op = pylops.Diagonal(2 + np.abs(rand(63))) + 0.5 * (slope.H @ slope)
    return op, to_dask(rand(63, seed=1), 20)


SOLVERS = {
    CG: {"tol": 0},
    CGLS: {"tol": 0, "damp": 0.1},
    LSQR: {"atol": 0, "btol": 0, "conlim": 0},
    ISTA: {"alpha": 0.04, "eps": 0.05, "tol": 0},
    FISTA: {"alpha": 0.04, "eps": 0.05, "tol": 0},
}


def state(solver):
    """The values of all that a solver holds."""
    found = {}
    for name, value in vars(solver).items():
        if isinstance(value, da.Array):
            found[name] = value.compute(scheduler="synchronous")
        elif isinstance(value, (int, float, np.generic, list)):
            found[name] = np.array(value)
    return {name: value for name, value in found.items() if name not in ("tstart", "x")}


def assert_same_state(solver, other):
    one, two = state(solver), state(other)
    assert one.keys() == two.keys()
    for name, value in one.items():
        if value.dtype.kind in "fciub":
            assert_close(value, two[name], rtol=1e-12)


def interrupt_in_step(cls, settings, number, tasks, niter=6):
    """A solver whose run was interrupted after some tasks of a step."""
    op, y = problem()

    class Press(Callbacks):
        def on_step_begin(self, solver, x):
            if solver.iiter + 1 == number:
                ctrl_c.tasks = tasks

    solver = cls(op)
    solver.callbacks = [Press()]
    x = solver.setup(y, niter=niter, **settings)
    with CtrlC() as ctrl_c, pytest.raises(KeyboardInterrupt):
        solver.run(x)
    solver.callbacks = None
    return op, y, solver


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize("tasks", [0, 9])
@pytest.mark.parametrize("cls", SOLVERS)
def test_an_interrupted_step_is_undone(cls, tasks, preallocate):
    settings = {**SOLVERS[cls], "preallocate": preallocate}
    op, y, solver = interrupt_in_step(cls, settings, 4, tasks)

    # all is as after the third step ...
    other = cls(op)
    expected = other.run(other.setup(y, niter=3, **settings))
    other.niter = solver.niter
    if hasattr(solver, "decay"):
        other.decay = solver.decay
    assert solver.iiter == 3
    assert_same_state(solver, other)
    assert type(solver.x) is da.Array
    assert_close(solver.x.compute(), expected.compute())

    # ... and from there the solver goes on as if nothing had been
    whole = cls(op)
    expected = whole.solve(y, niter=6, **settings)[0]
    result = solver.run(solver.x)
    assert_close(result.compute(), expected.compute(), rtol=1e-12)
    assert_close(solver.cost, whole.cost, rtol=1e-12)
    assert "x" not in vars(solver)


def test_interrupted_in_the_first_step():
    op, y, solver = interrupt_in_step(CGLS, SOLVERS[CGLS], 1, 2)
    assert solver.iiter == 0
    assert not np.any(solver.x.compute())
    expected = CGLS(op).solve(y, niter=6, **SOLVERS[CGLS])[0]
    assert_close(solver.run(solver.x).compute(), expected.compute())


@pytest.mark.parametrize("cls", SOLVERS)
def test_interrupted_in_a_callback_after_a_step(cls):
    def press(x):
        if solver.iiter == 3:
            raise KeyboardInterrupt

    op, y = problem()
    solver = cls(op)
    x = solver.setup(y, niter=7, **SOLVERS[cls])
    solver.callback = press
    with pytest.raises(KeyboardInterrupt):
        solver.run(x)
    assert solver.iiter == 3
    solver.callback = lambda x: None
    expected = cls(op).solve(y, niter=7, **SOLVERS[cls])[0]
    assert_close(solver.run(solver.x).compute(), expected.compute(), rtol=1e-12)


@pytest.mark.parametrize("where", range(1, 5))
@pytest.mark.parametrize("cls", [CG, CGLS, LSQR])
def test_a_step_that_a_user_takes_is_undone_while_its_vectors_become_dask_arrays(
    cls, where, monkeypatch
):
    """The last of what happens in it: the user has not got its result by then."""
    op, y = problem()
    solver, whole = cls(op), cls(op)
    x = solver.setup(y, **SOLVERS[cls])
    x = solver.step(x)
    before, original, calls = state(solver), solvers.lower, []

    def interrupted(box):
        calls.append(1)
        if len(calls) == where:
            raise KeyboardInterrupt
        return original(box)

    monkeypatch.setattr(solvers, "lower", interrupted)
    with pytest.raises(KeyboardInterrupt):
        solver.step(x)
    after = state(solver)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    assert not any(isinstance(value, DispatchArray) for value in vars(solver).values())

    x = solver.step(solver.step(x))
    expected = whole.setup(y, **SOLVERS[cls])
    for _ in range(3):
        expected = whole.step(expected)
    assert_close(x.compute(), expected.compute(), rtol=1e-12)
    assert_close(solver.cost, whole.cost, rtol=1e-12)


@pytest.mark.parametrize("cls", [CG, CGLS, LSQR])
def test_a_step_that_a_user_takes_is_undone(cls):
    op, y = problem()
    solver = cls(op)
    with CtrlC() as ctrl_c:
        x = solver.setup(y, **SOLVERS[cls])
        x = solver.step(solver.step(x))
        before = state(solver)
        ctrl_c.tasks = 3
        with pytest.raises(KeyboardInterrupt):
            solver.step(x)
        after = state(solver)
        assert before.keys() == after.keys()
        for name, value in before.items():
            np.testing.assert_array_equal(value, after[name])
        x = solver.step(x)
        expected = cls(op).solve(y, niter=3, **SOLVERS[cls])[0]
    assert_close(x.compute(), expected.compute(), rtol=1e-12)


def test_lists_of_vectors_are_undone():
    op, y = problem()
    solver = SplitBregman(op)
    settings = {"niter_inner": 1, "mu": 1.0, "epsRL1s": [0.1], "tol": 1e-12}
    with CtrlC() as ctrl_c:
        x = solver.setup(y, [pylops.FirstDerivative(63)], niter_outer=4, **settings)
        x = solver.step(x, engine="pylops", niter=3)
        before = [v.compute() for v in (*solver.b, *solver.d)]
        ctrl_c.tasks = 60
        with pytest.raises(KeyboardInterrupt):
            solver.step(x, engine="pylops", niter=3)
        assert solver.iiter == len(solver.cost) == 1
        for value, was in zip((*solver.b, *solver.d), before, strict=True):
            np.testing.assert_array_equal(value.compute(), was)


def test_a_run_from_elsewhere_does_not_take_what_was_left():
    op, y, solver = interrupt_in_step(FISTA, SOLVERS[FISTA], 4, 3)
    x = solver.setup(y, niter=5, **SOLVERS[FISTA])
    result = solver.run(x)
    expected = FISTA(op).solve(y, niter=5, **SOLVERS[FISTA])[0]
    assert_close(result.compute(), expected.compute())


def test_numpy_solvers_are_left_alone():
    def press(x):
        raise KeyboardInterrupt

    solver = CG(pylops.Diagonal(np.arange(1.0, 9.0)))
    solver.callback = press
    x = solver.setup(np.ones(8), niter=3)
    with pytest.raises(KeyboardInterrupt):
        solver.run(x)
    assert "x" not in vars(solver)
    assert steps_of(solver).complete == steps_of(solver).pending == ()


# -------------------------------------------------------------------------- flatness


class Count(Callbacks):
    """How many boxes are alive, and how many keys they have, at some steps."""

    def __init__(self, at):
        self.at, self.boxes, self.keys = at, [], []

    def on_step_end(self, solver, x):
        if solver.iiter in self.at:
            gc.collect()
            boxes = [o for o in gc.get_objects() if isinstance(o, DispatchArray)]
            graphs = [p.dask for b in boxes for p in b.pieces if isinstance(p, da.Array)]
            self.boxes.append(len(boxes))
            self.keys.append(len({key for graph in graphs for key in graph}))


@pytest.mark.parametrize("cls", [CG, CGLS, LSQR, FISTA])
def test_steps_and_memory_stay_flat(cls):
    # small enough that no solver gets to the solution and stops
    n = 300
    op = pylops.Diagonal(np.linspace(1, 1000, n))
    settings = {**SOLVERS[cls], **({"alpha": 1e-7} if cls is FISTA else {})}
    solver = cls(op)
    count = Count(at=(25, 50, 75))
    solver.callbacks = [count]
    overlook_what_there_is()
    with count_executions(), pylops_dispatch.ledger() as log:
        x = solver.setup(to_dask(rand(n), 150), niter=75, **settings)
        solver.run(x)
    assert solver.iiter == 75
    tasks = {}
    for execution in log:
        name = execution.asked.partition(" (")[0]
        tasks.setdefault(name, []).append(execution.tasks)
    steps = [tasks[f"{cls.__name__}.step {i}"] for i in range(5, 76)]
    assert all(step == steps[0] for step in steps)
    assert len(set(count.boxes)) == 1
    assert len(set(count.keys)) == 1


@pytest.mark.parametrize("way", ["run", "step", "solve"])
@pytest.mark.parametrize("cls", [CG, CGLS, ISTA])
def test_the_norm_of_the_data_for_a_callback_is_worked_out_with_the_first_step(cls, way):
    """``CostToDataCallback`` asks for it after ``setup``, and compares with it in each step."""
    runs = []

    def once(block, block_info=None):
        runs.extend([1] if block_info else [])
        return block

    y = rand(6)
    data = da.from_array(y, chunks=6).map_blocks(once, dtype=float, meta=np.empty(0))
    op = pylops.MatrixMult(np.eye(6) + 0.1)
    settings = {"niter": 4, **({"alpha": 0.3} if cls is ISTA else {"tol": 0})}

    def solve(y):
        solver = cls(op, callbacks=[CostToDataCallback(1e-9)])
        if way == "solve":
            return solver, solver.solve(y, **settings)[0]
        x = solver.setup(y, **settings)
        if way == "run":
            return solver, solver.run(x, 4)
        for _ in range(4):
            x = solver.step(x)
            x = x[0] if isinstance(x, tuple) else x
        return solver, x

    with count_executions() as executions:
        solver, x = solve(data)
        x = x.compute()
    known, expected = solve(y)
    assert_close(x, expected)
    assert isinstance(solver.callbacks[0].ynorm, np.float64)
    assert solver.callbacks[0].ynorm == pytest.approx(known.callbacks[0].ynorm)
    assert len(runs) == 1
    assert executions.count <= solver.iiter + 3
