"""What an error inside an operator says about where it happened."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dask._task_spec import Task
from pylops import LinearOperator

from pylops_dispatch.policy import WRAPPERS


@contextmanager
def noted(op: Any, method: str, x: Any) -> Iterator[None]:
    """Add a note to any error in the block: operator, place and shape, PyLops's line.

    Notes are part of the exception: they come along from threads and from workers.

    Parameters
    ----------
    op : LinearOperator
        What runs.
    method : str
        Its method.
    x : array
        The block that it runs on.
    """
    try:
        yield
    except Exception as error:
        if not was_noted(error):
            error.add_note(
                f"while running on a block: {type(op).__name__}.{method}{_part(error, op)} on a "
                f"block of shape {tuple(x.shape)} and dtype {x.dtype}, {_place()}{_line(error)}"
            )
        raise


@contextmanager
def noted_function(name: str, where: str, x: Any) -> Iterator[None]:
    """Add a note to any error in the block: a function that code of an operator has called.

    Parameters
    ----------
    name : str
        Of the function.
    where : str
        What called it: the operator's method, and its line.
    x : array
        What it is given first.
    """
    try:
        yield
    except Exception as error:
        error.add_note(
            f"while running on a block: {name} on an array of shape {tuple(x.shape)} and dtype "
            f"{x.dtype}, for {where}"
        )
        raise


def note_step(error: BaseException, solver: Any, number: int | None) -> None:
    """Add a note to an error of a cluster: in which step of a solver it came, and what to do.

    Parameters
    ----------
    error : BaseException
        That a step raised.
    solver : pylops.optimization.basesolver.Solver
        Whose step it is.
    number : int or None
        Of the step; None of what comes before the first.
    """
    distributed = sys.modules.get("distributed")
    if distributed is None or not isinstance(
        error, (distributed.CancelledError, distributed.comm.CommClosedError)
    ):
        return
    name = type(solver).__name__
    where = f"as {name} was set up" if number is None else f"in step {number} of {name}"
    lost = (
        f"{where}: blocks that it needs went with the cluster, with more "
        "than one of its workers at once, or were cancelled. "
    )
    note = lost + (
        "Make the data and the operator's arrays anew, and persist them again"
        if number is None
        else "The last complete solution is in solver.x, if its blocks are left; with "
        "pylops_dispatch.checkpoint(store) among the solver's callbacks, pylops_dispatch.resume "
        "goes on from what is on disk"
    )
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def note_asynchronous(error: RuntimeError) -> None:
    """Add a note to the error by which dask refuses to wait for a client in its event loop."""
    if "asynchronous Client" in str(error):
        error.add_note(
            "A solver reads numbers, which it has to wait for: solve in a thread of its own, with "
            "a client that is not asynchronous (asyncio.to_thread)."
        )


def note_blocks_elsewhere(error: ValueError) -> None:
    """Add a note to the error by which dask says that a graph in this process reads futures.

    Parameters
    ----------
    error : ValueError
        Of ``dask._task_spec`` or ``dask.local``: "Missing dependency ...".
    """
    if str(error).startswith("Missing dependency"):
        error.add_note(
            "blocks of the data, or of what the operator holds, lie on a cluster, and dask runs in "
            "this process here: the client was closed, or another scheduler is set. Solve where "
            "the client is open and no other scheduler set (dask.config), or with what .compute() "
            "of these arrays has brought here"
        )


def was_noted(error: BaseException) -> bool:
    """Whether an error came up while an operator ran on a block."""
    return any("while running on a block" in note for note in getattr(error, "__notes__", ()))


def _place() -> str:
    """Say which block of the array the running task is for, from the name of that task."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        task = frame.f_locals.get("self")
        if isinstance(task, Task) and isinstance(task.key, tuple):
            return f"block {task.key[1:]} of {task.key[0]}"
        frame = frame.f_back
    return "which was run to learn its dtype"


def _part(error: BaseException, op: Any) -> str:
    """Name the operator within others, stacked or multiplied, whose code raised the error."""
    found = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        part, method = frame.f_locals.get("self"), frame.f_code.co_name
        if isinstance(part, LinearOperator) and method in _METHODS:
            found = "" if type(part) is type(op) else f", in {type(part).__name__}.{method}"
    return found


_METHODS = ("_matvec", "_rmatvec", "_matmat", "_rmatmat")


def _line(error: BaseException) -> str:
    """Name the last line of an operator's, or of PyLops's, that the error went through."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        own = frame.f_code.co_name in _METHODS and module.partition(".")[0] != "pylops_dispatch"
        if own or (module.partition(".")[0] == "pylops" and module not in WRAPPERS):
            path = "/".join(frame.f_code.co_filename.replace("\\", "/").split("/")[-3:])
            found = f" ({path}:{line})"
    return found
