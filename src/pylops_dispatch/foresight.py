"""What arrays will be made of, before anything runs: stand-ins, and graphs as they will run."""

from __future__ import annotations

import math
import threading
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import dask
import numpy as np
import scipy.sparse
from dask._task_spec import Alias, DataNode, TaskRef, convert_legacy_graph
from dask.array.core import Array as DaskArray
from dask.array.core import slices_from_chunks
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.order import order

from pylops_dispatch.array import found
from pylops_dispatch.blocks import samples_of_neighbours
from pylops_dispatch.homes import Given, are_even, home_of_task
from pylops_dispatch.operators import arrays_of, left_as_they_are
from pylops_dispatch.optimisation import tasks_on_cluster
from pylops_dispatch.pieces import Shape
from pylops_dispatch.placing import home_of_coefficient, nothing_sent
from pylops_dispatch.policy import set_policy
from pylops_dispatch.renaming import name_in
from pylops_dispatch.workers import client_in_use, number_of_workers, threads_by_worker

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


def stand_in(x: DaskArray, name: str | None = None, value: Any = 1) -> DaskArray:
    """Return an array with the chunks of `x`, of blocks that are `value` and take no memory."""
    name = name or f"planned-{tokenize(x.name)}"
    block = np.broadcast_to(np.asarray(value, x.dtype), x.shape)
    graph: Any = {
        (name, *index): DataNode((name, *index), block[where])
        for index, where in zip(np.ndindex(*x.numblocks), slices_from_chunks(x.chunks), strict=True)
    }
    return DaskArray(graph, name, x.chunks, dtype=x.dtype)


def foreseen(
    op: Any, held: DaskArray, adjoint: bool
) -> tuple[DaskArray, OptimisedGraph, list[warnings.WarningMessage]]:
    """Apply an operator to a stand-in.

    Parameters
    ----------
    op : pylops.LinearOperator
        Operator.
    held : dask.array.Array
        Of :func:`stand_in`.
    adjoint : bool
        Whether its adjoint is meant.

    Returns
    -------
    dask.array.Array
        What comes out.
    OptimisedGraph
        Its graph.
    list of warnings.WarningMessage
        Of operators that run in one task on the whole vector.
    """
    with created_arrays() as arrays, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with set_policy(whole_array="warn"), nothing_sent(), left_as_they_are([op]):
            y = (op.H if adjoint else op) @ held
    known = {array.name: array for array in arrays_of(op)}
    return y, OptimisedGraph([y], {**known, **arrays, held.name: held}, {held.name}), caught


_lock = threading.RLock()


@contextmanager
def created_arrays() -> Iterator[dict[str, DaskArray]]:
    """Note every dask array made in this block, by its name.

    A graph does not tell how large its blocks are; the arrays that it was built of do.
    """
    found: dict[str, DaskArray] = {}
    with _lock:
        original: Any = DaskArray.__new__

        def noting(cls: type, *args: Any, **kwargs: Any) -> Any:
            array = original(cls, *args, **kwargs)
            found[array.name] = array  # dask sets the chunks of partial sums afterwards
            return array

        DaskArray.__new__ = noting  # type: ignore[method-assign]
        try:
            yield found
        finally:
            DaskArray.__new__ = original  # type: ignore[method-assign]


def _executed(arrays: Sequence[DaskArray], data: Mapping[str, Any]) -> dict[Any, Any]:
    """Return the graph that ``persist`` hands to a scheduler; ``dask.optimize`` stops short.

    On a cluster the blocks of `data` are futures, which are no part of the graph.
    """
    nodes: dict[Any, Any] = {}
    blocks: dict[Any, Any] = {}
    if client_in_use() is not None:
        arrays = [_of_futures(array, data, blocks) for array in arrays]

    def note(graph: Any, keys: Any, **kwargs: Any) -> list[Any]:
        nodes.update(graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph)
        return [None] * len(keys)

    dask.persist(*arrays, scheduler=note)
    if not blocks:
        return nodes
    read = {key for node in convert_legacy_graph(nodes).values() for key in node.dependencies}
    return {**{key: blocks[key] for key in read & blocks.keys()}, **nodes}


def _of_futures(array: DaskArray, data: Mapping[str, Any], blocks: dict[Any, Any]) -> DaskArray:
    """Return an array with futures for blocks that are data, which are noted in `blocks`."""
    layers = dict(array.dask.layers)
    for name in layers.keys() & data.keys():
        blocks.update(data[name])
        layers[name] = MaterializedLayer({key: TaskRef(key) for key in layers[name]})
    graph = HighLevelGraph(layers, array.dask.dependencies)
    return DaskArray(graph, array.name, array.chunks, meta=array._meta)


def _futures(arrays: Sequence[DaskArray], known: Mapping[str, DaskArray]) -> dict[str, Any]:
    """Return stand-ins for blocks on a cluster, in the layers that they make up, by their names."""
    client = client_in_use()
    if client is None:
        return {}
    graphs = (array.dask.layers for array in arrays)
    layers = {name: layer for held in graphs for name, layer in held.items() if _is_there(layer)}
    if not layers:
        return {}
    sizes = client.nbytes(summary=False)
    return {
        name: stand_in(known[name], name).dask.layers[name]
        if name in known
        else {key: DataNode(key, _nothing(sizes.get(key, 0))) for key in layer}
        for name, layer in layers.items()
    }


def _is_there(layer: Mapping[Any, Any]) -> bool:
    return hasattr(next(iter(layer.values()), None), "add_done_callback")


def _nothing(nbytes: int) -> np.ndarray[Any, Any]:
    """Return an array that takes no memory, and is said to have so many bytes."""
    return np.broadcast_to(np.zeros((), "u1"), nbytes)


class _Block(NamedTuple):
    shape: Shape
    itemsize: int


class _Transfers(NamedTuple):
    """Where the tasks of a graph run, and what is sent for them."""

    places: dict[Any, set[Any]]  # by keys
    lying: dict[Any, frozenset[Any]]  # coefficients that are sent, by their keys
    moved: Counter[str]  # bytes by kind
    given: defaultdict[str, Given]  # blocks of arrays by worker; empty where these are not known


def _threads() -> dict[str, int]:
    client = client_in_use()
    return {} if client is None else threads_by_worker(client, math.inf)


class OptimisedGraph:
    """The graph of arrays as dask optimises it, and the bytes of what its tasks return."""

    def __init__(
        self,
        results: Sequence[DaskArray],
        arrays: Mapping[str, DaskArray],
        sources: Collection[str],
    ) -> None:
        self._arrays = arrays
        data = _futures(results, arrays)
        self._held = {*sources, *data}
        """Names of arrays whose blocks are there already."""
        data.update((name, arrays[name].dask.layers[name]) for name in sources if name in arrays)
        sources = self._held
        nodes = _executed(results, data)
        priority = order(nodes)
        names = {key: node.target for key, node in nodes.items() if isinstance(node, Alias)}

        self._aliases = names
        meant = self._meant
        # a task that was fused with others has a new name, and the old one is an alias
        self._known_as = {meant(alias): alias for alias in names}
        self._nodes = {
            key: nodes[key]
            for key in sorted(nodes, key=lambda k: priority.get(k, -1))
            if key not in names
        }
        self._inputs = {k: {meant(d) for d in n.dependencies} for k, n in self._nodes.items()}
        self._wanted = {(y.name, *index) for y in results for index in np.ndindex(*y.numblocks)}
        self._results = set(map(meant, self._wanted))
        self._needed = self._reached(self._results)  # schedulers leave out the others
        self.count = len(self.tasks)
        """How many tasks a scheduler will run."""
        if client_in_use() is not None:
            self.count = tasks_on_cluster(
                {k: n for k, n in nodes.items() if not _is_block_of(k, sources)}, self._wanted
            )
        self._sizes: dict[Any, int] = {}
        for key in self._nodes:
            self._sizes[key] = self._size(key)

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
    def read(self) -> set[str]:
        """Names of the arrays in memory that are read."""
        data = (key for key in self._needed if isinstance(self._nodes[key], DataNode))
        return {key[0] for key in data if isinstance(key, tuple)}

    @property
    def tasks(self) -> list[Any]:
        """Keys of what a scheduler will run, in dask's order."""
        return [
            key
            for key, node in self._nodes.items()
            if key in self._needed and not isinstance(node, DataNode)
        ]

    def _size(self, key: Any) -> int:
        node = self._nodes[key]
        if isinstance(node, DataNode):
            return _bytes_in_memory(node.value)
        block = self._block(key)
        if block is not None:
            return math.prod(block.shape) * block.itemsize
        blocks = [block for block in map(self._block, self._inputs[key]) if block is not None]
        index = next(self._indices(getattr(node, "args", ())), ()) if len(blocks) == 1 else ()
        if index:
            return math.prod(_taken(blocks[0].shape, index)) * blocks[0].itemsize
        return max((self._sizes.get(d, 0) for d in self._inputs[key]), default=0)

    def _block(self, key: Any) -> _Block | None:
        """Return what is known of a block, if it is one of an array that is known."""
        for known in (self._known_as.get(key, key), key):
            name, *index = known if isinstance(known, tuple) else (known,)
            array = self._arrays.get(name)
            if array is None:  # parts that it is added up of have its name and one more word
                array = self._arrays.get(str(name).rpartition("-")[0])
                index = index[: array.ndim] if array is not None else []
            if array is not None and array.ndim == len(index):
                shape = tuple(axis[i] for axis, i in zip(array.chunks, index, strict=True))
                return _Block(shape, array.dtype.itemsize)
        value: Any = getattr(self._nodes[key], "value", None)  # what blocks are taken from
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            return _Block(tuple(value.shape), value.dtype.itemsize)
        return None

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
        """Return the bytes that a task reads of blocks around its own; a cluster sends these."""
        found: dict[Any, int] = {}
        if client_in_use() is not None:
            return found
        for neighbour, samples in samples_of_neighbours(self._nodes[key]).items():
            if neighbour[0] in self._arrays:
                itemsize = self._arrays[neighbour[0]].dtype.itemsize
                found[self._meant(neighbour)] = samples * itemsize
        return found

    def moved(
        self,
        sources: Collection[str],
        lying: dict[Any, frozenset[Any]] | None = None,
        home: Callable[[Any], Sequence[Any]] | None = None,
    ) -> dict[str, int]:
        """Return the bytes that tasks take from elsewhere.

        Parameters
        ----------
        sources : collection of str
            Names of arrays whose blocks are there already.
        lying : dict, optional
            Where blocks are, by their keys; those of the results are added. A block of `sources`
            that is not among them has a place of its own.
        home : callable, optional
            Returns the places that may be asked to work out a block, by its key. A task runs
            there if it is but one, else where most of its inputs are.
        """
        lying = {} if lying is None else lying
        sources = {*sources, *self._held}
        found = self._transfers(sources, lying, home, evenly=False)
        if not are_even(found.given.values(), _threads()):
            other = self._transfers(sources, lying, home, evenly=True)
            found = other if are_even(other.given.values(), _threads()) else found
        lying.update(found.lying)
        lying.update((key, frozenset(found.places[self._meant(key)])) for key in self._wanted)
        return {kind: n for kind, n in found.moved.items() if n}

    def _transfers(
        self,
        sources: Collection[str],
        lying: Mapping[Any, frozenset[Any]],
        home: Callable[[Any], Sequence[Any]] | None,
        evenly: bool,
    ) -> _Transfers:
        """Return what tasks take from elsewhere, where each runs with most of what it reads."""
        threads = _threads()
        several = len(threads) > 1
        read = self._needed & {key for key in self._inputs if _is_block_of(key, sources)}
        known = several and bool(lying) and read <= lying.keys()
        found = _Transfers({}, {}, Counter(), defaultdict(Given))
        places, moved = found.places, found.moved
        sent: set[tuple[Any, Any]] = set()
        for key, inputs in self._inputs.items():
            own = key[1:] if isinstance(key, tuple) else ()
            if key in lying or _is_block_of(key, sources):
                places[key] = set(lying.get(key, {own}))
                continue
            if several and self._is_placed(key):
                # a copy is made on another worker, and the block is made of that
                moved["coefficients"] += 2 * self._sizes[key]
                worker = home_of_coefficient(self._arrays[key[0]], key)
                places[key] = set() if worker is None else {worker}
                found.lying[key] = frozenset(places[key])
                continue
            halo = self._halo(key)
            here: Counter[Any] = Counter()
            for dependency in inputs:
                for place in places.get(dependency, ()):
                    here[place] += halo.get(dependency, self._sizes[dependency])
            asked = () if home is None else set(home(self._known_as.get(key, key)))
            if not here:
                if not isinstance(self._nodes[key], DataNode) or key in self._results:
                    # a block of data that was fused with what reads it, or is to stay there
                    places[key] = set(asked) if len(asked) == 1 else {own}
                continue
            if len(asked) == 1:
                (chosen,) = asked
            elif known:
                given = found.given[name_in(key)]
                chosen = home_of_task(here, given, threads, evenly)
            else:
                chosen = max(here, key=lambda place: (here[place], place == own))
            if known:
                found.given[name_in(key)].give(chosen, self._sizes[key])
            for dependency in inputs:
                if dependency in halo:
                    if chosen not in places.get(dependency, ()):
                        moved["halo"] += halo[dependency]
                    continue
                own_data = isinstance(self._nodes[dependency], DataNode)
                if own_data and not isinstance(dependency, tuple):
                    continue  # what blocks are cut out of goes with the graph, or is in a file
                if (
                    chosen not in places.setdefault(dependency, set())
                    and (dependency, chosen) not in sent
                ):
                    sent.add((dependency, chosen))
                    if not known:  # where it is asked for beforehand, copies do not count
                        places[dependency].add(chosen)
                    held = own_data and dependency[0] not in sources
                    kind = "coefficients" if held else _kind(dependency, key)
                    moved[kind] += self._sizes[dependency]
            places[key] = {chosen}
        return found

    def _is_placed(self, key: Any) -> bool:
        return getattr(self._nodes[key], "on_cluster", False)

    def views(self, names: Collection[str]) -> set[str]:
        """Return the names of arrays that are others of these `names` in another shape."""
        found: dict[str, bool] = {}
        for key in self._needed:
            name = key[0] if isinstance(key, tuple) else key
            if name.startswith("reshape"):
                inputs = [d for d in self._inputs[key] if _is_block_of(d, names)]
                alone = len(inputs) == len(self._inputs[key]) == 1
                found[name] = found.get(name, True) and alone
        return {name for name, alone in found.items() if alone}

    def peak(
        self, threads: int, held: Mapping[str, int], views: Collection[str] = frozenset()
    ) -> int:
        """Return the bytes held at once when `threads` tasks run at a time, in dask's order.

        Parameters
        ----------
        threads : int
            Tasks at a time.
        held : mapping
            The bytes of arrays that somebody holds meanwhile, by their names: also of those that
            the graph does not read, or whose blocks were fused with what reads them.
        views : collection of str, optional
            Names of arrays that take no memory of their own.
        """
        kept = {key for key in self._needed if isinstance(self._nodes[key], DataNode)}
        data = [key for key in kept if not _is_block_of(key, held)]
        peak = now = sum(held.values()) + sum(self._sizes[key] for key in data)
        if client_in_use() is not None:
            # futures of what nobody else holds are let go as soon as the graph is sent
            kept.difference_update(key for key in data if not self._is_placed(key))
        if number_of_workers() > 1:  # what operators hold is there twice
            now += sum(self._sizes[key] for key in data if self._is_placed(key))
            peak = now
        kept |= self._results
        waiting = Counter(d for key in self._needed for d in self._inputs[key])
        for key, begins in self._events(threads):
            if isinstance(key, tuple) and key[0] in views:
                continue
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
        rank = {key: i for i, key in enumerate(self.tasks)}
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


def _bytes_in_memory(value: Any) -> int:
    """Return the size of data in a graph; arrays in files take no memory."""
    held = [value]
    if scipy.sparse.issparse(value):  # dask's sizeof does not know all kinds
        held = list(vars(value).values())
    return sum(int(a.nbytes) for a in found(held, lambda a: isinstance(a, np.ndarray)))


def _is_block_of(key: Any, names: Container[str]) -> bool:
    return isinstance(key, tuple) and key[0] in names


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
