"""Long solves on a cluster: vectors let go of the history that they were worked out by.

The scheduler of ``distributed`` remembers how each block in memory came about, so that it can
work it out again when a worker dies; in a solve, that is every step since the first. At
intervals (``pylops-dispatch.lineage-steps`` in dask's configuration, 20 executions by default,
0 for never) the vectors of a solve are therefore put under new keys: each block is kept twice,
as data without history on another worker, and where it is, as a copy of that. What the solve
goes on with is a third key for the latter, so that neither of the two is ever sent about: the
active memory manager would else drop one replica or the other, and could leave both of them on
the same worker.

Both stay until the next cut. A worker that dies takes at most one of the two with it, and
costs the steps since the last cut; the next step begins with another. No block comes to the
client. The price is memory for two copies of the vectors of a solve.
With a single worker there is no place for a copy: nothing is cut, unless that worker lives in
the process of the client and dies with it anyway.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
import weakref
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import dask
from dask._task_spec import Task, TaskRef
from dask.array.core import Array as DaskArray

from pylops_dispatch import pieces as pc
from pylops_dispatch.alignment import aligned
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.workers import beside_other_tasks, client_in_use, threads_by_worker

logger = logging.getLogger(__name__)

_STEPS = 20
_PATIENCE = 60.0  # seconds for all copies; a worker that dies meanwhile makes them wait


class _Pair(NamedTuple):
    """What a block in memory is a copy of: it has to stay as long as that block."""

    near: Any  # futures
    copy: Any
    workers: frozenset[str]  # that have them

    def is_lost(self, workers: frozenset[str]) -> bool:
        """Whether one of both may be gone; what was made from the other is on its worker."""
        finished = self.near.status == self.copy.status == "finished"
        apart = len(self.workers) > 1 or len(workers) < 2
        return not (finished and apart and self.workers <= workers)


_pairs: weakref.WeakKeyDictionary[Any, _Pair] = weakref.WeakKeyDictionary()
# what a block that could not be cut may have to be worked out again from
_sources: weakref.WeakKeyDictionary[Any, list[_Pair]] = weakref.WeakKeyDictionary()


class Lineage:
    """Counts the executions of a solve, and cuts the history of its vectors now and then."""

    def __init__(self) -> None:
        self._executions = 0
        self._cut: dict[str, weakref.ref[DaskArray]] = {}
        # what every step since the last cut can be repeated from: pairs on two workers
        self._pairs: list[_Pair] = []
        self._seen: frozenset[str] = frozenset()  # workers, since the last cut
        self._until_cut: list[DaskArray] = []

    def keep_until_cut(self, array: DaskArray) -> None:
        """Keep an array that vectors may have to be worked out from, until they are cut."""
        self._until_cut.append(array)

    def count(self, executions: int) -> None:
        """Count executions."""
        self._executions += executions

    def cut_if_due(
        self, boxes: Iterable[DispatchArray], fixed: Iterable[DispatchArray]
    ) -> dict[str, str]:
        """Cut if it is time, or if a worker has died since.

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
        steps = executions_between_cuts()
        workers = _workers()
        if not workers:  # of a cluster that is gone, or dask runs in this process
            return {}
        self._seen |= workers
        lost = not self._seen <= workers or any(pair.is_lost(workers) for pair in self._pairs)
        lost |= bool(self._until_cut)
        if not steps or (self._executions < steps and not lost):
            return {}
        kept = {id(box) for box in fixed}
        live = [box for box in boxes if id(box) not in kept]
        _forget_scalars(live)
        return self._cut_all(live)

    def finish(self, boxes: Sequence[DispatchArray]) -> None:
        """Cut what a solve gives: it outlives what it may have to be worked out again from.

        Where there is no place for copies, what the last cut has kept stays as long as it does.
        """
        if not self._pairs or not self._executions:
            return
        self._cut_all(boxes)
        for array in (p for box in boxes for p in box.pieces if isinstance(p, DaskArray)):
            for future in _leaves_of(array):
                if future not in _pairs:
                    _sources[future] = self._pairs

    def _cut_all(self, live: Sequence[DispatchArray]) -> dict[str, str]:
        """Cut arrays in memory that were not cut yet, all or none; return their new names."""
        workers = _workers()
        held = {
            p.name: p
            for box in live
            for p in box.pieces
            if isinstance(p, DaskArray) and futures_of(p) and not self._is_cut(p, workers)
        }
        new = cut(list(held.values())) if held else {}
        for box in live if new else ():
            found = (new.get(p.name, p) if isinstance(p, DaskArray) else p for p in box.pieces)
            box.replace(list(found))
        if new or not held:
            self._seen, self._until_cut = workers, []
        if new:
            self._executions = 0
            self._cut = {n: r for n, r in self._cut.items() if r() is not None}
            self._cut.update((array.name, weakref.ref(array)) for array in new.values())
            live_arrays = [a for a in (r() for r in self._cut.values()) if a is not None]
            self._pairs = [_pairs[f] for array in live_arrays for f in futures_of(array)]
        return {name: array.name for name, array in new.items()}

    def _is_cut(self, array: DaskArray, workers: frozenset[str]) -> bool:
        return array.name in self._cut and not _lost(array, workers)


def executions_between_cuts() -> int:
    """Return after how many executions of a solve its vectors are cut; 0 for never."""
    return int(dask.config.get("pylops-dispatch.lineage-steps", _STEPS))


def has_place_for_copies(workers: Collection[str]) -> bool:
    """Whether copies can be kept apart, or need not be, since no worker can die by itself."""
    return len(workers) > 1 or all(address.startswith("inproc://") for address in workers)


def _workers() -> frozenset[str]:
    client = client_in_use()
    return frozenset(() if client is None else threads_by_worker(client, math.inf))


def _forget_scalars(boxes: Sequence[DispatchArray]) -> None:
    """Let numbers that were read be numbers only, not results of tasks."""
    for box in boxes:
        # the positions that argwhere reads are a list, and used up at once
        read = box.value is not None and box.dtype != object
        if read and isinstance(box.pieces[0], DaskArray):
            box.replace([pc.wrap_numpy(box.value.reshape(box.shape))])


def futures_of(array: DaskArray) -> list[Any]:
    """Return the blocks of an array in the memory of a cluster; none for any other array."""
    if not pc.in_memory(array):
        return []
    nodes = list(dict(array.dask).values())
    return nodes if all(map(_is_future, nodes)) else []


def _leaves_of(array: DaskArray) -> list[Any]:
    """Return all blocks in the memory of a cluster that the graph of an array holds."""
    return [node for node in dict(array.dask).values() if _is_future(node)]


def _is_future(node: Any) -> bool:
    return hasattr(node, "add_done_callback")


def _lost(array: DaskArray, workers: frozenset[str]) -> bool:
    """Whether one of a pair is gone, so that a block is kept only once."""
    pairs = (_pairs.get(future) for future in futures_of(array))
    return any(pair.is_lost(workers) for pair in pairs if pair is not None)


def is_whole(array: DaskArray) -> bool:
    """Whether all blocks of an array on a cluster are there."""
    return all(future.status == "finished" for future in futures_of(array))


def is_safe(array: DaskArray, workers: frozenset[str]) -> bool:
    """Whether an array on a cluster is there, as often as `workers` have place for it."""
    if len(workers) < 2 or not is_whole(array):
        return is_whole(array)
    return not _lost(array, workers) and all(future in _pairs for future in futures_of(array))


@beside_other_tasks()
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
    futures = {f.key: f for array in arrays for f in futures_of(array)}
    client = next(iter(futures.values())).client
    workers = sorted(client.nthreads())
    if not has_place_for_copies(workers):
        return {}
    mark = uuid.uuid4().hex[:12]
    names = {array.name: f"kept-{mark}-{number}" for number, array in enumerate(arrays)}
    new_keys = {key: (names[key[0]], *key[1:]) for key in futures}
    try:
        _wait(client, list(futures.values()), workers)
        homes = {k: w[0] for k, w in client.who_has(list(futures.values())).items() if w}
        copies = _copies(client, futures, new_keys, homes, workers)
        homes = {new_keys[key]: home for key, home in homes.items()}
        blocks, near = _blocks(client, copies, homes)
        made = [*blocks.values(), *near.values()]
        # of the copies too: the client may hear later that they are there
        _wait(client, [*made, *copies.values()], workers)
        after = _next_of(workers)
        apart = homes if len(workers) > 1 else {}
        away = {near[k].key: (copies[k].key, after[homes[k]]) for k in apart}
        if not all(future.status == "finished" for future in made) or not (
            client.run_on_scheduler(_keep_apart, copies=away, free=[f.key for f in made])
        ):
            raise RuntimeError("a worker was lost while blocks were copied")
    except Exception as error:  # a worker that dies can fail any of these calls
        logger.info("the history of a solve was not cut this time: %s", error)
        return {}
    for key, block in blocks.items():
        both = frozenset((homes[key], after[homes[key]]))
        _pairs[block] = _Pair(near[key], copies[key], both)
    return {
        array.name: DaskArray(
            {new_keys[key]: blocks[new_keys[key]] for key in (f.key for f in futures_of(array))},
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
) -> dict[Any, Any]:
    """Put a copy of each block on the worker after its own, as data that no task has made.

    Returns them by the key of the block that is to come.
    """
    import distributed

    after = _next_of(workers)
    copies: dict[Any, Any] = {
        key: distributed.Future(("copy-of", *key), client) for key in new_keys.values()
    }
    by_worker = defaultdict(list)
    for key in futures:
        by_worker[after[homes[key]]].append(key)
    running = []
    for worker, keys in by_worker.items():
        graph: dict[Any, Any] = {key: futures[key] for key in keys}
        for key in keys:
            task = ("copy", *new_keys[key])
            graph[task] = Task(task, _keep, TaskRef(key), copies[new_keys[key]].key, client.id)
        wanted = [("copy", *new_keys[key]) for key in keys]
        running += client.get(graph, wanted, workers=[worker], sync=False, pure=False)
    _wait(client, running, workers)
    if any(future.status != "finished" for future in running):
        raise RuntimeError("a worker was lost while blocks were copied")
    return copies


def _next_of(workers: list[str]) -> dict[str, str]:
    return dict(zip(workers, [*workers[1:], workers[0]], strict=True))


def _keep(block: Any, key: Any, client: str) -> None:
    """Keep a block on this worker under a key of its own, for a client; runs as a task.

    A client of the worker's own would let go of it, and ``distributed.Queue`` hands futures over
    but leaves an entry for each queue on the scheduler, for good.
    """
    import distributed

    worker = distributed.get_worker()

    async def keep() -> None:
        known = worker.update_data(data={key: block})
        await worker.scheduler.update_data(
            who_has={key: [worker.address]}, nbytes=known["nbytes"], client=client
        )

    distributed.utils.sync(worker.loop, keep)


def _blocks(
    client: Any, copies: dict[Any, Any], homes: dict[Any, str]
) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return the blocks where they were, and what they stand for: copies of those elsewhere."""
    by_worker = defaultdict(list)
    for key, home in homes.items():
        by_worker[home].append(key)
    blocks: dict[Any, Any] = {}
    near: dict[Any, Any] = {}
    for worker, keys in by_worker.items():
        graph: dict[Any, Any] = {copies[key].key: copies[key] for key in keys}
        kept = [("block-of", *key) for key in keys]
        for key, own in zip(keys, kept, strict=True):
            graph[own] = Task(own, aligned, TaskRef(copies[key].key))
            graph[key] = Task(key, _same, TaskRef(own))
        futures = client.get(graph, [*keys, *kept], workers=[worker], sync=False)
        blocks.update(zip(keys, futures[: len(keys)], strict=True))
        near.update(zip(keys, futures[len(keys) :], strict=True))
    return blocks, near


def _same(block: Any) -> Any:
    return block


async def _keep_apart(
    dask_scheduler: Any, copies: dict[Any, tuple[Any, str]], free: list[Any]
) -> bool:
    """See to it that no block shares its only worker with its copy; whether that succeeded.

    Runs on the scheduler. A task leaves what it has fetched where it ran, and then the active
    memory manager drops either of the two: it may have dropped the one on the worker that the
    copy is for. From here on a block may be worked out anywhere.
    """

    def workers_of(key: Any) -> set[str]:
        task = dask_scheduler.tasks.get(key)
        return {worker.address for worker in (task.who_has or ())} if task else set()

    dropped = defaultdict(list)
    for key, (copy, worker) in copies.items():
        if not workers_of(copy) - workers_of(key):
            dropped[worker].append(copy)
    for worker, keys in dropped.items():
        await dask_scheduler.replicate(keys=keys, workers=[worker], n=1)
    by_worker = defaultdict(list)
    for key, (copy, _) in copies.items():
        block, other = workers_of(key), workers_of(copy)
        if not block or not other - block:
            return False
        for worker in other & block:
            by_worker[worker].append(copy)
    for worker, keys in by_worker.items():
        await dask_scheduler.delete_worker_data(worker, keys, stimulus_id=f"keep-apart-{worker}")
    dask_scheduler.set_restrictions(dict.fromkeys(free))
    return True


def _wait(client: Any, futures: list[Any], workers: Sequence[str]) -> None:
    """Wait for tasks that are tied to workers, for as long as all of these are there."""
    import distributed

    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            distributed.wait(futures, timeout=1)
            return
        except TimeoutError:
            if time.monotonic() > deadline or not set(workers) <= set(client.nthreads()):
                raise RuntimeError("a worker was lost while blocks were copied") from None
