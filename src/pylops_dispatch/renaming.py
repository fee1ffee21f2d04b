"""Layers of graphs under other names."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from dask._task_spec import GraphNode, TaskRef
from dask.blockwise import Blockwise
from dask.highlevelgraph import Layer, MaterializedLayer


def name_in(key: Any) -> str:
    """Return the name of the array, or whatever it is, that a key belongs to."""
    return str(key[0] if isinstance(key, tuple) else key)


def with_names(layer: Layer, names: Mapping[str, str]) -> Layer:
    """Return a layer with its own name, and those of what it reads, replaced.

    Parameters
    ----------
    layer : Layer
        Of tasks that are :class:`dask._task_spec.GraphNode`.
    names : mapping
        New names by the old ones, that of the layer itself among them.
    """
    if isinstance(layer, Blockwise):
        new = copy.copy(layer)
        new.__dict__.pop("_cached_dict", None)
        new.output = names[layer.output]
        new.task = layer.task.substitute({}, key=new.output)
        new.indices = tuple((_read(of, names), indices) for of, indices in layer.indices)
        new.numblocks = {names.get(name, name): n for name, n in layer.numblocks.items()}
        return new

    def renamed(key: Any) -> Any:
        name = names.get(name_in(key))
        return key if name is None else (name, *key[1:]) if isinstance(key, tuple) else name

    nodes: dict[Any, GraphNode] = {}
    for key, node in layer.items():
        own = renamed(key)
        nodes[own] = node.substitute({k: renamed(k) for k in (key, *node.dependencies)}, key=own)
    return MaterializedLayer(nodes)


def _read(of: Any, names: Mapping[str, str]) -> Any:
    """Return what an argument of a layer is called now; numbers and the like stay."""
    if isinstance(of, TaskRef):
        return TaskRef(_read(of.key, names))
    return names.get(of, of) if isinstance(of, str) else of
