"""Executions in a solve on dask's threads give what dask's scheduler gives, and leave as little."""

import contextvars
import gc
import threading
import time
import weakref
from concurrent.futures import Executor, ThreadPoolExecutor

import dask
import dask.array as da
import dask.threaded
import numpy as np
import pylops
import pytest
from dask._task_spec import Alias, DataNode, List, Task, TaskRef
from dask.callbacks import Callback
from hypothesis import given
from hypothesis import strategies as st

from pylops_dispatch import threads
from pylops_dispatch.threads import in_order, pool_of, run

from .helpers import rand


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(3) as made:
        yield made


def task(key, function, *reads):
    return Task(key, function, *map(TaskRef, reads))


def executed(nodes, wanted, pool):
    data = {key: node.value for key, node in nodes.items() if isinstance(node, DataNode)}
    return run(in_order(nodes, wanted), data, pool)


@st.composite
def graphs(draw):
    """Tasks that add up some of what came before them, and keys that are asked for."""
    nodes = {("data", i): DataNode(("data", i), i + 1) for i in range(draw(st.integers(1, 3)))}
    for i in range(draw(st.integers(1, 12))):
        reads = draw(st.lists(st.sampled_from(list(nodes)), min_size=1, max_size=3, unique=True))
        key = f"task-{i}"
        nodes[key] = draw(
            st.sampled_from(
                [
                    task(key, lambda *values: sum(values), *reads),
                    Task(key, sum, List(*map(TaskRef, reads))),
                    Alias(key, reads[0]),
                ]
            )
        )
    return nodes, draw(st.lists(st.sampled_from(list(nodes)), min_size=1, max_size=5))


@given(graphs())
def test_the_results_are_those_of_dasks_scheduler(pool, made):
    nodes, wanted = made
    assert executed(nodes, wanted, pool) == list(dask.get(dict(nodes), wanted))


def test_each_task_runs_once_and_after_those_that_it_reads(pool):
    ran = []
    nodes = {
        ("x", i, j): task(
            ("x", i, j),
            lambda *values, i=i, j=j: ran.append((i, j)),
            *((("x", i - 1, k) for k in range(4)) if i else ()),
        )
        for i in range(5)
        for j in range(4)
    }
    executed(nodes, [("x", 4, 0), ("x", 4, 3)], pool)
    assert sorted(ran) == [(i, j) for i in range(5) for j in range(4)]
    assert [i for i, _ in ran] == sorted(i for i, _ in ran)


def test_results_are_there_whenever_the_wait_for_them_is_looked_at(monkeypatch):
    """It wakes up now and then, and may do so while the last task is being noted."""
    monkeypatch.setattr(threads, "_PATIENCE", 1e-4)

    class Slow(dict):
        def __setitem__(self, key, value):
            time.sleep(0.05)
            super().__setitem__(key, value)

    nodes = {"x": DataNode("x", 1), "y": task("y", lambda x: x + 1, "x")}
    with ThreadPoolExecutor(1) as one:
        assert run(in_order(nodes, ["y"]), Slow(x=1), one) == [2]


def test_nothing_to_run_is_no_work(pool):
    assert executed({"x": DataNode("x", 5)}, ["x", "x"], pool) == [5, 5]


@given(graphs())
def test_a_single_thread_runs_tasks_in_the_order_that_dask_does(made):
    ran = []

    def noted(key, *reads):
        return task(key, lambda *values: ran.append(key), *reads)

    nodes = {
        key: node if isinstance(node, DataNode) else noted(key, *sorted(node.dependencies, key=str))
        for key, node in made[0].items()
    }
    executed(nodes, list(nodes), ONE)
    own, ran[:] = ran[:], []
    dask.get(dict(nodes), list(nodes))
    assert own == ran


ONE = ThreadPoolExecutor(1)


def test_few_results_are_held_at_once():
    """One branch after the other, and a block is read as soon as it is there."""
    held, most = [], []

    def make():
        block = Block()
        held.append(weakref.ref(block))
        most.append(sum(ref() is not None for ref in held))
        return block

    nodes = {}
    for i in range(8):
        nodes["make", i] = task(("make", i), make)
        nodes["use", i] = task(("use", i), lambda block: 1, ("make", i))
    nodes["sum"] = task("sum", lambda *values: sum(values), *(("use", i) for i in range(8)))
    with ThreadPoolExecutor(1) as one:
        assert executed(nodes, ["sum"], one) == [8]
    assert max(most) == 1


def test_a_thread_keeps_nothing_of_its_last_task():
    """It goes on to another, and what it made is read by another thread meanwhile."""
    held, other_is_on = [], threading.Event()

    def make():
        block = Block()
        held.append(weakref.ref(block))
        return block

    def wait():
        other_is_on.wait(10)

    def go_on():
        other_is_on.set()
        until = time.monotonic() + 10
        while not held or held[0]() is not None:
            if time.monotonic() > until:
                return False
            time.sleep(0.001)
        return True

    nodes = {
        "made": task("made", make),
        "waited": task("waited", wait),
        "other": task("other", go_on),
        "read": task("read", lambda block, none: None, "made", "waited"),
    }
    with ThreadPoolExecutor(2) as two:
        assert executed(nodes, ["read", "other"], two) == [None, True]


class Block:
    """What can be referred to weakly."""


def test_all_threads_work_and_no_more_than_there_are():
    together = threading.Barrier(3, timeout=20)
    known = set()

    def meet():
        known.add(threading.get_ident())
        together.wait()

    nodes = {i: task(i, meet) for i in range(6)}
    with ThreadPoolExecutor(3) as three:
        executed(nodes, list(nodes), three)
    assert len(known) == 3


def test_a_thread_that_has_nothing_to_do_is_called_when_there_is_something():
    """One task, then three at once: those that found nothing to do take two of them."""
    together = threading.Barrier(3, timeout=20)
    nodes = {
        "a": task("a", lambda: time.sleep(0.05)),
        **{i: task(i, lambda: time.sleep(0.01)) for i in range(2)},
        **{f"b{i}": task(f"b{i}", lambda _: together.wait(), "a") for i in range(3)},
    }
    with ThreadPoolExecutor(3) as three:
        executed(nodes, list(nodes), three)


def test_a_thread_that_has_nothing_to_do_is_free_for_others():
    """Two executions on the same threads, one of which waits for something that the other does."""
    go_on = threading.Event()
    waits = {"a": task("a", go_on.wait), "b": task("b", int), "c": task("c", int, "a")}
    with ThreadPoolExecutor(2) as two:
        first = threading.Thread(target=lambda: executed(waits, ["b", "c"], two))
        first.start()
        executed({"go on": task("go on", go_on.set)}, ["go on"], two)
        first.join(20)
        assert not first.is_alive()


def fail():
    raise ZeroDivisionError("no block of mine")


def test_an_error_of_a_task_is_raised_and_nothing_begins_after_it():
    ran = []
    nodes = {"a": task("a", fail)}
    for i in range(5):
        nodes["b", i] = task(("b", i), lambda a, i=i: ran.append(i), "a")
    nodes["c"] = task("c", lambda *_: ran.append("c"), *(("b", i) for i in range(5)))
    with ThreadPoolExecutor(2) as two:
        with pytest.raises(ZeroDivisionError, match="no block of mine") as caught:
            executed(nodes, ["c"], two)
        assert two.submit(int, "5").result(20) == 5
    assert caught.traceback[-1].name == "fail"
    assert not ran


def test_tasks_that_run_beside_one_that_fails_end_by_themselves():
    begun, go_on = threading.Event(), threading.Event()
    ran = []

    def long():
        begun.set()
        assert go_on.wait(20)
        ran.append("long")

    def fail_beside():
        assert begun.wait(20)
        fail()

    nodes = {
        "long": task("long", long),
        "fail": task("fail", fail_beside),
        "after": task("after", ran.append, "long"),
    }
    with ThreadPoolExecutor(2) as two:
        with pytest.raises(ZeroDivisionError):
            executed(nodes, ["after", "fail"], two)
        assert not ran
        go_on.set()
    assert ran == ["long"]


def test_an_error_keeps_no_blocks_once_it_was_handled(pool):
    block = Block()
    known = weakref.ref(block)
    nodes = {"x": DataNode("x", block), "y": task("y", lambda _: fail(), "x")}
    del block
    gc.disable()
    try:
        with pytest.raises(ZeroDivisionError) as caught:
            executed(nodes, ["y"], pool)
        del caught, nodes
        deadline = time.monotonic() + 20
        while known() is not None and time.monotonic() < deadline:
            time.sleep(0.001)  # the other thread lets go of its own a moment later
        assert known() is None
    finally:
        gc.enable()


def test_what_interrupts_the_wait_ends_the_execution(monkeypatch):
    ran, begun, go_on = [], threading.Event(), threading.Event()

    class Interrupted(threading.Event):
        def wait(self, timeout=None):
            assert begun.wait(20)
            raise KeyboardInterrupt

    def long():
        begun.set()
        assert go_on.wait(20)

    nodes = {"a": task("a", long), "b": task("b", ran.append, "a")}
    with ThreadPoolExecutor(1) as one:
        one.submit(int).result(20)  # its thread waits for an event as it starts
        with monkeypatch.context() as patch:
            patch.setattr(threads.threading, "Event", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                executed(nodes, ["b"], one)
        go_on.set()
    assert not ran


variable = contextvars.ContextVar("variable", default="nothing")


def test_tasks_see_the_variables_of_who_waits_and_keep_theirs_to_themselves(pool):
    def seen(*_):
        before = variable.get()
        variable.set("of a task")
        return before

    nodes = {"a": task("a", seen)}
    for i in range(5):
        nodes[i] = task(i, seen, "a")
    token = variable.set("of who waits")
    try:
        assert executed(nodes, list(nodes), pool) == ["of who waits"] * 6
        assert variable.get() == "of who waits"
    finally:
        variable.reset(token)


# ---- whose threads -----------------------------------------------------------------------


def test_the_threads_are_those_that_dask_would_take():
    known = []
    with dask.config.set(num_workers=2):
        dask.delayed(lambda: known.append(threading.current_thread()))().compute(
            scheduler="threads"
        )
        taken = pool_of(dask.threaded.get)
        assert taken._max_workers == 2
        assert known[0] in taken._threads
    with ThreadPoolExecutor(3) as own, dask.config.set(pool=own):
        assert pool_of(dask.threaded.get) is own


def test_a_thread_that_dask_was_not_called_from_has_threads_too():
    found = []
    thread = threading.Thread(target=lambda: found.append(pool_of(dask.threaded.get)))
    thread.start()
    thread.join()
    assert isinstance(found[0], ThreadPoolExecutor)


class Inline(Executor):
    """Threads of another kind."""

    _max_workers = 1


@pytest.mark.parametrize(
    "setting",
    [
        {"rerun_exceptions_locally": True},
        {"pool": Inline()},
    ],
)
def test_settings_that_only_dask_follows_are_left_to_it(setting):
    with dask.config.set(setting):
        assert pool_of(dask.threaded.get) is None


def test_other_schedulers_and_those_who_watch_are_left_to_dask():
    assert pool_of(dask.get) is None
    with Callback():
        assert pool_of(dask.threaded.get) is None
    assert pool_of(dask.threaded.get) is not None


# ---- solves ------------------------------------------------------------------------------


def solve(chunks=7):
    op = pylops.VStack([pylops.Identity(30), 0.5 * pylops.Laplacian((6, 5))])
    return pylops.cgls(op, da.from_array(rand(60), chunks=chunks), niter=6, tol=0)[0]


def test_a_solve_on_threads_hands_no_task_to_dask(monkeypatch):
    asked = []
    original = dask.threaded.get_async
    monkeypatch.setattr(
        dask.threaded,
        "get_async",
        lambda submit, number, graph, *args, **kwargs: (
            asked.append(len(graph)),
            original(submit, number, graph, *args, **kwargs),
        )[1],
    )
    solve()
    assert sum(asked) == 0


def test_a_solve_gives_the_same_to_the_bit_where_dask_runs_it():
    own = solve().compute()
    with Callback():
        np.testing.assert_array_equal(solve().compute(), own)
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(solve().compute(), own)


def test_solves_in_several_threads_at_once():
    expected = solve().compute()
    found = []
    at_once = [threading.Thread(target=lambda: found.append(solve().compute())) for _ in range(4)]
    for thread in at_once:
        thread.start()
    for thread in at_once:
        thread.join(60)
    assert len(found) == 4
    for x in found:
        np.testing.assert_array_equal(x, expected)


class Computes(pylops.LinearOperator):
    """An operator of the user's whose code computes with dask."""

    def __init__(self, n):
        super().__init__(dtype="float64", shape=(n, n))

    def _matvec(self, x):
        return 2 * da.from_array(np.asarray(x), chunks=3).compute(scheduler="threads")

    _rmatvec = _matvec


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
def test_tasks_may_compute_with_dask_themselves():
    y = da.from_array(rand(12), chunks=5)
    with dask.config.set(num_workers=1):
        x, *_ = pylops.cgls(Computes(12), y, niter=2, tol=0)
        np.testing.assert_allclose(x.compute(), rand(12) / 2)


def test_what_a_step_has_read_is_gone_when_the_next_one_begins(monkeypatch):
    """No run is left to keep vectors."""
    runs = []
    original = threads._Run.results

    def results(self):
        runs.append(weakref.ref(self))
        return original(self)

    monkeypatch.setattr(threads._Run, "results", results)
    solve()
    gc.collect()
    assert len(runs) >= 6
    assert not any(run() for run in runs)
