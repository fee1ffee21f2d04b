"""What tasks are, but for names: to tell whether two layers of graphs are alike."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from dask._task_spec import DataNode, GraphNode, Task, TaskRef, convert_legacy_graph
from dask.blockwise import Blockwise
from dask.highlevelgraph import Layer
from dask.utils import methodcaller

from pylops_dispatch.pieces import name_of_number
from pylops_dispatch.renaming import name_in


class UnknownStructureError(Exception):
    """A task has what cannot be told from others by its value."""


def structure_of(layer: Layer, places: Mapping[str, int]) -> Any:
    """Return what a layer is, but for names.

    Parameters
    ----------
    layer : Layer
        Layer.
    places : mapping
        Numbers that stand for the names of layers.

    Returns
    -------
    tuple
        Equal for layers whose tasks differ in names alone.

    Raises
    ------
    UnknownStructureError
        If tasks have functions or objects that may differ though they look alike.
    """
    names = _Names(places)  # and those that the tasks of the layer have among themselves
    if isinstance(layer, Blockwise):
        return _of_blocks(layer, names)
    names.update((name, len(names)) for name in map(name_in, layer) if name not in names)
    nodes = convert_legacy_graph(layer, _Keys(names)) if layer.has_legacy_tasks else layer
    return tuple((_key(key, names), _node(node, names)) for key, node in nodes.items())


class _Names(dict[str, int]):
    """Numbers that stand for names, and what is being looked at, which may hold itself."""

    def __init__(self, places: Mapping[str, int]) -> None:
        super().__init__(places)
        self._within: set[int] = set()

    @contextmanager
    def inside(self, value: Any) -> Iterator[None]:
        """Look at what a value holds."""
        if id(value) in self._within:
            raise UnknownStructureError
        self._within.add(id(value))
        yield
        self._within.remove(id(value))


class _Keys:
    """The keys of arrays, known by their names."""

    def __init__(self, names: Mapping[str, int]) -> None:
        self._names = names

    def __contains__(self, key: Any) -> bool:
        name = key[0] if isinstance(key, tuple) and key else key
        return isinstance(name, str) and name in self._names


def _of_blocks(layer: Blockwise, names: _Names) -> Any:
    if layer.io_deps or layer.output_blocks or layer.annotations:
        raise UnknownStructureError
    reads = tuple(
        (_value(name, names) if index is None else _key(name, names), index)
        for name, index in layer.indices
    )
    counts = tuple(sorted((_key(name, names), tuple(n)) for name, n in layer.numblocks.items()))
    axes = tuple(sorted(layer.new_axes.items()))
    task = layer.task
    return (
        Blockwise, layer.output_indices, reads, counts, layer.concatenate, axes,
        _function(task.func, names), tuple(_blockwise_argument(a, names) for a in task.args),
        _items(task.kwargs, names), task.data_producer,
    )  # fmt: skip


def _blockwise_argument(value: Any, names: _Names) -> Any:
    # what stands for an input is numbered by its place
    return value.key if isinstance(value, TaskRef) else _value(value, names)


def _key(key: Any, names: _Names) -> Any:
    number = names.get(name_in(key))
    if number is None:
        raise UnknownStructureError
    return (number, *key[1:]) if isinstance(key, tuple) else number


def _node(node: Any, names: _Names) -> Any:
    if not isinstance(node, GraphNode):
        raise UnknownStructureError
    if isinstance(node, DataNode):
        return DataNode, _value(node.value, names)
    if not isinstance(node, Task):
        return type(node), tuple(_key(key, names) for key in node.dependencies)
    return (
        type(node),
        _function(node.func, names),
        tuple(_value(value, names) for value in node.args),
        _items(node.kwargs, names),
        node.data_producer,
    )


def _items(given: Mapping[str, Any], names: _Names) -> Any:
    return tuple((key, _value(value, names)) for key, value in given.items())


def _value(value: Any, names: _Names) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return kind, repr(value) if kind in (float, complex) else value
    if isinstance(value, TaskRef):
        return TaskRef, _key(value.key, names)
    if isinstance(value, GraphNode):
        return _node(value, names)
    if kind is tuple:
        return kind, tuple(_value(v, names) for v in value)
    if kind is list:
        with names.inside(value):
            return kind, tuple(_value(v, names) for v in value)
    if kind is dict:
        with names.inside(value):
            return kind, tuple((_value(k, names), _value(v, names)) for k, v in value.items())
    if kind is slice:
        return kind, tuple(_value(v, names) for v in (value.start, value.stop, value.step))
    if isinstance(value, np.generic):
        return kind, name_of_number(value)
    if isinstance(value, (np.dtype, type)):
        return value
    return _function(value, names)


_PLAIN = frozenset((str, bytes, int, float, complex, bool, type(None)))


# of which there is one each
_FUNCTIONS = (
    types.BuiltinFunctionType, types.MethodDescriptorType, np.ufunc, type, type(np.sum),
)  # fmt: skip
_OWNERS = (types.ModuleType, types.NoneType, type, np.ufunc)


def _function(function: Any, names: _Names) -> Any:
    if isinstance(function, functools.partial):
        given = tuple(_value(v, names) for v in function.args)
        return (
            functools.partial,
            _function(function.func, names),
            given,
            _items(function.keywords, names),
        )
    if isinstance(function, methodcaller):
        return methodcaller, function.method
    if isinstance(function, types.FunctionType):
        # the same one each time; what it refers to is kept with it
        with names.inside(function):
            for value in _kept_with(function):
                _value(value, names)
        return function
    if type(function).__name__ == "Compose":  # of toolz, as dask has it in its reductions
        return "Compose", tuple(_function(f, names) for f in (function.first, *function.funcs))
    owner = getattr(function, "__self__", None)  # an array, say, of ``array.dot``
    if isinstance(function, _FUNCTIONS) and isinstance(owner, _OWNERS):
        return function
    raise UnknownStructureError


def _kept_with(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError as error:  # a variable that has not been assigned
            raise UnknownStructureError from error
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()
