"""What is a view in NumPy is one in a box, what is a copy there is one here, and so are indices."""

import operator

import dask
import dask.array as da
import numpy as np
import pylops
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylops_dispatch import NotDispatchedError, memory_layout
from pylops_dispatch.array import DispatchArray, lower
from pylops_dispatch.namespace import dask_namespace

from .helpers import assert_close, chunks_for, forbid_executions, rand, to_dask


def values(box):
    return np.asarray(dask.compute(lower(box), scheduler="synchronous")[0])


# ------------------------------------------------------------------------ views and copies

STEPS = {
    "transposed": lambda a: a.T,
    "swapped": lambda a: a.swapaxes(0, -1),
    "axes moved": lambda a: np.moveaxis(a, 0, -1),
    "axis rolled": lambda a: np.rollaxis(a, a.ndim - 1),
    "flipped": lambda a: np.flip(a),
    "flipped along one": lambda a: np.flip(a, -1),
    "upside down": lambda a: np.flipud(a),
    "left to right": lambda a: np.fliplr(a) if a.ndim > 1 else a[:],
    "rotated": lambda a: np.rot90(a, 3) if a.ndim > 1 else a[:],
    "matrices transposed": lambda a: np.matrix_transpose(a) if a.ndim > 1 else a[:],
    "raveled": lambda a: a.ravel(),
    "raveled by NumPy": lambda a: np.ravel(a),
    "flattened": lambda a: a.flatten(),
    "shape reversed": lambda a: a.reshape(a.shape[::-1]),
    "last two merged": lambda a: a.reshape((*a.shape[:-2], -1)),
    "first split": lambda a: a.reshape((1, *a.shape)),
    "squeezed": lambda a: np.squeeze(a) if a.size > 1 else a[:],
    "expanded": lambda a: np.expand_dims(a, 1),
    "sliced": lambda a: a[1:] if a.shape[0] > 1 else a[...],
    "every second": lambda a: a[..., ::2],
    "backwards": lambda a: a[::-1],
    "new axis": lambda a: a[None],
    "halved": lambda a: np.array_split(a, 2)[0],
    "second half": lambda a: np.array_split(a, 2)[1] if a.shape[0] > 1 else a[:],
    "row": lambda a: a[:1],
    "last row": lambda a: list(a)[-1] if a.ndim > 1 else a[-1:],
    "three axes": lambda a: np.atleast_3d(a),
    "copied": lambda a: a.copy(),
    "copied by NumPy": lambda a: np.copy(a),
    "multiplied": lambda a: a * 2,
    "added to its mirror": lambda a: a + a[::-1],
    "chosen": lambda a: np.where(a > 0, a, 1),
    "conjugate": lambda a: a.conj(),
    "conjugate by NumPy": lambda a: np.conj(a),
    "real": lambda a: a.real,
    "same type": lambda a: a.astype(a.dtype, copy=False),
    "same type, copied": lambda a: a.astype(a.dtype),
    "zeros": lambda a: np.zeros_like(a),
}


def added_to(target, number):
    target += number


def overwritten(target, number):
    target[...] = number


def overwritten_by_an_array(target, number):
    target[:] = number * np.arange(1, target.size + 1.0).reshape(target.shape)


def part_overwritten(target, number):
    target[:1] = number


def filled(target, number):
    target.fill(number)


WRITES = {
    "added to": added_to,
    "overwritten": overwritten,
    "overwritten by an array": overwritten_by_an_array,
    "overwritten in part": part_overwritten,
    "filled": filled,
    "copied to": lambda target, number: np.copyto(target, number),
    "written by a ufunc": lambda target, number: np.add(target, number, out=target),
    "written from another": lambda target, number: np.multiply(
        np.full(target.shape, 2.0), number, out=target
    ),
}


def run_steps(a, steps, writes, gone=()):
    """Take one array of another, then write into some of them.

    Steps are taken of the last array, or of the one with a number; writes are numbers of arrays.
    Those that are `gone`, by their numbers, nobody holds any more when others are written to.
    """
    arrays = [a]
    for step in steps:
        step, place = (step, -1) if isinstance(step, str) else step
        arrays.append(STEPS[step](arrays[place % len(arrays)]))
    del a
    arrays = [a for number, a in enumerate(arrays) if number not in gone] or arrays[-1:]
    for number, place in enumerate(writes):
        way, place = ("added to", place) if isinstance(place, int) else place
        WRITES[way](arrays[place % len(arrays)], 100.0 * (number + 1))
    return arrays


@settings(max_examples=80)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    steps=st.lists(
        st.tuples(st.sampled_from(sorted(STEPS)), st.integers(-1, 3)), min_size=1, max_size=5
    ),
    writes=st.lists(
        st.tuples(st.sampled_from(sorted(WRITES)), st.integers(0, 5)), min_size=1, max_size=3
    ),
    gone=st.sets(st.integers(0, 4)),
    data=st.data(),
)
def test_writes_reach_the_same_arrays_as_in_numpy(shape, steps, writes, gone, data):
    x = rand(shape)
    chunks = data.draw(chunks_for(shape))
    expected = run_steps(x.copy(), steps, writes, gone)
    with forbid_executions():
        found = run_steps(DispatchArray(to_dask(x, chunks)), steps, writes, gone)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert_close(values(one), other)
        if other.size:
            long = [axis for axis, n in enumerate(other.shape) if n > 1]
            strides = zip(one.strides, other.strides, strict=True)
            assert all(a == b for axis, (a, b) in enumerate(strides) if axis in long)


@pytest.mark.parametrize("step", sorted(STEPS))
def test_each_of_them_is_a_view_or_a_copy_as_in_numpy(step):
    x = rand((4, 3))
    for write in [[0], [1]]:
        expected = run_steps(x.copy(), [step], write)
        found = run_steps(DispatchArray(da.from_array(x, chunks=(3, 2))), [step], write)
        for one, other in zip(found, expected, strict=True):
            assert_close(values(one), other)


def backwards(x):
    buffer = np.zeros_like(x)
    view = buffer[::-1]
    buffer += x
    return view


def raveled(x):
    y = np.zeros_like(x).reshape(2, -1)
    flat = y.ravel()
    y[0] = x[: x.size // 2]
    y[1] = 2 * x[x.size // 2 :]
    return flat


def left(x):
    y = x.copy()
    first = y[:3]
    y = y[1:]
    y *= 10
    return np.concatenate([first, first])


@pytest.mark.parametrize("function", [backwards, raveled, left])
def test_views_of_an_array_that_nobody_holds_see_what_is_written_to_others(function):
    x = np.arange(1, 7.0)
    with forbid_executions():
        found = function(DispatchArray(da.from_array(x, chunks=4)))
    assert_close(values(found), function(x))


def unstacked(y):
    first, second = np.unstack(y.reshape(2, 3))
    first[:] = 0
    return second


@pytest.mark.parametrize(
    "view",
    [
        lambda y: np.broadcast_to(y, (2, 6)),
        lambda y: np.broadcast_to(y[:, None], (6, 3)),
        lambda y: np.diagonal(y[:4].reshape(2, 2)),
        lambda y: y.reshape(2, 3).diagonal(1),
        lambda y: np.lib.stride_tricks.sliding_window_view(y, 3),
        unstacked,
    ],
)
def test_views_are_of_what_their_array_is_later(view):
    def use(x):
        y = x.copy()
        seen = view(y)
        y *= 2
        return seen, y

    x = np.arange(1, 7.0)
    with forbid_executions():
        found = use(DispatchArray(da.from_array(x, chunks=4)))
    for one, other in zip(found, use(x), strict=True):
        assert_close(values(one), other)


@pytest.mark.parametrize("index", [(0, 0), (slice(None), slice(None), 0), (0, ..., 0)])
def test_more_indices_than_axes_are_an_error_to_write_to(index):
    for x in np.arange(6.0), DispatchArray(da.arange(6.0, chunks=4)):
        with pytest.raises(IndexError, match="too many indices"):
            x[index] = 1


@pytest.mark.parametrize("index", [0, slice(None), ..., slice(1, 3)])
def test_imaginary_parts_are_not_dropped(index):
    for x in np.arange(6.0), DispatchArray(da.arange(6.0, chunks=4)):
        with pytest.raises(TypeError, match="complex"):
            x[index] = 1j


@pytest.mark.parametrize(
    "view",
    [
        lambda y: np.broadcast_to(y, (2, 6)),
        lambda y: np.diagonal(y[:4].reshape(2, 2)),
        lambda y: np.lib.stride_tricks.sliding_window_view(y, 3),
    ],
)
def test_views_that_are_not_to_be_written_to(view):
    for x in np.arange(6.0), DispatchArray(da.arange(6.0, chunks=4)):
        with pytest.raises(ValueError, match="read-only"):
            view(x)[0] = 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_view_in_a_solver_keeps_what_it_is_seen_through(when):
    """Its array is written to before values are read, and has gone then, or after that."""

    def scale(x):
        y = x * 2
        view = y[1:]
        if when == "before":
            y += 1
            mean = float(x.sum())
        else:
            mean = float(x.sum())
            y += 1
        out = x.copy()
        out[1:] = view
        return out * mean

    op = pylops.FunctionOperator(scale, scale, 6, dtype=float)
    y = np.arange(1, 7.0)
    expected = pylops.cgls(op, y, niter=2, tol=0)[0]
    found = pylops.cgls(op, da.from_array(y, chunks=2), niter=2, tol=0)[0]
    assert_close(found.compute(), expected, rtol=1e-9)


@pytest.mark.parametrize(
    "operation",
    [operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow],
)
@pytest.mark.parametrize(
    "scalar", [np.sum, np.max, lambda a: a[1, 0], np.linalg.norm, lambda a: a.mean() + 1]
)
def test_numbers_are_not_changed_in_place(operation, scalar):
    """What NumPy has a scalar for becomes another: other names for it keep the first."""

    def both(a):
        number = scalar(a)
        same = number
        number = operation(number, 2)
        return same, number

    x = 1 + rand((4, 3)) ** 2
    for one, other in zip(both(DispatchArray(da.from_array(x, chunks=2))), both(x), strict=True):
        assert_close(values(one), other)


@pytest.mark.parametrize("way", WRITES)
@pytest.mark.parametrize("first", ["added to", "overwritten in part"])
def test_a_view_is_written_to_after_the_array_that_it_was_taken_of(first, way):
    """Halves that are taken first and filled one after the other, as operators' code does."""
    x = rand((4, 3))
    for places in [(0, 1), (1, 2), (2, 1), (2, 0)]:
        steps = [("halved", 0), ("second half", 0)]
        writes = [(first, places[0]), (way, places[1]), (way, places[0])]
        expected = run_steps(x.copy(), steps, writes)
        found = run_steps(DispatchArray(da.from_array(x, chunks=(3, 2))), steps, writes)
        for one, other in zip(found, expected, strict=True):
            assert_close(values(one), other)


def test_parts_of_complex_numbers_are_views_that_reshape_to_copies():
    x = rand((4, 3), complex)
    box = DispatchArray(da.from_array(x, chunks=(3, 2)))
    for a in (x, box):
        flat = a.imag.ravel()
        flat += 5
        a.imag[1:] += 3
        a.real.T[0] = 2
    assert_close(values(box), x)


def test_array_of_the_namespace_is_a_copy_and_asarray_is_none():
    box = DispatchArray(da.arange(6, chunks=4))
    copied, same = dask_namespace.array(box), dask_namespace.asarray(box)
    copied += 1
    assert same is box
    assert dask_namespace.array(box, copy=None) is box
    assert dask_namespace.asarray(box, dtype=box.dtype) is box
    assert_close(values(box), np.arange(6))
    assert_close(values(copied), np.arange(6) + 1)


def test_ascontiguousarray_of_the_namespace_copies_what_has_another_order():
    box = DispatchArray(da.ones((4, 3), chunks=2))
    assert dask_namespace.ascontiguousarray(box) is box
    other = dask_namespace.ascontiguousarray(box.T)
    other += 1
    assert other.memory().flags.c_contiguous
    assert_close(values(box), np.ones((4, 3)))


class ScaledInPlace(pylops.LinearOperator):
    """Multiplies a copy of its input by its own weights, in place."""

    def __init__(self, copy):
        super().__init__(dtype=np.dtype(float), dims=(4, 3), dimsd=(4, 3))
        self.copy = copy

    def _matvec(self, x):
        z = self.copy(x)
        z *= np.arange(1.0, 13)
        return z

    _rmatvec = _matvec


@pytest.mark.parametrize(
    "copy",
    [
        lambda x: x.flatten(),
        lambda x: x.reshape(4, 3).T.reshape(3, 4).T.ravel(),
        lambda x: np.concatenate([x[:5], x[5:]]),
    ],
    ids=["flatten", "ravel", "concatenate"],
)
def test_a_solver_keeps_its_vectors_when_an_operator_writes_into_copies(copy):
    op, y = ScaledInPlace(copy), rand(12)
    expected = pylops.cgls(op, y, niter=5)[0]
    found = pylops.cgls(op, da.from_array(y, chunks=5), niter=5)[0]
    assert_close(found.compute(scheduler="synchronous"), expected)


@pytest.mark.parametrize("how", [np.add, np.subtract])
@given(data=st.data())
def test_results_are_laid_out_as_numpy_lays_them_out(how, data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple))
    operands = []
    for _ in range(2):
        order = data.draw(st.permutations(range(len(shape))))
        whole = np.zeros([2 * shape[axis] for axis in order]).transpose(np.argsort(order))
        steps = [data.draw(st.sampled_from([1, 2])) for _ in shape]
        operands.append(whole[tuple(slice(0, n * s, s) for n, s in zip(shape, steps, strict=True))])
    expected = how(*operands)
    found = memory_layout.of_result(shape, 8, operands)
    strides = found or memory_layout.in_c_order(shape, 8)
    long = [axis for axis, n in enumerate(shape) if n > 1]
    assert [strides[axis] for axis in long] == [expected.strides[axis] for axis in long]


# --------------------------------------------------------------------------------- indices


@st.composite
def indices(draw, shape):
    """Slices, integers, positions, masks, new axes and an ellipsis: some of them wrong."""
    entries = []
    for n in shape[: draw(st.integers(0, len(shape)))]:
        inside = st.integers(-n, n - 1)
        bound = st.none() | st.integers(-n - 1, n + 1)
        entries.append(
            draw(
                inside
                | st.integers(-n - 1, n)
                | st.builds(slice, bound, bound, st.sampled_from([None, 1, 2, -1, -2]))
                | st.lists(inside, min_size=1, max_size=4).map(np.array)
                | st.lists(st.booleans(), min_size=n, max_size=n).map(np.array)
                | st.lists(st.booleans(), min_size=n + 1, max_size=n + 1).map(np.array)
            )
        )
    for _ in range(draw(st.integers(0, 1))):
        entries.insert(draw(st.integers(0, len(entries))), None)
    if draw(st.booleans()):
        entries.insert(draw(st.integers(0, len(entries))), Ellipsis)
    return tuple(entries)


def outcome(function):
    """What a function gives, or the kind of error that it raises."""
    try:
        return function()
    except NotDispatchedError:
        raise
    except (IndexError, TypeError, ValueError) as error:
        return type(error)


def number_of_arrays(index):
    return sum(isinstance(i, np.ndarray) for i in index)


@pytest.mark.parametrize(
    "index", [([0, 0, 0], [0, 0]), ([0, 0], [False]), ([0, 0, 0], [0, 0], [0])], ids=str
)
def test_positions_that_do_not_broadcast_are_an_index_error(index):
    index, x = tuple(map(np.array, index)), np.zeros((1, 1, 1))
    for array in (x, DispatchArray(to_dask(x, x.shape))):
        with pytest.raises(IndexError, match="could not be broadcast together with shapes"):
            array[index]


@pytest.mark.parametrize("shape", [(1, 0), (1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("mask", [np.array([True, True]), (np.array([False, True]),)], ids=str)
def test_a_mask_of_all_axes_takes_a_number_or_a_vector(mask, shape):
    for array in (np.zeros(2), DispatchArray(da.zeros(2, chunks=1))):
        for value in (np.ones(shape), DispatchArray(da.ones(shape))):
            with pytest.raises(TypeError, match="dimension"):
                array[mask] = value if isinstance(array, DispatchArray) else np.ones(shape)
    matrix = DispatchArray(da.zeros((2, 2), chunks=1))
    with pytest.raises(TypeError, match="dimension"):
        matrix[np.eye(2, dtype=bool)] = np.ones((1, 2))
    assert_close(values(matrix), np.zeros((2, 2)))


@settings(max_examples=50)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    transposed=st.booleans(),
    data=st.data(),
)
def test_reading_and_writing_at_an_index_is_that_of_numpy(shape, transposed, data):
    x = np.arange(float(np.prod(shape))).reshape(shape)
    chunks = data.draw(chunks_for(shape))
    index = data.draw(indices(shape[::-1] if transposed else shape))

    def view(a):
        return a.T if transposed else a

    def read(a):
        return view(a)[index]

    def written(a, value):
        view(a)[index] = value
        return a

    expected = outcome(lambda: read(x))
    try:
        with forbid_executions():
            found = outcome(lambda: read(DispatchArray(to_dask(x, chunks))))
    except NotDispatchedError:
        assert number_of_arrays(index) > 1
        return
    if not isinstance(expected, (np.ndarray, np.generic)):
        assert found is expected
        return
    assert np.shape(found) == expected.shape
    assert_close(values(found) if isinstance(found, DispatchArray) else found, expected)

    shapes = [expected.shape, (), (1, *expected.shape), tuple(n + 1 for n in expected.shape)]
    shapes += [(1,) * expected.ndim, expected.shape[1:]]
    part = data.draw(st.sampled_from(shapes))
    value = 100 + np.arange(float(np.prod(part))).reshape(part)
    if expected.ndim == 0 and part:
        return  # NumPy's versions differ in what they take for a number
    lazy = DispatchArray(da.from_array(value)) if data.draw(st.booleans()) else value
    wanted = outcome(lambda: written(x.copy(), value))
    try:
        with forbid_executions():
            result = outcome(lambda: written(DispatchArray(to_dask(x, chunks)), lazy))
    except NotDispatchedError:
        assert number_of_arrays(index) > 1 or (number_of_arrays(index) and value.ndim > 1)
        return
    if isinstance(wanted, np.ndarray):
        assert_close(values(result), wanted)
    else:
        assert result is wanted


@pytest.mark.parametrize(
    "write",
    [
        lambda y: y.__setitem__(30, 1),
        lambda y: y.__setitem__(-13, 1),
        lambda y: np.add.at(y, [30], 1.0),
        lambda y: y.__setitem__(np.ones(5, bool), 0),
        lambda y: y.reshape(4, 3).__setitem__((np.array([0, 9]), np.array([1, 1])), 0),
    ],
)
def test_a_write_outside_raises_and_changes_nothing(write):
    y = DispatchArray(da.ones(12, chunks=5))
    with pytest.raises(IndexError):
        write(y)
    assert_close(values(y), np.ones(12))


def test_a_write_of_another_shape_of_the_same_size_raises():
    y = DispatchArray(da.zeros((4, 3), chunks=2))
    for value in (np.ones((3, 4)), DispatchArray(da.ones((4, 3), chunks=2)).T):
        with pytest.raises(ValueError, match=r"\(3, 4\)"):
            y[:] = value
        with pytest.raises(ValueError, match=r"\(3, 4\)"):
            y[...] = value
    assert_close(values(y), np.zeros((4, 3)))


@pytest.mark.parametrize("mode", ["wrap", "clip"])
def test_take_with_a_mode_finds_positions_outside(mode):
    x = rand((3, 4))
    box = DispatchArray(da.from_array(x, chunks=2))
    positions = np.arange(-9, 9).reshape(3, 6)
    for axis in (0, 1, None):
        expected = np.take(x, positions, axis=axis, mode=mode)
        assert_close(values(np.take(box, positions, axis=axis, mode=mode)), expected)


def test_a_single_truth_value_as_index_is_refused():
    box = DispatchArray(da.ones(4, chunks=2))
    with pytest.raises(NotDispatchedError, match="truth value"):
        box[True]


def test_to_ask_whether_a_reshape_is_a_view_reads_no_memory():
    """An array of 8 TB, of which 8 bytes are there."""
    n = 1 << 20
    memory = memory_layout.stand_in((n, n), np.dtype(float), (8, 8 * n))
    assert memory_layout.reshaped(memory, (n * n,)) is None
    assert memory_layout.reshaped(memory.T, (n * n,)).strides == (8,)
