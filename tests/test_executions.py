"""A solve optimises the graph of a step once; what comes of it is as if it was done each time."""

import functools
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import dask
import dask.array as da
import numpy as np
import pylops
import pytest
from dask._task_spec import DataNode, Task, TaskRef
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from hypothesis import given, settings
from hypothesis import strategies as st

import pylops_dispatch
from pylops_dispatch import executions, optimisation
from pylops_dispatch.array import lift, lower
from pylops_dispatch.executions import Executions
from pylops_dispatch.layers import Form, RepeatedLayer, array_in_full
from pylops_dispatch.solvers import Session, in_session
from pylops_dispatch.structures import UnknownStructureError, structure_of
from pylops_dispatch.threads import run

from .helpers import assert_close, chunks_for, rand

DIMS = (6, 5)
STEPS = 9
OPERATORS = {
    "halo": lambda: pylops.Identity(30) + 0.3 * pylops.Laplacian(DIMS),
    "stack": lambda: pylops.VStack([pylops.MatrixMult(rand((8, 30), seed=i)) for i in range(3)]),
    "convolution": lambda: pylops.waveeqprocessing.MDC(rand((5, 4, 3), "complex128"), nt=9, nv=2),
    "rechunk": lambda: (
        pylops.signalprocessing.FFT(DIMS, axis=0, real=True, nfft=6) * pylops.Diagonal(rand(DIMS))
    ),
    "positions": lambda: pylops.Restriction(DIMS, [0, 2, 5], axis=0) * pylops.Diagonal(rand(DIMS)),
}
SOLVERS = {
    "cg": lambda op, y: pylops.cg(op.H @ op, op.H @ y, niter=STEPS, tol=0),
    "cgls": lambda op, y: pylops.cgls(op, y, niter=STEPS, damp=0.5, tol=0),
    "lsqr": lambda op, y: pylops.lsqr(op, y, niter=STEPS, damp=0.5, atol=0, btol=0, conlim=0),
    "ista": lambda op, y: pylops.ista(op, y, niter=STEPS, alpha=1e-3, eps=0.1, tol=0),
    "fista": lambda op, y: pylops.fista(op, y, niter=STEPS, alpha=1e-3, eps=0.1, tol=0),
    "omp": lambda op, y: pylops.omp(op, y, niter_outer=4, niter_inner=5, sigma=0),
}


@pytest.fixture
def found(monkeypatch):
    """How executions got their graphs: optimised, learnt, or renamed, or with data of their own."""
    seen = []
    for name in ("_learn", "_renamed", "_data_of"):
        original = getattr(executions, name)

        def noting(*args, name=name, original=original):
            seen.append(name)
            return original(*args)

        monkeypatch.setattr(executions, name, noting)
    original = Executions._look_up

    def each(self, graph, wanted, optimise):
        seen.append("execution")
        return original(self, graph, wanted, optimise)

    monkeypatch.setattr(Executions, "_look_up", each)
    return seen


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", OPERATORS)
@given(data=st.data())
@settings(max_examples=3)  # of each of thirty
def test_steps_give_what_they_give_where_each_graph_is_optimised(name, solver, data):
    op = OPERATORS[name]()
    y = rand(op.shape[0], op.dtype, seed=4)
    y = da.from_array(y, chunks=data.draw(chunks_for(y.shape)))
    x, *others = SOLVERS[solver](op, y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executions, "_TRIED", -1)
        expected, *costs = SOLVERS[solver](op, y)
    np.testing.assert_array_equal(x.compute(), expected.compute())
    for one, other in zip(others, costs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("solver", ["cg", "cgls", "lsqr", "ista", "fista"])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_step_is_optimised_once(name, solver, watched, found):
    op = OPERATORS[name]()
    with Keys() if watched else nullcontext():
        SOLVERS[solver](op, da.from_array(rand(op.shape[0], op.dtype), chunks=7))
    count = found.count("execution")
    assert count >= STEPS
    kinds = 2 if solver == "lsqr" else 1  # executions in a step that are unlike
    assert found.count("_learn") == kinds
    assert found.count("_renamed" if watched else "_data_of") >= count - 7


def test_a_solve_of_executions_that_are_all_unlike_gives_up(monkeypatch):
    looked_at = []
    original = executions._form
    monkeypatch.setattr(executions, "_form", lambda *a: (looked_at.append(1), original(*a))[1])
    known = Executions()
    for n in range(1, 41):
        y = -da.from_array(np.ones(n), chunks=1)
        keys = [(y.name, i) for i in range(n)]
        nodes = known.optimised(y.dask, keys, optimisation._optimised)
        np.testing.assert_array_equal(np.concatenate(dask.get(dict(nodes), keys)), -np.ones(n))
    assert len(looked_at) < 20


class Keys(Callback):
    """The keys of all that runs."""

    def __init__(self):
        super().__init__()
        self.runs = []

    def _start(self, dsk):
        self.runs.append(dict(dsk))


def test_tasks_of_two_steps_have_names_of_their_own(found):
    op = OPERATORS["halo"]()
    with Keys() as keys:
        pylops.cgls(op, da.from_array(rand(30), chunks=7), niter=STEPS, tol=0)
    assert found.count("_renamed") > 3
    *_, last, final = keys.runs
    same = {k for k in last.keys() & final.keys() if not hasattr(final[k], "value")}
    assert not same


def test_what_a_step_starts_from_is_its_own(found):
    """Neither blocks nor numbers of the step whose graph was optimised are in those of others."""
    op = OPERATORS["stack"]()
    y = rand(24)
    _, _, _, _, _, cost = pylops.cgls(op, y, niter=STEPS, damp=0.1, tol=0)
    given = da.from_array(y, chunks=5)
    *_, own = pylops.cgls(op, given, niter=STEPS, damp=0.1, tol=0)
    assert found.count("_data_of") > 3
    assert_close(own, cost, rtol=1e-9)


def test_blocks_of_a_step_are_not_kept():
    held = {}

    def note(self, graph, wanted, optimise):
        known = original(self, graph, wanted, optimise)
        held["known"] = [known for known in self._known.values() if known is not None]
        return known

    original = Executions._look_up
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Executions, "_look_up", note)
        pylops.cgls(OPERATORS["halo"](), da.from_array(rand(30), chunks=7), niter=STEPS, tol=0)
    assert held["known"]
    for known in held["known"]:
        nodes = [node for _, node in known.ordered.tasks]
        values = [*(getattr(node, "value", None) for node in nodes), *known.fixed.values()]
        assert not any(isinstance(value, np.ndarray) for value in values)


def with_dask(known, graph, keys):
    return dask.get(dict(known.optimised(graph, keys, optimisation._optimised)), keys)


def on_threads(known, graph, keys):
    with ThreadPoolExecutor(2) as pool:
        return run(*known.in_order(graph, keys, optimisation._optimised), pool)


@pytest.mark.parametrize("execute", [with_dask, on_threads])
def test_data_under_other_names_are_never_taken_for_those_of_a_step_before(execute):
    """As a layer has them that dask made of a graph with names of its own."""
    known, inner = Executions(), ("inner", 0)

    def made(value):
        task = Task(("y", 0), np.negative, TaskRef(inner))
        layers = {
            "held": MaterializedLayer({inner: DataNode(inner, np.full(3, value))}),
            "y": RepeatedLayer(
                Form("negative", ("held",)), lambda numbers: MaterializedLayer({("y", 0): task})
            ),
        }
        graph = HighLevelGraph(layers, {"held": set(), "y": {"held"}})
        (result,) = execute(known, graph, [("y", 0)])
        return result

    for value in range(5):
        np.testing.assert_array_equal(made(value), np.full(3, -value))


def test_an_optimisation_that_the_user_sets_is_asked_each_time(found):
    seen = []

    def optimise(graph, keys, **kwargs):
        seen.append(1)
        return da.optimization.optimize(graph, keys, **kwargs)

    with dask.config.set(array_optimize=optimise):
        pylops.cgls(OPERATORS["halo"](), da.from_array(rand(30), chunks=7), niter=STEPS, tol=0)
    assert len(seen) >= STEPS
    assert not found


# ---- what is alike -----------------------------------------------------------------------


def vector(seed):
    return da.from_array(rand(24, seed=seed), chunks=6)


MADE = {
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(),
    "maximum": lambda x: abs(x).max(),
    "reshape": lambda x: x.reshape(4, 6),
    "rechunk": lambda x: x.rechunk(5),
    "slice": lambda x: x[3:17],
    "every other": lambda x: x[::2],
    "reversed": lambda x: x[::-1],
    "concatenation": lambda x: da.concatenate([x, x]),
    "roll": lambda x: da.roll(x, 3),
    "roll further": lambda x: da.roll(x, 4),
    "times two": lambda x: 2 * x,
    "times two, a float": lambda x: 2.0 * x,
    "times NumPy's": lambda x: np.float32(2) * x,
    "power": lambda x: x**2,
    "where": lambda x: da.where(x > 0, x, 0.0),
    "minus zero": lambda x: da.where(x > 0, x, -0.0),
    "single precision": lambda x: x.astype("float32"),
    "two axes": lambda x: x.reshape(4, 6).sum(axis=0),
    "the other axis": lambda x: x.reshape(4, 6).sum(axis=1),
}


def structure(array):
    """Return what an array is made of, but for the data."""
    places = {name: place for place, name in enumerate(array.dask.layers)}
    layers = [
        layer
        for layer in array.dask.layers.values()
        if not all(isinstance(v, (np.ndarray, DataNode)) for v in layer.values())
    ]
    return tuple(structure_of(layer, places) for layer in layers)


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_alike_of_other_data_is_alike(name):
    first, second = MADE[name](vector(1)), MADE[name](vector(2))
    assert first.name != second.name
    assert structure(first) == structure(second)
    assert hash(structure(first)) == hash(structure(second))


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_otherwise_is_not_alike(name):
    own = structure(MADE[name](vector(1)))
    others = [structure(make(vector(1))) for other, make in MADE.items() if other != name]
    assert all(own != other for other in others)


def test_functions_that_refer_to_arrays_are_unlike_all_others():
    weights = rand(6)

    def weighted(block):
        return block * weights

    y = vector(1).map_blocks(weighted, dtype=float)
    with pytest.raises(UnknownStructureError):
        structure(y)
    with pytest.raises(UnknownStructureError):
        structure(vector(1).map_blocks(functools.partial(np.multiply, weights), dtype=float))


def kept_in(place):
    """A function that refers to an array, and the array."""
    weights = rand(6)

    def weighted(block, given=None, *, named=None):
        return block

    if place == "default":
        weighted.__defaults__ = (weights,)
    elif place == "keyword":
        weighted.__kwdefaults__ = {"named": weights}
    elif place == "attribute":
        weighted.weights = weights
    else:
        weighted = weights.dot
    return weighted


@pytest.mark.parametrize("place", ["default", "keyword", "attribute", "owner"])
def test_a_function_keeps_no_array_for_longer_than_the_array_is_there(place):
    with pytest.raises(UnknownStructureError):
        structure(da.blockwise(kept_in(place), "i", vector(1), "i", dtype=float))


def test_executions_that_are_all_unlike_keep_no_functions():
    known = Executions()
    kept = []
    for n in range(1, 41):

        def negative(block, n=n):
            return -block

        y = da.from_array(np.ones(n), chunks=1).map_blocks(negative, dtype=float)
        known.optimised(y.dask, [(y.name, i) for i in range(n)], optimisation._optimised)
        kept.append(weakref.ref(negative))
        del negative, y
    gc.collect()
    assert not any(reference() for reference in kept[-20:])
    assert not any(reference() for reference in kept)


def functions_that_hold_themselves():
    assigned = False
    if assigned:
        weight = 2.0
    endless = [1.0]
    endless.append(endless)

    def halved(block):
        parts = block[: len(block) // 2], block[len(block) // 2 :]
        return np.concatenate(list(map(halved, parts))) if len(block) > 2 else block * 1.0

    return {
        "calls itself": halved,
        "a variable without a value": lambda block: block * weight if assigned else block * 1.0,
        "a list in itself": lambda block: block * endless[0],
    }


@pytest.mark.parametrize("name", functions_that_hold_themselves())
def test_functions_that_hold_themselves_or_nothing_are_run(name):
    op, y = OPERATORS["halo"](), rand(30)
    made = da.from_array(y, chunks=7).map_blocks(
        functions_that_hold_themselves()[name], dtype=float
    )
    got = pylops.cgls(op, made, niter=STEPS, tol=0)[0]
    assert_close(got, pylops.cgls(op, y, niter=STEPS, tol=0)[0], rtol=1e-9)


# ---- layers ------------------------------------------------------------------------------


def test_an_array_that_leaves_a_solve_has_layers_that_dask_can_fuse():
    x0, session = rand(12), Session()
    with in_session(session):
        box = 2 * lift(da.from_array(x0, chunks=5)) + 1
        assert RepeatedLayer in map(type, box.pieces[0].dask.layers.values())
        y = lower(box)
    assert RepeatedLayer not in map(type, y.dask.layers.values())
    assert_close(y.compute(), 2 * x0 + 1)


def test_a_layer_is_what_it_will_make():
    made = []

    def make(numbers):
        made.append(tuple(numbers))
        return MaterializedLayer({("y", 0): np.array(numbers)})

    layer = RepeatedLayer(Form("kind", (), (2.0,)), make)
    assert not made
    assert not layer.is_materialized()
    assert set(layer) == layer.get_output_keys() == {("y", 0)}
    assert len(layer) == 1
    assert layer.is_materialized()
    assert made == [(2.0,)]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(layer))["y", 0], [2.0])
    graph = HighLevelGraph({"y": layer}, {"y": set()})
    array = array_in_full(da.Array(graph, "y", ((1,),), dtype=float))
    assert type(array.dask.layers["y"]) is MaterializedLayer
    np.testing.assert_array_equal(array.compute(), [2.0])


def test_a_plan_makes_each_graph_anew(found):
    op = OPERATORS["halo"]()
    pylops_dispatch.plan(pylops.cgls, op, da.ones(30, chunks=7), niter=STEPS, tol=0)
    assert not found
    assert Session.repeats
