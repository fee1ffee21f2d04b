"""The ledger: every execution, who asked for it, and what it cost."""

import threading

import dask
import dask.array as da
import distributed
import numpy as np
import pylops
import pytest
from pylops.optimization.cls_basic import CGLS

import pylops_dispatch
from pylops_dispatch.ledger import Execution, Ledger

from .helpers import count_executions, rand, to_dask

DIMS = (9, 7)
CHUNKS = ((4, 3, 2), (5, 2))
SCHEDULERS = ["synchronous", "threads"]


def problem():
    op = pylops.VStack(
        [pylops.Diagonal(1 + np.abs(rand(DIMS))), 0.5 * pylops.FirstDerivative(DIMS, axis=0)]
    )
    return op, op @ to_dask(rand(DIMS, seed=1), CHUNKS)


def test_nothing_executed_nothing_recorded():
    with pylops_dispatch.ledger() as log:
        pylops.FirstDerivative(DIMS) @ to_dask(rand(DIMS), CHUNKS)
    assert log.executions == []
    assert (log.tasks, log.brought, log.kept, log.seconds) == (0, 0, 0, 0)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x.compute(),
        lambda x: dask.compute(x),
        lambda x: da.compute(x),
        lambda x: np.asarray(x),
    ],
)
def test_a_line_of_the_users_is_named(scheduler, compute):
    x = to_dask(rand(DIMS), CHUNKS) + 1
    with dask.config.set(scheduler=scheduler), pylops_dispatch.ledger() as log:
        compute(x)
    (execution,) = log
    assert execution.asked.startswith("<lambda> (tests/test_ledger.py:")
    assert execution.kind == "compute"
    assert execution.tasks >= 6
    assert execution.brought == x.nbytes
    assert execution.kept == 0
    assert execution.seconds > 0


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_is_persisted_is_kept_and_not_brought(scheduler):
    x = to_dask(rand(DIMS), CHUNKS) + 1
    with dask.config.set(scheduler=scheduler), pylops_dispatch.ledger() as log:
        x.persist()
        dask.persist(x, 2 * x)
    assert [e.kind for e in log] == ["persist", "persist"]
    assert [e.kept for e in log] == [x.nbytes, 2 * x.nbytes]
    assert log.brought == 0


def test_results_that_are_not_arrays_have_a_size():
    with pylops_dispatch.ledger() as log:
        dask.delayed(lambda: "text")().compute()
    assert log.tasks == 1
    assert log.brought > 0


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_steps_of_a_solver_are_numbered(scheduler):
    op, y = problem()
    with dask.config.set(scheduler=scheduler), pylops_dispatch.ledger() as log:
        pylops.cgls(op, y, niter=4, tol=0)
    asked = [e.asked.partition(" (")[0] for e in log]
    assert asked[0] == "CGLS.setup"
    assert sorted(set(asked[1:])) == [f"CGLS.step {i}" for i in (1, 2, 3, 4)]
    assert all("(pylops/optimization/cls_basic.py:" in e.asked for e in log)
    assert all(e.kind == "persist" for e in log)
    assert log.brought == 0


def test_steps_that_a_user_takes_are_numbered():
    op, y = problem()
    solver = CGLS(op)
    x = solver.setup(y)
    for number in (1, 2, 3):
        with pylops_dispatch.ledger() as log:
            x = solver.step(x)
        assert {e.asked.partition(" (")[0] for e in log} == {f"CGLS.step {number}"}


def test_a_callback_is_a_line_of_the_users():
    op, y = problem()
    with pylops_dispatch.ledger() as log:
        pylops.cgls(op, y, niter=2, tol=0, callback=lambda x: x.sum().compute())
    mine = [e for e in log if "test_ledger.py" in e.asked]
    assert len(mine) == 2
    assert all(e.kind == "compute" and e.brought == 8 for e in mine)


def test_an_operator_of_the_users_is_named_with_the_step():
    class Peeking(pylops.LinearOperator):
        def _matvec(self, x):
            if x.sum() == 0:
                raise AssertionError
            return 2 * x

        _rmatvec = _matvec

    op = Peeking(dtype="float64", shape=(12, 12))
    with pylops_dispatch.ledger() as log:
        pylops.cg(op, da.ones(12, chunks=4), niter=1, tol=0)
    named = [e.asked for e in log if e.asked.startswith("Peeking._matvec (tests/test_ledger.py")]
    assert named
    assert named[-1].endswith(" in CG.step 1")


def test_counts_what_the_schedulers_are_given():
    op, y = problem()
    with count_executions() as seen, pylops_dispatch.ledger() as log:
        pylops.lsqr(op, y, niter=3)
        y.compute()
    assert [e.tasks for e in log] == [len(run.tasks) for run in seen.runs]


def test_results_are_the_same():
    op, y = problem()
    with dask.config.set(scheduler="synchronous"):
        expected = pylops.cgls(op, y, niter=4)[0].compute()
        with pylops_dispatch.ledger():
            result = pylops.cgls(op, y, niter=4)[0].compute()
    np.testing.assert_array_equal(result, expected)


def test_nested_ledgers_each_record():
    x = da.ones(4, chunks=2)
    with pylops_dispatch.ledger() as outer:
        x.compute()
        with pylops_dispatch.ledger() as inner:
            x.sum().compute()
        x.persist()
    assert len(outer) == 3
    assert inner.executions == outer.executions[1:2]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_a_task_executes_belongs_to_its_execution(scheduler):
    inner = dask.delayed(lambda: da.ones(4, chunks=2).sum().compute(scheduler="synchronous"))
    with dask.config.set(scheduler=scheduler), pylops_dispatch.ledger() as log:
        assert inner().compute() == 4
    assert len(log) == 1


def test_a_failed_execution_is_recorded_too():
    def fail():
        raise ZeroDivisionError

    with pylops_dispatch.ledger() as log:
        with pytest.raises(ZeroDivisionError):
            dask.delayed(fail)().compute()
        da.ones(4).compute()
    assert [e.failed for e in log] == [True, False]
    assert "compute (failed)" in str(log)


def test_other_threads_have_ledgers_of_their_own():
    logs = {}
    barrier = threading.Barrier(2)

    def work(n):
        with pylops_dispatch.ledger() as log:
            barrier.wait()
            for _ in range(5):
                da.ones(n, chunks=1).compute(scheduler="synchronous")
            barrier.wait()
        logs[n] = log

    with pylops_dispatch.ledger() as mine:
        threads = [threading.Thread(target=work, args=(n,)) for n in (2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(mine) == 0
    assert {n: log.brought for n, log in logs.items()} == {2: 5 * 16, 3: 5 * 24}


def test_dask_is_as_it_was_outside():
    def parts():
        client = distributed.Client
        return dask.base.get_scheduler, client.get, client.compute, client.persist

    before = parts()
    with pylops_dispatch.ledger(), pylops_dispatch.ledger():
        assert parts() != before
    with pytest.raises(ZeroDivisionError), pylops_dispatch.ledger():
        _ = 1 / 0
    assert parts() == before


def test_schedulers_are_compared_as_ever():
    with pylops_dispatch.ledger():
        assert dask.base.get_scheduler(scheduler="processes") is dask.multiprocessing.get


def test_as_text_and_as_html():
    log = Ledger(
        [
            Execution("CGLS.step 1 (a.py:1)", "persist", 12, 0, 4096, 0.25),
            Execution("<module> (b.py:2)", "compute", 3, 16, 0, 0.5),
        ]
    )
    assert repr(log) == str(log)
    head, first, second, total = str(log).splitlines()
    assert head.split() == ["asked", "by", "kind", "tasks", "brought", "kept", "seconds"]
    assert first.split()[:5] == ["CGLS.step", "1", "(a.py:1)", "persist", "12"]
    assert second.split() == ["<module>", "(b.py:2)", "compute", "3", "16", "B", "0", "B", "0.500"]
    assert total.split() == ["2", "executions", "15", "16", "B", "4.00", "kiB", "0.750"]
    page = log._repr_html_()
    assert page.count("<tr>") == 4
    assert "&lt;module&gt; (b.py:2)" in page
    assert log.executions[0].asked in page


def test_a_long_ledger_shows_its_ends():
    log = Ledger([Execution(f"step {i}", "persist", 1, 0, 8, 0.0) for i in range(1000)])
    lines = str(log).splitlines()
    assert len(lines) == 1 + 61 + 1
    assert "... 940 more ..." in str(log)
    assert lines[1].startswith("step 0 ")
    assert lines[-2].startswith("step 999 ")
    assert lines[-1].startswith("1000 executions")


def test_on_a_cluster(client):
    op, y = problem()
    with pylops_dispatch.ledger() as log:
        x = pylops.cgls(op, y, niter=2, tol=0)[0]
        x.compute()
        client.compute(x + 1).result()
    steps = [e for e in log if e.asked.startswith("CGLS.step 2 ")]
    assert [e.kind for e in steps] == ["persist"]  # numbers are fetched, nothing runs for them
    assert steps[0].kept > x.nbytes
    assert log.executions[-2].brought == x.nbytes
    assert "test_ledger.py" in log.executions[-1].asked
    assert log.executions[-1].tasks > 0
    assert all(e.tasks for e in log if e.kind == "persist")
