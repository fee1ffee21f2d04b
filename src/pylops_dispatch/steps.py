"""How far a solver has come: its steps are numbered, watched, and undone when interrupted."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pylops.optimization.callback import Callbacks

from pylops_dispatch.array import DispatchArray, session
from pylops_dispatch.assumptions import WrongAssumption, may_assume
from pylops_dispatch.notes import note_step
from pylops_dispatch.operators import all_parts, counters, is_pylops
from pylops_dispatch.undoing import undone_if_interrupted

# what is attached to every solver that runs: the bars of `with progress():`
watchers: ContextVar[tuple[Callbacks, ...]] = ContextVar("watchers", default=())


@dataclass
class Steps:
    """The steps of one solver.

    An iterate is the solution, and after it what else the next step needs: ``z`` in FISTA,
    ``cols`` in OMP.
    """

    number: int = 0  # of the step being run
    total: int | None = None  # how many the present run may take
    complete: tuple[Any, ...] = ()  # the iterate that the last complete step gave
    pending: tuple[Any, ...] = ()  # the iterate to go on from, where a run would only take x
    left: bool = False  # whether an interrupted run left its solution in solver.x


# the session of each solver of lazy arrays; others may run in tasks of a solve, or between them
sessions: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_steps: weakref.WeakKeyDictionary[Any, Steps] = weakref.WeakKeyDictionary()


def steps_of(solver: Any) -> Steps:
    """Return the steps of a solver, which live as long as it does."""
    return _steps.setdefault(solver, Steps())


def exchange_steps(solver: Any, new: Steps | None) -> Steps | None:
    """Give a solver other steps, or none so far, and return those that it had."""
    known = _steps.pop(solver, None)
    if new is not None:
        _steps[solver] = new
    return known


def followed(original: Callable[..., Any]) -> Callable[..., Any]:
    """Follow ``step`` and ``run`` of a solver class; other methods come back as they are."""
    return {"step": _step, "run": _run}.get(original.__name__, lambda method: method)(original)


def needed(step: Callable[..., Any]) -> int:
    """Return how many arrays or lists a step must be given after the solution."""
    given = list(inspect.signature(step).parameters.values())[2:]
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in given)


def _step(original: Callable[..., Any]) -> Callable[..., Any]:
    length = 1 + needed(original)

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps = steps_of(self)
        pending, steps.pending = steps.pending, ()
        if pending and args and _same(args[0], pending[0]):
            args = (args[0], *(_own(value) for value in pending[1:]), *args[len(pending) :])
        lazy = _is_lazy(self)
        made = steps.complete
        if not made and lazy:
            steps.complete = args[:length]
        steps.number = self.iiter + 1
        own = lazy and is_pylops(type(self))
        parts = all_parts(self.Op) if lazy and may_assume(self) else ()
        counted = [(part, counters(part)) for part in parts]
        try:
            for asks in (True, False):
                with (
                    suppress(WrongAssumption) if asks else nullcontext(),
                    undone_if_interrupted(self, args, made) if lazy else nullcontext(),
                    session.get().in_step(self.Op) if own else nullcontext(),
                    session.get().assuming(asks) if lazy else nullcontext(),
                ):
                    result = original(self, *args, **kwargs)
                    break
                for part, counts in counted:  # the step is taken again
                    vars(part).update(counts)
        except Exception as error:
            note_step(error, self, steps.number)
            raise
        if lazy or self.callbacks:
            steps.complete = result[:length] if isinstance(result, tuple) else (result,)
        return result

    return wrapper


def _run(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps = steps_of(self)
        steps.complete = ()
        if steps.left:
            vars(self).pop("x", None)
            steps.left = False
        try:
            if not watchers.get():
                return original(self, *args, **kwargs)
            given = signature.bind(self, *args, **kwargs).arguments
            with watched(self, given.get("x"), _total(given, self)):
                return original(self, *args, **kwargs)
        except BaseException:
            if steps.complete and _is_lazy(self):
                self.x, steps.left = steps.complete[0], True
                steps.pending = steps.complete
            raise
        finally:
            steps.complete = ()

    return wrapper


def _is_lazy(solver: Any) -> bool:
    """Whether a solver works on lazy arrays, in the session that it belongs to."""
    current = session.get()
    return current is not None and sessions.get(solver) is current


def _total(given: dict[str, Any], solver: Any) -> int | None:
    found = [given.get(name) for name in ("niter", "nouter")]
    found += [getattr(solver, name, None) for name in ("niter", "nouter", "niter_outer")]
    return next((n for n in found if n is not None), None)


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, DispatchArray) and isinstance(y, DispatchArray):
        return x.names == y.names
    return x is y


def _own(value: Any) -> Any:
    return value.copy() if hasattr(value, "copy") else value


@contextmanager
def watched(solver: Any, x: Any, total: int | None) -> Iterator[None]:
    """Attach the watchers to a solver for one run, and tell them when it begins and ends.

    Parameters
    ----------
    solver : pylops.optimization.basesolver.Solver
        Whose run it is.
    x : array
        What it begins with.
    total : int or None
        How many steps it may take.
    """
    steps_of(solver).total = total
    extra = watchers.get()
    own = solver.callbacks
    if extra:
        solver.callbacks = [*(own or ()), *extra]
    try:
        # PyLops has called its callbacks before the run that we are in
        for callback in extra:
            callback.on_run_begin(solver, x)
        yield
    finally:
        solver.callbacks = own
        for callback in extra:
            callback.on_run_end(solver, x)
