"""Tasks that are fused into one: the order that they run in, and tiles for element-wise ones."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from dask._task_spec import Alias, DataNode, GraphNode, Task, TaskRef, _execute_subgraph
from dask.array import chunk
from dask.array.core import getter, getter_inline, getter_nofancy
from dask.core import toposort

Keys = tuple[Any, ...]


class Setting(DataNode):
    """A small object in a graph for a cluster, that is put within the tasks that read it."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        return Setting, (self.key, self.value)


class Program(NamedTuple):
    """Tasks that were fused, in the order that they run in."""

    tasks: tuple[tuple[GraphNode, Keys], ...]  # each with what nothing needs after it
    elementwise: tuple[Task, ...]  # those that end it
    reads: frozenset[Any]  # what the element-wise ones are given


def straightening() -> Callable[[GraphNode], GraphNode]:
    """Return what replaces fused tasks; the blocks of a layer share their program."""
    programs: dict[int, tuple[Any, Program]] = {}  # with what has the number, so that it stays

    def straighten(node: GraphNode) -> GraphNode:
        if not (isinstance(node, Task) and node.func is _execute_subgraph):
            return node
        fused, _, inputs, *values = node.args
        if id(fused) not in programs:
            straight = {key: straighten(part) for key, part in fused.items()}
            programs[id(fused)] = fused, _program(straight)
        _, program = programs[id(fused)]
        return Task(
            node.key, run_program, program, inputs, *values, _data_producer=node.data_producer
        )

    return straighten


def _program(nodes: dict[Any, GraphNode]) -> Program:
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
    return Program(
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
    if isinstance(argument, TaskRef):
        return True
    value = argument.value if isinstance(argument, DataNode) else argument
    return not isinstance(value, GraphNode) and np.ndim(value) == 0


def _value_of(argument: Any, known: dict[Any, Any]) -> Any:
    if isinstance(argument, TaskRef):
        return known[argument.key]
    return argument.value if isinstance(argument, DataNode) else argument


def run_program(program: Program, inputs: Keys, *values: Any) -> Any:
    """Run the tasks of a program on the values of its inputs: the function of the task it is."""
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


def joined(nodes: Sequence[GraphNode]) -> GraphNode:
    """Return one task for some, each of which is read by one of those after it alone."""
    producer = any(node.data_producer for node in nodes)
    made = {node.key for node in nodes}
    inputs = tuple(frozenset().union(*(node.dependencies for node in nodes)) - made)
    tasks = tuple((node, tuple(node.dependencies & made)) for node in nodes)
    program = Program(tasks, (), frozenset())
    values = map(TaskRef, inputs)
    return Task(nodes[-1].key, run_program, program, inputs, *values, _data_producer=producer)


_SLICED = 1 << 16  # samples


def is_small_slice(node: GraphNode) -> bool:
    """Whether a task takes a small part of a block, as ``rechunk`` does.

    Of a large one the block would be kept until the task that reads it runs.
    """
    if not isinstance(node, Task) or node.func not in _SLICING or len(node.args) != 2:
        return False
    block, index = node.args
    if not isinstance(block, TaskRef) or not isinstance(index, tuple):
        return False
    bounded = all(isinstance(s, slice) and None not in (s.start, s.stop) for s in index)
    return bounded and block_and_samples(node)[1] <= _SLICED


def block_and_samples(node: GraphNode) -> tuple[Any, int]:
    """Return the key of the block that a bounded slice is of, and how many samples it has."""
    assert isinstance(node, Task)
    block, index = node.args
    return block.key, math.prod(s.stop - s.start for s in index)


_SLICING = (operator.getitem, chunk.getitem)


def fused_tasks(node: Any) -> tuple[list[Any], dict[Any, Any]]:
    """Return the tasks that are fused into one, and the keys that stand for their inputs."""
    if not isinstance(node, Task) or node.func not in (_execute_subgraph, run_program):
        return [], {}
    if node.func is _execute_subgraph:
        inner, _, inputs, *values = node.args
        tasks = list(inner.values())
    else:
        program, inputs, *values = node.args
        tasks = [*(part for part, _ in program.tasks), *program.elementwise]
    given = zip(inputs, values, strict=True)
    return tasks, {own: value.key for own, value in given if isinstance(value, (TaskRef, Alias))}


def is_getter(node: Any) -> bool:
    """Whether a task, or one that is fused into it, reads what is no array (``da.from_array``)."""
    inner, _ = fused_tasks(node)
    return getattr(node, "func", None) in _GETTERS or any(map(is_getter, inner))


_GETTERS = (getter, getter_inline, getter_nofancy)
