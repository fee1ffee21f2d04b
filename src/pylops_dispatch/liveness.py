"""Which of their variables functions that are running will still read, and which nobody can."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any


def variables(frame: FrameType) -> tuple[list[Any], list[Any]]:
    """Return the variables of a function: those that it may read again, and the others.

    Parameters
    ----------
    frame : frame
        Of a function that waits for what it has called.

    Returns
    -------
    again, never : list
        Their values.
    """
    code = frame.f_code
    if not code.co_flags & inspect.CO_OPTIMIZED:  # a module or a class
        return list(frame.f_locals.values()), []
    found = frame.f_locals
    read = _read_after(code, frame.f_lasti)
    again = [value for name, value in found.items() if name in read]
    never = [value for name, value in found.items() if name not in read]
    if isinstance(found, dict):
        found.clear()  # before Python 3.13 a copy, which the frame would keep
    return again, never


# loops of this package that stand for others' read vectors of their own
_SOLVERS = (f"{__package__}.scipy_solvers",)


def all_variables(until: str) -> tuple[list[Any], list[Any]]:
    """Return the variables of all functions that are running, as :func:`variables` does.

    Parameters
    ----------
    until : str
        Module whose functions, and what has called them, are left out, as are this package's own
        but for solvers.

    Returns
    -------
    again, never : list
        Their values.
    """
    again: list[Any] = []
    never: list[Any] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != until:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] != __package__ or module in _SOLVERS:
            read, unread = variables(frame)
            again += read
            never += unread
        frame = frame.f_back
    return again, never


def unreachable(until: str, matches: Callable[[Any], bool]) -> list[Any]:
    """Return objects that nothing but variables that are never read again refers to.

    What waits for a function that has been called (an operand, an item of a list) is referred
    to by it, and counts as reachable; so does all that a debugger or a profiler looks at.

    Parameters
    ----------
    until : str
        Module at which to stop; see :func:`all_variables`.
    matches : callable
        Whether an object is to be looked at.

    Returns
    -------
    list
        The objects.
    """
    _, never = all_variables(until)
    variables_of = Counter(map(id, never))
    looked_at = list({id(value): value for value in never if matches(value)}.values())
    found = []
    while looked_at:
        value = looked_at.pop()
        # its variables, and each of them in `never`; and `value`, in this call
        if sys.getrefcount(value) <= 2 * variables_of[id(value)] + _ONE_VARIABLE:
            found.append(value)
    return found


def _counted_for_a_variable() -> int:
    value = object()
    return sys.getrefcount(value)


# of the variable, and of the argument of the call, which Python 3.14 does not count
_ONE_VARIABLE = _counted_for_a_variable()


@functools.lru_cache(maxsize=256)
def _read_after(code: CodeType, position: int) -> frozenset[str]:
    """Return the names that may be read after an instruction; any in a loop around it count."""
    instructions = list(dis.get_instructions(code))
    start = min(
        (
            int(i.argval)
            for i in instructions
            if i.opcode in dis.hasjrel + dis.hasjabs and i.argval <= position <= i.offset
        ),
        default=position + 1,
    )
    # functions defined in this one may read theirs at any time
    names = {*code.co_cellvars, *code.co_freevars}
    for instruction in instructions:
        if "LOAD_FAST" in instruction.opname and instruction.offset >= start:
            value = instruction.argval  # two names, since Python 3.13
            names.update(value if isinstance(value, tuple) else (value,))
    return frozenset(names)
