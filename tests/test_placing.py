"""An operator's NumPy arrays are sent to a cluster once, and go when it does."""

import contextlib
import dataclasses
import functools
import gc
import itertools
import time
import warnings
from collections import Counter

import dask
import dask.array as da
import distributed
import numpy as np
import pylops
import pytest
import scipy.sparse
from dask.sizeof import sizeof
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.protocol import pickle
from distributed.shuffle._core import barrier_key
from hypothesis import given
from hypothesis import strategies as st
from pylops import signalprocessing as sp

import pylops_dispatch
from pylops_dispatch import placing, scheduling, solvers
from pylops_dispatch.homes import Given, home_of_task
from pylops_dispatch.placing import _home, blocks_by_worker, vectors_together

from .helpers import assert_close, rand

DIMS = (200, 200)  # 320 kB


@pytest.fixture
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def sent(monkeypatch):
    """Bytes and tasks of each graph that goes to the scheduler."""
    found = []
    original = distributed.Client._graph_to_futures

    def noting(self, expr, keys, *args, **kwargs):
        # older dask sends graphs as they are
        graph = expr.__dask_graph__() if hasattr(expr, "__dask_graph__") else expr
        found.append((len(pickle.dumps(expr)), len(graph)))
        return original(self, expr, keys, *args, **kwargs)

    monkeypatch.setattr(distributed.Client, "_graph_to_futures", noting)
    return found


def kept(client):
    """The workers that have what was sent apart, by its keys."""
    names = ("('operator-", "('coefficient-", "('kept-", "('block-of", "('copy-of")
    return {k: sorted(w) for k, w in client.who_has().items() if str(k).startswith(names) and w}


def comes_true(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        gc.collect()
        time.sleep(0.05)
    return True


def vector():
    return da.from_array(rand(DIMS), chunks=(50, 200)).persist()


def filters():
    return pylops.signalprocessing.NonStationaryConvolve2D(
        DIMS, rand((20, 10, 11, 11)), ihx=np.arange(0, 200, 10), ihz=np.arange(0, 200, 20)
    )


MAKERS = {
    "Diagonal": lambda: pylops.Diagonal(rand(DIMS)),
    "MatrixMult": lambda: pylops.MatrixMult(rand(DIMS), otherdims=(200,)),
    "sparse MatrixMult": lambda: pylops.MatrixMult(
        scipy.sparse.random(*DIMS, 0.5, random_state=0, format="csr"), otherdims=(200,)
    ),
    "MatrixMult by columns": lambda: pylops.MatrixMult(
        scipy.sparse.random(*DIMS, 0.5, random_state=0, format="csc"), otherdims=(200,)
    ),
    "MatrixMult in disorder": lambda: pylops.MatrixMult(
        scipy.sparse.random(*DIMS, 0.5, random_state=0, format="coo"), otherdims=(200,)
    ),
    "a tree": lambda: (
        pylops.Diagonal(rand(DIMS)) @ pylops.FirstDerivative(DIMS, axis=0) + pylops.Identity(DIMS)
    ),
    "terms": lambda: pylops.signalprocessing.Fredholm1(rand((200, 50, 200)), nz=1),
    "filters": filters,
    "Diagonal of dask": lambda: pylops.Diagonal(da.from_array(rand(DIMS), chunks=(100, 200))),
    "MatrixMult of dask": lambda: pylops.MatrixMult(
        da.from_array(rand(DIMS), chunks=(100, 100)), otherdims=(200,)
    ),
    "terms of dask": lambda: pylops.signalprocessing.Fredholm1(
        da.from_array(rand((200, 50, 200)), chunks=(50, 50, 200)), nz=1
    ),
    "a product of dask": lambda: (
        pylops.Diagonal(da.from_array(rand(DIMS), chunks=(60, 200)))
        @ pylops.MatrixMult(da.from_array(rand(DIMS), chunks=100), otherdims=(200,))
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_arrays_are_sent_once_and_graphs_stay_small(client, sent, name):
    op = MAKERS[name]()
    x0 = rand(op.dims)
    x = da.from_array(x0, chunks=(50, *x0.shape[1:])).persist()
    (expected,) = dask.compute(op @ x0, scheduler="synchronous")
    (adjoint,) = dask.compute(op.H @ expected, scheduler="synchronous")
    y = da.from_array(expected, chunks=(50, *expected.shape[1:])).persist()
    sent.clear()
    with pylops_dispatch.ledger() as log:
        forward = [op @ x for _ in range(2)]
    assert not log.executions
    for lazy in forward:
        assert_close(lazy.compute(), expected)
    assert_close((op.H @ y).compute(), adjoint)
    before = set(kept(client))
    assert before
    assert_close((op @ x).compute(), expected)
    assert_close((op.H @ y).compute(), adjoint)
    assert set(kept(client)) == before
    assert all(size < (1 << 16) + 1000 * tasks for size, tasks in sent)


@pytest.mark.parametrize("solver", ["cgls", "fista"])
def test_data_and_dask_arrays_of_an_operator_go_to_the_cluster_once_in_a_solve(
    client, sent, solver
):
    size = 40_000
    w0, y0 = 1 + rand(size) ** 2, rand(size, seed=1)
    given = {"cgls": {"tol": 0}, "fista": {"alpha": 0.5, "eps": 0.01, "tol": 0}}[solver]
    solve = functools.partial(getattr(pylops, solver), niter=6, **given)
    expected = solve(pylops.Diagonal(w0), y0)[0]
    sent.clear()
    op = pylops.Diagonal(da.from_array(w0, chunks=size // 4))
    x = solve(op, da.from_array(y0, chunks=size // 4))[0]
    # the data, as the solver is set up
    large = [size for size, tasks in sent if size > (1 << 16) + 1000 * tasks]
    assert len(large) == 1
    assert large[0] < 1.2 * y0.nbytes
    assert_close(x.compute(), expected)


class Moved(SchedulerPlugin):
    """Notes for each task that reads what an operator holds whether it ran where that lies."""

    name = "moved"

    def __init__(self):
        self.found = []

    def start(self, scheduler):
        self.scheduler = scheduler

    def transition(self, key, start, finish, *args, worker="", **kwargs):
        if (start, finish) == ("processing", "memory"):
            for read in self.scheduler.tasks[key].dependencies:
                held = self.scheduler.tasks.get(("block-of", *read.key))
                if held is not None:
                    self.found.append(worker not in {each.address for each in held.who_has})


def test_products_are_worked_out_where_the_matrices_lie(client):
    op = pylops.VStack([pylops.MatrixMult(rand((600, 600), seed=i)) for i in range(24)])
    y0 = rand(op.shape[0], seed=9)
    expected = pylops.cgls(op, y0, niter=8, tol=0)[0]
    y = da.from_array(y0, chunks=7200)
    (op @ da.ones(600)).compute()  # the scheduler is told as arrays are first sent
    client.register_plugin(Moved())
    x = pylops.cgls(op, y, niter=8, tol=0)[0]
    assert_close(x.compute(), expected, rtol=1e-8)
    moved = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.plugins["moved"].found)
    assert len(moved) > 8 * 2 * 24
    assert not any(moved)


def test_a_scheduler_without_this_package_is_told_nothing(client, monkeypatch):
    def register_plugin(self, plugin, *args, **kwargs):
        raise ModuleNotFoundError(f"No module named {type(plugin).__module__!r}")

    monkeypatch.setattr(distributed.Client, "register_plugin", register_plugin)
    w0, y0 = 1 + rand(DIMS) ** 2, rand(DIMS, seed=1)
    x = pylops.cgls(pylops.Diagonal(w0), da.from_array(y0, chunks=(50, 200)), niter=3)[0]
    assert_close(x.compute(), pylops.cgls(pylops.Diagonal(w0), y0, niter=3)[0])


def test_an_operator_is_as_large_as_the_arrays_that_it_holds():
    matrix, sparse = rand((300, 300)), scipy.sparse.eye_array(10_000, format="csr")
    weights = rand(1000)
    op = pylops.BlockDiag(
        [
            pylops.MatrixMult(matrix),
            pylops.MatrixMult(sparse),
            pylops.FunctionOperator(lambda x: weights * x, 1000),
        ]
    )
    held = matrix.nbytes + sparse.data.nbytes + sparse.indices.nbytes + weights.nbytes
    assert held <= sizeof(op) < 1.2 * held


@pytest.mark.parametrize("size", [60, 20_000])
@pytest.mark.parametrize("solver", ["cgls", "fista"])
def test_a_plan_counts_data_that_go_to_the_cluster(client, solver, size):
    op = pylops.Diagonal(da.from_array(1 + rand(size) ** 2, chunks=size // 2))
    y = da.from_array(rand(size, seed=1), chunks=size // 4)
    given = {"cgls": {}, "fista": {"alpha": 0.5, "eps": 0.01}}[solver]
    call = (getattr(pylops, solver), op, y)
    settings = {"niter": 5, "tol": 0, **given}
    plan = pylops_dispatch.plan(*call, **settings)
    with pylops_dispatch.ledger() as log:
        call[0](*call[1:], **settings)
    done = [execution.tasks for execution in log.executions]
    assert sum(done[: plan.setup.executions]) == plan.setup.tasks
    assert done[-1] == plan.step.tasks


def test_blocks_of_a_dask_array_on_the_cluster_go_when_it_does(client):
    x = da.ones(DIMS, chunks=(50, 200))
    weights = da.from_array(rand(DIMS), chunks=(50, 200))
    for _ in range(2):
        (pylops.Diagonal(weights) @ x).compute()
    assert len([key for key in kept(client) if str(key).startswith("('kept")]) == 4
    del weights
    assert comes_true(lambda: not kept(client))


def test_dask_arrays_are_computed_anywhere_once_they_are_on_a_cluster(client):
    w0 = rand(DIMS)
    weights = da.from_array(w0, chunks=(50, 200))
    y = pylops.Diagonal(weights) @ da.ones(DIMS, chunks=(50, 200))
    assert_close(y.compute(), w0)
    assert_close(y.compute(scheduler="threads"), w0)
    assert_close(weights.compute(scheduler="synchronous"), w0)


def test_dask_arrays_of_the_same_name_are_not_taken_for_each_other(client):
    x = da.ones(DIMS, chunks=(50, 200))
    held = []
    for seed in range(2):
        w0 = rand(DIMS, seed=seed)
        held.append(pylops.Diagonal(da.from_array(w0, chunks=(50, 200), name="weights")))
        assert_close((held[-1] @ x).compute(), w0)


@pytest.mark.parametrize("lazy", [False, True])
def test_what_is_pickled_while_there_is_a_cluster_is_read_without_it(client, lazy):
    w0 = rand(DIMS)
    op = pylops.Diagonal(da.from_array(w0, chunks=(50, 200)) if lazy else w0)
    y = op @ da.ones(DIMS, chunks=(50, 200))
    assert_close(y.compute(), w0)
    kept = pickle.dumps(y)
    expected = w0.copy()
    del op, y, w0
    assert comes_true(lambda: not client.has_what() or not any(client.has_what().values()))
    assert_close(pickle.loads(kept).compute(scheduler="synchronous"), expected)


MANY = {
    "small blocks": lambda: pylops.BlockDiag(
        [pylops.Diagonal(rand(4000, seed=i)) for i in range(30)]
    ),
    "small operators": lambda: pylops.VStack(
        [pylops.signalprocessing.Convolve1D(4000, rand(4001, seed=i), offset=9) for i in range(20)]
    ),
    "small matrices": lambda: pylops.VStack([pylops.MatrixMult(rand((90, 80))) for _ in range(15)]),
}


@pytest.mark.parametrize("name", MANY)
def test_many_small_arrays_are_sent_once_and_together(client, sent, name, monkeypatch):
    op, other = MANY[name](), MANY[name]()
    y0 = rand(op.shape[0], seed=3)
    expected = pylops.cgls(op, y0, niter=3, tol=0)[0]
    counted = [(part.matvec_count, part.rmatvec_count) for part in (op, *op.ops)]
    batches = []
    scattered = distributed.Client.scatter
    monkeypatch.setattr(
        distributed.Client,
        "scatter",
        lambda *args, **kwargs: batches.append(list(args[1])) or scattered(*args, **kwargs),
    )
    y = da.from_array(y0, chunks=-(-len(y0) // 4)).persist()
    sent.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # "Sending large graph"
        x = pylops.cgls(other, y, niter=3, tol=0)[0]
    assert_close(x.compute(), expected, rtol=1e-9)
    assert all(size < (1 << 16) + 1000 * tasks for size, tasks in sent)
    batches = [keys for keys in batches if keys[0][0] != "copy-of"]  # from worker to worker
    # forward and adjoint: one for each worker, and one for what may lie on any
    assert len(batches) <= 2 * (len(client.nthreads()) + 1)
    assert [(part.matvec_count, part.rmatvec_count) for part in (other, *other.ops)] == counted
    del op, other
    assert comes_true(lambda: not any("operator-" in str(key) for key in kept(client)))


def test_large_arrays_of_an_operator_are_sent_together(client, monkeypatch):
    cuts = []
    original = placing.cut
    monkeypatch.setattr(placing, "cut", lambda arrays: cuts.append(arrays) or original(arrays))
    op = pylops.VStack([pylops.Diagonal(rand(DIMS, seed=i)) for i in range(4)])
    y = op @ da.ones(DIMS, chunks=(100, 200))
    assert_close(y.compute(), op @ np.ones(DIMS))
    assert [len(arrays) for arrays in cuts] == [4]


def test_few_small_arrays_travel_with_the_graph(client):
    op = pylops.BlockDiag([pylops.Diagonal(rand(4000, seed=i)) for i in range(3)])
    (op @ da.ones(12_000, chunks=3000)).compute()
    assert not kept(client)


N = 80_000


def chosen(seed=0):
    return np.random.default_rng(seed).permutation(N)[: N // 2]


def points(n, limit):
    return np.random.default_rng(0).uniform(0, limit, n)


def closing_over_weights():
    weights = rand(N)
    return pylops.FunctionOperator(lambda x: weights * x, lambda x: weights * x, N, N)


def making_weights_anew():
    roots = rand(N)
    return pylops.FunctionOperator(lambda x: roots**2 * x, lambda x: roots**2 * x, N, N)


def weighted(x, weights):
    return weights * x


def given_weights():
    function = functools.partial(weighted, weights=rand(N))
    return pylops.FunctionOperator(function, function, N, N)


def sorted_whole():
    weights, settings = rand(N), {"order": rand(N)}

    def function(x):
        if not isinstance(x, np.ndarray):
            raise TypeError("NumPy arrays only")
        return weights * np.sort(x) + settings["order"]

    return pylops.FunctionOperator(function, function, N, N)


class UserMask(pylops.LinearOperator):
    """A user's operator that writes where a mask is true, over what was there."""

    def __init__(self):
        super().__init__(dtype="float64", shape=(N, N))
        self.mask = points(N, 1) > 0.5

    def _matvec(self, x):
        y = 2 * x
        y[self.mask] = 3 * x[self.mask]
        return y

    def _rmatvec(self, x):
        return self._matvec(x)


# what is made of an operator's arrays on its way into tasks
MADE = {
    "positions in order": lambda: pylops.Restriction(N, np.sort(chosen())),
    "positions in disorder": lambda: pylops.Restriction(N, chosen()),
    "positions from the end": lambda: pylops.Restriction(N, np.sort(chosen()) - N),
    "positions that repeat": lambda: pylops.Restriction(N, np.append(chosen(), chosen(1))),
    "positions along an axis": lambda: pylops.Restriction((2, N), np.sort(chosen()), axis=1),
    "Regression": lambda: pylops.Regression(np.linspace(0, 1, N), order=3),
    "LinearRegression": lambda: pylops.LinearRegression(np.linspace(0, 1, N)),
    "Interp, linear": lambda: sp.Interp(N, np.sort(points(N // 2, N - 1)))[0],
    "Interp, nearest": lambda: sp.Interp(N, np.sort(chosen()).astype(float), kind="nearest")[0],
    "Interp, splines": lambda: sp.InterpCubicSpline(N, np.sort(points(N // 2, N - 1))),
    "Bilinear": lambda: sp.Bilinear(np.stack([points(N, 199), points(N, 199)[::-1]]), (200, 200)),
    "a function that closes over an array": closing_over_weights,
    "a function that makes its array anew": making_weights_anew,
    "a function that is given an array": given_weights,
    "a function of whole vectors": sorted_whole,
    "a user's mask": UserMask,
}


def quarters(shape):
    return tuple(-(-n // 4) for n in shape)


def in_quarters(x):
    return da.from_array(x, chunks=quarters(x.shape)).persist()


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("direction", ["forward", "adjoint"])
@pytest.mark.parametrize("name", MADE)
def test_what_is_made_of_an_operators_arrays_is_sent_once(client, sent, name, direction):
    op = MADE[name]()
    apply = op if direction == "forward" else op.H
    x0 = rand(apply.dims)
    expected = (apply @ x0.ravel()).reshape(apply.dimsd)
    x = in_quarters(x0)
    assert_close((apply @ x).compute(), expected)
    there = set(kept(client))
    sent.clear()
    with pylops_dispatch.ledger() as log:
        again = apply @ x
    assert not log.executions
    assert_close(again.compute(), expected)
    assert set(kept(client)) == there
    assert sent
    assert all(size < (1 << 16) + 1000 * tasks for size, tasks in sent)


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("name", MADE)
def test_what_is_made_of_an_operators_arrays_goes_with_it(client, name):
    op = MADE[name]()
    (op @ in_quarters(rand(op.dims))).compute()
    (op.H @ in_quarters(rand(op.dimsd))).compute()
    assert kept(client)
    del op
    assert comes_true(lambda: not kept(client))


GONE = [
    "Diagonal",
    "sparse MatrixMult",
    "MatrixMult in disorder",
    "a product of dask",
    "Interp, linear",
    "a function that closes over an array",
    "a function of whole vectors",
]


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("name", GONE)
def test_results_of_an_operator_that_is_gone_read_what_was_sent(client, sent, name):
    op = (MAKERS | MADE)[name]()
    x0 = rand(op.dims)
    (expected,) = dask.compute(op @ x0, scheduler="synchronous")
    y = op @ da.from_array(x0, chunks=quarters(x0.shape)).persist()
    there = set(kept(client))
    assert there
    del op
    gc.collect()
    sent.clear()
    assert_close(y.compute(), expected)
    assert sent
    assert all(size < (1 << 16) + 1000 * tasks for size, tasks in sent)
    assert set(kept(client)) <= there
    del y
    assert comes_true(lambda: not kept(client))


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("name", GONE)
def test_functions_called_later_take_results_that_read_what_was_sent(client, sent, name):
    """``dask.delayed`` gives the tasks of its arguments other names."""
    op = (MAKERS | MADE)[name]()
    x0 = rand(op.dims)
    (expected,) = dask.compute(op @ x0, scheduler="synchronous")
    y = op @ da.from_array(x0, chunks=quarters(x0.shape)).persist()
    later = dask.delayed(np.negative)(y)
    sent.clear()
    assert_close(later.compute(), -expected)
    assert sent
    assert all(size < (1 << 16) + 1000 * tasks for size, tasks in sent)
    both = dask.compute(later, y)
    assert_close(both[0], -expected)
    assert_close(both[1], expected)
    here = dask.delayed(np.negative)(op @ da.from_array(x0, chunks=quarters(x0.shape)))
    assert_close(here.compute(scheduler="synchronous"), -expected)


@pytest.mark.parametrize("chunks", [N, N // 3, (1, N // 2, 0, N // 2 - 1)])
def test_positions_are_those_of_numpy_in_any_chunks(client, chunks):
    op = pylops.Restriction(N, chosen())
    x0 = rand(N)
    assert_close((op @ da.from_array(x0, chunks=(chunks,))).compute(), op @ x0)
    y = da.from_array(op @ x0, chunks=N // 5)
    assert_close((op.H @ y).compute(), op.H @ (op @ x0))


def test_positions_changed_in_place_are_seen(client):
    op = pylops.Restriction(N, np.sort(chosen()))
    x0 = rand(N)
    x = in_quarters(x0)
    assert_close((op @ x).compute(), op @ x0)
    op.iava[[3, 4]] = op.iava[[4, 3]]  # in none of the samples
    assert_close((op @ x).compute(), op @ x0)


def test_what_code_makes_but_once_does_not_pile_up(client):
    generator = np.random.default_rng(0)
    op = pylops.FunctionOperator(lambda x: x * generator.normal(size=N), N)
    x = in_quarters(rand(N))
    counts = []
    for _ in range(24):
        (op @ x).compute()
        counts.append(len({str(key).split(",")[0] for key in kept(client)}))
    assert max(counts[12:]) <= max(counts[:12])


def test_no_warning_of_large_graphs_in_a_solve(client):
    n = 700_000
    op = pylops.Restriction(n, np.sort(np.random.default_rng(0).permutation(n)[: n - 9]))
    y = da.ones(n - 9, chunks=n // 2).persist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pylops.cgls(op, y, niter=2, tol=0)


def test_nothing_large_is_sent_in_a_solve(client, sent):
    op = pylops.Diagonal(1 + rand(DIMS) ** 2) @ pylops.Smoothing2D((3, 3), DIMS)
    y = vector()
    sent.clear()
    x = pylops.cgls(op, y, niter=5)[0]
    assert_close(x.compute(), pylops.cgls(op, y.compute(), niter=5)[0], rtol=1e-9)
    assert len(sent) > 5
    assert all(size < (1 << 16) + 1000 * tasks for size, tasks in sent)


def test_no_warning_of_large_graphs(client):
    diagonal = rand((1500, 1500))  # 18 MB
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = pylops.Diagonal(diagonal) @ da.ones((1500, 1500), chunks=(100, 1500))
        assert_close(y.compute(), diagonal)


def test_arrays_go_with_the_operator(client):
    op = pylops.Diagonal(rand(DIMS))
    y = op @ vector()
    y.compute()
    assert kept(client)
    del op
    y.compute()  # what was applied can still be run
    del y
    assert comes_true(lambda: not kept(client))


def test_what_was_applied_under_another_client_runs(client):
    op = pylops.Diagonal(rand(DIMS))
    x0 = rand(DIMS)
    y = op @ da.from_array(x0, chunks=(50, 200))
    with distributed.Client(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as other:
        assert_close(other.compute(y).result(), op @ x0)


def test_arrays_changed_in_place_are_sent_anew(client):
    diagonal = rand(DIMS)
    op = pylops.Diagonal(diagonal)
    x = vector()
    assert_close((op @ x).compute(), diagonal * x.compute())
    op.diag *= 2
    assert_close((op @ x).compute(), op.diag.reshape(DIMS) * x.compute())


def test_other_schedulers_read_them_too(client):
    op = pylops.Diagonal(rand(DIMS))
    x0 = rand(DIMS)
    y = op @ da.from_array(x0, chunks=(50, 200))
    assert_close(y.compute(scheduler="threads"), op @ x0)


def test_small_arrays_travel_with_the_graph(client):
    op = pylops.Diagonal(rand(200))
    x0 = rand(200)
    assert_close((op @ da.from_array(x0, chunks=50)).compute(), op @ x0)
    assert not kept(client)


def test_what_a_worker_had_is_sent_again_when_it_goes(client):
    op = pylops.Diagonal(rand(DIMS))
    x0 = rand(DIMS)
    x = da.from_array(x0, chunks=(50, 200))
    expected = op @ x0
    y = op @ x
    assert_close(y.compute(), expected)
    client.cluster.scale(5)
    client.wait_for_workers(5)
    for worker in list(client.cluster.workers.values())[:3]:  # those that have blocks among them
        client.cluster.sync(worker.close)
        assert_close((y + 1).compute(), expected + 1)
        assert_close((op @ x).compute(), expected)
        assert len(kept(client)) == 12  # four blocks, each twice, and what stands for them


def test_a_graph_may_go_to_another_cluster_than_it_was_made_for(client):
    op = pylops.Diagonal(rand(DIMS))
    x0 = rand(DIMS)
    y = op @ da.from_array(x0, chunks=(50, 200))
    with distributed.Client(
        n_workers=1, processes=False, dashboard_address=None, set_as_default=False
    ) as other:
        for found in (y.compute(scheduler=other), other.compute(y).result(), y.compute()):
            assert_close(found, op @ x0)


@pytest.mark.parametrize("cut_axes", [(0,), (1,), (0, 1)])
def test_blocks_lie_where_vectors_are_worked_out(client, cut_axes):
    chunks = tuple(50 if axis in cut_axes else 200 for axis in range(2))
    x = da.zeros(DIMS, chunks=chunks)
    op = pylops.Diagonal(rand(DIMS))
    (op @ x).compute()
    home = placing.home_of_blocks([x])
    there = {key[2:]: workers for key, workers in kept(client).items() if key[0] == "block-of"}
    assert len(there) == x.npartitions
    assert all(home((x.name, *place)) == workers for place, workers in there.items())


def test_what_vectors_are_made_of_lies_where_they_do(client):
    x = da.ones(DIMS, chunks=(50, 200))
    between = x + 1
    vector = 2 * between.sum(axis=1, keepdims=True) + between
    home = placing.home_of_blocks([vector])
    for place in np.ndindex(vector.numblocks):
        (worker,) = home((vector.name, *place))
        assert home((between.name, *place)) == [worker]
    workers = sorted(client.nthreads())
    assert home(("of another graph", 0, 0)) == workers
    # what is of other blocks than any vector is left to the scheduler
    cut = x.rechunk((25, 200)) + 1
    assert placing.home_of_blocks([vector, cut.sum(axis=0)])((cut.name, 0, 0)) == workers


def test_what_one_worker_alone_has_is_copied_once_there_is_another(client, monkeypatch):
    monkeypatch.setattr(placing, "_MOMENT", 0)
    op = pylops.Diagonal(rand(DIMS))
    x0 = rand(DIMS)
    x = da.from_array(x0, chunks=(50, 200))
    expected = op @ x0
    client.cluster.scale(1)
    assert comes_true(lambda: len(client.nthreads()) == 1)
    assert_close((op @ x).compute(), expected)
    client.cluster.scale(2)
    client.wait_for_workers(2)
    assert_close((op @ x).compute(), expected)
    assert comes_true(lambda: len(kept(client)) == 12)
    there = kept(client)
    copies = [key for key in there if key[0] == "copy-of"]
    assert len(copies) == 4
    assert all(there[key] != there["block-of", *key[1:]] for key in copies)


def test_what_is_lost_altogether_is_sent_again(client):
    op = pylops.Diagonal(rand(DIMS))
    x0 = rand(DIMS)
    x = da.from_array(x0, chunks=(50, 200))
    expected = op @ x0
    assert_close((op @ x).compute(), expected)
    client.cancel([distributed.Future(key, client) for key in kept(client)], force=True)
    assert comes_true(lambda: not kept(client))
    assert_close((op @ x).compute(), expected)


def test_vectors_of_a_solve_share_their_workers(client, monkeypatch):
    found = []
    original = distributed.Client._graph_to_futures

    def noting(self, expr, keys, *args, **kwargs):
        found.append((set(keys), dask.get_annotations()))
        return original(self, expr, keys, *args, **kwargs)

    y = vector()
    monkeypatch.setattr(distributed.Client, "_graph_to_futures", noting)
    pylops.cgls(pylops.Laplacian(DIMS), y, niter=3, tol=0)
    first, second = sorted(client.nthreads())
    solved = [(keys, a) for keys, a in found if any(len(key) == 3 for key in keys)]
    assert len(solved) >= 3
    for keys, annotations in solved:
        assert annotations["allow_other_workers"]
        home = annotations["workers"]
        names = {key[0] for key in keys if len(key) == 3}
        for name in names:
            homes = [home((name, i, 0)) for i in range(4)]
            assert homes == [[first], [first], [second], [second]]
        # a face is cut where its block is, on the other side of the boundary
        assert home(("halo-before-0-a", 2, 0)) == home(("halo-after-0-a", 0, 0)) == [first]
        assert home(("halo-before-0-a", 3, 0)) == home(("halo-after-0-a", 1, 0)) == [second]
        assert sorted(home(("halo-after-0-a", 3, 0))) == [first, second]  # nothing is there
        assert sorted(home(("sum", 0))) == [first, second]


def test_threads_are_not_told_where_to_run(monkeypatch):
    given = []

    @contextlib.contextmanager
    def unused(arrays, *settings):
        given.append(len(arrays))
        pytest.fail("threads have been told")
        yield

    def noting(*settings):
        given.append(settings)
        return unused(*settings)

    monkeypatch.setattr(solvers, "vectors_together", noting)
    with dask.config.set(scheduler="threads"):
        pylops.cgls(pylops.Laplacian(DIMS), vector(), niter=2)
    assert len(given) >= 3


def test_workers_that_the_user_has_named_stay(client, monkeypatch):
    found = []
    original = distributed.Client._graph_to_futures

    def noting(self, *given, **kwargs):
        found.append(dask.get_annotations())
        return original(self, *given, **kwargs)

    monkeypatch.setattr(distributed.Client, "_graph_to_futures", noting)
    named = min(client.nthreads())
    with dask.annotate(workers=[named]):
        x = pylops.cgls(pylops.Laplacian(DIMS), vector(), niter=3, tol=0)[0]
    assert len(found) >= 3
    assert all(annotations == {"workers": [named]} for annotations in found)
    assert {worker for workers in client.who_has(x).values() for worker in workers} == {named}


USES = {
    "twice": lambda x: 2 * x - x / 3,
    "thrice": lambda x: x + 2 * (x * x) / (1 + np.abs(x)),
    "in places": lambda x: np.where(np.arange(x.size) % 2, x, 2 * x),
}
SOLVES = {
    "fista": lambda op, y: pylops.fista(op, y, niter=3, eps=0.1, alpha=0.05),
    "ista": lambda op, y: pylops.ista(op, y, niter=3, eps=0.1, alpha=0.05),
    "irls": lambda op, y: pylops.irls(op, y, nouter=2, niter=2, epsR=1e-3, engine="pylops"),
    "cgls": lambda op, y: pylops.cgls(op, y, niter=3),
    "lsqr": lambda op, y: pylops.lsqr(op, y, niter=3),
}


@pytest.mark.usefixtures("client")
def test_operators_of_users_may_use_their_vector_often():
    """Layers that are fused twice are not asked for a worker before: dask fuses lists of these."""
    y = np.random.default_rng(0).standard_normal(120)
    for use, solve in itertools.product(USES.values(), SOLVES.values()):
        op = pylops.FunctionOperator(use, use, 120, 120)
        found = solve(op, da.from_array(y, chunks=60))[0]
        np.testing.assert_allclose(found.compute(), solve(op, y)[0], rtol=1e-8, atol=1e-10)


def test_a_shuffle_may_choose_among_the_workers_that_are_left():
    workers = ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]
    assert _home({"x": (2,)}, workers, barrier_key("0123")) == []
    assert _home({"x": (2,)}, workers, ("rechunk-transfer-0123", 0)) == workers


@pytest.mark.parametrize("kernel", [0, 1 << 10, 1 << 20])
def test_small_vectors_are_worked_out_where_large_kernels_lie(client, kernel):
    x = da.zeros((8, 16), chunks=(2, 16))  # 256 bytes in a block
    with vectors_together([x], kernel):
        home = dask.get_annotations()["workers"]
        chosen = [home((x.name, number, 0)) for number in range(4)]
    everywhere = sorted(client.nthreads())
    if kernel <= 16 * 256:
        assert all(len(workers) == 1 for workers in chosen)
        assert sorted(set(map(tuple, chosen))) == [(worker,) for worker in everywhere]
    else:
        assert all(sorted(set(workers)) == everywhere for workers in chosen)


# ---- few tasks ----------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    st.integers(1, 7),
)
def test_runs_of_blocks_are_those_that_one_worker_is_asked_for(numblocks, count):
    workers = [f"worker-{number}" for number in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placing, "client_in_use", lambda: "a client")
        patch.setattr(placing, "threads_by_worker", lambda client, age: dict.fromkeys(workers, 1))
        runs = blocks_by_worker(numblocks)
    assert len(runs) == count
    assert [place for run in runs for place in run] == list(np.ndindex(*numblocks))
    for worker, run in zip(workers, runs, strict=True):
        assert all(_home({"x": numblocks}, workers, ("x", *p)) == [worker] for p in run)


def tasks_of_a_step(client, solve):
    """The tasks that ran, by what their names begin with, of one more step."""

    def count(dask_scheduler):
        return dict(dask_scheduler.plugins["counts"].found)

    class Counts(SchedulerPlugin):
        name = "counts"

        def __init__(self):
            self.found = Counter()

        def transition(self, key, start, finish, *args, **kwargs):
            if (start, finish) == ("processing", "memory"):
                self.found[str(key[0] if isinstance(key, tuple) else key).partition("-")[0]] += 1

    client.register_plugin(Counts())
    found = []
    for niter in (6, 7):
        before = count(client.cluster.scheduler)
        distributed.wait(solve(niter).persist())
        after = count(client.cluster.scheduler)
        found.append(Counter(after) - Counter(before))
    return found[1] - found[0]


def test_a_step_of_small_blocks_has_no_tasks_but_for_blocks_of_vectors(client):
    """Neither faces of halos, nor norms of blocks, nor names and operators, nor numbers to read."""
    dims = (64, 40)
    op = pylops.Identity(dims) + 0.3 * pylops.Laplacian(dims, axes=(0, 1))
    y = da.from_array(rand(dims), chunks=(8, 40)).persist()
    found = tasks_of_a_step(client, lambda n: pylops.cgls(op, y, niter=n, tol=0)[0])
    blocks, workers, vectors = 8, 2, 5  # x, s, c, q and the gradient
    norms_and_numbers = vectors * (workers + 1) + 4
    assert 0 < sum(found.values()) <= vectors * blocks + norms_and_numbers
    assert not any(name.startswith(("halo", "block_square", "operators")) for name in found)


def test_a_stack_of_matrices_takes_two_tasks_a_matrix(client):
    matrices = [rand((30, 20), seed=n) for n in range(6)]
    op = pylops.VStack([pylops.MatrixMult(da.from_array(m).persist()) for m in matrices])
    y = da.from_array(rand(180), chunks=30).persist()
    found = tasks_of_a_step(client, lambda n: pylops.cgls(op, y, niter=n, tol=0)[0])
    assert (found["VStack"], found["operators"]) == (12, 0)
    expected = pylops.cgls(
        pylops.VStack([pylops.MatrixMult(m) for m in matrices]), rand(180), niter=4, tol=0
    )[0]
    assert_close(pylops.cgls(op, y, niter=4, tol=0)[0].compute(), expected)


def test_a_stack_is_asked_for_its_matrices_again_when_one_is_exchanged(client):
    matrices = [rand((30, 20), seed=n) for n in range(3)]
    op = pylops.VStack([pylops.MatrixMult(da.from_array(m).persist()) for m in matrices])
    y = da.from_array(rand(90), chunks=30).persist()
    pylops.cgls(op, y, niter=3)
    matrices[1] = rand((30, 20), seed=7)
    op.ops[1].A = da.from_array(matrices[1]).persist()
    expected = pylops.VStack([pylops.MatrixMult(m) for m in matrices])
    assert_close(
        pylops.cgls(op, y, niter=4, tol=0)[0].compute(),
        pylops.cgls(expected, rand(90), niter=4, tol=0)[0],
    )


def test_a_cluster_without_workers_starts_them_for_the_arrays_of_operators():
    weights = rand((20_000,))
    with pylops_dispatch.client(processes=False, n_workers=0, threads_per_worker=1) as client:
        client.cluster.adapt(minimum=0, maximum=1, interval="100ms", wait_count=100)
        y = (pylops.Diagonal(weights) @ da.ones(20_000, chunks=5_000)).compute()
    assert_close(y, weights)


def test_arrays_are_sent_again_where_a_worker_dies_meanwhile(monkeypatch):
    weights = rand((20_000,))
    with pylops_dispatch.client(processes=False, n_workers=1, threads_per_worker=1) as client:
        scatter = client.scatter
        failures = [distributed.comm.CommClosedError("a worker has died")]

        def unlucky(*args, **kwargs):
            if failures:
                raise failures.pop()
            return scatter(*args, **kwargs)

        monkeypatch.setattr(client, "scatter", unlucky)
        y = (pylops.Diagonal(weights) @ da.ones(20_000, chunks=5_000)).compute()
    assert not failures
    assert_close(y, weights)


# ---- operators that are equal to others ------------------------------------------------------


@dataclasses.dataclass
class Weighting(pylops.LinearOperator):
    """Is equal to others of the same settings, and has no hash."""

    factor: float
    weights: np.ndarray

    def __post_init__(self):
        n = self.weights.size
        super().__init__(dtype=np.dtype(float), dims=(n,), dimsd=(n,))

    def _matvec(self, x):
        return self.factor * self.weights * x

    _rmatvec = _matvec


@pytest.mark.filterwarnings("error::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("make", [lambda op: op, lambda op: pylops.VStack([op, 2.0 * op])])
@pytest.mark.parametrize("scheduler", [None, "synchronous"])
def test_operators_need_no_hash(client, make, scheduler):
    op = make(Weighting(2.0, rand(N)))
    x0 = rand(N)
    expected = op @ x0, pylops.cgls(op, op @ x0, niter=2, tol=0)[0]
    with dask.config.set(scheduler=scheduler):
        for _ in range(2):
            assert_close((op @ in_quarters(x0)).compute(), expected[0])
        y = da.from_array(expected[0], chunks=N // 4)
        assert_close(pylops.cgls(op, y, niter=2, tol=0)[0].compute(), expected[1], rtol=1e-9)


@pytest.mark.parametrize(("other", "home"), [(1.0, "a"), (24.0, "a"), (26.0, "b"), (99.0, "b")])
def test_a_share_is_made_even_by_workers_that_have_much_of_what_a_task_reads(other, home):
    given = Given()
    for _ in range(5):
        given.give("a", 100.0)
    here = {"a": 100.0, "b": other}
    assert home_of_task(here, given, {"a": 1, "b": 1}, evenly=True) == home
    assert home_of_task(here, given, {"a": 1, "b": 1}, evenly=False) == "a"


def test_products_are_asked_for_where_their_matrices_lie(client, monkeypatch):
    """They are no larger than vectors, and make no share of a worker uneven."""
    addresses = sorted(client.scheduler_info()["workers"])
    asked = Counter()
    original = scheduling._ask

    def noted(task, home):
        for read in task.dependencies:
            if read.nbytes > 1 << 20 and read.who_has:
                asked[home in {worker.address for worker in read.who_has}] += 1
        original(task, home)

    def held(x, chunks, **place):
        with dask.annotate(**place):
            y = da.from_array(x, chunks=chunks).map_blocks(np.array, copy=True).persist()
        distributed.wait(y)
        return y

    matrices = [
        held(rand((150, 1400), seed=i), -1, workers=[addresses[i % 2]], allow_other_workers=False)
        for i in range(8)
    ]
    op = pylops.VStack([pylops.MatrixMult(matrix) for matrix in matrices])
    y = held(rand(1200), 150)
    monkeypatch.setattr(scheduling, "_ask", noted)
    for _ in range(3):
        pylops.cgls(op, y, niter=15, tol=0)
    # 31 products with each matrix in a solve; the size of the first ones is not known yet
    assert asked[True] > 2 * 31 * len(matrices)
    assert asked[False] <= 2
