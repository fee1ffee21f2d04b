"""Shims for functions that move, flip and split axes: what they give are views, as in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from pylops_dispatch.array import as_box
from pylops_dispatch.functions.registry import SHIMS, implements

# NumPy's own code is made of slices and transposes, and takes any array (NEP 18)
_SLICING: tuple[Any, ...] = (
    np.moveaxis, np.rollaxis, np.flip, np.array_split, np.split, np.hsplit, np.vsplit, np.dsplit,
)  # fmt: skip
SHIMS.update((function, function._implementation) for function in _SLICING)


@implements(np.flipud)
def _flipud(m: Any) -> Any:
    _need_axes(m, 1)
    return m[::-1]


@implements(np.fliplr)
def _fliplr(m: Any) -> Any:
    _need_axes(m, 2)
    return m[:, ::-1]


@implements(np.rot90)
def _rot90(m: Any, k: int = 1, axes: Any = (0, 1)) -> Any:
    # asked of NumPy, which knows what it refuses
    np.rot90(np.broadcast_to(np.empty(()), m.shape), k, axes)
    first, second = axes
    if k % 4 == 0:
        return m[:]
    if k % 4 == 2:
        return np.flip(m, (first, second))
    if k % 4 == 1:
        return np.flip(m, second).swapaxes(first, second)
    return np.flip(m.swapaxes(first, second), second)


@implements(np.matrix_transpose, np.linalg.matrix_transpose)
def _matrix_transpose(x: Any, /) -> Any:
    _need_axes(x, 2)
    return x.swapaxes(-1, -2)


@implements(np.atleast_3d)
def _atleast_3d(*arys: Any) -> Any:
    found = []
    for a in map(as_box, arys):
        shape = (1, *a.shape, 1)[: a.ndim + 2] if a.ndim < 2 else (*a.shape, *(1,) * (3 - a.ndim))
        found.append(a if a.ndim > 2 else a.reshape(shape if a.ndim else (1, 1, 1)))
    return found[0] if len(found) == 1 else tuple(found)


def _need_axes(a: Any, number: int) -> None:
    if a.ndim < number:
        raise ValueError(f"an array of {number} or more axes is needed, and this has {a.ndim}")
