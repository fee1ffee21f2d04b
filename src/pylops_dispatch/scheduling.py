"""What a scheduler of ``distributed`` is told: which worker takes a task, if it is there."""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from dask._task_spec import _execute_subgraph
from distributed import SchedulerPlugin

from pylops_dispatch.halos import HALO
from pylops_dispatch.homes import BARRIER, Given, are_even, home_of_task
from pylops_dispatch.renaming import name_in

_LARGE = 1 << 20  # bytes
_MUCH_MORE = 4
_SLICING = {"getitem", "_part"}
_AROUND = {"", "_execute_subgraph"}  # of ``Task.fuse``
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

    async def start(self, scheduler: Any) -> None:
        """Know the scheduler."""
        self._scheduler = scheduler
        self._largest: dict[str, int] = {}  # bytes that a task of a kind has made

    def update_graph(self, scheduler: Any, *, tasks: Collection[Any], **kwargs: Any) -> None:
        """Say for tasks of a new graph where they should run, before any of them does."""
        if len(scheduler.workers) < 2:
            return
        found = [task for task in map(scheduler.tasks.get, tasks) if task is not None]
        for task in found:
            home = _home(scheduler, task) if task.dependencies and _may_be_moved(task) else None
            if home is not None:
                _ask(task, home)
        if any(map(_is_ours, found)):
            _keep_together(scheduler, found, self._largest)

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Let go of a wish for a worker that takes no tasks: another one may, when it comes.

        And remember what tasks make, for those like them.
        """
        if finish == "memory":
            task = self._scheduler.tasks.get(key)
            if task is not None:
                kind = task.prefix.name
                self._largest[kind] = max(self._largest.get(kind, 0), task.nbytes)
        if finish == "no-worker":
            task = self._scheduler.tasks.get(key)
            if task is not None and isinstance(task.worker_restrictions, _Wish):
                self._scheduler.set_restrictions({key: None})

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """Let go of wishes before the scheduler looks for what a new worker can run."""
        waiting = [task.key for task in scheduler.unrunnable if task.loose_restrictions]
        scheduler.set_restrictions(dict.fromkeys(waiting))


class _Wish(set[str]):
    """The worker that a task is asked for on, by this plugin and not by a user."""


def _ask(task: Any, home: str) -> None:
    task.worker_restrictions = _Wish({home})
    task.loose_restrictions = True


def _may_be_moved(task: Any) -> bool:
    """Whether nobody has said where a task must run.

    A shuffle gives its blocks to the workers that its barrier may run on, whatever else is there
    (``ShuffleSchedulerPlugin._calculate_worker_for``).
    """
    free = not task.worker_restrictions or task.loose_restrictions
    is_barrier = name_in(task.key).startswith(BARRIER)
    return free and not is_barrier and not task.host_restrictions and not task.resource_restrictions


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
    for argument in getattr(node, "args", ()) if func is _execute_subgraph else ():
        for inner in argument.values() if isinstance(argument, dict) else ():
            yield from _functions(inner)


def _keep_together(scheduler: Any, tasks: Iterable[Any], largest: Mapping[str, int]) -> None:
    """Ask for each task that is left to the scheduler where most of what it reads will lie.

    Sizes of what has not been worked out are guessed from what it is made of, and from the
    `largest` that tasks of its kind have made: a product with a matrix is not as large as that.
    Where workers would get uneven shares, because of where the data lie or of a block that many
    tasks read, work is left to the scheduler, but for slices, and what is one of too few blocks to
    be shared out.
    """
    waiting = (t for t in tasks if not t.who_has and t.priority is not None)
    new = sorted(waiting, key=lambda task: task.priority)
    there = {read for task in new for read in task.dependencies if read.who_has}
    threads = {address: worker.nthreads for address, worker in scheduler.workers.items()}
    if not there:
        return
    homes, given = _homes(new, there, threads, largest, evenly=False)
    if not are_even(given.values(), threads):
        homes, given = _homes(new, there, threads, largest, evenly=True)
    evenly = are_even(given.values(), threads)
    left: set[Any] = set()  # to the scheduler
    for task, home in homes.items():
        few = given[name_in(task.key)].count < sum(threads.values())
        if evenly or ((few or _is_slice(task)) and left.isdisjoint(task.dependencies)):
            _ask(task, home)
        else:
            left.add(task)


def _is_slice(task: Any) -> bool:
    """Whether a task takes part of a block, and no more: less work than to send the block."""
    names = {getattr(func, "__name__", "") for func in _functions(task.run_spec)}
    return bool(names & _SLICING) and names <= _SLICING | _AROUND


def _homes(
    tasks: Iterable[Any],
    there: Iterable[Any],
    threads: dict[str, int],
    largest: Mapping[str, int],
    evenly: bool,
) -> tuple[dict[Any, str], dict[str, Given]]:
    """Return where tasks should run that may run anywhere, and what workers get so."""
    places = {read: {worker.address for worker in read.who_has} for read in there}
    sizes: dict[Any, float] = {read: max(read.nbytes, 1) for read in there}
    homes: dict[Any, str] = {}
    given: defaultdict[str, Given] = defaultdict(Given)
    for task in tasks:
        sizes[task] = min(_guessed(task, sizes), largest.get(task.prefix.name, math.inf))
        here: defaultdict[str, float] = defaultdict(float)
        elsewhere = 0.0
        for read in task.dependencies:
            for place in places.get(read, ()):
                here[place] += sizes[read]
            elsewhere += 0 if read in places else sizes.get(read, math.inf)
        asked = set(task.worker_restrictions or threads) & threads.keys()
        home = None
        if task.processing_on is not None:  # it is a part of a graph before this one, too
            home = task.processing_on.address
        elif len(asked) == 1 and task.worker_restrictions:
            (home,) = asked
        elif here and _may_be_moved(task) and max(here.values()) >= elsewhere:
            wanted = {worker: size for worker, size in here.items() if worker in asked}
            if wanted:
                own = given[name_in(task.key)]
                home = homes[task] = home_of_task(wanted, own, threads, evenly)
        if home is not None:
            places[task] = {home}
            given[name_in(task.key)].give(home, sizes[task])
    return homes, given


def _guessed(task: Any, sizes: dict[Any, float]) -> float:
    """Return about how many bytes a task will make; infinitely many if that cannot be known."""
    if not task.dependencies:
        value = getattr(task.run_spec, "value", task)
        return math.inf if value is task else getattr(value, "nbytes", 0)
    known = [sizes.get(read, math.inf) for read in task.dependencies]
    name = name_in(task.key)
    if name.startswith(HALO):
        return max(known) / _THIN
    if len(known) == 1:  # one of several parts of a block, or all of it
        (read,) = task.dependencies
        return known[0] / max(1, len(read.dependents))
    return sum(known) if "merge" in name else max(known)
