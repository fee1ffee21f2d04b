"""Dtypes of what PyLops's code makes, and what NumPy refuses to write into it, before it runs."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np

from pylops_dispatch.array import DispatchArray
from pylops_dispatch.operators import all_parts, counters, runs_users_code, title
from pylops_dispatch.pieces import Zeros
from pylops_dispatch.policy import set_policy


def applied_dtype(op: Any, dtype: Any, adjoint: bool) -> np.dtype[Any]:
    """Return the dtype of what an operator makes of a vector; this does not count as applied.

    Parameters
    ----------
    op : pylops.LinearOperator
        It.
    dtype : data-type
        Of the vector.
    adjoint : bool
        Whether its adjoint is meant.
    """
    shape = (op.shape[0 if adjoint else 1],)
    # of zeros that are known as such NumPy's functions make numbers, which a user's code may mix
    # with dask arrays
    users = any(map(runs_users_code, all_parts(op)))
    zeros = DispatchArray(da.zeros(shape, dtype=dtype) if users else Zeros(shape, dtype))
    counts = counters(op)
    try:
        with set_policy(whole_array="allow"):
            return (op.rmatvec if adjoint else op.matvec)(zeros).dtype
    finally:
        vars(op).update(counts)


def added_up(op: Any, dtype: Any, into: Any = None) -> np.dtype[Any]:
    """Return the dtype of an array that an operator's code makes, and adds up in.

    Parameters
    ----------
    op : pylops.LinearOperator
        It.
    dtype : data-type
        Of what is added.
    into : data-type, optional
        Of the array; the operator's by default.

    Raises
    ------
    TypeError
        NumPy's own, if the array cannot hold such sums: complex numbers in a real one.
    """
    total = np.zeros(0, op.dtype if into is None else into)
    try:
        total += np.zeros(0, dtype)
    except TypeError as error:
        error.add_note(
            f"{title(op)} adds up in numbers of dtype {total.dtype}: make it with "
            f"dtype={np.result_type(dtype, total).name!r}."
        )
        raise
    return total.dtype


def require_divisible(op: Any, dtype: Any) -> None:
    """Raise if code that divides its input in place cannot do so.

    Parameters
    ----------
    op : pylops.LinearOperator
        It.
    dtype : data-type
        Of the input.

    Raises
    ------
    TypeError
        NumPy's own, of whole numbers.
    """
    samples = np.zeros(0, dtype)
    try:
        samples /= 2.0
    except TypeError as error:
        error.add_note(f"{title(op)} divides its input: give it floating-point numbers.")
        raise
