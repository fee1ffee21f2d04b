"""Solvers that are planned: they work on stand-ins, in silence, and are then as they were."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NamedTuple

import numpy as np
from pylops.optimization.basesolver import Solver

from pylops_dispatch.array import found, is_dask, walk
from pylops_dispatch.operators import left_as_they_are
from pylops_dispatch.solvers import Session, before_solving, exchange_session
from pylops_dispatch.steps import Steps, exchange_steps, watchers

_DECORATED = ("setup", "step", "run")  # Solver._registercallbacks: they hold the solver itself


class _Kept(NamedTuple):
    """A solver as it is without a plan."""

    solver: weakref.ref[Any]
    attributes: dict[str, Any]
    session: Session | None
    steps: Steps | None


class _Rehearsal:
    """Prepares each solver that runs, and makes all of them as they were."""

    def __init__(self, stand_in: Callable[[Any], Any]) -> None:
        self._stand_in = stand_in
        # by weak references: what a solve would have let go must not be planned as if it was held
        self._kept: dict[int, _Kept] = {}

    def prepare(self, solver: Any) -> None:
        """Give a solver stand-ins for what it holds, and nobody to call."""
        known = self._kept.get(id(solver))
        if known is None or known.solver() is not solver:
            attributes = {k: v for k, v in vars(solver).items() if k not in _DECORATED}
            self._kept[id(solver)] = _Kept(
                weakref.ref(solver),
                attributes,
                exchange_session(solver, None),
                exchange_steps(solver, None),
            )
            vars(solver).update({k: self._own(v) for k, v in attributes.items()})
        vars(solver)["callback"] = nothing
        solver.callbacks = [
            cb if isinstance(cb, _Undecided) or cb in watchers.get() else _Undecided(self._copy(cb))
            for cb in solver.callbacks or ()
            if type(cb).__module__.startswith(("pylops.", __name__)) or cb in watchers.get()
        ] or None

    def put_back(self) -> None:
        """Make all solvers as they were."""
        for solver, attributes, session, steps in self._kept.values():
            own = solver()
            if own is not None:
                decorated = {k: v for k, v in vars(own).items() if k in _DECORATED}
                vars(own).clear()
                vars(own).update({**decorated, **attributes})
                exchange_session(own, session)
                exchange_steps(own, steps)

    def _own(self, value: Any) -> Any:
        """Return what a solve may write into without a trace."""
        value = copy.copy(value) if isinstance(value, (list, dict)) else value
        value = walk(value, lambda x: isinstance(x, np.ndarray), np.copy)
        return walk(value, is_dask, self._stand_in)

    def _copy(self, callback: Any) -> Any:
        new = copy.copy(callback)
        for name, value in vars(callback).items():
            held = copy.deepcopy(value) if isinstance(value, (list, dict)) else value
            vars(new)[name] = walk(held, is_dask, self._stand_in)
        return new


class _Undecided:
    """One of PyLops's callbacks: its work is planned, but what it says of stand-ins is void."""

    stop = False

    def __init__(self, callback: Any) -> None:
        self._callback = callback

    def __getattr__(self, name: str) -> Any:
        return getattr(self._callback, name)


def nothing(*args: Any, **kwargs: Any) -> None:
    """Stand for a user's callback."""


def _solvers_of(call: Any) -> Iterator[Solver]:
    """Yield the solvers that a method belongs to, or that a function refers to."""
    if isinstance(call, Solver):
        yield call
    elif isinstance(call, functools.partial):
        yield from _solvers_of(call.func)
        yield from found((call.args, call.keywords), lambda x: isinstance(x, Solver))
    elif hasattr(call, "__wrapped__"):
        yield from _solvers_of(inspect.unwrap(call))
    elif inspect.ismethod(call):
        yield from _solvers_of(call.__self__)
    elif inspect.isfunction(call):
        names = inspect.getclosurevars(call)
        held = [*names.nonlocals.values(), *names.globals.values()]
        yield from found(held, lambda x: isinstance(x, Solver))


@contextmanager
def rehearsed(call: Any, given: Any, stand_in: Callable[[Any], Any]) -> Iterator[None]:
    """Let solvers run in this block for a plan only.

    Parameters
    ----------
    call : callable
        What is to be called.
    given : object
        What it is given.
    stand_in : callable
        Of a dask array that a solver holds.
    """
    rehearsal = _Rehearsal(stand_in)
    token = before_solving.set(rehearsal.prepare)
    try:
        # its decorated methods tell its callbacks before they come to us
        solvers = [*_solvers_of(call), *found(given, lambda x: isinstance(x, Solver))]
        for solver in solvers:
            rehearsal.prepare(solver)
        with redirect_stdout(io.StringIO()), left_as_they_are([given, *map(vars, solvers)]):
            yield
    finally:
        before_solving.reset(token)
        rehearsal.put_back()
