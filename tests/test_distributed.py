"""The same code on a small cluster in this process."""

import dask.array as da
import distributed
import numpy as np
import pylops
import pytest

from .helpers import assert_close, cut, rand


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


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
