"""What an operator will do to an array, told before anything runs."""

from __future__ import annotations

import html
import math
import sys
import threading
import warnings
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dask
import numpy as np
from dask._task_spec import Alias, DataNode, TaskRef
from dask.array.core import Array as DaskArray
from dask.array.core import slices_from_chunks
from dask.base import tokenize
from dask.order import order
from dask.utils import format_bytes

from pylops_dispatch.array import check
from pylops_dispatch.blocks import samples_of_neighbours
from pylops_dispatch.operators import dims_of, parts
from pylops_dispatch.pieces import Chunks, Shape, largest_block
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
        Name of the operator, of a composition with those that it is made of.
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
        ``"rechunk"``, ``"gather"``, ``"reduction"``, ``"blocks"``, and of what the operator
        holds, ``"coefficients"``. It is what a cluster would send if each block of the input
        had a worker of its own.
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
        return [
            ("operator", self.operator + (", adjoint" if self.adjoint else "")),
            ("input", _described(self.input_chunks, self.input_bytes)),
            ("output", _described(self.output_chunks, self.output_bytes)),
            ("largest block", format_bytes(self.largest_block)),
            ("tasks", str(self.tasks)),
            ("peak", f"{format_bytes(self.peak_bytes)} on {self.threads} threads"),
            ("moved", moved_text(self.moved)),
            *(("whole vector", text) for text in self.fallbacks),
            *(("advice", text) for text in self.advice),
        ]

    def __str__(self) -> str:
        return text_of(self.rows())

    def _repr_html_(self) -> str:
        return html_of(self.rows())

    def visualize(self, **kwargs: Any) -> Any:
        """Draw the graph: dask's own ``visualize``, which needs graphviz."""
        return self.result.visualize(**{"optimize_graph": True, **kwargs})


def text_of(rows: list[tuple[str, str]]) -> str:
    """Return the rows of a plan as lines."""
    width = max(14, *(len(name) + 2 for name, _ in rows))
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows)


def html_of(rows: list[tuple[str, str]]) -> str:
    """Return the rows of a plan as a table for a notebook."""
    found = (
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    return f"<table>{''.join(found)}</table>"


def moved_text(moved: Mapping[str, int]) -> str:
    """Return the bytes that move, by what moves them, to be read."""
    return ", ".join(f"{format_bytes(n)} {kind}" for kind, n in moved.items()) or "nothing"


def fallbacks_of(caught: Iterable[warnings.WarningMessage]) -> tuple[str, ...]:
    """Return what warnings say of operators that run in one task on the whole vector."""
    found = (str(w.message) for w in caught if issubclass(w.category, PerformanceWarning))
    return tuple(dict.fromkeys(text.partition(" Silence")[0] for text in found))


def _described(chunks: Chunks, n_bytes: int) -> str:
    shape = " x ".join(str(sum(axis)) for axis in chunks)
    return f"{shape}, {math.prod(len(axis) for axis in chunks)} chunks, {format_bytes(n_bytes)}"


def plan_operator(Op: Any, x: DaskArray, adjoint: bool = False, threads: int | None = None) -> Plan:
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
    """
    check(x)
    held = stand_in(x)
    with created_arrays() as arrays, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with set_policy(whole_array="warn"):
            y = (Op.H if adjoint else Op) @ held
    fallbacks = fallbacks_of(caught)
    graph = OptimisedGraph([y], {**arrays, held.name: held})
    threads = threads or dask.system.CPU_COUNT
    moved = graph.moved({held.name})
    peak = graph.peak(threads, {held.name: int(held.nbytes)})
    return Plan(
        operator=public_name(Op),
        adjoint=adjoint,
        input_chunks=x.chunks,
        output_chunks=y.chunks,
        input_bytes=int(x.nbytes),
        output_bytes=int(y.nbytes),
        largest_block=max(largest_block(x), largest_block(y)),
        tasks=len(graph.tasks),
        threads=threads,
        peak_bytes=max(peak, int(x.nbytes + y.nbytes)),  # blocks of zeros may be one and the same
        moved=moved,
        fallbacks=fallbacks,
        advice=tuple(_advice(Op, x, adjoint, moved, fallbacks)),
        result=y,
    )


def public_name(op: Any) -> str:
    """Return the name under which PyLops has an operator, whichever class implements it."""
    bare = _bare_name(op)
    private = type(op).__name__.startswith("_") and bare not in _exported(op)
    held = ", ".join(map(_bare_name, parts(op)))
    return f"{bare}({held})" if private and held else bare


def _bare_name(op: Any) -> str:
    name = type(op).__name__
    if not name.startswith("_"):
        return name
    public = [each for each in _exported(op) if name.startswith(f"_{each}")]
    return max(public, key=len, default=name.strip("_").removesuffix("LinearOperator") or name)


def _exported(op: Any) -> Sequence[str]:
    return getattr(sys.modules.get(type(op).__module__), "__all__", ())


def stand_in(x: DaskArray, name: str | None = None, value: Any = 1) -> DaskArray:
    """Return an array with the chunks of `x`, of blocks that are `value` and take no memory."""
    name = name or f"planned-{tokenize(x.name)}"
    block = np.broadcast_to(np.asarray(value, x.dtype), x.shape)
    graph: Any = {
        (name, *index): DataNode((name, *index), block[where])
        for index, where in zip(np.ndindex(*x.numblocks), slices_from_chunks(x.chunks), strict=True)
    }
    return DaskArray(graph, name, x.chunks, dtype=x.dtype)


_lock = threading.RLock()


@contextmanager
def created_arrays() -> Iterator[dict[str, DaskArray]]:
    """Note every dask array made in this block, by its name.

    A graph does not tell how large its blocks are; the arrays that it was built of do.
    """
    found: dict[str, DaskArray] = {}
    original = DaskArray.__new__

    def noting(cls: type, *args: Any, **kwargs: Any) -> Any:
        array = original(cls, *args, **kwargs)
        found[array.name] = array  # dask sets the chunks of partial sums afterwards
        return array

    with _lock:
        DaskArray.__new__ = noting  # type: ignore[method-assign]
        try:
            yield found
        finally:
            DaskArray.__new__ = original  # type: ignore[method-assign]


def _executed(arrays: Sequence[DaskArray]) -> dict[Any, Any]:
    """Return the graph that ``persist`` hands to a scheduler; ``dask.optimize`` stops short."""
    nodes: dict[Any, Any] = {}

    def note(graph: Any, keys: Any, **kwargs: Any) -> list[Any]:
        nodes.update(graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph)
        return [None] * len(keys)

    dask.persist(*arrays, scheduler=note)
    return nodes


class OptimisedGraph:
    """The graph of arrays as dask optimises it, and the bytes of what its tasks return."""

    def __init__(self, results: Sequence[DaskArray], arrays: Mapping[str, DaskArray]) -> None:
        self._arrays = arrays
        nodes = _executed(results)
        priority = order(nodes)
        names = {key: node.target for key, node in nodes.items() if isinstance(node, Alias)}

        self._aliases = names
        meant = self._meant
        # a task that was fused with others has a new name, and the old one is an alias
        known_as = {meant(alias): alias for alias in names}
        self._nodes = {
            key: nodes[key]
            for key in sorted(nodes, key=lambda k: priority.get(k, -1))
            if key not in names
        }
        self._inputs = {k: {meant(d) for d in n.dependencies} for k, n in self._nodes.items()}
        self._results = {
            meant((y.name, *index)) for y in results for index in np.ndindex(*y.numblocks)
        }
        self._needed = self._reached(self._results)  # schedulers leave out the others
        self._sizes: dict[Any, int] = {}
        for key in self._nodes:
            self._sizes[key] = self._size(key, known_as.get(key, key))

    def _meant(self, key: Any) -> Any:
        while key in self._aliases:
            key = self._aliases[key]
        return key

    def _reached(self, keys: Iterable[Any]) -> set[Any]:
        found: set[Any] = set()
        left = list(keys)
        while left:
            key = left.pop()
            if key not in found:
                found.add(key)
                left.extend(self._inputs[key])
        return found

    @property
    def tasks(self) -> list[Any]:
        """Keys of what a scheduler will run, in dask's order."""
        return [key for key, node in self._nodes.items() if not isinstance(node, DataNode)]

    def _size(self, key: Any, name: Any) -> int:
        node = self._nodes[key]
        for known in (name, key):
            shape = self._shape(known)
            if shape is not None:
                return math.prod(shape) * self._arrays[known[0]].dtype.itemsize
        if isinstance(node, DataNode):
            return int(getattr(node.value, "nbytes", 0))
        blocks = [d for d in self._inputs[key] if self._shape(d) is not None]
        if len(blocks) == 1:
            index = next(self._indices(getattr(node, "args", ())), ())
            samples = math.prod(_taken(self._shape(blocks[0]) or (), index))
            if index:
                return samples * self._arrays[blocks[0][0]].dtype.itemsize
        return max((self._sizes.get(d, 0) for d in self._inputs[key]), default=0)

    def _shape(self, key: Any) -> Shape | None:
        """Return the shape of a block, if it is one of an array that is known."""
        name, *index = key if isinstance(key, tuple) else (key,)
        array = self._arrays.get(name)
        if array is None or array.ndim != len(index):
            return None
        return tuple(axis[i] for axis, i in zip(array.chunks, index, strict=True))

    def _indices(self, value: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the indices among the arguments of a task: tuples of slices and positions."""
        if isinstance(value, TaskRef):
            value = self._nodes.get(self._meant(value.key))
        value = getattr(value, "value", value)
        items = tuple(value) if isinstance(value, (list, tuple)) else ()
        if items and all(isinstance(item, (slice, np.ndarray)) for item in items):
            yield items
        else:
            for item in items:
                yield from self._indices(item)

    def _halo(self, key: Any) -> dict[Any, int]:
        """Return the bytes that a task reads of blocks around its own."""
        found = {}
        for neighbour, samples in samples_of_neighbours(self._nodes[key]).items():
            if neighbour[0] in self._arrays:
                itemsize = self._arrays[neighbour[0]].dtype.itemsize
                found[self._meant(neighbour)] = samples * itemsize
        return found

    def moved(self, sources: Collection[str]) -> dict[str, int]:
        """Return the bytes that tasks take from elsewhere, if each block has its own place.

        A task runs where most of its inputs are, as it would on a cluster.
        """
        places: dict[Any, set[Any]] = {}
        moved: Counter[str] = Counter()
        for key, inputs in self._inputs.items():
            if isinstance(key, tuple) and key[0] in sources:
                places[key] = {key[1:]}
                continue
            halo = self._halo(key)
            here: Counter[Any] = Counter()
            for dependency in inputs:
                for place in places.get(dependency, ()):
                    here[place] += halo.get(dependency, self._sizes[dependency])
            own = key[1:] if isinstance(key, tuple) else ()
            if not here:
                if not isinstance(self._nodes[key], DataNode):
                    places[key] = {own}  # a block of data that was fused with what reads it
                continue
            chosen = max(here, key=lambda place: (here[place], place == own))
            for dependency in inputs:
                if dependency in halo:
                    if chosen not in places.get(dependency, ()):
                        moved["halo"] += halo[dependency]
                    continue
                known = dependency in places
                if chosen not in places.setdefault(dependency, set()):
                    places[dependency].add(chosen)
                    kind = _kind(dependency, key) if known else "coefficients"
                    moved[kind] += self._sizes[dependency]
            places[key] = {chosen}
        return {kind: n for kind, n in moved.items() if n}

    def peak(self, threads: int, held: Mapping[str, int]) -> int:
        """Return the bytes held at once when `threads` tasks run at a time, in dask's order.

        Parameters
        ----------
        threads : int
            Tasks at a time.
        held : mapping
            The bytes of arrays that somebody holds meanwhile, by their names: also of those that
            the graph does not read, or whose blocks were fused with what reads them.
        """
        kept = {key for key in self._needed if isinstance(self._nodes[key], DataNode)}
        data = (key for key in kept if not (isinstance(key, tuple) and key[0] in held))
        peak = now = sum(held.values()) + sum(self._sizes[key] for key in data)
        kept |= self._results
        waiting = Counter(d for key in self._needed for d in self._inputs[key])
        for key, begins in self._events(threads):
            if begins:
                now += self._sizes[key]
                peak = max(peak, now)
                continue
            for dependency in self._inputs[key]:
                waiting[dependency] -= 1
                if not waiting[dependency] and dependency not in kept:
                    now -= self._sizes[dependency]
        return peak

    def _events(self, threads: int) -> Iterator[tuple[Any, bool]]:
        """Yield each task as it begins, and as it ends, as dask's local schedulers take them."""
        rank = {key: i for i, key in enumerate(self.tasks) if key in self._needed}
        missing = {key: self._inputs[key] & rank.keys() for key in rank}
        readers: dict[Any, list[Any]] = {}
        for key in rank:
            for dependency in missing[key]:
                readers.setdefault(dependency, []).append(key)
        ready = sorted(
            (key for key in rank if not missing[key]), key=rank.__getitem__, reverse=True
        )
        running: deque[Any] = deque()
        while ready or running:
            while ready and len(running) < threads:
                running.append(ready.pop())  # the one that became ready last
                yield running[-1], True
            done = running.popleft()
            yield done, False
            for key in sorted(readers.get(done, ()), key=rank.__getitem__, reverse=True):
                missing[key].discard(done)
                if not missing[key]:
                    ready.append(key)


def _taken(shape: Shape, index: tuple[Any, ...]) -> Shape:
    """Return the shape of what is taken of a block."""
    taken = (
        len(range(n)[each]) if isinstance(each, slice) else len(each)
        for n, each in zip(shape, index, strict=False)
    )
    return (*taken, *shape[len(index) :])


def _kind(dependency: Any, key: Any) -> str:
    for name in (dependency, key):
        first = str(name[0] if isinstance(name, tuple) else name)
        for start, kind in _KINDS.items():
            if first.startswith(start):
                return kind
    return "blocks"


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
    if largest_block(x) > 256 << 20:
        yield "blocks are large: see pylops_dispatch.suggest_chunks"
    elif largest_block(x) < 1 << 20 and math.prod(x.numblocks) > 64:
        yield "blocks are small, tasks cost more than the work: see pylops_dispatch.suggest_chunks"
