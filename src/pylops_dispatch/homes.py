"""Where the tasks of a graph should run on a cluster: with most of what they read, and evenly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_EVEN = 1.5  # of a worker's share
_MINOR = 0.25  # of the largest array: what is less may be uneven
_MUCH = 0.25  # of the most that a worker has of what a task reads

BARRIER = "shuffle-barrier-"
"""How the name of a task begins that says where blocks of a shuffle go."""


@dataclass
class Given:
    """What workers have been given of the blocks of one array."""

    bytes: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    largest: float = 0.0
    count: int = 0

    def give(self, worker: str, size: float) -> None:
        """Note that a worker has one more."""
        self.bytes[worker] += size
        self.largest = max(self.largest, size)
        self.count += 1


def are_even(given: Iterable[Given], threads: Mapping[str, int]) -> bool:
    """Whether no worker has much more than its share of any array, but for one block.

    Parameters
    ----------
    given : iterable of Given
        For each array. Those of fewer blocks than there are threads do not count, nor do small
        ones next to large ones.
    threads : mapping
        Threads of all workers.

    Returns
    -------
    bool
        Whether shares are even.
    """
    count = sum(threads.values())
    sizes = [(sum(each.bytes.values()), each) for each in given]
    most = max((total for total, _ in sizes), default=0)
    for total, each in sizes:
        if each.count < count or total < _MINOR * most:
            continue
        for worker, size in each.bytes.items():
            own = total / count * threads.get(worker, 1)
            if size > max(_EVEN * own, own + each.largest):
                return False
    return True


def home_of_task(
    here: Mapping[str, float], given: Given, threads: Mapping[str, int], evenly: bool
) -> str:
    """Return the worker that has most of what a task reads.

    Parameters
    ----------
    here : mapping
        Bytes that the task reads, by the workers that will have them.
    given : Given
        Other blocks of the same array, by the workers that were given them.
    threads : mapping
        Threads of all workers.
    evenly : bool
        Whether a worker that has been given more than another is that much less worth what it
        saves to send.

    Returns
    -------
    str
        One of those that will have much of it: to none is a matrix sent for the vector that it
        has, or a block for a face.
    """
    much = _MUCH * max(here.values())

    def load(worker: str) -> float:
        return given.bytes.get(worker, 0) / threads.get(worker, 1)

    least = min(map(load, threads)) if evenly else 0

    def worth(worker: str) -> float:
        return here[worker] - (load(worker) - least if evenly else 0)

    having = [worker for worker, size in here.items() if size >= much]
    return max(having, key=lambda worker: (worth(worker), -load(worker), worker))
