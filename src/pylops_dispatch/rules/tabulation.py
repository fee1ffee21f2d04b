"""Tables of a function that Numba has compiled: a loop that is compiled as well.

A module of its own, since tools that measure coverage rewrite functions, and Numba cannot
compile what they make of them.
"""

from __future__ import annotations

import numba


@numba.njit(nogil=True)
def indices_and_weights(fh, first, start, table, dtable):  # type: ignore[no-untyped-def]
    """Fill both tables of ``Spread``: `fh` returns a pair."""
    for i in range(table.shape[0]):
        for j in range(table.shape[1]):
            indices, weights = fh(i + first, j)
            table[i, j] = indices[start : start + table.shape[2]]
            dtable[i, j] = weights[start : start + table.shape[2]]


@numba.njit(nogil=True)
def indices_alone(fh, first, start, table):  # type: ignore[no-untyped-def]
    """Fill the table of ``Spread`` without interpolation: `fh` returns a pair nevertheless."""
    for i in range(table.shape[0]):
        for j in range(table.shape[1]):
            indices, _ = fh(i + first, j)
            table[i, j] = indices[start : start + table.shape[2]]
