"""The cluster that dask runs on from here, and which workers it has.

To ask the scheduler takes longer than to make a small graph: in a solve, the workers are those
that there were when the last execution began.
"""

from __future__ import annotations

import math
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import dask
from dask.context import thread_state


class _Seen(NamedTuple):
    threads: dict[str, int]  # by the addresses of workers
    at: float  # seconds, of a clock that only goes forward


_seen: weakref.WeakKeyDictionary[Any, _Seen] = weakref.WeakKeyDictionary()


def client_in_use() -> Any:
    """Return the client that dask runs on from here, None for another scheduler."""
    distributed: Any = sys.modules.get("distributed")
    if not hasattr(distributed, "Client"):  # another thread may be importing it
        return None
    chosen = dask.config.get("scheduler", None)
    if isinstance(chosen, distributed.Client):
        client = chosen
    elif chosen in (None, "distributed", "dask.distributed"):
        try:
            # of a task, dask takes the client of its worker (dask.base.get_scheduler)
            client = distributed.get_worker().client if in_task() else distributed.Client.current()
        except ValueError:  # there is none
            return None
    else:
        return None
    return None if client.asynchronous or client.status != "running" else client


def in_task() -> bool:
    """Whether this is a thread of a worker, which runs a task."""
    return bool(getattr(thread_state, "key", None))  # as Client.get asks


@contextmanager
def beside_other_tasks() -> Iterator[None]:
    """Let a worker take up other tasks while one that runs here waits for what they give.

    Outside of tasks, and within such a context, nothing is done. At the end the task waits until
    a thread of the worker is free, as it does after ``compute()``.
    """
    if not in_task():
        yield
        return
    import distributed

    try:
        distributed.secede()
    except KeyError:  # it does not belong to the worker's threads at the moment
        yield
        return
    try:
        yield
    finally:
        distributed.rejoin()


def threads_by_worker(client: Any, age: float = 0.0) -> dict[str, int]:
    """Return the workers of a cluster and how many threads each has.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    age : float, optional
        Seconds that the answer may be old. Default 0: the scheduler is asked.

    Returns
    -------
    dict
        Numbers of threads by addresses, in the order of these.
    """
    seen = _seen.get(client)
    if seen is None or time.monotonic() - seen.at >= age:
        threads = client.nthreads()
        seen = _seen[client] = _Seen(dict(sorted(threads.items())), time.monotonic())
    return seen.threads


def number_of_workers() -> int:
    """Return how many workers the cluster has that dask runs on from here, 1 without one."""
    client = client_in_use()
    return 1 if client is None else max(1, len(threads_by_worker(client, math.inf)))
