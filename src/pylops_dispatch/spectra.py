"""Spectra of filters are kept from one tile to the next.

``scipy.signal.fftconvolve``, which ``ConvolveND`` and ``Convolve1D`` call, transforms the filter
again for every array that it is given, which is a third of its work. Transforms of SciPy's go
through uarray (``scipy.fft.set_backend``): here those of small arrays that are padded to a
multiple of their size are looked up. The values are those that SciPy would give again.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import scipy
import scipy.fft

_LARGEST = 1 << 20  # bytes of a filter: what is hashed in no time beside its transform
_PADDED = 8  # times its own size: below, a transform may be of data
_ROOM = 32 << 20  # bytes of all spectra

# older ones crash where several threads use backends
SAFE = tuple(int(part) for part in scipy.__version__.split(".")[:2]) >= (1, 15)

_lock = threading.Lock()
_kept: OrderedDict[Any, np.ndarray[Any, Any]] = OrderedDict()


def kept_spectra() -> AbstractContextManager[None]:
    """Look up the spectra of filters in this context, in this thread, with SciPy 1.15 or newer."""
    return scipy.fft.set_backend(_KeptSpectra) if SAFE else nullcontext()


class _KeptSpectra:
    """A backend of ``scipy.fft`` that leaves all but padded transforms to the next one."""

    __ua_domain__ = "numpy.scipy.fft"

    @staticmethod
    def __ua_function__(method: Any, args: Any, kwargs: Any) -> Any:
        if method.__name__ not in ("fftn", "rfftn") or len(args) != 2:
            return NotImplemented
        x, lengths = args
        if not _is_filter(x, lengths):
            return NotImplemented
        settings = sorted((name, repr(value)) for name, value in kwargs.items())
        key = (method.__name__, x.tobytes(), x.shape, x.dtype, tuple(lengths), *settings)
        with _lock:
            found = _kept.get(key)
            if found is not None:
                _kept.move_to_end(key)
                return found
        with scipy.fft.skip_backend(_KeptSpectra):
            found = method(x, lengths, **kwargs)
        found.flags.writeable = False
        with _lock:
            _kept[key] = found
            while sum(spectrum.nbytes for spectrum in _kept.values()) > _ROOM:
                _kept.popitem(last=False)
        return found


def _is_filter(x: Any, lengths: Any) -> bool:
    if type(x) is not np.ndarray or lengths is None or x.nbytes > _LARGEST:
        return False
    return math.prod(lengths) >= _PADDED * x.size
