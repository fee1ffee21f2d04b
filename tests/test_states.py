"""Operators whose code changes what they hold: results are those of the state that they had."""

import functools
import gc
import random
import weakref
from collections import Counter
from typing import ClassVar

import dask.array as da
import numpy as np
import pylops
import pytest

from .helpers import assert_close, forbid_executions, rand

N = 60  # more than the values that a solve lets an operator's code read

pytestmark = pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")


class Stateful(pylops.LinearOperator):
    """Weighs a vector otherwise each time, in one of several ways."""

    def __init__(self, state, code):
        super().__init__(dtype=np.dtype(float), shape=(N, N))
        self.state, self.code = state, code
        self.count, self.notes = 0, [0]
        self.generator = np.random.default_rng(1)
        self.older = np.random.RandomState(2)
        self.python = random.Random(3)

    def _weight(self):
        self.count += self.state == "number"
        if self.state == "list":
            self.notes.append(len(self.notes))
        drawn = {
            "generator": self.generator.random,
            "older": self.older.rand,
            "python": self.python.random,
        }
        if self.state in drawn:
            return 1 + drawn[self.state]()
        return 1.0 + self.count % 3 + len(self.notes) % 3

    def _matvec(self, x):
        if self.code == "is refused before":
            return np.frombuffer(x.tobytes()) * self._weight()
        weight = self._weight()
        if self.code == "reads values":
            return np.array([float(value) for value in x]) * weight
        if self.code == "is refused":
            try:
                return np.array(memoryview(x)) * weight
            except TypeError:
                try:
                    x = np.asarray(x)
                except TypeError:
                    return x * 0
        return x * weight

    _rmatvec = _matvec

    def held(self):
        states = repr(self.generator.bit_generator.state), repr(self.older.get_state()[2:])
        states = *states, self.python.getstate()
        return self.count, self.notes, states


STATES = ["number", "list", "generator", "older", "python"]
CODES = ["takes anything", "reads values", "is refused", "is refused before"]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("state", STATES)
def test_applications_one_after_another_are_those_of_numpy(state, code):
    x = rand(N)
    known, op = Stateful(state, code), Stateful(state, code)
    want = [known @ x for _ in range(4)]
    got = [op @ da.from_array(x, chunks=25) for _ in range(4)]
    assert op.held() == known.held()
    for number in (2, 0, 3, 1):  # in whatever order they are computed
        assert_close(got[number].compute(), want[number])


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("state", STATES)
def test_a_lazy_result_is_the_same_each_time_that_it_is_computed(state, code):
    op = Stateful(state, code)
    y = op @ da.from_array(rand(N), chunks=25)
    first = y.compute()
    for scheduler in ("threads", "synchronous"):
        np.testing.assert_array_equal(y.compute(scheduler=scheduler), first)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("state", STATES)
def test_a_solve_is_that_of_numpy(state, code):
    y = np.arange(1.0, N + 1)
    known, op = Stateful(state, code), Stateful(state, code)
    want = pylops.cgls(known, y, niter=4, tol=0)[0]
    got = pylops.cgls(op, da.from_array(y, chunks=25), niter=4, tol=0)[0]
    assert_close(got, want, rtol=1e-9)
    assert op.held() == known.held()


@pytest.mark.parametrize("state", STATES)
def test_each_column_has_a_state_of_its_own(state):
    X = rand((N, 5))
    known, op = Stateful(state, "takes anything"), Stateful(state, "takes anything")
    assert_close(op.matmat(da.from_array(X, chunks=(25, 2))), known.matmat(X))
    assert op.held() == known.held()


class Remembering(pylops.LinearOperator):
    """Works something out when it is first applied, and keeps it in one of several ways."""

    def __init__(self, where):
        super().__init__(dtype=np.dtype(float), shape=(N, N))
        self.where = where
        self.factors, self.known, self.ready, self.items = None, {}, False, []

    def _work_out(self):
        return np.linspace(1, 2, N)

    @functools.lru_cache  # noqa: B019
    def _worked_out(self):
        return self._work_out()

    def _factors(self):
        if self.where == "attribute":
            if self.factors is None:
                self.factors = self._work_out()
            return self.factors
        if self.where == "dictionary":
            if "factors" not in self.known:
                self.known["factors"] = self._work_out()
            return self.known["factors"]
        if self.where == "list":
            if not self.items:
                self.items.append(self._work_out())
            return self.items[0]
        if self.where == "flag":
            if not self.ready:
                self.held, self.ready = self._work_out(), True
            return self.held
        return self._worked_out()

    def _matvec(self, x):
        return np.array([float(value) for value in x]) * self._factors()

    _rmatvec = _matvec


@pytest.mark.parametrize("where", ["attribute", "dictionary", "list", "flag", "cache of calls"])
def test_what_is_worked_out_first_is_there_the_next_time(where):
    made = []

    class Noting(Remembering):
        def _work_out(self):
            made.append(1)
            return np.linspace(1, 2, N)

    op, x = Noting(where), rand(N)
    for number in range(1, 11):
        y = op @ da.from_array(number * x, chunks=25)
        assert_close(y.compute(scheduler="synchronous"), number * x * np.linspace(1, 2, N))
    assert len(made) <= 4  # on zeros for the dtype and the state, and in a task


class Bytes(pylops.LinearOperator):
    """Code that no lazy array will do for, and what vectors it has been given."""

    given: ClassVar[list[str]] = []

    def __init__(self):
        super().__init__(dtype="float64", shape=(N, N))
        self.scale = np.linspace(1, 2, N)

    def _matvec(self, x):
        if isinstance(x, np.ndarray):
            self.given.append("data" if x.any() else "zeros")
        return self.scale * np.frombuffer(x.tobytes())

    _rmatvec = _matvec


def test_code_for_numpy_vectors_is_run_on_zeros_when_it_is_new_only():
    op = Bytes()
    Bytes.given.clear()
    for number in range(1, 4):
        (op @ da.full(N, float(number), chunks=7)).compute(scheduler="synchronous")
    assert Counter(Bytes.given) == {"zeros": 2, "data": 3}  # for what it refuses, and for its state
    Bytes.given.clear()
    pylops.cgls(op, da.ones(N, chunks=7), niter=5, tol=0)
    assert Counter(Bytes.given)["zeros"] <= 1  # for the adjoint
    del op.scale  # a mistake, which NumPy vectors would meet too
    for direction in (op, op.H):
        with pytest.raises(AttributeError, match="scale"):
            direction @ da.ones(N, chunks=7)


# ---- lazy arrays that a solve finds -------------------------------------------------------


def test_arrays_that_an_operator_has_no_more_are_let_go():
    made = []

    def weights(number):
        def block(start, number=number):
            values = np.linspace(1, 2, 4) + start + number / 100
            made.append(weakref.ref(values))
            return values

        return da.map_blocks(block, da.arange(3, chunks=1), chunks=((4, 4, 4),), dtype=float)

    op = pylops.Diagonal(weights(0))
    alive = []

    def replace(x):
        op.diag = weights(len(alive) + 1)
        gc.collect()
        alive.append(sum(reference() is not None for reference in made))

    pylops.cgls(op, da.from_array(rand(12), chunks=4), niter=30, tol=0, callback=replace)
    assert max(alive[15:]) <= max(alive[:15])


def test_what_an_operator_makes_each_time_is_worked_out_once():
    made = []

    class Weights:
        def __call__(self, block_id=None):
            made.append(block_id)
            return np.full(20, 2.0 + block_id[0])

        def __dask_tokenize__(self):
            return "weights"

    class Makes(pylops.LinearOperator):
        def _matvec(self, x):
            return da.map_blocks(Weights(), chunks=((20, 20, 20),), dtype=float) * x

        _rmatvec = _matvec

    op = Makes(dtype=np.dtype(float), shape=(N, N))
    pylops.cgls(op, da.arange(1.0, N + 1, chunks=20), niter=30, tol=0)
    assert sorted(place for place in made if isinstance(place, tuple)) == [(0,), (1,), (2,)]


def test_an_array_that_an_operator_is_given_in_a_solve_is_worked_out_once():
    made = []

    def block(start):
        made.append(int(start[0]))
        return np.linspace(1, 2, 20) + start

    op = pylops.Diagonal(da.from_array(rand(N), chunks=20))
    steps = []

    def replace(x):
        steps.append(x)
        if len(steps) == 3:
            op.diag = da.map_blocks(
                block, da.arange(3, chunks=1), chunks=((20, 20, 20),), meta=np.empty(0)
            )

    pylops.cgls(op, da.from_array(rand(N), chunks=20), niter=30, tol=0, callback=replace)
    assert len(steps) == 30
    assert sorted(made) == [0, 1, 2]


# ---- columns ------------------------------------------------------------------------------


class SampleBySample(pylops.LinearOperator):
    def __init__(self, weights):
        self.weights = weights
        super().__init__(dtype="float64", shape=(6, 6))

    def _matvec(self, x):
        y = np.zeros(6)
        for i in range(6):
            y[i] = self.weights[i] * x[i]
        return y

    _rmatvec = _matvec


@pytest.mark.parametrize("name", ["of NumPy", "of dask", "todense"])
def test_columns_of_operators_that_hold_dask_arrays_are_lazy(name):
    weights, X = np.arange(6.0), rand((6, 2))
    op = SampleBySample(da.from_array(weights, chunks=4))
    with forbid_executions():
        Y = op.todense() if name == "todense" else op @ (X if name == "of NumPy" else da.array(X))
    expected = np.diag(weights) @ (np.eye(6) if name == "todense" else X)
    assert_close(Y.compute(), expected)


@pytest.mark.parametrize("dtype", ["float32", "int32", "complex64"])
def test_columns_have_the_dtype_that_a_users_code_gives(dtype):
    op, X = Doubles(), (5 * rand((6, 3))).astype(dtype)
    Y = op.matmat(da.from_array(X, chunks=(4, 2)))
    assert Y.dtype == Y.compute().dtype == op.matmat(X).dtype


class Doubles(pylops.LinearOperator):
    def __init__(self):
        super().__init__(dtype=np.dtype("float32"), shape=(6, 6))

    def _matvec(self, x):
        return x + x
