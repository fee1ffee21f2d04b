"""Executions that a solve repeats: their graph is optimised once, and then given other names.

A step of a solver makes the same graph as the one before it, but for the names of arrays, the
blocks in memory that it starts from, and numbers. To fuse its tasks takes longer than many of
them run; to rename fused ones takes a fraction of that.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from dask._task_spec import DataNode, GraphNode, Task, TaskRef, convert_legacy_graph
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from pylops_dispatch.layers import RepeatedLayer, in_full
from pylops_dispatch.pieces import name_of_number
from pylops_dispatch.programs import is_getter, run_program
from pylops_dispatch.renaming import name_in
from pylops_dispatch.structures import UnknownStructureError, structure_of
from pylops_dispatch.threads import Ordered, in_order

Optimise = Callable[[HighLevelGraph, Collection[Any]], Mapping[Any, Any]]

_KEPT = 16  # in a solve: a step may have some executions
_TRIED = 16  # executions in a row, after which a solve has none that are alike


class _Optimised(NamedTuple):
    """An optimised graph, which fits others of its form."""

    ordered: Ordered  # with the keys that it was learnt with
    names: dict[str, int | None]  # in these keys: the place of the layer that has it, if one has
    fixed: dict[Any, Any]  # data that are the same each time, by their keys
    blocks: list[tuple[Any, int]]  # other data: keys, and the places of their layers
    numbers: list[tuple[str, int, int]]  # key, place of the layer, and place among its numbers
    same: list[tuple[int, weakref.ref[Layer]]]  # layers that must be these, by their places


class Executions:
    """The graphs of executions of one solve."""

    def __init__(self) -> None:
        self._known: dict[Any, _Optimised | None] = {}
        self._seen: deque[Any] = deque(maxlen=_KEPT)  # forms that came up once
        self._vain = 0  # executions in a row whose form was not known

    def optimised(
        self, graph: HighLevelGraph, wanted: list[Any], optimise: Optimise
    ) -> Mapping[Any, Any]:
        """Return the tasks of a graph as they are to run.

        Parameters
        ----------
        graph : HighLevelGraph
            Graph.
        wanted : list
            Keys of what is asked for.
        optimise : callable
            What makes tasks of a graph, and of keys, that is not known.

        Returns
        -------
        mapping
            Tasks and data by their keys.
        """
        known = self._look_up(graph, wanted, optimise)
        if known is None:
            return optimise(in_full(graph), wanted)
        return _renamed(known, graph.layers)

    def in_order(
        self, graph: HighLevelGraph, wanted: list[Any], optimise: Optimise
    ) -> tuple[Ordered, dict[Any, Any]]:
        """Return the tasks of a graph in order, and the data by the keys that these have in them.

        The parameters are those of :meth:`optimised`.
        """
        known = self._look_up(graph, wanted, optimise)
        if known is None:
            nodes = convert_legacy_graph(optimise(in_full(graph), wanted))
            data = {k: node.value for k, node in nodes.items() if isinstance(node, DataNode)}
            return in_order(nodes, wanted), data
        return known.ordered, _data_of(known, graph.layers)

    def _look_up(
        self, graph: HighLevelGraph, wanted: list[Any], optimise: Optimise
    ) -> _Optimised | None:
        if self._vain > _TRIED:
            return None
        layers = graph.layers
        form = _form(layers, wanted)
        if form in self._known:
            self._vain = 0
        else:
            self._vain += 1
            if self._vain > _TRIED:  # what came up is of no use any more
                self._known.clear()
                self._seen.clear()
                return None
            if form not in self._seen:
                self._seen.append(form)
                return None
            if len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[form] = _learn(form, graph, wanted, optimise)
        known = self._known[form]
        if known is not None and known.same:
            held = list(layers.values())
            if any(layer() is not held[place] for place, layer in known.same):
                known = self._known[form] = _learn(form, graph, wanted, optimise)
        return known


def _is_block(node: Any) -> bool:
    return type(node) is DataNode or isinstance(node, (np.ndarray, np.generic))


def _is_data(name: str, layer: Layer) -> bool:
    """Whether a layer is of the blocks of one array, all in memory."""
    if isinstance(layer, RepeatedLayer):
        return False
    own = (isinstance(key, tuple) and key[0] == name for key in layer)
    return all(map(_is_block, layer.values())) and all(own)


def _form(layers: Mapping[str, Layer], wanted: list[Any]) -> Any:
    """Return what tells a graph from those whose tasks differ in more than names and numbers."""
    places = {name: place for place, name in enumerate(layers)}
    return (
        *(_form_of_layer(name, layer, places) for name, layer in layers.items()),
        *((places[name_in(key)], key[1:]) for key in wanted),
    )


def _form_of_layer(name: str, layer: Layer, places: dict[str, int]) -> Any:
    if isinstance(layer, RepeatedLayer):
        form = layer.form
        return form.kind, tuple(places.get(read, read) for read in form.reads), len(form.numbers)
    if _is_data(name, layer):
        return tuple(key[1:] for key in layer)
    try:
        return structure_of(layer, places)
    except UnknownStructureError:
        return name, id(layer)


def _learn(
    form: Any, graph: HighLevelGraph, wanted: list[Any], optimise: Optimise
) -> _Optimised | None:
    """Optimise a graph with references for its numbers, and take it apart.

    Returns
    -------
    _Optimised or None
        None where tasks read files: slices are fused into what they are taken of.
    """
    layers: dict[str, Layer] = {}
    given: dict[str, tuple[int, int]] = {}  # names of numbers: layers and places in them
    same: list[tuple[int, weakref.ref[Layer]]] = []
    data: dict[str, int] = {}
    for place, (name, layer) in enumerate(graph.layers.items()):
        if isinstance(layer, RepeatedLayer):
            references = []
            for i, value in enumerate(layer.form.numbers):
                number = f"number-{place}-{i}"
                given[number] = place, i
                layers[number] = MaterializedLayer({number: DataNode(number, value)})
                references.append(TaskRef(number))
            layers[name] = layer.given(references)
        else:
            layers[name] = layer
            if _is_data(name, layer):
                data[name] = place
            elif form[place] == (name, id(layer)):
                same.append((place, weakref.ref(layer)))
    dependencies = {**{number: set() for number in given}, **graph.dependencies}
    nodes = optimise(HighLevelGraph(layers, dependencies), wanted)
    if any(map(is_getter, nodes.values())):
        return None

    places = {name: place for place, name in enumerate(graph.layers)}
    blocks = [(key, data[name_in(key)]) for key in nodes if name_in(key) in data]
    numbers = [(name, *given[name]) for name in given if name in nodes]
    changing = {key for key, *_ in (*blocks, *numbers)}
    fixed = {
        key: node.value
        for key, node in nodes.items()
        if isinstance(node, DataNode) and key not in changing
    }
    names = {name: places.get(name) for name in map(name_in, nodes)}
    return _Optimised(in_order(nodes, wanted), names, fixed, blocks, numbers, same)


def _data_of(known: _Optimised, layers: Mapping[str, Layer]) -> dict[Any, Any]:
    """Return the data of a graph by the keys that the optimised one has for them."""
    own, held = list(layers), list(layers.values())
    values = dict(known.fixed)
    values.update((key, held[place].form.numbers[i]) for key, place, i in known.numbers)
    for key, place in known.blocks:
        block = held[place][own[place], *key[1:]]
        values[key] = block.value if isinstance(block, DataNode) else block
    return values


def _renamed(known: _Optimised, layers: Mapping[str, Layer]) -> dict[Any, GraphNode]:
    """Return the tasks of an optimised graph with the names, data and numbers of another."""
    own, values = list(layers), _data_of(known, layers)
    which = hashlib.blake2b("\n".join(own).encode(), digest_size=16)
    names = {}
    for name, place in known.names.items():
        if place is None:
            digest = which.copy()
            digest.update(name.encode())
            names[name] = f"{name.rpartition('-')[0] or name}-{digest.hexdigest()}"
        else:
            names[name] = own[place]
    names.update((name, _name_of(values[name])) for name, *_ in known.numbers)

    def renamed(key: Any) -> Any:
        name = names[name_in(key)]
        return (name, *key[1:]) if isinstance(key, tuple) else name

    nodes: dict[Any, GraphNode] = {}
    for key, value in values.items():
        key = renamed(key)
        nodes[key] = DataNode(key, value)
    for key, node in known.ordered.tasks:
        key, reads = renamed(key), {read: renamed(read) for read in node.dependencies}
        nodes[key] = _with_keys(node, key, reads)
    return nodes


def _name_of(number: Any) -> str:
    named = name_of_number(number) if isinstance(number, np.generic) else number
    return f"number-{type(number).__name__}-{named}"


def _with_keys(node: GraphNode, key: Any, reads: dict[Any, Any]) -> GraphNode:
    """Return a task with other keys: ``substitute``, in half the time for one that was fused."""
    if type(node) is not Task or node.func is not run_program or node.kwargs:
        return node.substitute(reads, key=key)
    program, inputs, *values = node.args
    refs = [
        TaskRef(reads[v.key])
        if type(v) is TaskRef
        else v.substitute(reads)
        if isinstance(v, GraphNode)
        else v
        for v in values
    ]
    return Task(key, run_program, program, inputs, *refs, _data_producer=node.data_producer)
