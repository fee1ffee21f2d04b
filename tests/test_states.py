"""Operators whose code changes what they hold: results are those of the state that they had."""

import gc
import weakref

import dask.array as da
import numpy as np
import pylops
import pytest

from pylops_dispatch import PerformanceWarning

from .helpers import assert_close, rand

N = 60  # more than the values that a solve lets an operator's code read

pytestmark = pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")


class Stateful(pylops.LinearOperator):
    """Weighs a vector otherwise each time, in one of several ways."""

    def __init__(self, state, code):
        super().__init__(dtype=np.dtype(float), shape=(N, N))
        self.state, self.code = state, code
        self.count, self.notes = 0, []
        self.generator = np.random.default_rng(1)
        self.older = np.random.RandomState(2)

    def _weight(self):
        self.count += self.state == "number"
        if self.state == "list":
            self.notes.append(len(self.notes))
        drawn = {"generator": self.generator.random, "older": self.older.rand}
        if self.state in drawn:
            return 1 + drawn[self.state]()
        return 1.0 + self.count % 3 + len(self.notes) % 3

    def _matvec(self, x):
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
        return self.count, self.notes, states


STATES = ["number", "list", "generator", "older"]
CODES = ["takes anything", "reads values", "is refused"]


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
    """Works something out when it is first applied, and keeps it."""

    made = 0

    def __init__(self):
        super().__init__(dtype=np.dtype(float), shape=(N, N))
        self.factors = None

    def _matvec(self, x):
        if self.factors is None:
            x = np.array([float(value) for value in x])  # NumPy arrays alone are taken
            self.factors = np.linspace(1, 2, N)
            Remembering.made += 1
        return np.array([float(value) for value in x]) * self.factors

    _rmatvec = _matvec


def test_what_is_worked_out_first_is_there_the_next_time(monkeypatch):
    monkeypatch.setattr(Remembering, "made", 0)
    op, x = Remembering(), rand(N)
    with pytest.warns(PerformanceWarning):
        applied = [op @ da.from_array(number * x, chunks=25) for number in (1, 2, 3)]
    before = Remembering.made  # for zeros, which tell the dtype
    for number, y in enumerate(applied, 1):
        assert_close(y.compute(scheduler="synchronous"), number * x * np.linspace(1, 2, N))
    assert Remembering.made <= before + 1


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

    def block(block_id=None):
        made.append(block_id)
        return np.full(20, 2.0 + block_id[0])

    class Makes(pylops.LinearOperator):
        def _matvec(self, x):
            return da.map_blocks(block, chunks=((20, 20, 20),), dtype=float, name="weights") * x

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
