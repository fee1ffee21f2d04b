"""Whole-array tasks of operators with a user's code: one of an operator at a time in a process.

Such an operator may write into arrays of its own, which all copies of it share; no more than one
thread can do so. Each operator of a tree that runs a user's code is known by a name that goes
with the tasks, to other processes too.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from pylops_dispatch.array import found
from pylops_dispatch.operators import all_parts, runs_users_code
from pylops_dispatch.pieces import identity

# the name of an operator, and how many tasks of it this one is made inside of
Turn = tuple[str, int]

_locks: weakref.WeakValueDictionary[Turn, Any] = weakref.WeakValueDictionary()
_making = threading.Lock()
_thread = threading.local()


def turns_of(op: Any) -> tuple[Turn, ...]:
    """Return the turns that a task of an operator has to wait for, in an order that all keep.

    A task whose code makes a graph and computes it waits for that: tasks of the same operators in
    there have turns among themselves.
    """
    names = {identity(part) for part in all_parts(op) if runs_users_code(part)}
    taken = _taken()
    return tuple(sorted((name, taken.get(name, -1) + 1) for name in names))


@contextmanager
def in_turn(turns: tuple[Turn, ...]) -> Iterator[None]:
    """Wait until no other thread has one of these turns, and keep them for the block."""
    with ExitStack() as stack:
        for lock in [_lock_of(turn) for turn in turns]:
            stack.enter_context(lock)
        before = _taken()
        _thread.taken = {**before, **dict(turns)}
        try:
            yield
        finally:
            _thread.taken = before


def _taken() -> dict[str, int]:
    taken: dict[str, int] = vars(_thread).get("taken", {})
    return taken


def _lock_of(turn: Turn) -> Any:
    with _making:
        return _locks.setdefault(turn, threading.RLock())


def out_of_own_memory(y: Any, op: Any) -> Any:
    """Return a result, as a copy if it lies in an array of the operator, which is written anew."""
    held = (
        array
        for part in all_parts(op)
        for array in found(vars(part), lambda value: isinstance(value, np.ndarray))
    )
    return y.copy() if any(np.may_share_memory(y, array) for array in held) else y
