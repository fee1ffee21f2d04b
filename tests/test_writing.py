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


# ---- NumPy arrays that code fills anew after it has used them ------------------------------------

SMALL, LARGE = 12, 10_000  # elements: of what is copied, and of what is looked at
ROWS = {n: rand((3, n), seed=n) for n in (SMALL, LARGE)}


def with_a_buffer(x, op):
    y, buffer = np.zeros_like(x), np.zeros(x.size)
    for row in op.rows:
        buffer[:] = row
        y = y + buffer * x
    return y


def with_a_buffer_of_its_own(x, op):
    y = 0 * x
    for number, row in enumerate(op.rows):
        np.multiply(row, number + 1, out=op.buffer)
        y += op.buffer * x
    return y


def with_a_mask(x, op):
    y, mask = np.zeros_like(x), np.zeros(x.size, bool)
    for row in op.rows:
        np.greater(row, 0, out=mask)
        y = y + np.where(mask, x, -x)
    return y


def with_an_operator(x, op):
    y = np.zeros_like(x)
    for row in op.rows:
        op.diagonal.diag[:] = row
        y = y + op.diagonal.matvec(x)
    return y


def with_a_view(x, op):
    weights = op.rows[0].copy()
    y = weights[::-1] * x
    weights[:] = 0
    return y


def with_parts(x, op):
    parts, part = [], np.zeros(x.size // 2)
    for row in op.rows[:2]:
        part[:] = row[: part.size]
        parts.append(part * x[: part.size])
    return np.concatenate(parts)


def with_few_elements_filled_anew(x, op):
    op.buffer[:] = 1
    y = op.buffer * x
    op.buffer[7:9] = 5
    return y + op.buffer * x


def with_functions_of_dask(x, op):
    y, spectrum = 0 * x, np.zeros(x.size // 2 + 1, complex)
    for number in range(3):
        spectrum[:] = 0
        spectrum[number] = 1
        y = y + np.fft.irfft(np.fft.rfft(x) * spectrum, x.size)
        y = y + np.append(x[:1], op.buffer[1:])  # which dask wraps by itself
        op.buffer[:] = number
    op.buffer[:] = 0
    return y


REFILLS = [
    with_a_buffer,
    with_a_buffer_of_its_own,
    with_a_mask,
    with_an_operator,
    with_a_view,
    with_parts,
    with_few_elements_filled_anew,
    with_functions_of_dask,
]


class Refilling(pylops.LinearOperator):
    """Works with arrays that it fills more than once."""

    def __init__(self, code, n):
        super().__init__(dtype=np.dtype(float), dims=(n,), dimsd=(n,))
        self.code, self.rows, self.buffer = code, ROWS[n], np.zeros(n)
        self.diagonal = pylops.Diagonal(np.ones(n))

    def _matvec(self, x):
        return self.code(x, self)

    _rmatvec = _matvec


@pytest.mark.parametrize("n", [SMALL, LARGE])
@pytest.mark.parametrize("code", REFILLS)
@pytest.mark.parametrize("within", [lambda op: op, lambda op: 2.0 * op, lambda op: op.H @ op])
def test_arrays_that_are_filled_anew(code, n, within):
    x0 = rand(n)
    with pylops_dispatch.disabled():
        op = within(Refilling(code, n))
        expected, adjoint, solved = op @ x0, op.H @ x0, pylops.cgls(op, x0, niter=2, tol=0)[0]
    op = within(Refilling(code, n))
    x = da.from_array(x0, chunks=n // 2 + 1)
    for _ in range(2):
        y, z = op @ x, op.H @ x
        assert_close(y.compute(), expected)
        assert_close(z.compute(), adjoint)
    assert op.matvec_count == 2
    assert_close(pylops.cgls(op, x, niter=2, tol=0)[0].compute(), solved, rtol=1e-9)


@pytest.mark.parametrize("first", ["outer", "inner"])
def test_operators_that_fill_the_arrays_of_others_anew(first):
    """Of a user's operator, which does not see it; whichever is known to do so already."""
    inner = pylops.FunctionOperator(lambda x: weights * x, lambda x: weights * x, LARGE)
    outer = Refilling(with_a_buffer_of_its_own, LARGE)
    weights, own = np.ones(LARGE), outer.buffer

    def fill_both(x, op):
        y = 0 * x
        for row in op.rows:
            weights[:] = row
            own[:] = 2
            y = y + own * inner.matvec(x)
            own[:] = 3
        return y

    if first == "outer":
        (outer @ da.ones(LARGE, chunks=LARGE // 2)).compute()
    outer.code = fill_both
    expected = outer @ np.ones(LARGE)
    assert_close((outer @ da.ones(LARGE, chunks=LARGE // 2)).compute(), expected)


def test_code_that_fills_a_small_array_anew_runs_once():
    calls = []

    def multiply(x):
        calls.append(x)
        return with_a_buffer(x, op)

    op = pylops.FunctionOperator(multiply, multiply, SMALL, dtype=float)
    op.rows = ROWS[SMALL]
    y = op @ da.ones(SMALL, chunks=5)
    assert len(calls) == 1
    assert_close(y.compute(), op.rows.sum(axis=0))


def test_a_small_array_of_an_operator_may_change_before_a_result_is_computed():
    weights = rand(SMALL)
    op, expected = pylops.Diagonal(weights), weights.copy()
    y = op @ da.ones(SMALL, chunks=5)
    weights *= 10
    assert_close(y.compute(), expected)
    assert_close((op @ da.ones(SMALL, chunks=5)).compute(), 10 * expected)


def test_arrays_that_go_into_tasks_of_dask_may_be_filled_anew():
    """``A @ x``, which dask multiplies."""

    def multiply(x):
        matrix, y = np.zeros((150, 150)), np.zeros_like(x)
        for number in range(2):
            matrix[...] = 0
            matrix[number] = np.arange(150)
            y = y + matrix @ x
        return y

    op = pylops.FunctionOperator(multiply, multiply, 150, dtype=float)
    assert_close((op @ da.ones(150, chunks=50)).compute(), op @ np.ones(150))


def test_large_arrays_that_stay_as_they_are_are_not_copied():
    weights = rand(LARGE)
    op = pylops.FunctionOperator(lambda x: weights * x, lambda x: weights * x, LARGE, dtype=float)
    y = op @ da.ones(LARGE, chunks=LARGE // 2)
    held = [node.value for node in dict(y.dask).values() if hasattr(node, "value")]
    assert any(np.shares_memory(weights, value) for value in held if type(value) is np.ndarray)


def test_arrays_filled_anew_on_a_cluster(client):
    for code in (with_a_buffer, with_a_buffer_of_its_own, with_an_operator):
        op = Refilling(code, LARGE)
        expected = op @ np.ones(LARGE)
        for _ in range(2):
            assert_close((op @ da.ones(LARGE, chunks=LARGE // 2)).compute(), expected)


SMALL_COEFFICIENTS = {
    "Diagonal": (pylops.Diagonal, rand(N)),
    "MatrixMult": (pylops.MatrixMult, rand((5, N))),
    "Restriction": (lambda a: pylops.Restriction(N, a), np.array([1, 3, 7])),
    "Convolve1D": (lambda a: sp.Convolve1D(N, a, offset=1), rand(3)),
    "Convolve2D": (lambda a: sp.Convolve2D((3, N // 3), a, offset=(1, 1)), rand((3, 3))),
    "NonStationaryConvolve1D": (
        lambda a: sp.NonStationaryConvolve1D(N, a, ih=[2, 6, 10]),
        rand((3, 3)),
    ),
    "Fredholm1": (lambda a: sp.Fredholm1(a, nz=2), rand((2, 3, 4))),
    "VStack of filters": (
        lambda a: pylops.VStack([sp.Convolve1D(N, a, offset=1), pylops.Identity(N)]),
        rand(3),
    ),
    "a sum": (lambda a: pylops.Identity(N) + 0.3 * sp.Convolve1D(N, a, offset=1), rand(3)),
    "poststack": (
        lambda a: pylops.avo.poststack.PoststackLinearModelling(a, nt0=N),
        np.hanning(5),
    ),
}


@pytest.mark.parametrize("name", SMALL_COEFFICIENTS)
def test_results_are_of_small_coefficients_as_they_were(name):
    make, values = SMALL_COEFFICIENTS[name]
    coefficient = values.copy()
    op = make(coefficient)
    x0, y0 = rand(op.shape[1]), rand(op.shape[0], seed=1)
    expected, adjoint = op @ x0, op.H @ y0
    y, x = op @ da.from_array(x0, chunks=4), op.H @ da.from_array(y0, chunks=4)
    coefficient[...] = 2
    assert_close(y.compute(), expected)
    assert_close(x.compute(), adjoint)
