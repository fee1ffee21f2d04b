"""Whether operators take n-dimensional arrays, for each thread apart.

A solver switches that off while it runs: ``add_ndarray_support_to_solver``
(pylops/utils/decorators.py) enters ``disabled_ndarray_multiplication`` (pylops/config.py), which
changes a global and puts it back. Of two solves at once, the one that ends last puts back what
the other had set, and no operator takes n-dimensional arrays any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pylops

# what a ``with`` block has set in this thread; None outside of such blocks
_in_block: ContextVar[bool | None] = ContextVar("ndarray_multiplication", default=None)


def _getter(original: Callable[[], bool]) -> Callable[[], bool]:
    def wrapper() -> bool:
        own = _in_block.get()
        return original() if own is None else own

    return wrapper


def _setter(original: Callable[[bool], None]) -> Callable[[bool], None]:
    def wrapper(val: bool) -> None:
        if _in_block.get() is None:
            original(val)
        else:
            _in_block.set(val)

    return wrapper


def _block(value: bool) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        @contextmanager
        def wrapper() -> Iterator[bool]:
            before = pylops.get_ndarray_multiplication()
            token = _in_block.set(value)
            try:
                yield before
            finally:
                _in_block.reset(token)

        return wrapper

    return make


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "get_ndarray_multiplication": _getter,
    "set_ndarray_multiplication": _setter,
    "enabled_ndarray_multiplication": _block(True),
    "disabled_ndarray_multiplication": _block(False),
}
