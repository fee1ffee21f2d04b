"""Operators that write into arrays of their own: one whole-array task of one at a time."""

import threading
import time

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pylops
import pytest

from .helpers import assert_close, rand, to_dask

N = 12
THREADS = {"scheduler": "threads", "num_workers": 4}

pytestmark = pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")


class Scratch(pylops.LinearOperator):
    """Works in a buffer that it was made with, slowly, and gives that back."""

    def __init__(self, inner=None):
        super().__init__(dtype=np.dtype("f8"), dims=(N,), dimsd=(N,))
        self.buffer = np.zeros(N)
        self.inner = inner

    def _matvec(self, x):
        self.buffer[:] = np.convolve(x, [1, 2, 1], "same")
        time.sleep(0.01)
        self.buffer *= 2
        if self.inner is not None:
            self.buffer += self._through(self.inner, x)
        return self.buffer

    def _through(self, inner, x):
        return inner @ x

    _rmatvec = _matvec


class ScratchThroughDask(Scratch):
    """Makes a graph inside of its own task, and computes it in other threads."""

    def _through(self, inner, x):
        return (inner @ da.from_array(x, chunks=4)).compute(**THREADS)


AROUND = {
    "alone": lambda op: op,
    "adjoint": lambda op: op.H,
    "sum": lambda op: op + op,
    "stack": lambda op: pylops.VStack([op, op]),
    "nested": lambda op: Scratch(op),
    "nested, in a graph": lambda op: ScratchThroughDask(op),
    "nested twice, in graphs": lambda op: ScratchThroughDask(ScratchThroughDask(op)),
}


def in_good_time(compute):
    """What a function gives, in another thread: it may wait for itself."""
    results = []
    thread = threading.Thread(target=lambda: results.append(compute()), daemon=True)
    thread.start()
    thread.join(30)
    assert results, "it waits for ever"
    return results[0]


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_applications_in_one_graph(around):
    op = Scratch()
    outer = around(op)
    inputs = [rand(N, seed=seed) for seed in range(6)]
    results = [A @ to_dask(x, 4) for x in inputs for A in (outer, op)]
    computed = in_good_time(lambda: dask.compute(*results, **THREADS))
    for result, expected in zip(
        computed, [np.array(A @ x) for x in inputs for A in (outer, op)], strict=True
    ):
        assert_close(result, expected)


def test_columns_in_one_graph():
    op, X = Scratch(), rand((N, 6))
    result = op @ to_dask(X, (N, 1))
    # NumPy would give one buffer for all columns
    expected = np.stack([np.array(op @ column) for column in X.T], axis=1)
    assert_close(in_good_time(lambda: result.compute(**THREADS)), expected)


def test_later_applications_leave_results_in_memory_alone():
    op = Scratch()
    x, other = rand(N, seed=1), rand(N, seed=2)
    result = (op @ to_dask(x, 4)).persist(**THREADS)
    expected = np.array(op @ x)
    (op @ to_dask(other, 4)).compute(**THREADS)
    op @ other
    assert_close(result.compute(), expected)


class Watched(Scratch):
    """Sees how many threads are in it, in all copies together."""

    inside = 0
    most = 0

    def _matvec(self, x):
        Watched.inside += 1
        Watched.most = max(Watched.most, Watched.inside)
        try:
            return super()._matvec(x)
        finally:
            Watched.inside -= 1


def test_a_task_that_was_pickled_waits_for_the_same_operator():
    op = Watched()
    results = [op @ to_dask(rand(N, seed=seed), 4) for seed in range(4)]
    results[:2] = cloudpickle.loads(cloudpickle.dumps(results[:2]))
    in_good_time(lambda: dask.compute(*results, **THREADS))
    assert Watched.most == 1


def test_different_operators_do_not_wait_for_each_other():
    both = threading.Barrier(2)

    def meet(x):
        if x.any():  # zeros tell the dtype
            both.wait(20)
        return np.convolve(x, [1, 2, 1], "same")

    ops = [pylops.FunctionOperator(lambda x: meet(x), lambda x: meet(x), N) for _ in range(2)]
    results = [op @ to_dask(rand(N), 4) for op in ops]
    in_good_time(lambda: dask.compute(*results, **THREADS))


def test_what_an_operator_works_out_once_is_kept_for_later_applications():
    made = []

    class Lazy(Scratch):
        kernel = None

        def _matvec(self, x):
            if self.kernel is None:
                made.append(1)
                self.kernel = np.array([1.0, 2.0, 1.0])
            return np.convolve(x, self.kernel, "same")

        _rmatvec = _matvec

    op = Lazy()
    for seed in range(3):
        (op @ to_dask(rand(N, seed=seed), 4)).compute(**THREADS)
    pylops.cgls(op, to_dask(rand(N), 4), niter=3)
    assert len(made) == 1
