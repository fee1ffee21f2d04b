"""Names of results: what differs has another name, and the same in another process has the same."""

import array
import enum
import gc
import subprocess
import sys
import types
from collections import defaultdict
from fractions import Fraction

import dask
import dask.array as da
import numba
import numpy as np
import pylops
import pytest
import scipy.sparse

from pylops_dispatch import halo, register_rule

from .helpers import assert_same, overlook_what_there_is, rand, to_dask

N = 12
X0 = np.arange(1.0, N + 1)

pytestmark = pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")


def lazy(x=X0):
    return da.from_array(x, chunks=4)


class Settings(pylops.LinearOperator):
    """Keeps whatever it is given."""

    def __init__(self, **attributes):
        super().__init__(dtype=np.dtype("f8"), dims=(N,), dimsd=(N,))
        vars(self).update(attributes)

    def _matvec(self, x):
        return np.convolve(x, [1, float(self.factor()), 1], "same")

    def factor(self):
        return self.k


def smoothing(k):
    """An operator of a class that is made anew with each call."""

    class Smoothing(Settings):
        def _matvec(self, x):
            return np.convolve(x, [1, k, 1], "same")

    return Smoothing()


def together(*results):
    return da.compute(*results, scheduler="synchronous")


# ---------------------------------------------------------------- classes


def test_two_classes_of_one_name_are_told_apart():
    first, second = smoothing(1.0), smoothing(2.0)
    for result, op in zip(together(first @ lazy(), second @ lazy()), (first, second), strict=True):
        np.testing.assert_array_equal(result, op @ X0)


def test_a_class_that_is_gone_leaves_its_name_to_no_other():
    result = smoothing(1.0) @ lazy()
    gc.collect()
    later = smoothing(2.0)
    np.testing.assert_array_equal(together(result, later @ lazy())[1], later @ X0)


def test_a_local_operator_defined_anew_is_the_one_that_runs():
    """Threads remember copies of operators for blocks."""

    def define(k):
        op = smoothing(k)
        register_rule(type(op), halo(1))
        return op

    for k in (1.0, 2.0):
        op = define(k)
        result = (op @ lazy()).compute(scheduler="synchronous")
        np.testing.assert_array_equal(result, op @ X0)


def test_names_are_the_same_in_another_process():
    program = (
        "import numpy as np, pylops, pylops_dispatch, dask.array as da\n"
        "class Mine(pylops.FirstDerivative): pass\n"
        "x = da.ones(12, chunks=4)\n"
        "print((Mine(12) @ x).name, (pylops.Diagonal(np.arange(12.0)) @ x).name)\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout


# ------------------------------------------------------------- attributes


@pytest.mark.parametrize("name", ["fold_count", "_slice", "_name", "_sample"])
def test_attributes_of_users_classes_count_whatever_they_are_called(name):
    class Named(Settings):
        def factor(self):
            return vars(self)[name]

    ops = [Named(**{name: k}) for k in (1.0, 2.0)]
    for result, op in zip(together(*(op @ lazy() for op in ops)), ops, strict=True):
        np.testing.assert_array_equal(result, op @ X0)


def test_applications_that_were_counted_make_no_difference():
    op = Settings(k=1.0)
    assert (op @ lazy()).name == (op @ lazy()).name


class Slots:
    __slots__ = ("k",)

    def __init__(self, k):
        self.k = k

    def __float__(self):
        return float(self.k)


@pytest.mark.parametrize(
    "make", [Fraction, Slots, lambda k: range(k, k + 1)], ids=["Fraction", "slots", "range"]
)
def test_values_that_nothing_can_watch_are_named_by_value(make):
    class Valued(Settings):
        def factor(self):
            return self.k[0] if isinstance(self.k, range) else self.k

    def result(k):
        return Valued(k=make(k)) @ lazy()

    results = []
    overlook_what_there_is()
    for k in range(4):
        results.append(result(k))
        gc.collect()  # another value may have the address of one that is gone
    assert len({y.name for y in results}) == len(results)
    assert result(3).name == results[3].name


def _object_setting():
    op = Settings(k=0.0, config=types.SimpleNamespace(inner=types.SimpleNamespace(k=1.0)))
    op.config.owner = op  # in a circle

    def change():
        op.config.inner.k = 2.0

    return op, change


def _sparse_matrix():
    op = pylops.MatrixMult(scipy.sparse.random(N, N, density=0.5, random_state=1, format="csr"))

    def change():
        op.A.data *= 3

    return op, change


def _large_sparse_matrix():
    op = pylops.MatrixMult(scipy.sparse.diags([rand(4096)] * 3, [-1, 0, 1], shape=(4096, 4096)))

    def change():
        op.A.data *= 3

    return op, change


def _one_weight_of_many():
    op = pylops.signalprocessing.Convolve1D(4096, rand(1001), offset=500)

    def change():
        op.Op.h[3] += 1

    return op, change


def _permuted_rows():
    op = Settings(k=1.0, rows=np.eye(64))

    def change():
        op.rows[:] = op.rows[::-1].copy()

    return op, change


def _masked_array():
    op = Settings(k=1.0, values=np.ma.masked_array(rand(1000)))

    def change():
        op.values.mask[7] = True

    op.values[3] = np.ma.masked
    return op, change


def _default_of_a_function():
    held = rand(3)

    def forward(x, *, weights=held):
        return np.convolve(x, weights, "same")

    def change():
        held[1] += 1

    return pylops.FunctionOperator(forward, forward, N), change


def _variable_of_a_function():
    k = 1.0

    def forward(x):
        return np.convolve(x, [k])

    def change():
        nonlocal k
        k = 2.0

    return pylops.FunctionOperator(forward, forward, N), change


def _callable_object():
    class Scaling:
        def __call__(self, x):
            return np.convolve(x, [self.k])

    scaling = Scaling()
    scaling.k = 1.0

    def change():
        scaling.k = 2.0

    return pylops.FunctionOperator(scaling, scaling, N), change


def _operator_behind_a_method():
    inner = Settings(k=1.0)

    def change():
        inner.k = 2.0

    return pylops.FunctionOperator(inner.matvec, inner.matvec, N), change


class Adding(dict):
    """A dictionary that has a number for each key."""

    number = 1.0

    def __missing__(self, key):
        return self.number


class Named(str):
    """A string with a number."""


def _attribute_of_a_dictionary():
    op = Settings(k=1.0, numbers=Adding())
    op.factor = lambda: op.numbers["any"]

    def change():
        op.numbers.number = 2.0

    return op, change


def _attribute_of_a_string():
    op = Settings(k=1.0, name_of_it=Named("x"))
    op.name_of_it.k = 1.0

    def change():
        op.name_of_it.k = 2.0

    return op, change


def _attribute_of_a_function():
    def forward(x):
        return np.convolve(x, [forward.k])

    forward.k = 1.0

    def change():
        forward.k = 2.0

    return pylops.FunctionOperator(forward, forward, N), change


def _array_of_python():
    op = Settings(k=1.0, numbers=array.array("d", [1.0, 2.0]))

    def change():
        op.numbers[1] = 3.0

    return op, change


def _set():
    op = Settings(k=1.0, chosen={1, 2})

    def change():
        op.chosen.add(3)

    return op, change


@pytest.mark.parametrize(
    "make",
    [
        _object_setting,
        _sparse_matrix,
        _large_sparse_matrix,
        _one_weight_of_many,
        _permuted_rows,
        _masked_array,
        _default_of_a_function,
        _variable_of_a_function,
        _callable_object,
        _operator_behind_a_method,
        _attribute_of_a_dictionary,
        _attribute_of_a_string,
        _attribute_of_a_function,
        _array_of_python,
        _set,
    ],
)
def test_what_is_changed_in_place_changes_the_name(make):
    op, change = make()
    x = da.ones(op.shape[1], chunks=4096 if op.shape[1] > N else 4)
    before = (op @ x).name
    assert (op @ x).name == before
    change()
    assert (op @ x).name != before


def test_functions_set_on_the_object_are_told_apart():
    x = lazy()
    results = []
    for k in (1.0, 2.0):
        op = Settings(k=k)
        op.factor = types.MethodType(lambda self, k=k: k, op)
        del op.k
        results.append(op @ x)
    first, second = dask.compute(*results, scheduler="synchronous")
    assert not np.allclose(first, second)


class Quiet(float):
    """A number that does not say which."""

    def __repr__(self):
        return "Quiet"


class Key:
    """Each is another, and they look alike."""

    def __repr__(self):
        return "Key"


class Colour(enum.Enum):
    RED = 1.0
    BLUE = 2.0


ALIKE = {
    "defaults of dictionaries": (defaultdict(lambda: 1.0), defaultdict(lambda: 2.0)),
    "numbers that look alike": (Quiet(1.0), Quiet(2.0)),
    "keys that look alike": ({Key(): 1.0}, {Key(): 1.0}),
    "members of an enumeration": (Colour.RED, Colour.BLUE),
    "slices of numbers of other types": (slice(np.float32(0.5)), slice(np.float64(0.5))),
    "keys of other types": ({np.float32(0.5): 1}, {np.float64(0.5): 1}),
    "positions and axes": ([0, 1], (0, 1)),
    "positions and axes of NumPy's": ([np.int64(0)], (np.int64(0),)),
    "a dictionary and its items": ({"a": 1}, (("a", 1),)),
}


@pytest.mark.parametrize("name", ALIKE)
def test_settings_that_look_alike_are_told_apart(name):
    x, legacy = lazy(), np.get_printoptions()["legacy"]
    np.set_printoptions(legacy="1.25")  # NumPy's numbers are printed without their types
    try:
        results = [Settings(k=1.0, held=held) @ x for held in ALIKE[name]]
    finally:
        np.set_printoptions(legacy=legacy)
    assert results[0].name != results[1].name


class Through(pylops.LinearOperator):
    """Applies a ufunc that it is given."""

    def __init__(self, ufunc):
        self.ufunc = ufunc
        super().__init__(dtype=np.dtype(float), shape=(6, 6))

    def _matvec(self, x):
        return 1.0 * self.ufunc(x)

    _rmatvec = _matvec


def to_the_power_of(n):
    @numba.vectorize(["float64(float64)"])
    def power(value):
        return value**n

    return power


def test_ufuncs_of_one_name_are_told_apart():
    x0 = np.arange(6.0)
    first, second = (Through(to_the_power_of(n)) for n in (2, 3))
    x = to_dask(x0, 3)
    assert (first @ x).name == (Through(first.ufunc) @ x).name
    assert_same(first @ x + second @ x, x0**2 + x0**3)
