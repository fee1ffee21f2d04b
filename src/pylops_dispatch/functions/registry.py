"""The registry of shims: NumPy functions that need more than dask's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SHIMS: dict[Any, Callable[..., Any]] = {}

# what dask would do eagerly, approximately, or lose, and what to do instead
REFUSED: dict[Any, str] = {
    np.put: "The write would be lost; assign by index: a[index] = values.",
    np.place: "The write would be lost; use np.where(mask, values, a).",
    np.fill_diagonal: "The write would be lost; use np.where with a mask of the diagonal.",
    np.put_along_axis: "The write would be lost; assign by index: a[index] = values.",
    np.unique: "The shape of its result depends on values.",
    np.unique_all: "The shape of its result depends on values.",
    np.unique_counts: "The shape of its result depends on values.",
    np.unique_inverse: "The shape of its result depends on values.",
    np.unique_values: "The shape of its result depends on values.",
    np.piecewise: "Its functions would see single chunks of the conditions; use np.select.",
    np.apply_along_axis: "dask.array runs the function to learn its result; use da.map_blocks.",
}


def implements(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the lazy form of NumPy `functions`."""

    def register(shim: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            SHIMS[function] = shim
        return shim

    return register
