"""Copies of objects with all that they hold, and what is within them."""

from __future__ import annotations

import array
import copy
import functools
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from dask.array.core import Array as DaskArray

from pylops_dispatch.array import DispatchArray
from pylops_dispatch.naming import DEPTH, is_machinery
from pylops_dispatch.operators import (
    alike,
    all_parts,
    duplicate,
    for_tasks,
    is_operator,
    runs_users_code,
)
from pylops_dispatch.pieces import share_identity

_ATOMS = (str, bytes, int, float, complex, type(None), np.generic, np.dtype)
_CLOSED = (type, types.ModuleType, np.ndarray, DaskArray, DispatchArray)
# what is drawn from them changes them, and they hold all that they are
_GENERATORS = (np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
_CONTAINERS = (dict, list, set, deque, bytearray, array.array)


def _is_atom(value: Any) -> bool:
    """Whether a value has nothing that may change: objects of classes made of these may."""
    return isinstance(value, _ATOMS) and not getattr(value, "__dict__", None)


# ---- what is within ----------------------------------------------------------------------


def all_within(value: Any, functions: bool = False) -> Iterator[Any]:
    """Yield an object and all that it holds, each once, but no numbers and strings.

    Parameters
    ----------
    value : object
        What is looked at, and not copied.
    functions : bool, optional
        Whether to look at what functions close over, or were given before, as well.

    Yields
    ------
    object
        Arrays are not looked into, nor is what :func:`.is_machinery`.
    """
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        held = waiting.pop()
        if not _is_atom(held) and id(held) not in seen:
            seen[id(held)] = held
            yield held
            waiting.extend(_held_by(held, functions))


def _held_by(value: Any, functions: bool) -> Iterable[Any]:
    if isinstance(value, _CLOSED) or is_machinery(value):
        return ()
    if isinstance(value, types.MethodType):
        return value.__self__, value.__func__
    if isinstance(value, functools.partial):
        return (value.func, value.args, value.keywords) if functions else ()
    if isinstance(value, types.FunctionType):
        return _held_by_function(value) if functions else ()
    items = value.values() if isinstance(value, dict) else value
    held = items if isinstance(value, (dict, list, tuple, set, frozenset, deque)) else ()
    attributes = getattr(value, "__dict__", None)
    return (*held, *attributes.values()) if isinstance(attributes, dict) else held


def _held_by_function(function: types.FunctionType) -> Iterator[Any]:
    yield from (function.__defaults__, function.__kwdefaults__, vars(function))
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # nothing was put there yet
            yield cell.cell_contents


def arrays_within(value: Any) -> list[np.ndarray[Any, Any]]:
    """Return the NumPy arrays that an object holds, and all that it holds, each once."""
    held = all_within(value, functions=True)
    return [array for array in held if isinstance(array, np.ndarray) and array.size]


# ---- copies ------------------------------------------------------------------------------


def copied(
    value: Any,
    change: Callable[[Any], Any],
    shared: tuple[type, ...] = (),
    functions: bool = False,
    depth: int | None = None,
) -> Any:
    """Return a copy of an object, and of all that it holds, but not of NumPy and dask arrays.

    What is held twice is copied once, in circles as well. Objects whose copies cannot be trusted
    are shared.

    Parameters
    ----------
    value : object
        What is copied.
    change : callable
        What it returns something else for is replaced by that.
    shared : tuple of type, optional
        Instances of these are shared.
    functions : bool, optional
        Whether functions are copied that close over something, or were given it before.
    depth : int, optional
        Copy objects within so many others, and no objects that PyLops's own operators hold.

    Returns
    -------
    object
        That has the names of the objects that it was copied from.
    """
    return _Copying(change, (*_CLOSED, *shared), functions, depth).whole(value)


def with_own_settings(op: Any) -> Any:
    """Return an operator that later changes of what users' classes hold do not reach.

    It looks as deep as its name does. Lists and dicts that functions close over are shared: calls
    may be noted there.
    """
    if not any(map(runs_users_code, all_parts(op))):
        return op
    return copied(op, settled, functions=True, depth=DEPTH)


def settled(value: Any) -> Any:
    """Return a box that is not written to any more, and anything else as it is."""
    return value.copy() if isinstance(value, DispatchArray) else value


class _Copying:
    """Makes copies of objects first, and lets them hold copies after that: none waits for itself.

    Parameters
    ----------
    change, shared, functions, depth : object
        As :func:`copied` has them.
    """

    def __init__(
        self,
        change: Callable[[Any], Any],
        shared: tuple[type, ...],
        functions: bool,
        depth: int | None,
    ) -> None:
        self._change = change
        self._shared = shared
        self._functions = functions
        self._depth = depth
        # with the originals, so that no other object has their addresses meanwhile
        self._known: dict[int, tuple[Any, Any]] = {}
        self._waiting: deque[Callable[[], None]] = deque()

    def whole(self, value: Any) -> Any:
        """Return the copy of an object."""
        new = self._of(value, 0)
        while self._waiting:
            self._waiting.popleft()()
        return new

    def _of(self, value: Any, level: int) -> Any:
        if _is_atom(value):
            return value
        if id(value) not in self._known:
            self._known[id(value)] = value, self._made(value, level)
        return self._known[id(value)][1]

    def _made(self, value: Any, level: int) -> Any:
        new = self._change(value)
        if new is not value or isinstance(value, self._shared) or is_machinery(value):
            return new
        if isinstance(value, tuple):
            return self._tuple(value, level)
        if isinstance(value, types.MethodType):
            return self._method(value, level)
        if isinstance(value, functools.partial):
            return self._partial(value, level)
        if isinstance(value, types.FunctionType):
            return self._function(value, level)
        return self._object(value, level)

    def _tuple(self, value: Any, level: int) -> Any:
        items = [self._of(item, level) for item in value]
        return value if _are_the_same(items, value) else alike(value, items)

    def _method(self, value: types.MethodType, level: int) -> Any:
        owner, function = value.__self__, value.__func__
        own = getattr(type(owner), getattr(function, "__name__", ""), None) is function
        new = self._of(owner, level), function if own else self._of(function, level)
        return value if _are_the_same(new, (owner, function)) else types.MethodType(new[1], new[0])

    def _partial(self, value: Any, level: int) -> Any:
        if not self._functions:
            return value
        given = (value.func, *value.args, *value.keywords.values())
        new = [self._of(item, level) for item in given]
        if _are_the_same(new, given):
            return value
        positional = len(value.args) + 1
        named = dict(zip(value.keywords, new[positional:], strict=True))
        return functools.partial(new[0], *new[1:positional], **named)

    def _function(self, value: types.FunctionType, level: int) -> Any:
        """Return a function with cells of its own, itself if it finds its settings elsewhere."""
        if not self._functions or self._is_deep(level) or _is_importable(value):
            return value
        defaults = self._of(value.__defaults__, level)
        if not value.__closure__ and not value.__kwdefaults__ and defaults is value.__defaults__:
            return value
        cells = tuple(self._cell(cell, level + 1) for cell in value.__closure__ or ())
        new = types.FunctionType(
            value.__code__, value.__globals__, value.__name__, defaults, cells or None
        )
        new.__kwdefaults__ = self._of(value.__kwdefaults__, level)
        new.__module__, new.__qualname__ = value.__module__, value.__qualname__
        vars(new).update(vars(value))
        return self._to_be_filled(value, new, level)

    def _cell(self, cell: types.CellType, level: int) -> types.CellType:
        if id(cell) not in self._known:
            new = types.CellType()
            self._known[id(cell)] = cell, new
            self._waiting.append(functools.partial(self._fill_cell, cell, new, level))
        found: types.CellType = self._known[id(cell)][1]
        return found

    def _fill_cell(self, cell: types.CellType, new: types.CellType, level: int) -> None:
        try:
            held = cell.cell_contents
        except ValueError:  # nothing was put there yet
            return
        # a list that a function closes over may be what it reports to
        reported = self._depth is not None and isinstance(held, _CONTAINERS)
        new.cell_contents = held if reported else self._of(held, level)

    def _object(self, value: Any, level: int) -> Any:
        if isinstance(value, _GENERATORS):
            return copy.deepcopy(value)
        kept = is_operator(value) or isinstance(value, _CONTAINERS)
        if not kept and (not hasattr(value, "__dict__") or self._is_deep(level)):
            return value
        new = _shell(value)
        return value if new is None else self._to_be_filled(value, new, level)

    def _is_deep(self, level: int) -> bool:
        return self._depth is not None and level >= self._depth

    def _to_be_filled(self, value: Any, new: Any, level: int) -> Any:
        self._known[id(new)] = new, new  # a copy of an operator has its own methods already
        self._waiting.append(functools.partial(self._fill, new, level))
        if not is_operator(new) and not isinstance(new, _CONTAINERS):
            with suppress(TypeError):  # nothing tells when it goes
                share_identity(new, value)
        return new

    def _fill(self, new: Any, level: int) -> None:
        if isinstance(new, dict):
            for key, held in list(dict.items(new)):
                dict.__setitem__(new, key, self._of(held, level))
        elif isinstance(new, (list, deque)):
            for number, held in enumerate(list(new)):
                new[number] = self._of(held, level)
        attributes = getattr(new, "__dict__", None)
        if isinstance(attributes, dict) and attributes is not new:
            inner = level if is_operator(new) else level + 1
            for name, held in list(attributes.items()):
                if self._looks_at(new, held):
                    attributes[name] = self._of(held, inner)

    def _looks_at(self, owner: Any, held: Any) -> bool:
        """Whether what an object holds may be changed in place: not what is a library's."""
        if self._depth is None or not is_operator(owner) or runs_users_code(owner):
            return True
        return is_operator(held) or isinstance(held, (list, tuple, types.MethodType))


def _are_the_same(new: Iterable[Any], old: Iterable[Any]) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))


def _is_importable(function: types.FunctionType) -> bool:
    """Whether a function is a global of a module, which other processes have too."""
    if function.__module__ == "__main__" or "<" in function.__qualname__:
        return False
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def _shell(value: Any) -> Any:
    """Return a copy of an object that holds the same, None where such a copy cannot be trusted."""
    if is_operator(value):
        return duplicate(for_tasks(value))
    if hasattr(type(value), "__del__"):  # a copy that goes would end what both hold
        return None
    if not isinstance(value, _CONTAINERS) and not _is_plain(type(value)):
        return None
    try:
        new = copy.copy(value)
    except Exception:  # whatever a class says of copies
        return None
    if type(new) is not type(value) or new is value:
        return None
    if getattr(value, "__dict__", None) is value:  # keys that are attributes
        new.__dict__ = new
    return new


_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")


def _is_plain(cls: type) -> bool:
    """Whether objects are what their attributes are, or their class says how they are copied."""
    usual = (object, types.SimpleNamespace)
    return hasattr(cls, "__copy__") or all(
        any(getattr(cls, name, None) is getattr(base, name, None) for base in usual)
        for name in _PICKLING
    )
