"""What a step on a cluster holds, and how an interrupted one is undone without holding more."""

import gc
import inspect
import itertools
import sys
import time
import weakref

import dask.array as da
import numpy as np
import pylops
import pytest
from pylops.optimization.cls_basic import CG, CGLS, LSQR

import pylops_dispatch
from pylops_dispatch import undoing
from pylops_dispatch.liveness import variables
from pylops_dispatch.solvers import Session
from pylops_dispatch.undoing import read_whole

from .helpers import assert_close, rand
from .test_steps import SOLVERS

DIMS = (60, 40)


@pytest.fixture
def workers():
    with pylops_dispatch.client(processes=False, n_workers=2, threads_per_worker=1) as client:
        yield client


def problem():
    op = pylops.Identity(DIMS) - 0.1 * pylops.Laplacian(DIMS, axes=(0, 1))
    op = op.H @ op
    return op, rand(DIMS, seed=1)


def lazy(y):
    return da.from_array(y, chunks=(20, 40)).persist()


def vectors_in_memory(client):
    """Wait until nothing is being worked out, then count vectors in the memory of workers."""

    def state(dask_scheduler):
        tasks = dask_scheduler.tasks.values()
        busy = any(t.state in ("processing", "waiting") for t in tasks)
        return busy, sum(t.nbytes for t in tasks if t.who_has and t.nbytes > 1000)

    for _ in range(400):
        busy, held = client.run_on_scheduler(state)
        if not busy:
            return held / (8 * np.prod(DIMS))
        time.sleep(0.02)
    raise AssertionError("the scheduler is busy for ever")


# ---- work -----------------------------------------------------------------------------------


def test_a_step_looks_at_no_more_values_as_costs_become_more(monkeypatch):
    """PyLops's solvers keep a cost of each step in lists."""
    looked_at = []
    original = undoing.is_box
    monkeypatch.setattr(undoing, "is_box", lambda value: (looked_at.append(1), original(value))[1])
    op, y = problem()
    solver = CGLS(op)
    x = solver.setup(lazy(y).ravel(), tol=0)
    counts = []
    for _ in range(12):
        looked_at.clear()
        x = solver.step(x)
        counts.append(len(looked_at))
    assert len(solver.cost) == 13
    assert counts[-1] == counts[3]


# ---- what is held ---------------------------------------------------------------------------


def test_at_the_end_of_a_step_no_vector_of_the_step_before_is_held(workers, monkeypatch):
    held, values = [], Session.values

    def noting(self, scalars):
        held.append(vectors_in_memory(workers))
        return values(self, scalars)

    monkeypatch.setattr(Session, "values", noting)
    op, y = problem()
    x = pylops.cgls(op, lazy(y), niter=6, tol=0)[0]
    assert len(held) >= 6
    assert max(held) < 5.1  # x, c, s, q, and the data
    assert_close(x.compute(), pylops.cgls(op, y, niter=6, tol=0)[0], rtol=1e-10)


FUNCTIONS = [pylops.cg, pylops.cgls, pylops.lsqr]
worked_out: list[int] = []  # blocks of `noted`, in the process of the workers, which is this one


def noted(block):
    worked_out.append(block.size)
    return block


def blocks_in_memory(dask_scheduler, name):
    tasks = dask_scheduler.tasks.values()
    held = (t.key[0] for t in tasks if t.who_has and isinstance(t.key, tuple))
    return sum(found.startswith(name) for found in held)


@pytest.mark.parametrize("solve", FUNCTIONS)
def test_lazy_data_are_let_go_once_the_solver_is_set_up(workers, monkeypatch, solve):
    op, _ = problem()
    made = da.random.default_rng(0).standard_normal(DIMS, chunks=(20, 40))
    expected = solve(op, made.compute(), niter=4)[0]
    data = made.map_blocks(noted, dtype=made.dtype, meta=made._meta)
    worked_out.clear()
    values, held = Session.values, []

    def noting(self, scalars):
        found = values(self, scalars)  # first: until then the scheduler may not have the graph
        if found:
            vectors_in_memory(workers)
            held.append(workers.run_on_scheduler(blocks_in_memory, name=data.name))
        return found

    monkeypatch.setattr(Session, "values", noting)
    x = solve(op, data, niter=4)[0]
    assert held[0] == 3
    assert set(held[3:]) == {0}
    assert_close(x.compute(), expected, rtol=1e-9)
    assert worked_out == [800] * 3


def failing(block):
    if block.size:
        raise ZeroDivisionError("no weights")
    return block


@pytest.mark.parametrize("solve", FUNCTIONS)
def test_nothing_stays_of_a_solve_that_failed_on_a_worker(workers, solve):
    weights = da.ones(300, chunks=100).map_blocks(failing, dtype=float, meta=np.empty(0))
    with pytest.raises(ZeroDivisionError, match="no weights"):
        solve(pylops.Diagonal(weights), da.from_array(rand(300), chunks=100), niter=4)
    del weights
    for _ in range(200):
        gc.collect()
        left = workers.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
        if not left:
            break
        time.sleep(0.02)
    assert left == 0


@pytest.mark.parametrize("solve", FUNCTIONS)
def test_a_callback_still_finds_the_data_in_memory(solve):
    """The callbacks of the functions are given the solution only; what they close over may read."""
    op, y = problem()
    seen = []
    data = da.from_array(y, chunks=(20, 40))
    x = solve(op, data, niter=3, callback=lambda x: seen.append(x.shape))[0]
    assert len(seen) == 3
    assert_close(x.compute(), solve(op, y, niter=3)[0], rtol=1e-9)


@pytest.mark.parametrize("cls", [CG, CGLS, LSQR])
def test_these_solvers_read_their_data_in_setup_only(cls):
    """As `_READ_DATA_IN_SETUP` in solvers.py says."""
    methods = [vars(base).items() for base in cls.__mro__ if base is not object]
    reading = {
        name
        for name, method in itertools.chain.from_iterable(methods)
        if callable(method) and "y" in inspect.unwrap(method).__code__.co_names
    }
    assert reading == {"setup"}


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize("cls", SOLVERS)
def test_nothing_that_was_let_go_is_needed_again(workers, monkeypatch, cls, preallocate):
    recalled = []
    monkeypatch.setattr(undoing, "_recalled", lambda *args: recalled.append(args))
    op, y = problem()
    settings = {**SOLVERS[cls], "preallocate": preallocate, "niter": 5}
    expected = cls(op).solve(y.ravel(), **settings)[0]
    x = cls(op).solve(lazy(y).ravel(), **settings)[0]
    assert_close(x.compute(), expected.ravel(), rtol=1e-9)
    assert recalled == []


# ---- what is undone -------------------------------------------------------------------------


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize("cls", SOLVERS)
def test_an_interrupted_step_is_undone_though_its_vectors_were_let_go(
    workers, monkeypatch, cls, preallocate
):
    op, y = problem()
    settings = {**SOLVERS[cls], "preallocate": preallocate}
    solver, interrupted = cls(op), []
    x = solver.setup(lazy(y).ravel(), niter=6, **settings)
    values = Session.values

    def pressed(self, scalars):
        if solver.iiter >= 3 and not interrupted:
            interrupted.append(sum(c.is_let_go for _, c in self.before._copies.values()))
            raise KeyboardInterrupt
        return values(self, scalars)

    monkeypatch.setattr(Session, "values", pressed)
    with pytest.raises(KeyboardInterrupt):
        solver.run(x)
    assert interrupted[0] > 0

    other = cls(op)
    expected = other.run(other.setup(y.ravel(), niter=solver.iiter, **settings))
    assert_close(solver.x.compute(), expected, rtol=1e-9)

    whole = cls(op).solve(y.ravel(), niter=6, **settings)[0]
    assert_close(solver.run(solver.x).compute(), whole, rtol=1e-9)


def test_an_interrupted_solve_leaves_nothing_on_the_workers(workers, monkeypatch):
    op, y = problem()
    before = vectors_in_memory(workers)
    values, seen = Session.values, []

    def pressed(self, scalars):
        seen.append(None)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return values(self, scalars)

    monkeypatch.setattr(Session, "values", pressed)
    with pytest.raises(KeyboardInterrupt):
        pylops.cgls(op, lazy(y), niter=9, tol=0)
    for _ in range(200):
        if vectors_in_memory(workers) <= before:
            break
        time.sleep(0.02)
    assert vectors_in_memory(workers) <= before


class KeepsTheOldIterate(CGLS):
    """Reads the solution of the step before once the step is done."""

    def step(self, x, show=False):
        """Take a step, and note how far it went."""
        new = super().step(x, show)
        self.lengths = [*getattr(self, "lengths", []), float(np.linalg.norm(new - x))]
        return new


def test_a_vector_that_is_read_after_the_step_is_there(workers):
    op, y = problem()
    expected, found = KeepsTheOldIterate(op), KeepsTheOldIterate(op)
    expected.solve(y.ravel(), niter=5, tol=0)
    found.solve(lazy(y).ravel(), niter=5, tol=0)
    assert_close(found.lengths, expected.lengths, rtol=1e-9)


# ---- what tells that ------------------------------------------------------------------------


def test_arrays_that_are_read_block_for_block():
    x, y, z, w = (da.from_array(rand((4, 6), seed=n), chunks=2) for n in range(4))
    whole = (x + 1) * y
    found = read_whole([whole, z[:2] + 1, w.sum(axis=0)])
    assert found[x.name] is whole
    assert found[y.name] is whole
    assert z.name not in found
    assert w.name not in found


def look():
    return variables(sys._getframe(1))


def test_variables_that_a_function_reads_again():
    def straight(a, b):
        found = look()
        return b, found

    again, never = straight("a", "b")[1]
    assert again == ["b"]
    assert never == ["a"]


def test_in_a_loop_all_are_read_again():
    def loop(a, b):
        for _ in range(2):
            used = a, b
            found = look()
        return used, found

    again, _ = loop("a", "b")[1]
    assert {"a", "b"} <= {value for value in again if isinstance(value, str)}


def test_variables_of_inner_functions_are_read_again():
    def outer(a, b):
        def inner():
            return a

        return look(), inner

    again, never = outer("a", "b")[0]
    assert "a" in again
    assert "b" in never


def test_a_frame_does_not_keep_what_it_was_asked_for():
    def rebinding(x):
        look()
        x = None
        return sys._getframe(0), x

    class Big:
        """Counts no references of its own."""

    big = Big()
    gone = weakref.ref(big)
    frame, _ = rebinding(big)
    del big
    assert gone() is None
    del frame
