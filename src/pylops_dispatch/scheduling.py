"""What a scheduler of ``distributed`` is told: which worker takes a task, if it is there."""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from distributed import SchedulerPlugin

from pylops_dispatch.halos import HALO
from pylops_dispatch.homes import are_even, home_of_task

_LARGE = 1 << 20  # bytes
_MUCH_MORE = 4
_SLICING = ("getitem", "_part")
_THIN = 32  # how much less a face is than its block


class Whereabouts(SchedulerPlugin):
    """Lets tasks run where most of what they read lies, or on any worker after all.

    The scheduler weighs how long a worker is busy against how long a transfer takes, and knows
    neither before it has seen some: it sends blocks to the worker that has a face of a neighbour,
    and matrices to other workers for products that take less time than that. Where there are two
    copies of what an operator holds, it cannot tell the one that tasks should read.

    Graphs without tasks of this package are left to the scheduler, and work on data that lie
    unevenly on the workers.

    ``distributed`` lets other workers take tasks that only prefer one, as long as there are
    workers; those that found none wait for the very worker that they were to run on
    (``SchedulerState.bulk_schedule_unrunnable_after_adding_worker``).
    """

    name = "pylops-dispatch-whereabouts"
    idempotent = True

    def update_graph(self, scheduler: Any, *, tasks: Collection[Any], **kwargs: Any) -> None:
        """Say for tasks of a new graph where they should run, before any of them does."""
        if len(scheduler.workers) < 2:
            return
        found = [task for task in map(scheduler.tasks.get, tasks) if task is not None]
        for task in found:
            home = _home(scheduler, task) if task.dependencies and _may_be_moved(task) else None
            if home is not None:
                task.worker_restrictions = {home}
                task.loose_restrictions = True
        if any(map(_is_ours, found)):
            _keep_together(scheduler, found)

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """Let go of wishes before the scheduler looks for what a new worker can run."""
        waiting = [task.key for task in scheduler.unrunnable if task.loose_restrictions]
        scheduler.set_restrictions(dict.fromkeys(waiting))


def _may_be_moved(task: Any) -> bool:
    """Whether nobody has said where a task must run."""
    free = not task.worker_restrictions or task.loose_restrictions
    return free and not task.host_restrictions and not task.resource_restrictions


def _home(scheduler: Any, task: Any) -> str | None:
    """Return the worker that has most of what a task reads of arrays that are kept."""
    kept: Counter[str] = Counter()
    rest = 0
    for read in task.dependencies:
        size = max(read.nbytes, 0)
        twin = None
        if isinstance(read.key, tuple) and str(read.key[0]).startswith("kept-"):
            # what the block is another name of was never sent about (`lineage.cut`)
            twin = scheduler.tasks.get(("block-of", *read.key))
        if twin is not None and twin.who_has:
            kept[next(iter(twin.who_has)).address] += size
        else:
            rest += size
    if not kept:
        return None
    address, size = kept.most_common(1)[0]
    return address if size >= _LARGE and size >= _MUCH_MORE * rest else None


def _is_ours(task: Any) -> bool:
    """Whether a task, or one of those that were fused to it, runs a function of this package."""
    return any(
        str(getattr(func, "__module__", "")).startswith("pylops_dispatch")
        for func in _functions(task.run_spec)
    )


def _functions(node: Any) -> Iterator[Any]:
    func = getattr(node, "func", None)
    while isinstance(func, functools.partial):
        func = func.func
    yield func
    for argument in getattr(node, "args", ()):
        if isinstance(argument, dict):  # ``Task.fuse``
            for inner in argument.values():
                yield from _functions(inner)


def _keep_together(scheduler: Any, tasks: Iterable[Any]) -> None:
    """Ask for each task that is left to the scheduler where most of what it reads will lie.

    Sizes of what has not been worked out are guessed from what it is made of. Where workers would
    get too much, because of where the data lie or of a block that many tasks read, these tasks
    are left to the scheduler.
    """
    new = sorted((t for t in tasks if not t.who_has), key=lambda task: task.priority)
    there = {read for task in new for read in task.dependencies if read.who_has}
    threads = {address: worker.nthreads for address, worker in scheduler.workers.items()}
    held: Counter[str] = Counter()
    for read in there:
        for worker in read.who_has:
            held[worker.address] += max(read.nbytes, 0) // len(read.who_has)
    if not held:
        return
    homes, loads = _homes(new, there, threads, evenly=False)
    if not are_even(loads, threads):
        homes, loads = _homes(new, there, threads, evenly=True)
    lie_evenly, run_evenly = are_even(held, threads), are_even(loads, threads)
    for task, home in homes.items():
        alone = run_evenly or all(len(read.dependents) == 1 for read in task.dependencies)
        if (lie_evenly and alone) or _is_slice(task):
            task.worker_restrictions = {home}
            task.loose_restrictions = True


def _is_slice(task: Any) -> bool:
    """Whether a task takes part of a block, which is less work than to send the block."""
    return any(getattr(func, "__name__", "") in _SLICING for func in _functions(task.run_spec))


def _homes(
    tasks: Iterable[Any], there: Iterable[Any], threads: dict[str, int], evenly: bool
) -> tuple[dict[Any, str], dict[str, float]]:
    """Return where tasks should run that may run anywhere, and the bytes that workers get."""
    places = {read: {worker.address for worker in read.who_has} for read in there}
    sizes: dict[Any, float] = {read: max(read.nbytes, 1) for read in there}
    homes: dict[Any, str] = {}
    loads: dict[str, float] = dict.fromkeys(threads, 0.0)
    for task in tasks:
        sizes[task] = _guessed(task, sizes)
        here: defaultdict[str, float] = defaultdict(float)
        elsewhere = 0.0
        for read in task.dependencies:
            for place in places.get(read, ()):
                here[place] += sizes[read]
            elsewhere += 0 if read in places else sizes.get(read, math.inf)
        asked = task.worker_restrictions
        home = None
        if asked and len(asked) == 1:
            (home,) = asked
        elif here and _may_be_moved(task) and max(here.values()) >= elsewhere:
            home = home_of_task(here, sizes[task], loads, threads, evenly)
            homes[task] = home
        if home is not None:
            places[task] = {home}
            loads[home] += sizes[task]
    return homes, loads


def _guessed(task: Any, sizes: dict[Any, float]) -> float:
    """Return about how many bytes a task will make; infinitely many if that cannot be known."""
    if not task.dependencies:
        value = getattr(task.run_spec, "value", task)
        return math.inf if value is task else getattr(value, "nbytes", 0)
    known = [sizes.get(read, math.inf) for read in task.dependencies]
    name = str(task.key[0] if isinstance(task.key, tuple) else task.key)
    if name.startswith(HALO):
        return max(known) / _THIN
    if len(known) == 1:  # one of several parts of a block, or all of it
        (read,) = task.dependencies
        return known[0] / max(1, len(read.dependents))
    return sum(known) if "merge" in name else max(known)
