"""Writing results into the arrays that are given for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pylops_dispatch.array import DispatchArray
from pylops_dispatch.policy import not_dispatched


def written(out: Any, result: Any, name: str, casting: str = "same_kind") -> Any:
    """Return a result, or `out` after the result was written into it.

    Parameters
    ----------
    out : DispatchArray or None
        What the caller gave to be written into.
    result : array-like
        What is to be written.
    name : str
        The function that made it, for errors.
    casting : str, optional
        How far the result may be from the dtype of `out`.

    Raises
    ------
    NotDispatchedError
        If `out` is a NumPy array.
    TypeError, ValueError
        If the result does not fit, as NumPy raises.
    """
    if out is None:
        return result
    out = out[0] if isinstance(out, tuple) and len(out) == 1 else out
    if not isinstance(out, DispatchArray):
        raise no_output(name)
    if np.shape(result) != out.shape:
        raise ValueError(
            f"the output of {name} has shape {out.shape}, the result {np.shape(result)}"
        )
    check_cast(name, result, out, casting)
    out.assign(result)
    return out


def no_output(name: str) -> Exception:
    """Build the error for a function that is to write into a NumPy array."""
    return not_dispatched(
        f"{name} with a NumPy array for its output",
        "A lazy result cannot be written into memory that already exists; "
        "make the buffer with get_array_module(x).",
    )


def check_cast(name: str, value: Any, target: DispatchArray, casting: str) -> None:
    """Raise where NumPy would not cast `value` to the dtype of `target`."""
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    if not np.can_cast(dtype, target.dtype, casting):  # type: ignore[arg-type]
        raise TypeError(
            f"Cannot cast {name} output from {dtype!r} to {target.dtype!r} "
            f"with casting rule '{casting}'"
        )
