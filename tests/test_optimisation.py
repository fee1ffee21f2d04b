"""How the graph of one execution in a solver is changed before it is handed over."""

import concurrent.futures
import itertools
import operator
import pickle
import sys
import threading
import weakref
from collections import Counter

import dask
import dask.array as da
import distributed
import numpy as np
import pylops
import pytest
from dask._task_spec import Alias, DataNode, List, Task, TaskRef, _execute_subgraph
from dask.blockwise import Blockwise, blockwise_token
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from distributed.shuffle._core import P2PBarrierTask, barrier_key
from hypothesis import given
from hypothesis import strategies as st

from pylops_dispatch import optimisation, programs
from pylops_dispatch.array import lift, lower
from pylops_dispatch.liveness import unreachable
from pylops_dispatch.optimisation import persist, straight_tasks
from pylops_dispatch.pieces import in_memory
from pylops_dispatch.programs import elementwise

from .helpers import assert_same, graph_of, rand, to_dask


@elementwise
def cube(block):
    return block**3


def reversed_block(block):
    return block[::-1].copy()


EXPRESSIONS = {
    "a scaled sum": lambda x, y, s: x + 2.5 * y,
    "a lazy factor": lambda x, y, s: x - (s / 3) * y,
    "a value that is used twice": lambda x, y, s: np.exp(-(x - y)) * (x - y),
    "a comparison": lambda x, y, s: np.maximum(x, y) > 0.5 * x,
    "rows": lambda x, y, s: x * y[:1] + 1,
    "a function of elements": lambda x, y, s: x + (x + y).map_blocks(cube),
    "an array in a task": lambda x, y, s: (
        2 * (x + y).map_blocks(np.add, np.arange(x.shape[1]), dtype=x.dtype) - x
    ),
    "a function of blocks": lambda x, y, s: 1 + 2 * (x - y).map_blocks(reversed_block),
    "one that is needed apart": lambda x, y, s: abs(x + y).map_blocks(reversed_block) + abs(x),
    "scalars alone": lambda x, y, s: s * 2 + 1,
    "parts of complex numbers": lambda x, y, s: (x + 1j * y).real + 2 * y,
    "other chunks": lambda x, y, s: (x + y).rechunk((3, 2)) * 2 + 1,
    "parts": lambda x, y, s: (2 * x)[1:, ::2][:2] - y[:1, ::2],
    "axes exchanged": lambda x, y, s: (x.T - 2 * y.T)[::-1],
    "a product of matrices": lambda x, y, s: (x + 1) @ (2 * y).T,
    "a product of columns in one block": lambda x, y, s: da.blockwise(
        product_of_columns, "ij", x + 1, "ik", y[:1] - 1, "jk", dtype=x.dtype
    ),
    "a product of columns put together": lambda x, y, s: da.blockwise(
        np.inner, "ij", x + 1, "ik", y[:1] - 1, "jk", dtype=x.dtype, concatenate=True
    ),
    "a product of rows in several blocks": lambda x, y, s: da.blockwise(
        product_of_rows, "ij", x + 1, "ki", y - 1, "kj", dtype=x.dtype
    ),
    "sums of blocks": lambda x, y, s: (x - y).sum(axis=0) + s,
    "one array after the other": lambda x, y, s: da.concatenate([x + y, 2 * x, y]) + 1,
    "a new axis": lambda x, y, s: (x + y)[:, None] * x[None, :1],
    "a keyword that is lazy": lambda x, y, s: (x + y).map_blocks(
        shifted, by=dask.delayed(abs)(-3), dtype=x.dtype
    ),
    "the place of a block": lambda x, y, s: (x + y).map_blocks(numbered, dtype=x.dtype) - y,
}


def product_of_columns(first, second):
    (first,), (second,) = first, second
    return first @ second.T


def product_of_rows(first, second):
    return sum(a.T @ b for a, b in zip(first, second, strict=True))


def shifted(block, by):
    return block + by


def numbered(block, block_info=None):
    return block + block_info[0]["array-location"][0][0]


def executed(array):
    """The tasks that are handed over, and the values."""
    tasks = {}

    def get(graph, keys, **kwargs):
        tasks.update(graph_of(graph))
        return dask.get(graph, keys, **kwargs)

    with straight_tasks():
        (done,) = dask.persist(array, scheduler=get)
    return tasks, done


def test_arrays_that_are_persisted_together_stay_what_they_are():
    x = to_dask(rand((6, 4)), (2, 4))
    arrays = [x + 1, (x + 1).sum(), x[:, :0]]
    calls = []

    def get(graph, keys, **kwargs):
        calls.append(list(keys))
        return dask.get(graph, keys, **kwargs)

    with dask.config.set(scheduler=get):
        done = persist(arrays)
    assert len(calls) == 1
    for before, after in zip(arrays, done, strict=True):
        assert in_memory(after)
        assert (after.name, after.chunks, after.dtype) == (before.name, before.chunks, before.dtype)
        np.testing.assert_array_equal(after.compute(), before.compute())


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
@given(
    rows=st.sampled_from([5, 7, 2, 1]),
    columns=st.sampled_from([3, 5, 1]),
    cut=st.sampled_from([2, 3, 7, 1]),
    tile=st.sampled_from([8, 24, 64, 1 << 18]),
    dtype=st.sampled_from(["float32", "float64", "complex128"]),
    order=st.sampled_from("CF"),
)
def test_result_is_that_of_dask_to_the_bit(expression, rows, columns, cut, tile, dtype, order):
    x0, y0 = (np.asarray(rand((rows, columns), dtype, seed), order=order) for seed in (1, 2))
    if expression is EXPRESSIONS["a comparison"]:
        x0, y0 = x0.real, y0.real
    x, y = (da.from_array(a, chunks=(cut, columns)).persist() for a in (x0, y0))
    z = expression(x, y, da.from_array(np.asarray(2.0, x0.dtype)).persist())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "_TILE_BYTES", tile)
        tasks, done = executed(z)
    expected = z.compute()  # after that: a layer keeps the tasks that dask makes of it
    assert not [task for task in tasks.values() if getattr(task, "func", 0) is _execute_subgraph]
    assert not left_to_join(tasks, set(flatten(z.__dask_keys__())))
    result = done.compute()
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


def left_to_join(tasks, wanted):
    """Tasks that read nothing but one other, which only they read, and data."""
    reads = {
        key: [k for k in task.dependencies if not isinstance(tasks[k], DataNode)]
        for key, task in tasks.items()
        if not isinstance(task, DataNode)
    }
    readers = Counter(key for found in reads.values() for key in found)
    return [
        k for k, r in reads.items() if len(r) == 1 and readers[r[0]] == 1 and r[0] not in wanted
    ]


def test_a_product_with_a_matrix_is_one_task_with_what_makes_its_vector():
    matrices = [to_dask(rand((3, 4), seed=seed), (3, 4)).persist() for seed in (1, 2)]
    op = pylops.VStack([pylops.MatrixMult(matrix) for matrix in matrices])
    x = da.from_array(rand(4)).persist()
    tasks, done = executed(op @ (2 * x + 1))
    assert_same(done, op @ (2 * x.compute() + 1))
    made = [key for key, task in tasks.items() if not isinstance(task, DataNode)]
    assert len(made) == 3  # the vector, and one for each matrix
    tasks, done = executed(pylops.MatrixMult(matrices[0]) @ (2 * x + 1))
    assert len([task for task in tasks.values() if not isinstance(task, DataNode)]) == 1


def test_a_block_that_is_read_within_a_list():
    x = to_dask(rand((4, 3)), (2, 3)).persist()
    task = Task("sums", sum, List(TaskRef(blockwise_token(0)), TaskRef(blockwise_token(1))))
    layer = Blockwise(
        "sums", ("i", "j"), task, [(x.name, ("i", "j")), (x.name, ("i", "j"))], {x.name: (2, 1)}
    )
    graph = HighLevelGraph.from_collections("sums", layer, dependencies=[x])
    _, done = executed(da.Array(graph, "sums", x.chunks, dtype=x.dtype))
    np.testing.assert_array_equal(done, 2 * x.compute())


def test_a_block_is_let_go_once_the_task_after_it_has_read_it():
    seen = []

    def make():
        block = rand(4)
        seen.append(weakref.ref(block))
        return block

    def last(total):
        assert seen[0]() is None
        return total

    nodes = [Task("a", make), Task("b", np.sum, TaskRef("a")), Task("c", last, TaskRef("b"))]
    joined = optimisation._joined({node.key: node for node in nodes}, {"c"})
    assert list(joined) == ["c"]
    assert joined["c"]() == rand(4).sum()


class File:
    """What dask reads a part of at a time."""

    shape, dtype, ndim = (12, 4), np.dtype(float), 2

    def __init__(self):
        self.read = []

    def __getitem__(self, where):
        values = np.arange(48.0).reshape(12, 4)[where]
        self.read.append(values.shape)
        return values


def test_only_what_is_needed_of_a_file_is_read():
    file = File()
    x = da.from_array(file, chunks=(12, 4))
    file.read.clear()  # dask has looked at the type of its values
    _, done = executed(2 * x[7:11] + 1)
    np.testing.assert_array_equal(done, 2 * np.arange(48.0).reshape(12, 4)[7:11] + 1)
    assert file.read == [(4, 4)]


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["sum", "twice", "reversed", "result"]))
)
def test_what_is_read_by_both_kinds_of_tasks_is_there_for_both(order):
    tasks = {
        "sum": Task("sum", operator.add, TaskRef("x"), TaskRef("y")),
        "twice": Task("twice", operator.mul, TaskRef("sum"), 2),
        "reversed": Task("reversed", reversed_block, TaskRef("sum")),
        "result": Task("result", operator.add, TaskRef("twice"), TaskRef("reversed")),
    }
    fused = {key: tasks[key] for key in order}
    task = Task(
        "fused", _execute_subgraph, fused, "result", ("x", "y"), TaskRef("x0"), TaskRef("y0")
    )
    blocks = {"x0": rand(5), "y0": rand(5, seed=1)}
    straight = programs.straightening()(task)
    np.testing.assert_array_equal(straight(blocks), task(blocks))


def test_element_wise_tasks_make_no_block_but_the_result(monkeypatch):
    monkeypatch.setattr(programs, "_TILE_BYTES", 80)
    sizes = []

    @elementwise
    def noted(block):
        sizes.append(block.size)
        return block + 1

    x = to_dask(rand(1000), 500).persist()
    y = 2 * x.map_blocks(noted, dtype=float, meta=np.empty(0)) + x
    executed(y)
    assert max(sizes) == 10
    assert sum(sizes) == 1000


def test_an_optimisation_that_the_user_has_set_stays():
    seen = []

    def own(graph, keys, **kwargs):
        seen.append(keys)
        return graph

    with dask.config.set(array_optimize=own):
        executed(da.ones(4, chunks=2) + 1)
    assert seen


@given(
    ufunc=st.sampled_from([np.add, np.multiply, np.divide, np.power, np.greater, np.arctan2]),
    dtype=st.sampled_from(["bool", "uint8", "int64", "float32", "float64", "complex64"]),
    other=st.sampled_from(
        ["bool", "int32", "float32", "complex64", 2, 2.5, True, np.float32(2), np.float64(2), 2j]
    ),
    swap=st.booleans(),
)
def test_an_element_wise_function_has_the_dtype_of_numpy(ufunc, dtype, other, swap):
    x0 = (1 + rand((4, 3)) ** 2).astype(dtype)
    y0 = (1 + rand((4, 3), seed=1) ** 2).astype(other) if isinstance(other, str) else other
    x = lift(to_dask(x0, (3, 2)))
    y = lift(to_dask(y0, (3, 2))) if isinstance(other, str) else y0
    pairs = ((y0, x0), (y, x)) if swap else ((x0, y0), (x, y))
    try:
        expected = ufunc(*pairs[0])
    except TypeError:
        with pytest.raises(TypeError):
            ufunc(*pairs[1])
        return
    assert_same(lower(ufunc(*pairs[1])), expected)


@pytest.mark.parametrize("legacy", [False, "1.25"])
def test_names_tell_scalars_apart(legacy):
    """Also where the user lets NumPy print numbers without their types."""
    x = lift(da.ones(4, chunks=2))
    before = np.get_printoptions()["legacy"]
    np.set_printoptions(legacy=legacy)
    try:
        _tell_scalars_apart(x)
    finally:
        np.set_printoptions(legacy=before)


def _tell_scalars_apart(x):
    factors = [2, 2.0, True, 1, 1.0, 1 + 0j, np.float32(1), np.float64(1), np.int8(1)]
    names = {lower(x * factor).name for factor in factors}
    assert len(names) == len(factors)
    assert lower(x * 2.0).name == lower(x * 2.0).name
    assert lower(x - 2.0).name != lower(2.0 - x).name


# ------------------------------------------------------- what nobody can read any more


class Thing:
    def __init__(self, name):
        self.name = name


def is_thing(value):
    return type(value) is Thing


def found_here():
    return {thing.name for thing in unreachable("nowhere", is_thing)}


def test_only_variables_that_are_not_read_again_are_unreachable():
    read, in_list, in_cell = Thing("read"), Thing("in a list"), Thing("in a cell")
    never, twice = Thing("never read"), Thing("under two names")
    also = twice
    items = [in_list]

    def inner():
        return in_cell

    found = found_here()
    assert found == {"never read", "under two names"}
    assert read is not None
    assert items
    assert inner() is not None
    del never, also


def test_what_waits_for_a_call_can_be_reached():
    operand = Thing("operand")
    pair = (operand, found_here())
    assert not pair[1]


def test_what_a_debugger_holds_can_be_reached():
    never = Thing("never read")
    copies = [sys._getframe().f_locals["never"]]
    found = found_here()
    assert not found
    assert copies[0] is not None
    del never


# what a step leaves in memory, in vectors as long as the model or the data
KEPT = {"ista": 2, "fista": 4, "cg": 4, "cgls": 5}


@pytest.mark.parametrize("name", KEPT)
def test_a_step_keeps_what_will_be_read(name):
    """Gradients, residuals and the like are of no use once the step is over."""
    n = 60
    op = pylops.Identity(n) + 0.1 * pylops.Identity(n) if name == "cg" else pylops.Diagonal(rand(n))
    kept = []

    def get(graph, keys, **kwargs):
        vectors = [key for key in dask.core.flatten(keys) if len(key) > 1]
        kept.append(len(vectors) / 3)
        return dask.get(graph, keys, **kwargs)

    options = {"alpha": 0.1} if "ista" in name else {"tol": 0}
    y0 = rand(n, seed=1)
    with dask.config.set(scheduler=get):
        x = getattr(pylops, name)(op, to_dask(y0, 20), niter=5, **options)[0]
    assert kept[-1] <= KEPT[name]
    np.testing.assert_allclose(
        x.compute(), getattr(pylops, name)(op, y0, niter=5, **options)[0], rtol=1e-10, atol=1e-12
    )


def test_solves_in_several_threads_leave_the_configuration_as_it_was():
    def enter(entered, leave):
        with straight_tasks():
            entered.set()
            assert leave.wait(10)

    events = [(threading.Event(), threading.Event()) for _ in range(2)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = []
        for entered, leave in events:
            running.append(pool.submit(enter, entered, leave))
            assert entered.wait(10)
        for future, (_, leave) in zip(running, events, strict=True):
            assert dask.config.get("array_optimize") is not None
            leave.set()
            future.result()
    assert dask.config.get("array_optimize", None) is None


# ---- names and data on a cluster -----------------------------------------------------------------


def test_what_is_behind_other_names_is_read_itself():
    nodes = {
        "a": Task("a", operator.neg, 1),
        "b": Alias("b", "a"),
        "c": Alias("c", "b"),
        "y": Task("y", operator.add, TaskRef("c"), TaskRef("b")),
        "z": Alias("z", "c"),
        "w": Task("w", operator.neg, TaskRef("z")),
    }
    found = optimisation._without_names(nodes, {"w", "y", "z"})
    assert found.keys() == {"a", "w", "y", "z"}
    assert found["y"].dependencies == found["w"].dependencies == {"a"}
    assert (found["z"].target, nodes["y"].dependencies) == ("a", {"b", "c"})
    assert dask.get(found, ["w", "y", "z"]) == (1, -2, -1)


@given(st.sets(st.sampled_from(["y0", "y1", "y2", "z"]), min_size=1))
def test_settings_are_put_within_tasks_and_a_key_stands_for_the_same_task_in_each_graph(wanted):
    settings, block = {"settings": 1}, np.ones(3)
    nodes = {
        "settings": programs.Setting("settings", settings),
        "block": DataNode("block", block),
        "z": Alias("z", "block"),
        **{f"y{n}": Task(f"y{n}", shapes, TaskRef("settings"), TaskRef("z")) for n in range(3)},
    }
    found = optimisation._without_names(pickle.loads(pickle.dumps(nodes)), wanted)
    assert "settings" not in found
    assert all(found[f"y{n}"].dependencies == {"block"} for n in range(3))
    assert str(dask.get(found, list(wanted))) == str(dask.get(nodes, list(wanted)))


def shapes(*values):
    return [type(value).__name__ for value in values]


def test_shuffles_of_two_executions_are_told_apart():
    with dask.config.set({"array.rechunk.method": "p2p"}):
        x = da.ones((12, 12), chunks=(3, 12)).rechunk((12, 3))
        y = (2 * x).rechunk((3, 12)) + 1
    waiting = []
    for mark in ("-first", "-second"):
        (marked,) = optimisation._marked([y], y.dask, mark, ())
        nodes = dict(marked.dask)
        waits = {key for key, node in nodes.items() if isinstance(node, P2PBarrierTask)}
        assert len(waits) == 2
        assert waits == {barrier_key(nodes[key].spec.id) for key in waits}
        read = set().union(*(node.dependencies for node in nodes.values()))
        assert waits <= read <= nodes.keys()
        waiting.append(waits)
    assert waiting[0].isdisjoint(waiting[1])


def test_tasks_that_read_an_array_that_is_to_keep_its_name_keep_theirs():
    x = da.ones((6, 4), chunks=(3, 4))
    kept, other = (x + 1).cumsum(axis=0), x - 1
    graph = HighLevelGraph.merge(kept.dask, other.dask)
    first, second = optimisation._marked([kept, other], graph, "-mark", {kept.name})
    assert (first.name, second.name) == (kept.name, f"{other.name}-mark")
    names = {key[0] for key in dict(first.dask)}
    assert names >= {first.name, second.name}
    assert other.name not in names
    assert not [n for n in names if n.startswith(kept.name) and n.endswith("-mark")]


def test_tasks_in_tuples_read_a_shuffle_and_another_array():
    with dask.config.set({"array.rechunk.method": "p2p"}):
        x = da.ones((6, 6), chunks=(3, 6)).rechunk((6, 3))
    y = da.zeros((6, 6), chunks=(6, 3)) + 1
    tasks = {("sum", 0, i): (operator.add, (x.name, 0, i), (y.name, 0, i)) for i in range(2)}
    graph = HighLevelGraph.from_collections("sum", tasks, dependencies=[x, y])
    z = da.Array(graph, "sum", x.chunks, dtype=x.dtype)
    (marked,) = optimisation._marked([z], z.dask, "-mark", ())
    nodes = dict(marked.dask)
    read = set().union(*(nodes[key].dependencies for key in flatten(marked.__dask_keys__())))
    assert {name for name, *_ in read} == {f"{x.name}-mark-mark", f"{y.name}-mark"}


def test_small_slices_are_taken_by_the_task_that_reads_them():
    """``rechunk`` makes a task of each part that a block goes into: here as many as 64."""
    x = to_dask(rand((16, 16)), (2, 16)).persist()
    tasks, done = executed((x + 1).rechunk((16, 2), threshold=1000) * 2)
    assert_same(done, (x.compute() + 1) * 2)
    assert len([task for task in tasks.values() if not isinstance(task, DataNode)]) == 16


def test_large_slices_are_tasks():
    """The block of a slice that another task takes would wait for that task."""
    x = da.ones((4, 1 << 17), chunks=(2, 1 << 17)).persist()
    tasks, done = executed((x + 1).rechunk((4, 1 << 16)) * 2)
    assert_same(done, (x.compute() + 1) * 2)
    assert len([task for task in tasks.values() if not isinstance(task, DataNode)]) == 8


@pytest.mark.parametrize(
    ("workers", "shape", "slices"),
    [(1, (16, 1 << 16), 0), (2, (16, 1 << 13), 0), (2, (16, 1 << 17), 64), (8, (16, 1 << 13), 64)],
)
def test_slices_on_a_cluster_are_tasks_unless_the_blocks_are_small(
    monkeypatch, workers, shape, slices
):
    """Of a block on another worker only the slice is sent, if that costs more than a task."""
    monkeypatch.setattr(optimisation, "number_of_workers", lambda: workers)
    x = da.ones(shape, chunks=(2, -1)).persist()
    with distributed.Client(processes=False, dashboard_address=None), straight_tasks():
        y = (x + 1).rechunk((16, shape[1] // 8), threshold=1000) * 2
        tasks = dict(y.__dask_optimize__(y.dask, y.__dask_keys__()))
    made = [task for task in tasks.values() if not isinstance(task, DataNode)]
    assert len(made) == 8 + slices + 8
