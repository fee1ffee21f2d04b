"""Long solves on a cluster: vectors let go of the history that they were worked out by.

The scheduler of ``distributed`` remembers how each block in memory came about, so that it can
work it out again when a worker dies; in a solve, that is every step since the first. At
intervals (``pylops-dispatch.lineage-steps`` in dask's configuration, 20 executions by default,
0 for never) the vectors of a solve are therefore put under new keys: each block gets a copy on
another worker, which has no history, and the block is henceforth known as a copy of that one.

Both stay until the next cut. A worker that dies takes at most one of the two with it, and
costs the steps since the last cut; the next execution cuts again. No block comes to the
client. The price is memory for two copies of the vectors of a solve.
With a single worker there is no place for a copy: nothing is cut, unless that worker lives in
the process of the client and dies with it anyway.
"""

from __future__ import annotations

import logging
import uuid
import weakref
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import dask
from dask._task_spec import Task, TaskRef
from dask.array.core import Array as DaskArray

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray

logger = logging.getLogger(__name__)

_STEPS = 20
_PATIENCE = 60.0  # seconds for all copies; a worker that dies meanwhile makes them wait

# what a block in memory is a copy of: it has to stay as long as that block
_originals: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


class Lineage:
    """Counts the executions of a solve, and cuts the history of its vectors now and then."""

    def __init__(self) -> None:
        self._executions = 0
        self._cut: dict[str, weakref.ref[DaskArray]] = {}
        # what every step since the last cut can be repeated from: blocks, and their copies
        self._blocks: list[Any] = []
        self._copies: list[Any] = []

    def after_execution(
        self, boxes: Iterable[DispatchArray], fixed: Iterable[DispatchArray]
    ) -> dict[str, str]:
        """Count an execution, and cut if it is time, or if a worker has died since.

        Parameters
        ----------
        boxes : iterable of DispatchArray
            All that is alive in the solve.
        fixed : iterable of DispatchArray
            Those of them that stay what they are: coefficients of operators.

        Returns
        -------
        dict
            The names of arrays that were cut, and the names that they have now.
        """
        steps = int(dask.config.get("pylops-dispatch.lineage-steps", _STEPS))
        self._executions += 1
        if not steps or (self._executions < steps and not self._lost()):
            return {}
        kept = {id(box) for box in fixed}
        live = [box for box in boxes if id(box) not in kept]
        _forget_scalars(live)
        held = {
            p.name: p
            for box in live
            for p in box.pieces
            if isinstance(p, DaskArray) and _futures(p) and not self._is_cut(p)
        }
        if not held:
            return {}
        new = cut(list(held.values()))
        for box in live if new else ():
            found = (new.get(p.name, p) if isinstance(p, DaskArray) else p for p in box.pieces)
            box.replace(list(found))
        if new:
            self._executions = 0
            self._cut = {n: r for n, r in self._cut.items() if r() is not None}
            self._cut.update((array.name, weakref.ref(array)) for array in new.values())
            live_arrays = [a for a in (r() for r in self._cut.values()) if a is not None]
            self._blocks = [f for array in live_arrays for f in _futures(array)]
            self._copies = [_originals[f] for f in self._blocks]
        return {name: array.name for name, array in new.items()}

    def _is_cut(self, array: DaskArray) -> bool:
        return array.name in self._cut and not _lost(array)

    def _lost(self) -> bool:
        return any(copy.status != "finished" for copy in self._copies)


def _forget_scalars(boxes: Sequence[DispatchArray]) -> None:
    """Let numbers that were read be numbers only, not results of tasks."""
    for box in boxes:
        if box.value is not None and isinstance(box.pieces[0], DaskArray):
            box.replace([pc.wrap_numpy(box.value.reshape(box.shape))])


def _futures(array: DaskArray) -> list[Any]:
    """Return the blocks of an array in the memory of a cluster; none for any other array."""
    if not pc.in_memory(array):
        return []
    nodes = list(dict(array.dask).values())
    return nodes if all(hasattr(node, "add_done_callback") for node in nodes) else []


def _lost(array: DaskArray) -> bool:
    """Whether a copy is gone, so that a block is the only one of its kind."""
    originals = (_originals.get(future) for future in _futures(array))
    return any(o is not None and o.status != "finished" for o in originals)


def cut(arrays: Sequence[DaskArray]) -> dict[str, DaskArray]:
    """Return arrays in the memory of a cluster anew, without the tasks that they came of.

    Parameters
    ----------
    arrays : sequence of dask.array.Array
        Persisted on a cluster.

    Returns
    -------
    dict
        The new arrays by the names of the old ones. Empty where there is no second worker for
        the copies, or where a worker died in between: then all is as it was, to be tried again.
    """
    futures = {f.key: f for array in arrays for f in _futures(array)}
    client = next(iter(futures.values())).client
    workers = sorted(client.nthreads())
    inside = all(address.startswith("inproc://") for address in workers)
    if len(workers) < 2 and not inside:
        return {}
    import distributed

    mark = uuid.uuid4().hex[:12]
    names = {array.name: f"kept-{mark}-{number}" for number, array in enumerate(arrays)}
    new_keys = {key: (names[key[0]], *key[1:]) for key in futures}
    try:
        homes = {k: w[0] for k, w in client.who_has(list(futures.values())).items() if w}
        copies = _copies(client, futures, new_keys, homes, workers, mark)
        blocks = _blocks(client, copies, {new_keys[k]: home for k, home in homes.items()})
        distributed.wait(list(blocks.values()), timeout=_PATIENCE)
    except Exception as error:  # a worker that dies can fail any of these calls
        logger.info("the history of a solve was not cut this time: %s", error)
        return {}
    _originals.update((block, copies[key]) for key, block in blocks.items())
    return {
        array.name: DaskArray(
            {new_keys[key]: blocks[new_keys[key]] for key in (f.key for f in _futures(array))},
            names[array.name],
            array.chunks,
            meta=array._meta,
        )
        for array in arrays
    }


def _copies(
    client: Any,
    futures: dict[Any, Any],
    new_keys: dict[Any, Any],
    homes: dict[Any, str],
    workers: list[str],
    mark: str,
) -> dict[Any, Any]:
    """Put a copy of each block on the worker after its own, as data that no task has made.

    Returns them by the key of the block that is to come. Futures made on workers reach the
    client through a queue, which keeps them in the meantime.
    """
    import distributed

    follower = dict(zip(workers, [*workers[1:], workers[0]], strict=True))
    queue = distributed.Queue(f"copies-{mark}", client=client)
    by_worker = defaultdict(list)
    for key in futures:
        by_worker[follower[homes[key]]].append(key)
    running = []
    for worker, keys in by_worker.items():
        graph: dict[Any, Any] = {key: futures[key] for key in keys}
        for key in keys:
            task = ("copy", *new_keys[key])
            graph[task] = Task(task, _put, TaskRef(key), ("copy-of", *new_keys[key]), queue.name)
        wanted = [("copy", *new_keys[key]) for key in keys]
        running += client.get(graph, wanted, workers=[worker], sync=False, pure=False)
    try:
        distributed.wait(running, timeout=_PATIENCE)
        found = {future.key[1:]: future for future in queue.get(batch=True)}
    finally:
        queue.close()
    if set(found) != set(new_keys.values()):
        raise RuntimeError("a worker was lost while blocks were copied")
    return found


def _put(block: Any, key: Any, queue: str) -> None:
    """Keep a block on this worker under a key of its own; runs as a task."""
    import distributed

    client = distributed.get_client()
    future = client.scatter({key: block}, hash=False)[key]
    distributed.Queue(queue, client=client).put(future)


def _blocks(client: Any, copies: dict[Any, Any], homes: dict[Any, str]) -> dict[Any, Any]:
    """Return the blocks where they were, each known as a copy of the one elsewhere."""
    by_worker = defaultdict(list)
    for key, home in homes.items():
        by_worker[home].append(key)
    found: dict[Any, Any] = {}
    for worker, keys in by_worker.items():
        graph: dict[Any, Any] = {copies[key].key: copies[key] for key in keys}
        graph.update((key, Task(key, _same, TaskRef(copies[key].key))) for key in keys)
        blocks = client.get(graph, keys, workers=[worker], allow_other_workers=True, sync=False)
        found.update(zip(keys, blocks, strict=True))
    return found


def _same(block: Any) -> Any:
    return block
