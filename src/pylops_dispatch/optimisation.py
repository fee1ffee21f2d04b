"""The graph of one execution in a solver, as it is handed to a scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask
from dask._task_spec import GraphNode, Task, _execute_subgraph
from dask.array.optimization import optimize
from dask.core import toposort

Line = tuple[GraphNode, tuple[Any, ...]]  # of a program: a task, and what nothing needs after it


@contextmanager
def straight_tasks() -> Iterator[None]:
    """Let fused tasks of graphs that are executed here run in an order that is found once.

    dask's ``_execute_subgraph`` orders the tasks that were fused each time that it runs, in
    every block, which costs more than the tasks of a small block. A function that the user has
    set for ``array_optimize`` stays.
    """
    if dask.config.get("array_optimize", None) is not None:
        yield
        return
    with dask.config.set(array_optimize=_optimised):
        yield


def _optimised(graph: Any, keys: Any, **kwargs: Any) -> dict[Any, Any]:
    nodes = dict(optimize(graph, keys, **kwargs))
    straighten = _straightening()
    return {key: straighten(node) for key, node in nodes.items()}


def _straightening() -> Callable[[GraphNode], GraphNode]:
    """Return what replaces fused tasks; the blocks of a layer share their program."""
    programs: dict[int, tuple[Line, ...]] = {}

    def straighten(node: GraphNode) -> GraphNode:
        if not (isinstance(node, Task) and node.func is _execute_subgraph):
            return node
        fused, result, inputs, *values = node.args
        program = programs.get(id(fused))
        if program is None:
            straight = {key: straighten(part) for key, part in fused.items()}
            program = programs[id(fused)] = _program(straight, result)
        return Task(
            node.key, _run_program, program, inputs, *values, _data_producer=node.data_producer
        )

    return straighten


def _program(nodes: dict[Any, GraphNode], result: Any) -> tuple[Line, ...]:
    needed = {key: node.dependencies for key, node in nodes.items()}
    inner = {key: found & nodes.keys() for key, found in needed.items()}
    order = toposort(nodes, dependencies=inner)
    last = {found: key for key in order for found in inner[key]}
    return tuple(
        (nodes[key], tuple(found for found in inner[key] if last[found] == key)) for key in order
    )


def _run_program(program: tuple[Line, ...], inputs: tuple[Any, ...], *values: Any) -> Any:
    known = dict(zip(inputs, values, strict=True))
    found = None
    for node, done in program:
        found = known[node.key] = node(known)
        for key in done:
            del known[key]
    return found
