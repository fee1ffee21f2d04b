"""What a function of ours was given, looked at before any work."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse.linalg
from pylops import LinearOperator

from pylops_dispatch.array import is_dask


def require_operator(value: Any, name: str = "Op") -> None:
    """Raise for what is no operator.

    Raises
    ------
    TypeError
        Saying what it is, and what to do.
    """
    if isinstance(value, LinearOperator):
        return
    if isinstance(value, type) and issubclass(value, LinearOperator):
        raise TypeError(
            f"{name} is the class {value.__name__}, and not an operator: make one first, "
            f"{value.__name__}(...)."
        )
    of_scipy = isinstance(value, scipy.sparse.linalg.LinearOperator)
    made_by = "LinearOperator" if of_scipy else "MatrixMult"
    advice = (
        f"Make an operator of it: pylops.{made_by}({name})." if np.ndim(value) == 2 or of_scipy
        else "Give it one of PyLops's operators, or one of your own."
    )  # fmt: skip
    if is_dask(value):
        advice += " If it is the model or the data, it comes after the operator."
    raise _not(value, name, "a pylops.LinearOperator", advice)


def require_dask(value: Any, name: str = "x") -> None:
    """Raise for what is no dask array.

    Raises
    ------
    TypeError
        Saying what it is, and what to do.
    """
    if is_dask(value):
        return
    advice = (
        "Cut it into blocks: "
        f"dask.array.from_array({name}, chunks=pylops_dispatch.suggest_chunks(Op))."
    )
    raise _not(value, name, "a dask array", advice)


def require_numpy(value: Any, name: str = "x") -> None:
    """Raise for what is no NumPy array.

    Raises
    ------
    TypeError
        Saying what it is, and what to do.
    """
    if isinstance(value, np.ndarray):
        return
    advice = f"Compute it first: {name}.compute()." if is_dask(value) else f"Use np.array({name})."
    raise _not(value, name, "a NumPy array", advice)


def require_direction(adjoint: Any) -> None:
    """Raise for what does not tell forward from adjoint.

    Raises
    ------
    TypeError
        Saying what it is.
    """
    if not isinstance(adjoint, (bool, np.bool_)):
        raise TypeError(f"adjoint must be True for Op.H @ x, or False, got {adjoint!r}")


def require_enabled(what: str) -> None:
    """Raise where PyLops does not run on dask arrays.

    Raises
    ------
    RuntimeError
        Saying what to do.
    """
    # activation.py sets the attribute that NumPy and dask leave an operator its turn by
    if "__array_ufunc__" not in vars(LinearOperator):
        raise RuntimeError(
            f"{what}() applies operators to dask arrays, and pylops_dispatch is disabled here: "
            "call pylops_dispatch.enable() first."
        )


def require_count(value: Any, name: str, least: int = 1) -> int:
    """Return a whole number of things, or raise for what is none.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def _not(value: Any, name: str, wanted: str, advice: str) -> TypeError:
    return TypeError(f"{name} must be {wanted}, and is of type {type(value).__name__}. {advice}")
