"""Lazy results are of the operator as it was: what users' classes hold is copied."""

import ctypes
import functools
import gc
import logging
import os
import threading
import types
import weakref
from collections import OrderedDict, deque
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pylops
import pytest

import pylops_dispatch
from pylops_dispatch import pieces, set_policy
from pylops_dispatch.copying import with_own_settings

from .helpers import assert_close, assert_same, forbid_executions, noting, rand, to_dask


class Scaling(pylops.LinearOperator):
    """Convolves by a number that it finds in what it was given."""

    def __init__(self, find, **settings):
        super().__init__(dtype=np.dtype("f8"), dims=(12,), dimsd=(12,))
        self.find = find
        vars(self).update(settings)

    def _matvec(self, x):
        return np.convolve(x, [float(self.find(self)), 1.0], "same")

    _rmatvec = _matvec


class InBlocks(Scaling):
    """Is run on blocks."""

    def _matvec(self, x):
        return float(self.find(self)) * np.asarray(x)

    _rmatvec = _matvec


pylops_dispatch.register_rule(InBlocks, pylops_dispatch.alone())


class Attributes(dict):
    """A dict whose keys are attributes."""

    def __init__(self, **items):
        super().__init__(**items)
        self.__dict__ = self


def find_k(op):
    return op.k["k"]


def _held_twice(cls):
    k = {"k": 1.0}
    op = cls(lambda op: op.k["k"] + op.again[0]["k"], k=k, again=[k])
    return op, lambda value: k.update(k=value)


def _in_a_circle(cls):
    k = SimpleNamespace(k=1.0, all=[])
    k.all.append(k)
    op = cls(lambda op: op.k.all[0].all[0].owner.k.k, k=k)
    k.owner = op
    return op, lambda value: setattr(k, "k", value)


def _in_a_function(cls):
    k = 1.0

    def change(value):
        nonlocal k
        k = value

    return cls(lambda op: k), change


def _in_another_operator(cls):
    inner = Scaling(find_k, k={"k": 1.0})
    return cls(lambda op: op.all["inner"].find(op.all["inner"]), all={"inner": inner}), (
        lambda value: inner.k.update(k=value)
    )


def _in_a_method(cls):
    inner = Scaling(find_k, k={"k": 1.0})
    inner.now = types.MethodType(lambda self: self.k["k"], inner)
    return cls(lambda op: op.now(), now=inner.now), lambda value: inner.k.update(k=value)


def _held(make, find, change):
    """A setting in an object that `make` gives."""

    def made(cls):
        k = make()
        return cls(find, k=k), functools.partial(change, k)

    return made


HELD = {
    "dict": _held(lambda: {"k": 1.0}, find_k, lambda k, v: k.update(k=v)),
    "ordered": _held(lambda: OrderedDict(k=1.0), find_k, lambda k, v: k.update(k=v)),
    "list": _held(lambda: [1.0], lambda op: op.k[0], lambda k, v: k.__setitem__(0, v)),
    "deque": _held(lambda: deque([1.0]), lambda op: op.k[0], lambda k, v: k.__setitem__(0, v)),
    "set": _held(lambda: {1.0}, lambda op: sum(op.k), lambda k, v: k.add(v)),
    "nested": _held(
        lambda: ({"k": [1.0]},), lambda op: op.k[0]["k"][0], lambda k, v: k[0].update(k=[v])
    ),
    "object": _held(
        lambda: SimpleNamespace(k=1.0), lambda op: op.k.k, lambda k, v: setattr(k, "k", v)
    ),
    "attributes": _held(lambda: Attributes(k=1.0), lambda op: op.k.k, lambda k, v: k.update(k=v)),
    "partial": _held(
        lambda: functools.partial(sum, [1.0]), lambda op: op.k(), lambda k, v: k.args[0].append(v)
    ),
    "held twice": _held_twice,
    "circle": _in_a_circle,
    "function": _in_a_function,
    "another operator": _in_another_operator,
    "method": _in_a_method,
}


@pytest.mark.parametrize("cls", [Scaling, InBlocks], ids=["whole", "blocks"])
@pytest.mark.parametrize("make", HELD.values(), ids=HELD)
@pytest.mark.parametrize(
    "around",
    [
        lambda op: op,
        lambda op: pylops.VStack([op, 2 * op]),
        lambda op: pylops.Kronecker(op, pylops.Identity(2)),
    ],
    ids=["alone", "stacked", "Kronecker"],
)
def test_what_is_changed_in_place_later_does_not_reach_earlier_results(around, make, cls):
    """NumPy's results are there at once."""
    inner, change = make(cls)
    op = around(inner)
    inputs = [(rand(op.shape[1]), 4), (rand((op.shape[1], 2)), (-1, 1))]
    results, expected = [], []
    with set_policy(whole_array="allow"):
        for k in (1.0, 2.0, 3.0):
            change(k)
            results += [op @ to_dask(x, chunks) for x, chunks in inputs]
            expected += [op @ x for x, _ in inputs]
            assert (op @ to_dask(*inputs[0])).name == results[-2].name
    for result, values in zip(results, expected, strict=True):
        assert_same(result, values)


def test_a_function_may_note_its_calls_in_what_it_closes_over():
    calls = []

    def noted(x):
        calls.append(type(x))
        return 2 * np.asarray(x)

    op = pylops.FunctionOperator(noted, noted, 6, 6)
    with set_policy(whole_array="allow"):
        y = op @ to_dask(rand(6), 2)
    before = len(calls)
    y.compute()
    assert calls[before:] == [np.ndarray]


class Ending:
    """Notes when it goes."""

    gone = 0

    def __del__(self):
        Ending.gone += 1


@pytest.mark.parametrize(
    "make",
    [
        threading.Lock,
        Ending,
        lambda: open(os.devnull),  # noqa: SIM115
        lambda: ctypes.CFUNCTYPE(None)(lambda: None),
        lambda: rand(3),
        lambda: to_dask(rand(3), 2),
        lambda: logging.getLogger(__name__),
    ],
    ids=["lock", "with __del__", "file", "ctypes", "array", "dask array", "logger"],
)
def test_what_cannot_be_copied_is_shared(make):
    held, before = make(), Ending.gone
    op = Scaling(lambda op: 1.0, held=SimpleNamespace(it=held), result=SimpleNamespace())
    own = with_own_settings(op)
    assert own.held is not op.held
    assert own.held.it is held
    with set_policy(whole_array="allow"):
        assert_same(op @ to_dask(rand(12), 4), op @ rand(12))
    del own
    gc.collect()
    assert Ending.gone == before
    if hasattr(held, "close"):
        held.close()


def test_copies_reach_no_deeper_than_names():
    """A long chain of objects takes no time, and is no error."""
    first = SimpleNamespace()
    last = first
    for _ in range(5000):
        last.next = last = SimpleNamespace()
    op = Scaling(lambda op: 1.0, first=first)
    own = with_own_settings(op)
    assert own.first.next is not first.next
    assert own.first.next.next.next.next is first.next.next.next.next


@pytest.mark.parametrize(
    "hold",
    [lambda f, w: lambda x: f(w, x), functools.partial],
    ids=["closure", "partial"],
)
def test_dask_arrays_that_a_function_closes_over_come_into_the_task_as_values(hold):
    """Once in a solve, as those that are attributes do."""
    weights, x = 1 + rand(12) ** 2, rand(12)
    worked_out = []

    lazy = to_dask(weights, 5).map_blocks(noting(worked_out), dtype=float, meta=np.empty(0))
    ops = []
    for w in (weights, lazy):
        product = hold(lambda w, x: np.asarray(x) * w, w)
        ops.append(pylops.FunctionOperator(product, product, 12, 12))
    with set_policy(whole_array="allow"), forbid_executions():
        y = ops[1] @ to_dask(x, 4)
    assert isinstance(y.compute(), np.ndarray)
    assert_same(y, ops[0] @ x)
    worked_out.clear()
    with set_policy(whole_array="allow"):
        found = pylops.cgls(ops[1], to_dask(x, 4), niter=3, tol=0)[0].compute()
    assert isinstance(found, np.ndarray)
    assert_close(found, pylops.cgls(ops[0], x, niter=3, tol=0)[0], rtol=1e-9)
    assert len(worked_out) == 3


def test_copies_that_were_let_go_are_watched_over_once(monkeypatch):
    """Of more operators than there are copies, each is copied again."""
    watched = []

    def finalize(*args):
        watched.append(args)
        return weakref.finalize(*args)

    class Sorted(pylops.LinearOperator):
        def _matvec(self, x):
            return np.sort(np.asarray(x))

    op = pylops.BlockDiag([Sorted(dtype=np.dtype(float), shape=(2, 2)) for _ in range(40)])
    x = da.ones(80, chunks=2)
    monkeypatch.setattr(
        pieces, "weakref", types.SimpleNamespace(ref=weakref.ref, finalize=finalize)
    )
    with pylops_dispatch.set_policy(whole_array="allow"):
        op @ x
        first = len(watched)
        op @ x
    assert 0 < first == len(watched)
