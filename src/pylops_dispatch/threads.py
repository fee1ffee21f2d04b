"""Executions in a solve on dask's threads, each of which takes its next task by itself.

``dask.local.get_async`` puts the tasks of each execution in order anew, and hands them out one by
one from the thread that waits for them all: between two tasks a thread of dask's waits for that
one to be woken up twice. Where the blocks of a step are worked on in a few milliseconds, as for a
stack of matrices of 64 MB each, that is a sixth of its time. Here the order is found once for
executions that are alike, and a thread that has finished a task goes on with the next.

The threads are dask's own. Whoever watches dask at work (its callbacks and diagnostics, another
scheduler, a ledger) sees all tasks: the execution is dask's then.
"""

from __future__ import annotations

import contextvars
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import dask
import dask.threaded
from dask._task_spec import DataNode, GraphNode
from dask.callbacks import Callback
from dask.order import order


class Ordered(NamedTuple):
    """The tasks of a graph in the order that they are best begun in, by which they are numbered."""

    tasks: tuple[tuple[Any, GraphNode], ...]  # with their keys
    readers: Mapping[Any, Sequence[int]]  # of each key: the tasks that need it
    waiting: tuple[int, ...]  # for how many others each task waits
    uses: Mapping[Any, int]  # how often each key is needed, by tasks or as a result
    wanted: tuple[Any, ...]


def in_order(nodes: Mapping[Any, GraphNode], wanted: Sequence[Any]) -> Ordered:
    """Return the tasks of a graph in the order that dask would begin them in.

    Parameters
    ----------
    nodes : mapping
        Tasks and data by their keys.
    wanted : sequence
        Keys of the results.

    Raises
    ------
    ValueError
        If there is no task for a key: one that stands for a block on a cluster, for example.
    """
    places = order(dict(nodes))
    made = {key: node for key, node in nodes.items() if not isinstance(node, DataNode)}
    keys = sorted(made, key=places.__getitem__)
    readers: dict[Any, list[int]] = defaultdict(list)
    uses = Counter(wanted)
    for number, key in enumerate(keys):
        for read in made[key].dependencies:
            readers[read].append(number)
        uses.update(made[key].dependencies)
    missing = uses.keys() - nodes.keys()
    if missing:  # in the words of ``dask.local.start_state_from_dask``
        key = missing.pop()
        dependents = {keys[number] for number in readers[key]}
        raise ValueError(f"Missing dependency {key!r} for dependents {dependents}")
    return Ordered(
        tuple((key, made[key]) for key in keys),
        dict(readers),
        tuple(len(made[key].dependencies & made.keys()) for key in keys),
        uses,
        tuple(wanted),
    )


def pool_of(schedule: Any) -> ThreadPoolExecutor | None:
    """Return the threads that a scheduler of dask's would use, if nobody watches what they do.

    Parameters
    ----------
    schedule : callable
        What dask has chosen.

    Returns
    -------
    ThreadPoolExecutor or None
        None where the execution has to be that scheduler's.
    """
    config = dask.config.get
    watched = Callback.active or config("rerun_exceptions_locally", False)
    if schedule is not dask.threaded.get or watched:
        return None
    pool, workers = config("pool", None), config("num_workers", None)
    if pool is None:
        pool = _default_pool(workers)
        if pool is None:
            schedule({}, [])  # which makes it
            pool = _default_pool(workers)
    return pool if isinstance(pool, ThreadPoolExecutor) else None


def _default_pool(workers: Any) -> Any:
    """Return the threads that ``dask.threaded.get`` keeps for the calling one."""
    thread = threading.current_thread()
    if workers is None and thread is dask.threaded.main_thread:
        return dask.threaded.default_pool
    return dask.threaded.pools.get(thread, {}).get(workers)


def run(ordered: Ordered, values: dict[Any, Any], pool: ThreadPoolExecutor) -> list[Any]:
    """Run tasks on threads, and return what was asked for.

    Parameters
    ----------
    ordered : Ordered
        The tasks.
    values : dict
        Data by their keys; what the tasks give is added, and removed when it is not needed any
        more.
    pool : ThreadPoolExecutor
        The threads.

    Raises
    ------
    BaseException
        What the first task raised that failed. Those that are running then end by themselves.
    """
    return _Run(ordered, values, pool).results()


class _Run:
    """What is left of one execution, which threads take their tasks from."""

    def __init__(self, ordered: Ordered, values: dict[Any, Any], pool: ThreadPoolExecutor) -> None:
        self._ordered = ordered
        self._values = values
        self._pool = pool
        self._context = contextvars.copy_context()
        self._waiting = list(ordered.waiting)
        self._uses = dict(ordered.uses)
        # as dask's: what became ready last comes first, so that blocks are read soon
        ready = [number for number, count in enumerate(self._waiting) if not count]
        self._ready = ready[::-1]
        self._left = len(ordered.tasks)
        self._threads = 0  # that work on it
        self._error: BaseException | None = None
        self._changing = threading.Lock()
        self._ended = threading.Event()
        if not self._left:
            self._ended.set()

    def results(self) -> list[Any]:
        """Have threads take the tasks, and wait for the last one or for one that fails."""
        try:
            with self._changing:
                self._call_for(len(self._ready))
            while not self._ended.wait(_PATIENCE):
                pass
        finally:
            self._ended.set()
        error, self._error = self._error, None  # which holds this by its frames
        if error is not None:
            try:
                raise error
            finally:
                del error
        return [self._values[key] for key in self._ordered.wanted]

    def _call_for(self, threads: int) -> None:
        """Have so many more threads work on this, as far as there are any."""
        for _ in range(min(threads, self._pool._max_workers - self._threads)):
            self._pool.submit(self._work)
            self._threads += 1

    def _work(self) -> None:
        """Run tasks for as long as there are any that can be begun; others may use this thread."""
        number: int | None = None
        value: Any = None
        try:
            while True:
                with self._changing:
                    if number is not None:
                        self._done(number, value)
                        value = None  # what is not needed any more is freed before the next begins
                    if self._ended.is_set() or not self._ready:
                        self._threads -= 1
                        return
                    number = self._ready.pop()
                    _, task = self._ordered.tasks[number]
                    given = {key: self._values[key] for key in task.dependencies}
                value = self._context.copy().run(task, given)
                del given
        except BaseException as error:  # raised where the results are waited for
            with self._changing:
                if not self._ended.is_set():
                    self._error = error
                self._ended.set()

    def _done(self, number: int, value: Any) -> None:
        key, task = self._ordered.tasks[number]
        self._left -= 1
        if self._uses.get(key):
            self._values[key] = value
        for read in task.dependencies:
            self._uses[read] -= 1
            if not self._uses[read]:
                del self._values[read]
        for reader in reversed(self._ordered.readers.get(key, ())):
            self._waiting[reader] -= 1
            if not self._waiting[reader]:
                self._ready.append(reader)
        if not self._left:
            self._ended.set()
        else:
            self._call_for(len(self._ready) - 1)


_PATIENCE = 1.0  # seconds: on Windows nothing interrupts a wait that has no end
