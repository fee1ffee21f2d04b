"""Rules that users register: what they may say of an operator, and what each block then gets."""

import copy

import dask.array as da
import numpy as np
import pylops
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pylops.utils.decorators import reshaped

import pylops_dispatch
from pylops_dispatch import Rule, alone, halo, parallel_sum, register_rule

from .helpers import assert_close, chunks_for, rand

DIMS = 6, 8


class Weighs(pylops.LinearOperator):
    """Multiplies by what it holds, if anything, in a vector or in an array of its dims."""

    def __init__(self, weights, dims=DIMS):
        super().__init__(dtype=np.dtype(float), dims=dims, dimsd=dims)
        self.weights = weights

    @reshaped
    def _matvec(self, x):
        return x if self.weights is None else self.weights * x

    _rmatvec = _matvec


class WeighsVectors(Weighs):
    def _matvec(self, x):
        return self.weights * x

    _rmatvec = _matvec


class WeighsTerms(Weighs):
    @reshaped
    def _matvec(self, x):
        return x if self.weights is None else self.weights * x

    _rmatvec = _matvec


class WeighsNeighbours(Weighs):
    """Adds to each sample the next one along the last axis, and weighs the sum."""

    @reshaped
    def _matvec(self, x):
        y = x.copy()
        y[:, :-1] += x[:, 1:]
        return y if self.weights is None else self.weights * y

    @reshaped
    def _rmatvec(self, y):
        y = y if self.weights is None else self.weights * y
        x = y.copy()
        x[:, 1:] += y[:, :-1]
        return x


@pytest.fixture(autouse=True)
def rules(monkeypatch):
    known = pylops_dispatch.rules.RULES
    for cls in (Weighs, WeighsVectors):
        register_rule(cls, alone(coefficients=("weights",)))
    register_rule(WeighsNeighbours, halo((0, 1), coefficients=("weights",)))
    named = parallel_sum(model="a b", data="a b", coefficients={"weights": "a b"})
    register_rule(WeighsTerms, named)
    yield
    for cls in [cls for cls in known if cls.__module__ == __name__]:
        del known[cls]


SHARED = [None, 2.0, np.float64(2), np.array(3.0), rand(8), rand((1, 8)), rand((6, 1)), rand(1)]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("weights", [*SHARED, rand(DIMS)], ids=lambda w: str(np.shape(w)))
@pytest.mark.parametrize("cls", [Weighs, WeighsTerms, WeighsNeighbours])
@settings(max_examples=3)
@given(data=st.data())
def test_coefficients_are_numbers_or_of_some_of_the_axes(cls, weights, lazy, data):
    held = da.from_array(weights, 2) if lazy and isinstance(weights, np.ndarray) else weights
    x = rand(DIMS, seed=1)
    given_x = da.from_array(x, data.draw(chunks_for(DIMS)))
    for apply in (lambda op, v: op @ v, lambda op, v: op.H @ v):
        assert_close(apply(cls(held), given_x).compute(), apply(cls(weights), x))


@pytest.mark.parametrize("lazy", [False, True])
def test_a_flat_coefficient_of_code_for_vectors_stays_flat(lazy):
    weights = rand(48)
    held = da.from_array(weights, 5) if lazy else weights
    x = rand(DIMS, seed=1)
    laid_out = da.from_array(x, (4, 3))
    for op, own in (
        (WeighsVectors(held), WeighsVectors(weights)),
        (WeighsVectors(held, (48,)), WeighsVectors(weights, (48,))),
        (Weighs(held, (48,)), Weighs(weights, (48,))),
    ):
        after = pylops.FirstDerivative(DIMS, axis=0)
        assert_close((op * after @ laid_out).compute().ravel(), (own * after @ x).ravel())
        assert_close((op.H @ laid_out.ravel()).compute(), own.H @ x.ravel())


@pytest.mark.parametrize("shape", [(8, 6), (6,), (5, 8), (1, 6, 8), (3, 1)])
@pytest.mark.parametrize("cls", [Weighs, WeighsNeighbours, WeighsTerms])
def test_a_coefficient_that_numpy_does_not_take_is_told_with_its_shape(cls, shape):
    x = da.ones(DIMS, chunks=3)
    with pytest.raises(ValueError, match=rf"rule of {cls.__name__}.*weights.*\({shape[0]},"):
        cls(np.ones(shape)) @ x


class Third(pylops.FirstDerivative):
    """Changes nothing."""


def test_a_copy_leaves_a_class_its_rule():
    """Python notes in a class what slots its copies have."""
    op = Third(DIMS)
    copy.copy(op), copy.copy(pylops.FirstDerivative(DIMS))
    assert "__slotnames__" in vars(Third)
    assert "halo: 1" in str(pylops_dispatch.capability(op))


@pytest.mark.parametrize(
    "depth", [(-1, 0), (1.9, 0), ("a", 0), (None, 0), ((1, 2, 3), 0), (0, (1, -1))]
)
def test_a_halo_that_is_no_number_of_samples_is_told_when_the_operator_is_applied(depth):
    register_rule(Weighs, halo(lambda op: depth))
    with pytest.raises(ValueError, match=r"rule of Weighs has a halo of .* no number of samples"):
        Weighs(None) @ da.ones(DIMS, chunks=3)


def test_a_halo_may_be_another_one_for_the_adjoint():
    register_rule(WeighsNeighbours, halo(lambda op: (0, (np.int64(1), 1)), ("weights",)))
    x = rand(DIMS)
    op = WeighsNeighbours(rand(DIMS, seed=1))
    assert_close((op.H @ da.from_array(x, 3)).compute(), op.H @ x)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule("everywhere"), "a rule is one of alone, .* got 'everywhere'"),
        (Rule("halo"), "a number of samples"),
        (Rule("whole_axis"), "the axes"),
        (Rule("alone"), "made by alone"),
        (Rule("parallel_sum"), "names of the axes"),
    ],
    ids=lambda rule: getattr(rule, "kind", None),
)
def test_a_rule_that_says_too_little_is_refused(rule, said):
    with pytest.raises(ValueError, match=said):
        register_rule(Weighs, rule)


def test_names_of_whole_axes_are_text():
    with pytest.raises(TypeError, match="whole must be names"):
        parallel_sum(model="a", data="a", whole=("a",))


class Totals(pylops.LinearOperator):
    """Adds up along the first axis."""

    @reshaped
    def _matvec(self, x):
        return x.sum(0)

    @reshaped
    def _rmatvec(self, x):
        return np.broadcast_to(x, self.dims)


def test_a_rule_for_as_many_axes_is_not_for_an_operator_that_takes_one_away():
    register_rule(Totals, pylops_dispatch.whole_axis(0))
    op = Totals(dtype=np.dtype(float), dims=DIMS, dimsd=(8,))
    assert "parallel_sum" in str(pylops_dispatch.capability(op))
    x = rand(DIMS)
    assert_close((op @ da.from_array(x, 3)).compute(), op @ x)
    assert_close((op.H @ da.ones(8, chunks=3)).compute(), op.H @ np.ones(8))
