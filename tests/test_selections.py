"""What NumPy code does with elements that a lazy mask, or lazy positions, choose."""

import warnings

import dask.array as da
import numpy as np
import pytest

import pylops_dispatch
from pylops_dispatch import NotDispatchedError, PerformanceWarning
from pylops_dispatch.array import DispatchArray, lower

from .helpers import assert_close, forbid_executions, rand, random_chunks, to_dask

SHAPE = (6, 5)


def box(x):
    return DispatchArray(to_dask(x, random_chunks(x.shape, 1)))


def of_pieces(x):
    """A vector that is put together from arrays of one and of two dimensions."""
    first, second = x[:12].reshape(4, 3), x[12:]
    return np.concatenate([box(first).ravel(), box(second)])


LAYOUTS = {
    "vector": (lambda x: box(x.ravel()), (30,)),
    "flattened": (lambda x: box(x.reshape(SHAPE)).ravel(), (30,)),
    "pieces": (lambda x: of_pieces(x.ravel()), (30,)),
    "matrix": (lambda x: box(x.reshape(SHAPE)), SHAPE),
}


def same(function, x0, make):
    """The function, which may write into its argument, is lazy and does what it does in NumPy."""
    expected = x0.copy()
    wanted = function(expected)
    x = make(x0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with forbid_executions():
            found = function(x)
        for result, value in [(x, expected), (found, wanted)]:
            assert_close(lower(result).compute(scheduler="synchronous"), value)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype


# ------------------------------------------------------------------------------- masks


def roots(x):
    y = np.zeros_like(x)
    y[x > 0] = np.sqrt(x[x > 0])  # NumPy warns of no root of a negative number
    return y


def scaled_in_place(x):
    mask = np.abs(x) > 0.5
    x[~mask] = 2 * x[~mask] + 1
    return x


def two_sides(x):
    x[x < 0] = -1.0
    y = x.copy()
    y[x > 0] = np.maximum(1 / x[x > 0], 0.3) ** 2
    return y


def chosen_by_selected(x):
    positive = x > 0
    y = np.where(x[positive] > 0.6, 5.0, x[positive])
    x[positive] = y
    return x


def narrowed(x):
    """As pyproximal's Geman chooses the better of two points, which the mask then tells."""
    mask = x > 0
    candidate = x[mask] * 2 - 1
    better = candidate**2 < x[mask]
    mask[mask] = better
    out = np.zeros_like(x)
    out[mask] = candidate[better]
    return out


def with_a_sum(x):
    x[x > 0] = x[x > 0] / np.sum(x**2)
    return x


MASKED = [roots, scaled_in_place, two_sides, chosen_by_selected, narrowed, with_a_sum]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("function", MASKED, ids=lambda f: f.__name__)
def test_elements_under_a_mask_are_worked_on_and_written_back(function, layout):
    make, shape = LAYOUTS[layout]
    same(function, rand(shape), make)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_phases_of_selected_complex_numbers(layout):
    make, shape = LAYOUTS[layout]

    def shrunk(x):
        large = np.abs(x) > 0.5
        x[large] = (np.abs(x[large]) - 0.5) * np.exp(1j * np.angle(x[large]))
        x[~large] = 0
        x[large] = np.real(x[large]) - 1j * np.imag(x[large])
        return x

    assert np.iscomplexobj(make(rand(shape, "complex128"))[make(rand(shape)) > 0])
    same(shrunk, rand(shape, "complex128"), make)


def test_a_mask_in_other_chunks_than_the_array():
    x0, y0 = rand((30,)), rand((30,), seed=1)

    def function(x):
        y = box(y0) if isinstance(x, DispatchArray) else y0
        x[y > 0] = -x[y > 0]
        return x

    same(function, x0, lambda x: DispatchArray(da.from_array(x, chunks=7)))


def test_a_mask_that_selects_nothing_and_one_that_selects_all():
    def function(x):
        x[x > 10] = 1 / x[x > 10]
        x[x < 10] = x[x < 10] + 1
        return x

    same(function, rand(SHAPE), box)


def test_dtypes_are_kept_as_assignment_keeps_them():
    def function(x):
        x[x > 0] = x[x > 0].__mul__(2)
        whole = (10 * x).astype("int64")
        whole[whole > 3] = whole[whole > 3] / 2
        return whole

    same(function, rand(SHAPE, "float32"), box)


REFUSED = {
    "sum": lambda x, s: np.sum(s),
    "shape": lambda x, s: s.shape,
    "len": len,
    "asarray": lambda x, s: np.asarray(s),
    "bool": lambda x, s: bool(s),
    "iteration": lambda x, s: list(s),
    "one element": lambda x, s: s[0],
    "another mask": lambda x, s: s + x[x < 0],
    "whole array": lambda x, s: s + x,
    "two results": lambda x, s: np.modf(s),
    "in place": lambda x, s: np.add(s, 1, out=s),
    "reduce": lambda x, s: np.add.reduce(s),
    "positions": lambda x, s: np.where(s > 0),
    "written elsewhere": lambda x, s: x.__setitem__(x < 0, s),
    "written to a range": lambda x, s: x.__setitem__(slice(0, 3), s),
    "written through a mask that has changed": lambda x, s: x.__setitem__(~(x <= 0), s),
}


@pytest.mark.parametrize("use", REFUSED)
def test_what_needs_to_know_how_many_there_are_is_refused(use):
    x = box(rand(SHAPE))
    call = REFUSED[use]
    with forbid_executions(), pytest.raises(NotDispatchedError, match=r"mask|selected"):
        call(x[x > 0]) if call is len else call(x, x[x > 0])


def test_a_mask_of_rows_is_refused():
    x = box(rand(SHAPE))
    with forbid_executions(), pytest.raises(NotDispatchedError, match="mask"):
        x[x[:, 0] > 0]


# --------------------------------------------------------------------- order, positions


def smallest_to_zero(x):
    x[np.argsort(np.abs(x))[:-4]] = 0
    return x


def columns_to_a_number(x):
    x[:, np.argsort(np.abs(x).sum(axis=0))[:2]] = 3.5
    return x


def columns_to_a_sum(x):
    x[:, np.argsort(x[0])[-2:]] = np.sum(x)
    return x


def rows_to_rows(x):
    x[np.argsort(x[:, 0])[:3]] = x[:3] * 2
    return x


def inverse_permutation(x):
    order = np.argsort(-x, kind="stable")
    back = np.zeros_like(order)
    back[order] = np.arange(x.size)
    return x[order][back] + back


def last_one_wins(x):
    where = (np.argsort(x) // 4) - 3  # several values for one place, some from the end
    x[where] = np.arange(float(x.size))
    return x


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (smallest_to_zero, (30,)),
        (inverse_permutation, (30,)),
        (last_one_wins, (30,)),
        (columns_to_a_number, SHAPE),
        (columns_to_a_sum, SHAPE),
        (rows_to_rows, SHAPE),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_writing_at_positions_that_are_not_known_yet(function, shape):
    with pylops_dispatch.set_policy(whole_array="allow"):
        same(function, rand(shape), box)


def test_positions_out_of_bounds_are_an_error_as_soon_as_they_are_known():
    x = box(rand((8,)))
    x[box(np.array([1, 8]))] = 0
    with pytest.raises(IndexError, match="out of bounds for axis 0 with size 8"):
        x.dask().compute(scheduler="synchronous")


@pytest.mark.parametrize("settings", [{}, {"kind": "stable"}, {"stable": True}, {"axis": None}])
@pytest.mark.parametrize("function", [np.sort, np.argsort])
def test_order_of_equal_elements_is_that_of_numpy(function, settings):
    x0 = np.random.default_rng(0).integers(0, 3, (40, 30))
    with pylops_dispatch.set_policy(whole_array="allow"):
        same(lambda x: function(x, **settings), x0, box)


@pytest.mark.parametrize("call", [np.sort, np.argsort, lambda v: np.linalg.pinv(v.reshape(SHAPE))])
def test_work_on_all_values_at_once_is_announced(call):
    x = box(rand((30,)))
    with forbid_executions(), pytest.warns(PerformanceWarning, match="not in parallel"):
        call(x)


def test_work_on_a_single_block_is_not_announced():
    x = DispatchArray(da.from_array(rand((4, 3)), chunks=-1))
    with forbid_executions(), warnings.catch_warnings():
        warnings.simplefilter("error")
        result = np.linalg.pinv(x, rcond=1e-3)
    assert_close(lower(result).compute(), np.linalg.pinv(rand((4, 3)), rcond=1e-3))


@pytest.mark.parametrize("chunks", [((4, 2), (1, 5)), ((3, 3), (3, 3)), ((6,), (6,))])
def test_linear_systems_whatever_the_blocks_of_the_matrix(chunks):
    a0, b0 = rand((6, 6)) + 5 * np.eye(6), rand((6, 4), seed=1)
    a, b = DispatchArray(da.from_array(a0, chunks)), box(b0)
    with forbid_executions():
        x, inverse = np.linalg.solve(a, b), np.linalg.inv(a)
    assert_close(lower(x).compute(), np.linalg.solve(a0, b0), rtol=1e-10)
    assert_close(lower(inverse).compute(), np.linalg.inv(a0), rtol=1e-10)


def test_a_stack_of_matrices_is_refused():
    with pytest.raises(NotDispatchedError, match="det"):
        np.linalg.det(box(rand((2, 3, 3))))
