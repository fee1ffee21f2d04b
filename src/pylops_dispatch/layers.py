"""Layers that each step of a solve has again: their tasks are made when they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from dask.array.core import Array as DaskArray
from dask.highlevelgraph import HighLevelGraph, Layer

from pylops_dispatch.pieces import array_of


class Form(NamedTuple):
    """What the tasks of a layer are, but for names and numbers."""

    kind: Hashable
    reads: tuple[str, ...]  # names of the arrays that are read, each in its place
    numbers: tuple[Any, ...] = ()  # that the tasks are given


class RepeatedLayer(Layer):
    """A layer of a form that each step of a solve has again.

    Parameters
    ----------
    form : Form
        Layers of equal forms have the same tasks, but for names and numbers.
    make : callable
        Makes the layer, of its numbers or of references to them.
    """

    # those of the layer itself are made with it; ``Layer`` asks dask's configuration each time
    annotations = None
    collection_annotations = None

    def __init__(self, form: Form, make: Callable[[Sequence[Any]], Layer]) -> None:
        self.form = form
        self._make = make
        self._layer: Layer | None = None

    @property
    def layer(self) -> Layer:
        """The layer with its tasks."""
        if self._layer is None:
            self._layer = self._make(self.form.numbers)
        return self._layer

    def given(self, references: Sequence[Any]) -> Layer:
        """Return the layer with references in place of its numbers."""
        return self._make(references) if self.form.numbers else self.layer

    def is_materialized(self) -> bool:
        """Whether its tasks have been made."""
        return self._layer is not None and self._layer.is_materialized()

    def get_output_keys(self) -> AbstractSet[Any]:
        """Return the keys of its blocks."""
        return self.layer.get_output_keys()

    def __getitem__(self, key: Any) -> Any:
        return self.layer[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.layer)

    def __len__(self) -> int:
        return len(self.layer)

    def __reduce__(self) -> Any:
        return _itself, (self.layer,)


def _itself(layer: Layer) -> Layer:
    return layer


def graph_on(name: str, layer: Layer, arrays: Sequence[DaskArray]) -> HighLevelGraph:
    """Return what ``HighLevelGraph.from_collections`` does of arrays, without checks."""
    layers: dict[str, Layer] = {}
    dependencies: dict[str, set[str]] = {}
    for array in arrays:
        layers.update(array.dask.layers)
        dependencies.update(array.dask.dependencies)
    layers[name] = layer
    dependencies[name] = {array.name for array in arrays}
    return HighLevelGraph(layers, dependencies)


def in_full(graph: HighLevelGraph) -> HighLevelGraph:
    """Return a graph with all its layers made: dask looks into them to fuse their tasks."""
    if not any(isinstance(layer, RepeatedLayer) for layer in graph.layers.values()):
        return graph
    layers = {
        name: layer.layer if isinstance(layer, RepeatedLayer) else layer
        for name, layer in graph.layers.items()
    }
    return HighLevelGraph(layers, graph.dependencies)


def array_in_full(array: DaskArray) -> DaskArray:
    """Return an array whose graph has all its layers made."""
    graph = in_full(array.dask)
    return array if graph is array.dask else array_of(graph, array.name, array.chunks, array._meta)
