"""NumPy's functions with all their keywords: what NumPy gives, lazily, or a refusal."""

import itertools
import math

import dask.array as da
import numpy as np
import pylops
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pylops_dispatch import NotDispatchedError
from pylops_dispatch.array import DispatchArray, lift, lower

from .helpers import (
    assert_close,
    assert_same,
    chunks_for,
    forbid_executions,
    noting,
    rand,
    random_chunks,
    to_dask,
)

SHAPE = (4, 5)
DTYPES = ["float64", "float32", "complex128", "int64", "int8", "uint8", "bool"]


def numbers(shape, dtype, seed=0):
    """Small numbers of any dtype, some of them zero."""
    if np.dtype(dtype).kind == "c":
        return rand(shape, dtype, seed)
    return np.round(2 * rand(shape, seed=seed)).astype(dtype)


def box(x, chunks=None):
    return DispatchArray(to_dask(x, random_chunks(x.shape, 1) if chunks is None else chunks))


def vector(x, chunks=None):
    """The flattening of a matrix that is in chunks."""
    return box(x, chunks).ravel()


def assert_as_numpy(call, arrays, boxes):
    """`call` gives what NumPy gives, and raises where NumPy does; or else it is refused."""
    try:
        expected = call(*arrays)
    except (TypeError, ValueError, IndexError) as error:
        with forbid_executions(), pytest.raises((type(error), TypeError)):
            call(*boxes)
        return
    with forbid_executions():
        result = call(*boxes)
    assert_equal(result, expected)


def assert_as_numpy_or_refused(call, arrays, boxes):
    """As above; a refusal is fine, and says so."""
    try:
        assert_as_numpy(call, arrays, boxes)
    except NotDispatchedError:
        return


def assert_equal(result, expected):
    if isinstance(expected, tuple):
        for one, other in zip(result, expected, strict=True):
            assert_equal(one, other)
        return
    result = lower(result) if isinstance(result, DispatchArray) else result
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    if isinstance(result, da.Array):
        result = result.compute(scheduler="synchronous")
    assert result.dtype == expected.dtype
    assert_close(result, expected)


# --------------------------------------------------------------------- calls of ufuncs


SETTINGS = [
    {"dtype": "complex128"},
    {"dtype": "float32"},
    {"dtype": "int64"},
    {"dtype": "int64", "casting": "unsafe"},
    {"dtype": "float64", "casting": "no"},
    {"casting": "safe"},
    {"casting": "no"},
    {"signature": "dd->d"},
    {"signature": "ff->f", "casting": "unsafe"},
    {"signature": (None, None, "complex128")},
    {"dtype": None, "order": "F", "subok": False, "casting": "same_kind"},
]


@pytest.mark.parametrize("of_loop", SETTINGS, ids=str)
@given(
    ufunc=st.sampled_from([np.add, np.multiply, np.equal, np.maximum, np.true_divide]),
    first=st.sampled_from(DTYPES),
    second=st.sampled_from(DTYPES),
    chunks=chunks_for(SHAPE),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_a_ufunc_takes_the_settings_of_its_loop(of_loop, ufunc, first, second, chunks):
    x, y = numbers(SHAPE, first), numbers(SHAPE, second, seed=1)
    call = lambda a, b: ufunc(a, b, **of_loop)  # noqa: E731
    assert_as_numpy(call, (x, y), (box(x, chunks), box(y)))
    assert_as_numpy(call, (x, y), (x, box(y, chunks)))
    assert_as_numpy(call, (x, y[0]), (box(x, chunks), box(y[0])))
    assert_as_numpy(call, (x.ravel(), y.ravel()), (vector(x, chunks), vector(y)))
    assert_as_numpy(lambda a: ufunc(a, 2, **of_loop), (x,), (box(x, chunks),))


def test_the_sum_of_two_booleans_may_be_two():
    x = np.array([True, False, True])
    assert_as_numpy(lambda a: np.add(a, a, dtype=complex), (x,), (box(x),))


def test_objects_are_refused():
    with forbid_executions(), pytest.raises(NotDispatchedError, match="objects"):
        np.add(box(rand(5)), 1, dtype=object)


@pytest.mark.parametrize("chosen", [{"dtype": "float32"}, {"casting": "no"}], ids=str)
def test_a_ufunc_with_two_results_takes_settings_or_is_refused(chosen):
    x = rand(6)
    assert_as_numpy_or_refused(lambda a: np.modf(a, **chosen), (x,), (box(x),))


@pytest.mark.parametrize("shape", [(4, 5), (5,), (1,), (2, 4, 5)])
@pytest.mark.parametrize("kind", ["array", "box", "number"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_a_ufunc_writes_where_a_mask_is_true(shape, kind, dtype):
    x, mask = rand(SHAPE), rand(shape, seed=2) > 0
    mask = mask.astype(int) if kind == "number" else mask

    def call(a, where):
        out = np.ones_like(a, dtype=dtype)
        assert np.multiply(a, 2, out=out, where=where) is out
        return out

    assert_as_numpy(call, (x, mask), (box(x), box(mask) if kind == "box" else mask))


def test_a_mask_goes_for_all_the_outputs_of_a_ufunc():
    x, mask = rand(6), rand(6, seed=1) > 0

    def call(a):
        out = np.ones_like(a), np.ones_like(a)
        assert np.modf(a, where=mask, out=out) == out
        return out

    assert_as_numpy(call, (x,), (box(x),))


def test_a_mask_may_enlarge_a_result():
    mask = np.ones((2, 5), dtype=bool)
    result = np.multiply(box(np.ones(5)), 2, where=mask)
    assert_equal(result, np.full((2, 5), 2.0))


@pytest.mark.parametrize("ufunc", [np.matmul, np.vecdot], ids=lambda ufunc: ufunc.__name__)
@pytest.mark.parametrize(
    "chosen",
    [{}, {"dtype": complex}, {"axis": 0}, {"casting": "no"}, {"keepdims": True}],
    ids=str,
)
def test_products_take_settings_or_are_refused(ufunc, chosen):
    x = rand((4, 4))
    assert_as_numpy_or_refused(lambda a: ufunc(a, a, **chosen), (x,), (box(x),))


# ------------------------------------------------------------------- methods of ufuncs


REDUCED = [np.add, np.multiply, np.maximum, np.minimum, np.logical_and, np.logical_or]
AXES = [None, 0, 1, -1, (0, 1), (1,), ()]


@st.composite
def keywords_of_reduce(draw):
    found = {}
    if draw(st.booleans()):
        found["axis"] = draw(st.sampled_from(AXES))
    if draw(st.booleans()):
        found["keepdims"] = draw(st.booleans())
    if draw(st.booleans()):
        found["initial"] = draw(st.sampled_from([0, 1, 100.0, 2.7, True, None]))
    if draw(st.booleans()):
        found["dtype"] = draw(st.sampled_from(["float32", "int64", "complex128", "bool"]))
    return found


@pytest.mark.parametrize("ufunc", REDUCED, ids=lambda ufunc: ufunc.__name__)
@given(
    dtype=st.sampled_from(DTYPES),
    chunks=chunks_for(SHAPE),
    keywords=keywords_of_reduce(),
    mask=st.sampled_from([None, "array", "box", "row"]),
)
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_reduce_takes_all_its_keywords(ufunc, dtype, chunks, keywords, mask):
    x = numbers(SHAPE, dtype)
    where = rand(SHAPE, seed=3) > 0
    where = {None: True, "row": where[0]}.get(mask, where)
    lazy = box(where) if mask == "box" else where
    assert_as_numpy(
        lambda a, w: ufunc.reduce(a, where=w, **keywords), (x, where), (box(x, chunks), lazy)
    )


@pytest.mark.parametrize("ufunc", REDUCED, ids=lambda ufunc: ufunc.__name__)
@pytest.mark.parametrize("initial", [{}, {"initial": 100.0}])
@pytest.mark.parametrize("masked", [False, True])
def test_reduce_of_a_vector_goes_piece_by_piece(ufunc, initial, masked):
    x = numbers(SHAPE, "float64")
    mask = rand(20, seed=3) > 0 if masked else True
    assert_as_numpy(lambda a: ufunc.reduce(a.ravel(), where=mask, **initial), (x,), (box(x),))


@pytest.mark.parametrize(
    "function",
    [np.sum, np.prod, np.max, np.min, np.any, np.all, np.nansum, np.nanmax, np.nanmin, np.mean],
    ids=lambda function: function.__name__,
)
def test_functions_that_reduce_take_a_mask_a_start_and_an_output(function):
    x = numbers(SHAPE, "float64")
    mask = rand(SHAPE, seed=3) > 0
    for call in [
        lambda a: function(a, where=mask),
        lambda a: function(a, 0, where=mask, initial=1.5),
        lambda a: function(a, initial=1.5),
        lambda a: function(a, 0, out=np.zeros_like(a)[0]),
        lambda a: function(a, 0, out=np.zeros_like(a, dtype=int)[0]),
        lambda a: function(a, 0, out=np.zeros_like(a)),
        lambda a: function(a, 0, keepdims=True),
    ]:
        assert_as_numpy_or_refused(call, (x,), (box(x),))


def test_the_third_argument_of_the_largest_element_is_the_output():
    x = rand(SHAPE)
    assert_as_numpy(lambda a: np.max(a, 0, np.zeros_like(a)[0]), (x,), (box(x),))


def test_the_largest_of_no_elements_is_what_it_starts_with_or_is_refused():
    assert_as_numpy_or_refused(lambda a: np.max(a[:0], initial=3.0), (rand(5),), (box(rand(5)),))


@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.maximum], ids=lambda u: u.__name__)
@given(
    dtype=st.sampled_from(DTYPES),
    chunks=chunks_for(SHAPE),
    axis=st.sampled_from([{}, {"axis": 0}, {"axis": 1}, {"axis": -1}]),
    wanted=st.sampled_from([{}, {"dtype": "float32"}, {"dtype": "bool"}]),
)
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_accumulate_takes_all_its_keywords(ufunc, dtype, chunks, axis, wanted):
    x = numbers(SHAPE, dtype)
    call = lambda a: ufunc.accumulate(a, **axis, **wanted)  # noqa: E731
    assert_as_numpy_or_refused(call, (x,), (box(x, chunks),))


@pytest.mark.parametrize("wanted", [None, "float32", "int8", "bool", "complex128"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize(
    "function", [np.cumsum, np.cumprod, np.nancumsum, np.nancumprod], ids=lambda f: f.__name__
)
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_accumulations_are_in_the_dtype_that_is_wanted(function, axis, dtype, wanted):
    x = numbers(SHAPE, dtype)
    assert_as_numpy(lambda a: function(a, axis, wanted), (x,), (box(x),))


@pytest.mark.parametrize("chosen", [{}, {"keepdims": True}, {"method": "lower"}], ids=str)
@pytest.mark.parametrize("q", [0, 0.3, [0.1, 1], [[0.1, 0.2], [0.3, 0.4]]], ids=str)
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 1)])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int8"])
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
def test_quantiles_of_numbers_are_of_numpys_shape_and_dtype(dtype, axis, q, chosen):
    x = numbers(SHAPE, dtype)
    if x.dtype.kind == "f":
        x[0, 0] = x[:, 1] = np.nan
    call = lambda a: np.nanquantile(a, q, axis, **chosen)  # noqa: E731
    for chunks in (-1, None):
        assert_as_numpy(call, (x,), (box(x, chunks),))


@pytest.mark.parametrize("chosen", [{}, {"keepdims": True}], ids=str)
@pytest.mark.parametrize("axis", [None, 0, -1, (1, 0)])
@pytest.mark.parametrize(
    "function",
    [np.median, np.nanmedian, lambda x, **more: np.percentile(x, [[20], [30]], **more)],
    ids=["median", "nanmedian", "percentile"],
)
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_functions_of_sorted_values_along_axes(function, axis, chosen):
    x = numbers(SHAPE, "float32")
    x[0, 0] = x[:, 1] = np.nan
    assert_as_numpy(lambda a: function(a, axis=axis, **chosen), (x,), (box(x),))


@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.maximum], ids=lambda u: u.__name__)
@pytest.mark.parametrize("keywords", [{}, {"dtype": complex}, {"casting": "no", "dtype": int}])
def test_outer_takes_all_its_keywords(ufunc, keywords):
    x, y = rand(3), rand((2, 2), seed=1)
    call = lambda a, b: ufunc.outer(a, b, **keywords)  # noqa: E731
    assert_as_numpy(call, (x, y), (box(x), box(y)))
    assert_as_numpy(call, (x, y), (box(x), y))
    assert_as_numpy(call, (x, y), (x.tolist(), box(y)))


def test_outer_writes_where_a_mask_is_true():
    x, mask = rand(4), np.eye(4, dtype=bool)

    def call(a):
        out = np.zeros_like(a, shape=(4, 4))
        assert np.multiply.outer(a, a, out=out, where=mask) is out
        return out

    assert_as_numpy(call, (x,), (box(x),))


@pytest.mark.parametrize("method", ["reduce", "accumulate"])
def test_methods_write_into_their_output(method):
    x = np.abs(rand(SHAPE)) + 0.6
    shape = (5,) if method == "reduce" else SHAPE

    def call(dtype, wanted):
        def run(a):
            out = np.zeros_like(a, dtype=dtype, shape=wanted)
            assert getattr(np.add, method)(a, out=out) is out
            return out

        return run

    for dtype in ("float64", "float32", "int64"):
        assert_as_numpy(call(dtype, shape), (x,), (box(x),))
    assert_as_numpy(call("float64", (3, 5)), (x,), (box(x),))


def test_at_refuses_to_round():
    def call(a):
        np.add.at(a, [0, 0], 1.5)
        return a

    with pytest.raises(NotDispatchedError, match=r"np.add.at of int64.*rounds"):
        call(box(np.arange(5)))


@pytest.mark.parametrize("method", ["reduceat", "reduce", "accumulate"])
def test_methods_that_have_no_lazy_form_are_refused(method):
    more = ([0, 2],) if method == "reduceat" else ()
    with forbid_executions(), pytest.raises(NotDispatchedError, match=f"hypot.{method}"):
        getattr(np.hypot, method)(box(rand(5)), *more)


# ------------------------------------------------------------------------------ np.pad


WIDTHS = [0, 1, 3, 11, (2, 0), [(1, 4), (0, 2)], ((0, 9), (7, 0)), [[1], [2]], {1: 3}, {0: (1, 2)}]
ENDS = [0, 2, -1.5, (1, 2), [(3, 4), (5.5, 6)], [[1], [2]]]
LENGTHS = [None, 1, 2, (1, 3), [(2, 1), (4, 50)]]
PADDINGS = {
    "constant": ("constant_values", ENDS), "linear_ramp": ("end_values", ENDS),
    "maximum": ("stat_length", LENGTHS), "minimum": ("stat_length", LENGTHS),
    "mean": ("stat_length", LENGTHS), "median": ("stat_length", LENGTHS),
    "reflect": ("reflect_type", ["even", "odd"]), "symmetric": ("reflect_type", ["even", "odd"]),
    "edge": None, "wrap": None,
}  # fmt: skip


def pairs_of(width):
    """The same widths in a form that every NumPy takes."""
    if not isinstance(width, dict):
        return width
    return [np.broadcast_to(width.get(axis, 0), 2) for axis in range(2)]


try:
    TAKES_DICTS = np.pad(np.ones(1), {0: 1}).size == 3
except TypeError:  # before NumPy 2.2, where lazy arrays take them all the same
    TAKES_DICTS = False


@pytest.mark.parametrize("mode", PADDINGS)
@given(data=st.data(), chunks=chunks_for(SHAPE), dtype=st.sampled_from([*DTYPES, ">i4", ">f8"]))
@settings(max_examples=40)
def test_pad_is_that_of_numpy(mode, data, chunks, dtype):
    x = numbers(SHAPE, dtype)
    width = data.draw(st.sampled_from(WIDTHS))
    keywords = {}
    if PADDINGS[mode] is not None and data.draw(st.booleans()):
        keyword, values = PADDINGS[mode]
        keywords[keyword] = data.draw(st.sampled_from(values))
    call = lambda a, width: np.pad(a, width, mode, **keywords)  # noqa: E731
    known = width if TAKES_DICTS else pairs_of(width)
    assert_as_numpy(call, (x, known), (box(x, chunks), width))


@pytest.mark.parametrize("mode", PADDINGS)
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("width", [1, (0, 3), (14, 3), 23])
def test_pad_of_a_vector_by_more_than_it_has(mode, n, width):
    x = rand(n)
    assert_as_numpy(lambda a: np.pad(a, width, mode), (x,), (box(x),))
    if mode in ("reflect", "symmetric"):
        call = lambda a: np.pad(a, width, mode, reflect_type="odd")  # noqa: E731
        assert_as_numpy(call, (x,), (box(x),))


@pytest.mark.parametrize("mode", PADDINGS)
@pytest.mark.parametrize("width", [1, ((0, 0), (1, 2)), ((1, 1), (0, 0))])
def test_pad_of_no_elements(mode, width):
    x = np.zeros((0, 3))
    assert_as_numpy(lambda a: np.pad(a, width, mode), (x,), (box(x, ((0,), (2, 1))),))


def test_pad_leaves_what_is_inside_where_the_rest_is_not_set():
    x = rand(SHAPE)
    result = np.pad(box(x), ((1, 2), (0, 3)), mode="empty")
    assert result.shape == (7, 8)
    assert_equal(result[1:5, :5], x)


@pytest.mark.parametrize("width", [-1, 1.0, [1, -2], [1, 2, 3], "2"])
def test_pad_by_no_width(width):
    assert_as_numpy(lambda a: np.pad(a, width, "edge"), (rand(SHAPE),), (box(rand(SHAPE)),))


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "nearest"},
        {"mode": "edge", "stat_length": 1},
        {"mode": "maximum", "stat_length": 0},
        {"mode": "mean", "stat_length": -1},
        {"mode": "constant", "constant_values": np.nan},
    ],
    ids=str,
)
def test_pad_raises_what_numpy_does(arguments):
    x = np.arange(5)
    assert_as_numpy(lambda a: np.pad(a, 2, **arguments), (x,), (box(x),))


@pytest.mark.parametrize(
    "arguments", [{"mode": "mean", "stat_length": 0}, {"mode": print}], ids=str
)
def test_pad_that_cannot_be_lazy_is_refused(arguments):
    with forbid_executions(), pytest.raises(NotDispatchedError, match=r"np\.pad"):
        np.pad(box(rand(5)), 2, **arguments)


# ------------------------------------------------------------------ dtypes, byte orders


ORDERS = [None, 0, 1, 2, 3, -1, 0.5, np.inf, -np.inf, "fro", "nuc"]


@pytest.mark.parametrize("order", ORDERS)
@given(
    dtype=st.sampled_from(DTYPES),
    chunks=chunks_for(SHAPE),
    place=st.sampled_from([{}, {"axis": 0}, {"axis": 1, "keepdims": True}, {"axis": (0, 1)}]),
)
def test_norm_is_of_numpys_dtype(order, dtype, chunks, place):
    x = numbers(SHAPE, dtype)
    call = lambda a: np.linalg.norm(a, order, **place)  # noqa: E731
    assert_as_numpy_or_refused(call, (x,), (box(x, chunks),))
    if not place and order not in ("fro", "nuc"):
        call = lambda a: np.linalg.norm(a.ravel(), order)  # noqa: E731
        assert_as_numpy(call, (x,), (box(x, chunks),))


JOINED = [{}, {"dtype": "float32"}, {"dtype": "int64"}, {"dtype": "int64", "casting": "unsafe"},
          {"casting": "no"}, {"dtype": "complex128", "casting": "safe"}]  # fmt: skip


@pytest.mark.parametrize("keywords", JOINED, ids=str)
@pytest.mark.parametrize("axis", [0, 1, -1, None, 2])
@given(first=st.sampled_from(DTYPES), second=st.sampled_from(DTYPES), chunks=chunks_for(SHAPE))
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_concatenate_takes_all_its_keywords(keywords, axis, first, second, chunks):
    x, y = numbers(SHAPE, first), numbers(SHAPE, second, seed=1)
    call = lambda a, b: np.concatenate([a, b], axis=axis, **keywords)  # noqa: E731
    assert_as_numpy(call, (x, y), (box(x, chunks), box(y)))
    assert_as_numpy(call, (x, y), (box(x, chunks), y))
    call = lambda a, b: np.concatenate([a.ravel(), b[0]], axis=axis, **keywords)  # noqa: E731
    assert_as_numpy(call, (x, y), (box(x, chunks), box(y)))


@pytest.mark.parametrize("keywords", JOINED, ids=str)
@pytest.mark.parametrize(
    "function", [np.hstack, np.vstack, np.stack, np.dstack, np.column_stack, np.append]
)
def test_functions_that_join_take_keywords_or_are_refused(function, keywords):
    x, y = numbers(SHAPE, "float64"), numbers(SHAPE, "int8", seed=1)
    if function is np.append:
        assert_as_numpy(lambda a, b: np.append(a, b), (x, y), (box(x), box(y)))
        return
    for part in [(), (0,)]:
        call = lambda a, b: function([a[part], b[part]], **keywords)  # noqa: B023, E731
        assert_as_numpy_or_refused(call, (x, y), (box(x), box(y)))


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
@pytest.mark.parametrize("keywords", [{}, {"casting": "unsafe"}, {"dtype": "float64"}], ids=str)
@pytest.mark.parametrize("n", [10, 11])
def test_concatenate_writes_into_its_output(dtype, keywords, n):
    def call(a):
        out = np.zeros_like(a, dtype=dtype, shape=(n,))
        assert np.concatenate([a, a], out=out, **keywords) is out
        return out

    assert_as_numpy(call, (rand(5),), (box(rand(5)),))


BYTES = {
    "pad": lambda a: np.pad(a, 1), "edge": lambda a: np.pad(a, 1, "edge"),
    "fftshift": np.fft.fftshift, "ifftshift": np.fft.ifftshift, "round": np.round,
    "roll": lambda a: np.roll(a, 1, 0), "tile": lambda a: np.tile(a, 2),
    "repeat": lambda a: np.repeat(a, 2, axis=1), "delete": lambda a: np.delete(a, 1, axis=0),
    "insert": lambda a: np.insert(a, 1, 0, axis=0), "max": np.max, "nanmin": np.nanmin,
    "max of rows": lambda a: np.max(a, axis=1), "vector": lambda a: np.min(a.ravel()),
    "concatenate": lambda a: np.concatenate([a, a]), "add": lambda a: a + a,
}  # fmt: skip


@pytest.mark.parametrize("function", BYTES.values(), ids=BYTES)
@pytest.mark.parametrize("dtype", [">f8", ">i4", "<f4"])
def test_the_byte_order_is_that_of_numpy(function, dtype):
    x = numbers(SHAPE, dtype)
    assert_as_numpy(function, (x,), (box(x),))


# --------------------------------------------------------------------------- np.einsum


SUMS = ["ij->", "ij->j", "ij->ji", "ij", "ji", "...j->...", "ij,ij->i", "ij,ij", "ij,kj->ik",
        "ij,kj", "ij,kl->", "...j,...j->..."]  # fmt: skip


@pytest.mark.parametrize("subscripts", SUMS)
@given(
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    chunks=chunks_for(SHAPE),
    keywords=st.sampled_from(
        [{}, {"dtype": "float64"}, {"dtype": "float32", "casting": "unsafe"}, {"optimize": True}]
    ),
)
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_einsum_is_that_of_numpy(subscripts, dtypes, chunks, keywords):
    # NumPy's optimized path adds each array up in a dtype of its own
    assume(not keywords.get("optimize") or set(dtypes) <= {"float64", "complex128"})
    count = subscripts.partition("->")[0].count(",") + 1
    arrays = [numbers(SHAPE, dtype, seed) for seed, dtype in enumerate(dtypes)][:count]
    boxes = [box(arrays[0], chunks), *map(box, arrays[1:])]
    assert_as_numpy(lambda *given: np.einsum(subscripts, *given, **keywords), arrays, boxes)


def test_einsum_takes_lists_of_axes_numpy_arrays_and_an_output():
    x, y = rand(SHAPE), rand(SHAPE, seed=1)
    call = lambda a, b: np.einsum(a, [0, 1], b, [2, 1], [0, 2])  # noqa: E731
    assert_as_numpy(call, (x, y), (box(x), box(y)))
    assert_as_numpy(call, (x, y), (box(x), y))

    def into(a):
        out = np.zeros_like(a)[0]
        assert np.einsum("ij->j", a, out=out) is out
        return out

    assert_as_numpy(into, (x,), (box(x),))


@pytest.mark.parametrize("subscripts", ["ii->i", "ii->", "ii", "ii,ij->j", "ij,jj->i"])
def test_einsum_along_a_diagonal_is_refused(subscripts):
    x = box(rand((3, 3)))
    with forbid_executions(), pytest.raises(NotDispatchedError, match=r"np\.einsum.*twice"):
        np.einsum(subscripts, *[x] * (1 + subscripts.count(",")))


@pytest.mark.parametrize(
    "shapes", [((3, 1), (3, 4)), ((1,), (4,)), ((3, 4), (2, 5)), ((3,), (3, 4))]
)
def test_einsum_of_other_lengths_is_repeated_or_refused(shapes):
    arrays = [rand(shape) for shape in shapes]
    names = "ij"[-len(shapes[0]) :] if len(shapes[0]) == len(shapes[1]) else "ij"
    call = lambda a, b: np.einsum(f"{names},{names}->", a, b)  # noqa: E731
    assert_as_numpy_or_refused(call, arrays, [box(a) for a in arrays])


# ------------------------------------------------------------- methods and operators

METHODS = """
x.all(axis=0); x.any(axis=-1, keepdims=True); x.argmax(); x.argmin(0); x.argsort(axis=1)
x.astype("float32"); x.astype(complex); x.clip(0, 1); x.clip(max=1); x.compress([1, 0, 1], axis=1)
x.conj(); x.copy(); x.cumprod(0); x.cumsum(); x.cumsum(axis=1); x.diagonal(1); x.dot(y); x.imag
x.flatten(); x.max(axis=0); x.mean(axis=1, keepdims=True); x.min(axis=(0, 1)); x.mT; x.prod()
x.ravel(); x.real; x.repeat(2, axis=0); x.reshape(2, -1); x.round(1); x[None].squeeze(0); x.std()
x.std(axis=0, ddof=1); x.sum(); x.sum(axis=0, keepdims=True); x.sum(dtype="float32"); x.T; -x; +x
x.swapaxes(0, 1); x.take([0, 2], axis=1); x.take([1, 5, 3]); x.trace(); x.transpose(1, 0); abs(x)
x.var(axis=1); ~x; x @ y; 2 ** abs(x)
x // 2; x % 2; divmod(x, 2); x / 2; x << 1; x & 1; x | 1; x ^ 1
x == y.T; x != 2; x < 2; 2 > x; x >= y.T; 2.5 - x; np.float32(2) * x; x * np.float64(2); x + 1j
x + True; sum(x); list(x)[0]; x[0].max(); x.mean(0) * 2
"""


@pytest.mark.filterwarnings("ignore")  # NumPy's own, of casts, overflows and divisions
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("call", [c.strip() for c in METHODS.replace("\n", ";").split(";") if c])
def test_methods_and_operators_are_numpys_of_any_dtype(call, dtype):
    x, y = numbers((4, 3), dtype), numbers((3, 4), dtype, seed=1)
    try:
        expected = eval(call, {"x": x.copy(), "y": y.copy(), "np": np})
    except TypeError:
        with pytest.raises(TypeError):
            eval(call, {"x": box(x), "y": box(y), "np": np})
        return
    with forbid_executions():
        result = eval(call, {"x": box(x), "y": box(y), "np": np})
    parts = zip(*(r if isinstance(r, tuple) else (r,) for r in (result, expected)), strict=True)
    for part, known in parts:
        array = lower(part)
        assert (array.shape, array.dtype) == (known.shape, known.dtype)
        assert_close(array.compute(), known)


@given(data=st.data())
@settings(max_examples=60)
def test_of_equal_extremes_the_first_is_found(data):
    """In C order, whatever the chunks; what is not a number counts as an extreme."""
    shape = data.draw(st.sampled_from([(6,), (3, 4), (2, 3, 2)]))
    values = st.sampled_from([0.0, 1.0, 2.0, np.nan])
    x = np.reshape(data.draw(st.lists(values, min_size=12, max_size=12)), -1)[: np.prod(shape)]
    x = x.reshape(shape)
    lazy = box(x, data.draw(chunks_for(shape)))
    lazy = lazy.ravel() if data.draw(st.booleans()) else lazy
    for function in (np.argmax, np.argmin, np.nanargmax, np.nanargmin):
        with forbid_executions():
            found = function(lazy)
        assert found.dtype == np.intp
        if function in (np.nanargmax, np.nanargmin) and np.isnan(x).all():
            with pytest.raises(ValueError, match="All-NaN"):
                found.compute()
        else:
            assert found.compute() == function(x)


# ----------------------------------------------------------------------- products


@given(data=st.data())
@settings(max_examples=60)
def test_tensordot_counts_axes_from_the_end_too(data):
    shape, other = (2, 3, 4), (4, 3, 2)
    count = data.draw(st.integers(0, 3))
    first = data.draw(st.permutations(range(3)))[:count]
    second = [2 - axis for axis in first]
    negative = [data.draw(st.sampled_from([0, 3])) for _ in range(2 * count)]
    first = [axis - shift for axis, shift in zip(first, negative[:count], strict=True)]
    second = [axis - shift for axis, shift in zip(second, negative[count:], strict=True)]
    axes = (first, second) if count != 1 or data.draw(st.booleans()) else (first[0], second[0])
    x, y = rand(shape), rand(other, seed=1)
    with forbid_executions():
        found = np.tensordot(
            box(x, data.draw(chunks_for(shape))), box(y, data.draw(chunks_for(other))), axes
        )
    expected = np.tensordot(x, y, axes)
    assert found.shape == expected.shape
    assert_close(found.compute(), expected)


@pytest.mark.parametrize("shapes", [((3, 4), (4,)), ((4,), (3, 4)), ((2, 3, 4), (5, 4))])
def test_inner_is_over_the_last_axes(shapes):
    x, y = rand(shapes[0]), rand(shapes[1], seed=1)
    assert_close(np.inner(box(x), box(y)).compute(), np.inner(x, y))


# dask factorises the blocks on the diagonal, which may have no inverse
NEEDS_PIVOTS = {
    "permutation": np.eye(4)[[2, 3, 0, 1]],
    "small_block": np.block(
        [[1e-13 * rand((2, 2)), rand((2, 2), seed=1)], [rand((2, 2), seed=2), rand((2, 2), seed=3)]]
    ),
}


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("chunks", [2, 3, 4, ((1, 3), (2, 2))])
@pytest.mark.parametrize("name", NEEDS_PIVOTS)
def test_inverses_and_solutions_look_for_pivots_in_the_whole_matrix(name, chunks):
    matrix, data = NEEDS_PIVOTS[name], rand((4, 3))
    lazy = to_dask(matrix, chunks)
    with forbid_executions():
        inverse, solution = np.linalg.inv(box(matrix, chunks)), np.linalg.solve(lift(lazy), data)
        own = pylops.MatrixMult(lazy).inv()
    assert_close(inverse.compute(), np.linalg.inv(matrix), rtol=1e-12)
    assert_close(solution.compute(), np.linalg.solve(matrix, data), rtol=1e-12)
    assert_close(own.compute(), np.linalg.inv(matrix), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", "float16", "float32"])
def test_numbers_that_come_to_one_position_are_added_in_the_dtype_of_the_sum(dtype):
    values = np.array([100, 100.3, 100, 99, 28]).astype(dtype)
    positions = np.array([0, 0, 0, 1, 1])
    expected, lazy = np.zeros(5), np.zeros_like(box(np.zeros(5)))
    np.add.at(expected, positions, values)
    np.add.at(lazy, positions, box(values))
    assert_close(lazy.compute(), expected)
    restriction = pylops.Restriction(5, positions)
    assert_close((restriction.H @ to_dask(values, 2)).compute(), restriction.H @ values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("ends", ["before", "after", "both", "a number before"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_differences_with_lazy_ends(dtype, order, ends, axis):
    def call(a):
        first, last = (a[:1], a[-2:]) if axis == 0 else (a[:, :1], a[:, -2:])
        more = {
            "before": {"prepend": first},
            "after": {"append": last},
            "both": {"prepend": first, "append": last},
            "a number before": {"prepend": a[0, 0]},
        }[ends]
        return np.diff(a, order, axis, **more)

    x = numbers(SHAPE, dtype)
    assert_as_numpy(call, (x,), (box(x),))


def test_differences_have_the_errors_of_numpy():
    x = rand(SHAPE)
    for call in [
        lambda a: np.diff(a[0, 0]),
        lambda a: np.diff(a, -1),
        lambda a: np.diff(a, axis=2),
        lambda a: np.diff(a, prepend=a),
        lambda a: np.diff(a, prepend=a[:1]),
    ]:
        assert_as_numpy(call, (x,), (box(x),))


@pytest.mark.parametrize("dtype", ["float32", "complex128", "int8"])
def test_arrays_are_filled_with_lazy_numbers(dtype):
    def filled(a):
        new = np.empty_like(a)
        new.fill(a.sum())
        return new

    x = numbers(SHAPE, dtype)
    calls = [
        filled,
        lambda a: np.full_like(a, a.max()),
        lambda a: np.full_like(a, a[0], dtype=float),
        lambda a: np.full_like(a, a[0, 0], shape=(2, 3)),
    ]
    for call in calls[:1] if dtype == "complex128" else calls:
        assert_as_numpy(call, (x,), (box(x),))


@pytest.mark.parametrize("dtype", ["float32", "complex64", "int16"])
@pytest.mark.parametrize("function", [np.linspace, np.logspace, np.geomspace])
def test_ranges_between_lazy_ends(function, dtype):
    x = np.arange(1, 5).astype(dtype)
    for call in (
        lambda a: function(a[0], a[-1], 7),
        lambda a: function(a.sum(), 3, num=5, endpoint=False),
        lambda a: function(2.5, a[1], 1),
        lambda a: function(1, a.max(), 4, dtype="float32") if dtype != "complex64" else a,
        lambda a: function(a[0], a[-1], -1),
    ):
        assert_as_numpy(call, (x,), (box(x),))


@pytest.mark.parametrize("call", [
    lambda a: np.linspace(a, 3),
    lambda a: np.logspace(0, a),
    lambda a: np.linspace(a[0], 3, retstep=True),
])  # fmt: skip
def test_a_range_between_lazy_arrays_or_with_its_step_is_refused(call):
    with forbid_executions(), pytest.raises(NotDispatchedError, match="single numbers"):
        call(box(rand(3)))


def test_lazy_spacing_is_refused():
    x = box(rand(SHAPE))
    for spacing in x[0, 0], x[:, 0], x[:, 0].dask():
        with forbid_executions(), pytest.raises(NotDispatchedError, match="lazy spacing"):
            np.gradient(x, spacing, axis=0)


def test_a_function_of_dask_takes_no_lazy_array_as_a_setting():
    """It would be within tasks, where it waits for ever in a solver."""
    x = box(rand(SHAPE))
    with forbid_executions(), pytest.raises(NotDispatchedError, match="in this place"):
        da.map_blocks(lambda block, by: block * by, x.dask(), by=x[0, 0], dtype=float)


@pytest.mark.parametrize("change", [np.negative, np.conj, lambda x: 2 * x, lambda x: x - x[::-1]])
def test_what_is_made_of_masked_arrays_says_so(change):
    """``_meta`` is what operators look at that cannot do with masks."""
    mask = np.array([False, True, False, False])
    x = np.ma.masked_array(rand(4), mask)
    lazy = da.ma.masked_array(to_dask(rand(4), 2), mask=to_dask(mask, 2))
    found, expected = lower(change(lift(lazy))), change(x)
    assert isinstance(found._meta, np.ma.MaskedArray)
    np.testing.assert_array_equal(found.compute().mask, expected.mask)
    np.testing.assert_array_equal(found.compute().compressed(), expected.compressed())
    product = pylops.MatrixMult(rand((3, 4)))
    with forbid_executions(), pytest.raises(TypeError, match="masked"):
        product @ found


def test_a_masked_matrix_is_refused_when_it_is_applied():
    matrix = da.ma.masked_greater(to_dask(rand((4, 4)), 2), 0.5)
    with forbid_executions(), pytest.raises(TypeError, match="masked"):
        pylops.MatrixMult(matrix) @ da.ones(4, chunks=2)


# ------------------------------------- dask arrays that an operator's code gives to functions

PLACES, PAIRS = np.array([4, 0, 3, 8, 8, 1]), np.array([[2, 0], [5, 7]])
HELD = {
    "take": (lambda x, i: np.take(x, i), PLACES),
    "take from the end": (lambda x, i: np.take(x, i), PLACES - 9),
    "take pairs": (lambda x, i: np.take(x, i), PAIRS),
    "take pairs of rows": (lambda x, i: np.take(x.reshape(9, 1) * [1, 2], i, axis=0), PAIRS),
    "take around": (lambda x, i: np.take(x, i, mode="wrap"), PLACES + 5),
    "take clipped": (lambda x, i: np.take(x, i, mode="clip"), PLACES + 5),
    "take one": (lambda x, i: np.take(x, i), np.array(3)),
    "bincount": (lambda x, i: np.bincount(i, x[:6], minlength=9), PLACES),
    "slice": (lambda x, i: x[:i], np.array(3)),
    "slice of a slice": (lambda x, i: x[i - 1 : i + 4 : i][:i], np.array(2)),
    "histogram": (lambda x, i: np.histogram(x, bins=i)[0], np.linspace(-1, 1, 4)),
}


class Holds(pylops.LinearOperator):
    def __init__(self, function, held, size):
        self.function, self.held = function, held
        super().__init__(dtype=np.dtype(float), shape=(size, 9))

    def _matvec(self, x):
        return self.function(x, self.held).ravel()


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("name", HELD)
def test_what_an_operator_holds_is_not_worked_out_by_a_function(name):
    function, held = HELD[name]
    x = rand(9)
    expected = function(x, held).ravel()
    made = []
    lazy = da.from_array(held, chunks=2 if held.ndim else ()).map_blocks(noting(made), meta=held)
    with forbid_executions():
        y = Holds(function, lazy, expected.size) @ to_dask(x, 4)
    assert made == []
    assert_same(y.astype(expected.dtype), expected)
    assert len(made) == lazy.npartitions


# ------------------------------------------------------------- details that are NumPy's

ON_VECTORS = {
    "whole numbers that overflow": lambda v: np.dot(np.full(6, 1 << 62) + v.astype(int) * 0, v),
    "an axis that there is not": lambda v: np.mean(v, axis=5),
    "a negative axis": lambda v: np.mean(v, axis=-1),
    "one that is out of bounds": lambda v: np.sort(v.reshape(3, 2), axis=-3),
    "positions that are no whole numbers": lambda v: v[np.array([1.7])],
    "all positions, as numbers": lambda v: v[np.linspace(0, 5, 6)],
    "positions along two axes": lambda v: v.reshape(3, 2)[np.array([0.0]), np.array([1.0])],
    "weights of other positions": lambda v: np.bincount(np.arange(5), weights=v),
    "negative positions": lambda v: np.bincount(np.arange(-1, 5), weights=v),
    "the largest next to nothing": lambda v: np.max(np.hstack([v[:0], v])),
    "the first next to nothing": lambda v: np.argmin(np.hstack([v, v[:0]])),
    "a rank that keeps its axis": lambda v: np.percentile(v, 50, keepdims=True),
    "an axis as long as it is": lambda v: np.fft.fftn(v.reshape(3, 2), s=(-1, 4), axes=(0, 1)),
    "columns of a small system": lambda v: np.linalg.solve(np.eye(2) + 0.1, v.reshape(2, 3)),
    "samples on either side": lambda v: np.gradient(v, edge_order=2),
}


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("name", ON_VECTORS)
@pytest.mark.parametrize("chunks", [1, 4, 5, 6])
def test_functions_of_vectors(name, chunks):
    x = np.arange(6.0)[::-1].copy()
    assert_as_numpy(ON_VECTORS[name], (x,), (box(x, chunks),))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_zero_less_zero_is_not_negative(sign):
    x = np.full(6, sign * 0.0)
    found = lower(np.zeros_like(box(x, 4)) - box(x, 4)).compute()
    np.testing.assert_array_equal(np.signbit(found), np.signbit(np.zeros_like(x) - x))


def test_a_dot_product_of_whole_numbers_with_themselves_wraps_as_numpy_has_it():
    x = np.full(6, (1 << 30) + 1)
    assert_as_numpy(lambda v: np.dot(v, v), (x,), (box(x, 4),))
    assert_as_numpy(lambda v: np.vdot(v, v), (x,), (box(x, 4),))


def test_a_mean_of_half_precision_is_added_up_in_single():
    x = np.full(70_000, 2, np.float16)
    assert_as_numpy(np.mean, (x,), (box(x, 10_000),))


@pytest.mark.filterwarnings("error::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize(
    "call",
    [lambda x: np.linalg.solve(np.eye(4), x.reshape(4, -1)), lambda x: np.gradient(x[:-3])],
    ids=["solve", "gradient"],
)
def test_blocks_stay_apart(call):
    y = lower(call(box(rand(400_004), 20_000)))
    assert max(math.prod(sizes) for sizes in itertools.product(*y.chunks)) < 100_000
    one_task = {name for name, layer in y.dask.layers.items() if len(layer) == 1}
    assert all(name.startswith("coefficient") for name in one_task)
