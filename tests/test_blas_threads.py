"""BLAS has one thread while blocks run, in whichever threads they start and end."""

import threading
from typing import ClassVar

import dask
import dask.array as da
import numpy as np
import pylops
import pytest
import threadpoolctl

import pylops_dispatch
from pylops_dispatch.blas_threads import one_blas_thread

from .helpers import rand


def threads_of_blas():
    found = [lib for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]
    # an engine of PyLops may bring another one, whose threads are limited for each thread
    own = [lib for lib in found if "numpy" in lib["filepath"]]
    return {lib["num_threads"] for lib in own or found}


@pytest.fixture(autouse=True)
def two_threads_of_blas():
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        if threads_of_blas() != {2}:
            pytest.skip("the BLAS here has one thread only")
        yield
        assert threads_of_blas() == {2}


def test_blocks_that_overlap_in_different_threads():
    first_ends, second_starts = threading.Event(), threading.Event()
    seen = []

    def first():
        with one_blas_thread():
            seen.append(threads_of_blas())
            second_starts.wait(5)
        first_ends.set()

    def second():
        with one_blas_thread():
            second_starts.set()
            first_ends.wait(5)
            seen.append(threads_of_blas())

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [{1}, {1}]
    assert threads_of_blas() == {2}


class Mixing(pylops.LinearOperator):
    """A product with a matrix along the first axis."""

    def __init__(self, dims):
        super().__init__(dtype=np.dtype(float), dims=dims, dimsd=dims)

    def _matvec(self, x):
        self.seen.append(threads_of_blas())
        x = x.reshape(self.dims)
        return (np.ones((len(x), len(x))) @ x).ravel()

    _rmatvec = _matvec


@pytest.mark.parametrize("chunks", [(6, 4), (6, 8)], ids=["two blocks", "one block"])
@pytest.mark.parametrize(
    "rule", [pylops_dispatch.whole_axis(lambda op: (0,)), pylops_dispatch.halo((6, 0))]
)
def test_an_operator_with_a_rule(rule, chunks):
    class Mixed(Mixing):
        seen: ClassVar = []

    pylops_dispatch.register_rule(Mixed, rule)
    y = Mixed((6, 8)) @ da.from_array(rand((6, 8)), chunks=chunks)
    Mixed.seen.clear()  # what was run to learn the dtype
    with dask.config.set(scheduler="threads", num_workers=2):
        y.compute()
    # a block that is alone may use all
    assert Mixed.seen == ([{1}, {1}] if chunks[1] == 4 else [{2}])


@pytest.mark.parametrize("adjoint", [False, True])
def test_products_with_matrices(monkeypatch, adjoint):
    op = pylops.signalprocessing.Fredholm1(rand((4, 5, 6)), nz=3)
    x = da.from_array(rand((4, 5, 3) if adjoint else (4, 6, 3)), chunks=(2, -1, -1))
    y = (op.H if adjoint else op) @ x
    seen = []
    original = np.matmul
    monkeypatch.setattr(
        np, "matmul", lambda *args: seen.append(threads_of_blas()) or original(*args)
    )
    with dask.config.set(scheduler="threads", num_workers=2):
        y.compute()
    assert seen == [{1}, {1}]


@pytest.mark.parametrize("chunks", [3, 6], ids=["blocks", "one block"])
def test_threads_of_numba_that_would_write_over_each_other(chunks):
    """``for ix in prange(xdims[0])`` adds to samples that others add to."""
    numba = pytest.importorskip("numba")
    seen: list[int] = []
    op = pylops.signalprocessing.NonStationaryConvolve2D(
        (6, 6), rand((2, 2, 3, 3)), (1, 4), (1, 4), engine="numba"
    )
    kernel = type(op)._matvec_rmatvec  # as it is, with Python's own range

    def noted(*args, **kwargs):
        seen.append(numba.get_num_threads())
        return kernel(*args, **kwargs)

    op._mvrmv = noted
    x0 = rand((6, 6))
    with dask.config.set(scheduler="threads", num_workers=2):
        found = (op @ da.from_array(x0, chunks=chunks)).compute()
    assert set(seen) == {1}
    most = numba.config.NUMBA_NUM_THREADS
    numba.set_num_threads(most)
    np.testing.assert_allclose(found, op @ x0)
    assert seen[-1] == most  # NumPy arrays are PyLops's own business
