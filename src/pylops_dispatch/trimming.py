"""Freed memory that malloc has kept goes back to the system before a worker runs into its limit.

``distributed`` stops a worker that has reached 80% of its limit, for good where what is left is
not its blocks, which it can write to disk, but memory that malloc keeps for the next ones.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from distributed import Worker, WorkerPlugin
from tornado.ioloop import PeriodicCallback

_INTERVAL = 500  # milliseconds; distributed looks each 200
_TARGET = 0.6  # of the limit, as distributed's own, from which on it writes blocks to disk
_NAME = "pylops-dispatch-trim"


class Trim(WorkerPlugin):
    """Has malloc give back what it keeps while a worker is above its target.

    The source is "Automatically trim memory" in the documentation of ``distributed``.
    """

    name = _NAME

    def setup(self, worker: Worker) -> None:
        """Look at the memory of a worker from now on."""
        trim = _malloc_trim()
        manager = worker.memory_manager
        if trim is None or not manager.memory_limit:
            return
        most = manager.memory_limit * (manager.memory_target_fraction or _TARGET)

        def look() -> None:
            if worker.monitor.get_process_memory() > most:
                trim(0)

        worker.periodic_callbacks[_NAME] = callback = PeriodicCallback(look, _INTERVAL)
        callback.start()

    def teardown(self, worker: Worker) -> None:
        """Look no longer."""
        callback = worker.periodic_callbacks.pop(_NAME, None)
        if callback is not None:
            callback.stop()


def _malloc_trim() -> Any:
    """Return glibc's function; other libraries have none."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
