"""Shims for functions that make arrays like another, and for the writes that dask loses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray, as_box, is_lazy, session
from pylops_dispatch.functions.outputs import written
from pylops_dispatch.functions.registry import implements
from pylops_dispatch.namespace import dask_namespace
from pylops_dispatch.pieces import Zeros
from pylops_dispatch.policy import not_dispatched


@implements(np.zeros_like, np.empty_like)
def zeros_like(
    prototype: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None,
    *, device: Any = None,
) -> DispatchArray:  # fmt: skip
    """Return zeros with the pieces of `prototype`, but no chunks yet."""
    box = as_box(prototype)
    wanted = box.dtype if dtype is None else np.dtype(dtype)
    if shape is not None:
        return DispatchArray(Zeros(tuple(np.atleast_1d(shape).tolist()), wanted))
    return DispatchArray([Zeros(p.shape, wanted) for p in box.pieces], box.shape)


@implements(np.full_like)
def full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True,
    shape: Any = None, *, device: Any = None,
) -> DispatchArray:  # fmt: skip
    """Return a constant with the pieces, and chunks, of `a`."""
    box = as_box(a)
    wanted = box.dtype if dtype is None else np.dtype(dtype)
    if shape is not None:
        return dask_namespace.full(shape, fill_value, wanted)
    if np.ndim(fill_value) or is_lazy(fill_value):
        return as_box(np.broadcast_to(fill_value, box.shape), box).astype(wanted)
    return DispatchArray(
        [
            da.full(p.shape, fill_value, dtype=wanted, chunks=pc.realise(p).chunks)
            for p in box.pieces
        ],
        box.shape,
    )


@implements(np.ones_like)
def _ones_like(
    a: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None,
    *, device: Any = None,
) -> DispatchArray:  # fmt: skip
    return full_like(a, 1, dtype, shape=shape)


def _between_lazy_ends(func: Callable[..., Any]) -> None:
    # pylops/waveeqprocessing/seismicinterpolation.py:381: windows, by the spacing of `spataxis`
    @implements(func)
    def shim(start: Any, stop: Any, num: int = 50, *args: Any, **kwargs: Any) -> DispatchArray:
        own = (np.ones(x.shape, x.dtype)[()] if is_lazy(x) else x for x in (start, stop))
        like = func(*own, num, *args, **kwargs)
        name = func.__name__
        if isinstance(like, tuple) or like.ndim != 1:
            advice = "Its ends must be single numbers; work the step out apart."
            raise not_dispatched(f"numpy.{name} with lazy ends", advice)
        numbers = [x for x in (start, stop) if not is_lazy(x)]
        lazy = [as_box(x).dask() for x in (start, stop) if is_lazy(x)]
        given = (func, numbers, is_lazy(start), num, args, kwargs)
        known = f"{name}-{tokenize(given, [array.name for array in lazy])}"
        return DispatchArray(pc.one_block(known, _between, given, lazy, like.shape, like.dtype))


def _between(
    func: Any, numbers: list[Any], lazy_first: bool, num: int, args: Any, kwargs: Any, *ends: Any
) -> Any:
    start, stop = (*ends, *numbers) if lazy_first else (*numbers, *ends)
    return func(start, stop, num, *args, **kwargs)


for _func in (np.linspace, np.logspace, np.geomspace):
    _between_lazy_ends(_func)


@implements(np.copyto)
def _copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = True) -> None:
    if not isinstance(dst, DispatchArray):
        raise not_dispatched("np.copyto into a NumPy array", "Make the buffer a dask array.")
    source = as_box(src, dst)
    if not np.can_cast(source.dtype, dst.dtype, casting):  # type: ignore[arg-type]
        raise TypeError(f"Cannot cast from {source.dtype!r} to {dst.dtype!r} ({casting})")
    dst.assign(source if where is True else np.where(as_box(where, dst), source, dst))


@implements(np.putmask)
def _putmask(a: Any, mask: Any, values: Any) -> None:
    if not isinstance(a, DispatchArray):
        raise not_dispatched("np.putmask into a NumPy array", "Make the buffer a dask array.")
    if np.size(values) != 1 and np.shape(values) != a.shape:
        raise not_dispatched("np.putmask", "Only a scalar, or values of the array's shape.")
    a.assign(np.where(as_box(mask, a), values, a))


@implements(np.array_equal)
def _array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> Any:
    if np.shape(a1) != np.shape(a2):
        return False
    model = a1 if isinstance(a1, DispatchArray) else a2
    first, second = as_box(a1, model), as_box(a2, model)
    same: Any = first == second
    if equal_nan:
        same = same | (np.isnan(first) & np.isnan(second))
    return _decision(np.all(same))


def _infinite(func: Any, negative: bool) -> None:
    @implements(func)
    def shim(x: Any, out: Any = None) -> Any:
        func(np.ones(1, x.dtype))  # complex numbers have no sign: an error of NumPy's
        result = np.isinf(x) & (np.signbit(x) == negative)
        return written(out, result, f"np.{func.__name__}")


_infinite(np.isposinf, negative=False)
_infinite(np.isneginf, negative=True)


@implements(np.isclose)
def _isclose(
    a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Any:
    if hasattr(b, "dtype"):  # as NumPy does: there are integers whose absolute value is none
        b = b.astype(np.result_type(b.dtype, 1.0))
    close = np.abs(a - b) <= atol + rtol * np.abs(b)
    close = np.where(np.isfinite(b), close, a == b)
    return close | (np.isnan(a) & np.isnan(b)) if equal_nan else close


@implements(np.allclose)
def _allclose(
    a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Any:
    return _decision(np.all(_isclose(a, b, rtol, atol, equal_nan)))


def _decision(answer: Any) -> Any:
    """Return what NumPy gives as Python's bool as that where values are read anyway: in solvers."""
    return answer if session.get() is None else bool(answer)
