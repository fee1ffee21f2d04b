"""A function that solves: PyLops's solvers take dask arrays wherever they are called."""

from __future__ import annotations

from typing import Any

from pylops.optimization.leastsquares import regularized_inversion

from downstream.operators import Blur, slopes


def sharpen(
    image: Any, weights: Any = (0.25, 0.5, 0.25), axis: int = -1, damp: float = 0.1, niter: int = 10
) -> Any:
    """Undo a blur along one axis, keeping the result smooth.

    Parameters
    ----------
    image : array_like
        A NumPy array, or a dask array, of which the result is one too.
    weights : sequence of float, optional
        Of the blur.
    axis : int, optional
        Axis of the blur.
    damp : float, optional
        Weight of the smoothness.
    niter : int, optional
        Number of iterations.

    Returns
    -------
    array_like
        The image before the blur, about.
    """
    blur = Blur(image.shape, weights, axis, dtype=image.dtype)
    found = regularized_inversion(
        blur,
        image.ravel(),
        [slopes(image.shape, dtype=image.dtype)],
        epsRs=[damp],
        engine="pylops",
        niter=niter,
    )
    return found[0].reshape(image.shape)
