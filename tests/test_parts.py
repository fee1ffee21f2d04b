"""Code that writes an array part by part makes graphs that grow with the parts only."""

import dask
import dask.array as da
import numpy as np
import pylops
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylops_dispatch.array import DispatchArray, lift
from pylops_dispatch.pieces import Zeros, realise

from .helpers import assert_close, chunks_for, rand

DIMS = (5, 4, 3)
WAYS = ["write", "add", "read", "hold", "row", "number", "shift", "of all"]


@st.composite
def indices(draw):
    """Indices of parts that are whole along all axes but one."""
    axis = draw(st.integers(0, 2))
    n = DIMS[axis]
    start = draw(st.integers(-n, n - 1))
    ranges = [slice(start, None), slice(None, start), slice(start, start + 2)]
    entry = draw(st.sampled_from([start, *ranges, slice(None, None, -1), slice(None, None, 2)]))
    index = (*(slice(None),) * axis, entry)
    return draw(st.sampled_from([index, (*index, ...), index if axis else entry]))


@given(
    writes=st.lists(st.tuples(indices(), st.sampled_from(WAYS)), min_size=1, max_size=8),
    into_zeros=st.booleans(),
    dtype=st.sampled_from(["float64", "float32", "complex128"]),
    chunks=chunks_for(DIMS),
)
def test_what_is_written_and_read_is_as_in_numpy(writes, into_zeros, dtype, chunks):
    def run(x):
        y = np.zeros_like(x) if into_zeros else x.copy()
        held, total = [], 0 * x
        for number, (index, way) in enumerate(writes, 1):
            if way == "write":
                y[index] = number * x[index]
            elif way == "add":
                y[index] += x[index]
            elif way == "number":
                y[index] = number
            elif way == "row":
                y[index] = x[index][..., :1]
            elif way == "shift":
                y[1:] = y[:-1] + number
            elif way == "of all":
                y *= 2
            elif way == "hold":
                part = y[index]
                part += number
                held.append(part)
            else:
                total = total + y[index].sum()
        for part in held:
            part *= 2
        return y + total

    x = rand(DIMS, dtype)
    found, expected = run(lift(da.from_array(x, chunks=chunks))).compute(), run(x)
    assert found.dtype == expected.dtype
    assert_close(found, expected)


@pytest.mark.parametrize("second", [(0, 5), (4, 8), (1, 9), (3, 6), (3, 7), (6, 9), (0, 3)])
def test_of_parts_that_meet_the_last_one_counts(second):
    y0 = np.zeros((9, 4))
    y = np.zeros_like(lift(da.zeros((9, 4), chunks=(4, 2))))
    for array in (y, y0):
        array[3:7] = 1
        array[slice(*second)] += 2
        array[3:7] *= 3
    assert_close(y.compute(), y0)


class RowByRow(pylops.LinearOperator):
    """Adds each row to the one before it, as code for NumPy does."""

    def __init__(self, dims):
        super().__init__(dtype=np.dtype(float), dims=dims, dimsd=dims)

    def _matvec(self, x):
        x = x.reshape(self.dims)
        y = np.zeros_like(x)
        for i in range(len(x)):
            y[i] += x[i]
        for i in range(1, len(x)):
            y[i - 1] += x[i]
        return y.ravel()

    def _rmatvec(self, x):
        x = x.reshape(self.dims)
        y = np.zeros_like(x)
        for i in range(len(x)):
            y[i, :] = x[i] + (x[i - 1] if i else 0)
        return y.ravel()


class OverlapAdd(pylops.LinearOperator):
    """Adds windows that overlap, each twice as large."""

    def __init__(self, dims, length):
        super().__init__(dtype=np.dtype(float), dims=dims, dimsd=dims)
        self.length = length

    def _matvec(self, x):
        x = x.reshape(self.dims)
        y = np.zeros_like(x)
        for start in range(0, len(x), self.length // 2):
            y[start : start + self.length] += 2 * x[start : start + self.length]
        return y.ravel()

    _rmatvec = _matvec


def test_windows_that_overlap_make_a_graph_that_grows_with_them_only():
    sizes = []
    for n in (80, 160):
        op, x = OverlapAdd((n, 8), 8), rand((n, 8))
        y = op @ da.from_array(x, chunks=(n // 4, 4))
        assert_close(y.compute(), op @ x)
        sizes.append(len(dict(y.__dask_graph__())))
    assert sizes[0] < 20 * 40
    assert sizes[1] < 2.3 * sizes[0]


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_loop_over_rows_makes_a_graph_that_grows_with_them_only(adjoint):
    sizes = []
    for n in (30, 60):
        op = RowByRow((n, 8))
        op = op.H if adjoint else op
        x = rand((n, 8))
        y = op @ da.from_array(x, chunks=(n // 3, 4))
        assert_close(y.compute(), op @ x)
        assert y.npartitions >= 4
        sizes.append(len(dict(y.__dask_graph__())))
    assert sizes[0] < 30 * 12
    assert sizes[1] < 2.2 * sizes[0]


def test_parts_keep_the_chunks_of_what_they_are_written_into():
    x = lift(da.from_array(rand((9, 8)), chunks=((4, 5), (3, 5))))
    for i in range(9):
        x[i] = 2 * x[i]
    assert x.dask().chunks == ((4, 5), (3, 5))


def test_parts_that_are_written_into_zeros_make_blocks_of_moderate_size():
    y, row = DispatchArray(Zeros((64, 6), np.dtype(float))), lift(da.ones(6, chunks=3))
    for i in range(64):
        y[i] = row
    assert y.dask().chunks == ((8,) * 8, (3, 3))


def test_a_part_of_the_wrong_shape_is_refused_at_once():
    y = lift(da.ones((4, 6), chunks=3))
    with pytest.raises(ValueError, match="shape"):
        y[1] = np.ones(5)
    assert_close(y.compute(), np.ones((4, 6)))


@pytest.mark.parametrize("axis", [0, 1])
def test_two_large_parts_keep_their_chunks(axis):
    """``Symmetrize`` writes its vector once from the end and once from the start."""
    op = pylops.Symmetrize((64, 64), axis=axis)
    x = da.ones((64, 64), chunks=16)
    y = op @ x
    assert y.chunks[axis] == (16, 16, 16, 15, 16, 16, 16, 16)
    assert (op.H @ y).chunks[axis] == (16, 16, 16, 16)
    assert not any(name.startswith("rechunk") for name in y.dask.layers)


def test_what_lies_between_large_parts_is_cut():
    """No block is longer than the longest of the parts, or than they would be without them."""
    y = DispatchArray(Zeros((1000, 6), np.dtype(float)))
    y[40:100] = lift(da.ones((60, 6), chunks=(20, 6)))
    y[400:600] = lift(da.ones((200, 6), chunks=(200, 3)))
    expected = np.zeros((1000, 6))
    expected[40:100] = expected[400:600] = 1
    assert y.dask().chunks[0] == (40, 20, 20, 20, 200, 100, 200, 200, 200)
    assert_close(y.compute(), expected)


def test_zeros_are_cut_as_dask_is_set_when_they_are_asked_for():
    zeros = Zeros((1000,), np.dtype(float))
    assert realise(zeros).numblocks == (1,)
    with dask.config.set({"array.chunk-size": "800B"}):
        assert realise(zeros).numblocks == (10,)
    assert realise(zeros).numblocks == (1,)
