"""The same code on a small cluster."""

import concurrent.futures
import contextlib
import contextvars
import gc
import logging
import os
import signal
import threading
import time
import types
import weakref

import dask
import dask.array as da
import distributed
import numba
import numpy as np
import pylops
import pytest
from pylops.optimization.cls_basic import CGLS, LSQR

import pylops_dispatch
from pylops_dispatch import blocks, lineage
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.operators import resized

from .helpers import assert_close, cut, rand
from .interpreters import forked_workers


def chunked(x):
    return da.from_array(x, chunks=tuple(cut(n, [n // 3, n - 2]) for n in x.shape))


@pytest.mark.parametrize(
    "make",
    [
        lambda dims: pylops.Diagonal(rand(dims)),
        lambda dims: pylops.Diagonal(chunked(rand(dims))),
        lambda dims: pylops.FirstDerivative(dims, axis=0),
        lambda dims: pylops.Laplacian(dims),
        lambda dims: pylops.MatrixMult(rand((7, dims[0])), otherdims=dims[1:]),
    ],
)
def test_operator(client, make):
    op = make((12, 9))
    x0 = rand((12, 9))
    y = op @ chunked(x0)
    assert type(y) is da.Array
    expected = op @ x0
    if isinstance(expected, da.Array):
        expected = expected.compute(scheduler="synchronous")
    assert_close(client.compute(y).result(), expected)
    adjoint = op.H @ y
    assert_close(adjoint.compute(), (op.H @ chunked(expected)).compute(scheduler="synchronous"))


def problem():
    dims = (12, 9)
    op = pylops.VStack(
        [
            pylops.Diagonal(1 + rand(dims) ** 2),
            0.1 * pylops.FirstDerivative(dims, axis=0),
            0.1 * pylops.FirstDerivative(dims, axis=1),
        ]
    )
    return op, rand(op.shape[0], seed=2), rand(dims, seed=3)


@pytest.mark.parametrize("solver", [pylops.cgls, pylops.lsqr])
def test_solver(client, solver):
    op, y0, _ = problem()
    expected = solver(op, y0, niter=8)
    y = da.from_array(y0, chunks=50)
    result = solver(op, y, niter=8)
    assert type(result[0]) is da.Array
    assert_close(result[0].compute(), expected[0], rtol=1e-10)
    assert_close(np.asarray(result[-1]), np.asarray(expected[-1]), rtol=1e-10)


def test_operator_on_persisted_data(client):
    x0 = rand((12, 9))
    x = client.persist(chunked(x0))
    op = pylops.FirstDerivative((12, 9), axis=0)
    assert_close((op @ x).compute(), op @ x0)


# ---- long solves -----------------------------------------------------------------------------


@pytest.fixture
def several_workers():
    with (
        dask.config.set({"pylops-dispatch.lineage-steps": 4}),
        forked_workers(),
        pylops_dispatch.client(n_workers=2, threads_per_worker=1) as client,
    ):
        yield client


def tasks_known(client):
    return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))


def clients_and_queues(dask_scheduler):
    return len(dask_scheduler.clients), len(dask_scheduler.extensions["queues"].queues)


def test_the_scheduler_has_no_more_clients_after_a_solve(several_workers):
    before = several_workers.run_on_scheduler(clients_and_queues)
    op = pylops.Diagonal(1 + rand(20_000) ** 2)
    pylops.cgls(op, da.ones(20_000, chunks=5000), niter=10, tol=0)
    assert several_workers.run_on_scheduler(clients_and_queues) == before


@pytest.mark.parametrize("solver", [pylops.cg, pylops.cgls])
def test_a_long_solve_keeps_the_scheduler_flat(several_workers, solver):
    dims = (16, 9)
    op = pylops.Identity(dims) - 0.1 * pylops.Laplacian(dims, axes=(0, 1))
    op = op.H @ op
    y0, known = rand(dims), []
    expected = solver(op, y0, niter=25, tol=0)[0]

    def count(x):
        known.append(tasks_known(several_workers))

    x = solver(op, da.from_array(y0, chunks=(4, 9)), niter=25, tol=0, callback=count)[0]
    assert len(known) == 25
    assert max(known) < 2 * max(known[:7])
    assert_close(x.compute(), expected, rtol=1e-9)


def test_a_solve_leaves_nothing_behind(several_workers):
    op, y0, _ = problem()
    x = pylops.cgls(op, da.from_array(y0, chunks=50), niter=4)[0].compute()
    assert x.shape == (12, 9)
    gc.collect()  # solvers and their callbacks refer to each other
    assert eventually(lambda: not any(several_workers.run_on_scheduler(holders).values()))


def eventually(condition):
    """Messages to the scheduler take a moment."""
    for _ in range(100):
        gc.collect()  # what refers to itself may have come since
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_each_block_is_on_two_workers_and_has_no_history(several_workers):
    x = (da.ones((4, 6), chunks=(2, 3)) + 1).persist()
    distributed.wait(x)
    old = x.name
    (new,) = lineage.cut([x]).values()
    del x
    assert eventually(
        lambda: old not in {key[0] for key in several_workers.run_on_scheduler(holders)}
    )
    states = several_workers.run_on_scheduler(holders)
    blocks = {key[1:]: held for key, held in states.items() if key[0] == "block-of"}
    copies = {key[1:]: held for key, held in states.items() if key[0] == "copy-of"}
    assert blocks.keys() == copies.keys()
    assert len(blocks) == 4
    assert all(len(blocks[key] | copies[key]) == 2 for key in blocks)
    assert_close(new.compute(), np.full((4, 6), 2.0))


def holders(dask_scheduler):
    return {
        key: {worker.address for worker in task.who_has or ()}
        for key, task in dask_scheduler.tasks.items()
    }


def test_vectors_are_cut_as_soon_as_what_they_came_of_lies_elsewhere(several_workers):
    own = lineage.Lineage()
    box = DispatchArray(da.ones(100, chunks=50).persist())
    left = da.zeros(100, chunks=50).persist()
    assert not own.cut_if_due([box], [])
    own.keep_until_cut(left)
    alive = weakref.ref(left)
    del left
    assert alive() is not None
    assert own.cut_if_due([box], [])
    assert eventually(lambda: alive() is None)


def test_arrays_that_are_not_on_a_cluster_are_left_alone():
    x = da.ones(4, chunks=2)
    known = lineage.Lineage()
    known.count(1000)
    assert known.cut_if_due([DispatchArray(x)], []) == {}


def test_the_history_can_be_kept(several_workers):
    op, y0, _ = problem()
    known = []
    with dask.config.set({"pylops-dispatch.lineage-steps": 0}):
        pylops.cgls(
            op,
            da.from_array(y0, chunks=50),
            niter=6,
            callback=lambda x: known.append(tasks_known(several_workers)),
        )
    assert known == sorted(known)


def stencils():
    dims = (16, 9)
    return pylops.Identity(dims) - 0.1 * pylops.Laplacian(dims, axes=(0, 1))


def weighted():
    """With a NumPy array that goes to the workers apart from the graphs."""
    return pylops.Diagonal(1 + rand((100, 100)) ** 2) + 0.1 * pylops.Laplacian((100, 100))


@contextlib.contextmanager
def workers_that_may_die(lineage_steps):
    """Two processes; a worker tries 5 s to connect to one that has died, 30 if nothing is said."""
    settings = {
        "pylops-dispatch.lineage-steps": lineage_steps,
        "distributed.comm.timeouts.connect": "5s",
    }
    with (
        dask.config.set(settings),
        forked_workers(),
        pylops_dispatch.client(n_workers=2, threads_per_worker=1, silence_logs=60) as client,
    ):
        yield client


def kill(client, *workers):
    """Kill the processes of workers, given by their addresses."""
    processes = client.run(os.getpid)
    for worker in workers:
        os.kill(processes[worker], signal.SIGKILL)


@pytest.mark.parametrize("make", [stencils, weighted])
def test_a_worker_that_is_killed_costs_time_and_not_the_answer(make):
    op = make()
    y0, seen = rand(op.dims), []
    expected = pylops.cgls(op, y0, niter=20, tol=0)[0]
    with workers_that_may_die(lineage_steps=4) as client:

        def kill_one(x):
            seen.append(x)
            if len(seen) == 10:
                kill(client, next(iter(client.nthreads())))

        y = da.from_array(y0, chunks=(op.dims[0] // 4, op.dims[1]))
        x = pylops.cgls(op, y, niter=20, tol=0, callback=kill_one)[0].compute()
        seen.clear()
    assert_close(x, expected, rtol=1e-10)


def test_the_worker_that_was_left_may_die_next():
    op = weighted()
    y0, seen = rand(op.dims), []
    expected = pylops.cgls(op, y0, niter=16, tol=0)[0]
    with workers_that_may_die(lineage_steps=100) as client:
        first, second = sorted(client.nthreads())

        def kill_both(x):
            seen.append(x)
            if len(seen) == 5:
                kill(client, first)
            if len(seen) == 8:  # there is place again for all that the other one alone has
                client.wait_for_workers(2, timeout=60)
            if len(seen) == 11:
                kill(client, second)

        y = da.from_array(y0, chunks=(25, 100))
        x = pylops.cgls(op, y, niter=16, tol=0, callback=kill_both)[0].compute()
        seen.clear()
    assert_close(x, expected, rtol=1e-10)


def test_all_workers_may_die_at_once_before_vectors_are_first_copied():
    op, seen = stencils(), []
    y0 = rand(op.dims)
    expected = pylops.cgls(op, y0, niter=8, tol=0)[0]
    with workers_that_may_die(lineage_steps=20) as client:

        def kill_all(x):
            seen.append(x)
            if len(seen) == 4:
                kill(client, *client.nthreads())

        waiting_for_ever = threading.Timer(90, client.close, [1])
        waiting_for_ever.start()
        y = da.from_array(y0, chunks=(4, 9))
        x = pylops.cgls(op, y, niter=8, tol=0, callback=kill_all)[0].compute()
        waiting_for_ever.cancel()
        seen.clear()
    assert_close(x, expected, rtol=1e-10)


def test_an_error_of_the_cluster_names_the_step_and_what_to_do(client):
    op = stencils()

    def cancel(x):
        client.cancel(distributed.futures_of(x), force=True)

    with pytest.raises(distributed.CancelledError) as caught:
        pylops.cgls(op, da.from_array(rand(op.dims), chunks=(4, 9)), niter=5, callback=cancel)
    (note,) = caught.value.__notes__
    assert "in step 2 of CGLS" in note
    assert "pylops_dispatch.checkpoint" in note


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("made", [lambda y: y, lambda y: y + 1.0], ids=["data", "made of them"])
def test_data_on_a_cluster_that_is_not_in_use_are_told_apart(client, made, scheduler):
    y = made(da.ones(12, chunks=4).persist())
    with (
        dask.config.set(scheduler=scheduler),
        pytest.raises(ValueError, match="Missing dependency") as caught,
    ):
        pylops.cgls(pylops.FirstDerivative(12), y, niter=2)
    (note,) = caught.value.__notes__
    assert "lie on a cluster" in note


@pytest.mark.parametrize("gone", ["cluster", "client"])
def test_a_cluster_that_goes_away_is_told_with_the_step(gone):
    op = stencils()
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        away = {"cluster": cluster, "client": client}[gone]
        steps = []

        def close(x):
            steps.append(x)
            if len(steps) == 3:
                away.close()

        solver = CGLS(op)
        solver.callback = close
        y = da.from_array(rand(op.dims).ravel(), chunks=36)
        with pytest.raises(distributed.comm.CommClosedError) as caught:
            solver.solve(y, niter=9, tol=0)
    assert "in step 4 of CGLS" in caught.value.__notes__[0]
    expected = CGLS(op).solve(rand(op.dims).ravel(), niter=3)[0]
    with dask.config.set(scheduler="threads"):
        assert_close(solver.solve(y, niter=3)[0].compute(), expected)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_a_step_that_is_taken_again_reads_vectors_that_were_let_go(several_workers):
    """LSQR has taken a norm for positive that is zero, the solution having been found."""
    op = pylops.Roll((4, 4), axis=0, shift=2)
    y0 = np.where(np.arange(16) % 3, 1.0, -1.0)
    expected = LSQR(op).solve(y0, niter=6, atol=0, btol=0, conlim=0)
    solver = LSQR(op)
    x, *rest = solver.solve(da.from_array(y0, chunks=8), niter=6, atol=0, btol=0, conlim=0)
    assert_close(x.compute(), expected[0])
    assert rest[:2] == list(expected[1:3])
    assert_close([float(n) for n in rest[2:7]], [float(n) for n in expected[3:8]])


def test_a_client_that_is_closed_while_values_are_fetched_is_told_likewise(monkeypatch):
    """``Client._gather_remote`` raises AttributeError: the client has no scheduler any more."""
    op = stencils()
    y = da.from_array(rand(op.dims).ravel(), chunks=36)
    with distributed.Client(processes=False, dashboard_address=None) as client:
        fetch, fetched = client.gather, []

        def gather(futures, **settings):
            fetched.append(futures)
            if len(fetched) == 4:
                client.close()
                raise AttributeError("'NoneType' object has no attribute 'gather'")
            return fetch(futures, **settings)

        monkeypatch.setattr(client, "gather", gather)
        solver = CGLS(op)
        with pytest.raises(distributed.comm.CommClosedError, match="is closed") as caught:
            solver.solve(y, niter=9, tol=0)
    assert isinstance(caught.value.__cause__, AttributeError)
    assert "of CGLS" in caught.value.__notes__[0]


def test_a_worker_that_is_killed_after_the_solve_costs_time_and_not_the_answer():
    op = stencils()
    y0 = rand(op.dims)
    expected = pylops.cgls(op, y0, niter=14, tol=0)[0]
    with workers_that_may_die(lineage_steps=4) as client:
        x = pylops.cgls(op, da.from_array(y0, chunks=(4, 9)), niter=14, tol=0)[0]
        gc.collect()  # what the solver kept
        holds_a_block = next(iter(client.who_has(lineage.futures_of(x)).values()))[0]
        kill(client, holds_a_block)
        found = x.compute()
    assert_close(found, expected, rtol=1e-10)


def test_what_a_solution_may_have_to_be_made_from_stays_if_it_cannot_be_copied(
    several_workers, monkeypatch
):
    op, y0, _ = problem()
    cuts = [lineage.cut]

    def once(arrays):
        """As where one of two workers goes after the first cut."""
        return cuts.pop()(arrays) if cuts else {}

    def copies_left():
        return [key for key in several_workers.run_on_scheduler(holders) if key[0] == "copy-of"]

    monkeypatch.setattr(lineage, "cut", once)
    x = pylops.cgls(op, da.from_array(y0, chunks=50), niter=12, tol=0)[0]
    gc.collect()
    time.sleep(0.5)  # messages to the scheduler take a moment
    assert copies_left()
    del x
    assert eventually(lambda: not copies_left())


def test_two_solves_at_once_do_not_meet(several_workers):
    op, first, _ = problem()
    second = rand(op.shape[0], seed=9)
    expected = [pylops.cgls(op, y, niter=6, tol=0)[0] for y in (first, second)]

    def solve(y):
        with several_workers.as_current():
            return pylops.cgls(op, da.from_array(y, chunks=50), niter=6, tol=0)[0].compute()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(solve, (first, second)))
    for x, answer in zip(found, expected, strict=True):
        assert_close(x, answer, rtol=1e-9)


def splitting(y, chunks):
    """A solve that asks for the norm of the same residual twice, in different executions."""
    op = pylops.Restriction(200, np.sort(np.random.default_rng(0).permutation(200)[:120]))
    regularise = [pylops.FirstDerivative(200)]
    steps = {"niter_outer": 2, "niter_inner": 1, "engine": "pylops", "niter": 2}
    data = da.from_array(y, chunks=chunks) if chunks else y
    return pylops.splitbregman(op, data, regularise, epsRL1s=[0.3], **steps)[0]


def test_solves_of_the_same_data_have_tasks_of_their_own(several_workers, caplog, monkeypatch):
    """A scheduler that knows a task by its name keeps what it is made of, and warns."""
    y = rand(120)
    expected = splitting(y, None)
    ready = threading.Barrier(2)

    def solve(_):
        ready.wait()
        with several_workers.as_current():
            return splitting(y, 40).compute()

    monkeypatch.setattr(logging.getLogger("distributed"), "propagate", True)
    with (
        caplog.at_level("WARNING", logger="distributed.scheduler"),
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        found = list(pool.map(solve, range(2)))
    for x in found:
        assert_close(x, expected, rtol=1e-9)
    assert not [m for m in caplog.messages if "run_spec" in m]


def test_blocks_are_exchanged_by_shuffles(several_workers):
    """As dask does for many blocks, here for any: the operator's, and those of the data."""
    dims = (12, 10)
    op = pylops.signalprocessing.FFT(dims, axis=0, dtype="complex128")
    y0 = rand(op.dimsd, "complex128")
    expected = pylops.cgls(op, y0.ravel(), niter=3, tol=0)[0]

    def solve(_):
        with several_workers.as_current():
            y = da.from_array(y0, chunks=(3, 5)).persist().ravel()
            x = pylops.cgls(op, y, niter=2, tol=0)[0]
            return x.rechunk((4, 2)).compute(), pylops.cgls(op, y, x0=x, niter=1)[0].compute()

    with (
        dask.config.set({"array.rechunk.method": "p2p"}),
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        for x, again in pool.map(solve, range(2)):
            assert_close(x.ravel(), expected.ravel(), rtol=1e-9)
            assert_close(again.ravel(), expected.ravel(), rtol=1e-9)


@pytest.mark.parametrize("make", [stencils, weighted])
def test_workers_may_come_and_go_during_a_solve(several_workers, make):
    op, seen = make(), []
    y0 = rand(op.dims)
    expected = pylops.cgls(op, y0, niter=16, tol=0)[0]
    cluster = several_workers.cluster

    def scale(x):
        """As adaptive clusters do: one more worker, then two retire, then one more."""
        seen.append(None)
        if len(seen) == 4:
            cluster.scale(3)
            several_workers.wait_for_workers(3)
        if len(seen) == 7:
            several_workers.retire_workers(sorted(several_workers.nthreads())[:2])
            assert eventually(lambda: len(several_workers.nthreads()) == 1)
        if len(seen) == 11:
            cluster.scale(len(cluster.workers) + 1)
            several_workers.wait_for_workers(2)

    y = da.from_array(y0, chunks=(op.dims[0] // 4, op.dims[1]))
    x = pylops.cgls(op, y, niter=16, tol=0, callback=scale)[0].compute()
    assert len(seen) == 16
    assert_close(x, expected, rtol=1e-9)


def test_a_solve_that_is_interrupted_frees_the_memory(several_workers):
    op = weighted()

    def interrupt(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pylops.cgls(op, da.from_array(rand(op.dims), chunks=50), niter=9, callback=interrupt)
    del op
    gc.collect()
    assert eventually(lambda: not any(several_workers.run_on_scheduler(holders).values()))


class KeepsContexts(pylops.LinearOperator):
    """As asyncio does when a socket is registered, which may be during a solve."""

    contexts = ()

    def _matvec(self, x):
        type(self).contexts = (*self.contexts, contextvars.copy_context())
        return 2 * x

    _rmatvec = _matvec


def test_a_context_that_is_kept_keeps_no_vectors(several_workers):
    op = KeepsContexts(dtype="float64", shape=(200, 200))
    pylops.cgls(op + pylops.Smoothing1D(3, 200), da.from_array(rand(200), chunks=50), niter=9)
    del op
    gc.collect()
    assert len(KeepsContexts.contexts) > 1
    assert eventually(lambda: not any(several_workers.run_on_scheduler(holders).values()))
    KeepsContexts.contexts = ()


# ---- errors ----------------------------------------------------------------------------------


class Picky(pylops.LinearOperator):
    """Refuses large numbers."""

    def _matvec(self, x):
        if (np.abs(x) > 5).any():
            raise ValueError("too large")
        return x

    _rmatvec = _matvec


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "distributed"])
def test_an_error_names_operator_block_and_shape(client, scheduler):
    pylops_dispatch.register_rule(Picky, pylops_dispatch.alone())
    op = Picky(dtype="float64", dims=(6, 4), dimsd=(6, 4))
    x = np.zeros((6, 4))
    x[5, 1] = 9
    y = op @ da.from_array(x, chunks=(2, 4))
    with pytest.raises(ValueError, match="too large") as caught:
        y.compute(scheduler=client if scheduler == "distributed" else scheduler)
    (note,) = caught.value.__notes__
    assert "Picky._matvec on a block of shape (2, 4) and dtype float64" in note
    assert "block (2, 0) of Picky-matvec" in note


def test_an_error_names_the_line_of_pylops(client, monkeypatch):
    op = pylops.FirstDerivative((6, 4), axis=0)
    y = op @ da.from_array(rand((6, 4)), chunks=(6, 2))
    monkeypatch.setattr(blocks, "resized", without_sampling)
    with pytest.raises(TypeError) as caught:
        y.compute()
    (note,) = caught.value.__notes__
    assert "FirstDerivative._matvec on a block of shape (6, 2)" in note
    assert "(pylops/basicoperators/firstderivative.py:" in note


def without_sampling(op, dims, dimsd):
    new = resized(op, dims, dimsd)
    new.sampling = None
    return new


# ---- compiled functions ----------------------------------------------------------------------


class Compiled(pylops.LinearOperator):
    """Holds a function that Numba compiles, in an object."""

    def __init__(self):
        super().__init__(dtype=np.dtype("f8"), dims=(30,), dimsd=(30,))
        self.settings = types.SimpleNamespace(function=numba.njit(lambda x: 2 * x))

    def _matvec(self, x):
        return self.settings.function(np.asarray(x))

    _rmatvec = _matvec


def _kirchhoff():
    axes = 5.0 * np.arange(5), 5.0 * np.arange(6), 0.004 * np.arange(20)
    positions = np.array([[5.0, 15.0], [0, 0]]), np.array([[5.0, 15.0, 20.0], [0, 0, 0]])
    return pylops.waveeqprocessing.Kirchhoff(
        *axes, *positions, 1500.0, np.ones(5), 2, mode="analytic", engine="numba"
    )


def _radon():
    axes = 0.1 * np.arange(6), np.arange(5.0), np.linspace(-0.1, 0.1, 4)
    return pylops.signalprocessing.Radon2D(*axes, engine="numba", onthefly=True)


def _convolution():
    filters = np.ones((2, 2, 3, 5))
    return pylops.signalprocessing.NonStationaryConvolve2D(
        (9, 6), filters, (1, 4), (1, 4), engine="numba"
    )


@pytest.mark.parametrize("make", [Compiled, _kirchhoff, _radon, _convolution])
@pytest.mark.filterwarnings("ignore:A new implementation of Kirchhoff")
@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
def test_operators_with_compiled_functions(client, make):
    op = make()
    for A in (op, op.H):
        x = rand(A.shape[1])
        assert_close((A @ da.from_array(x, chunks=-1)).compute(), A @ x)


# ---- settings of users' operators ------------------------------------------------------------


def test_an_operator_with_settings_is_sent_once(client):
    """Copies of what it holds have the names of what they are copies of."""
    k = 2.0
    op = pylops.FunctionOperator(lambda x: k * x, lambda x: k * x, 20_000)
    op.settings = types.SimpleNamespace(k=1.0, weights=rand(20_000))
    first, second = (blocks.embed(blocks.taken_apart(op)[0]).key for _ in range(2))
    assert first == second
    op.settings.k = 3.0
    assert blocks.embed(blocks.taken_apart(op)[0]).key != first


def test_splitbregman_with_a_first_guess_reads_its_data_again(client):
    size = 60
    op = pylops.VStack([pylops.Diagonal(1 + rand(size, seed=i) ** 2) for i in range(2)])
    y0, x0 = rand(2 * size, seed=3), rand(size, seed=4)

    def solve(y, x):
        return pylops.optimization.sparsity.splitbregman(
            op, y, [pylops.FirstDerivative(size)], x0=x, niter_outer=2, niter_inner=2, mu=1.0,
            epsRL1s=[0.2], iter_lim=3,
        )[0]  # fmt: skip

    x = solve(da.from_array(y0, chunks=30), da.from_array(x0, chunks=20))
    assert_close(x.compute(), solve(y0, x0), rtol=1e-8)


def test_data_that_were_cancelled_are_told_as_a_solver_is_set_up(several_workers):
    y = da.ones(12, chunks=6).persist()
    distributed.wait(y)
    several_workers.cancel(distributed.futures_of(y))
    with pytest.raises(distributed.CancelledError) as caught:
        pylops.cgls(pylops.Diagonal(np.arange(1.0, 13)), y, niter=2)
    assert "as CGLS was set up" in caught.value.__notes__[0]
