"""One thread of BLAS in each block: dask's threads are already as many as there are cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import threadpoolctl


class _OneBlasThread:
    """Counts the blocks that are running, and gives BLAS one thread while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._controller: threadpoolctl.ThreadpoolController | None = None
        self._limit: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._controller = self._controller or threadpoolctl.ThreadpoolController()
                _hand_over()
                self._limit = self._controller.limit(limits=1, user_api="blas")
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    _hand_over()
                    self._limit.restore_original_limits()
                    _hand_over()


def _hand_over() -> None:
    """Let any thread set limits: since threadpoolctl 3.8 only the one that did first may.

    Other threads are ignored without a word, and here the first block to start and the last to
    end are mostly in two threads.
    """
    controller = getattr(threadpoolctl, "OpenBLASController", None)
    clear = getattr(controller, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


one_blas_thread = _OneBlasThread()
