"""The checks that packages built on this one use: right operators pass, wrong ones do not."""

import contextlib
import re

import dask
import dask.array as da
import numpy as np
import pylops
import pytest
import scipy.sparse.linalg
from hypothesis import given

import pylops_dispatch
from pylops_dispatch import NotDispatchedError, testing
from pylops_dispatch.testing import (
    UnexpectedExecution,
    assert_dask_equal,
    assert_lazy,
    check_operator,
    chunks_of,
    dask_dottest,
    operator_tests,
)

from .helpers import rand, to_dask
from .interpreters import run_python

# ------------------------------------------------------------------ assert_lazy


def test_nothing_executed_passes():
    with assert_lazy() as executions:
        da.ones(3) + 1
    assert executions.count == 0


@pytest.mark.parametrize("scheduler", [None, "synchronous", "threads"])
def test_an_execution_fails_whatever_the_scheduler(scheduler):
    with dask.config.set(scheduler=scheduler), pytest.raises(UnexpectedExecution), assert_lazy():
        da.ones(3).sum().compute()
    with pytest.raises(UnexpectedExecution), assert_lazy():
        da.ones(3).sum().compute(scheduler=scheduler)


def test_an_execution_fails_when_the_code_swallows_the_error():
    def swallows():
        with contextlib.suppress(AssertionError):
            da.ones(3).compute()

    with pytest.raises(UnexpectedExecution, match="budget of 0"), assert_lazy():
        swallows()


def test_executions_up_to_the_budget_run():
    with assert_lazy(budget=2) as executions:
        assert float((da.ones(3) + 1).sum()) == 6
        assert float(da.ones(3, chunks=1).sum().compute(scheduler="threads")) == 3
    assert executions.count == 2
    assert len(executions.tasks) >= 3
    with pytest.raises(UnexpectedExecution), assert_lazy(budget=1):
        [da.ones(n).compute() for n in (2, 3)]


def test_counting_without_a_limit():
    with assert_lazy(budget=None) as executions:
        for n in range(1, 4):
            da.ones(n).compute()
    assert executions.count == 3


@pytest.mark.parametrize("budget", ["a", -1, 2.5, True])
def test_a_budget_is_a_number_of_executions(budget):
    with pytest.raises(ValueError, match="budget must be"), assert_lazy(budget=budget):
        raise AssertionError("the block must not begin")


def test_an_inner_block_counts_for_the_outer_one():
    with assert_lazy(budget=None) as outer, assert_lazy(budget=None) as inner:
        da.ones(3).compute()
        da.ones(3).compute(scheduler="synchronous")
    assert (outer.count, inner.count) == (2, 2)


def test_schedulers_are_as_before_afterwards():
    named = dict(dask.base.named_schedulers)
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(ZeroDivisionError), assert_lazy():
            raise ZeroDivisionError
        assert dask.config.get("scheduler") == "synchronous"
    assert dask.base.named_schedulers == named


# --------------------------------------------------------- operators that are right


@pytest.mark.parametrize(
    "op",
    [
        pylops.FirstDerivative((7, 5), axis=0),
        pylops.FirstDerivative(9, dtype="float32"),
        pylops.Diagonal(rand((4, 3), "complex128")),
        pylops.VStack([pylops.Identity(6), pylops.MatrixMult(rand((4, 6)))]),
    ],
    ids=lambda op: op.name or type(op).__name__,
)
def test_operators_that_are_right_pass(op):
    assert_dask_equal(op)
    dask_dottest(op)
    check_operator(op, examples=3)


@pytest.mark.parametrize("chunks", [3, (2, 5), ((4, 3), (1, 4)), lambda shape: (2,) * len(shape)])
def test_chunks_are_said_as_dask_takes_them(chunks):
    assert_dask_equal(pylops.FirstDerivative((7, 5), axis=0), chunks=chunks)


def test_chunks_of_other_axes_than_the_operators_are_told():
    with pytest.raises(ValueError, match=r"chunks \(3, 3, 3\) are of 3 axes.*\(8, 5\)"):
        assert_dask_equal(pylops.FirstDerivative((8, 5)), chunks=(3, 3, 3))


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
def test_an_operator_may_write_into_what_it_is_given():
    def double(x):
        x *= 2
        return x

    op = pylops.FunctionOperator(double, double, 12, dtype=float)
    check_operator(op, one_task=True)


def test_operator_of_dask_arrays_against_one_of_numpy_arrays():
    a = rand((4, 6))
    assert_dask_equal(pylops.MatrixMult(to_dask(a, 3)), reference=pylops.MatrixMult(a))


def test_own_model():
    assert_dask_equal(pylops.FirstDerivative(9), np.arange(9.0), chunks=4, adjoint=False)


def test_dot_test_of_real_and_complex_vectors():
    for flag in range(4):
        dask_dottest(pylops.Diagonal(rand(8, "complex128")), complexflag=flag, chunks=3)
    dask_dottest(pylops.Real(8, dtype="complex128"), complexflag=3)
    with pytest.raises(ValueError, match="complexflag"):
        dask_dottest(pylops.Identity(3), complexflag=4)


def test_operator_without_adjoint():
    op = pylops.FunctionOperator(lambda x: 2 * x, 6)
    check_operator(op, adjoint=False, examples=2)


# --------------------------------------------------------- operators that are wrong


class Faulty(pylops.LinearOperator):
    """Twice the identity, unless it is told to do something wrong."""

    def __init__(self, fault, n=9):
        super().__init__(dtype=np.dtype("float64"), dims=(n,), dimsd=(n,))
        self.fault = fault

    def _matvec(self, x):
        lazy = not isinstance(x, np.ndarray)
        if self.fault == "values" and lazy:
            return 2.0001 * x
        if self.fault == "linear":
            return 2 * x + 1
        if self.fault == "dtype" and lazy:
            return (2 * x).astype("float32")
        if self.fault == "executes" and lazy:
            return 2 * x * float(bool(da.ones(1).sum().compute()))
        return 2 * x

    def _rmatvec(self, x):
        return 3 * x if self.fault == "adjoint" else 2 * x


class PiecewiseSum(pylops.LinearOperator):
    """The running sum, declared to need nothing of its neighbours."""

    def __init__(self, n=9):
        super().__init__(dtype=np.dtype("float64"), dims=(n,), dimsd=(n,))

    def _matvec(self, x):
        return np.cumsum(x)

    def _rmatvec(self, x):
        return np.cumsum(x[::-1])[::-1]


pylops_dispatch.register_rule(PiecewiseSum, pylops_dispatch.alone())


@pytest.mark.parametrize("fault", ["values", "linear", "dtype", "executes", "adjoint"])
def test_faults_are_found(fault):
    check_operator(Faulty(None), examples=2)
    with pytest.raises(AssertionError):
        check_operator(Faulty(fault), examples=2)


@pytest.mark.parametrize("fault", ["values", "dtype", "executes"])
def test_faults_on_dask_arrays_are_found(fault):
    with pytest.raises(AssertionError):
        assert_dask_equal(Faulty(fault))


def test_a_wrong_adjoint_fails_the_dot_test():
    with pytest.raises(AssertionError, match="dot test"):
        dask_dottest(Faulty("adjoint"))


def test_a_wrong_rule_is_found():
    with pytest.raises(AssertionError):
        check_operator(PiecewiseSum())


class InOneTask(Faulty):
    def _matvec(self, x):
        return 2 * np.frombuffer(x.tobytes())


def test_a_failure_tells_what_was_checked():
    with pytest.raises(AssertionError, match=r"largest error .* at \(\d+,\)") as caught:
        check_operator(PiecewiseSum())
    notes = "\n".join(caught.value.__notes__)
    assert re.search(r"of PiecewiseSum on an array of shape \(.*\) in chunks of \(\(", notes)
    assert "in the check 'equals_numpy' of PiecewiseSum" in notes


def test_an_operator_of_less_precision_than_what_it_holds():
    check_operator(pylops.Diagonal(np.linspace(0, 1, 20), dtype="float32"), examples=2)


@pytest.mark.parametrize("rtol", [-1, "x", [1e-3]])
def test_a_tolerance_is_a_number(rtol):
    op = pylops.Identity(6)
    for check in (
        lambda: check_operator(op, rtol=rtol),
        lambda: operator_tests(lambda: op, rtol=rtol),
        lambda: testing.assert_close(1.0, 1.0, rtol=rtol),
    ):
        with pytest.raises(ValueError, match="rtol must be a number"):
            check()


class Twice(Faulty):
    """Runs along an axis, and is said to give double precision whatever it is given."""


def test_a_dtype_that_a_rule_is_wrong_about_is_found():
    rule = pylops_dispatch.whole_axis(0, dtype=lambda op, dtype, adjoint: np.float64)
    pylops_dispatch.register_rule(Twice, rule)
    with pytest.raises(AssertionError, match="float32") as caught:
        check_operator(Twice(None), examples=2)
    assert any("'other_precision'" in note for note in caught.value.__notes__)


class Conjugating(pylops.LinearOperator):
    def _matvec(self, x):
        return x.conj()


def test_an_operator_is_linear_for_complex_factors_unless_it_says_otherwise():
    op = Conjugating(dtype=np.dtype(complex), dims=(6,), dimsd=(6,))
    with pytest.raises(AssertionError) as caught:
        check_operator(op, adjoint=False, examples=2)
    assert any("'linear'" in note for note in caught.value.__notes__)
    op = Conjugating(dtype=np.dtype(complex), dims=(6,), dimsd=(6,), clinear=False)
    check_operator(op, adjoint=False, examples=2)


def test_an_error_says_what_to_tell_the_check():
    with (
        pylops_dispatch.set_policy(whole_array="allow"),
        pytest.raises(NotDispatchedError) as caught,
    ):
        check_operator(InOneTask(None))
    assert any("one_task=True" in note for note in caught.value.__notes__)
    with pytest.raises(NotImplementedError) as missing:
        check_operator(pylops.FunctionOperator(lambda x: 2 * x, 6))
    assert any("adjoint=False" in note for note in missing.value.__notes__)


def test_an_operator_of_scipys_is_to_be_wrapped():
    op = scipy.sparse.linalg.aslinearoperator(np.eye(3))
    with pytest.raises(TypeError, match=r"pylops\.LinearOperator\(op\)"):
        check_operator(op)


def test_work_in_one_task_must_be_allowed():
    with pytest.raises(NotDispatchedError):
        check_operator(InOneTask(None))
    check_operator(InOneTask(None), one_task=True, examples=2)


# ----------------------------------------------------------------- for test suites

TestDerivative = operator_tests(
    lambda: pylops.FirstDerivative((6, 5), axis=0),
    lambda: pylops.FirstDerivative(7, kind="forward"),
    examples=3,
)


@given(chunks=chunks_of((6, 1, 40)))
def test_chunks_cover_the_array(chunks):
    assert tuple(sum(axis) for axis in chunks) == (6, 1, 40)
    assert all(n > 0 for axis in chunks for n in axis)


def test_operators_are_made_by_functions():
    for wrong in [(), (pylops.Identity(3),), (3,)]:
        with pytest.raises(TypeError, match="lambda"):
            operator_tests(*wrong)


def test_neither_pytest_nor_hypothesis_is_needed():
    code = """
    import sys
    import pylops  # one of its engines needs pytest
    sys.modules["pytest"] = sys.modules["hypothesis"] = None
    sys.modules["hypothesis.strategies"] = None
    from pylops_dispatch import testing

    testing.check_operator(pylops.FirstDerivative((6, 5), axis=0), examples=3)
    needs = {testing.chunks_of: "hypothesis", testing.operator_tests: "pytest"}
    for function, package in needs.items():
        try:
            function((3, 4))
        except ImportError as error:
            assert f"pip install {package}" in str(error), error
        else:
            raise AssertionError(function)
    print("ok")
    """
    done = run_python(code)
    assert done.stdout.strip() == "ok", done.stderr


def test_every_name_is_public():
    assert all(hasattr(testing, name) for name in testing.__all__)


def test_small_values_are_compared_as_large_ones():
    small = Faulty("values") * 1e-12
    with pytest.raises(AssertionError):
        check_operator(small, examples=2)
    with pytest.raises(AssertionError, match="dot test"):
        check_operator(1e-9 * Faulty("adjoint"), examples=2)
    check_operator(1e-12 * Faulty(None), examples=2)
    with pytest.raises(AssertionError):
        testing.assert_close(np.float32([5e-8]), np.float32([-5e-8]))


def test_integers_whose_difference_their_own_dtype_does_not_have():
    for actual, expected in [
        (np.int8([-128]), np.int8([0])),
        (np.array([0]), np.array([-(2**63)])),
        (np.uint8([0]), np.uint8([200])),
    ]:
        with pytest.raises(AssertionError):
            testing.assert_close(actual, expected)
        testing.assert_close(expected, expected)


def test_a_number_of_examples_is_needed():
    with pytest.raises(ValueError, match="examples must be at least 1, got 0"):
        check_operator(Faulty(None), examples=0)


class KeepsAnArray(pylops.LinearOperator):
    """Works in an array of its own, which NumPy vectors leave with other numbers in it."""

    def __init__(self):
        self.work, self.weights = np.zeros(9), rand(9)
        super().__init__(dtype=np.dtype(float), shape=(9, 9))

    def _matvec(self, x):
        self.work[:] = 0
        self.work[1:] += x[:-1] * self.weights[:-1]
        return self.work.copy()

    def _rmatvec(self, x):
        self.work.fill(0)
        self.work[:-1] = x[1:]
        self.work *= self.weights
        return self.work.copy()


def test_an_operator_that_works_in_an_array_of_its_own_keeps_the_laws():
    check_operator(KeepsAnArray(), one_task=True, examples=2)
