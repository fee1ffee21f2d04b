"""NumPy arrays that code of an operator writes into after they went into its graph.

``buffer[:] = row; y = y + buffer * x``, in a loop: NumPy multiplies at once, and a graph finds in
each of its tasks what the buffer holds in the end. Small arrays are copied as they enter a graph
(:func:`pylops_dispatch.pieces.wrap_numpy`). Whether large ones that a user's code has used hold
the same at its end is looked at; if not, the code runs again on copies, as it does from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np

from pylops_dispatch.pieces import copied_if_small, identity, keep_for, samples, taking
from pylops_dispatch.remembering import checksum

Result = TypeVar("Result")

_SUMMED = 1 << 22  # bytes: of larger arrays some samples tell

_refill: dict[str, bool] = {}  # operators whose code does
# large arrays that went into graphs, and what told their contents then
_entered: ContextVar[list[tuple[np.ndarray[Any, Any], Any]] | None] = ContextVar(
    "entered", default=None
)


def run_users_code(op: Any, run: Callable[[], Result], put_back: Callable[[], None]) -> Result:
    """Return what code of an operator makes, from what arrays held as it used them.

    Parameters
    ----------
    op : LinearOperator
        Whose code it is.
    run : callable
        Runs the code.
    put_back : callable
        Makes the operator what it was, so that `run` may be called again.

    Returns
    -------
    object
        What `run` returns.
    """
    if taking.get() is np.copy or (_refill and identity(op) in _refill):
        return _on_copies(run)
    outer = _entered.get()
    entered: list[tuple[np.ndarray[Any, Any], Any]] = []
    tokens = _entered.set(entered), taking.set(_noted)
    try:
        result = run()
    finally:
        _entered.reset(tokens[0])
        taking.reset(tokens[1])
    if all(_contents(array) == before for array, before in entered):
        if outer is not None:
            outer.extend(entered)
        return result
    keep_for(op, _refill, True)
    put_back()
    return _on_copies(run)


def _on_copies(run: Callable[[], Result]) -> Result:
    token = taking.set(np.copy)
    try:
        return run()
    finally:
        taking.reset(token)


def _noted(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    own = copied_if_small(array)
    entered = _entered.get()
    if own is array and entered is not None:
        entered.append((array, _contents(array)))
    return own


def _contents(array: np.ndarray[Any, Any]) -> Any:
    return checksum(array) if array.nbytes <= _SUMMED else samples(array)
