"""Configuration, warnings and errors.

Three situations are a matter of policy, each ``"raise"``, ``"warn"`` or ``"allow"``:

``implicit-compute``
    something asks for values that are still lazy, ``np.asarray(x)`` for example;
    the default is ``"raise"``.
``whole-array``
    an operator cannot run on blocks, and runs in one task on the whole vector;
    the default is ``"warn"``;
``numpy-vectors``
    a solver that is not PyLops's works on NumPy vectors in this process, while dask applies
    the operator: ARPACK in ``eigs`` and ``cond``, the ``spgl1`` package, estimators of traces;
    the default is ``"warn"``.

They live in dask's configuration under ``pylops-dispatch``, so that files, environment
variables and ``dask.config.set`` reach them too.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import dask

Action = Literal["raise", "warn", "allow"]

_DEFAULTS: dict[str, Action] = {
    "implicit-compute": "raise",
    "whole-array": "warn",
    "numpy-vectors": "warn",
}


class NotDispatchedError(TypeError):
    """A function has no lazy implementation for dask arrays."""


class WholeArrayError(NotDispatchedError):
    """An operator would run in one task on the whole vector, which is not allowed."""


class PerformanceWarning(UserWarning):
    """An operator runs in one task on the whole vector: right, but not parallel."""


class ImplicitComputeWarning(UserWarning):
    """Lazy values were computed because some code asked for them."""


def set_policy(
    *,
    implicit_compute: Action | None = None,
    whole_array: Action | None = None,
    numpy_vectors: Action | None = None,
) -> dask.config.set:
    """Set what happens where work is not lazy, or not parallel.

    Parameters
    ----------
    implicit_compute : {"raise", "warn", "allow"}, optional
        When values of a lazy array are asked for. Default ``"raise"``.
    whole_array : {"raise", "warn", "allow"}, optional
        When an operator can only run in one task. Default ``"warn"``.
    numpy_vectors : {"raise", "warn", "allow"}, optional
        When a solver that is not PyLops's works on NumPy vectors in this process, while dask
        applies the operator. Default ``"warn"``.

    Returns
    -------
    dask.config.set
        Takes effect at once; as a context manager it is undone at the end.

    Raises
    ------
    ValueError
        If a value is none of the three.

    Examples
    --------
    >>> import pylops_dispatch
    >>> with pylops_dispatch.set_policy(whole_array="raise"):
    ...     pass
    """
    given = {
        "implicit-compute": implicit_compute,
        "whole-array": whole_array,
        "numpy-vectors": numpy_vectors,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    for key, value in changes.items():
        _require_action(value, key.replace("-", "_"))
    return dask.config.set({f"pylops-dispatch.{key}": value for key, value in changes.items()})


def _require_action(value: Any, name: str) -> None:
    if value not in ("raise", "warn", "allow"):
        raise ValueError(f"{name} must be 'raise', 'warn' or 'allow', got {value!r}")


def action(key: str) -> Action:
    """Return the policy in force for `key`."""
    value: Action = dask.config.get(f"pylops-dispatch.{key}", _DEFAULTS[key])
    _require_action(value, f"pylops-dispatch.{key} in dask's configuration")
    return value


# modules of PyLops whose frames only call others: of solvers, those of other packages too
WRAPPERS = ("pylops.utils.decorators", "pylops.optimization.basesolver")


def caller() -> str:
    """Say which line of PyLops, of a user's operator, or else of the user, is being run.

    Returns
    -------
    str
        For example ``"FirstDerivative._matvec (pylops/basicoperators/firstderivative.py:163)"``.
    """
    frame: Any = sys._getframe(1)
    nearest: Any = None
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        package = module.partition(".")[0]
        if package not in ("pylops_dispatch", "numpy", "dask", "contextlib", "functools"):
            nearest = nearest or frame
            # in an operator of the user's, PyLops is only what called it
            own = frame.f_code.co_name in ("_matvec", "_rmatvec")
            if own or (package == "pylops" and module not in WRAPPERS):
                nearest = frame
                break
        frame = frame.f_back
    if nearest is None:
        return "unknown code"
    owner = nearest.f_locals.get("self")
    prefix = f"{type(owner).__name__}." if owner is not None else ""
    path = "/".join(nearest.f_code.co_filename.replace("\\", "/").split("/")[-3:])
    return f"{prefix}{nearest.f_code.co_name} ({path}:{nearest.f_lineno})"


def users_stacklevel() -> int:
    """Return the stacklevel, for a warning of our caller, that points at the user's own line."""
    level, frame = 0, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in (
        "pylops_dispatch",
        "pylops",
        "numpy",
        "contextlib",
    ):
        level, frame = level + 1, frame.f_back
    return level + 1


# what was refused to the operator that is being applied; None outside of operators
_refused: ContextVar[list[str] | None] = ContextVar("refused", default=None)


@contextmanager
def refusals() -> Iterator[list[str]]:
    """Collect the messages of the errors that refuse something in the block, in this thread.

    The code there may handle such an error, and go on without what was refused. Of blocks within
    each other, each collects its own.
    """
    found: list[str] = []
    token = _refused.set(found)
    try:
        yield found
    finally:
        _refused.reset(token)


_reads: ContextVar[list[float] | None] = ContextVar("reads", default=None)


@contextmanager
def few_reads(most: float) -> Iterator[list[float]]:
    """Let code in the block read lazy values that are not there yet, but only so often.

    Each takes an execution, in a solver as well: ``y[i] = 2 * x[i]`` reads them one by one. A
    solver in the block may read as many as it needs.

    Yields
    ------
    list of float
        How often it still may.
    """
    left = [most]
    token = _reads.set(left)
    try:
        yield left
    finally:
        _reads.reset(token)


def reads_left() -> list[float] | None:
    """Return how often the innermost block of `few_reads` may still read; None outside of any."""
    return _reads.get()


def count_read(what: str) -> None:
    """Count a read of a lazy value that takes an execution; too many are refused."""
    left = _reads.get()
    if left is None:
        return
    if not left[0]:
        raise not_dispatched(f"{what}, for values one by one,", "Each takes an execution.")
    left[0] -= 1


def _refusal(
    message: str, advice: str = "", kind: type[NotDispatchedError] = NotDispatchedError
) -> NotDispatchedError:
    """Build an error, and note it for the operator that is being applied, without the advice."""
    found = _refused.get()
    if found is not None:
        found.append(message)
    return kind(f"{message}. {advice}" if advice else message)


def not_dispatched(what: str, advice: str) -> NotDispatchedError:
    """Build the error for a function that cannot be run lazily."""
    return _refusal(f"{what} was called on a lazy dask array by {caller()}", advice)


def report_implicit_compute(what: str) -> None:
    """Raise, warn, or stay silent, before lazy values are computed."""
    chosen = action("implicit-compute")
    if chosen == "allow":
        return
    if chosen == "raise":
        raise not_dispatched(
            what,
            "It needs the values now, which would compute the whole graph. Call .compute() "
            "yourself, or allow it: pylops_dispatch.set_policy(implicit_compute='allow').",
        )
    warnings.warn(
        f"{what} computes a lazy dask array, asked for by {caller()}",
        ImplicitComputeWarning,
        stacklevel=users_stacklevel(),
    )


def announce_whole(operator: str, reason: str) -> None:
    """Raise, warn, or stay silent, before an operator runs in one task."""
    _announce(
        "whole-array",
        f"{operator} runs in one task on the whole vector, right but not in parallel: "
        f"{reason.rstrip('.')}. "
        "Silence this with pylops_dispatch.set_policy(whole_array='allow').",
        PerformanceWarning,
    )


def announce_numpy_vectors(what: str) -> None:
    """Raise, warn, or stay silent, before a solver works on NumPy vectors in this process."""
    _announce(
        "numpy-vectors",
        f"{what} works on NumPy vectors in this process; dask applies the operator, once for "
        "each product. Silence this with pylops_dispatch.set_policy(numpy_vectors='allow').",
        ImplicitComputeWarning,
    )


def _announce(key: str, message: str, category: type[UserWarning]) -> None:
    chosen = action(key)
    if chosen == "raise":
        error = WholeArrayError if category is PerformanceWarning else NotDispatchedError
        raise _refusal(message, kind=error)
    if chosen != "allow":
        warnings.warn(message, category, stacklevel=users_stacklevel())
