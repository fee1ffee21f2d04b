"""Bad input gives a clear error before any work, and changes nothing."""

import functools
import re
import subprocess
import sys
import textwrap
import threading
import types
import warnings
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import pylops
import pytest
import scipy.ndimage
import scipy.signal
import scipy.sparse.linalg
from pylops.optimization.cls_basic import CGLS
from pylops.utils.decorators import reshaped

import pylops_dispatch
from pylops_dispatch import NotDispatchedError, PerformanceWarning, set_policy, testing
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.rules import running

from . import references
from .catalogue import SOME, UserBlur, build
from .helpers import assert_close, assert_same, forbid_executions, rand, to_dask

DIMS = (6, 5)


def operators():
    return {
        "Diagonal": pylops.Diagonal(rand(DIMS)),
        "FirstDerivative": pylops.FirstDerivative(DIMS, axis=0),
        "MatrixMult": pylops.MatrixMult(rand((4, 30))),
        "VStack": pylops.VStack([pylops.Identity(DIMS), pylops.Laplacian(DIMS)]),
        "sum": pylops.Diagonal(rand(DIMS)) + pylops.FirstDerivative(DIMS),
        "Restriction": pylops.Restriction(DIMS, [1, 2], axis=0),
        "user": UserBlur(DIMS),
    }


def state(op):
    return {k: v for k, v in vars(op).items() if not callable(v)}


def unchanged(before, after):
    assert before.keys() == after.keys()
    assert all(before[key] is after[key] for key in before)


COMPILED = ("Spread-numba-table", "Kirchhoff-numba-pairs")  # others take as long to compile
REFUSING = [entry for entry in SOME if "numba" not in entry.id or entry.id in COMPILED]


def refusals_of_numpy(entries, dtype):
    """Entries and directions for which NumPy refuses flat input of a dtype, and this input."""
    for entry in entries:
        for direction in ("forward", "adjoint") if entry.adjoint else ("forward",):
            with build(entry) as op:
                x = rand(op.shape[direction == "forward"], "complex128").astype(dtype)
                try:
                    references.apply(op, direction, x)
                except Exception as error:
                    yield entry, direction, x, error


@pytest.mark.filterwarnings("ignore")  # a number of warnings of discarded imaginary parts
@pytest.mark.parametrize(("dtype", "least"), [("complex128", 50), ("int64", 5)])
def test_a_dtype_that_numpy_refuses_is_refused_before_any_work(dtype, least):
    found = 0
    for entry, direction, x, error in refusals_of_numpy(REFUSING, dtype):
        expected = TypeError if type(error).__name__ == "TypingError" else type(error)  # Numba's
        expected = TypeError if issubclass(expected, TypeError) else expected
        with build(entry) as op, forbid_executions():
            try:
                references.apply(op, direction, to_dask(x, (x.size + 1) // 2))
            except expected:
                found += 1
            else:
                pytest.fail(f"{entry} takes {dtype}, {direction}, and NumPy says {error}")
    assert found > least


@pytest.mark.parametrize("chunks", [-1, 3])
@pytest.mark.parametrize("kind", ["forward", "centered"])
def test_differences_of_booleans_are_refused_however_they_are_cut(kind, chunks):
    op = pylops.Gradient(DIMS, kind=kind)
    for direction, shape in ((op, DIMS), (op.H, (2, *DIMS))):
        try:
            direction @ np.ones(shape, bool)
        except TypeError:
            with forbid_executions(), pytest.raises(TypeError, match="boolean"):
                direction @ da.ones(shape, dtype=bool, chunks=chunks)


def test_a_refused_dtype_is_told_with_what_to_do():
    op = pylops.signalprocessing.Sliding1D(pylops.Identity(6), 18, 12, nwin=6, nover=3)
    with pytest.raises(TypeError, match="complex128") as refused:
        op @ da.ones(18, dtype="complex128", chunks=6)
    assert refused.value.__notes__ == [
        "Sliding1D adds up in numbers of dtype float64: make it with dtype='complex128'."
    ]
    with pytest.raises(TypeError, match="int64") as refused:
        pylops.signalprocessing.FFT(6, real=True).H @ da.ones(4, dtype="int64", chunks=2)
    assert refused.value.__notes__ == ["FFT divides its input: give it floating-point numbers."]


@pytest.mark.parametrize("real", [False, True])
def test_what_an_operator_of_windows_gives_is_what_is_added_up(real):
    class Half(pylops.LinearOperator):
        """It gives real numbers of complex ones, or complex ones of real ones."""

        def __init__(self):
            super().__init__(dtype="float64", dims=(6,), dimsd=(6,))

        def _matvec(self, x):
            return np.abs(x) if real else x * 1j

    op = pylops.signalprocessing.Sliding1D(Half(), 18, 12, nwin=6, nover=3)
    x = rand(18, "complex128" if real else "float32")
    if real:
        assert_same(op @ to_dask(x, 6), op @ x)
    else:
        with pytest.raises(TypeError), forbid_executions():
            op @ to_dask(x, 6)
    assert op.Op.matvec_count == (3 if real else 0)  # NumPy's three windows


def test_complex_data_of_a_users_real_windows_are_refused_when_applied():
    class Matrix(pylops.LinearOperator):
        def __init__(self):
            super().__init__(dtype=np.dtype("float64"), shape=(4, 2))

        def _matvec(self, x):
            return np.ones((4, 2)) @ x

    op = pylops.signalprocessing.Sliding1D(Matrix(), 4, 7, 4, 1)
    with forbid_executions(), pytest.raises(TypeError, match="complex128"):
        op @ da.ones(4, dtype="complex64", chunks=2)


def refusals(op, shape):
    """Return what an operator raises of NumPy arrays, and raises of dask arrays when applied."""
    found = []
    for direction in (op, op.H):
        x = np.ones(shape)
        for samples in (x, da.from_array(x, chunks=2)):
            with pytest.raises((TypeError, ValueError)) as caught, forbid_executions():
                direction @ samples
            found.append(caught.type)
    return found


TRANSFORMS = {
    "FFT": functools.partial(pylops.signalprocessing.FFT, axis=0),
    "FFT2D": pylops.signalprocessing.FFT2D,
    "FFTND": functools.partial(pylops.signalprocessing.FFTND, axes=(0, 1)),
}


@pytest.mark.parametrize("engine", ["numpy", "scipy"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize(
    ("dims", "settings", "error"),
    [((4, 4), {"window": "hann"}, TypeError), ((0, 4), {}, ValueError)],
    ids=["a setting that there is not", "no samples"],
)
def test_a_transform_that_numpy_refuses_is_refused_when_applied(
    transform, engine, dims, settings, error
):
    with np.errstate(divide="ignore"):  # the frequencies of no samples
        op = transform(dims, engine=engine, dtype=complex, **settings)
    assert refusals(op, dims) == [error] * 4


def test_a_transform_with_a_setting_gives_what_numpy_gives():
    op = TRANSFORMS["FFT"]((4, 6), engine="scipy", dtype=np.float32, overwrite_x=True)
    x0 = rand((4, 6), np.float32)
    with forbid_executions():
        y = op @ da.from_array(x0, chunks=2)
    assert_same(y, op @ x0)


@pytest.mark.parametrize("shiftall", [False, True])
def test_a_record_that_ends_before_its_sources_do_is_refused_when_applied(shiftall):
    times = np.array([0.0, 2.0, 5.0])
    blending = pylops.waveeqprocessing.BlendingContinuous
    long_enough = 5 + 6 + shiftall
    op = blending(6, 2, 3, 1.0, times, nttot=long_enough, shiftall=shiftall)
    assert_same(op @ da.ones((3, 2, 6), chunks=2), op @ np.ones((3, 2, 6)))
    op = blending(6, 2, 3, 1.0, times, nttot=long_enough - 1, shiftall=shiftall)
    for direction in (op, op.H):
        with pytest.raises(ValueError, match="broadcast"):
            direction @ np.ones(direction.dims)
        with pytest.raises(ValueError, match="source 2 is recorded up to sample 1"):
            direction @ da.ones(direction.dims, chunks=2)


def test_asking_what_windows_give_changes_nothing_in_their_operator():
    class Weakens(pylops.LinearOperator):
        def __init__(self):
            super().__init__(dtype="float64", dims=(6,), dimsd=(6,))
            self.applied = 0

        def _matvec(self, x):
            self.applied += 1
            return x / self.applied

    op = pylops.signalprocessing.Sliding1D(Weakens(), 18, 12, nwin=6, nover=3)
    with forbid_executions():
        op @ da.ones(18, dtype="float32", chunks=6)
    assert op.Op.applied == 0


@pytest.mark.parametrize("name", operators())
@pytest.mark.parametrize("shape", [(31,), (29,), (0,), (5, 6), (7, 5), (6, 5, 1, 2), (1, 30)])
def test_wrong_shape(name, shape):
    op = operators()[name]
    with pytest.raises(ValueError) as numpy_error:
        op @ np.ones(shape)
    before = state(op)
    with forbid_executions(), pytest.raises(ValueError) as dask_error:
        op @ da.ones(shape)
    assert str(dask_error.value) == str(numpy_error.value)
    unchanged(before, state(op))


@pytest.mark.parametrize("method", ["matvec", "rmatvec", "matmat", "rmatmat"])
@pytest.mark.parametrize("shape", [(), (30, 1, 1), (29,), (29, 2)])
def test_wrong_number_of_dimensions(method, shape):
    op = pylops.FirstDerivative(DIMS)
    with pytest.raises((ValueError, UnboundLocalError)) as numpy_error:
        getattr(op, method)(np.ones(shape))
    with forbid_executions(), pytest.raises(numpy_error.type):
        getattr(op, method)(da.ones(shape))


@pytest.mark.parametrize("method", ["matmat", "rmatmat"])
def test_a_matrix_without_columns(method):
    for op in (pylops.FirstDerivative(DIMS), pylops.MatrixMult(np.ones((30, 30)))):
        with pytest.raises(ValueError) as numpy_error:
            getattr(op, method)(np.ones((30, 0)))
        with forbid_executions(), pytest.raises(ValueError) as dask_error:
            getattr(op, method)(da.ones((30, 0)))
        assert str(dask_error.value) == str(numpy_error.value)


def unknown_chunks(n=30):
    x = da.ones(n, chunks=7)
    return x[x > 0]


@pytest.mark.parametrize("name", operators())
def test_unknown_chunks(name):
    op = operators()[name]
    before = state(op)
    for apply in [op.dot, op.matvec, lambda x: op @ x]:
        with forbid_executions(), pytest.raises(ValueError) as caught:
            apply(unknown_chunks())
        assert "compute_chunk_sizes" in str(caught.value)
    unchanged(before, state(op))


@pytest.mark.parametrize("solver", ["cg", "cgls", "lsqr"])
def test_unknown_chunks_in_a_solver(solver):
    op = pylops.Identity(30)
    with forbid_executions(), pytest.raises(ValueError, match="compute_chunk_sizes"):
        getattr(pylops, solver)(op, unknown_chunks())


def test_unknown_chunks_of_a_coefficient():
    with forbid_executions(), pytest.raises(ValueError, match="compute_chunk_sizes"):
        pylops.Diagonal(unknown_chunks()) @ da.ones(30)


@pytest.mark.parametrize("name", operators())
def test_object_dtype(name):
    op = operators()[name]
    x = da.from_array(np.ones(30, dtype=object), chunks=7)
    before = state(op)
    with forbid_executions(), pytest.raises(TypeError, match="object"):
        op @ x
    unchanged(before, state(op))


BLOCKS = {
    "masked": (lambda: da.ma.masked_greater(da.ones(30, chunks=7), 0.5), "filled"),
    "sparse": (
        lambda: da.ones((30, 1), chunks=(7, 1)).map_blocks(scipy.sparse.csr_array),
        "csr_array.*todense",
    ),
}


@pytest.mark.parametrize("name", ["Diagonal", "FirstDerivative", "VStack", "user"])
@pytest.mark.parametrize(("blocks", "advice"), BLOCKS.values(), ids=BLOCKS)
def test_blocks_that_are_not_arrays_of_numpy(name, blocks, advice):
    """Masks would be lost wherever blocks are joined, or written into an array of zeros."""
    op, x = operators()[name], blocks()
    y = x if op.shape[0] == op.shape[1] else da.concatenate([x, x])
    with forbid_executions():
        for refused in (
            lambda: op @ x,
            lambda: op.H @ y,
            lambda: op / y,
            lambda: pylops.cgls(op, y, niter=1),
            lambda: pylops_dispatch.plan(op, x),
        ):
            with pytest.raises(TypeError, match=advice):
                refused()


@pytest.mark.parametrize("dtype", ["U3", "M8[s]", [("a", "f8")]])
def test_other_dtypes_that_are_not_numbers(dtype):
    x = da.from_array(np.zeros(30, dtype=dtype), chunks=7)
    with forbid_executions(), pytest.raises(TypeError):
        pylops.FirstDerivative(DIMS) @ x


def run(code, *options):
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_expression_mode_arrays_are_refused():
    """Dask's in-tree expression arrays are another class, with other graphs."""
    result = run(
        """
        import dask
        dask.config.set({"array.query-planning": True})
        try:
            import dask.array as da
        except ImportError:  # a dask that has no such mode has no such arrays
            print("refused")
            raise SystemExit(0)
        import numpy as np
        import pylops
        import pylops_dispatch

        def get(*args, **kwargs):
            raise SystemExit("an execution")

        x = da.ones(12, chunks=5)
        assert "_array_expr" in type(x).__module__, type(x)
        op = pylops.FirstDerivative(12)
        calls = [
            lambda: op @ x,
            lambda: op.matvec(x),
            lambda: op.H @ x,
            lambda: pylops.cgls(op, x),
            lambda: pylops.Diagonal(x) @ x,
        ]
        with dask.config.set(scheduler=get):
            for call in calls:
                try:
                    call()
                except TypeError as error:
                    assert "query-planning" in str(error), error
                else:
                    raise SystemExit("accepted")
        assert op.matvec_count == 0
        np.testing.assert_array_equal(
            op @ np.arange(12.0), [0, *[1.0] * 10, 0]
        )
        print("refused")
        """
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip() == "refused"


def test_an_error_inside_an_operator_is_the_users_error():
    class Broken(pylops.LinearOperator):
        def _matvec(self, x):
            raise ZeroDivisionError("mine")

        def _rmatvec(self, x):
            return x

    op = Broken(dtype=np.dtype("f8"), shape=(5, 5))
    with pytest.raises(ZeroDivisionError, match="mine"):
        (op @ da.ones(5)).compute(scheduler="synchronous")
    assert_same(op.H @ da.ones(5), np.ones(5))


@pytest.mark.parametrize("n", [5, 5000])
def test_not_implemented_adjoint(n):
    op = pylops.FunctionOperator(lambda v: 2 * v, n)
    with pytest.raises(NotImplementedError, match="Adjoint not implemented"):
        op.H @ da.ones(n)


class Inverting(pylops.LinearOperator):
    """Runs on lazy arrays, by a function that needs all of one."""

    def _matvec(self, x):
        return np.linalg.inv(x.reshape(self.dims)).ravel()

    _rmatvec = _matvec


def test_an_error_of_a_function_of_numpy_names_what_called_it():
    op = Inverting(dtype="float64", dims=(3, 3), dimsd=(3, 3))
    y = op @ da.zeros((3, 3))
    with pytest.raises(np.linalg.LinAlgError) as caught:
        y.compute()
    (note,) = caught.value.__notes__
    assert "numpy.linalg.inv on an array of shape (3, 3) and dtype float64" in note
    assert "for Inverting._matvec (tests/test_errors.py:" in note


def test_an_error_leaves_the_dispatch_working():
    op = pylops.Diagonal(rand(30))
    for bad in [da.ones(29), unknown_chunks(), da.ones((3, 3, 3))]:
        with pytest.raises(ValueError):
            op @ bad
    assert pylops_dispatch.is_enabled()
    assert_same(op @ da.ones(30), op @ np.ones(30))


def test_an_error_leaves_ndarray_multiplication_as_it_was():
    op = pylops.Identity(30)
    before = pylops.get_ndarray_multiplication()
    with pytest.raises(ValueError):
        pylops.cgls(op, unknown_chunks())
    with pytest.raises(ValueError):
        pylops.cgls(op, da.ones(29))
    assert pylops.get_ndarray_multiplication() is before


def test_solves_in_several_threads_leave_ndarray_multiplication_as_it_was():
    """PyLops keeps it in one global, which solves that overlap put back wrongly."""
    op = pylops.Diagonal(np.ones((3, 2)))
    started, ended = threading.Event(), threading.Event()

    def first():
        pylops.cgls(op, np.ones(6), niter=1, callback=lambda x: (started.set(), ended.wait(10)))

    thread = threading.Thread(target=first)
    thread.start()
    started.wait(10)
    assert pylops.get_ndarray_multiplication()  # of this thread
    with pylops.disabled_ndarray_multiplication() as before:
        assert before
        assert not pylops.get_ndarray_multiplication()
        with pylops.enabled_ndarray_multiplication():
            assert (op @ np.ones((3, 2))).shape == (3, 2)
        ended.set()
        thread.join()
        with pytest.raises(ValueError, match="set_ndarray_multiplication"):
            op @ np.ones((3, 2))
    assert pylops.get_ndarray_multiplication()


def test_ndarray_multiplication_is_set_for_all_threads():
    found = []
    pylops.set_ndarray_multiplication(False)
    try:
        thread = threading.Thread(target=lambda: found.append(pylops.get_ndarray_multiplication()))
        thread.start()
        thread.join()
    finally:
        pylops.set_ndarray_multiplication(True)
    assert found == [False]


# ----------------------------------------------------- refusals and their text


class Reader(pylops.LinearOperator):
    """Reads a value where it should not."""

    def __init__(self, dims):
        super().__init__(dtype=np.dtype("f8"), dims=dims, dimsd=dims)

    @reshaped
    def _matvec(self, x):
        return scipy.ndimage.gaussian_filter(x, 1.0)

    _rmatvec = _matvec


def test_whole_array_fallback_warns_once_and_is_right():
    op = Reader(DIMS)
    x0 = rand(DIMS)
    with forbid_executions(), pytest.warns(PerformanceWarning) as caught:
        y = op @ to_dask(x0, 3)
    assert_same(y, op @ x0)
    assert len([w for w in caught if w.category is PerformanceWarning]) == 1
    assert "Reader" in str(caught[0].message)


def test_whole_array_fallback_refused():
    op = Reader(DIMS)
    x = to_dask(rand(DIMS), 3)
    with (
        set_policy(whole_array="raise"),
        forbid_executions(),
        pytest.raises(NotDispatchedError) as caught,
    ):
        op @ x
    message = str(caught.value)
    assert "Reader" in message
    assert "set_policy" in message
    assert re.search(r"Reader\._matvec \([\w/\\.-]*test_errors\.py:\d+\)", message), message


def test_whole_array_fallback_allowed():
    op = Reader(DIMS)
    x0 = rand(DIMS)
    with set_policy(whole_array="allow"), warnings.catch_warnings():
        warnings.simplefilter("error")
        y = op @ to_dask(x0, 3)
    assert_same(y, op @ x0)


def test_refusal_names_function_operator_file_and_line():
    """PyLops's own line, which calls what cannot be dispatched, is in the message."""

    def blur(v):
        return scipy.ndimage.gaussian_filter(v, 1.0)

    op = pylops.FunctionOperator(blur, blur, 12)
    x = to_dask(rand(12), 5)
    for apply in [lambda: op @ x, lambda: op.H @ x]:
        with (
            set_policy(whole_array="raise"),
            forbid_executions(),
            pytest.raises(NotDispatchedError) as caught,
        ):
            apply()
        message = str(caught.value)
        assert "FunctionOperator" in message
        assert "asarray" in message or "gaussian_filter" in message
        assert re.search(r"functionoperator\.py:\d+", message), message


def test_refusal_outside_an_operator_names_the_function():
    x = DispatchArray(to_dask(rand(12), 5))
    with forbid_executions(), pytest.raises(NotDispatchedError, match="float"):
        float(x.sum())
    with forbid_executions(), pytest.raises(NotDispatchedError, match="array"):
        np.asarray(x)


def test_not_dispatched_error_is_a_type_error():
    assert issubclass(NotDispatchedError, TypeError)
    assert issubclass(PerformanceWarning, Warning)


# --------------------------------------------------------------------- policy


def total():
    return DispatchArray(to_dask(rand(12), 5)).sum()


def test_policy_is_scoped():
    with set_policy(implicit_compute="allow"):
        assert isinstance(float(total()), float)
        with set_policy(implicit_compute="raise"), pytest.raises(NotDispatchedError):
            float(total())
        assert isinstance(float(total()), float)
    with pytest.raises(NotDispatchedError):
        float(total())


def test_policy_warns():
    with (
        set_policy(implicit_compute="warn"),
        pytest.warns(UserWarning, match="float"),
    ):
        value = float(total())
    assert value == pytest.approx(rand(12).sum())


def test_policy_is_also_a_setter():
    setting = set_policy(implicit_compute="allow")
    try:
        assert isinstance(float(total()), float)
    finally:
        setting.__exit__(None, None, None)
    with pytest.raises(NotDispatchedError):
        float(total())


def test_policy_is_put_back_after_an_error():
    with pytest.raises(RuntimeError, match="mine"), set_policy(implicit_compute="allow"):
        raise RuntimeError("mine")
    with pytest.raises(NotDispatchedError):
        float(total())


@pytest.mark.parametrize(
    "bad",
    [
        {"implicit_compute": "yes"},
        {"whole_array": True},
        {"implicit_compute": "allow", "whole_array": "never"},
        {"implicit_compute": "allow", "whole": "raise"},
    ],
)
def test_bad_policy_changes_nothing(bad):
    with pytest.raises((ValueError, TypeError)):
        set_policy(**bad)
    with pytest.raises(NotDispatchedError):
        float(total())


def test_policies_are_independent():
    x = to_dask(rand(DIMS), 3)
    with set_policy(whole_array="allow"):
        (Reader(DIMS) @ x).compute(scheduler="synchronous")
        with pytest.raises(NotDispatchedError):
            float(total())


# ------------------------------------------------------- what our functions are given

NO_OPERATORS = {
    "a matrix": (np.eye(3), "ndarray.*MatrixMult"),
    "a class": (pylops.FirstDerivative, "class FirstDerivative.*make one"),
    "a number": (3, "type int"),
    "nothing": (None, "NoneType"),
}
OF_AN_OPERATOR = {
    "capability": pylops_dispatch.capability,
    "suggest_chunks": pylops_dispatch.suggest_chunks,
    "plan": lambda op: pylops_dispatch.plan(op, da.ones(3, chunks=2)),
    "check_operator": testing.check_operator,
    "assert_dask_equal": testing.assert_dask_equal,
    "dask_dottest": testing.dask_dottest,
}


@pytest.mark.parametrize("function", OF_AN_OPERATOR.values(), ids=OF_AN_OPERATOR)
@pytest.mark.parametrize(("given", "message"), NO_OPERATORS.values(), ids=NO_OPERATORS)
def test_what_is_no_operator_is_said_to_be_none(function, given, message):
    with forbid_executions(), pytest.raises(TypeError, match=message):
        function(given)


@pytest.mark.parametrize("made", [False, True])
def test_a_solver_is_no_call_to_be_planned(made):
    op, y = pylops.Identity(6), da.ones(6, chunks=3)
    with pytest.raises(TypeError, match="a solver of class CGLS: give what runs it"):
        pylops_dispatch.plan(CGLS(op) if made else CGLS, op, y, niter=3)


@pytest.mark.parametrize("x", [np.ones(12), [1.0] * 12, 3], ids=["array", "list", "number"])
def test_a_plan_is_of_a_dask_array(x):
    with pytest.raises(TypeError, match=r"x must be a dask array.*from_array\(x, chunks="):
        pylops_dispatch.plan(pylops.FirstDerivative(12), x)


def test_a_comparison_with_numpy_is_of_numpy_arrays():
    op = pylops.FirstDerivative(12)
    with pytest.raises(TypeError, match=r"NumPy array, and is of type list.*np\.array"):
        testing.assert_dask_equal(op, [1.0] * 12)
    with forbid_executions(), pytest.raises(TypeError, match=r"x\.compute\(\)"):
        testing.assert_dask_equal(op, da.ones(12, chunks=5))


# ------------------------------------------- one task: of the operator as it was


class Convolving(pylops.LinearOperator):
    """Convolves by its weights, which NumPy does to whole vectors only."""

    def __init__(self, n, weights):
        super().__init__(dtype=np.dtype("f8"), dims=(n,), dimsd=(n,))
        self.weights = weights

    def _matvec(self, x):
        return np.convolve(x, self.weights, "same")

    _rmatvec = _matvec


@pytest.mark.parametrize(
    "around",
    [lambda op: op, lambda op: pylops.VStack([op, op]), lambda op: op.H @ op],
    ids=["alone", "stacked", "product"],
)
def test_what_is_set_anew_later_does_not_reach_earlier_results(around):
    """NumPy's results are there at once."""
    inner = Convolving(12, np.ones(3))
    op = around(inner)
    x0 = rand(12)
    results, expected = [], []
    with set_policy(whole_array="allow"):
        for k in (1.0, 2.0, 3.0):
            inner.weights = np.array([1.0, k, 1.0])
            results.append(op @ to_dask(x0, 4))
            expected.append(op @ x0)
    for result, values in zip(results, expected, strict=True):
        assert_same(result, values)


def test_columns_are_of_the_operator_as_it_was():
    op = pylops.FirstDerivative((4, 3), axis=0)
    x0 = rand((12, 2))
    result, expected = op @ to_dask(x0, (12, 1)), op @ x0
    op.sampling = 2.0
    assert_same(result, expected)


class Weighing(pylops.LinearOperator):
    """Convolves by weights that it finds in what it was given."""

    def __init__(self, weights, find):
        super().__init__(dtype=np.dtype("f8"), dims=(12,), dimsd=(12,))
        self.weights = weights
        self.find = find

    def _matvec(self, x):
        return sum(np.convolve(x, w, "same") for w in self.find(self.weights))

    _rmatvec = _matvec


class Pair(NamedTuple):
    left: Any
    right: Any


KEPT = {
    "list": (lambda a, b: [a, b], lambda w: w),
    "tuple": (lambda a, b: (a, b), lambda w: w),
    "named tuple": (Pair, lambda w: (w.left, w.right)),
    "dict": (lambda a, b: {"a": a, "b": b}, lambda w: (w["a"], w["b"])),
    "nested": (lambda a, b: {"all": [(a, 1), [b]]}, lambda w: (w["all"][0][0], w["all"][1][0])),
}


@pytest.mark.parametrize(("keep", "find"), KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("around", [lambda op: op, lambda op: op.H @ op], ids=["alone", "product"])
def test_dask_arrays_that_an_operator_keeps_in_containers_are_lazy(keep, find, around):
    weights = rand(3, seed=1), rand(5, seed=2)
    lazy = around(Weighing(keep(*(to_dask(w, 2) for w in weights)), find))
    expected = around(Weighing(keep(*weights), find))
    x0 = rand(12)
    with set_policy(whole_array="allow"), forbid_executions():
        results = [lazy @ to_dask(x0, 4), lazy @ to_dask(rand((12, 2)), (12, 1))]
    assert_same(results[0], expected @ x0)
    assert_same(results[1], expected @ rand((12, 2)))


def test_dask_arrays_in_a_container_of_an_operator_in_a_solver():
    weights = [rand(3, seed=1) / 10, rand(3, seed=2) / 10]
    x0 = rand(12)
    lazy = Weighing([to_dask(w, 2) for w in weights], lambda w: w)
    expected = pylops.cgls(Weighing(weights, lambda w: w), x0, niter=3)[0]
    with set_policy(whole_array="allow"):
        result = pylops.cgls(lazy, to_dask(x0, 4), niter=3)[0]
    assert_close(result.compute(), expected)


# ------------------------------------------------------ what operators keep of boxes


class Keeping(pylops.LinearOperator):
    """Keeps what it has seen."""

    def __init__(self, whole=False):
        super().__init__(dtype=np.dtype("f8"), dims=(12,), dimsd=(12,))
        self.whole = whole
        self.sums = []

    def _matvec(self, x):
        self.last = x
        self.sums.append(x.sum())
        self.pair = {"twice": (2 * x, None)}
        return np.convolve(x, np.ones(3), "same") if self.whole else 2 * x

    _rmatvec = _matvec


def kept_in(op):
    return [op.last, *op.sums, op.pair["twice"][0]]


@pytest.mark.parametrize("whole", [False, True], ids=["blocks", "whole"])
@pytest.mark.parametrize(
    "around",
    [lambda op: op, lambda op: pylops.VStack([3 * op, op]), lambda op: op.H @ op],
    ids=["alone", "stack", "product"],
)
def test_operators_keep_dask_arrays_not_boxes(around, whole):
    op = Keeping(whole)
    with set_policy(whole_array="allow"):
        around(op) @ to_dask(rand(12), 4)
    assert {type(value) for value in kept_in(op)} == {da.Array}
    assert op.sums[0].ndim == 0
    assert_close(op.sums[0].compute(), rand(12).sum())


def test_operators_keep_dask_arrays_after_an_error():
    class Failing(Keeping):
        def _matvec(self, x):
            super()._matvec(x)
            raise RuntimeError("as it is")

    op = Failing()
    with pytest.raises(RuntimeError, match="as it is"):
        op @ to_dask(rand(12), 4)
    assert {type(value) for value in kept_in(op)} == {da.Array}


def test_operators_keep_no_boxes_of_a_solver():
    op = Keeping()
    pylops.cgls(op, to_dask(rand(12), 4), niter=3)
    assert not any(isinstance(value, DispatchArray) for value in kept_in(op))


@pytest.mark.parametrize("solver", [False, True])
def test_what_an_application_has_left_makes_an_operator_no_lazy_one(solver):
    pylops.Diagonal(to_dask(rand(12), 4))  # from now on NumPy input is looked at
    op, x0 = Keeping(), rand(12)
    if solver:
        pylops.cgls(op, to_dask(x0, 4), niter=3)
    else:
        op @ to_dask(x0, 4)
    y = op @ x0
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, 2 * x0)
    op @ to_dask(x0, 4)
    assert type(pylops.cgls(op, x0, niter=3)[0]) is np.ndarray


# ------------------------------------------------- errors that NumPy does not raise


def of_user(matvec):
    """An operator whose code is this function."""

    class Own(pylops.LinearOperator):
        def __init__(self):
            super().__init__(dtype=np.dtype("f8"), dims=(12,), dimsd=(12,))

        def _matvec(self, x):
            return matvec(x)

        _rmatvec = _matvec

    return Own()


def _raising(error):
    """Code that NumPy arrays pass through, and other arrays do not."""

    def matvec(x):
        if not isinstance(x, np.ndarray):
            raise error
        return 2 * x

    return matvec


@pytest.mark.parametrize(
    "error", [NotImplementedError, IndexError, ValueError, TypeError, AssertionError]
)
@pytest.mark.parametrize(
    "around",
    [lambda op: op, lambda op: pylops.VStack([op, op]), lambda op: op.H @ op],
    ids=["alone", "stack", "product"],
)
def test_errors_that_numpy_does_not_raise_lead_to_a_whole_array_run(error, around):
    op = around(of_user(_raising(error("no such thing"))))
    x0 = rand(12)
    with forbid_executions(), pytest.warns(PerformanceWarning, match="no such thing"):
        y = op @ to_dask(x0, 4)
    assert_same(y, op @ x0)


@pytest.mark.parametrize("error", [NotImplementedError, IndexError, ValueError, AssertionError])
@pytest.mark.parametrize(
    "around",
    [lambda op: op, lambda op: pylops.VStack([op, op]), lambda op: op.H @ op],
    ids=["alone", "stack", "product"],
)
@pytest.mark.filterwarnings("error::pylops_dispatch.PerformanceWarning")
def test_errors_that_numpy_raises_too_come_out(error, around):
    def matvec(x):
        raise error("what the user is to be told")

    op = around(of_user(matvec))
    with forbid_executions(), pytest.raises(error, match="what the user is to be told"):
        op @ to_dask(rand(12), 4)


AROUND = {
    "alone": lambda op: op,
    "adjoint": lambda op: op.H,
    "conjugate": lambda op: op.conj(),
    "scaled": lambda op: 2 * op,
    "stack": lambda op: pylops.VStack([op, pylops.Identity(op.shape[1])]),
    "product": lambda op: op.H @ op,
}


def _first(x):
    return float(x[0])


def without_it(x):
    """Go on with another value."""
    try:
        return (1 + _first(x)) * x
    except (TypeError, IndexError):
        return 0 * x


def less_of_it(x):
    try:
        return (1 + _first(x)) * x
    except TypeError:
        return x[:2]


def an_error_of_its_own(x):
    try:
        return (1 + _first(x)) * x
    except TypeError:
        raise RuntimeError("no such number") from None


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("matvec", [without_it, less_of_it, an_error_of_its_own])
def test_code_that_swallows_a_refusal_has_the_whole_array(matvec, around):
    op, x0 = around(of_user(matvec)), rand(12)
    with forbid_executions(), pytest.warns(PerformanceWarning, match=r"float\(\) was called"):
        y = op @ to_dask(x0, 4)
    assert_same(y, around(of_user(matvec)) @ x0)
    with set_policy(whole_array="raise"), pytest.raises(NotDispatchedError):
        op @ to_dask(x0, 4)


@pytest.mark.parametrize("of_the_class", [False, True])
def test_what_an_operator_kept_of_a_refusal_is_forgotten(of_the_class):
    class Scaling(pylops.LinearOperator):
        scale = None

        def _matvec(self, x):
            if self.scale is None:
                try:
                    self.scale = float(x[0])
                except TypeError:
                    self.scale = 0.0
            return self.scale * x

    op = Scaling(dtype="f8", shape=(5000, 5000))  # too long to be applied to zeros first
    if not of_the_class:
        op.scale = None
    x0 = 1 + rand(5000)
    with pytest.warns(PerformanceWarning):
        y = op @ to_dask(x0, 2000)
    assert op.scale is None
    assert ("scale" in vars(op)) != of_the_class
    assert op.matvec_count == 1
    assert_same(y, x0[0] * x0)


@pytest.mark.filterwarnings("error::pylops_dispatch.PerformanceWarning")
@pytest.mark.filterwarnings("ignore::pylops_dispatch.ImplicitComputeWarning")
def test_a_refusal_that_others_handled_is_no_matter():
    """An operator within another ran in a task of its own; a policy allowed to read a value."""
    x0 = rand(12)
    within = of_user(without_it)

    def around(x):
        with set_policy(whole_array="allow"):
            return x + within.matvec(x)

    assert_same(of_user(around) @ to_dask(x0, 4), of_user(around) @ x0)
    with set_policy(implicit_compute="warn"):
        assert_same(within @ to_dask(x0, 4), within @ x0)


def test_refusals_of_other_threads_are_no_matter():
    from concurrent.futures import ThreadPoolExecutor

    x0 = rand(12)
    x = to_dask(x0, 4)
    refused, lazy = of_user(without_it), of_user(lambda x: 2 * x)
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(2) as threads:
        warnings.simplefilter("always")
        results = list(threads.map(lambda op: op @ x, [refused, lazy] * 10))
    for number, y in enumerate(results):
        assert_same(y, (lazy if number % 2 else refused) @ x0)
    assert len([w for w in caught if w.category is PerformanceWarning]) == 10


WRONG_SIZES = {
    "less": lambda x: x[:5],
    "more": lambda x: np.concatenate([x, x]),
    "less of the whole array": lambda x: scipy.ndimage.gaussian_filter(x, 1.0)[:5],
}


@pytest.mark.parametrize("n", [12, 5000])
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("result", WRONG_SIZES)
@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
def test_a_result_of_another_size_than_the_operator_says(result, around, n):
    op = around(pylops.FunctionOperator(*[WRONG_SIZES[result]] * 2, n, n))
    with pytest.raises(ValueError, match="cannot reshape array of size") as expected:
        op @ rand(n)
    x = to_dask(rand(n), n // 3)
    apply = (lambda: (op @ x).compute()) if "whole" in result else (lambda: op @ x)
    with pytest.raises(ValueError, match="cannot reshape array of size") as found:
        apply()  # where only the task knows, when that is computed
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("times", [lambda a, op: a * op, lambda a, op: op * a])
@pytest.mark.parametrize("name", operators())
def test_a_lazy_number_times_an_operator(times, name):
    op, x0 = operators()[name], rand(30)
    x = to_dask(x0, 7)
    with forbid_executions(), pytest.raises(TypeError, match=r"compute\(\).*allow") as caught:
        times(x.sum(), op)
    assert re.search(r"scalar \* \(Op @ x\).* lazy", str(caught.value))
    assert type(op).__name__ in str(caught.value)
    with set_policy(implicit_compute="allow", whole_array="allow"):
        assert_close((times(x.sum(), op) @ x).compute(), times(x0.sum(), op) @ x0)


@pytest.mark.parametrize("number", [np.float64(2), np.array(2.0)], ids=["scalar", "array"])
def test_a_number_of_numpy_times_an_operator(number):
    op, x0 = pylops.FirstDerivative(12), rand(12)
    assert isinstance(number * op, pylops.LinearOperator)
    assert_same((number * op) @ to_dask(x0, 5), 2 * (op @ x0))
    assert not hasattr(pylops.LinearOperator, "__array_ufunc__")


@pytest.mark.parametrize("error", [NotImplementedError, IndexError, ValueError])
def test_a_policy_refuses_the_whole_array_run_after_any_error(error):
    with set_policy(whole_array="raise"), pytest.raises(NotDispatchedError, match="no such thing"):
        of_user(_raising(error("no such thing"))) @ to_dask(rand(12), 4)


def test_a_policy_says_once_what_it_refuses():
    op = ruled(pylops_dispatch.whole("it adds up"))
    with pylops_dispatch.set_policy(whole_array="raise"):
        for around in (op, pylops.VStack([op, op]), 2 * op):
            with pytest.raises(NotDispatchedError) as caught:
                around @ da.ones(24, chunks=5)
            assert str(caught.value).count("runs in one task") == 1


# ------------------------------------------------------------------ dtypes that are not declared


class Analytic(pylops.LinearOperator):
    """Complex, whatever it says it is."""

    def _matvec(self, x):
        return scipy.signal.hilbert(np.asarray(x)) * getattr(self, "weight", 1)

    def _rmatvec(self, x):
        return np.asarray(x) * 0.5


def of_dtype(n, dtype):
    op = Analytic(shape=(n, n), dtype=dtype)
    return op if dtype is not None else Analytic(shape=(n, n))


@pytest.mark.parametrize(
    ("dtype", "around"),
    [
        (None, lambda op: op),  # PyLops's own combinations need a dtype
        (np.dtype(float), lambda op: op),
        (np.dtype(int), lambda op: op),
        (np.dtype(float), lambda op: 2 * op),
        (np.dtype(float), pylops.MemoizeOperator),
    ],
)
@pytest.mark.parametrize("n", [60, 6000])
def test_the_dtype_is_that_of_the_result_not_the_declared_one(n, dtype, around):
    op = around(of_dtype(n, dtype))
    x0 = np.arange(n) % 7
    for outer in [op] if dtype is None else [op, op.H]:
        with pylops_dispatch.set_policy(whole_array="allow"):
            y = outer @ da.from_array(x0, chunks=n // 4)
        expected = outer @ x0
        assert y.dtype == expected.dtype
        assert_close(y.compute(), expected)


def test_the_dtype_of_a_result_is_also_that_of_dask_arrays_which_an_operator_holds():
    op = Analytic(shape=(30, 30), dtype=np.dtype(float))
    op._matvec = types.MethodType(lambda self, x: np.asarray(x) * np.asarray(self.w), op)
    w0, x0 = rand(30) + 1j * rand(30, seed=1), rand(30, seed=2)
    op.w = da.from_array(w0, chunks=10)
    with pylops_dispatch.set_policy(whole_array="allow"):
        y = op @ da.from_array(x0, chunks=7)
    assert y.dtype == complex
    assert_close(y.compute(), w0 * x0)


def test_a_dtype_that_is_found_out_too_late_is_an_error(monkeypatch):
    monkeypatch.setattr(running, "PROBED", 10)
    op = of_dtype(60, np.dtype(float))
    with pylops_dispatch.set_policy(whole_array="allow"):
        y = op @ da.ones(60, chunks=20)
    with pytest.raises(TypeError, match="Analytic gives complex128 for float64, and float64 was"):
        y.compute()


def test_errors_of_blocks_come_out():
    """In a solver, a user's code may read values."""

    def matvec(x):
        return x * (1 + 0 * float(abs(register @ x).sum()))

    class Failing(pylops.LinearOperator):
        def __init__(self):
            super().__init__(dtype=np.dtype("f8"), dims=(12,), dimsd=(12,))

        def _matvec(self, x):
            if x.any():
                raise ValueError("in a block")
            return x

    pylops_dispatch.register_rule(Failing, pylops_dispatch.halo(1))
    register = Failing()
    with pytest.raises(ValueError, match="in a block"):
        pylops.cgls(of_user(matvec), to_dask(rand(12), 4), niter=2)


# ------------------------------------------------- operators that solve for their input

A = pylops.MatrixMult(rand((12, 12)) + 12 * np.eye(12))

SOLVES = {
    "cgls": lambda x: pylops.cgls(A, x, niter=3)[0],
    "cg": lambda x: pylops.cg(A.H @ A, x, niter=3)[0],
    "lsqr": lambda x: pylops.lsqr(A, x, niter=3)[0],
    "fista": lambda x: pylops.fista(A, x, niter=3)[0],
    "omp": lambda x: pylops.omp(A, x, niter_outer=2, niter_inner=2)[0],
    "regularized": lambda x: pylops.regularized_inversion(A, x, [pylops.Identity(12)], iter_lim=3)[
        0
    ],
    "class": lambda x: CGLS(A).solve(x, niter=3)[0],
    "division": lambda x: (A + pylops.Identity(12)) / x,
}


@pytest.mark.parametrize("solve", SOLVES.values(), ids=SOLVES)
def test_an_operator_that_solves_does_so_in_one_task(solve):
    op, x0 = of_user(solve), rand(12)
    with forbid_executions(), pytest.warns(PerformanceWarning):
        y = op @ to_dask(x0, 4)
    assert_close(y.compute(scheduler="synchronous"), op @ x0)


@pytest.mark.parametrize("name", ["cgls", "class"])
def test_an_operator_that_solves_in_a_solver(name):
    op, x0 = of_user(SOLVES[name]), rand(12)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PerformanceWarning)
        result = pylops.cgls(op, to_dask(x0, 4), niter=3)[0]
    assert_close(result.compute(), pylops.cgls(op, x0, niter=3)[0], rtol=1e-8)


class Broken(pylops.LinearOperator):
    """Whose code raises an error on values, never on what is lazy."""

    def __init__(self, n):
        super().__init__(dtype=np.dtype("float64"), shape=(n, n))

    def _matvec(self, x):
        if isinstance(x, np.ndarray):
            raise RuntimeError("no values, please")
        raise TypeError("values, please")

    _rmatvec = _matvec


@pytest.mark.parametrize(
    "around",
    [
        lambda op: op,
        lambda op: 2 * op @ pylops.Diagonal(np.ones(8)),
        lambda op: pylops.VStack([pylops.Identity(8), op]),
        lambda op: pylops.Kronecker(op, pylops.Identity(2)),
        lambda op: pylops.BlockDiag([op.H, op.T]),
        lambda op: op.conj() ** 2,
    ],
)
def test_an_error_names_the_operator_within_others(around):
    op = around(Broken(8))
    with pylops_dispatch.set_policy(whole_array="allow"):
        y = op @ da.ones(op.shape[1], chunks=4)
    with pytest.raises(RuntimeError) as caught:
        y.compute()
    (note,) = caught.value.__notes__
    assert "Broken._" in note
    assert " on a block of shape (" in note


@pytest.mark.parametrize("name", ["implicit_compute", "whole_array", "numpy_vectors"])
def test_a_wrong_policy_is_named_as_it_is_given(name):
    with pytest.raises(ValueError, match=f"{name} must be 'raise', 'warn' or 'allow', got 'no'"):
        set_policy(**{name: "no"})


# ------------------------------------------------------- operators that hold each other


class WithItsAdjoint(pylops.LinearOperator):
    """Keeps its adjoint, which holds the operator."""

    def __init__(self, whole=False):
        super().__init__(dtype=np.dtype(float), dims=(4,), dimsd=(4,))
        self.whole = whole
        self.kept = self.H

    def _matvec(self, x):
        return 2 * (np.asarray(x) if self.whole else x)

    _rmatvec = _matvec


@pytest.mark.parametrize("whole", [False, True])
def test_an_operator_that_holds_what_holds_it(whole):
    op, x = WithItsAdjoint(whole), np.arange(4.0)
    assert_close(op @ x, 2 * x)
    with pylops_dispatch.set_policy(whole_array="allow"):
        assert_close((op @ da.from_array(x, chunks=3)).compute(), 2 * x)
        y = da.from_array(2 * x, chunks=3)
        assert_close(pylops.cgls(op + op, y, niter=2)[0].compute(), x / 2)
    assert "Adjoint" in str(pylops_dispatch.capability(op))
    assert sum(pylops_dispatch.suggest_chunks(op)[0]) == 4


def test_operators_of_pylops_in_a_circle():
    first, second = pylops.Identity(4), pylops.FirstDerivative(4)
    first.other, second.other = second, first
    x = np.arange(4.0)
    assert_close((first @ da.from_array(x, chunks=3)).compute(), x)
    assert_close((second @ da.from_array(x, chunks=3)).compute(), second @ x)


# ------------------------------------------------ operators that keep what they make


class Normalising(pylops.LinearOperator):
    """Divides by the largest value of the vector that it meets first."""

    def __init__(self, whole, n=6):
        super().__init__(dtype=np.dtype(float), dims=(n,), dimsd=(n,))
        self.whole = whole
        self.kept = {}

    def _matvec(self, x):
        x = np.asarray(x) if self.whole else x
        if not self.kept:
            self.kept["scale"] = np.abs(x).max()
        return x / self.kept["scale"]

    _rmatvec = _matvec


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("planned", [False, True])
def test_only_vectors_of_the_user_leave_something_in_an_operator(whole, planned):
    op, x = Normalising(whole), np.arange(1.0, 7)
    given = da.from_array(x, chunks=4)
    with pylops_dispatch.set_policy(whole_array="allow"):
        if planned:
            pylops_dispatch.plan(op, given)
            pylops_dispatch.plan(pylops.cgls, op, given, niter=2)
            pylops_dispatch.suggest_chunks(op)
            assert not op.kept
            assert op.matvec_count == op.rmatvec_count == 0
        assert_close((op @ given).compute(), x / 6)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: pylops_dispatch.plan(pylops.FirstDerivative(8), x),
        lambda x: pylops_dispatch.plan(pylops.cgls, pylops.FirstDerivative(8), x),
        lambda x: pylops_dispatch.suggest_chunks(pylops.FirstDerivative(8)),
    ],
)
def test_nothing_is_foreseen_while_disabled(call, forbid_executions):
    x = da.ones(8, chunks=4)
    with pylops_dispatch.disabled(), forbid_executions():  # noqa: SIM117
        with pytest.raises(RuntimeError, match=r"pylops_dispatch\.enable\(\)"):
            call(x)


def test_an_operator_of_scipy_is_not_planned(forbid_executions):
    op = scipy.sparse.linalg.aslinearoperator(np.eye(4))
    with forbid_executions(), pytest.raises(TypeError, match=r"a pylops\.LinearOperator"):
        pylops_dispatch.plan(op, da.ones(4, chunks=2))


def test_a_wrong_policy_in_the_configuration_is_refused():
    x = da.ones(8, chunks=4)
    with dask.config.set({"pylops-dispatch.whole-array": "Raise"}):  # noqa: SIM117
        with pytest.raises(ValueError, match="whole-array in dask's configuration must be"):
            Reader((8,)) @ x


def test_a_whole_array_run_has_a_reason():
    class Asserting(pylops.LinearOperator):
        def _matvec(self, x):
            if not isinstance(x, np.ndarray):
                raise AssertionError
            return x

    op = Asserting(dtype=np.dtype(float), dims=(6,), dimsd=(6,))
    with pytest.warns(pylops_dispatch.PerformanceWarning, match="it raised AssertionError"):
        op @ da.ones(6, chunks=3)


# ------------------------------------------------------------------ rules that are wrong


def ruled(rule):
    class Ruled(pylops.LinearOperator):
        def _matvec(self, x):
            return np.cumsum(x.reshape(self.dims), axis=1).ravel()

        @property
        def doubled(self):
            return 2 * self.weights

    pylops_dispatch.register_rule(Ruled, rule)
    op = Ruled(dtype=np.dtype(float), dims=(4, 6), dimsd=(4, 6))
    op.weights = np.ones((4, 6))
    return op


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (lambda: pylops_dispatch.whole_axis(2), ValueError, "Ruled gives 2 for an axis.*(4, 6)"),
        (lambda: pylops_dispatch.whole_axis(lambda op: "ab"), ValueError, "Ruled gives 'a'"),
        (
            lambda: pylops_dispatch.halo(0, axes=lambda op: (5,)),
            ValueError,
            "Ruled gives 5 for an axis",
        ),
        (lambda: pylops_dispatch.halo((1, 0, 0)), ValueError, "Ruled has a halo of .1, 0, 0."),
        (
            lambda: pylops_dispatch.halo(lambda op: (1, 0, 0)),
            ValueError,
            "Ruled has a halo of .1, 0, 0.*(4, 6)",
        ),
        (lambda: pylops_dispatch.halo(lambda op: 1), ValueError, "Ruled has a halo of 1,"),
        (lambda: pylops_dispatch.halo(0, ("nope",)), AttributeError, "Ruled names.*'nope'"),
        (
            lambda: pylops_dispatch.parallel_sum(model="a", data="a"),
            ValueError,
            "Ruled names the axes 'a' of the model",
        ),
        (
            lambda: pylops_dispatch.parallel_sum(
                model="a b", data="a b", coefficients={"nope": "a"}
            ),
            AttributeError,
            "Ruled names the coefficient 'nope', and the operator has no such attribute",
        ),
        (
            lambda: pylops_dispatch.parallel_sum(
                model="a b", data="a b", coefficients={"weights": "b a"}
            ),
            ValueError,
            r"Ruled gives weights the axes 'b a', of \(6, 4\) samples, and its shape is \(4, 6\)",
        ),
        (
            lambda: pylops_dispatch.parallel_sum(
                model="a b", data="a b", coefficients={"weights": "a"}
            ),
            ValueError,
            r"Ruled gives weights the axes 'a', of \(4,\) samples, and its shape is \(4, 6\)",
        ),
        (
            lambda: pylops_dispatch.alone(("doubled",)),
            AttributeError,
            r"property or a slot of that name: name the attribute that holds the array",
        ),
    ],
)
def test_a_rule_that_does_not_fit_is_said_to_be_none(rule, error, message):
    op = ruled(rule())
    with pytest.raises(error, match=message):
        op @ da.ones((4, 6), chunks=3)


def test_a_function_may_give_a_single_axis():
    op = ruled(pylops_dispatch.whole_axis(lambda op: 1))
    x0 = rand((4, 6))
    assert_close((op @ da.from_array(x0, chunks=3)).compute(), op @ x0)


@pytest.mark.parametrize("make", [lambda: 1, lambda: np.int64(1)], ids=["int", "NumPy's"])
def test_axes_and_depths_are_integers_of_any_kind(make):
    x0 = rand((4, 6))
    for rule in (
        pylops_dispatch.whole_axis(make()),
        pylops_dispatch.halo(np.array([0, 6]), ("weights",)),
    ):
        op = ruled(rule)
        with warnings.catch_warnings(action="ignore"):
            assert_close((op @ da.from_array(x0, chunks=3)).compute(), op @ x0)


@pytest.mark.parametrize(
    ("rule", "advice"),
    [
        (pylops_dispatch.alone(), r"alone\(..., coefficients=\('weights',\)\)"),
        (pylops_dispatch.halo((0, 6)), r"halo\(..., coefficients=\('weights',\)\)"),
        (pylops_dispatch.whole_axis(1), "parallel_sum"),
    ],
)
def test_an_array_of_the_models_shape_that_a_rule_does_not_name_is_told(rule, advice):
    op = ruled(rule)
    with pytest.warns(UserWarning, match=f"says nothing of weights.*{advice}"):
        op @ da.ones((4, 6), chunks=3)


def test_an_array_that_has_the_models_shape_by_chance_is_no_matter():
    class Filtered(pylops.LinearOperator):
        def _matvec(self, x):
            return np.convolve(x, self.filter, "same")

    pylops_dispatch.register_rule(Filtered, pylops_dispatch.halo(9))
    op = Filtered(dtype=np.dtype(float), dims=(9,), dimsd=(9,))
    op.filter = rand(9)
    with warnings.catch_warnings(action="error"):
        op @ da.ones(9, chunks=3)


class WithBranches(pylops.LinearOperator):
    """Has another method for arrays that are not NumPy's, or has not."""

    def _matvec(self, x):
        return 2 * x if type(x) is np.ndarray else self.on_device(x)

    _rmatvec = _matvec


def test_an_attribute_that_only_lazy_vectors_lead_to_is_no_mistake():
    op = WithBranches(dtype=np.dtype(float), dims=(12,), dimsd=(12,))
    with pytest.warns(PerformanceWarning, match="on_device"):
        y = op @ to_dask(rand(12), 5)
    assert_same(y, 2 * rand(12))


def test_applications_are_counted_once_where_code_returns_no_lazy_array():
    class Elements(pylops.LinearOperator):
        def _matvec(self, x):
            return np.array([float(value) for value in x])

        _rmatvec = _matvec

    y0 = rand(4)
    counts = []
    for y in (y0, to_dask(y0, 2)):
        op = Elements(dtype=np.dtype(float), dims=(4,), dimsd=(4,))
        with warnings.catch_warnings(action="ignore"):
            pylops.cgls(op, y, niter=2, tol=0)
        counts.append((op.matvec_count, op.rmatvec_count))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "rule",
    [
        pylops_dispatch.alone(("weights",)),
        pylops_dispatch.whole_axis((0, 1)),
        pylops_dispatch.compose(),
    ],
)
def test_an_array_that_no_block_meets_as_a_whole_is_no_matter(rule):
    op = ruled(rule)
    with warnings.catch_warnings(action="error"):
        op @ da.ones((4, 6), chunks=3)


def test_a_sum_of_terms_without_names_is_no_rule():
    with pytest.raises(ValueError, match="names of the axes of both model and data"):
        ruled(pylops_dispatch.parallel_sum())


class Shorter(pylops.LinearOperator):
    """Gives one sample less than it is given."""

    def _matvec(self, x):
        return scipy.ndimage.uniform_filter1d(x, 3)[1:]


class WithOwnMethods(pylops.LinearOperator):
    """Chooses a method when it is made."""

    def __init__(self):
        super().__init__(dtype=np.dtype(float), dims=(12,), dimsd=(12,))
        self._matvec = self._filtered

    def _filtered(self, x):
        return scipy.ndimage.uniform_filter1d(x, 3)


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (
            Shorter(dtype=np.dtype(float), dims=(12,), dimsd=(11,)),
            r"Shorter, halo, is for operators whose dims and dimsd are the same.*\(12,\) and \(11,",
        ),
        (
            WithOwnMethods(),
            "WithOwnMethods is for the class's methods, and this object has its own",
        ),
    ],
    ids=["of other dims", "with methods of its own"],
)
def test_a_rule_that_is_not_for_this_operator_is_told(op, why):
    pylops_dispatch.register_rule(type(op), pylops_dispatch.halo(1))
    assert re.search(why, str(pylops_dispatch.capability(op)))
    x0 = rand(12)
    with pytest.warns(PerformanceWarning, match=why):
        y = op @ to_dask(x0, 5)
    assert_same(y, op @ x0)


def _doubled(x, times=2):
    return times * x


class Static(pylops.LinearOperator):
    _matvec = _rmatvec = staticmethod(_doubled)


class Partial(pylops.LinearOperator):
    def _times(self, x, times):
        return times * x

    _matvec = functools.partialmethod(_times, times=2)
    _rmatvec = functools.partialmethod(_times, times=2)


def test_a_spread_of_other_axes_than_its_rule_names_runs_whole():
    op = pylops.Spread((5, 6, 7), (6, 9), table=np.zeros((5, 6, 6)))
    with pytest.warns(PerformanceWarning, match="Spread runs in one task.*two axes each"):
        y = op.H @ da.ones((6, 9), chunks=3)
    assert_same(y, op.H @ np.ones((6, 9)))


@pytest.mark.parametrize("cls", [Static, Partial])
def test_methods_of_any_kind_may_have_a_rule(cls):
    pylops_dispatch.register_rule(cls, pylops_dispatch.alone())
    op = cls(dtype=np.dtype(float), dims=(12,), dimsd=(12,))
    x0 = rand(12)
    for direction in (op, op.H):
        np.testing.assert_array_equal(direction @ x0, 2 * x0)
        assert_same(direction @ to_dask(x0, 5), 2 * x0)


class Mistaken(pylops.LinearOperator):
    """Has no adjoint, and a method that asks for what is not there."""

    def _matvec(self, x):
        return x * self.no_such_weights


@pytest.mark.parametrize(("n", "adjoint"), [(12, False), (12, True), (100_000, True)])
def test_mistakes_of_code_come_out_when_it_is_applied(n, adjoint):
    op = Mistaken(dtype=np.dtype(float), dims=(n,), dimsd=(n,))
    direction = op.H if adjoint else op
    for x in (np.ones(n), da.ones(n, chunks=n // 3)):
        with pytest.raises(AttributeError, match="Mistaken' object has no attribute"):
            direction @ x


class Forgetful(pylops.LinearOperator):
    def _matvec(self, x):
        x = 2 * x


def test_code_that_returns_nothing_fails_when_it_is_applied():
    op = Forgetful(dtype=np.dtype(float), dims=(12,), dimsd=(12,))
    for x in (np.ones(12), da.ones(12, chunks=5)):
        with pytest.raises(AttributeError, match="'NoneType' object has no attribute"):
            op @ x


def adds_complex_to_real(x):
    y = np.zeros_like(x)
    y += 1j * x
    return y


def adds_complex_to_a_buffer(x):
    y = np.zeros(12)
    y += 1j * x
    return y


def multiplies_other_lengths(x):
    return np.einsum("ij,kj->ik", x.reshape(3, 4), np.ones((2, 3))).ravel()


@pytest.mark.parametrize(
    ("code", "kind", "in_one_task"),
    [
        (adds_complex_to_real, TypeError, False),
        (adds_complex_to_a_buffer, TypeError, True),
        (multiplies_other_lengths, ValueError, False),
    ],
)
def test_what_numpy_refuses_of_any_values_is_refused_when_it_is_applied(code, kind, in_one_task):
    op = pylops.FunctionOperator(code, code, 12)
    for x in (np.ones(12), da.ones(12, chunks=5)):
        for direction in (op, op.H):
            with (
                warnings.catch_warnings(record=True, action="always") as told,
                pytest.raises(kind) as caught,
            ):
                direction @ x
            assert not isinstance(caught.value, NotDispatchedError)
            assert bool(told) is (in_one_task and not isinstance(x, np.ndarray))


def test_a_warning_names_the_operator_as_its_user_does_and_gives_no_advice_that_is_not_needed():
    with pytest.warns(PerformanceWarning) as caught:
        Reader(DIMS).H @ to_dask(rand(DIMS), 3)
    (message,) = {str(warning.message) for warning in caught}
    assert message.startswith("Reader.H runs in one task")
    assert "implicit_compute" not in message
    assert "Call .compute()" not in message


def test_there_is_no_rule_for_all_operators():
    with pytest.raises(TypeError, match=r"must be a subclass of pylops\.LinearOperator"):
        pylops_dispatch.register_rule(pylops.LinearOperator, pylops_dispatch.alone())


def test_a_rule_of_other_axes_is_told_before_anything_is_applied():
    op = ruled(pylops_dispatch.parallel_sum(model="a", data="a"))
    for ask in (pylops_dispatch.suggest_chunks, lambda op: str(pylops_dispatch.capability(op))):
        with pytest.raises(ValueError, match="Ruled names the axes 'a' of the model"):
            ask(op)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pylops_dispatch.halo(1, place=3),
        lambda: pylops_dispatch.compose(3),
        lambda: pylops_dispatch.alone(note=1),
        lambda: pylops_dispatch.parallel_sum(model="a", data="b", coefficients="w"),
        lambda: pylops_dispatch.parallel_sum(model="a", data="b", coefficients={"w": 3}),
        lambda: pylops_dispatch.parallel_sum(model="a", data="b", lengths={"n": 3}),
        lambda: pylops_dispatch.whole_axis(0, fit="fit"),
    ],
)
def test_a_rule_is_made_of_what_rules_are_made_of(make):
    with pytest.raises(TypeError, match="must be"):
        make()
