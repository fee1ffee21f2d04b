"""Every operator of the catalogue on dask arrays, against NumPy."""

import contextlib
import contextvars
import copy
import gc
import pickle
import warnings
import weakref

import cloudpickle
import dask.array as da
import numpy as np
import pylops
import pytest
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import pylops_dispatch
from pylops_dispatch import PerformanceWarning
from pylops_dispatch.optimisation import straight_tasks
from pylops_dispatch.rules import RULES, columns

from .catalogue import (
    CASES,
    CATALOGUE,
    DTYPES,
    SOME,
    SOME_CASES,
    adjoint,
    build,
    case_id,
    data,
    model,
    nd,
)
from .helpers import (
    COEFFICIENTS,
    as_dask_coefficient,
    assert_bitwise,
    assert_close,
    assert_same,
    chunks_for,
    count_executions,
    forbid_executions,
    graph_of,
    ones_chunks,
    rand,
    random_chunks,
    to_dask,
    tolerance,
)
from .references import DIRECTIONS, apply, has_columns, numpy_result, start

WITH_ADJOINT = [case for case in CASES if case[0].adjoint]


def is_first(entry):
    """Whether it is the first of the catalogue of some class."""
    return any(next(e for e in CATALOGUE if name in e.covers) is entry for name in entry.covers)


# for laws that hold of what equals NumPy: each class once
OF_EACH_CLASS = [case for case in SOME_CASES if is_first(case[0])]


def cases(selected):
    return pytest.mark.parametrize(("entry", "coefficient"), selected, ids=case_id)


@pytest.fixture(autouse=True)
def only_the_expected_warnings(request):
    """An operator that is not known to need it never takes the whole array."""
    with warnings.catch_warnings():
        params = getattr(getattr(request.node, "callspec", None), "params", {})
        whole = "entry" in params and params["entry"].whole
        warnings.simplefilter("ignore" if whole else "error", PerformanceWarning)
        yield


def layouts(entry, shape, columns=False):
    """Uneven chunks; single samples along a short axis, another one for other entries."""
    uneven = random_chunks(shape, seed=1)
    short = [axis for axis, n in enumerate(shape) if 1 < n < 40]
    if columns:
        return [uneven]
    if not short:  # a vector of single samples would be hundreds of blocks
        return [uneven, random_chunks(shape, seed=2, parts=9)]
    return [uneven, ones_chunks(shape, short[CATALOGUE.index(entry) % len(short)])]


def check_all_layouts(entry, coefficient, direction, shaped, extra=(), most=2):
    """A second layout tells nothing more of dask coefficients, which are cut as the vectors are."""
    coef = COEFFICIENTS[coefficient]
    x0, expected = numpy_result(entry, direction, shaped, extra)
    kept = x0.copy()
    most = most if coefficient == "numpy" else 1
    for chunks in layouts(entry, x0.shape, columns=bool(extra))[:most]:
        x = to_dask(x0, chunks)
        name = x.name
        peeks = entry.peeks if coefficient == "dask" else 0
        with count_executions(budget=peeks) as executions, build(entry, coef) as op:
            assert executions.count == peeks
            if isinstance(expected, ValueError):
                with pytest.raises(type(expected)):
                    apply(op, direction, x)
                continue
            y = apply(op, direction, x)
        assert_same(y, expected)
        assert (x.name, x.chunks) == (name, chunks)
    np.testing.assert_array_equal(x0, kept)  # the input was not written to


@cases(CASES)
def test_flat_vector(entry, coefficient):
    check_all_layouts(entry, coefficient, "forward", shaped=False)
    if entry.adjoint:
        check_all_layouts(entry, coefficient, "adjoint", shaped=False)
    else:
        with build(entry) as op, pytest.raises(NotImplementedError):
            adjoint(op, da.ones(op.shape[0]))


@cases([case for case in WITH_ADJOINT if "apply_columns" not in case[0].id])
def test_array_of_the_operators_dimensions(entry, coefficient):
    for direction in DIRECTIONS:
        check_all_layouts(entry, coefficient, direction, shaped=True, most=1)


@cases([case for case in SOME_CASES if has_columns(case[0])])
def test_matrix_of_columns(entry, coefficient):
    for direction in DIRECTIONS:
        check_all_layouts(entry, coefficient, direction, shaped=False, extra=(3,))


OF_ARRAYS = {
    "a matrix": lambda c: pylops.MatrixMult(
        c(rand((12, 8), "complex128")), otherdims=(3,), dtype="complex128"
    ),
    "a diagonal": lambda c: 2 * pylops.Diagonal(c(rand(24))),
    "a stack": lambda c: pylops.VStack([pylops.Diagonal(c(rand(24, seed=i))) for i in (1, 2)]),
    "a product of matrices": lambda c: pylops.Kronecker(
        pylops.MatrixMult(c(rand((3, 4)))), pylops.MatrixMult(c(rand((5, 6), seed=1)))
    ),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("as_coefficient", COEFFICIENTS.values(), ids=COEFFICIENTS)
@pytest.mark.parametrize("make", OF_ARRAYS.values(), ids=OF_ARRAYS)
def test_tasks_are_as_many_for_two_columns_as_for_thirty(make, as_coefficient, direction):
    op, reference = make(as_coefficient), make(np.asarray)
    if direction == "adjoint":
        op, reference = op.H, reference.H
    n = op.shape[1]
    sizes = set()
    for count in (2, 30):
        x0 = rand((n, count), op.dtype)
        y = op @ to_dask(x0, (n // 2, count))
        assert_same(y, reference @ x0)
        sizes.add(len(graph_of(y)))
    assert len(sizes) == 1


def test_one_column_runs_on_the_blocks_of_a_vector():
    op = pylops.FirstDerivative(24)
    for turned in (op, op.H, 2 * op, pylops.VStack([op, op])):
        x0 = rand((turned.shape[1], 1))
        y = turned @ to_dask(x0, (6, 1))
        assert_same(y, turned @ x0)
        assert y.numblocks == ((turned @ to_dask(x0.ravel(), 6)).npartitions, 1)


@pytest.mark.parametrize("chunks", [(7, 2), (20, 3), (6, 1)])
def test_equal_columns_stay_equal_to_the_bit(chunks):
    matrix = rand((20, 20))
    x = np.repeat(rand((20, 1), seed=1), 3, axis=1)
    for op in (pylops.MatrixMult(matrix), pylops.MatrixMult(to_dask(matrix, (6, 20)))):
        for turned in (op, op.H):
            y = (turned @ to_dask(x, chunks)).compute()
            assert_bitwise(y[:, 1:], np.repeat(y[:, :1], 2, axis=1))


@pytest.mark.parametrize("as_coefficient", COEFFICIENTS.values(), ids=COEFFICIENTS)
def test_columns_and_arrays_that_no_task_can_hold_keep_their_chunks(as_coefficient, monkeypatch):
    monkeypatch.setattr(columns, "_BYTES", 100)
    op = pylops.Diagonal(as_coefficient(rand(24)))
    x0 = rand((24, 3))
    y = op @ to_dask(x0, (8, 3))
    assert_same(y, op @ x0)
    assert y.numblocks == (3, 3)


@pytest.mark.parametrize(
    "entry",
    [e for e in SOME if has_columns(e) and is_first(e) and "apply_columns" not in e.id],
    ids=case_id,
)
def test_dimensions_and_columns(entry):
    for direction in DIRECTIONS:
        check_all_layouts(entry, "numpy", direction, shaped=True, extra=(3,))


@cases([case for case in CASES if case[1] == "numpy" or case in SOME_CASES])
@settings(max_examples=2)
@given(choice=st.data())
def test_any_chunks(entry, coefficient, choice):
    """The values do not depend on how the input is cut."""
    direction = choice.draw(st.sampled_from(DIRECTIONS if entry.adjoint else ["forward"]))
    with build(entry, COEFFICIENTS[coefficient]) as op:
        shaped = nd(op) and choice.draw(st.booleans())
        x0, expected = numpy_result(entry, direction, shaped)
        chunks = choice.draw(chunks_for(x0.shape))
        if choice.draw(st.booleans()):  # as a filter may leave them
            chunks = tuple((0, *sizes) for sizes in chunks)
        x = to_dask(x0, chunks)
        with forbid_executions():
            y = apply(op, direction, x)
    assert y.size == 0 or all(0 not in sizes for sizes in y.chunks)
    assert_same(y, expected, as_in_a_solver=False)


@pytest.mark.parametrize(
    "op",
    [
        pylops.Diagonal(np.zeros(0)),
        pylops.MatrixMult(np.zeros((3, 0))),
        pylops.MatrixMult(np.zeros((0, 3))),
        pylops.Identity(0),
        pylops.FirstDerivative((0, 3), axis=1),
        pylops.Gradient((0, 4)),
        pylops.Gradient((4, 0)),
        pylops.Sum((4, 0), axis=0),
        pylops.Pad((0, 4), ((1, 1), (0, 0))),
        pylops.Symmetrize((4, 0), axis=0),
        pylops.VStack([pylops.Identity((0, 4)), pylops.Identity((0, 4))]),
    ],
)
def test_operators_of_no_samples(op):
    for direction, dims in ((op, op.dims), (op.H, op.dimsd)):
        for x0 in (np.ones(direction.shape[1]), np.ones(dims)):
            assert_same(direction @ da.from_array(x0, chunks=2), direction @ x0)


@pytest.mark.parametrize(
    "method", ["matvec", "rmatvec", "dot", "mul", "matmul", "matmat", "rmatmat"]
)
def test_every_way_to_apply_an_operator(method):
    op = pylops.MatrixMult(rand((6, 6)))
    x0 = rand((6, 2) if method.endswith("mat") else 6)
    call = {
        "mul": lambda x: op * x,
        "matmul": lambda x: op @ x,
    }.get(method) or getattr(op, method)
    with forbid_executions():
        y = call(to_dask(x0, random_chunks(x0.shape, 1)))
    assert_same(y, call(x0))


@pytest.mark.parametrize(
    ("dims", "axis", "shape"),
    [
        ((3, 4), 0, (5,)),
        ((4, 3), -1, (6,)),
        ((2, 3, 4), 1, (4,)),
        ((4, 1), 0, (6,)),
        ((3, 4), 0, (5, 1)),
        ((3, 1), 0, (5, 4)),
        ((3, 4), 0, (5, 4)),
    ],
)
def test_a_filter_longer_than_its_axis(dims, axis, shape):
    op = pylops.signalprocessing.Convolve1D(dims, rand(shape, seed=1), offset=1, axis=axis)
    for direction in (op, op.H):
        x0 = rand(direction.shape[1])
        try:
            expected = direction @ x0
        except ValueError as error:  # PyLops's own adjoint of it does not run
            expected = error
        with pylops_dispatch.set_policy(whole_array="allow"):
            y = direction @ to_dask(x0, 3)
        if isinstance(expected, ValueError):
            with pytest.raises(ValueError) as found:
                y.compute()
            assert str(found.value) == str(expected)
        else:
            assert_same(y, expected)


@cases([c for c in OF_EACH_CLASS if c[0].adjoint and c[1] == "numpy"])
def test_column_vector_of_one_column(entry, coefficient):
    for direction, method in (("forward", "matvec"), ("adjoint", "rmatvec")):
        x0, expected = numpy_result(entry, direction, False)
        x = to_dask(x0.reshape(-1, 1), (*random_chunks(x0.shape, seed=1), 1))
        with build(entry, COEFFICIENTS[coefficient]) as op:
            assert_same(getattr(op, method)(x), expected.reshape(-1, 1))


# what other methods, and those of users, call on the array that they are given
DIRECT = [
    pylops.MatrixMult(rand((6, 6))),
    pylops.FirstDerivative(6),
    pylops.Smoothing1D(3, 6),
    pylops.VStack([pylops.Identity(6), 2 * pylops.Identity(6)]),
    (pylops.Diagonal(rand(6)) * 2).H,
    pylops.Restriction(6, [1, 5]),
    pylops.signalprocessing.FFT(6, real=True),
    pylops.signalprocessing.Convolve1D(6, rand(3), offset=1),
    pylops.signalprocessing.Sliding1D(pylops.Identity(4), 8, 6, 4, 2),
]


@pytest.mark.parametrize("op", DIRECT, ids=lambda op: type(op).__name__)
def test_methods_that_pylops_keeps_to_itself_take_dask_arrays(op):
    x0, y0 = rand(op.shape[1]), rand(op.shape[0]).astype(op.dtype)
    with forbid_executions():
        y, x = op._matvec(to_dask(x0, (2,))), op._rmatvec(to_dask(y0, (2,)))
    assert_same(y, op._matvec(x0))
    assert_same(x, op._rmatvec(y0))


@pytest.mark.parametrize("make", [pylops.LinearRegression, lambda t: pylops.Regression(t, 2)])
def test_regression_at_other_places(make):
    op, t, x0 = make(np.arange(7.0)), np.arange(4.0) / 3, rand(3)
    x0 = x0[: op.shape[1]]
    with forbid_executions():
        y = op.apply(t, to_dask(x0, (1,)))
    assert_same(y, op.apply(t, x0))


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_what_a_restriction_leaves_out_is_masked(dtype):
    op = pylops.Restriction((4, 6), [4, 1], axis=1, dtype=dtype)
    x0 = rand((4, 6), dtype)
    with forbid_executions():
        y = op.mask(to_dask(x0, (2, 4)))
    expected = op.mask(x0)
    assert y.numblocks == (2, 2)
    assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(y.compute().mask, expected.mask)
    np.testing.assert_array_equal(y.compute().filled(7), expected.filled(7))


@cases([c for c in OF_EACH_CLASS if c[0].adjoint and c[0].dot != "none" and not c[0].fresh])
def test_dot_test_with_dask_vectors(entry, coefficient):
    with build(entry, COEFFICIENTS[coefficient]) as op:
        u0, v0 = model(entry, op), data(entry, op)
        u = to_dask(u0, random_chunks(u0.shape, 3))
        v = to_dask(v0, random_chunks(v0.shape, 4))
        left, right = (op @ u).ravel(), adjoint(op, v).ravel()
        complex_field = entry.dot == "op" and op.clinear
    if complex_field:
        left, right = da.vdot(left, v), da.vdot(u, right)
    else:
        left = da.dot(left.real, v.real) + da.dot(left.imag, v.imag)
        right = da.dot(u.real, right.real) + da.dot(u.imag, right.imag)
    with straight_tasks():
        left, right = da.compute(left, right, scheduler="synchronous")
    assert_close(right, left, rtol=1e-4 if _single(op) else 1e-10)


def _single(op):
    return np.dtype(op.dtype) in (np.dtype("float32"), np.dtype("complex64"))


@cases([case for case in OF_EACH_CLASS if not case[0].fresh])
def test_linear(entry, coefficient):
    with build(entry, COEFFICIENTS[coefficient]) as op:
        x0, y0 = model(entry, op, seed=5), model(entry, op, seed=6)
        x = to_dask(x0, random_chunks(x0.shape, 5))
        y = to_dask(y0, random_chunks(y0.shape, 6))
        together, apart = op @ (2 * x - 3 * y), 2 * (op @ x) - 3 * (op @ y)
    together, apart = da.compute(together, apart, scheduler="synchronous")
    assert_close(together, apart, rtol=1e-4 if _single(op) else 1e-11)


@cases(SOME_CASES)
def test_result_is_picklable(entry, coefficient):
    x0, expected = numpy_result(entry, "forward", False)
    with build(entry, COEFFICIENTS[coefficient]) as op:
        y = op @ to_dask(x0, random_chunks(x0.shape, 8))
        with forbid_executions():
            copy = cloudpickle.loads(cloudpickle.dumps(y))
    assert_same(copy, expected)


@cases([case for case in SOME_CASES if not case[0].fresh])
def test_same_operator_and_same_input_give_the_same_names(entry, coefficient):
    with build(entry, COEFFICIENTS[coefficient]) as op:
        for direction in DIRECTIONS if entry.adjoint else DIRECTIONS[:1]:
            x0, _ = start(entry, op, direction)
            x = to_dask(x0, random_chunks(x0.shape, 9))
            assert apply(op, direction, x).name == apply(op, direction, x).name


@pytest.mark.parametrize("entry", [e for e in SOME if e.adjoint], ids=case_id)
def test_forward_and_adjoint_never_share_a_name(entry):
    """Two different results under one key would be one of them, twice."""
    with build(entry) as op:
        if op.shape[0] != op.shape[1] or entry.fresh:
            return
        x = to_dask(model(entry, op), random_chunks((op.shape[1],), 10))
        forward, backward = op @ x, adjoint(op, x)
    if forward.name == backward.name:
        np.testing.assert_array_equal(forward.compute(), backward.compute())
    together = da.compute(forward, backward, scheduler="synchronous")
    assert_close(together[0], forward.compute(scheduler="synchronous"))
    assert_close(together[1], backward.compute(scheduler="synchronous"))


def test_two_operators_that_differ_never_share_a_name():
    x = to_dask(rand((6, 5)), (3, 5))
    results = [
        pylops.Diagonal(rand((6, 5), seed=1)) @ x,
        pylops.Diagonal(rand((6, 5), seed=2)) @ x,
        pylops.FirstDerivative((6, 5), axis=0) @ x,
        pylops.FirstDerivative((6, 5), axis=0, sampling=2) @ x,
        pylops.FirstDerivative((6, 5), axis=0, edge=True) @ x,
        pylops.FirstDerivative((6, 5), axis=1) @ x,
        pylops.Roll((6, 5), shift=1) @ x,
        pylops.Roll((6, 5), shift=2) @ x,
    ]
    assert len({y.name for y in results}) == len(results)
    values = da.compute(*results, scheduler="synchronous")
    for together, alone in zip(values, results, strict=True):
        np.testing.assert_array_equal(together, alone.compute(scheduler="synchronous"))


def test_coefficient_changed_in_place_is_seen_or_refused():
    """A user may write into ``op.diag`` between two applications."""
    diag = rand(12)
    op = pylops.Diagonal(diag)
    x0 = rand(12, seed=1)
    x = to_dask(x0, 5)
    (op @ x).compute()
    op.diag = 2 * diag
    assert_same(op @ x, 2 * diag * x0)


@pytest.mark.parametrize(
    "cls", [pylops.FirstDirectionalDerivative, pylops.SecondDirectionalDerivative]
)
def test_a_direction_changed_in_place_is_that_of_the_next_application(cls):
    direction = np.array([0.6, 0.8])
    op = cls((6, 5), v=direction)
    x0 = rand((6, 5))
    x = to_dask(x0, (3, 2))
    before = op @ x
    expected = op @ x0
    direction[:] = 1.0, 0.0
    assert_same(op @ x, op @ x0)
    assert_same(op.H @ x, op.H @ x0)
    assert_same(before, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("x_dtype", ["float32", "float64", "complex64", "int64"])
def test_result_has_the_dtype_of_numpy(dtype, x_dtype):
    """Also where the input does not have the operator's dtype."""
    if np.dtype(x_dtype).kind == "c" and np.dtype(dtype).kind == "f":
        x_dtype = "float32"
    x0 = (10 * rand((6, 5), x_dtype)).astype(x_dtype)
    for op in [
        pylops.Diagonal(rand((6, 5), dtype), dtype=dtype),
        pylops.FirstDerivative((6, 5), axis=0, dtype=dtype),
        pylops.Identity((6, 5), dtype=dtype),
        pylops.Sum((6, 5), axis=0, dtype=dtype),
        pylops.CausalIntegration((6, 5), axis=0, dtype=dtype),
        pylops.Smoothing1D(3, (6, 5), axis=0, dtype=dtype),
        pylops.MatrixMult(rand((4, 30), dtype), dtype=dtype),
    ]:
        x = x0 if x0.shape == op.dims else x0.ravel()
        # SciPy's FFT works in the precision of its input, whatever the kernel's
        rtol = max(tolerance(dtype), tolerance(x_dtype))
        y = op @ to_dask(x, random_chunks(x.shape, 11))
        assert_same(y, op @ x, rtol=rtol)


OTHER_DTYPE = {
    "float64": "float32",
    "float32": "float64",
    "complex128": "complex64",
    "complex64": "complex128",
}


# of each operator whose rule says what it returns; not what Numba would compile once more
WITH_A_RULE_FOR_DTYPES = {
    name.rpartition(".")[2]
    for name, rule in pylops_dispatch.capabilities().items()
    if rule.kind in ("parallel_sum", "whole_axis")
}
FIRST_OF_EACH = {
    name: entry
    for entry in reversed(CATALOGUE)
    for name in entry.covers
    if name in WITH_A_RULE_FOR_DTYPES and "numba" not in entry.id
}


@pytest.mark.parametrize("entry", FIRST_OF_EACH.values(), ids=case_id)
def test_input_of_another_precision(entry):
    for direction in DIRECTIONS if entry.adjoint else DIRECTIONS[:1]:
        with pylops_dispatch.disabled(), build(entry) as op:
            x0, _ = start(entry, op, direction)
            x0 = x0.astype(OTHER_DTYPE[x0.dtype.name])
            expected = apply(op, direction, x0)
        with build(entry) as op, forbid_executions():
            y = apply(op, direction, to_dask(x0, random_chunks(x0.shape, 12)))
        assert_same(y, expected, rtol=1e-4)


@pytest.mark.parametrize("first", ["forward", "adjoint"])
def test_memoize_operator_remembers(first):
    """PyLops compares each input with all that it kept: it reads their values."""
    op = pylops.MemoizeOperator(pylops.FirstDerivative(12))
    reference = pylops.FirstDerivative(12)
    x0, z0 = rand(12), rand(12, seed=1)
    x, z = to_dask(x0, 5), to_dask(z0, 7)
    with pylops_dispatch.set_policy(implicit_compute="allow"):
        results = [apply(op, first, v) for v in (x, z, x)]
    expected = [apply(reference, first, v) for v in (x0, z0, x0)]
    for result, value in zip(results, expected, strict=True):
        assert_same(result, value)
    assert op.neval == 2


def test_memoize_operator_is_lazy():
    """It knows dask vectors by their keys, so that nothing is read."""
    op = pylops.MemoizeOperator(pylops.FirstDerivative(12))
    reference = pylops.FirstDerivative(12)
    x0, z0 = rand(12), rand(12, seed=1)
    x, z = to_dask(x0, 5), to_dask(z0, 5)
    with forbid_executions():
        results = [op @ x, op @ z, op @ x, op @ to_dask(x0, 5)]
    assert op.neval == 2
    for result, v0 in zip(results, [x0, z0, x0, x0], strict=True):
        assert_same(result, reference @ v0)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_memoize_operator_forgets_the_oldest(direction):
    op = pylops.MemoizeOperator(pylops.FirstDerivative(12), max_neval=2)
    vectors = [to_dask(rand(12, seed=seed), 5) for seed in range(3)]
    evaluations = []
    for v in [*vectors, vectors[2], vectors[1], vectors[0]]:
        apply(op, direction, v)
        evaluations.append(op.neval)
    assert evaluations == [1, 2, 3, 3, 3, 4]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("first", ["numpy", "dask"])
@pytest.mark.parametrize("off", [False, True])
def test_memoize_operator_of_numpy_and_dask_vectors(direction, first, off):
    """What it keeps of the one is not in the way of the other, also when the dispatch is off."""
    op = pylops.MemoizeOperator(pylops.FirstDerivative(12), max_neval=2)
    x0 = rand(12)
    expected = apply(pylops.FirstDerivative(12), direction, x0)
    for kind in [first, "dask", "numpy", "dask", "numpy"]:
        if kind == "dask":
            with forbid_executions():
                y = apply(op, direction, to_dask(x0, 5))
            assert_same(y, expected)
        else:
            with pylops_dispatch.disabled() if off else contextlib.nullcontext():
                y = apply(op, direction, x0)
            assert_close(y, expected)
    assert op.neval == 2
    assert [type(array) for pair in op.store for array in pair] == [np.ndarray] * 2


def test_memoize_operator_is_pickled_without_what_is_lazy():
    op = pylops.MemoizeOperator(pylops.FirstDerivative(12))
    x0 = rand(12)
    apply(op, "forward", x0)
    apply(op, "forward", to_dask(x0, 5))
    other = pickle.loads(pickle.dumps(op))
    assert type(other.store) is list
    assert len(other.store) == 1
    assert_same(other @ to_dask(x0, 5), pylops.FirstDerivative(12) @ x0)


COUNTED = {
    "a stencil": lambda c: pylops.FirstDerivative(12),
    "a matrix": lambda c: pylops.MatrixMult(c(rand((9, 12)))),
    "a diagonal": lambda c: pylops.Diagonal(c(rand(12))),
    "a sum": lambda c: pylops.Diagonal(c(rand(12))) + 2 * pylops.FirstDerivative(12),
}
COUNTS = ("matvec_count", "rmatvec_count", "matmat_count", "rmatmat_count")


@pytest.mark.parametrize("make", COUNTED.values(), ids=COUNTED)
@pytest.mark.parametrize("as_coefficient", COEFFICIENTS.values(), ids=COEFFICIENTS)
def test_operator_counts_its_applications_as_for_numpy(make, as_coefficient):
    def applied(op, convert):
        for method, n in (("matvec", 1), ("rmatvec", 0), ("matvec", 1)):
            getattr(op, method)(convert(rand(op.shape[n])))
        for method, n in (("matmat", 1), ("rmatmat", 0), ("rmatmat", 0)):
            getattr(op, method)(convert(rand((op.shape[n], 3))))
        return [getattr(op, name) for name in COUNTS]

    def cut(x):
        return to_dask(x, (5, 2)[: x.ndim])

    assert applied(make(as_coefficient), cut) == applied(make(np.asarray), np.asarray)


def test_isinstance_and_attributes_stay_pylops():
    op = pylops.FirstDerivative((6, 5), axis=0)
    assert type(op) is pylops.FirstDerivative
    assert isinstance(op, pylops.LinearOperator)
    diag = rand(7)
    assert pylops.Diagonal(diag).diag is diag


def test_dask_coefficient_is_kept_as_the_user_gave_it():
    diag = to_dask(rand(7), 3)
    op = pylops.Diagonal(diag)
    assert isinstance(op.diag, da.Array)
    assert op.diag.name == diag.name


def test_numpy_input_and_dask_coefficient():
    diag = to_dask(rand(7), 3)
    x0 = rand(7, seed=1)
    with forbid_executions():
        y = pylops.Diagonal(diag) @ x0
    assert_same(y, diag.compute() * x0)


def test_todense_stays_numpy():
    op = pylops.FirstDerivative(7) @ pylops.Diagonal(rand(7))
    assert type(op.todense()) is np.ndarray


class SetsItsOwnMethods(pylops.LinearOperator):
    """As PyLops's Sliding1D does: an operator inside, methods set on the object."""

    def __init__(self, n):
        super().__init__(Op=pylops.FirstDerivative(n), dtype="float64")
        self._matvec = self._twice
        self._rmatvec = self._twice_adjoint

    def _twice(self, x):
        return 2 * self.Op._matvec(x)

    def _twice_adjoint(self, x):
        return 2 * self.Op._rmatvec(x)


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
def test_methods_that_are_set_on_the_object_are_the_ones_that_run(direction):
    op = SetsItsOwnMethods(12)
    x0 = rand(12)
    for outer in (op, 3 * op, op + pylops.Identity(12), op.H):
        y = apply(outer, direction, to_dask(x0, 5))
        assert_same(y, apply(outer, direction, x0))


class Reversing(pylops.FirstDerivative):
    """Sets methods that read the whole vector, where its class reads neighbours."""

    def __init__(self, n):
        super().__init__(n)
        self._matvec = self._rmatvec = np.flip


class ReversingBack(pylops.FirstDerivative):
    """Replaces one of the two methods of its class by one that reads the whole vector."""

    def _rmatvec(self, x):
        return np.flip(x)


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
@pytest.mark.parametrize("through", ["class", "object", "one method"])
def test_the_halo_of_a_class_is_not_that_of_other_methods(direction, through):
    op = {"class": Reversing, "one method": ReversingBack}.get(through, pylops.FirstDerivative)(12)
    if through == "object":
        op._matvec = op._rmatvec = np.flip
    x0 = rand(12)
    for outer in (op, 3 * op, op + pylops.Identity(12), op.H, op.H + op):
        assert_same(apply(outer, direction, to_dask(x0, 5)), apply(outer, direction, x0))


class Wrapping(pylops.LinearOperator):
    """Has no methods of its own, but other dimensions than the operator it is made of."""

    def __init__(self, op):
        super().__init__(Op=op, dims=(3, 4), dimsd=(4, 3))


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
@pytest.mark.parametrize("inside", ["matrix", "derivative", "scipy"])
def test_a_subclass_that_only_wraps_an_operator(inside, direction):
    matrix = rand((12, 12))
    op = Wrapping(
        {
            "matrix": lambda: pylops.MatrixMult(matrix),
            "derivative": lambda: pylops.FirstDerivative((2, 6)),
            "scipy": lambda: scipy.sparse.linalg.aslinearoperator(matrix),
        }[inside]()
    )
    x0 = rand(12)
    for outer in (op, pylops.LinearOperator(op) + pylops.Identity(12)):
        assert_same(apply(outer, direction, to_dask(x0, 5)), apply(outer, direction, x0))


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
def test_an_operator_of_scipys_without_a_matrix(direction):
    a = rand((6, 6))
    custom = scipy.sparse.linalg.LinearOperator(
        (6, 6), matvec=lambda x: a @ x, rmatvec=lambda x: a.T @ x, dtype="float64"
    )
    op = pylops.aslinearoperator(custom)
    x0 = rand(6)
    for outer in (op, pylops.VStack([op, pylops.Identity(6)]).H @ pylops.VStack([op, op]), 2 * op):
        with pylops_dispatch.set_policy(whole_array="allow"):
            y = apply(outer, direction, to_dask(x0, 4))
        assert_same(y, apply(outer, direction, x0))


class Heavier(pylops.Diagonal):
    """Changes one of the two methods of an operator that has a rule."""

    def _matvec(self, x):
        return 3 * super()._matvec(x)


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_subclass_that_changes_one_method(direction, lazy):
    diag0 = rand((9, 4))
    x0 = rand((9, 4), seed=1)
    op = Heavier(to_dask(diag0, (4, 3)) if lazy else diag0)
    for outer, reference in ((op, Heavier(diag0)), (2 * op, 2 * Heavier(diag0))):
        y = apply(outer, direction, to_dask(x0, (5, 2)))
        assert_same(y, apply(reference, direction, x0))
        assert y.chunks == ((5, 4), (2, 2))


class Centred(pylops.FirstDerivative):
    """Changes what others call to apply it, by all samples of the result."""

    def matvec(self, x):
        y = super().matvec(x)
        return y - y.mean()

    def rmatvec(self, x):
        y = super().rmatvec(x)
        return y - y.mean()


class CentredWithin(pylops.FirstDerivative):
    """Changes what the methods that it inherits call."""

    def _matvec_centered3(self, x):
        y = super()._matvec_centered3(x)
        return y - y.mean()

    def _rmatvec_centered3(self, x):
        y = super()._rmatvec_centered3(x)
        return y - y.mean()


class Doubled(pylops.LinearOperator):
    def _matvec(self, x):
        return self._scaled(x)

    _rmatvec = _matvec

    def _scaled(self, x):
        return 2 * x


class DoubledAndCentred(Doubled):
    """Of an operator of a user's that has a rule."""

    def _scaled(self, x):
        return super()._scaled(x) - x.mean()


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
@pytest.mark.parametrize("cls", [Centred, CentredWithin, DoubledAndCentred])
def test_a_subclass_that_changes_what_its_methods_are_run_by_or_run(direction, cls, monkeypatch):
    monkeypatch.setitem(RULES, Doubled, pylops_dispatch.alone())
    dims = (5, 6)
    own = {"dimsd": dims, "dtype": np.dtype(float)} if cls is DoubledAndCentred else {}
    op = cls(dims=dims, **own)
    x0 = rand(dims)
    for outer in (op, 2 * op, op + op, op @ op, op.H, (2 * op).H, op + pylops.Identity(dims)):
        x = to_dask(x0, (2, 3))
        assert_same(apply(outer, direction, x), apply(outer, direction, x0))


class Steeper(pylops.FirstDerivative):
    """Inherits both methods, and adds a setting."""

    def __init__(self, dims, note):
        super().__init__(dims, axis=0)
        self.note = note


def test_a_subclass_that_changes_nothing_keeps_the_rule():
    x0 = rand((9, 4))
    y = Steeper((9, 4), note="mine") @ to_dask(x0, (4, 3))
    assert_same(y, pylops.FirstDerivative((9, 4), axis=0) @ x0)
    assert not [name for name in y.dask.layers if "rechunk" in name]


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
def test_numpy_input_to_a_stack_of_lazy_coefficients_stays_lazy(direction):
    diag0 = rand(8)

    def stack(diag):
        return pylops.VStack([pylops.Diagonal(diag), pylops.FirstDerivative(8)])

    x0 = rand(8 if direction == "forward" else 16)
    with forbid_executions():
        y = apply(stack(to_dask(diag0, 3)), direction, x0)
    assert_same(y, apply(stack(diag0), direction, x0))


def test_a_matrix_and_its_transpose_are_not_taken_for_each_other():
    # dask's tokenize gives both the same name
    a, b = rand((6, 6)), rand((6, 3))
    x = da.from_array(b, chunks=(2, 3))
    lazy = pylops.MatrixMult(da.from_array(a, chunks=3), otherdims=3)
    for op, expected in [
        (pylops.MatrixMult(a, otherdims=3) @ pylops.MatrixMult(a.T, otherdims=3), a @ a.T @ b),
        (pylops.Diagonal(a) @ pylops.Diagonal(a.T), None),
    ]:
        if expected is None:
            y, expected = op @ da.from_array(a, chunks=3), a * a.T * a
        else:
            y = op @ x
        assert_close(y.compute(), expected)
    both = da.stack([lazy @ a.ravel()[:18].reshape(6, 3), lazy @ a.T.ravel()[:18].reshape(6, 3)])
    assert_close(both.compute()[1], a @ a.T.ravel()[:18].reshape(6, 3))


IN_TILES = [
    entry
    for entry in CATALOGUE
    if entry.kind == "stencil" or entry.id.startswith(("NonStationaryConvolve", "PWS"))
]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("entry", IN_TILES, ids=case_id)
def test_blocks_worked_on_in_small_tiles(entry, direction, monkeypatch):
    # blocks of the tests are far smaller than a tile
    monkeypatch.setattr("pylops_dispatch.blocks._TILE_BYTES", 64)
    x0, expected = numpy_result(entry, direction, True)
    with build(entry) as op:
        assert_same(
            apply(op, direction, to_dask(x0, random_chunks(x0.shape, 3, parts=1))), expected
        )


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("entry", IN_TILES, ids=case_id)
def test_blocks_that_are_read_by_their_neighbours(entry, direction, monkeypatch):
    # as in the steps of a solver, where dask runs in this process
    monkeypatch.setattr("pylops_dispatch.blocks.runs_here_at_once", lambda: True)
    monkeypatch.setattr("pylops_dispatch.blocks.session", contextvars.ContextVar("s", default=1))
    x0, expected = numpy_result(entry, direction, True)
    with build(entry, as_dask_coefficient) as op:
        x = to_dask(x0, random_chunks(x0.shape, 4, parts=3))
        y = apply(op, direction, x)
        assert not any("halo-" in str(name) for name in y.dask.layers)
        assert_same(y, expected)


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_each_piece_of_a_vector_has_its_own_coefficients(coefficient):
    diag, x0 = rand(24), rand((6, 2))

    def scaled_stack(diag):
        stack = pylops.VStack([pylops.FirstDerivative((6, 2)), pylops.Identity(12)])
        return pylops.Diagonal(diag) * stack

    with forbid_executions():
        y = scaled_stack(COEFFICIENTS[coefficient](diag)) @ to_dask(x0, (4, 1)).ravel()
    assert_same(y, scaled_stack(diag) @ x0.ravel())


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
def test_a_product_of_stencils_needs_the_neighbours_of_both(direction):
    first = pylops.FirstDerivative((14, 3), axis=0)
    second = pylops.SecondDerivative((14, 3), axis=0)
    smooth, x0 = pylops.Smoothing1D(5, (14, 3), axis=0), rand((14, 3))
    for op in [first * second, second * smooth * first, first * first]:
        with forbid_executions():
            y = apply(op, direction, to_dask(x0, ((2, 3, 1, 4, 4), 3)))
        assert_same(y, apply(op, direction, x0))


COPIED = {
    "first derivative": lambda: pylops.FirstDerivative((12, 2), axis=0),
    "second derivative": lambda: pylops.SecondDerivative((12, 2), axis=0),
    "windows": lambda: pylops.signalprocessing.Sliding1D(
        pylops.Identity(4), dim=20, dimd=20, nwin=4, nover=0, tapertype="hanning"
    ),
    "matrix": lambda: pylops.MatrixMult(rand((24, 24))),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("make", COPIED.values(), ids=COPIED)
@pytest.mark.parametrize("times", [1, 2])
def test_copies_of_operators(make, direction, times):
    """Bound methods that an operator keeps of itself stay the original's in a copy."""
    op = make()
    for _ in range(times):
        op = copy.copy(op)
    x0 = rand(op.shape[1 if direction == "forward" else 0])
    assert_same(apply(op, direction, to_dask(x0, 5)), apply(op, direction, x0))


@pytest.mark.parametrize("make", COPIED.values(), ids=COPIED)
@pytest.mark.parametrize(
    "around",
    [lambda op: op, lambda op: 3 * op, lambda op: pylops.VStack([op, op])],
    ids=["alone", "scaled", "stacked"],
)
def test_a_method_in_place_of_the_operators_own_that_calls_it(make, around):
    op = make()
    own = op._matvec
    op._matvec = lambda x: 7 * own(x)
    outer = around(op)
    with pylops_dispatch.set_policy(whole_array="allow"):
        for shape in ((op.shape[1],), (op.shape[1], 2)):
            x0 = rand(shape)
            assert_same(outer @ to_dask(x0, (5, 1)[: len(shape)]), outer @ x0)


SPARSE = ["csr", "csc", "coo", "bsr", "dia", "lil"]


def _change(matrix, i, j, value):
    if matrix.format == "coo":
        matrix.data[np.flatnonzero((matrix.row == i) & (matrix.col == j))] = value
    elif matrix.format in ("bsr", "dia"):  # of blocks of one element, and of one diagonal
        matrix.data[i if matrix.format == "bsr" else (0, j)] = value
    else:
        matrix[i, j] = value


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("form", SPARSE)
def test_any_element_of_a_sparse_matrix_may_be_changed_in_place(form, direction):
    matrix = 2 * scipy.sparse.eye(4000, format=form)
    op = pylops.MatrixMult(matrix)
    x = da.ones(4000, chunks=1000)
    for i in (1901, 2904):
        apply(op, direction, x).compute()
        _change(matrix, i, i, 7)
        assert_same(apply(op, direction, x), apply(op, direction, np.ones(4000)))


@pytest.mark.parametrize("form", SPARSE)
def test_sparse_matrices_go_with_their_operators(form):
    matrix = scipy.sparse.eye(4000, format=form)
    gone = weakref.ref(matrix.data)
    (pylops.MatrixMult(matrix) @ da.ones(4000, chunks=1000)).compute()
    del matrix
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_blocks_of_sparse_matrices_are_views(form):
    matrix = scipy.sparse.random(400, 300, density=0.1, format=form, random_state=0)
    y = pylops.MatrixMult(matrix) @ da.ones(300, chunks=100)
    blocks = [
        v.value for v in y.dask.to_dict().values() if scipy.sparse.issparse(getattr(v, "value", 0))
    ]
    assert len(blocks) > 1
    assert all(np.shares_memory(block.data, matrix.data) for block in blocks)
    assert all(np.shares_memory(block.indices, matrix.indices) for block in blocks)


def test_sparse_matrices_of_two_shapes_may_share_their_arrays():
    tall = scipy.sparse.random(40, 20, density=0.2, format="coo", random_state=0)
    wide = scipy.sparse.coo_matrix((40, 30))
    wide.data, wide.row, wide.col = tall.data, tall.row, tall.col
    for matrix in (tall, wide):
        op, x = pylops.MatrixMult(matrix), rand(matrix.shape[1])
        assert_same(op @ to_dask(x, 10), op @ x)
