"""Code of an operator may write into what it is given; blocks stay what other tasks read."""

import dask
import dask.array as da
import numpy as np
import pylops
import pytest
import scipy.fft
import scipy.linalg
import scipy.ndimage
from pylops import signalprocessing as sp

import pylops_dispatch

from .helpers import assert_close, rand

N = 12
MATRIX = rand((N, N)) + N * np.eye(N)


def doubled(x):
    x = np.asarray(x)
    x *= 2
    return x


def cleared(x):
    x = np.asarray(x)
    y = x.copy()
    np.ndarray.fill(x, 0.0)
    return y


def ranked(x):
    x = np.asarray(x)
    x.sort()
    return x


WRITES = {
    "in place": doubled,
    "after it was read": cleared,
    "by a method": ranked,
    "by SciPy's filters": lambda x: scipy.ndimage.gaussian_filter(np.asarray(x), 1, output=x),
    "by SciPy's transforms": lambda x: scipy.fft.dct(np.asarray(x), overwrite_x=True),
    # it takes no notice of arrays that are read-only
    "by LAPACK": lambda x: scipy.linalg.solve(MATRIX, np.asarray(x), overwrite_b=True),
}


class Writing(pylops.LinearOperator):
    """Runs a function that writes into its input."""

    def __init__(self, function):
        super().__init__(dtype=np.dtype(float), dims=(N,), dimsd=(N,))
        self.function = function

    def _matvec(self, x):
        return self.function(x)

    _rmatvec = _matvec


class WritingAlone(Writing):
    """Is run on blocks."""


class WritingAmongNeighbours(Writing):
    """Is run on blocks with a halo."""


class WritingAlongAnAxis(Writing):
    """Is run along an axis."""


pylops_dispatch.register_rule(WritingAlone, pylops_dispatch.alone())
pylops_dispatch.register_rule(WritingAmongNeighbours, pylops_dispatch.halo(0))
pylops_dispatch.register_rule(WritingAlongAnAxis, pylops_dispatch.whole_axis(lambda op: (0,)))


def check_others_read_what_was_there(op, x0, chunks):
    """Others: a second execution, tasks beside it, and the user, whose array is in memory."""
    with pylops_dispatch.disabled():
        expected = op @ x0.copy(), op.H @ x0.copy()
    in_memory = da.from_array(x0.copy(), chunks=chunks).persist()
    made = da.from_array(x0, chunks=chunks) + 0
    for x in in_memory, made:
        for _ in range(2):
            found = dask.compute(3 * x, op @ x, op.H @ x, 5 * x)
            for result, right in zip(found, (3 * x0, *expected, 5 * x0), strict=True):
                assert_close(result, right)
    np.testing.assert_array_equal(in_memory.compute(), x0)
    zeros = da.zeros(x0.shape, chunks=chunks)  # a block of which is read-only
    assert_close((op @ zeros).compute(), 0 * x0)


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("chunks", [N, 5])
@pytest.mark.parametrize("how", WRITES)
def test_code_that_runs_on_whole_vectors(how, chunks):
    check_others_read_what_was_there(Writing(WRITES[how]), rand(N), chunks)


@pytest.mark.parametrize("how", ["in place", "after it was read"])
@pytest.mark.parametrize("cls", [WritingAlone, WritingAmongNeighbours, WritingAlongAnAxis])
def test_code_that_runs_on_blocks(cls, how):
    for chunks in (N, 5):
        check_others_read_what_was_there(cls(WRITES[how]), rand(N), chunks)


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("how", ["in place", "by a method"])
def test_functions_within_products(how):
    function = pylops.FunctionOperator(WRITES[how], WRITES[how], N, N, dtype=float)
    op = 2.0 * function @ pylops.Diagonal(rand(N, seed=1))
    check_others_read_what_was_there(op, rand(N), 5)
    check_others_read_what_was_there(op, rand(N), N)


@pytest.mark.parametrize(
    "make",
    [
        lambda **settings: sp.FFT((6, N), axis=1, **settings),
        lambda **settings: sp.FFT((6, N), axis=0, **settings),
        lambda **settings: sp.FFT2D((6, N), **settings),
        lambda **settings: sp.FFTND((6, N), axes=(0, 1), **settings),
    ],
    ids=["FFT of rows", "FFT of columns", "FFT2D", "FFTND"],
)
def test_transforms_that_may_overwrite_their_input(make):
    op = make(engine="scipy", dtype="complex128", overwrite_x=True)
    x0 = rand((6, N)) + 1j * rand((6, N), seed=1)
    for chunks in ((6, N), (2, N), (6, 5)):
        check_others_read_what_was_there(op, x0, chunks)
