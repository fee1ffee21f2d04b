"""Coefficients on a cluster: an operator's NumPy arrays are sent once, not in every graph.

Where dask's scheduler is a ``distributed.Client``, the blocks of a large NumPy coefficient, and
operators that hold large arrays, are scattered to the workers when they are first applied,
twice where there are two workers. Graphs still hold the blocks, for any other scheduler; a graph
that goes to that cluster goes without them, since its scheduler has data by the same keys. All
is released when the array that it came from goes, or the client. What was lost with a worker is
sent anew with the next application.

The arrays are not looked at again as a whole: some samples spread over an array tell whether
it was changed in place, and it is then sent anew.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import dask
import numpy as np
from dask._task_spec import DataNode, Task, TaskRef
from dask.array.core import Array as DaskArray

from pylops_dispatch import pieces as pc

_LARGE = 1 << 16  # bytes: smaller ones travel with the graph


class Placed(DataNode):
    """Data in a graph that is pickled without the data where the cluster has them already."""

    __slots__ = ()

    @property
    def block_fusion(self) -> bool:
        """A task that was fused with its data would have neither its key nor the data."""
        return True

    def __reduce__(self) -> Any:
        client = _client()
        known = None if client is None else _placed.get(client)
        if known is None or not known.has(self.key):
            return DataNode, (self.key, self.value)
        return _elsewhere, (self.key, _copy(self.key) in known.futures)


class _Again(Task):
    """The task by which a scheduler gets again what it has in memory, if that is lost."""

    __slots__ = ()

    @property
    def block_fusion(self) -> bool:
        return True


def _elsewhere(key: Any, copied: bool) -> Task:
    if copied:
        return _Again(key, _same, TaskRef(_copy(key)))
    return _Again(key, _lost, str(key))


def _copy(key: Any) -> Any:
    return ("copy-of", *key) if isinstance(key, tuple) else ("copy-of", key)


def _same(block: Any) -> Any:
    return block


def _lost(key: str) -> Any:
    raise RuntimeError(
        f"{key}, which an operator holds, was lost with the only worker: apply the operator again"
    )


@dataclass
class _Cluster:
    """What lies on one cluster."""

    futures: dict[Any, Any] = field(default_factory=dict)
    names: dict[str, tuple[str, list[Any]]] = field(default_factory=dict)

    def has(self, key: Any) -> bool:
        """Whether data, and its copy, are in memory as far as the client knows."""
        found = [self.futures[k] for k in (key, _copy(key)) if k in self.futures]
        return bool(found) and all(future.status == "finished" for future in found)


_placed: weakref.WeakKeyDictionary[Any, _Cluster] = weakref.WeakKeyDictionary()
_generations = itertools.count(1)


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
    if array.nbytes <= _LARGE:
        return pc.wrap_numpy(array, chunks)
    held = array if held is None else held
    start = array.__array_interface__["data"][0] - held.__array_interface__["data"][0]
    named = (pc.identity(held), start, array.shape, pc.samples(array))
    return on_cluster(pc.wrap_numpy(array, chunks, named), held)


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
    name = placed(array.name, lambda: {key[1:]: node.value for key, node in nodes.items()}, owner)
    if name is None:
        return array
    graph = {(name, *k[1:]): Placed((name, *k[1:]), node.value) for k, node in nodes.items()}
    return DaskArray(graph, name, array.chunks, meta=array._meta)


def placed(name: str, values: Callable[[], dict[Any, Any]], owner: Any) -> str | None:
    """Send values to the cluster that dask runs on, unless they lie there.

    Parameters
    ----------
    name : str
        Of the values: what has this name was sent before.
    values : callable
        Returns the values by their indices, which follow the name in the keys of a graph; one
        value without a key of this kind has the name alone, and None for an index.
    owner : numpy.ndarray or object
        What releases them when it goes.

    Returns
    -------
    str or None
        What the keys on the cluster begin with, None where dask runs in this process alone.
    """
    client = _client()
    if client is None:
        return None
    from distributed.protocol import pickle

    known = _placed.setdefault(client, _Cluster())
    own = name
    if name in known.names:
        own, keys = known.names[name]
        if all(known.has(key) for key in keys):
            return own
        _release(known, name)
        own = f"{name}-{next(_generations)}"  # the scheduler may still remember what is lost
    sent = {own if i is None else (own, *i): value for i, value in values().items()}
    if any(address.startswith("inproc://") for address in client.nthreads()):
        # workers in this process would share the very arrays, which then never go
        sent = pickle.loads(pickle.dumps(sent))
    known.names[name] = own, list(sent)
    known.futures.update(client.scatter(sent, hash=False))
    known.futures.update(_copies(client, sent, known.futures))
    weakref.finalize(owner, _release, known, name)
    return own


def _copies(client: Any, sent: dict[Any, Any], futures: dict[Any, Any]) -> dict[Any, Any]:
    """Send all once more, each to the worker after its own, if there is another.

    Under keys of their own: of two replicas of one key, the active memory manager drops one.
    """
    workers = sorted(client.nthreads())
    if len(workers) < 2:
        return {}
    follower = dict(zip(workers, [*workers[1:], workers[0]], strict=True))
    by_worker: dict[str, dict[Any, Any]] = defaultdict(dict)
    for key, home in client.who_has([futures[key] for key in sent]).items():
        by_worker[follower.get(next(iter(home), ""), workers[0])][_copy(key)] = sent[key]
    found: dict[Any, Any] = {}
    for worker, values in by_worker.items():
        found.update(client.scatter(values, workers=[worker], hash=False))
    return found


def _release(known: _Cluster, name: str) -> None:
    _, keys = known.names.pop(name, (name, []))
    for key in keys:
        known.futures.pop(key, None)
        known.futures.pop(_copy(key), None)


def _client() -> Any:
    """Return the client that dask runs on from here, None for another scheduler."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    chosen = dask.config.get("scheduler", None)
    if isinstance(chosen, distributed.Client):
        client = chosen
    elif chosen in (None, "distributed", "dask.distributed"):
        try:
            client = distributed.Client.current()
        except ValueError:  # there is none
            return None
    else:
        return None
    return None if client.asynchronous or client.status != "running" else client
