"""Which of their variables functions that are running will still read."""

from __future__ import annotations

import dis
import functools
import inspect
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
