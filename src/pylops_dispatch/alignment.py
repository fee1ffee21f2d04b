"""NumPy arrays that come to a worker over a network, where their samples may lie at odd addresses.

``distributed`` reads a message into one buffer, of which the arrays are views wherever they begin.
NumPy copies such an array for every product of a matrix (a matrix of 4000 x 4000 and a vector:
49 ms for 3 ms), and SciPy's dense linear algebra refuses it (since 1.17: "Expected a real or
complex array").
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pylops_dispatch.copying import all_within, copied


def aligned(value: Any) -> Any:
    """Return an object with all arrays that it holds at addresses that suit their dtype.

    Parameters
    ----------
    value : object
        An array, or an operator or anything else that holds arrays. It is not changed.

    Returns
    -------
    object
        `value` itself where it is so already.
    """
    if isinstance(value, np.ndarray):
        return _aligned(value)
    if all(_aligned(held) is held for held in all_within(value, functions=True)):
        return value
    return copied(value, _aligned, functions=True)


def _aligned(held: Any) -> Any:
    # a subclass may hold more than samples; NumPy's own way to ask makes another class of it
    if type(held) is not np.ndarray or held.flags.aligned:
        return held
    return held.copy(order="K")
