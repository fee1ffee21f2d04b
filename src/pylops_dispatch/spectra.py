"""Convolutions of tiles by Fourier transforms, with spectra of filters that are kept.

``scipy.signal.fftconvolve``, which PyLops's ``ConvolveND`` and ``Convolve1D`` call, transforms
the filter again for every array that it is given, and pads the array by the length of the filter
so that its ends do not meet. A tile has a halo, whose result is thrown away: there the ends may
meet. With both, a tile takes less than half of the time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy.fft

_LARGEST = 1 << 20  # bytes of a filter: what is hashed in no time beside its transform
_ROOM = 32 << 20  # bytes of all spectra

_lock = threading.Lock()
_kept: OrderedDict[Any, np.ndarray[Any, Any]] = OrderedDict()


def convolve_nd_in_tile(op: Any, inner: Sequence[bool]) -> None:
    """Set the functions of a ``ConvolveND`` for a tile.

    Parameters
    ----------
    op : pylops.signalprocessing.ConvolveND
        A copy for the tile, which is changed.
    inner : sequence of bool
        Whether both ends of an axis are halo, deep enough to be thrown away.
    """
    if op.method == "fft":
        op.convolve = partial(_convolve, op.convolve, inner)
        op.correlate = partial(_correlate, op.correlate, inner)


def convolve_1d_in_tile(op: Any, inner: Sequence[bool]) -> None:
    """Set the function of a ``Convolve1D`` for a tile, likewise."""
    if op.method == "fft":
        op.convfunc = partial(_convolve, op.convfunc, inner)


def length_of_transform(samples: int) -> int:
    """Return the length that an axis of `samples` is padded to: 2, 3 and 5 are its factors."""
    return scipy.fft.next_fast_len(samples, real=True)


def _correlate(
    original: Callable[..., Any], inner: Sequence[bool], x: Any, h: Any, **kwargs: Any
) -> Any:
    if not _is_plain(x, h):
        return original(x, h, **kwargs)
    backwards = h[(slice(None, None, -1),) * h.ndim].conj()
    return _convolve(original, inner, x, backwards, **kwargs)


def _convolve(
    original: Callable[..., Any], inner: Sequence[bool], x: Any, h: Any, **kwargs: Any
) -> Any:
    """Convolve as `original` does with ``mode="same"``, but for the ends of `inner` axes."""
    if not _is_plain(x, h):
        return original(x, h, **kwargs)
    axes = [axis for axis, n in enumerate(h.shape) if n > 1]
    if not axes:
        return x * h
    lengths = []
    for axis in axes:
        n, taps = x.shape[axis], h.shape[axis]
        lengths.append(length_of_transform(max(n if inner[axis] else n + taps // 2, taps)))
    dtype = np.result_type(x, h)
    transform, back = (
        (scipy.fft.rfftn, scipy.fft.irfftn)
        if dtype.kind == "f"
        else (scipy.fft.fftn, scipy.fft.ifftn)
    )
    spectrum = transform(x.astype(dtype, copy=False), lengths, axes=axes)
    spectrum *= _spectrum(h.astype(dtype, copy=False), lengths, axes, transform)
    y = back(spectrum, lengths, axes=axes, overwrite_x=True)
    return y[tuple(slice(n) for n in x.shape)]


def _is_plain(x: Any, h: Any) -> bool:
    """Whether arrays are as those of most operators; else SciPy knows what to do."""
    if not type(x) is type(h) is np.ndarray or x.ndim != h.ndim or not x.size:
        return False
    # SciPy transforms each with its own precision
    alike = x.dtype.char + h.dtype.char in ("ff", "fF", "Ff", "FF", "dd", "dD", "Dd", "DD")
    return alike and all(m > 1 or n == 1 for m, n in zip(x.shape, h.shape, strict=True))


def _spectrum(
    h: np.ndarray[Any, Any], lengths: list[int], axes: list[int], transform: Callable[..., Any]
) -> np.ndarray[Any, Any]:
    """Return the transform of a filter whose middle is moved to the first sample."""
    key = (transform, h.tobytes(), h.shape, h.dtype, *lengths) if h.nbytes <= _LARGEST else None
    with _lock:
        found = _kept.get(key)
        if found is not None:
            _kept.move_to_end(key)
            return found
    shape = list(h.shape)
    for axis, length in zip(axes, lengths, strict=True):
        shape[axis] = length
    padded = np.zeros(shape, h.dtype)
    padded[tuple(slice(n) for n in h.shape)] = h
    middles = [-((h.shape[axis] - 1) // 2) for axis in axes]
    found = transform(np.roll(padded, middles, axes), axes=axes)
    if key is not None:
        found.flags.writeable = False
        with _lock:
            _kept[key] = found
            while sum(spectrum.nbytes for spectrum in _kept.values()) > _ROOM:
                _kept.popitem(last=False)
    return found
