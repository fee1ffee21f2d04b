"""What a scheduler of ``distributed`` is told: which worker takes a task, if it is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from distributed import SchedulerPlugin

_LARGE = 1 << 20  # bytes
_MUCH_MORE = 4


class Whereabouts(SchedulerPlugin):
    """Lets tasks run where the large arrays lie that they read, or on any worker after all.

    The scheduler weighs how long a worker is busy against how long a transfer takes, and knows
    neither before it has seen some: it sends matrices to other workers for products that take less
    time than that. Where there are two copies of what an operator holds, it cannot tell the one
    that tasks should read.

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
        for task in (scheduler.tasks.get(key) for key in tasks):
            if task is None or not task.dependencies or not _may_be_moved(task):
                continue
            home = _home(scheduler, task)
            if home is not None:
                task.worker_restrictions = {home}
                task.loose_restrictions = True

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
