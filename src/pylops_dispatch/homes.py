"""Where the tasks of a graph should run on a cluster: with most of what they read, and evenly."""

from __future__ import annotations

from collections.abc import Mapping

_EVEN = 1.5  # of a worker's share


def are_even(loads: Mapping[str, float], threads: Mapping[str, int]) -> bool:
    """Whether no worker has much more than its share.

    Parameters
    ----------
    loads : mapping
        Bytes by workers.
    threads : mapping
        Threads of all workers.

    Returns
    -------
    bool
        Also true if there is nothing.
    """
    share = sum(loads.values()) / sum(threads.values())
    return all(load <= _EVEN * share * threads.get(worker, 1) for worker, load in loads.items())


def home_of_task(
    here: Mapping[str, float],
    size: float,
    loads: Mapping[str, float],
    threads: Mapping[str, int],
    evenly: bool,
) -> str:
    """Return the worker that has most of what a task reads.

    Parameters
    ----------
    here : mapping
        Bytes that the task reads, by the workers that will have them.
    size : float
        Bytes of its result.
    loads : mapping
        Bytes of the results before it, by the workers that they were given to.
    threads : mapping
        Threads of all workers.
    evenly : bool
        Whether to pass over workers that have more than others by more than this result.

    Returns
    -------
    str
        One of those that will have something of it.
    """

    def load(worker: str) -> float:
        return loads.get(worker, 0) / threads.get(worker, 1)

    found = list(here)
    if evenly:
        least = min(map(load, threads))
        found = [w for w in found if load(w) - least <= size / threads.get(w, 1)] or found
    return max(found, key=lambda w: (here[w], -load(w), w))
