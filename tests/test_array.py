"""DispatchArray: one NumPy face over dask pieces, mutable by rebinding."""

import contextlib
import operator
import re
from itertools import combinations

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pylops.utils.backend import get_array_module, inplace_add, inplace_set

import pylops_dispatch
from pylops_dispatch import NotDispatchedError
from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray, lift, lower
from pylops_dispatch.functions import reductions
from pylops_dispatch.solvers import Session, in_session

from .helpers import (
    assert_close,
    assert_same,
    chunks_for,
    count_executions,
    cut,
    forbid_executions,
    rand,
    random_chunks,
    to_dask,
)

SHAPE = (6, 5)
CHUNKS = ((4, 2), (2, 2, 1))


def box(x, chunks=None):
    return DispatchArray(to_dask(x, random_chunks(x.shape, 1) if chunks is None else chunks))


def check(result, expected):
    """The same as NumPy: arrays are boxes, everything else is plain."""
    if isinstance(expected, (tuple, list)):
        assert len(result) == len(expected)
        for one, other in zip(result, expected, strict=True):
            check(one, other)
        return
    if isinstance(result, DispatchArray):
        result = lower(result)
    if isinstance(result, da.Array):
        expected = np.asarray(expected)
        assert result.dtype == expected.dtype
        if not any(np.isnan(n) for n in result.shape):
            assert result.shape == expected.shape
        result = result.compute(scheduler="synchronous")
    if isinstance(expected, (np.ndarray, np.generic)):
        assert_close(result, expected)
    else:
        assert result == expected


# ----------------------------------------------------------------- lift, lower


def test_lift_and_lower_give_the_same_array_back():
    x = to_dask(rand(SHAPE), CHUNKS)
    assert lower(lift(x)) is x or lower(lift(x)).name == x.name
    assert isinstance(lift(x), DispatchArray)


def test_a_flat_array_that_was_given_out_comes_back_with_its_layout():
    x = to_dask(rand(SHAPE), CHUNKS)
    flat = lower(lift(x).ravel())
    assert flat.shape == (30,)
    assert lower(lift(flat).reshape(SHAPE)).chunks == x.chunks
    flat[0] = 1.0  # another array now, though the same object
    assert_close(lower(lift(flat)).compute()[0], 1.0)


def test_a_scalar_that_has_been_read_comes_out_as_such():
    x0 = rand(SHAPE)
    total, row = box(x0).sum(), box(x0[:1, :1])
    with pylops_dispatch.set_policy(implicit_compute="allow"):
        assert float(total) == pytest.approx(x0.sum())
        assert float(row[0, 0]) == x0[0, 0]
    assert isinstance(lower(total), np.float64)
    assert isinstance(lower(total.reshape(1)), da.Array)
    assert isinstance(lower(row), da.Array)


def test_the_box_looks_like_an_array():
    x = box(rand(SHAPE, "complex64"), CHUNKS)
    assert (x.shape, x.ndim, x.size, x.dtype) == (SHAPE, 2, 30, np.dtype("complex64"))
    assert (x.itemsize, x.nbytes, len(x)) == (8, 240, 6)
    assert x.T.shape == SHAPE[::-1]
    assert "DispatchArray" in repr(x)


def test_printing_computes_nothing():
    x = box(rand(SHAPE), CHUNKS)
    with forbid_executions():
        assert repr(x)
        assert str(x)
        assert format(x.sum(), "") == repr(x.sum())


@pytest.mark.parametrize("dtype", ["float32", "complex128", "int64", "bool"])
def test_a_number_that_is_known_prints_as_that_of_numpy(dtype):
    number = np.ones(1, dtype)[0]
    known = box(np.asarray(number), ())
    known.settle(number)
    with forbid_executions():
        assert str(known) == format(known, "") == str(number)
        assert "DispatchArray" in repr(known)


# ------------------------------------------------------------ ravel and reshape


@pytest.mark.parametrize(
    "flatten",
    [
        lambda x: x.ravel(),
        lambda x: x.reshape(-1),
        lambda x: x.reshape(30),
        lambda x: x.flatten(),
        lambda x: np.ravel(x),
        lambda x: np.reshape(x, (-1,)),
        lambda x: np.reshape(x, 30),
    ],
)
@pytest.mark.parametrize(
    "unflatten",
    [
        lambda x: x.reshape(SHAPE),
        lambda x: x.reshape(*SHAPE),
        lambda x: x.reshape([6, -1]),
        lambda x: np.reshape(x, SHAPE),
        lambda x: x.reshape(np.array(SHAPE)),
    ],
)
def test_flattening_and_back_is_free(flatten, unflatten):
    x = to_dask(rand(SHAPE), CHUNKS)
    flat = flatten(lift(x))
    assert flat.shape == (30,)
    back = lower(unflatten(flat))
    assert back.name == x.name
    assert back.chunks == x.chunks


@given(chunks=chunks_for((4, 3, 5)))
def test_arithmetic_on_the_flat_form_keeps_the_chunks(chunks):
    x0 = rand((4, 3, 5))
    x = to_dask(x0, chunks)
    flat = lift(x).ravel()
    y = lower((2 * flat - flat**2 + np.abs(flat) / 3).reshape(4, 3, 5))
    assert y.chunks == x.chunks
    assert_same(y, 2 * x0 - x0**2 + np.abs(x0) / 3)


@given(chunks=chunks_for(SHAPE), order=st.sampled_from("CF"))
def test_flat_form_has_the_values_of_numpy(chunks, order):
    x0 = rand(SHAPE)
    x = DispatchArray(to_dask(x0, chunks))
    assert_same(lower(x.ravel()), x0.ravel())
    for function in [np.ravel, lambda a, order: np.reshape(a, (10, 3), order=order)]:
        try:
            result = function(x, order=order)
        except NotDispatchedError:
            assert order == "F"
        else:
            check(result, function(x0, order=order))


@pytest.mark.parametrize("shape", [(5, 6), (3, 10), (2, 3, 5), (1, 30), (30, 1), (6, 5, 1)])
def test_reshape_to_another_shape(shape):
    x0 = rand(SHAPE)
    check(box(x0).ravel().reshape(shape), x0.reshape(shape))


def test_a_flat_vector_that_was_shaped_once_stays_so():
    x = lift(to_dask(rand(30), 7))
    shaped = x.as_shape(SHAPE)
    assert x.pieces == (shaped,)
    assert x.as_shape(SHAPE) is shaped


def test_impossible_reshape():
    with pytest.raises(ValueError):
        box(rand(SHAPE)).ravel().reshape(7, 5)


# ---------------------------------------------------------------------- pieces


def stacked(parts, dtype="float64"):
    """As VStack does it: parts written into a buffer of zeros."""
    total = sum(part.size for part in parts)
    y = get_array_module(parts[0]).zeros(total, dtype=dtype)
    at = 0
    for part in parts:
        y = inplace_set(part.ravel(), y, slice(at, at + part.size))
        at += part.size
    return y


def test_a_slice_at_the_borders_of_a_piece_gives_the_piece_back():
    a, b = to_dask(rand(SHAPE), CHUNKS), to_dask(rand((4, 3)), 2)
    y = stacked([lift(a), lift(b)])
    assert y.shape == (42,)
    assert lower(y[:30].reshape(SHAPE)).name == a.name
    assert lower(y[30:].reshape(4, 3)).name == b.name
    assert lower(y[30:42].reshape(4, 3)).name == b.name


def test_a_slice_of_rows_of_a_piece_keeps_their_chunks():
    a = to_dask(rand((6, 4, 5)), ((2, 1, 3), (3, 1), (2, 3)))
    y = stacked([box(rand(7)), lift(a)])
    for rows in [slice(1, 4), slice(3, 6), slice(0, 2), slice(4, 5)]:
        part = lower(y[7 + 20 * rows.start : 7 + 20 * rows.stop].reshape(a[rows].shape))
        assert part.chunks == a[rows].chunks
        assert_same(part, a.compute()[rows])
    inner = lower(y[7 + 20 * 2 + 5 : 7 + 20 * 3].reshape(3, 5))  # rows within a row
    assert inner.chunks == a[2, 1:].chunks
    assert_same(inner, a.compute()[2, 1:])


VECTOR_KEYS = [
    *(17, -1, slice(3, 20), slice(3, 6), slice(13, 16), slice(20, 20), slice(None, None, 7)),
    *([29, 2, 13, 2], np.arange(4, 27), np.arange(30) % 3 == 0),
]


def test_any_range_of_a_vector_of_pieces():
    x0 = rand(30)
    arrays = [x0[:6], x0[6:18].reshape(3, 4), x0[18:].reshape(2, 2, 3)]
    pieces = [to_dask(a, random_chunks(a.shape, 1)) for a in arrays]
    ranges = list(combinations(range(31), 2))[::2]
    taken = [pc.take_range(pieces, start, stop) for start, stop in ranges]
    for (start, stop), found in zip(
        ranges, dask.compute(taken, scheduler="synchronous")[0], strict=True
    ):
        np.testing.assert_array_equal(np.concatenate([f.ravel() for f in found]), x0[start:stop])


def zeros_between_pieces(x0):
    y = get_array_module(box(x0)).zeros(30, dtype=x0.dtype)
    y[:12], y[18:] = box(x0[:12]), box(x0[18:].reshape(4, 3)).ravel()
    return y


@pytest.mark.parametrize("layout", ["one piece", "a matrix", "pieces", "zeros between pieces"])
def test_any_part_of_a_vector_can_be_read_and_written(layout):
    for key in VECTOR_KEYS:
        x0 = rand(30, "float32")
        if layout == "zeros between pieces":
            x0[12:18] = 0
            y = zeros_between_pieces(x0)
        elif layout == "pieces":
            y = stacked([box(x0[:12].reshape(3, 4)), box(x0[12:])], "float32")
        else:
            y = box(x0.reshape(SHAPE)).ravel() if layout == "a matrix" else box(x0)
        with forbid_executions():
            part = y[key]
        check(part, x0[key])
        with forbid_executions():
            y[key] = rand(x0[key].shape, seed=3)
        x0[key] = rand(x0[key].shape, seed=3)
        assert_same(lower(y), x0)


def test_arithmetic_on_pieces_stays_on_the_pieces():
    a, b = to_dask(rand(SHAPE), CHUNKS), to_dask(rand((4, 3)), 2)
    y = stacked([lift(a), lift(b)])
    z = 2 * y - y / 3
    assert lower(z[:30].reshape(SHAPE)).chunks == a.chunks
    assert lower(z[30:].reshape(4, 3)).chunks == b.chunks
    z -= y
    assert lower(z[:30].reshape(SHAPE)).chunks == a.chunks


def test_pieces_have_the_values_of_numpy():
    a0, b0, c0 = rand(SHAPE), rand((4, 3)), rand(7)
    y = stacked([box(a0), box(b0), box(c0)])
    y0 = np.concatenate([a0.ravel(), b0.ravel(), c0])
    assert_same(lower(y), y0)
    for key in [slice(None), slice(3, 40), slice(29, 31), slice(None, None, 7), -1, 30]:
        check(y[key], y0[key])
    check(np.linalg.norm(y), np.linalg.norm(y0))
    check(np.dot(y, y[::-1]), np.dot(y0, y0[::-1]))
    check(y.max(), y0.max())


def test_pieces_of_different_layouts_can_be_added():
    a0, b0, flat0 = rand(SHAPE), rand((3, 10)), rand(30)
    total = box(a0).ravel() + box(b0).ravel() + box(flat0)
    assert_same(lower(total), a0.ravel() + b0.ravel() + flat0)


@given(at=st.lists(st.integers(1, 41), max_size=4), step=st.integers(1, 3))
def test_any_tiling_of_zeros(at, step):
    """Whatever the order and the borders of the writes."""
    x0 = rand(42)
    x = lift(to_dask(x0, 9))
    y = get_array_module(x).zeros(42)
    y0 = np.zeros(42)
    edges = np.cumsum([0, *cut(42, at)])
    parts = list(zip(edges[:-1], edges[1:], strict=True))
    for start, stop in parts[::-1][::step]:
        y[start:stop] = x[start:stop]
        y0[start:stop] = x0[start:stop]
    assert_same(lower(y), y0)


# ---------------------------------------------------------------- symbolic zeros


def test_zeros_take_the_layout_of_what_they_meet():
    x = to_dask(rand(SHAPE), CHUNKS)
    xp = get_array_module(lift(x))
    for y in [
        xp.zeros(30) + lift(x).ravel(),
        lift(x).ravel() + xp.zeros(30),
        xp.zeros(30).copy() + lift(x).ravel(),
        xp.zeros(60)[:30] + lift(x).ravel(),
        xp.zeros_like(lift(x).ravel()) + lift(x).ravel(),
    ]:
        assert_same(lower(y), x.compute().ravel())
        assert lower(y.reshape(SHAPE)).chunks == x.chunks


def test_flattened_zeros_meet_an_array_of_more_axes():
    x = box(rand((2, 30)))
    y = x + get_array_module(x).zeros((5, 6)).ravel()
    assert_close(y.compute(), rand((2, 30)))
    assert y.dask().chunks == x.dask().chunks


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_zeros_between_pieces_are_zeros_and_nothing_else_is(dtype):
    x0 = rand(30, dtype)
    x0[12:18] = 0
    y = zeros_between_pieces(x0)
    for function in [
        lambda x: x.astype("complex64"),
        lambda x: x.conj(),
        lambda x: x.real,
        lambda x: x.imag,
        lambda x: x.copy(),
        lambda x: -x,
        lambda x: 3 * x - x / 2,
        lambda x: np.abs(x) + 1,
        lambda x: np.exp(x),
        lambda x: x[::-1] + x,
        lambda x: x.reshape(10, 3).T,
        lambda x: np.concatenate([x, x]),
    ]:
        with forbid_executions():
            found = function(y)
        assert_same(lower(found), function(x0))
    check(np.vdot(y, y), np.vdot(x0, x0))
    check(np.linalg.norm(y), np.linalg.norm(x0))


def test_zeros_copy_then_accumulate():
    x = to_dask(rand(SHAPE), CHUNKS)
    xp = get_array_module(lift(x))
    y = xp.zeros(30)
    z = y.copy()
    z += 2 * lift(x).ravel()
    assert lower(z.reshape(SHAPE)).chunks == x.chunks
    assert_same(lower(y), np.zeros(30))
    assert_same(lower(z), 2 * x.compute().ravel())


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int32"])
@pytest.mark.parametrize("shape", [7, (7,), (3, 4), [2, 3], np.int64(5), ()])
@pytest.mark.parametrize("create", ["zeros", "ones", "empty"])
def test_creation(create, shape, dtype):
    xp = get_array_module(box(rand(3)))
    x = getattr(xp, create)(shape, dtype=dtype)
    assert isinstance(x, DispatchArray)
    x0 = getattr(np, create)(shape, dtype=dtype)
    assert (x.shape, x.dtype) == (x0.shape, x0.dtype)
    if create != "empty":
        check(x, x0)


@pytest.mark.parametrize("create", ["zeros_like", "ones_like", "empty_like", "full_like"])
@pytest.mark.parametrize("dtype", [None, "complex64"])
def test_creation_like(create, dtype):
    x0 = rand(SHAPE, "float32")
    args = (3,) if create == "full_like" else ()
    for x in [box(x0), box(x0).ravel()]:
        y = getattr(np, create)(x, *args, dtype=dtype)
        assert isinstance(y, DispatchArray)
        assert (y.shape, y.dtype) == (x.shape, np.dtype(dtype or "float32"))
        if create != "empty_like":
            check(y, getattr(np, create)(x0.reshape(x.shape), *args, dtype=dtype))


def test_namespace_is_numpy_for_all_other_names():
    xp = get_array_module(box(rand(3)))
    assert xp.pi == np.pi
    assert xp.newaxis is None
    assert xp.float32 is np.float32
    assert isinstance(box(rand(3)), xp.ndarray)
    assert get_array_module(np.ones(3)) is np


# ------------------------------------------------------------------- in place


def pairs(shape=SHAPE, dtype="float64", seed=0):
    x0 = rand(shape, dtype, seed)
    return x0, box(x0.copy())


KEYS = [
    slice(None),
    Ellipsis,
    0,
    -1,
    slice(1, -1),
    slice(None, None, 2),
    slice(None, None, -1),
    (slice(None), 1),
    (slice(1, 5), slice(0, 3)),
    (Ellipsis, slice(1, None)),
    (Ellipsis, -1),
    (2, 3),
    (slice(None), slice(4, None, -2)),
    [0, 3, 5],
    np.array([4, 1]),
    (slice(None), [0, 2]),
    (slice(None), np.array([True, False, True, True, False])),
    np.array([True, False, True, True, False, True]),
    (None, slice(2)),
    ([0, 1, 5], [2, 2, 0]),
    (np.array([[0, 1], [-1, 3]]), np.array([[2, -1], [0, 1]])),
]


def hard(key):
    """Masks, new axes and several arrays of positions: lazy, or refused."""
    parts = key if isinstance(key, tuple) else (key,)
    if any(part is None for part in parts):
        return True
    arrays = [np.asarray(part) for part in parts if isinstance(part, (list, np.ndarray))]
    return len(arrays) > 1 or any(array.dtype == bool for array in arrays)


REFUSED = object()


def lazily_or_refused(key, work):
    """What ``work()`` gives without computing; only hard keys may be refused."""
    with forbid_executions():
        try:
            return work()
        except NotDispatchedError:
            assert hard(key)
            return REFUSED


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_getitem(key):
    x0, x = pairs()
    y = lazily_or_refused(key, lambda: x[key])
    if y is not REFUSED:
        check(y, x0[key])


@pytest.mark.parametrize("key", [k for k in KEYS if "None, slice(None, 2" not in str(k)], ids=str)
@pytest.mark.parametrize("value", ["scalar", "array", "box"])
def test_setitem(key, value):
    x0, x = pairs()
    v0 = 7.0 if value == "scalar" else rand(x0[key].shape, seed=3)
    v = box(v0) if value == "box" and np.ndim(v0) else v0
    if lazily_or_refused(key, lambda: x.__setitem__(key, v)) is not REFUSED:
        x0[key] = v0
    assert_same(lower(x), x0)


@st.composite
def indices(draw, shape):
    """Several arrays of positions, or masks of two axes, among slices, integers and new axes."""
    together = draw(st.sampled_from([(3,), (2, 3), (1,), (0,)]))
    found, axis = [], 0
    while axis < draw(st.integers(1, len(shape))):
        n = shape[axis]
        kind = draw(st.sampled_from(["positions", "positions", "integer", "slice", "new", "mask"]))
        if kind == "new":
            found.append(None)
            continue
        if kind == "mask" and axis + 2 <= len(shape):
            size = shape[axis : axis + 2]
            found.append(np.random.default_rng(axis).random(size) < 0.5)
            axis += 2
            continue
        if kind == "integer":
            found.append(draw(st.integers(-n, n - 1)))
        elif kind == "slice":
            found.append(slice(draw(st.integers(0, n)), draw(st.integers(0, n)), 2))
        else:
            found.append(np.random.default_rng(axis).integers(-n, n, together))
        axis += 1
    if draw(st.booleans()):
        found.insert(draw(st.integers(0, len(found))), Ellipsis)
    return tuple(found)


@given(key=indices((4, 5, 3, 6)))
@settings(max_examples=60)
def test_several_arrays_of_positions_index_together(key):
    x0 = rand((4, 5, 3, 6))
    try:
        expected = x0[key]
    except IndexError:
        return
    with forbid_executions():
        y = lift(da.from_array(x0, chunks=(2, 2, 3, 4)))[key]
    assert_same(lower(y) if isinstance(y, DispatchArray) else da.from_array(y), expected)


def test_positions_outside_are_refused_before_anything_runs():
    x = lift(da.from_array(rand((4, 3, 5)), chunks=2))
    with pytest.raises(IndexError, match="out of bounds for an axis of size 3"):
        x[[0, 1], [1, 3], 2:]


def test_positions_along_two_of_three_axes_are_not_taken_for_a_product():
    x0 = rand((4, 3, 5))
    x = box(x0)
    with pytest.raises(NotDispatchedError):
        x[np.array([0, 2]), :, np.array([1, 4])] = 1.0
    assert_same(lower(x), x0)


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("op", [operator.iadd, operator.isub, operator.imul, operator.itruediv])
def test_in_place_arithmetic_on_a_part(key, op):
    x0, x = pairs()
    v0 = rand(x0[key].shape, seed=3) + 3
    v = box(v0) if np.ndim(v0) else v0

    def work():
        x[key] = op(x[key], v)

    if lazily_or_refused(key, work) is not REFUSED:
        x0[key] = op(x0[key], v0)
    assert_same(lower(x), x0)


@pytest.mark.parametrize(
    "op", [operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow]
)
@pytest.mark.parametrize("value", [2, 1.5, "array", "box"])
def test_in_place_arithmetic_rebinds_one_box(op, value):
    """Every name for the box sees the write, as with NumPy."""
    x0, x = pairs()
    x0, v0 = np.abs(x0), value
    x = box(x0.copy())
    other = x
    if isinstance(value, str):
        v0 = np.abs(rand(SHAPE, seed=4))
    v = box(v0) if value == "box" else v0
    result = op(x, v)
    assert result is x
    expected = op(x0.copy(), v0)
    assert_same(lower(other), expected)


def test_in_place_never_touches_the_users_array():
    x = to_dask(rand(SHAPE), CHUNKS)
    kept = x.compute()
    name = x.name
    y = lift(x)
    y += 1
    y[0] = 0
    assert x.name == name
    np.testing.assert_array_equal(x.compute(), kept)


def test_in_place_keeps_the_dtype():
    x0, x = pairs(dtype="float32")
    x += np.float64(1)
    x0 += np.float64(1)
    x[0] = np.arange(5.0)
    x0[0] = np.arange(5.0)
    assert_same(lower(x), x0)


def test_in_place_to_a_smaller_dtype_is_refused_as_in_numpy():
    x0, x = pairs()
    with pytest.raises(TypeError):
        x0 += 1j
    with pytest.raises(TypeError):
        x += 1j


def test_a_slice_that_is_written_reaches_its_owner_or_is_refused():
    """In NumPy ``x[1:][...] = 0`` writes into ``x``: a lost write is a wrong answer."""
    for write in [
        lambda a: operator.setitem(a[1:], slice(None), 0),
        lambda a: operator.setitem(a.ravel(), slice(3), 0),
        lambda a: operator.setitem(a.reshape(-1), slice(3), 0),
        lambda a: operator.setitem(a.T, 0, 0),
        lambda a: operator.setitem(a.swapaxes(0, 1), 0, 0),
        lambda a: operator.iadd(a[2], 5),
        lambda a: np.add(a[2], 5, out=a[2]),
        lambda a: a[2].fill(3),
    ]:
        x0, x = pairs()
        write(x0)
        try:
            write(x)
        except (NotDispatchedError, AttributeError):
            continue
        assert_same(lower(x), x0)


def test_a_copy_is_independent():
    x0, x = pairs()
    for copy in [lambda a: a.copy(), np.copy, lambda a: +a, lambda a: a.astype("f8")]:
        y = copy(x)
        assert isinstance(y, DispatchArray)
        y += 1
        assert_same(lower(x), x0)
        assert_same(lower(y), x0 + 1)


def test_backend_functions_write():
    x0, x = pairs()
    y0, y = pairs(seed=1)
    assert inplace_set(x[1:3], y, slice(0, 2)) is y
    y0[0:2] = x0[1:3]
    inplace_add(x[0], y, (slice(None),))
    y0 += x0[0]
    assert_same(lower(y), y0)


def test_write_into_a_numpy_buffer_is_never_lost():
    """A NumPy buffer cannot hold lazy values: PyLops must not lose them silently."""
    x = box(rand(7))
    buffer = np.zeros(7)
    for write in [
        lambda: operator.setitem(buffer, slice(None), x),
        lambda: operator.iadd(buffer, x),
        lambda: np.add(buffer, x, out=buffer),
        lambda: np.copyto(buffer, x),
    ]:
        with count_executions(budget=0), pytest.raises(NotDispatchedError):
            write()


# --------------------------------------------------------------- ufuncs, out=


BINARY = [np.add, np.subtract, np.multiply, np.true_divide, np.maximum, np.hypot]
UNARY = [np.negative, np.abs, np.exp, np.sqrt, np.conj, np.square, np.sign, np.isfinite]


@pytest.mark.parametrize("ufunc", BINARY)
def test_out_is_the_box_that_was_given(ufunc):
    a0, a = pairs()
    b0, b = pairs(seed=1)
    out = get_array_module(a).empty_like(a)
    with forbid_executions():
        result = ufunc(a, b, out=out)
    assert result is out
    assert_same(lower(out), ufunc(a0, b0))
    ufunc(a, b, out=a)
    assert_same(lower(a), ufunc(a0, b0))


@pytest.mark.parametrize("ufunc", BINARY)
def test_binary_ufuncs_with_scalars_and_numpy_arrays(ufunc):
    a0, a = pairs()
    for other in [2, 2.5, np.float32(3), rand(SHAPE, seed=2), rand(5, seed=3)]:
        check(ufunc(a, other), ufunc(a0, other))
        check(ufunc(other, a), ufunc(other, a0))


@pytest.mark.parametrize("ufunc", UNARY)
def test_unary_ufuncs(ufunc):
    a0 = np.abs(rand(SHAPE))
    a = box(a0)
    check(ufunc(a), ufunc(a0))
    check(ufunc(a.ravel()), ufunc(a0.ravel()))


def test_numpy_array_of_the_flat_shape_meets_pieces():
    a0, b0 = rand(SHAPE), rand(30, seed=2)
    y = box(a0, CHUNKS).ravel() * b0
    check(y, a0.ravel() * b0)
    check(b0 - box(a0, CHUNKS).ravel(), b0 - a0.ravel())


@pytest.mark.parametrize(
    "op",
    [
        operator.add,
        operator.sub,
        operator.mul,
        operator.truediv,
        operator.floordiv,
        operator.mod,
        operator.lt,
        operator.le,
        operator.gt,
        operator.ge,
        operator.eq,
        operator.ne,
    ],
)
def test_python_operators(op):
    a0, a = pairs()
    b0, b = pairs(seed=1)
    check(op(a, b), op(a0, b0))
    check(op(a, 2), op(a0, 2))
    check(op(2, a), op(2, a0))
    check(op(a, b0), op(a0, b0))
    check(op(b0, a), op(b0, a0))


def test_matmul_and_unary_operators():
    a0, a = pairs()
    b0, b = pairs((5, 4), seed=1)
    check(a @ b, a0 @ b0)
    check(a @ b0, a0 @ b0)
    check(a0 @ b, a0 @ b0)
    check(-a, -a0)
    check(+a, +a0)
    check(abs(a), abs(a0))
    check(a**2, a0**2)
    check(2**a, 2**a0)


# ---------------------------------------------------------- methods, reductions


METHODS = {
    "conj": lambda x: x.conj(),
    "conjugate": lambda x: x.conjugate(),
    "real": lambda x: x.real,
    "imag": lambda x: x.imag,
    "astype": lambda x: x.astype("complex128"),
    "transpose": lambda x: x.transpose(),
    "transpose axes": lambda x: x.transpose([1, 0]),
    "T": lambda x: x.T,
    "swapaxes": lambda x: x.swapaxes(0, -1),
    "squeeze": lambda x: x[:1].squeeze(),
    "repeat": lambda x: x.repeat(2, axis=0),
    "clip": lambda x: x.real.clip(-0.5, 0.5),
    "round": lambda x: x.round(2),
    "cumsum": lambda x: x.cumsum(axis=0),
    "take": lambda x: x.take([0, 2], axis=1),
    "sum": lambda x: x.sum(),
    "sum axis": lambda x: x.sum(axis=0),
    "sum keepdims": lambda x: x.sum(axis=1, keepdims=True),
    "prod": lambda x: x.prod(axis=0),
    "mean": lambda x: x.mean(axis=-1),
    "std": lambda x: x.std(),
    "var": lambda x: x.var(axis=0),
    "max": lambda x: x.real.max(),
    "min": lambda x: x.real.min(axis=0),
    "argmax": lambda x: x.real.ravel().argmax(),
    "any": lambda x: (x.real > 0).any(),
    "all": lambda x: (x.real > 9).all(axis=0),
    "dot": lambda x: x.dot(x.T),
    "dot vector": lambda x: x.ravel().dot(x.ravel().conj()),
    "np.dot": lambda x: np.dot(x.ravel(), x.ravel()),
    "np.vdot": lambda x: np.vdot(x.ravel(), 1j * x.ravel()),
    "np.vdot 2d": lambda x: np.vdot(x, x),
    "np.inner": lambda x: np.inner(x.ravel(), x.ravel()),
    "np.sum": lambda x: np.sum(np.abs(x)),
    "norm": lambda x: np.linalg.norm(x.ravel()),
    "norm 1": lambda x: np.linalg.norm(x.ravel(), 1),
    "norm inf": lambda x: np.linalg.norm(x.ravel(), np.inf),
    "norm -inf": lambda x: np.linalg.norm(x.ravel(), -np.inf),
    "norm 0": lambda x: np.linalg.norm(x.ravel(), 0),
    "norm 3": lambda x: np.linalg.norm(x.ravel(), 3),
    "norm axis": lambda x: np.linalg.norm(x, axis=0),
    "norm 2d": lambda x: np.linalg.norm(x),
    "norm keepdims": lambda x: np.linalg.norm(x, axis=1, keepdims=True),
    "norm scalar ratio": lambda x: np.linalg.norm(x.ravel()) / np.sqrt(x.size),
}


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_and_reductions(method, dtype):
    x0 = rand(SHAPE, dtype)
    with forbid_executions():
        result = METHODS[method](box(x0, CHUNKS))
    expected = METHODS[method](x0)
    check(result, expected)


@given(chunks=chunks_for(SHAPE))
def test_reductions_of_pieces(chunks):
    x0 = rand(SHAPE, "complex128")
    flat0, flat = x0.ravel(), DispatchArray(to_dask(x0, chunks)).ravel()
    for reduce in [
        np.linalg.norm,
        np.sum,
        lambda v: v.dot(v.conj()),
        lambda v: np.vdot(v, v),
        lambda v: np.max(np.abs(v)),
    ]:
        check(reduce(flat), reduce(flat0))


def test_scalars_take_part_in_arithmetic():
    x0, x = pairs()
    norm0, norm = np.linalg.norm(x0), np.linalg.norm(x)
    check(x / norm, x0 / norm0)
    check(norm * x, norm0 * x0)
    check(np.sqrt(norm**2 + 1), np.sqrt(norm0**2 + 1))
    check(np.abs(-norm), norm0)


# -------------------------------------------------------------- implicit compute

READS = {
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "complex": lambda x: complex(x.sum()),
    "bool": lambda x: bool(x.sum() > 0),
    "if": lambda x: 1 if x.sum() > 0 else 2,
    "item": lambda x: x.sum().item(),
    "asarray": np.asarray,
    "array": np.array,
    "ascontiguousarray": np.ascontiguousarray,
    "require": lambda x: np.require(x, "float64"),
    "format": lambda x: f"{x.sum():.3f}",
    "list": lambda x: [float(v) for v in x[0]],
    "index": lambda x: [1, 2, 3][(x.sum() * 0).astype(int)],
    "math": lambda x: __import__("math").sqrt(abs(x.sum())),
}


@pytest.mark.parametrize("read", READS)
def test_reading_values_is_refused_by_default(read):
    x = box(rand(SHAPE), CHUNKS)
    with forbid_executions(), pytest.raises(NotDispatchedError) as caught:
        READS[read](x)
    assert "set_policy" in str(caught.value)


@pytest.mark.parametrize("read", READS)
def test_reading_values_where_it_is_allowed(read):
    x0 = rand(SHAPE)
    x = box(x0, CHUNKS)
    with pylops_dispatch.set_policy(implicit_compute="allow"):
        result = READS[read](x)
    expected = READS[read](x0)
    assert type(result) is type(expected) or isinstance(result, type(expected))
    if isinstance(expected, str):
        assert result == expected
    else:
        assert_close(np.asarray(result), np.asarray(expected))


def test_truth_of_a_whole_array_is_ambiguous():
    with pytest.raises((ValueError, NotDispatchedError)):
        bool(box(rand(SHAPE)))


# ------------------------------------------------------------- no lost writes

WRITES = {
    "put": lambda x: np.put(x, [0, 7], [1.5, 2.5]),
    "put method": lambda x: x.put([0, 7], [1.5, 2.5]),
    "copyto": lambda x: np.copyto(x, 3.0),
    "copyto where": lambda x: np.copyto(x, 3.0, where=np.eye(6, 5, dtype=bool)),
    "copyto box": lambda x: np.copyto(x, x[::-1] * 1),
    "place": lambda x: np.place(x, np.eye(6, 5, dtype=bool), [1.0, 2.0]),
    "putmask": lambda x: np.putmask(x, np.eye(6, 5, dtype=bool), 9.0),
    "fill_diagonal": lambda x: np.fill_diagonal(x, 4.0),
    "put_along_axis": lambda x: np.put_along_axis(
        x, np.array([[0], [1], [2], [3], [4], [0]]), 8.0, axis=1
    ),
    "add.at": lambda x: np.add.at(x, [0, 0, 3], 1.0),
    "add.at nd": lambda x: np.add.at(x, (slice(None), np.array([0, 0, 3])), 1.0),
    "add.at rows": lambda x: np.add.at(x, (slice(1, 3), np.array([0, 0, 3])), 1.0),
    "subtract.at": lambda x: np.subtract.at(x, [1], 2.0),
    "fill": lambda x: x.fill(2.0),
    "sort": lambda x: x.sort(),
    "partition": lambda x: x.partition(2),
    "resize": lambda x: x.resize((5, 6), refcheck=False),
    "flat": lambda x: operator.setitem(x.flat, slice(3), 1.0),
    "real": lambda x: setattr(x, "real", 2.0),
    "imag": lambda x: setattr(x, "imag", 2.0),
    "shape": lambda x: setattr(x, "shape", (5, 6)),
    "nan_to_num": lambda x: np.nan_to_num(x, copy=False, nan=1.0),
    "clip out": lambda x: np.clip(x, -0.1, 0.1, out=x),
    "round out": lambda x: np.round(x, 1, out=x),
    "cumsum out": lambda x: np.cumsum(x, axis=0, out=x),
    "sum out": lambda x: np.sum(x, axis=0, out=x[0]),
    "dot out": lambda x: np.dot(x[:5], x[1:], out=x[:5]),
    "take out": lambda x: np.take(x, [0, 1, 2, 3, 4, 5], axis=0, out=x),
    "multiply where": lambda x: np.multiply(x, 2.0, out=x, where=np.eye(6, 5, dtype=bool)),
}


@pytest.mark.parametrize("write", WRITES)
def test_no_write_is_lost(write):
    """It works as in NumPy or it raises; the box is never silently unchanged."""
    x0 = rand(SHAPE)
    if write == "nan_to_num":
        x0[2, 2] = np.nan
    if write in ("real", "imag"):
        x0 = x0.astype(complex)
    x = box(x0.copy(), CHUNKS)
    try:
        expected_error = None
        WRITES[write](x0)
    except ValueError as error:  # NumPy refuses an output that overlaps
        expected_error = error
    with forbid_executions():
        try:
            WRITES[write](x)
        except (NotDispatchedError, AttributeError):
            return
        except ValueError:
            assert expected_error is not None
            return
    assert expected_error is None
    assert_same(lower(x), x0)


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize("function", [np.nansum, np.nanmax, np.nanmin])
def test_a_piece_without_a_number_is_left_out(function):
    nothing, numbers = np.full(4, np.nan), rand((3, 5))
    x = np.concatenate([box(nothing), box(numbers).ravel()])
    with forbid_executions():
        result = function(x)
    assert_close(lower(result).compute(), function(numbers))


COMPLEX_WRITES = {
    "real": lambda x: setattr(x, "real", np.ones(SHAPE)),
    "imag": lambda x: setattr(x, "imag", np.ones(SHAPE)),
    "rows of the real part": lambda x: operator.setitem(x.real, slice(1, 3), 2.0),
    "rows of the imaginary part": lambda x: operator.setitem(x.imag, slice(1, 3), 2.0),
    "real part times two": lambda x: operator.imul(x.real, 2),
}


@pytest.mark.parametrize("write", COMPLEX_WRITES)
def test_writing_one_part_of_complex_numbers_keeps_the_other(write):
    x0 = rand(SHAPE, "complex128")
    x = box(x0.copy(), CHUNKS)
    COMPLEX_WRITES[write](x0)
    with forbid_executions():
        COMPLEX_WRITES[write](x)
    assert_same(lower(x), x0)


@pytest.mark.parametrize(
    "index",
    [
        np.array([0, 3, 3, 1, 3]),
        [5, 0],
        (slice(None), np.array([0, 0, 4])),
        (np.array([1, 1, 2]), slice(None)),
    ],
)
def test_add_at_accumulates(index):
    """PyLops's Restriction with repeated indices."""
    x0, x = pairs()
    v0 = rand(x0[index].shape, seed=5)
    with forbid_executions():
        inplace_add(box(v0), x, index, accumulate=True)
    np.add.at(x0, index, v0)
    assert_same(lower(x), x0)


# ----------------------------------------------- every function that NumPy has

# functions whose work is not on values, or which write to a file: the reason each
EXEMPT = {
    "save": "writes a file",
    "savez": "writes a file",
    "savez_compressed": "writes a file",
    "savetxt": "writes a file",
    "array2string": "prints",
    "array_repr": "prints",
    "array_str": "prints",
    "empty_like": "values are not defined",
    "may_share_memory": "a question about memory",
    "shares_memory": "a question about memory",
    "cholesky": "positive definite matrices only, which a lazy one is not known to be",
    "busday_count": "dates only",
    "busday_offset": "dates only",
    "is_busday": "dates only",
    "datetime_as_string": "dates only",
    "require": "a promise about memory",
    **dict.fromkeys(
        "arange array asanyarray asarray ascontiguousarray asfortranarray empty eye "
        "frombuffer fromfile fromfunction fromiter fromstring full genfromtxt "
        "identity loadtxt ones tri zeros".split(),
        "overridden by like= alone; reading is tested above",
    ),
    "copyto": "writes; tested above",
    "put": "writes; tested above",
    "place": "writes; tested above",
    "putmask": "writes; tested above",
    "fill_diagonal": "writes; tested above",
    "put_along_axis": "writes; tested above",
}


def _candidates(x, square, vector, integers):
    """Calls to try on NumPy; the first that works is compared."""
    flag = square > 0
    return [
        lambda f: f(x),
        lambda f: f(square),
        lambda f: f(vector),
        lambda f: f(x, x),
        lambda f: f(square, square),
        lambda f: f(vector, vector),
        lambda f: f(x, 1),
        lambda f: f(x, 1, 2),
        lambda f: f(x, x, x),
        lambda f: f(flag, square, square),
        lambda f: f([x, x]),
        lambda f: f((vector, vector)),
        lambda f: f(vector, integers),
        lambda f: f(integers),
        lambda f: f(integers, vector),
        lambda f: f(x, [0, 1], 0),
        lambda f: f(x, -1, 0),
        lambda f: f(x, (1, 1)),
        lambda f: f(vector, 0, 1.0),
        lambda f: f(vector, vector, 1),
        lambda f: f(vector, np.sort(np.asarray(BINS)), vector[:3]),
        lambda f: f("ij,jk->ik", square, square),
        lambda f: f(lambda v: v.sum(), 0, x),
        lambda f: f(lambda v, axis: np.sum(v, axis=axis, keepdims=True), x, [0]),
        lambda f: f([flag], [square]),
        lambda f: f(flag, [square]),
        lambda f: f((3, 3), x),
        lambda f: f(x, np.array([[0], [1], [2], [3], [4], [0]]), 1),
        lambda f: f([square, square]),
        lambda f: f(integers, (6, 5)),
        lambda f: f((integers, integers), (6, 5)),
        lambda f: f(integers, [square, 2 * square]),
    ]


BINS = [-1.0, 0.0, 1.0]
RAW = {
    "x": rand(SHAPE),
    "square": rand((4, 4)) + 4 * np.eye(4),
    "vector": rand(6, seed=9),
    "integers": np.array([0, 2, 1, 2]),
}
for value in RAW.values():
    value.setflags(write=False)  # the tests share them, in any order


def overridable():
    from numpy.testing.overrides import (
        get_overridable_numpy_array_functions,
        get_overridable_numpy_ufuncs,
    )

    functions = {f for f in get_overridable_numpy_array_functions() if f.__name__ not in EXEMPT}
    functions |= set(get_overridable_numpy_ufuncs())
    return sorted(functions, key=lambda f: (getattr(f, "__module__", "") or "", f.__name__))


def works_in_numpy(function):
    for i in range(len(_candidates(**RAW))):
        # copies: a third argument may be ``out``, which NumPy's choose writes to
        call = _candidates(**{name: value.copy() for name, value in RAW.items()})[i]
        try:
            with np.errstate(all="ignore"):
                return i, call(function)
        except Exception:
            continue
    return None


@pytest.mark.parametrize(
    "function",
    overridable(),
    ids=lambda f: f"{getattr(f, '__module__', None) or 'numpy'}.{f.__name__}",
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_numpy_function_is_lazy_or_refused(function):
    found = works_in_numpy(function)
    if found is None:
        # no arguments of ours fit (strings, dates ...): it must not compute
        for call in _candidates(**{k: box(v) for k, v in RAW.items()})[:3]:
            with forbid_executions(), pytest.raises((TypeError, ValueError)):
                call(function)
        return
    index, expected = found
    boxes = {name: box(value) for name, value in RAW.items()}
    call = _candidates(**boxes)[index]
    with forbid_executions():
        try:
            result = call(function)
        except NotDispatchedError as error:
            refusal = str(error)
        else:
            refusal = None
    if refusal is None and function is np.searchsorted:  # whose values are of sorted arrays only
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    elif refusal is None:
        check(result, expected)
    else:
        assert re.search(rf"\b{function.__name__}\b|asarray|int\(\)", refusal), refusal


def test_python_iteration_over_a_list_of_scalars():
    """PyLops puts 0-d arrays in lists: ``np.linalg.norm([a, b])``."""
    x = box(rand(SHAPE))
    a, b = np.linalg.norm(x), x.sum()
    with forbid_executions():
        try:
            result = np.linalg.norm([a, b])
        except NotDispatchedError:
            return
    check(result, np.linalg.norm([np.linalg.norm(rand(SHAPE)), rand(SHAPE).sum()]))


def test_writing_through_a_view_of_three_permuted_axes():
    x0, values = rand((2, 3, 4)), rand((3, 4, 2))
    x = box(x0.copy())
    x.transpose(1, 2, 0)[...] = DispatchArray(to_dask(values, 2))
    check(x, values.transpose(2, 0, 1))
    view = x.transpose(2, 0, 1)
    view[1:] *= 2
    expected = values.transpose(2, 0, 1).copy()
    expected.transpose(2, 0, 1)[1:] *= 2
    check(x, expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize(
    "layout", [np.asarray, np.asfortranarray, lambda a: a[::2], lambda a: a[:, :0], np.transpose]
)
def test_products_of_blocks_whatever_lies_in_memory(dtype, layout):
    a, b = (layout(rand((12, 10), dtype, seed)) for seed in range(2))
    wide = np.result_type(dtype, np.float64)
    rtol = {"float16": 1e-2}.get(dtype, 1e-5)
    for found, expected in [
        (reductions._block_dot(a, b), np.sum(a.astype(wide) * b)),
        (reductions._block_dot(a, np.asfortranarray(b)), np.sum(a.astype(wide) * b)),
        (reductions._block_square_norm(a), np.sum(np.abs(a.astype(wide)) ** 2)),
    ]:
        assert found.shape == (1, 1)
        np.testing.assert_allclose(found.item(), expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("value", [np.inf, complex(np.inf, 0), complex(0, -np.inf), np.nan])
def test_norms_of_what_is_infinite_are_those_of_numpy(value):
    a = np.full((3, 4), value) * np.array([[1], [0.5], [2]])
    a[0, 0] = 1
    found = reductions._block_square_norm(np.ascontiguousarray(a)).item()
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.sqrt(found), np.linalg.norm(a.ravel()))


def test_blas_has_one_thread_for_the_norm_of_one_of_several_blocks(monkeypatch):
    entered = []

    @contextlib.contextmanager
    def one_thread():
        entered.append(1)
        yield

    monkeypatch.setattr(reductions, "one_blas_thread", one_thread)
    for size, times in [(10_000, 0), (10_001, 1)]:
        reductions._block_square_norm(np.ones(size))
        assert len(entered) == times


@pytest.mark.parametrize("together", [1, 40, 80, 120, 200, 10_000])
@pytest.mark.parametrize("chunks", [5, (5, 1, 9, 2, 3), 20])
def test_blocks_that_one_task_reduces_are_all_of_them(monkeypatch, together, chunks):
    monkeypatch.setattr(reductions, "_TOGETHER", together)
    a, b = rand(20), rand(20, seed=1)
    with in_session(Session()):
        x, y = DispatchArray(to_dask(a, chunks)), DispatchArray(to_dask(b, chunks))
        norm, product = np.linalg.norm(x).dask(), np.dot(x, y).dask()
    assert_close(norm.compute(), np.linalg.norm(a))
    assert_close(product.compute(), np.dot(a, b))
