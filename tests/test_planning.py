"""What is told before anything runs is what then happens."""

import functools
import gc
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import distributed
import numpy as np
import pylops
import pytest
import scipy.sparse
from dask._task_spec import Alias, DataNode
from dask.callbacks import Callback
from distributed.diagnostics.plugin import SchedulerPlugin
from pylops.optimization.callback import Callbacks, CostToInitialCallback, MetricsCallback
from pylops.optimization.cls_basic import CGLS, LSQR
from pylops.optimization.cls_sparsity import FISTA
from pylops.optimization.leastsquares import preconditioned_inversion, regularized_inversion

import pylops_dispatch
from pylops_dispatch import Plan, plan, suggest_chunks
from pylops_dispatch.operators import arrays_of, lazy_attributes
from pylops_dispatch.pieces import balanced
from pylops_dispatch.placing import home_of_blocks
from pylops_dispatch.suggesting import costs_of_axes

from .helpers import assert_close, count_executions, forbid_executions, rand

DIMS = (64, 48, 16)
CUT = (16, 48, 16)

OPERATORS = {
    "halo": lambda: pylops.FirstDerivative(DIMS, axis=0),
    "no halo": lambda: pylops.FirstDerivative(DIMS, axis=1),
    "rechunk": lambda: pylops.signalprocessing.FFT(DIMS, axis=0, engine="scipy"),
    "alone": lambda: pylops.Diagonal(rand(DIMS)),
    "sum": lambda: pylops.MatrixMult(rand((40, 64)), otherdims=DIMS[1:]),
    "tree": lambda: pylops.Laplacian(DIMS) + 2 * pylops.Identity(DIMS),
}


def in_memory(chunks=CUT):
    return da.from_array(rand(DIMS), chunks=chunks).persist(scheduler="synchronous")


class Held(Callback):
    """The largest amount of results that a scheduler held, while a task has all that it reads."""

    def __init__(self, data):
        super().__init__()
        self.data = data
        self.peak = 0
        self.before = 0

    def _posttask(self, key, value, dsk, state, worker_id):
        new = 0 if isinstance(dsk[key], Alias) else bytes_of(value)
        self.peak = max(self.peak, self.before + new)
        results = {id(v): v for name, v in state["cache"].items() if name not in self.data}
        self.before = sum(map(bytes_of, results.values()))


def bytes_of(value):
    if isinstance(value, (list, tuple)):
        return sum(map(bytes_of, value))
    return getattr(value, "nbytes", 0)


def largest_amount_held(op, x):
    """The results at once, next to the input and to what else is data, fused into tasks or not."""
    y = op @ x
    graph = dask.optimize(y)[0].__dask_graph__()
    data = {k: n.value for k, n in graph.items() if isinstance(n, DataNode)}
    with Held(data.keys()) as held:
        y.persist(scheduler="synchronous")
    blocks = {id(getattr(node, "value", node)) for node in dict(x.dask).values()}
    others = (value for value in data.values() if id(value) not in blocks)
    return held.peak + x.nbytes + sum(map(bytes_of, others))


# ---- plans ---------------------------------------------------------------------------------


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("name", OPERATORS)
def test_tasks_are_exact(name, adjoint):
    op = OPERATORS[name]()
    x = op @ in_memory() if adjoint else in_memory()
    x = x.persist(scheduler="synchronous")
    planned = plan(op, x, adjoint)
    with count_executions() as seen:
        ((op.H if adjoint else op) @ x).persist()
    assert planned.tasks == len(seen.tasks)


# what is fused with the blocks of the input, what takes parts of them, what adds them up
MORE_OPERATORS = {
    "sum of blocks": lambda: pylops.Sum(DIMS, axis=2),
    "sum over blocks": lambda: pylops.Sum(DIMS, axis=0),
    "transform of blocks": lambda: pylops.signalprocessing.FFT(DIMS, axis=1, real=True),
    "turned": lambda: pylops.Flip(DIMS, axis=0),
    "shifted": lambda: pylops.Roll(DIMS, axis=0, shift=5),
    "padded": lambda: pylops.Pad(DIMS, ((3, 3), (0, 0), (5, 5))),
    "mirrored": lambda: pylops.Symmetrize(DIMS, axis=0),
    "some rows": lambda: pylops.Restriction(DIMS, np.arange(0, 64, 3), axis=0),
    "some rows in any order": lambda: pylops.Restriction(
        DIMS, np.random.default_rng(0).permutation(64)[:30], axis=0
    ),
    "stacked": lambda: pylops.VStack(
        [pylops.Identity(DIMS), pylops.SecondDerivative(DIMS, axis=1)]
    ),
    "gradient": lambda: pylops.Gradient(DIMS),
    "sum of gradients": lambda: pylops.Gradient(DIMS).H @ pylops.Gradient(DIMS),
    "running sum": lambda: pylops.CausalIntegration(DIMS, axis=0),
}


@pytest.mark.parametrize("chunks", [CUT, (64, 48, 4)])
@pytest.mark.parametrize("name", [*OPERATORS, *MORE_OPERATORS])
def test_peak_is_what_a_scheduler_holds(name, chunks):
    op, x = {**OPERATORS, **MORE_OPERATORS}[name](), in_memory(chunks)
    planned = plan(op, x, threads=1)
    assert planned.peak_bytes == pytest.approx(largest_amount_held(op, x), rel=0.25)
    assert planned.peak_bytes >= planned.input_bytes + planned.output_bytes


@pytest.mark.parametrize("name", ["halo", "no halo", "rechunk", "tree"])
def test_what_moves_is_what_workers_send_each_other(name):
    op = OPERATORS[name]()
    with (
        dask.config.set(
            {
                "distributed.scheduler.work-stealing": False,
                "distributed.scheduler.unknown-task-duration": "1ms",
            }
        ),
        pylops_dispatch.client(processes=False, n_workers=4, threads_per_worker=1) as client,
    ):
        workers = sorted(client.nthreads())
        source = da.from_array(rand(DIMS), chunks=CUT)
        placed = {
            key: client.submit(np.copy, rand(CUT), key=key, workers=[worker])
            for key, worker in zip([("x", i, 0, 0) for i in range(4)], workers, strict=True)
        }
        distributed.wait(list(placed.values()))
        x = da.Array(placed, "x", source.chunks, dtype=float)
        planned = plan(op, x)  # what is sent once lies there for a while
        y = (op @ x).persist()
        distributed.wait(y)
        sent = sum(client.run(received).values())
    assert planned.moved_bytes == pytest.approx(sent, rel=0.25)


def received(dask_worker):
    """Return the bytes that a worker was sent since the last call."""
    sent = sum(transfer["total"] for transfer in dask_worker.transfer_incoming_log)
    dask_worker.transfer_incoming_log.clear()
    return sent


# ---- on a cluster --------------------------------------------------------------------------


@pytest.fixture
def cluster():
    """Two workers, which do not take blocks from each other to be done sooner."""
    settings = {
        "distributed.scheduler.work-stealing": False,
        "distributed.scheduler.unknown-task-duration": "1ms",
    }
    with (
        dask.config.set(settings),
        pylops_dispatch.client(processes=False, n_workers=2, threads_per_worker=1) as client,
    ):
        client.register_plugin(Ran())
        yield client


CUT_TWICE = ((17, 15, 22, 10), (20, 28), (16,))

WHERE_MOST_LIES = {
    "stencil": lambda: pylops.Laplacian(DIMS, axes=(0, 1)),
    "stencils": lambda: pylops.Gradient(DIMS),
    "product of stencils": lambda: pylops.Gradient(DIMS).H @ pylops.Gradient(DIMS),
    "convolution": lambda: pylops.signalprocessing.Convolve2D(DIMS, rand((3, 5)), (1, 2), (0, 1)),
    "transform": lambda: pylops.signalprocessing.FFT(DIMS, axis=1, engine="scipy"),
    "transforms": lambda: pylops.signalprocessing.FFT2D(DIMS, axes=(0, 1)),
    "some columns": lambda: pylops.Restriction(DIMS, np.arange(0, 48, 3), axis=1),
    "stack": lambda: pylops.VStack([pylops.Laplacian(DIMS, axes=(0, 1)), pylops.Identity(DIMS)]),
}


@pytest.mark.parametrize("beside", [False, True], ids=["in turn", "in runs"])
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("name", WHERE_MOST_LIES)
def test_blocks_cut_along_two_axes_stay_where_they_are(cluster, name, adjoint, beside):
    op = WHERE_MOST_LIES[name]()
    x = lying(cluster, rand(DIMS), CUT_TWICE, beside)
    if adjoint:
        x, op = (op @ x).persist(), op.H
        distributed.wait(x)
    lazy = op @ x  # what is sent once is there from here on
    planned = plan(op, x)
    cluster.run(received)
    y = lazy.persist()
    distributed.wait(y)
    sent = sum(cluster.run(received).values())
    # each transfer brings some bytes more than the samples
    assert sent == pytest.approx(planned.moved_bytes, rel=0.25, abs=4096)


def lying(client, values, chunks, beside=True):
    """Return an array of which a worker has blocks that lie beside each other, or none that do."""
    x = da.from_array(values, chunks=chunks)
    places, workers = list(np.ndindex(*x.numblocks)), sorted(client.nthreads())

    def worker(number, place):
        return workers[number * len(workers) // len(places) if beside else sum(place) % 2]

    blocks = {
        ("lying", *place): client.submit(
            np.copy,
            values[tuple(map(slice, *edges(x.chunks, place)))],
            key=("lying", *place),
            workers=[worker(number, place)],
        )
        for number, place in enumerate(places)
    }
    distributed.wait(list(blocks.values()))
    return da.Array(blocks, "lying", x.chunks, dtype=values.dtype)


def edges(chunks, place):
    """Return where a block begins along each axis, and where it ends."""
    begins = [sum(axis[:i]) for axis, i in zip(chunks, place, strict=True)]
    return begins, [low + axis[i] for low, axis, i in zip(begins, chunks, place, strict=True)]


class Asked(SchedulerPlugin):
    """Where the tasks of the last graph are asked for."""

    name = "asked"

    def update_graph(self, scheduler, *, tasks, **kwargs):
        new = [task for task in map(scheduler.tasks.get, tasks) if not task.who_has]
        self.homes = [
            task.worker_restrictions for task in new if not str(task.key[0]).startswith("halo")
        ]


def homes_of_last_graph(dask_scheduler):
    return dask_scheduler.plugins["asked"].homes


def test_work_goes_to_all_workers_though_one_has_most_of_each_pair(cluster):
    """The larger of two blocks that are joined lies on the same worker each time."""
    values = rand((64, 40))
    x = da.from_array(values, chunks=(16, (12, 28)))
    first, second = sorted(cluster.nthreads())
    blocks = {
        ("pairs", i, j): cluster.submit(
            np.copy, np.asarray(x.blocks[i, j]), key=("pairs", i, j), workers=[(first, second)[j]]
        )
        for i in range(4)
        for j in range(2)
    }
    distributed.wait(list(blocks.values()))
    x = da.Array(blocks, "pairs", x.chunks, dtype=float)
    op = pylops.signalprocessing.FFT((64, 40), axis=1)
    planned = plan(op, x)
    cluster.run(received)
    y = (op @ x).persist()
    distributed.wait(y)
    held = {w: sum(key[0] == y.name for key in keys) for w, keys in cluster.has_what().items()}
    assert set(held.values()) == {4}
    assert sum(cluster.run(received).values()) == pytest.approx(planned.moved_bytes, rel=0.25)


def test_a_shuffle_goes_to_all_workers(cluster):
    dims = (128, 64, 32)
    x = lying(cluster, rand(dims), (32, 64, 32))
    op = pylops.signalprocessing.FFT(dims, axis=0)
    (op @ x).persist()  # the scheduler is told
    with dask.config.set({"array.rechunk.method": "p2p"}):
        y = (x.rechunk((128, 8, 32)) * 2).map_blocks(np.sin)
        z = (pylops.Diagonal(rand(dims)) @ y).persist()
        distributed.wait(z)
    held = {w: sum(key[0] == z.name for key in keys) for w, keys in cluster.has_what().items()}
    assert min(held.values()) > 0
    assert_close(z.compute(), np.sin(2 * x.compute()) * rand(dims))


def test_workers_named_by_the_user_are_the_ones_asked_for():
    with pylops_dispatch.client(processes=False, n_workers=3, threads_per_worker=1) as client:
        named = sorted(client.nthreads())[:2]
        x = lying(client, rand(DIMS), CUT_TWICE)
        lazy = OPERATORS["tree"]() @ x
        client.register_plugin(Asked())
        with dask.annotate(workers=named, allow_other_workers=True):
            distributed.wait(lazy.persist(optimize_graph=False))
        asked = client.run_on_scheduler(homes_of_last_graph)
        assert set().union(*filter(None, asked)) <= set(named)


def set_status(dask_worker, status):
    dask_worker.status = distributed.core.Status[status]


def test_work_of_a_worker_that_is_paused_is_done_by_another():
    op = OPERATORS["tree"]()
    # without a limit to its memory, no worker goes on by itself
    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": 0}
    with pylops_dispatch.client(processes=False, **options) as client:
        x = lying(client, rand(DIMS), CUT_TWICE)
        lazy = op @ x
        first, second = sorted(client.nthreads())
        client.run(set_status, status="paused")
        y = lazy.persist()
        time.sleep(0.5)  # until the scheduler has found no worker for it
        client.run(set_status, status="running", workers=[second])
        try:
            distributed.wait(y, timeout=20)
        finally:
            client.run(set_status, status="running", workers=[first])
        assert_close(y.compute(), op @ x.compute())


def test_graphs_of_others_and_data_on_one_worker_are_left_to_the_scheduler(cluster):
    x = lying(cluster, rand(DIMS), CUT_TWICE)
    lazy = OPERATORS["tree"]() @ x
    cluster.register_plugin(Asked())  # which is asked after what the application has registered
    distributed.wait(lazy.persist())
    assert any(cluster.run_on_scheduler(homes_of_last_graph))
    distributed.wait((x[1:] - x[:-1]).persist())
    assert not any(cluster.run_on_scheduler(homes_of_last_graph))
    worker = min(cluster.nthreads())
    y = da.Array(
        {
            ("alone", i): cluster.submit(np.ones, 50, key=("alone", i), workers=[worker])
            for i in range(4)
        },
        "alone",
        ((50,) * 4,),
        dtype=float,
    )
    distributed.wait(list(dict(y.dask).values()))
    distributed.wait((pylops.Diagonal(rand(200)) @ y).persist())
    assert not any(cluster.run_on_scheduler(homes_of_last_graph))


class Ran(SchedulerPlugin):
    """Keys of tasks that the workers have run."""

    name = "ran"

    def __init__(self):
        self.keys = []

    def transition(self, key, start, finish, *args, **kwargs):
        if (start, finish) == ("processing", "memory"):
            self.keys.append(key)


def tasks_run(client, begin=False):
    """Return how many tasks were run since the last call that begins to count."""

    def count(dask_scheduler):
        keys = dask_scheduler.plugins["ran"].keys
        found = len(keys)
        if begin:
            keys.clear()
        return found

    return client.run_on_scheduler(count)


def on_workers(shape=DIMS, chunks=CUT):
    """Return an array in the memory of a cluster."""
    x = da.from_array(rand(shape), chunks=chunks).persist()
    distributed.wait(x)
    return x


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("name", [*OPERATORS, *MORE_OPERATORS])
def test_tasks_on_a_cluster_are_exact(cluster, name, adjoint):
    op, x = {**OPERATORS, **MORE_OPERATORS}[name](), on_workers()
    if adjoint:
        x = (op @ x).persist()
        distributed.wait(x)
        op = op.H
    lazy = op @ x  # sends what the operator holds
    planned = plan(op, x)
    tasks_run(cluster, begin=True)
    with pylops_dispatch.ledger() as log:
        distributed.wait(lazy.persist())
    assert planned.tasks == tasks_run(cluster) == log.tasks


@pytest.mark.parametrize("steps", [2, 12])  # copies are made after seven executions
@pytest.mark.parametrize("solve", [pylops.cg, pylops.cgls, pylops.lsqr])
def test_tasks_of_a_solver_on_a_cluster_are_exact(cluster, solve, steps):
    op = pylops.Diagonal(1 + rand(DIMS) ** 2) + 0.1 * pylops.SecondDerivative(DIMS, axis=0)
    y = on_workers()
    until = {"atol": 0, "btol": 0, "conlim": 0} if solve is pylops.lsqr else {"tol": 0}
    with dask.config.set({"pylops-dispatch.lineage-steps": 7}):
        solve(op, y, niter=1)  # sends what the operator holds
        planned = plan(solve, op, y, niter=steps, **until)
        tasks_run(cluster, begin=True)
        with pylops_dispatch.ledger() as log:
            distributed.wait(solve(op, y, niter=steps, **until)[0])
    assert (planned.copies.tasks > 0) is (steps == 12)
    assert planned.tasks == log.tasks
    # vectors that only a further step would need may be let go before they are worked out
    assert planned.tasks - 12 <= tasks_run(cluster) <= planned.tasks


def distinct_bytes(dask_scheduler):
    """Return the bytes of all blocks, those once that a worker has under two keys."""
    return sum(
        task.nbytes
        for worker in dask_scheduler.workers.values()
        for task in worker.has_what
        if task.key[0] != "block-of"
    )


@pytest.mark.parametrize("name", ["halo", "alone", "sum", "tree"])
def test_the_peak_on_a_cluster_is_what_its_workers_hold(cluster, name):
    op, x = OPERATORS[name](), on_workers()
    y = op @ x
    planned = plan(op, x)
    y = y.persist()
    distributed.wait(y)
    gc.collect()
    assert eventually_close(
        lambda: cluster.run_on_scheduler(distinct_bytes), planned.peak_bytes, rel=0.25
    )
    assert planned.workers == 2
    assert planned.peak_bytes_per_worker == -(-planned.peak_bytes // 2)
    assert "on each of 2 workers" in str(planned)


def eventually_close(measured, expected, rel):
    """Whether a value comes close: copies that are not needed go after some seconds."""
    for _ in range(100):
        if measured() == pytest.approx(expected, rel=rel):
            return True
        time.sleep(0.1)
    return False


def test_a_plan_sends_nothing(cluster):
    op = pylops.MatrixMult(rand((200, 64)), otherdims=DIMS[1:])  # cut anew for advice, too
    x, y = on_workers(), on_workers((200, *DIMS[1:]), (50, *DIMS[1:]))
    before = cluster.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.tasks))
    plan(op, x)
    plan(pylops.cgls, op, y, niter=3)
    suggest_chunks(op)
    assert cluster.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.tasks)) == before


@pytest.mark.parametrize("placed", [False, True])
def test_what_operators_hold_moves_once(cluster, placed):
    op = pylops.Diagonal(rand(DIMS))
    home = home_of_blocks([in_memory()])
    blocks = {
        ("x", i, 0, 0): cluster.submit(
            np.copy, rand(CUT), key=("x", i, 0, 0), workers=home((in_memory().name, i, 0, 0))
        )
        for i in range(4)
    }
    x = da.Array(blocks, "x", in_memory().chunks, dtype=float)
    distributed.wait(list(blocks.values()))
    if placed:
        distributed.wait((op @ x).persist())
    cluster.run(received)
    planned = plan(op, x)
    distributed.wait((op @ x).persist())
    sent = sum(cluster.run(received).values())
    assert planned.moved == ({} if placed else {"coefficients": 2 * 8 * 64 * 48 * 16})
    assert planned.moved_bytes == sent


@pytest.mark.parametrize("cut", [CUT, (12, 48, 16)])
@pytest.mark.parametrize("of", [lambda a: a, lambda a: a + 1, lambda a: a.reshape(DIMS)])
def test_operators_that_hold_arrays_on_the_cluster(cluster, cut, of):
    held = da.from_array(1 + rand(DIMS) ** 2, chunks=cut).persist()
    distributed.wait(held)
    op, x = pylops.Diagonal(of(held)), on_workers()
    lazy = op @ x
    planned, solved = plan(op, x), plan(pylops.cgls, op, x, niter=2, tol=0)
    tasks_run(cluster, begin=True)
    distributed.wait(lazy.persist())
    assert planned.tasks == tasks_run(cluster)
    with pylops_dispatch.ledger() as log:
        distributed.wait(pylops.cgls(op, x, niter=2, tol=0)[0])
    assert solved.tasks == log.tasks


def test_moves_are_told_by_their_kind():
    assert set(plan(OPERATORS["halo"](), in_memory()).moved) == {"halo"}
    assert set(plan(OPERATORS["rechunk"](), in_memory()).moved) == {"rechunk"}
    assert plan(OPERATORS["no halo"](), in_memory()).moved == {}
    assert plan(OPERATORS["alone"](), in_memory()).moved == {"coefficients": 8 * 64 * 48 * 16}


def test_partial_sums_move_as_what_they_are():
    op = pylops.Sum(DIMS, axis=0)
    assert plan(op, in_memory()).moved == {"reduction": 3 * 8 * 48 * 16}


def test_nothing_runs():
    x = da.from_array(rand(DIMS), chunks=CUT)
    with forbid_executions():
        plan(OPERATORS["tree"](), x)


def test_chunks_and_bytes():
    planned = plan(pylops.FirstDerivative(DIMS, dtype="float32"), in_memory().astype("float32"))
    assert planned.input_chunks == ((16,) * 4, (48,), (16,))
    assert planned.input_bytes == planned.output_bytes == 64 * 48 * 16 * 4
    assert planned.largest_block == 16 * 48 * 16 * 4


def test_the_history_of_the_input_is_not_counted():
    op = OPERATORS["alone"]()
    x = da.from_array(rand(DIMS), chunks=CUT)
    assert plan(op, (x + 1).rechunk((64, 6, 16)).rechunk(CUT)).tasks == plan(op, x).tasks


def test_advice_says_along_which_axis_to_cut():
    (advice,) = plan(OPERATORS["rechunk"](), in_memory()).advice
    assert advice == "chunk along axis 1 or 2 instead of 0: no data moves"
    assert plan(OPERATORS["rechunk"](), in_memory((64, 12, 16))).advice == ()


def test_advice_for_a_matrix_is_about_its_columns():
    op = pylops.FirstDerivative((40, 30))
    (advice,) = plan(op, da.ones((1200, 6), chunks=(300, 3))).advice
    assert advice == "chunk along axis 1, that of the columns, instead of 0: no data moves"
    planned = plan(op, da.ones((1200, 6), chunks=(1200, 3)))
    assert (planned.moved, planned.advice) == ({}, ())


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_a_sparse_matrix_takes_the_bytes_of_its_elements(kind):
    matrix = scipy.sparse.random(800, 800, density=0.01, format=kind, random_state=0)
    x = da.ones(800, chunks=200).persist(scheduler="synchronous")
    planned = plan(pylops.MatrixMult(matrix), x)
    size = matrix.nnz * 12  # a number and its column
    assert planned.input_bytes + planned.output_bytes + size <= planned.peak_bytes
    assert planned.peak_bytes <= planned.input_bytes + planned.output_bytes + 2 * size
    assert size <= planned.moved["coefficients"] <= 2 * size


@pytest.mark.parametrize("chunks", [(64, 256), (256, 64)])
def test_arrays_in_files_take_no_memory_until_they_are_read(tmp_path, chunks):
    zarr = pytest.importorskip("zarr")
    stored = zarr.create_array(tmp_path / "w", shape=(256, 256), chunks=(64, 256), dtype=float)
    stored[...] = 1
    x = da.ones((256, 256), chunks=(64, 256)).persist(scheduler="synchronous")
    planned = plan(pylops.Diagonal(da.from_zarr(stored, chunks=chunks)), x)
    cut_otherwise = chunks != x.chunksize
    assert 2 * x.nbytes <= planned.peak_bytes <= (3 if cut_otherwise else 2.25) * x.nbytes + 1
    assert planned.moved.keys() == ({"rechunk"} if cut_otherwise else set())
    assert planned.moved_bytes <= 2 * x.nbytes


def test_tasks_that_no_result_needs_are_not_counted():
    op = pylops.Symmetrize((7, 5), axis=0)
    x = da.from_array(rand((7, 5)), chunks=((4, 3), 5)).persist(scheduler="synchronous")
    ran = []

    def note(key, graph, state):
        if not isinstance(graph[key], (Alias, DataNode)):
            ran.append(key)

    with pylops_dispatch.ledger() as log, Callback(pretask=note):
        (op @ x).persist(scheduler="synchronous")
    assert plan(op, x).tasks == log.tasks == len(ran)


def test_advice_for_a_flattened_array():
    (advice,) = plan(pylops.FirstDerivative(DIMS), in_memory().ravel()).advice
    assert "give it an array of shape (64, 48, 16)" in advice


class Unknown(pylops.LinearOperator):
    def _matvec(self, x):
        return np.asarray([float(v) for v in x])

    _rmatvec = _matvec


def test_operators_that_run_whole_are_named():
    op = Unknown(dtype="float64", dims=(12,), dimsd=(12,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        planned = plan(op, da.ones(12, chunks=4))
    assert len(planned.fallbacks) == 1
    assert "Unknown" in planned.fallbacks[0]
    assert "register a rule" in planned.advice[0]


def test_text_html_and_fields():
    planned = plan(OPERATORS["halo"](), in_memory())
    assert isinstance(planned, Plan)
    text = str(planned)
    assert repr(planned) == text
    assert "FirstDerivative" in text
    assert "64 x 48 x 16, 4 chunks, 384.00 kiB" in text
    assert "36.00 kiB halo" in text
    page = planned._repr_html_()
    assert page.startswith("<table>")
    assert page.count("<tr>") == len(planned.rows())
    assert vars(planned)["tasks"] == planned.tasks


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: pylops.signalprocessing.FFT(DIMS, axis=0), "FFT"),
        (lambda: pylops.signalprocessing.FFT2D(DIMS, axes=(0, 1), engine="scipy"), "FFT2D"),
        (lambda: pylops.signalprocessing.Convolve1D(DIMS, rand(3), axis=0), "Convolve1D"),
        (lambda: pylops.FirstDerivative(DIMS), "FirstDerivative"),
        (lambda: 2 * pylops.Identity(DIMS), "Scaled(Identity)"),
        (
            lambda: pylops.signalprocessing.FFT(DIMS) @ (pylops.Identity(DIMS) + pylops.Flip(DIMS)),
            "Product(FFT, Sum)",
        ),
        (lambda: pylops.Block([[pylops.Identity(DIMS)]]), "Block"),
    ],
)
def test_operators_have_the_names_that_pylops_gives_them(make, name):
    op = make()
    assert plan(op, da.zeros(op.dims)).operator == name


def test_the_picture_is_of_the_optimised_graph(monkeypatch):
    asked = {}
    monkeypatch.setattr(da.Array, "visualize", lambda self, **kwargs: asked.update(kwargs))
    plan(OPERATORS["alone"](), in_memory()).visualize(filename="graph.svg")
    assert asked == {"optimize_graph": True, "filename": "graph.svg"}


# ---- suggested chunks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "costs"),
    [
        (lambda: pylops.Diagonal(rand(DIMS)), (0, 0, 0)),
        (lambda: pylops.FirstDerivative(DIMS, axis=1), (0, 1, 0)),
        (lambda: pylops.signalprocessing.FFT(DIMS, axis=2), (0, 0, np.inf)),
        (lambda: pylops.CausalIntegration(DIMS, axis=0), (np.inf, 0, 0)),
        (
            lambda: pylops.VStack(
                [pylops.FirstDerivative(DIMS, axis=0), pylops.SecondDerivative(DIMS, axis=1)]
            ),
            (1, 1, 0),
        ),
        (
            lambda: (
                pylops.FirstDerivative(DIMS, axis=0) @ pylops.signalprocessing.DCT(DIMS, axes=1)
            ),
            (1, np.inf, 0),
        ),
    ],
)
def test_what_cutting_an_axis_costs(make, costs):
    assert costs_of_axes(make()) == costs


def test_summing_over_an_axis_costs_more_than_a_halo():
    first, *others = costs_of_axes(OPERATORS["sum"]())
    assert 100 < first < np.inf
    assert others == [0, 0]


def test_free_axes_are_cut_first():
    chunks = suggest_chunks(pylops.FirstDerivative((512, 512, 512), axis=0))
    assert [len(axis) for axis in chunks] == [1, 32, 1]


def test_an_axis_that_must_be_whole_is_never_cut():
    op = pylops.signalprocessing.FFT((1024, 4), axis=0)
    assert suggest_chunks(op, target_bytes=16) == ((1024,), (1, 1, 1, 1))


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("target", [1 << 14, 1 << 17])
def test_blocks_do_not_exceed_the_target(name, target):
    op = OPERATORS[name]()
    chunks = suggest_chunks(op, dtype="float64", target_bytes=target, blocks=1)
    assert tuple(sum(axis) for axis in chunks) == DIMS
    assert 8 * np.prod([max(axis) for axis in chunks]) <= 1.1 * target


def test_small_arrays_are_not_cut():
    assert suggest_chunks(pylops.Identity((50, 50))) == ((50,), (50,))


def test_every_core_has_blocks():
    chunks = suggest_chunks(pylops.Diagonal(np.ones(1 << 20)), blocks=6)
    assert [len(axis) for axis in chunks] == [6]


def test_chunks_of_the_data():
    op = pylops.MatrixMult(rand((40, 64)), otherdims=(48,))
    chunks = suggest_chunks(op, adjoint=True, target_bytes=1 << 10)
    assert tuple(sum(axis) for axis in chunks) == (40, 48)


@pytest.mark.parametrize(
    "given",
    [
        {"dims": (3, 4)},
        {"dims": (3, 4, 99)},
        {"dims": (3, -4, 5)},
        {"dims": ("a", 4, 5)},
        {"dims": 7},
        {"dims": np.ones((3, 4, 5))},
        {"target_bytes": 0},
        {"target_bytes": None},
        {"blocks": 0},
        {"blocks": 2.5},
    ],
    ids=repr,
)
def test_wrong_arguments(given):
    with pytest.raises((TypeError, ValueError), match=next(iter(given))):
        suggest_chunks(pylops.FirstDerivative(DIMS), **given)


def test_bytes_and_dims_in_other_words():
    op = pylops.FirstDerivative(1 << 20)
    assert suggest_chunks(op, target_bytes="1 MiB") == suggest_chunks(op, target_bytes=1 << 20)
    assert suggest_chunks(op, 1 << 20) == suggest_chunks(op)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda op, x: plan(op), TypeError, r"plan\(Op, x\).*'x'"),
        (lambda op, x: plan(op, x, niter=3), TypeError, r"plan\(Op, x\).*'niter'"),
        (lambda op, x: plan(op, x, "yes"), TypeError, "adjoint must be True"),
        (lambda op, x: plan(pylops.cgls, np.eye(3), x), TypeError, "Op must be a pylops.Linear"),
        (lambda op, x: plan(op, x, threads=0), ValueError, "threads must be at least 1"),
        (lambda op, x: plan(op, x, threads="two"), TypeError, "threads must be an integer"),
        (
            lambda op, x: plan(CGLS(op), x),
            TypeError,
            r"CGLS: give what runs it, plan\(solver.solve",
        ),
        (lambda op, x: plan(CGLS, op, x), TypeError, "class CGLS: give what runs it"),
        (lambda op, x: plan(pylops.cgls, op, np.ones(op.shape[0])), ValueError, "dask data"),
    ],
)
def test_what_cannot_be_planned_says_what_can(call, error, said):
    with pytest.raises(error, match=said):
        call(OPERATORS["tree"](), in_memory())


def test_suggested_chunks_move_nothing_where_an_axis_is_free():
    op = OPERATORS["rechunk"]()
    x = da.zeros(DIMS, chunks=suggest_chunks(op, target_bytes=1 << 15))
    assert plan(op, x).moved == {}


SIZES = (64, 48, 32)
COMPOSED = {
    "stack": lambda: pylops.VStack(
        [
            pylops.Identity(SIZES),
            pylops.FirstDerivative(SIZES, axis=0),
            pylops.SecondDerivative(SIZES, axis=1),
        ]
    ),
    "blocks": lambda: pylops.BlockDiag(
        [pylops.Identity(SIZES), pylops.FirstDerivative(SIZES, axis=0)]
    ),
    "turn": lambda: pylops.Roll(SIZES, axis=0, shift=5),
    "mirror": lambda: pylops.Symmetrize(SIZES, axis=0),
    "some rows": lambda: pylops.Restriction(SIZES, np.arange(0, 64, 3), axis=0),
    "between rows": lambda: pylops.signalprocessing.Interp(
        SIZES, np.linspace(0.5, 62.5, 30), axis=0, kind="linear"
    )[0],
    "transform of padded": lambda: (
        pylops.signalprocessing.FFT((74, 48, 32), axis=0, engine="scipy")
        @ pylops.Pad(SIZES, ((5, 5), (0, 0), (0, 0)))
    ),
    "transform of turned": lambda: (
        pylops.signalprocessing.DCT((32, 64, 48), axes=0) @ pylops.Transpose(SIZES, (2, 0, 1))
    ),
    "gradient": lambda: pylops.Gradient(SIZES),
    "matrix": lambda: pylops.MatrixMult(rand((40, 64)), otherdims=SIZES[1:]),
    "magnetic resonance": lambda: pylops.medical.MRI2D(
        (64, 64), mask="vertical-reg", nlines=16, perc_center=0.0
    ),
}


def moves(op, chunks, adjoint):
    x = da.zeros(tuple(map(sum, chunks)), chunks=chunks, dtype=op.dtype)
    moved = plan(op, x, adjoint).moved
    return sum(n for kind, n in moved.items() if kind != "coefficients")


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("name", [*OPERATORS, *COMPOSED])
def test_no_other_axis_moves_less_for_as_many_blocks(name, adjoint):
    op = {**OPERATORS, **COMPOSED}[name]()
    dims = op.dimsd if adjoint else op.dims
    itemsize = np.dtype(op.dtype).itemsize
    chunks = suggest_chunks(
        op, adjoint=adjoint, target_bytes=int(np.prod(dims)) * itemsize // 4, blocks=1
    )
    count = np.prod([len(axis) for axis in chunks])
    assert count == 4 or np.isinf(costs_of_axes(op, adjoint)).all()
    others = [
        tuple(balanced(n, count if a == axis else 1) for a, n in enumerate(dims))
        for axis, length in enumerate(dims)
        if length >= count
    ]
    moved = moves(op, chunks, adjoint)
    assert moved <= min(moves(op, other, adjoint) for other in others)


def test_an_operator_that_cannot_be_applied_has_chunks_nevertheless():
    op = pylops.FunctionOperator(lambda x: x, 1000)
    assert [len(axis) for axis in suggest_chunks(op, adjoint=True, target_bytes=2000)] == [4]


@pytest.mark.parametrize("name", ["turn", "transform of turned", "some rows"])
def test_advice_is_given_wherever_an_operator_works_along_an_axis(name):
    op = COMPOSED[name]()
    x = da.zeros(SIZES, chunks=(64, 48, 8) if "transform" in name else (16, 48, 32))
    for advice in plan(op, x).advice:
        assert advice.startswith("chunk along axis ")
        assert advice.endswith(f"instead of {2 if 'transform' in name else 0}: no data moves")
    assert bool(plan(op, x).advice) == bool(moves(op, x.chunks, False))


# ---- plans of solvers ----------------------------------------------------------------------

SOLVERS = {
    "cgls": lambda op, y: (pylops.cgls, (op, y), {"niter": 9, "tol": 0.0}),
    "lsqr": lambda op, y: (pylops.lsqr, (op, y), {"niter": 9, "atol": 0, "btol": 0, "conlim": 0}),
    "fista": lambda op, y: (
        pylops.fista, (op, y.ravel()), {"niter": 9, "alpha": 0.01, "eps": 1e-3, "tol": 0.0},
    ),
    "irls": lambda op, y: (
        pylops.optimization.sparsity.irls,  # which takes flat operators only
        (pylops.Identity(y.size) + 0.3 * pylops.FirstDerivative(y.size), y.ravel()),
        {"nouter": 9, "tolIRLS": 0.0, "tol": 0.0, "niter": 1, "engine": "pylops"},
    ),
    "splitbregman": lambda op, y: (
        pylops.optimization.sparsity.splitbregman, (op, y.ravel(), [pylops.FirstDerivative(DIMS)]),
        {
            "niter_outer": 9, "niter_inner": 1, "mu": 1.0, "epsRL1s": [0.1], "tol": 1e-10,
            "engine": "pylops", "niter": 1,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("count", [3, 9])
@pytest.mark.parametrize("name", SOLVERS)
def test_tasks_and_executions_of_a_solver_are_exact(name, count):
    op = pylops.Identity(DIMS) + 0.3 * pylops.FirstDerivative(DIMS, axis=0)
    solver, args, kwargs = SOLVERS[name](op, in_memory())
    kwargs = {key: count if value == 9 else value for key, value in kwargs.items()}
    with forbid_executions():
        planned = plan(solver, *args, **kwargs)
    marks = []
    args = tuple(a.persist() if isinstance(a, da.Array) else a for a in args)
    with count_executions() as seen:
        solver(*args, **kwargs, callback=lambda x: marks.append(seen.count))
    assert planned.count == count
    later = [step.executions for step in planned.steps[1:]]
    assert later == np.diff(marks)[: len(later)].tolist()
    assert planned.tasks == len(seen.tasks)
    stages = planned.setup, *planned.steps, *[planned.step] * (count - len(planned.steps))
    assert sum(stage.executions for stage in stages) + planned.end.executions == seen.count


def test_what_a_step_moves_is_told():
    op = pylops.FirstDerivative(DIMS, axis=0)
    planned = plan(pylops.cgls, op, in_memory(), niter=5)
    assert planned.solver == "CGLS"
    assert planned.step.moved["halo"] >= 6 * 8 * 48 * 16  # one sample from either neighbour
    assert "coefficients" not in planned.step.moved
    assert plan(pylops.cgls, OPERATORS["no halo"](), in_memory(), niter=5).step.moved.keys() <= {
        "blocks"
    }


def test_a_plan_of_a_solver_can_be_read():
    planned = plan(pylops.cgls, OPERATORS["tree"](), in_memory(), niter=50)
    text = str(planned)
    assert repr(planned) == text
    assert "each step     1 execution, " in text
    assert "CGLS" in text
    assert "at most 50" in text
    assert f"{planned.tasks}" in text
    assert "<table>" in planned._repr_html_()


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("solve", [pylops.cgls, pylops.lsqr, pylops.ista, pylops.fista])
def test_the_peak_of_a_solver_is_the_memory_that_it_takes(solve, stacked):
    dims = (64, 96, 64)
    slope = 0.3 * pylops.FirstDerivative(dims, axis=0)
    op = (pylops.VStack if stacked else sum_of)([pylops.Identity(dims), slope])
    y = da.ones(op.shape[0], chunks=op.shape[0] // 16).map_blocks(np.copy)
    with dask.config.set(scheduler="synchronous"):
        y = y.reshape(op.dimsd).persist()
        kwargs = {"niter": 5, **FUNCTIONS[solve]}
        planned = plan(solve, op, y.ravel(), threads=1, **kwargs)
        gc.collect()
        tracemalloc.start()
        solve(op, y.ravel(), **kwargs)
        peak = tracemalloc.get_traced_memory()[1] + y.nbytes
        tracemalloc.stop()
    assert planned.peak_bytes == pytest.approx(peak, rel=0.25)


def sum_of(ops):
    return ops[0] + ops[1]


def test_what_takes_no_step_cannot_be_planned():
    with pytest.raises(ValueError, match="nothing can be planned"):
        plan(lambda y: y, in_memory())
    with pytest.raises(ValueError, match="cgls took no step"):
        plan(pylops.cgls, OPERATORS["tree"](), in_memory(), niter=0)


def test_what_depends_on_positions_cannot_be_planned():
    op = pylops.MatrixMult(rand((20, 12)))
    with pytest.raises(ValueError, match="positions"):
        plan(pylops.omp, op, da.ones(20, chunks=5), niter_outer=4)


def decaying(dtype="float64"):
    slope = 0.2 * pylops.FirstDerivative(60, dtype=dtype)
    return pylops.Diagonal(np.linspace(1.0, 3.0, 60).astype(dtype), dtype=dtype) + slope


def to_start(dtype="float64"):
    return da.from_array(rand(60, dtype), chunks=15)


FUNCTIONS = {
    pylops.cg: {"tol": 0.0},
    pylops.cgls: {"tol": 0.0, "damp": 0.1},
    pylops.lsqr: {"atol": 0, "btol": 0, "conlim": 0},
    pylops.ista: {"alpha": 0.1, "eps": 0.01, "tol": 0.0},
    pylops.fista: {"alpha": 0.1, "eps": 0.01, "tol": 0.0},
}


@pytest.mark.parametrize("dtype", ["float32", "complex64", "complex128"])
@pytest.mark.parametrize("solve", FUNCTIONS)
def test_solvers_of_every_dtype_are_planned(solve, dtype):
    op = decaying(dtype)
    op = op.H @ op if solve is pylops.cg else op
    y = to_start(dtype).persist(scheduler="synchronous")
    planned = plan(solve, op, y, niter=7, **FUNCTIONS[solve])
    with count_executions() as seen:
        solve(op, y, niter=7, **FUNCTIONS[solve])
    assert planned.tasks == len(seen.tasks)


CLASSES = {
    CGLS: {"tol": 0.0},
    LSQR: {"atol": 0, "btol": 0, "conlim": 0},
    FISTA: {"alpha": 0.1, "eps": 0.01, "tol": 0.0},
}


@pytest.mark.parametrize("cls", CLASSES)
def test_a_solver_is_after_its_plan_as_before(cls):
    op, y = decaying(), to_start()
    solver = cls(op)
    before = dict(vars(solver))
    plan(solver.solve, y, niter=6, **CLASSES[cls])
    assert vars(solver) == before
    result = solver.solve(y, niter=6, **CLASSES[cls])[0]
    assert_close(result.compute(), cls(op).solve(y, niter=6, **CLASSES[cls])[0].compute())


@pytest.mark.parametrize("way", ["its run", "a partial", "a function"])
@pytest.mark.parametrize("cls", CLASSES)
def test_a_solver_that_is_under_way_goes_on_as_without_a_plan(cls, way):
    op, y = decaying(), to_start()
    expected = cls(op).solve(y, niter=6, **CLASSES[cls])[0].compute()
    solver = cls(op)
    x = solver.setup(y, niter=6, **CLASSES[cls])
    costs = solver.cost
    call = {
        "its run": (solver.run, x),
        "a partial": (functools.partial(solver.run, x),),
        "a function": (lambda: solver.run(x),),
    }[way]
    length = len(costs)
    with forbid_executions():
        planned = plan(*call)
    assert planned.count == 6
    assert planned.step.tasks > 0
    assert solver.cost is costs
    assert len(costs) == length
    result = solver.run(x)
    assert_close((result[0] if isinstance(result, tuple) else result).compute(), expected)


def test_tasks_are_exact_for_a_solver_object_too():
    op, y = decaying(), to_start().persist(scheduler="synchronous")
    planned = plan(CGLS(op).solve, y, niter=6, tol=0.0)
    with count_executions() as seen:
        CGLS(op).solve(y, niter=6, tol=0.0)
    assert planned.tasks == len(seen.tasks)


class Told(Callbacks):
    """Notes each of the events of a solver."""

    def __init__(self):
        self.events = []

    def __getattribute__(self, name):
        if name.startswith("on_"):
            self.events.append(name)
        return super().__getattribute__(name)


def test_a_plan_tells_no_callback():
    told, seen = Told(), []
    op, y = decaying(), to_start()
    plan(pylops.cgls, op, y, niter=6, callback=seen.append)
    plan(pylops.cgls, op, y, None, 6, 0.0, 1e-4, 0.0, 0.0, False, (10, 10, 10), seen.append)
    solver = CGLS(op, callbacks=[told])
    solver.callback = seen.append
    plan(solver.solve, y, niter=6)
    plan(lambda: solver.run(solver.setup(y, niter=6)))
    assert told.events == seen == []
    assert (solver.callbacks, solver.callback) == ([told], seen.append)


def test_the_callbacks_of_pylops_are_planned_and_note_nothing():
    op, y = decaying(), to_start()
    metrics, stopping = MetricsCallback(rand(60)), CostToInitialCallback(1e-3)
    planned = plan(CGLS(op, callbacks=[metrics, stopping]).solve, y, niter=6, tol=0.0)
    assert metrics.metrics == {"mae": [], "mse": [], "snr": [], "psnr": []}
    assert not stopping.stop
    assert planned.step.tasks > plan(CGLS(op).solve, y, niter=6, tol=0.0).step.tasks


def test_a_plan_writes_no_checkpoint(tmp_path):
    pytest.importorskip("zarr")
    op, y = decaying(), to_start()
    solver = CGLS(op, callbacks=[pylops_dispatch.checkpoint(tmp_path / "run", every=1)])
    plan(solver.solve, y, niter=6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SOLVERS)
def test_a_plan_prints_nothing(name, capsys):
    solver, args, kwargs = SOLVERS[name](pylops.Identity(DIMS), in_memory())
    plan(solver, *args, show=True, **kwargs)
    assert capsys.readouterr() == ("", "")


def inverted(op, y):
    return op / y


# PyLops calls SciPy's lsqr here, in whose place its own comes
IN_PLACE_OF_SCIPY = {
    "regularised": (regularized_inversion, [[pylops.FirstDerivative(60)]], {"epsRs": [0.1]}),
    "preconditioned": (preconditioned_inversion, [pylops.Smoothing1D(3, 60)], {}),
}


@pytest.mark.parametrize("name", IN_PLACE_OF_SCIPY)
def test_what_runs_in_the_place_of_scipy_is_planned(name):
    solve, args, kwargs = IN_PLACE_OF_SCIPY[name]
    op, y = decaying(), to_start().persist(scheduler="synchronous")
    with forbid_executions():
        planned = plan(solve, op, y, *args, iter_lim=7, **kwargs)
    with count_executions() as seen:
        solve(op, y, *args, iter_lim=7, **kwargs)
    assert (planned.solver, planned.count) == ("LSQR", 7)
    assert planned.tasks == len(seen.tasks)


def test_an_inverse_is_planned():
    op, y = decaying(), to_start().persist(scheduler="synchronous")
    with forbid_executions():
        planned = plan(inverted, op, y)
    with count_executions() as seen:
        op / y
    assert (planned.solver, planned.count) == ("LSQR", 100)
    assert planned.step.tasks > 0
    assert planned.tasks >= len(seen.tasks)


def test_plans_in_several_threads_leave_dask_as_it_was():
    op, x = pylops.FirstDerivative(8), da.ones(8, chunks=4)
    before = da.Array.__new__
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda _: plan(op, x).tasks, range(20)))
    assert set(counts) == {plan(op, x).tasks}
    assert da.Array.__new__ is before


@pytest.mark.parametrize("reads", [arrays_of, lazy_attributes], ids=["arrays", "attributes"])
def test_an_operator_may_be_given_an_attribute_while_it_is_read(reads):
    """A plan in another thread may be what gives it: ``LinearOperator.shape`` is kept there."""
    op = pylops.Diagonal(da.ones(8, chunks=4))
    read = reads(op)
    first = next(read)
    op.noted = op.shape
    assert list(read) == []
    assert list(reads(op)) == [first]
