"""Coefficients on a cluster: an operator's NumPy arrays are sent once, not in every graph.

Where dask's scheduler is a ``distributed.Client``, the blocks of a large NumPy coefficient, and
operators that hold large arrays, are scattered to the workers when they are first applied,
twice where there are two workers. Graphs still hold the blocks, for any other scheduler; a graph
that goes to that cluster goes without them, since its scheduler has data by the same keys. All
is released when the array that it came from has gone, and the lazy results that read it, or the
client. What was lost with a worker is sent anew with the next application.

Smaller arrays travel with each graph; of an operator that holds many of these, so that graphs
would be large all the same, all but the smallest are sent too, at once.

What code of an operator gives without holding it is known by what it holds (:func:`applied`).

The arrays are not looked at again as a whole: some samples spread over an array tell whether
it was changed in place, and it is then sent anew.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import re
import sys
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
from dask._task_spec import Alias, DataNode, GraphNode
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from dask.blockwise import Blockwise
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.sizeof import sizeof
from pylops import LinearOperator
from pylops.linearoperator import _AdjointLinearOperator, _TransposedLinearOperator

from pylops_dispatch import pieces as pc
from pylops_dispatch.alignment import aligned
from pylops_dispatch.array import session, wrapping
from pylops_dispatch.copying import arrays_within
from pylops_dispatch.halos import HALO
from pylops_dispatch.homes import BARRIER
from pylops_dispatch.ledger import unrecorded
from pylops_dispatch.lineage import cut, futures_of, has_place_for_copies, is_safe, is_whole
from pylops_dispatch.operators import all_parts, arrays_of, numpy_arrays_of
from pylops_dispatch.remembering import checksum, remembered
from pylops_dispatch.workers import beside_other_tasks, client_in_use, in_task, threads_by_worker

logger = logging.getLogger(__name__)

_LARGE = 1 << 16  # bytes
_SMALL = 1 << 10  # bytes of an array that is one of many
_MANY = 1 << 19  # bytes of arrays that would travel with each graph
_TURNED = (_AdjointLinearOperator, _TransposedLinearOperator)


@sizeof.register(LinearOperator)
def _bytes_of_operator(op: Any) -> int:
    """Return the bytes of an operator, which dask takes for those of an empty object.

    Schedulers then send it about as if it were nothing, and workers hold it as if it were.
    """
    arrays = arrays_within(op)
    return sys.getsizeof(op) + sum(array.nbytes for array in arrays)


class Placed(DataNode):
    """Data in a graph that is pickled as a future where the cluster has them already.

    The graph keeps them there: it may be computed after the operator has gone.
    """

    __slots__ = ("futures", "there")
    on_cluster = True

    def __init__(self, key: Any, value: Any, futures: Mapping[Any, Any], there: Any):
        super().__init__(key, value)
        self.futures = futures  # of all blocks of an array, such as they lie there at present
        self.there = there  # the key by which this one does

    @property
    def block_fusion(self) -> bool:
        """A task that was fused with its data would have neither its key nor the data."""
        return True

    def __reduce__(self) -> Any:
        future = self.futures.get(self.there)
        if future is None or future.client is not _sender() or future.status != "finished":
            return DataNode, (self.key, self.value)
        return future.__reduce__() if self.there == self.key else (Alias, (self.key, self.there))

    def substitute(  # type: ignore[override]
        self, subs: dict[Any, Any], key: Any = None
    ) -> GraphNode:
        """Return what reads the data, where a task of another name is to hold them.

        ``dask.delayed`` gives all tasks of an array new names so, and keeps the data under this
        one (``ProhibitReuse.__dask_graph__``): no scheduler sees a future within a task.
        """
        if key is None and self.key in subs:
            return Alias(self.key)
        return super().substitute(subs, key)


def _sender() -> Any:
    """Return the client that sends the graph being pickled; None where it is pickled to be kept."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        # Client._graph_to_futures pickles what is computed, also for compute(scheduler=client)
        if frame.f_globals.get("__name__") == "distributed.client":
            client = frame.f_locals.get("self")
            if hasattr(client, "scheduler_info"):
                return client
        frame = frame.f_back
    return None


@dataclass
class _Cluster:
    """What lies on one cluster."""

    arrays: dict[str, DaskArray] = field(default_factory=dict)
    futures: dict[str, dict[Any, Any]] = field(default_factory=dict)
    told: bool = False  # whether its scheduler knows where tasks should run


_placed: weakref.WeakKeyDictionary[Any, _Cluster] = weakref.WeakKeyDictionary()
_generations = itertools.count(1)


def where_blocks_lie(arrays: Mapping[str, DaskArray]) -> dict[Any, frozenset[str]]:
    """Return the workers that have blocks in the memory of a cluster.

    Parameters
    ----------
    arrays : mapping
        Arrays by the names that plans have for them.

    Returns
    -------
    dict
        Addresses by the keys that plans have for the blocks; also for what operators hold there.
    """
    client = client_in_use()
    if client is None:
        return {}
    known = _placed.get(client, _Cluster())
    named = {(name, f.key[1:]): f for name, a in arrays.items() for f in futures_of(a)}
    for name, there in known.arrays.items():
        named.update(((name, f.key[1:]), f) for f in futures_of(there))
    who_has = client.who_has(list(named.values())) if named else {}
    return {
        (name, *index): frozenset(who_has.get(future.key) or ())
        for (name, index), future in named.items()
    }


# arrays of an operator that are to be sent at once, by name, and what releases each
_together: ContextVar[dict[str, tuple[DaskArray, Any]] | None] = ContextVar(
    "together", default=None
)
# bytes from which on an array is sent: less where an operator holds many small ones
_least: ContextVar[int] = ContextVar("least", default=_LARGE)


def is_large(nbytes: int) -> bool:
    """Whether arrays of this size are sent apart; smaller ones travel with the graph."""
    return nbytes > _least.get()


def something_waits() -> bool:
    """Whether arrays are about to be sent, so that what is made now is made again."""
    return bool(_together.get())


class _Held(NamedTuple):
    """What an operator holds, by what is large alone."""

    small: int  # bytes
    large: int  # arrays


_held: dict[str, _Held] = {}  # by operators


def _held_by(op: Any) -> _Held:
    known = _held.get(pc.identity(op))
    if known is None:
        arrays: list[Any] = [*numpy_arrays_of(all_parts(op)), *arrays_of(op)]
        sizes = {id(array): array.nbytes for array in arrays}
        small = [size for size in sizes.values() if size <= _LARGE]
        known = _Held(sum(small), len(sizes) - len(small))
        pc.keep_for(op, _held, known)
    return known


def coefficient(
    array: np.ndarray[Any, Any], chunks: Any, held: np.ndarray[Any, Any] | None = None
) -> DaskArray:
    """Wrap a NumPy coefficient of an operator: on a cluster, as blocks that lie there already.

    Parameters
    ----------
    array : numpy.ndarray
        Coefficient.
    chunks : tuple
        Of the result.
    held : numpy.ndarray, optional
        What the operator holds, where `array` is but a view of that, which will not last.

    Returns
    -------
    dask.array.Array
        Of blocks that are views of `array`.
    """
    if not is_large(array.nbytes):
        return pc.wrap_numpy(array, chunks)
    held = array if held is None else held
    start = array.__array_interface__["data"][0] - held.__array_interface__["data"][0]
    named = (pc.identity(held), start, array.shape, pc.samples(array))
    return on_cluster(pc.wrap_numpy(array, chunks, named), held)


@dataclass
class _Read:
    """The arrays that an operator's own code gave, and in which application it did last."""

    applications: int = 0
    last: dict[str, int] = field(default_factory=dict)


_read: dict[str, _Read] = {}  # by operators
_KEPT = 8  # applications that an array is kept for since it was last read


@contextmanager
def applied(op: Any) -> Iterator[Mapping[str, Any]]:
    """Let a cluster keep the NumPy arrays that code of an operator gives, until the operator goes.

    These may be made anew in each application (``self.t**2 * x``), and be found in no attribute
    (``lambda x: weights * x``): they are known by what they hold. What is not read again for some
    applications is released.

    Yields
    ------
    mapping
        What was sent at the end of the context, after the graph had been made with the arrays
        themselves in it: it is to be made again.
    """
    client = client_in_use()
    if client is None:
        yield {}
        return
    _tell_scheduler(client)
    while isinstance(op, _TURNED):  # op.H is made anew each time
        op = op.A
    known = _read.get(pc.identity(op))
    if known is not None:
        known.applications += 1
        for name in [n for n, at in known.last.items() if known.applications - at > _KEPT]:
            del known.last[name]
            for cluster in list(_placed.values()):
                _release(cluster, name)
    # what the client starts meanwhile keeps the context, and must not keep the operator
    token = wrapping.set(functools.partial(_kept_for, weakref.ref(op)))
    waiting: dict[str, tuple[DaskArray, Any]] = {}
    held = _held_by(op)
    many = held.small > _MANY  # too much for each graph
    own = _together.get() is None and (many or held.large > 1)
    outer = (_together.set(waiting), _least.set(_SMALL if many else _LARGE)) if own else None
    try:
        yield waiting
    finally:
        wrapping.reset(token)
        if outer is not None:
            _together.reset(outer[0])
            _least.reset(outer[1])
    _send_together(waiting)


def _send_together(waiting: Mapping[str, tuple[DaskArray, Any]]) -> None:
    client = client_in_use()
    if not waiting or client is None:
        return
    known = _placed.setdefault(client, _Cluster())
    with unrecorded():
        sent = _sent(client, [array for array, _ in waiting.values()])
    for (name, (_, owner)), there in zip(waiting.items(), sent, strict=True):
        _put(known, name, there)
        weakref.finalize(owner, _release, known, name)


def _kept_for(reference: Any, array: np.ndarray[Any, Any], chunks: Any) -> DaskArray:
    op = reference()
    if op is None or not is_large(array.nbytes):
        return pc.wrap_numpy(array, chunks)
    held = remembered(array, "contents", checksum(array), lambda: pc.contents(array))
    lazy = pc.wrap_numpy(array, chunks, (pc.identity(op), array.shape, held))
    known = _read.get(pc.identity(op))
    if known is None:
        known = _Read()
        pc.keep_for(op, _read, known)
    known.last[lazy.name] = known.applications
    return on_cluster(lazy, op)


_planning: ContextVar[bool] = ContextVar("planning", default=False)


@contextmanager
def nothing_sent() -> Iterator[None]:
    """Make graphs as if arrays of operators were on the cluster, without sending any."""
    token = _planning.set(True)
    try:
        yield
    finally:
        _planning.reset(token)


def on_cluster(array: DaskArray, owner: Any) -> DaskArray:
    """Place an array of blocks in this process on the cluster that dask runs on, if it does.

    Parameters
    ----------
    array : dask.array.Array
        Whose graph is its blocks.
    owner : numpy.ndarray or object
        What releases them when it goes.

    Returns
    -------
    dask.array.Array
        `array` itself where dask runs in this process alone.
    """
    nodes = dict(array.dask)
    client = client_in_use()
    there = array if _planning.get() and client is not None else placed(array, owner)
    if there is None:
        return array
    futures = _placed.get(client, _Cluster()).futures.get(array.name, {})
    name = there.name
    if in_task() and session.get() is None:
        # a lazy result comes to another client with its data, which share no name with these
        name = f"{name}-of-a-task"
    graph: dict[Any, Any] = {}
    for key, node in nodes.items():
        own = (name, *key[1:])
        graph[own] = Placed(own, node.value, futures, (there.name, *key[1:]))
    return DaskArray(graph, name, array.chunks, meta=array._meta)


def is_to_be_sent(array: DaskArray) -> bool:
    """Whether the blocks of an array are in this process, large, and dask runs on a cluster.

    They would travel with each graph that is made of the array.
    """
    return array.nbytes > _LARGE and travels(array)


def travels(array: DaskArray) -> bool:
    """Whether the blocks of an array are in this process, and dask runs on a cluster."""
    if client_in_use() is None or not pc.in_memory(array):
        return False
    nodes = dict(array.dask).values()
    return all(isinstance(node, np.ndarray) or type(node) is DataNode for node in nodes)


def sent_once(array: DaskArray) -> DaskArray:
    """Return a dask array of an operator with its blocks on the cluster, if they are here.

    Parameters
    ----------
    array : dask.array.Array
        Such as ``da.from_array`` makes of a NumPy array. When it goes, its blocks there do.

    Returns
    -------
    dask.array.Array
        `array` itself where that is lazy, or small, or dask runs in this process alone.
    """
    if not is_to_be_sent(array):
        return array
    nodes: dict[Any, Any] = dict(array.dask)
    values = {key[1:]: getattr(node, "value", node) for key, node in nodes.items()}
    # two arrays of other numbers may have been given the same name
    own = pc.identity(array)
    name = _names.get(own)
    if name is None:
        name = f"{array.name}-{tokenize([pc.samples(value) for value in values.values()])}"
        pc.keep_for(array, _names, name)
    nodes = {(name, *index): DataNode((name, *index), v) for index, v in values.items()}
    return on_cluster(DaskArray(nodes, name, array.chunks, meta=array._meta), array)


_names: dict[Any, str] = {}  # of arrays on a cluster, by the arrays that they stand for


def operator_on_cluster(name: str, op: Any, owner: Any) -> Delayed:
    """Return an operator as an argument of tasks, with a key of its own, likewise."""
    key = (name, 0)
    held = DaskArray({key: DataNode(key, op)}, name, ((1,),), dtype=object)
    lazy = on_cluster(held, owner)
    if lazy is held:
        return Delayed(name, HighLevelGraph.from_collections(name, {name: DataNode(name, op)}))
    return Delayed((lazy.name, 0), lazy.dask, layer=lazy.name)


def placed(array: DaskArray, owner: Any) -> DaskArray | None:
    """Send blocks to the cluster that dask runs on, unless they lie there.

    Parameters
    ----------
    array : dask.array.Array
        Whose graph is its blocks. What has its name was sent before.
    owner : numpy.ndarray or object
        What releases them when it goes.

    Returns
    -------
    dask.array.Array or None
        Of futures; None where dask runs in this process alone, or what is to be sent waits.
    """
    client = client_in_use()
    if client is None:
        return None
    known = _placed.setdefault(client, _Cluster())
    there = known.arrays.get(array.name)
    solve = session.get()
    workers = frozenset(threads_by_worker(client, _MOMENT if solve is None else math.inf))
    if there is not None and is_safe(there, workers):
        return there
    together = _together.get()
    if there is None and together is not None:
        together[array.name] = array, owner
        return None
    with unrecorded():
        new = None if there is None or not is_whole(there) else _copied([there])[0]
        new = _sent(client, [array])[0] if new is None else new
    if new is there:
        return there
    if there is not None and solve is not None:
        solve.keep_until_cut(there)
    _put(known, array.name, new)
    if there is None:
        weakref.finalize(owner, _release, known, array.name)
    return new


_MOMENT = 1.0  # seconds


def copied_again() -> list[DaskArray]:
    """Copy what operators hold, and one worker alone has, to a second one, if there is one.

    Returns
    -------
    list of dask.array.Array
        What stood for it so far: vectors may have to be worked out again from these.
    """
    client = client_in_use()
    known = None if client is None else _placed.get(client)
    if known is None or not known.arrays:
        return []
    workers = threads_by_worker(client, math.inf)
    if len(workers) < 2:  # another one may have come
        workers = threads_by_worker(client)
    alone = {
        name: there
        for name, there in known.arrays.items()
        if is_whole(there) and not is_safe(there, frozenset(workers))
    }
    with unrecorded():
        new = cut(list(alone.values())) if alone else {}
    for name, there in alone.items() if new else ():
        _put(known, name, new[there.name])
    return list(alone.values()) if new else []


def _copied(there: list[DaskArray]) -> list[DaskArray]:
    """Return each block on two workers, so that one may go; as it was where there is but one."""
    new = cut(there)
    return [new.get(array.name, array) for array in there]


def _sent(client: Any, arrays: Sequence[DaskArray]) -> list[DaskArray]:
    """Return arrays of futures for arrays of blocks in this process."""
    from distributed.protocol import pickle

    values = {a.name: {k: node.value for k, node in dict(a.dask).items()} for a in arrays}
    if any(address.startswith("inproc://") for address in client.nthreads()):
        # workers in this process would share the very arrays, which then never go
        values = pickle.loads(pickle.dumps(values))
    _tell_scheduler(client)
    names, sent = _scattered(client, arrays, values)
    there = []
    for array in arrays:
        name = names[array.name]
        blocks = {(name, *key[1:]): sent[name, *key[1:]] for key in values[array.name]}
        there.append(DaskArray(blocks, name, array.chunks, meta=array._meta))
    return _copied(there) if has_place_for_copies(client.nthreads()) else _aligned(there)


@beside_other_tasks()
def _aligned(there: list[DaskArray]) -> list[DaskArray]:
    """Return arrays on a single worker with samples at addresses that suit their dtype."""
    import distributed

    new = dask.persist(*(da.map_blocks(aligned, array, meta=array._meta) for array in there))
    distributed.wait(new)
    return list(new)


_PAUSES = (0.1, 0.2, 0.4, 0.8)  # seconds, for the scheduler to see which worker is gone


def _scattered(
    client: Any, arrays: Sequence[DaskArray], values: Mapping[str, Mapping[Any, Any]]
) -> tuple[dict[str, str], dict[Any, Any]]:
    """Send blocks to workers that are there, again where one of them dies meanwhile.

    Returns
    -------
    names : dict
        Under which the arrays lie there, by those that they have here.
    futures : dict
        By keys of these names.
    """

    def send() -> tuple[dict[str, str], dict[Any, Any]]:
        if not threads_by_worker(client):
            # a cluster that adapts starts workers for tasks, and none for data
            client.submit(_nothing, pure=False).result()
        # the scheduler may still remember what had the same name, and was lost
        generation = next(_generations)
        new = {array.name: f"{array.name}-{generation}" for array in arrays}
        by_worker: dict[str | None, dict[Any, Any]] = defaultdict(dict)
        for array in arrays:
            for key, value in values[array.name].items():
                by_worker[home_of_coefficient(array, key)][(new[array.name], *key[1:])] = value
        sent: dict[Any, Any] = {}
        for worker, blocks in by_worker.items():
            where = None if worker is None else [worker]
            sent.update(client.scatter(blocks, workers=where, hash=False))
        return new, sent

    for pause in _PAUSES:
        try:
            return send()
        # what is closed or late, and a worker that the scheduler no longer knows
        except (OSError, KeyError) as error:
            logger.info("arrays of an operator are sent again: %s", error)
            time.sleep(pause)
    return send()


def home_of_coefficient(array: DaskArray, key: Any) -> str | None:
    """Return the worker that has vectors worked out at the place of a block.

    Where there are fewer blocks than threads of workers, any is as good.
    """
    workers = _workers(math.inf)
    if len(set(workers)) < 2 or array.npartitions < len(workers):
        return None
    (worker,) = _home({array.name: array.numblocks}, workers, key)
    return worker


def _nothing() -> None:
    """Ask for a worker."""


_MUCH_LESS = 16


@contextmanager
def vectors_together(
    arrays: Sequence[DaskArray], kernel: int = 0, mark: str = ""
) -> Iterator[None]:
    """Let a cluster work out the same blocks of all vectors of a solve on the same worker.

    The scheduler takes a worker that holds any input of a task, be it a slice for a halo, and
    then sends whole blocks to it. In this context each worker is asked for a run of blocks that
    lie one after another; another worker may still take them, where that one is gone. Workers that
    the user has named (``dask.annotate(workers=...)``) stay.

    Parameters
    ----------
    arrays : sequence of dask.array.Array
        What is persisted in the context.
    kernel : int, optional
        Bytes of a block of what the operator holds on the cluster. Vectors of much smaller blocks
        are left to the scheduler, which has them worked out where that lies.
    mark : str, optional
        What is added to the names of all that is persisted in the context.
    """
    chosen = "workers" in dask.get_annotations()
    home = None if chosen else home_of_blocks(arrays, kernel, mark)
    if home is None:
        yield
        return
    _tell_scheduler(client_in_use())
    with dask.annotate(workers=home, allow_other_workers=True):
        yield


def _tell_scheduler(client: Any) -> None:
    """Let the scheduler of a cluster know where tasks should run."""
    known = _placed.setdefault(client, _Cluster())
    if not known.told:
        from pylops_dispatch.scheduling import Whereabouts

        known.told = True
        try:
            client.register_plugin(Whereabouts())
        except ImportError as error:  # the scheduler runs without this package
            logger.info("the scheduler is not told where tasks should run: %s", error)


def home_of_blocks(
    arrays: Sequence[DaskArray], kernel: int = 0, mark: str = ""
) -> Callable[[Any], list[str]] | None:
    """Return what says by its key where a block is to be worked out; None for a single worker."""
    workers = _workers()
    if len(set(workers)) < 2:
        return None
    numblocks = {a.name: a.numblocks for a in arrays if _MUCH_LESS * bytes_of_block(a) >= kernel}
    # what vectors are made of on the way, which nothing keeps
    cuts = set(numblocks.values())
    layers = {name: layer for a in arrays for name, layer in a.dask.layers.items()}
    for name, layer in layers.items():
        if isinstance(layer, Blockwise) and name not in numblocks:
            counts = tuple(layer.dims[index] for index in layer.output_indices)
            if counts in cuts:
                numblocks[name] = counts
    return functools.partial(_home, numblocks, workers, mark=mark)


def _workers(age: float = 0.0) -> list[str]:
    """Return the workers of the cluster that dask runs on, each as often as it has threads."""
    client = client_in_use()
    threads = {} if client is None else threads_by_worker(client, age)
    return [address for address, count in threads.items() for _ in range(count)]


def blocks_by_worker(numblocks: pc.Shape) -> list[list[tuple[int, ...]]]:
    """Return the places of blocks in runs, one for each thread, as `vectors_together` asks for."""
    places = list(np.ndindex(*numblocks))
    client = client_in_use()
    threads = {} if client is None else threads_by_worker(client, math.inf)
    count = sum(threads.values()) or 1
    starts = [-(-len(places) * number // count) for number in range(count + 1)]
    return [places[first:last] for first, last in itertools.pairwise(starts)]


def bytes_of_block(array: DaskArray) -> int:
    """Return the bytes of a block of middling size."""
    return int(array.nbytes) // max(1, array.npartitions)


def _home(
    numblocks: dict[str, pc.Shape], workers: list[str], key: Any, mark: str = ""
) -> list[str]:
    """Return the worker for a block, all of them for any other task; runs on the scheduler.

    A face of a halo is cut where the block that it is a part of lies. A shuffle gives its blocks to
    the workers that its barrier may run on (``ShuffleSchedulerPlugin._calculate_worker_for``),
    though one may have died since.
    """
    name, *index = key if isinstance(key, tuple) else (key,)
    face = None
    if isinstance(name, str):
        if name.startswith(BARRIER):
            return []
        name = name.removesuffix(mark)
        face = _FACE.match(name)
    counts = numblocks.get(name)
    if face is not None:
        counts = next((c for c in numblocks.values() if len(c) == len(index)), None)
        index[int(face[2])] += 1 if face[1] == HALO[True] else -1
    if not counts or not all(0 <= i < n for i, n in zip(index, counts, strict=True)):
        return workers
    number = int(np.ravel_multi_index(index, counts))
    return [workers[number * len(workers) // math.prod(counts)]]


_FACE = re.compile(rf"({'|'.join(HALO)})-(\d+)-")


def _put(known: _Cluster, name: str, there: DaskArray) -> None:
    """Know what stands for an array from here on; graphs of what stood for it bring their data."""
    known.arrays[name] = there
    futures = known.futures.setdefault(name, {})
    futures.clear()
    futures.update(there.dask)


def _release(known: _Cluster, name: str) -> None:
    """Let go of an array, unless graphs are still there that read it."""
    known.arrays.pop(name, None)
    known.futures.pop(name, None)


def runs_here_at_once() -> bool:
    """Whether what is made now will be run at once, in this process: a step of a solver."""
    return session.get() is not None and client_in_use() is None
