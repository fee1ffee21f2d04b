"""Workers in processes of their own: what comes over the network, and tasks that use PyLops."""

import gc
import logging

import dask
import dask.array as da
import distributed
import numpy as np
import pylops
import pytest
import scipy.linalg

import pylops_dispatch
from pylops_dispatch import placing
from pylops_dispatch.array import lift

from .helpers import assert_close, rand
from .interpreters import forked_workers

SIZE = 300  # of a matrix of 720 kB, which goes to the workers apart from the graphs


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def workers(request):
    with (
        forked_workers(),
        pylops_dispatch.client(n_workers=request.param, threads_per_worker=1) as client,
    ):
        yield client


def invertible(seed=0):
    return rand((SIZE, SIZE), seed=seed) + SIZE * np.eye(SIZE)


# ---- what comes over the network -------------------------------------------------------------


class Inverse(pylops.LinearOperator):
    """A user's operator, by functions of SciPy that take no array as it comes from a socket."""

    def __init__(self, matrix):
        self.matrix = matrix
        super().__init__(dtype=matrix.dtype, shape=matrix.shape)

    def _matvec(self, x):
        return scipy.linalg.solve(np.asarray(self.matrix), np.asarray(x))

    def _rmatvec(self, x):
        return scipy.linalg.solve(self.matrix.conj().T, np.asarray(x))


def function_of(matrix):
    def forward(x):
        return scipy.linalg.solve(matrix, x)

    def adjoint(x):
        return scipy.linalg.solve(matrix.T, x)

    return pylops.FunctionOperator(forward, adjoint, SIZE, SIZE, dtype=float)


@pytest.mark.parametrize("make", [Inverse, function_of, lambda a: pylops.BlockDiag([Inverse(a)])])
def test_scipy_takes_what_an_operator_holds_on_a_worker(workers, make):
    op, x = make(invertible()), rand(SIZE)
    with pylops_dispatch.set_policy(whole_array="allow"):
        y, z = (o @ da.from_array(x, chunks=SIZE // 2) for o in (op, op.H))
    assert_close(y.compute(), op @ x)
    assert_close(z.compute(), op.H @ x)


def test_scipy_takes_a_block_that_came_over_the_network(workers):
    def invert(x):
        return scipy.linalg.inv(x.reshape(SIZE, SIZE)).ravel()

    op, x = pylops.FunctionOperator(invert, SIZE**2, dtype=float), invertible().ravel()
    block = da.from_delayed(workers.scatter(x), x.shape, x.dtype)
    with pylops_dispatch.set_policy(whole_array="allow"):
        y = op @ block
    assert_close(y.compute(), op @ x)


def test_scipy_takes_the_matrix_and_the_data_of_a_division(workers):
    op, y = pylops.MatrixMult(invertible()), rand(SIZE, seed=1)
    with pylops_dispatch.set_policy(whole_array="allow"):
        x = (op / da.from_array(y, chunks=SIZE // 2)).compute()
    assert_close(op @ x, y)


def test_coefficients_lie_on_workers_where_numpy_needs_no_copy(workers):
    op = pylops.MatrixMult(invertible())
    (op @ da.from_array(rand(SIZE), chunks=SIZE // 2)).compute()
    sent = [a for known in placing._placed.values() for a in known.arrays.values()]
    used = {future.key for array in sent for future in distributed.futures_of(array)}

    def flags(dask_worker):
        return [value.flags.aligned for key, value in dask_worker.data.items() if key in used]

    found = [flag for flags_of_one in workers.run(flags).values() for flag in flags_of_one]
    assert found
    assert all(found)


# ---- tasks that use PyLops -------------------------------------------------------------------


def solve(solver, size):
    op = pylops.Identity(size) + 0.3 * pylops.Diagonal(np.linspace(1, 2, size))
    return solver(op, da.ones(size, chunks=size // 4), niter=5)[0].compute()


def apply_large(size):
    op = pylops.Diagonal(np.linspace(1, 2, size))  # of more than travels with a graph
    return (op @ da.ones(size, chunks=size // 4)).compute()


@pytest.mark.parametrize("solver", [pylops.cgls, pylops.lsqr])
def test_a_task_may_solve_on_the_cluster_that_it_runs_on(workers, solver):
    expected = solve(solver, 20_000)
    assert_close(workers.submit(solve, solver, 20_000).result(timeout=30), expected)


def test_as_many_tasks_as_there_are_threads_and_more_may_solve_at_once(workers):
    futures = [workers.submit(solve, pylops.cgls, 1000 + i, pure=False) for i in range(3)]
    for i, future in enumerate(futures):
        assert_close(future.result(timeout=30), solve(pylops.cgls, 1000 + i))


def test_a_task_may_apply_an_operator_whose_arrays_are_sent_apart(workers):
    workers.submit(solve, pylops.cgls, 100).result(timeout=30)  # its worker has a client then
    y = workers.submit(apply_large, 40_000).result(timeout=30)
    assert_close(y, np.linspace(1, 2, 40_000))


def apply(op, x):
    return op @ x


def test_a_task_may_give_lazy_results_that_hold_what_an_operator_does(workers, monkeypatch, caplog):
    """They are computed here, while the operator is still at the worker that made them."""
    monkeypatch.setattr(logging.getLogger("distributed"), "propagate", True)
    x = da.ones(SIZE, chunks=SIZE // 3)
    for _ in range(3):
        op = pylops.MatrixMult(invertible())
        (expected,) = dask.compute(op @ x, scheduler="synchronous")
        assert_close((op @ x).compute(), expected)
        for _ in range(2):
            y = workers.submit(apply, op, x, pure=False).result(timeout=30)
            assert_close(y.compute(), expected)
    assert "run_spec" not in caplog.text


@pytest.mark.parametrize(
    "function",
    [
        np.linalg.inv,
        np.linalg.pinv,
        np.linalg.svdvals,
        lambda a: np.linalg.solve(a, a),
        lambda a: np.linalg.svd(a)[0],
    ],
)
def test_an_array_in_memory_may_go_before_what_is_made_of_it_is_computed(workers, function):
    matrix = invertible()
    array = da.from_array(matrix, chunks=SIZE // 2).persist()
    with pylops_dispatch.set_policy(whole_array="allow"):
        result = function(lift(array)).dask()
    distributed.wait(array)
    del array
    gc.collect()
    assert_close(abs(result.compute()), abs(function(matrix)), rtol=1e-8)
