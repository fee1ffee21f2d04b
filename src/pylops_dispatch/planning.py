"""What an operator will do to an array, told before anything runs."""

from __future__ import annotations

import html
import math
import threading
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dask
import numpy as np
from dask._task_spec import Alias, DataNode
from dask.array.core import Array as DaskArray
from dask.array.core import slices_from_chunks
from dask.base import tokenize
from dask.order import order
from dask.utils import format_bytes

from pylops_dispatch.array import check
from pylops_dispatch.operators import dims_of
from pylops_dispatch.pieces import Chunks, Shape
from pylops_dispatch.policy import PerformanceWarning, set_policy
from pylops_dispatch.suggesting import costs_of_axes

# what moves data, by how the names of dask's and our own tasks begin
_KINDS = {
    "halo": "halo",
    "gather": "gather",
    "fold": "gather",
    "rechunk": "rechunk",
    "reshape": "rechunk",
    "sum": "reduction",
    "norm": "reduction",
    "mean": "reduction",
}


@dataclass(frozen=True)
class Plan:
    """What an operator will do to an array whose blocks are in memory.

    Parameters
    ----------
    operator : str
        Class of the operator.
    adjoint : bool
        Which direction.
    input_chunks, output_chunks : tuple
        Chunks of the array, and of the result.
    input_bytes, output_bytes, largest_block : int
        All of the input, all of the output, and the largest block of either.
    tasks : int
        Tasks that a scheduler will run: those of the graph as dask optimises it, without the
        blocks that are data. Exact.
    threads : int
        That work at a time, for `peak_bytes`.
    peak_bytes : int
        Estimate of what is held at once: input, output, and what is in between. Temporaries
        inside a task are not known.
    moved : dict
        Estimate of the bytes that come from another block, by what moves them: ``"halo"``,
        ``"rechunk"``, ``"gather"``, ``"reduction"``, ``"blocks"``. It is what a cluster would
        send if each block of the input had a worker of its own.
    fallbacks : tuple of str
        Operators that run in one task on the whole vector, and why.
    advice : tuple of str
        What to do about it.
    """

    operator: str
    adjoint: bool
    input_chunks: Chunks
    output_chunks: Chunks
    input_bytes: int
    output_bytes: int
    largest_block: int
    tasks: int
    threads: int
    peak_bytes: int
    moved: dict[str, int]
    fallbacks: tuple[str, ...]
    advice: tuple[str, ...]
    result: DaskArray = field(repr=False, compare=False)

    @property
    def moved_bytes(self) -> int:
        """All bytes that come from another block."""
        return sum(self.moved.values())

    def rows(self) -> list[tuple[str, str]]:
        """Return the plan as names and values to be read."""
        kinds = ", ".join(f"{format_bytes(n)} {kind}" for kind, n in self.moved.items())
        return [
            ("operator", self.operator + (", adjoint" if self.adjoint else "")),
            ("input", _described(self.input_chunks, self.input_bytes)),
            ("output", _described(self.output_chunks, self.output_bytes)),
            ("largest block", format_bytes(self.largest_block)),
            ("tasks", str(self.tasks)),
            ("peak", f"{format_bytes(self.peak_bytes)} on {self.threads} threads"),
            ("moved", kinds or "nothing"),
            *(("whole vector", text) for text in self.fallbacks),
            *(("advice", text) for text in self.advice),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:<14}{value}" for name, value in self.rows())

    def _repr_html_(self) -> str:
        rows = (
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self.rows()
        )
        return f"<table>{''.join(rows)}</table>"

    def visualize(self, **kwargs: Any) -> Any:
        """Draw the graph: dask's own ``visualize``, which needs graphviz."""
        return self.result.visualize(**{"optimize_graph": True, **kwargs})


def _described(chunks: Chunks, n_bytes: int) -> str:
    shape = " x ".join(str(sum(axis)) for axis in chunks)
    return f"{shape}, {math.prod(len(axis) for axis in chunks)} chunks, {format_bytes(n_bytes)}"


def plan(Op: Any, x: DaskArray, adjoint: bool = False, threads: int | None = None) -> Plan:
    """Say what applying an operator to an array will do, without doing it.

    Parameters
    ----------
    Op : pylops.LinearOperator
        Operator.
    x : dask.array.Array
        What it is applied to. Its chunks count, not how it comes about: the plan is for
        blocks that are in memory.
    adjoint : bool, optional
        Whether ``Op.H @ x`` is meant.
    threads : int, optional
        That work at a time. Default one for each core.

    Returns
    -------
    Plan
        Prints as text, and shows as a table in a notebook.

    Examples
    --------
    >>> import dask.array as da, pylops, pylops_dispatch
    >>> D = pylops.FirstDerivative((100, 100), axis=0)
    >>> planned = pylops_dispatch.plan(D, da.zeros((100, 100), chunks=(100, 50)))
    >>> planned.tasks, planned.moved_bytes
    (2, 0)
    """
    check(x)
    held = _in_memory(x)
    with _created_arrays() as arrays, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with set_policy(whole_array="warn"):
            y = (Op.H if adjoint else Op) @ held
    fallbacks = tuple(
        str(w.message).partition(" Silence")[0]
        for w in caught
        if issubclass(w.category, PerformanceWarning)
    )
    with dask.config.set({"optimization.fuse.rename-keys": False}):
        graph = dict(dask.optimize(y)[0].__dask_graph__())
    sizes = _sizes(graph, {**arrays, held.name: (held.chunks, held.dtype.itemsize)})
    threads = threads or dask.system.CPU_COUNT
    moved = _moved(graph, sizes, held.name)
    return Plan(
        operator=type(Op).__name__,
        adjoint=adjoint,
        input_chunks=x.chunks,
        output_chunks=y.chunks,
        input_bytes=int(x.nbytes),
        output_bytes=int(y.nbytes),
        largest_block=max(_largest(x), _largest(y)),
        tasks=sum(not isinstance(node, (DataNode, Alias)) for node in graph.values()),
        threads=threads,
        peak_bytes=_peak(graph, sizes, threads, {(y.name, *i) for i in np.ndindex(*y.numblocks)}),
        moved=moved,
        fallbacks=fallbacks,
        advice=tuple(_advice(Op, x, adjoint, moved, fallbacks)),
        result=y,
    )


def _largest(x: DaskArray) -> int:
    return math.prod(max(axis, default=0) for axis in x.chunks) * x.dtype.itemsize


def _in_memory(x: DaskArray) -> DaskArray:
    """Return an array with the chunks of `x`, of blocks that are data."""
    name = f"planned-{tokenize(x.name)}"
    block = np.broadcast_to(np.zeros((), x.dtype), x.shape)  # takes no memory
    graph: Any = {
        (name, *index): DataNode((name, *index), block[where])
        for index, where in zip(np.ndindex(*x.numblocks), slices_from_chunks(x.chunks), strict=True)
    }
    return DaskArray(graph, name, x.chunks, dtype=x.dtype)


_lock = threading.RLock()


@contextmanager
def _created_arrays() -> Iterator[dict[str, tuple[Chunks, int]]]:
    """Note the chunks and the bytes of an element of every dask array made in this block.

    A graph does not tell how large its blocks are; the arrays that it was built of do.
    """
    found: dict[str, tuple[Chunks, int]] = {}
    original = DaskArray.__new__

    def noting(cls: type, *args: Any, **kwargs: Any) -> Any:
        array = original(cls, *args, **kwargs)
        found[array.name] = (array.chunks, array.dtype.itemsize)
        return array

    with _lock:
        DaskArray.__new__ = noting  # type: ignore[method-assign]
        try:
            yield found
        finally:
            DaskArray.__new__ = original  # type: ignore[method-assign]


def _sizes(graph: Mapping[Any, Any], arrays: Mapping[str, tuple[Chunks, int]]) -> dict[Any, int]:
    """Return the bytes of what each task returns."""
    priority = order(dict(graph))
    sizes: dict[Any, int] = {}
    for key in sorted(graph, key=lambda k: priority.get(k, -1)):
        sizes[key] = _size(key, graph[key], arrays, sizes)
    return sizes


def _size(
    key: Any, node: Any, arrays: Mapping[str, tuple[Chunks, int]], known: Mapping[Any, int]
) -> int:
    name, index = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
    if name in arrays and len(arrays[name][0]) == len(index):
        chunks, itemsize = arrays[name]
        return math.prod(c[i] for c, i in zip(chunks, index, strict=True)) * itemsize
    if isinstance(node, DataNode):
        return int(getattr(node.value, "nbytes", 0))
    shape = _sliced(getattr(node, "args", ()))
    source = [known.get(d, 0) for d in node.dependencies]
    if shape is not None and len(node.dependencies) == 1:
        (parent,) = node.dependencies
        if isinstance(parent, tuple) and parent[0] in arrays:
            return math.prod(shape) * arrays[parent[0]][1]
    return max(source, default=0)


def _sliced(args: Any) -> Shape | None:
    """Return the shape of what a task that takes slices returns."""
    for arg in args:
        value = getattr(arg, "value", arg)
        value = tuple(value) if isinstance(value, (list, tuple)) else ()
        if value and all(isinstance(s, slice) and s.stop is not None for s in value):
            return tuple(s.stop - (s.start or 0) for s in value)
    return None


def _moved(graph: Mapping[Any, Any], sizes: Mapping[Any, int], source: str) -> dict[str, int]:
    """Return the bytes that tasks take from elsewhere, if each block has a place of its own.

    A task runs where most of its inputs are, as it would on a cluster.
    """
    priority = order(dict(graph))
    places: dict[Any, set[Any]] = {}
    moved: Counter[str] = Counter()
    for key in sorted(graph, key=lambda k: priority.get(k, -1)):
        node = graph[key]
        if isinstance(key, tuple) and key[0] == source:
            places[key] = {key[1:]}
            continue
        here: Counter[Any] = Counter()
        inputs = [d for d in node.dependencies if places.get(d)]
        for dependency in inputs:
            for place in places[dependency]:
                here[place] += sizes[dependency]
        if not here:
            places[key] = set()
            continue
        place = max(here, key=lambda p: (here[p], p == key[1:]))
        for dependency in inputs:
            if place not in places[dependency]:
                places[dependency].add(place)
                moved[_kind(dependency, key)] += sizes[dependency]
        places[key] = {place}
    return {kind: n for kind, n in moved.items() if n}


def _kind(dependency: Any, key: Any) -> str:
    for name in (dependency, key):
        first = str(name[0] if isinstance(name, tuple) else name)
        for start, kind in _KINDS.items():
            if first.startswith(start):
                return kind
    return "blocks"


def _peak(
    graph: Mapping[Any, Any], sizes: Mapping[Any, int], threads: int, results: set[Any]
) -> int:
    """Return the bytes held at once when `threads` tasks run at a time, in dask's order."""
    priority = order(dict(graph))
    waiting: dict[Any, int] = defaultdict(int)
    for node in graph.values():
        for dependency in node.dependencies:
            waiting[dependency] += 1
    data = {key for key, node in graph.items() if isinstance(node, DataNode)}
    held = sum(sizes[key] for key in data)
    peak = held
    tasks = sorted((k for k in graph if k not in data), key=lambda k: priority.get(k, -1))
    for start in range(0, len(tasks), threads):
        running = tasks[start : start + threads]
        held += sum(sizes[key] for key in running)
        peak = max(peak, held)
        for key in running:
            for dependency in graph[key].dependencies:
                waiting[dependency] -= 1
                if not waiting[dependency] and dependency not in data | results:
                    held -= sizes[dependency]
    return peak


def _advice(
    op: Any, x: DaskArray, adjoint: bool, moved: Mapping[str, int], fallbacks: tuple[str, ...]
) -> Iterator[str]:
    if fallbacks:
        yield "an operator runs in one task: register a rule for it, or keep it small"
    dims = dims_of(op, adjoint)[0]
    costs = costs_of_axes(op, adjoint)
    free = [a for a, cost in enumerate(costs) if not cost and dims[a] > 1]
    cut = [a for a, n in enumerate(x.numblocks) if n > 1 and x.ndim == len(dims) and costs[a]]
    if x.ndim != len(dims):
        yield f"give it an array of shape {dims}: a flattened one has lost its chunks"
    elif moved and cut and free:
        axes = " or ".join(str(a) for a in free)
        yield f"chunk along axis {axes} instead of {', '.join(map(str, cut))}: no data moves"
    if _largest(x) > 256 << 20:
        yield "blocks are large: see pylops_dispatch.suggest_chunks"
    elif _largest(x) < 1 << 20 and math.prod(x.numblocks) > 64:
        yield "blocks are small, tasks cost more than the work: see pylops_dispatch.suggest_chunks"
