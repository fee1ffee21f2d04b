"""Packages that are built on PyLops: their own ways in take dask arrays too.

Solvers that a package derives from PyLops's need nothing. Its other ways in are listed here, and
changed when it is imported, be that before or after this package.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

from pylops_dispatch import whole
from pylops_dispatch.array import (
    as_box,
    found,
    holds,
    is_box,
    is_dask,
    is_lazy,
    lift,
    session,
    walk,
)
from pylops_dispatch.construction import is_array
from pylops_dispatch.entry import is_unsuited
from pylops_dispatch.operators import is_made_of_lazy
from pylops_dispatch.pieces import identity, keep_for
from pylops_dispatch.policy import action, announce_whole, few_reads, reads_left
from pylops_dispatch.solvers import Session, in_session, lowered, result_of

# makes of a class, a method's name and the method another method
Wrap = Callable[[type, str, Callable[..., Any]], Callable[..., Any]]


class _Deciding(Session):
    """The boxes of a method whose answer is lazy: the policy says whether it may read values.

    Solvers that it calls read values as everywhere.
    """

    @property
    def may_read(self) -> bool:
        """Whether a solver is at work."""
        return bool(self._solving or self._solvers)


def _method(new_session: type[Session], number: bool) -> Wrap:
    def wrap(cls: type, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            of_lazy = is_made_of_lazy(self)
            if not of_lazy and not holds((args, kwargs), is_lazy):
                return original(self, *args, **kwargs)
            if of_lazy:
                args, kwargs = walk((args, kwargs), is_array, as_box)
            outer = session.get()
            current = new_session() if outer is None else outer
            current.visit(self)
            if outer is not None:
                args, kwargs = walk((args, kwargs), is_dask, as_box)
                return on_boxes(self, *args, **kwargs)
            with in_session(current):
                args, kwargs = walk((args, kwargs), is_dask, lift)
                result = on_boxes(self, *args, **kwargs)
                if isinstance(result, np.ndarray):  # it does not depend on what was given
                    result = as_box(result)
                return result_of(result)

        def on_boxes(self: Any, *args: Any, **kwargs: Any) -> Any:
            """Run the method's own code on boxes, and where it cannot take them, whole."""
            before, *given = whole.snapshot((self, args, kwargs))
            refused = _reading_much.get(identity(self), {})
            reason = refused.get(name)
            if reason is None:
                outer = reads_left()
                # a projection is a part of the method that calls it for each of its samples
                shared = outer if outer is not None and outer[0] <= _READS else None
                try:
                    with few_reads(_READS) if shared is None else nullcontext(shared) as reads:
                        return original(self, *args, **kwargs)
                except Exception as error:
                    if not is_unsuited(error) or action("whole-array") == "raise":
                        raise
                    if shared is not None and not shared[0]:
                        raise
                    reason = str(error).partition("\n")[0]
                if not reads[0]:
                    keep_for(self, _reading_much, {**refused, name: reason})
            announce_whole(f"{type(self).__name__}.{name}", reason)
            old_boxes = list(found(given, is_box))
            for box, old in zip(found((args, kwargs), is_box), old_boxes, strict=True):
                if box.names != old.names:  # what was begun has written into it
                    box.assign(old)
            x = old_boxes[0]
            shape = () if number else x.shape
            dtype = np.dtype(object) if number else whole.dtype_within(before, x)
            result = whole.in_one_task(cls, name, before, given[0], given[1], shape, dtype)
            return result.read(f"{type(self).__name__}.{name}()") if number else result

        return wrapper

    return wrap


_READS = 200  # executions for values in a method: a bisection of all samples, not one of each
_reading_much: dict[str, dict[str, str]] = {}  # methods that read more, and what was refused

_gives_a_vector = _method(_Deciding, number=False)
_gives_a_number = _method(Session, number=True)  # to call it is to ask for the value


def _keeps_function(cls: type, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a constructor whose first argument is a user's function of vectors."""

    def wrapper(self: Any, function: Any, *args: Any, **kwargs: Any) -> None:
        original(self, functools.partial(_call_users, function), *args, **kwargs)

    return wrapper


def _call_users(function: Any, *args: Any) -> Any:
    """Let a user's function see dask arrays, not boxes, and take what it gives into the solve."""
    return lift(lowered(function)(*args)) if holds(args, is_box) else function(*args)


# the modules of a package that have functions which solve, of no solver class
FUNCTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "pyproximal": {
        "pyproximal.optimization.bregman": ("Bregman",),
        "pyproximal.optimization.palm": ("PALM", "iPALM"),
        "pyproximal.optimization.pnp": ("PlugAndPlay",),
        "pyproximal.optimization.red": ("RED",),
        "pyproximal.optimization.segmentation": ("Segment",),
        "pyproximal.optimization.sr3": ("SR3",),
    },
}
# its classes, and methods of them and of all that derives from them
_PROJECTIONS = (
    "AffineSetProj", "BoxProj", "EuclideanBallProj", "GenericIntersectionProj", "HalfSpaceProj",
    "HankelProj", "HyperPlaneBoxProj", "IntersectionProj", "L0BallProj", "L10BallProj",
    "L1BallProj", "NuclearBallProj", "SimplexProj",
)  # fmt: skip
METHODS: dict[str, dict[tuple[str, str], dict[str, Wrap]]] = {
    "pyproximal": {
        ("pyproximal.ProxOperator", "ProxOperator"): {
            "__call__": _gives_a_number,
            "prox": _gives_a_vector,
            "proxdual": _gives_a_vector,
            "grad": _gives_a_vector,
        },
        ("pyproximal.utils.bilinear", "BilinearOperator"): {
            "__call__": _gives_a_number,
            "lx": _gives_a_number,
            "ly": _gives_a_number,
            "grad": _gives_a_vector,
            "gradx": _gives_a_vector,
            "grady": _gives_a_vector,
            "updatex": _gives_a_vector,
            "updatey": _gives_a_vector,
        },
        ("pyproximal.optimization.pnp", "_Denoise"): {"__init__": _keeps_function},
        ("pyproximal.proximal.RED", "_Denoise"): {"__init__": _keeps_function},
        **{("pyproximal.projection", name): {"__call__": _gives_a_vector} for name in _PROJECTIONS},
    },
}


# the names that it has for another kind of array than NumPy's
ARRAYS: dict[str, dict[str, str]] = {"pyproximal": {"pyproximal.ProxOperator": "cp_dtype"}}


class WhenImported(importlib.abc.MetaPathFinder):
    """Finds a package as Python does, and calls a function once it has been imported."""

    def __init__(self, package: str, then: Callable[[], None]) -> None:
        self._package = package
        self._then = then
        self._looking = False

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        """Return how to import the package, and None for every other module."""
        if name != self._package or self._looking:
            return None
        self._looking = True
        try:
            spec: ModuleSpec | None = importlib.util.find_spec(name)
        finally:
            self._looking = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            self._then()

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec

    def watch(self) -> None:
        """Be asked first, from now on."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def leave(self) -> None:
        """Be asked no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
