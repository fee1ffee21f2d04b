"""The graph of one execution in a solver, as it is handed to a scheduler."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise, product
from typing import Any, NamedTuple, cast

import dask
import dask.threaded
import numpy as np
from dask._task_spec import (
    Alias,
    DataNode,
    GraphNode,
    List,
    Task,
    TaskRef,
    _execute_subgraph,
    convert_legacy_graph,
    cull,
)
from dask.array.core import Array as DaskArray
from dask.array.core import getter, getter_inline, getter_nofancy
from dask.array.optimization import optimize
from dask.blockwise import Blockwise, blockwise_token, optimize_blockwise
from dask.core import flatten, toposort
from dask.highlevelgraph import HighLevelGraph, Layer

from pylops_dispatch.pieces import largest_block

Keys = tuple[Any, ...]


def persist(arrays: Sequence[DaskArray]) -> tuple[DaskArray, ...]:
    """Return arrays in memory, worked out in one execution: ``dask.persist``, for these alone.

    Where dask runs in this process, ``dask.persist`` wraps each graph in expressions first, which
    have nothing to do for arrays and take as long as fusing the tasks of a small step.
    """
    with straight_tasks():
        schedule = dask.base.get_scheduler(collections=arrays)
        if hasattr(getattr(schedule, "__self__", schedule), "persist"):  # a cluster's
            return tuple(dask.persist(*arrays))
        keys = [list(flatten(array.__dask_keys__())) for array in arrays]
        graph = HighLevelGraph.merge(*(array.dask for array in arrays))
        nodes = arrays[0].__dask_optimize__(graph, keys)
        wanted = list(chain.from_iterable(keys))
        found = schedule(nodes, wanted, **_batches(schedule, arrays, nodes))
    values = dict(zip(wanted, found, strict=True))
    done = []
    for array, own in zip(arrays, keys, strict=True):
        rebuild, state = array.__dask_postpersist__()
        done.append(rebuild({key: values[key] for key in own}, *state))
    return tuple(done)


_SMALL = 1 << 18  # bytes of a block
_BATCH = 4


def _batches(schedule: Any, arrays: Sequence[DaskArray], nodes: dict[Any, Any]) -> dict[str, int]:
    """Return settings of dask's threads for many small tasks: some of them are handed out at once.

    A thread takes about as long to be given a task as to work on a small block.
    """
    if schedule is not dask.threaded.get or len(nodes) < 64:
        return {}
    held = (node.value for node in nodes.values() if isinstance(node, DataNode))
    largest = max((getattr(value, "nbytes", 0) for value in held), default=0)
    made = max(map(largest_block, arrays))
    return {"chunksize": _BATCH} if max(largest, made) <= _SMALL else {}


@contextmanager
def straight_tasks() -> Iterator[None]:
    """Let fused tasks of graphs that are executed here run in an order that is found once.

    dask's ``_execute_subgraph`` orders the tasks that were fused each time that it runs, in
    every block, which costs more than the tasks of a small block; and its element-wise tasks each
    read and write a whole block. A function that the user has set for ``array_optimize`` stays.
    """
    if dask.config.get("array_optimize", None) is not None:
        yield
        return
    with dask.config.set(array_optimize=_optimised):
        yield


def _optimised(graph: Any, keys: Any, **kwargs: Any) -> dict[Any, Any]:
    """Return what ``dask.array.optimize`` does, found with less work for the blocks of a layer."""
    wanted = set(flatten(keys))
    straighten = _straightening()
    if isinstance(graph, HighLevelGraph):
        fused = optimize_blockwise(graph, keys=list(wanted))
        tasks: dict[Any, Any] = {}
        for layer in fused.layers.values():
            tasks.update(_tasks_of_blocks(layer, straighten))
        nodes = cull(convert_legacy_graph(tasks), wanted)
    if not isinstance(graph, HighLevelGraph) or any(map(_is_getter, nodes.values())):
        # slices of files are fused into one
        nodes = dict(optimize(graph, keys, **kwargs))
    return _joined({key: straighten(node) for key, node in nodes.items()}, wanted)


def _is_getter(node: Any) -> bool:
    """Whether a task, or one that is fused into it, reads what is no array (``da.from_array``)."""
    inner, _ = fused_tasks(node)
    return getattr(node, "func", None) in _GETTERS or any(map(_is_getter, inner))


_GETTERS = (getter, getter_inline, getter_nofancy)


def fused_tasks(node: Any) -> tuple[list[Any], dict[Any, Any]]:
    """Return the tasks that are fused into one, and the keys that stand for their inputs."""
    if not isinstance(node, Task) or node.func not in (_execute_subgraph, _run_program):
        return [], {}
    if node.func is _execute_subgraph:
        inner, _, inputs, *values = node.args
        tasks = list(inner.values())
    else:
        program, inputs, *values = node.args
        tasks = [*(part for part, _ in program.tasks), *program.elementwise]
    given = zip(inputs, values, strict=True)
    return tasks, {own: value.key for own, value in given if isinstance(value, (TaskRef, Alias))}


def _tasks_of_blocks(
    layer: Layer, straighten: Callable[[GraphNode], GraphNode]
) -> Mapping[Any, Any]:
    """Return the tasks of a layer; those of blocks that lie one on another in one go.

    ``Blockwise`` itself puts each key into a task in a step of its own.
    """
    if not isinstance(layer, Blockwise) or layer.is_materialized() or layer.io_deps:
        return layer
    place = {index: number for number, index in enumerate(layer.output_indices)}
    task: GraphNode = layer.task
    inputs: dict[Any, _Input] = {}
    for number, (name, indices) in enumerate(layer.indices):
        token = blockwise_token(number)
        if indices is None:
            node: Any = name
            if not isinstance(node, (GraphNode, TaskRef)):
                node = DataNode(None, node)
            task = task.substitute({token: node})
        elif all(a in place or (layer.dims[a] == 1 and not layer.concatenate) for a in indices):
            counts = zip(indices, layer.numblocks[str(name)], strict=True)
            axes = [None if n == 1 else place[a] for a, n in counts]
            inputs[token] = _Input(name, axes, sum(a not in place for a in indices))
        else:
            return layer
    task = cast(Task, straighten(task))
    found = [inputs.get(a.key) if isinstance(a, TaskRef) else None for a in task.args]
    if len(task.dependencies & inputs.keys()) != len({id(read) for read in found if read}):
        return layer  # some are read within other arguments
    made = {}
    for block in product(*(range(layer.dims[a]) for a in place)):
        args = [
            argument if read is None else read.block(block)
            for argument, read in zip(task.args, found, strict=True)
        ]
        key = (layer.output, *block)
        made[key] = Task(key, task.func, *args, _data_producer=task.data_producer, **task.kwargs)
    return made


class _Input(NamedTuple):
    """An array whose blocks a layer reads."""

    name: Any
    axes: list[int | None]  # of the output, which number its blocks; None where it has but one

    lists: int  # around a block: one for each axis that the output does not have

    def block(self, block: tuple[int, ...]) -> Any:
        """Return what stands for the block that a block of the output reads."""
        found: Any = TaskRef((self.name, *(0 if a is None else block[a] for a in self.axes)))
        for _ in range(self.lists):
            found = List(found)
        return found


def _joined(nodes: dict[Any, GraphNode], wanted: set[Any]) -> dict[Any, Any]:
    """Join tasks that can only run one after another: dask does, but for those that read data too.

    Handing a task to a thread takes as long as to work on a small block, and dask leaves another
    task, an alias, for the name of what it fused.
    """
    reads = {
        key: [k for k in node.dependencies if not isinstance(nodes.get(k), DataNode)]
        for key, node in nodes.items()
        if not isinstance(node, DataNode)
    }
    readers = Counter(chain.from_iterable(reads.values()))
    before = {
        key: found[0]
        for key, found in reads.items()
        if len(found) == 1 and readers[found[0]] == 1 and found[0] in reads
        if found[0] not in wanted and not nodes[found[0]].block_fusion
    }
    inside = set(before.values())
    joined = {key: node for key, node in nodes.items() if key not in inside}
    for last in before.keys() - inside:
        keys = [last]
        while keys[-1] in before:
            keys.append(before[keys[-1]])
        joined[last] = _chain([nodes[key] for key in reversed(keys)])
    return joined


def _chain(nodes: Sequence[GraphNode]) -> GraphNode:
    """Return one task for some, of which each reads the one before it."""
    first, last = nodes[0], nodes[-1]
    producer = any(node.data_producer for node in nodes)
    made = {node.key for node in nodes}
    inputs = tuple(frozenset().union(*(node.dependencies for node in nodes)) - made)
    then = ((node, (before.key,)) for before, node in pairwise(nodes))
    program = _Program(((first, ()), *then), (), frozenset())
    values = map(TaskRef, inputs)
    return Task(last.key, _run_program, program, inputs, *values, _data_producer=producer)


class _Program(NamedTuple):
    """Tasks that were fused, in the order that they run in."""

    tasks: tuple[tuple[GraphNode, Keys], ...]  # each with what nothing needs after it
    elementwise: tuple[Task, ...]  # those that end it
    reads: frozenset[Any]  # what the element-wise ones are given


def _straightening() -> Callable[[GraphNode], GraphNode]:
    """Return what replaces fused tasks; the blocks of a layer share their program."""
    programs: dict[int, tuple[Any, _Program]] = {}  # with what has the number, so that it stays

    def straighten(node: GraphNode) -> GraphNode:
        if not (isinstance(node, Task) and node.func is _execute_subgraph):
            return node
        fused, _, inputs, *values = node.args
        if id(fused) not in programs:
            straight = {key: straighten(part) for key, part in fused.items()}
            programs[id(fused)] = fused, _program(straight)
        _, program = programs[id(fused)]
        return Task(
            node.key, _run_program, program, inputs, *values, _data_producer=node.data_producer
        )

    return straighten


def _program(nodes: dict[Any, GraphNode]) -> _Program:
    inner = {key: node.dependencies & nodes.keys() for key, node in nodes.items()}
    order = toposort(nodes, dependencies=inner)
    needed_by_others: set[Any] = set()
    end: list[Any] = []
    for key in reversed(order):
        if key not in needed_by_others and _is_elementwise(nodes[key]):
            end.insert(0, key)
        else:
            needed_by_others |= inner[key]
    reads = frozenset().union(*(nodes[key].dependencies for key in end)) - set(end)
    first = [key for key in order if key not in set(end)]
    # what the element-wise ones read as well stays until they run
    last_readers = {found: key for key in first for found in inner[key] - reads}
    return _Program(
        tuple(
            (nodes[key], tuple(found for found in inner[key] if last_readers.get(found) == key))
            for key in first
        ),
        tuple(cast(Task, nodes[key]) for key in end),
        reads,
    )


def elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Say of a function of blocks that each element of its result is of one element of each."""
    _ELEMENTWISE.add(function)
    return function


# what dask arrays have for the operators of Python
_ELEMENTWISE: set[Any] = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow,
}  # fmt: skip


def _is_elementwise(node: GraphNode) -> bool:
    if not isinstance(node, Task):
        return False
    ufunc = isinstance(node.func, np.ufunc) and node.func.nout == 1 and not node.kwargs
    if not ufunc and node.func not in _ELEMENTWISE:
        return False
    settings = node.kwargs.values()
    return all(map(_is_block_or_number, node.args)) and not any(
        isinstance(value, (GraphNode, TaskRef)) for value in settings
    )


def _is_block_or_number(argument: Any) -> bool:
    if isinstance(argument, (TaskRef, Alias)):
        return True
    value = argument.value if isinstance(argument, DataNode) else argument
    return not isinstance(value, GraphNode) and np.ndim(value) == 0


def _value_of(argument: Any, known: dict[Any, Any]) -> Any:
    if isinstance(argument, TaskRef):
        return known[argument.key]
    if isinstance(argument, Alias):  # dask 2025.1 refers to tasks by these
        return known[argument.target]
    return argument.value if isinstance(argument, DataNode) else argument


def _run_program(program: _Program, inputs: Keys, *values: Any) -> Any:
    known = dict(zip(inputs, values, strict=True))
    found = None
    for node, done in program.tasks:
        found = known[node.key] = node(known)
        for key in done:
            del known[key]
    if not program.elementwise:
        return found
    return _in_tiles(program.elementwise, {key: known[key] for key in program.reads})


_TILE_BYTES = 1 << 18  # of one operand: some of them stay in the cache of a processor


def _in_tiles(tasks: tuple[Task, ...], known: dict[Any, Any]) -> Any:
    """Run element-wise tasks on a part of the block at a time.

    On whole blocks, what each task gives would go to memory and come back.
    """
    blocks = {key: value for key, value in known.items() if np.ndim(value)}
    shapes = {np.shape(block) for block in blocks.values()}
    plain = all(type(b) is np.ndarray and b.flags.c_contiguous for b in blocks.values())
    largest = max((block.nbytes for block in blocks.values()), default=0)
    if len(tasks) < 2 or len(shapes) != 1 or not plain or largest <= 2 * _TILE_BYTES:
        return _run_elementwise(tasks, known)
    (shape,) = shapes
    size = math.prod(shape)
    length = max(1, _TILE_BYTES * size // largest)
    flat = {key: block.reshape(-1) for key, block in blocks.items()}
    result = None
    for start in range(0, size, length):
        part = slice(start, start + length)
        held = known | {key: block[part] for key, block in flat.items()}
        tile = _run_elementwise(tasks, held, None if result is None else result[part])
        if result is None:
            result = np.empty(size, tile.dtype)
            result[part] = tile
    assert result is not None
    return result.reshape(shape)


def _run_elementwise(tasks: tuple[Task, ...], known: dict[Any, Any], out: Any = None) -> Any:
    found = None
    for task in tasks:
        args = [_value_of(argument, known) for argument in task.args]
        if out is not None and task is tasks[-1]:
            if isinstance(task.func, np.ufunc):
                return task.func(*args, out=out)
            out[...] = task.func(*args, **task.kwargs)
            return out
        found = known[task.key] = task.func(*args, **task.kwargs)
    return found
