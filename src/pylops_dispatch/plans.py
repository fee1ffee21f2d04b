"""FFTW plans: each thread has its own, since tasks can carry none and threads cannot share one."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from typing import Any

from pylops.signalprocessing import fft

# the attributes that an operator's settings give, and FFTW writes to
PLANS = frozenset(("x", "y", "fftplan", "ifftplan"))

_planned = threading.local()
_planning = threading.Lock()
_KEPT = 16  # a thread keeps plans for so many shapes of blocks


def has_plans(op: Any) -> bool:
    """Whether an operator holds FFTW plans and buffers of its own."""
    return "fftplan" in vars(op) and isinstance(op, fft._FFT_fftw)


def without_plans(op: Any) -> Any:
    """Return a copy of an operator that has :func:`has_plans`, with the plans of each thread."""
    new = _blank(type(op))
    kept = {name: value for name, value in vars(op).items() if name not in PLANS}
    vars(new).update(kept, _plan_flags=tuple(op.fftplan.flags))
    return new


class _PlansOfThread:
    """Finds buffers and plans of an operator's present shape in the thread that it runs in."""

    planless: type  # the class without this one
    x = property(lambda self: _plans(self)[0])
    y = property(lambda self: _plans(self)[1])
    fftplan = property(lambda self: _plans(self)[2])
    ifftplan = property(lambda self: _plans(self)[3])

    def __reduce__(self) -> Any:
        return _blank, (self.planless,), vars(self).copy()


@functools.lru_cache(maxsize=64)
def _class_of(cls: type) -> Any:
    own = {"__module__": __name__, "planless": cls}
    return type(cls)(cls.__name__, (_PlansOfThread, cls), own)


def _blank(cls: type) -> Any:
    return object.__new__(_class_of(cls))


def _plans(op: Any) -> tuple[Any, ...]:
    known = vars(_planned).setdefault("plans", OrderedDict())
    first = op.rdtype if op.real else op.cdtype
    key = (op.dims, op.dimsd, op.axis, op.nfft, first, op.cdtype, op._plan_flags)
    if key not in known:
        while len(known) >= _KEPT:
            known.popitem(last=False)
        known[key] = _planned_anew(op, first)
    known.move_to_end(key)
    found: tuple[Any, ...] = known[key]
    return found


def _planned_anew(op: Any, first: Any) -> tuple[Any, ...]:
    """Return buffers and plans as ``_FFT_fftw.__init__`` makes them."""
    import pyfftw

    dims = list(op.dims)
    dims[op.axis] = op.nfft
    x = pyfftw.empty_aligned(dims, dtype=first)
    y = pyfftw.empty_aligned(op.dimsd, dtype=op.cdtype)
    settings = {"axes": (op.axis,), "flags": op._plan_flags}
    with _planning:
        forward = pyfftw.FFTW(x, y, direction="FFTW_FORWARD", **settings)
        return x, y, forward, pyfftw.FFTW(y, x, direction="FFTW_BACKWARD", **settings)
