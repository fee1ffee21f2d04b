"""Tasks of a cluster that has lost all its workers go on with those that come."""

from __future__ import annotations

from typing import Any

from distributed import SchedulerPlugin


class AnyWorker(SchedulerPlugin):
    """Lets tasks run on a new worker that were to run on one that is gone, preferably.

    ``distributed`` does so for tasks that other workers may take as long as there are workers;
    those that found none wait for the very worker that they were to run on
    (``SchedulerState.bulk_schedule_unrunnable_after_adding_worker``).
    """

    name = "pylops-dispatch-any-worker"
    idempotent = True

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """Let go of wishes before the scheduler looks for what a new worker can run."""
        waiting = [task.key for task in scheduler.unrunnable if task.loose_restrictions]
        scheduler.set_restrictions(dict.fromkeys(waiting))
