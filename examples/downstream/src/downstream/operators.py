"""Operators: a class with a rule of its own, and a function that puts PyLops's together."""

from __future__ import annotations

from typing import Any

import numpy as np
from pylops import FirstDerivative, LinearOperator, VStack
from pylops.utils.decorators import reshaped

from pylops_dispatch import halo, register_rule


class Blur(LinearOperator):
    """Weighted average of neighbours along one axis; zeros lie beyond the edges.

    Parameters
    ----------
    dims : tuple of int
        Shape of the model.
    weights : sequence of float
        An odd number of weights, the middle one for the sample itself.
    axis : int, optional
        Axis along which to average.
    dtype : str, optional
        Type of the elements.
    """

    def __init__(
        self, dims: Any, weights: Any = (0.25, 0.5, 0.25), axis: int = -1, dtype: Any = "float64"
    ) -> None:
        if len(weights) % 2 == 0:
            raise ValueError(f"weights must be odd in number, got {len(weights)}")
        super().__init__(dtype=np.dtype(dtype), dims=dims, dimsd=dims)
        self.weights = tuple(float(w) for w in weights)
        self.axis = axis % len(self.dims)

    def depth(self) -> tuple[int, ...]:
        """Return how many neighbours on each side a sample depends on, for each axis."""
        return tuple((a == self.axis) * (len(self.weights) // 2) for a in range(len(self.dims)))

    def _shifted(self, x: Any, weights: tuple[float, ...]) -> Any:
        y = np.zeros_like(x)
        n = x.shape[self.axis]
        before = (slice(None),) * self.axis
        for shift, weight in enumerate(weights, start=-(len(weights) // 2)):
            if abs(shift) < n:
                into = (*before, slice(max(-shift, 0), n - max(shift, 0)))
                out_of = (*before, slice(max(shift, 0), n - max(-shift, 0)))
                y[into] += weight * x[out_of]
        return y

    @reshaped
    def _matvec(self, x: Any) -> Any:
        return self._shifted(x, self.weights)

    @reshaped
    def _rmatvec(self, x: Any) -> Any:
        return self._shifted(x, self.weights[::-1])


# each chunk is averaged by the class above, with as many neighbours as there are weights
register_rule(Blur, halo(Blur.depth))


def slopes(dims: Any, dtype: Any = "float64") -> LinearOperator:
    """Stack the first derivatives along all axes: PyLops's own operators need nothing more.

    Parameters
    ----------
    dims : tuple of int
        Shape of the model.
    dtype : str, optional
        Type of the elements.

    Returns
    -------
    pylops.LinearOperator
        From the model to one derivative below the other.
    """
    return VStack([FirstDerivative(dims, axis=axis, dtype=dtype) for axis in range(len(dims))])
