"""How NumPy's functions and ufuncs run on boxes.

The order is: a shim of ours, array-api-compat's dask namespace, dask.array by qualified name;
else :class:`~pylops_dispatch.NotDispatchedError`, never a silent compute.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Any

import array_api_compat.dask.array as compat
import dask.array as da
import numpy as np
from dask.array.core import Array as DaskArray

from pylops_dispatch.array import DispatchArray, as_box, holds, is_dask
from pylops_dispatch.functions import (
    axes,
    contractions,
    creation,
    fft,
    indexing,
    linalg,
    padding,
    reductions,
    searching,
    shaping,
)
from pylops_dispatch.functions.elementwise import elementwise
from pylops_dispatch.functions.outputs import written
from pylops_dispatch.functions.registry import REFUSED, SHIMS
from pylops_dispatch.functions.ufuncs import call_ufunc
from pylops_dispatch.policy import not_dispatched

__all__ = ["call_function", "call_ufunc", "elementwise"]

# importing registers the shims
_MODULES = (
    axes, contractions, creation, fft, indexing, linalg, padding, reductions, searching, shaping,
)  # fmt: skip

# NumPy writes their results into any dtype
_CAST_UNSAFELY = (np.trace, np.compress)

# NumPy works in the dtype it is given; older dask only says that its result is of it
_ACCUMULATIONS = (np.cumsum, np.cumprod, np.nancumsum, np.nancumprod)

# they move elements about, and have no out
_OF_THE_SAME_DTYPE = (np.fft.fftshift, np.fft.ifftshift, np.repeat, np.delete, np.insert)


# what NumPy gives is a view, which is not to be written to
_READ_ONLY_VIEWS = (np.diagonal, np.linalg.diagonal, np.lib.stride_tricks.sliding_window_view)


# what a graph depends on: dask makes numbers of these as it builds it, which computes lazy ones
_SETTINGS = frozenset((
    "M", "N", "assume_unique", "axes", "axis", "axis1", "axis2", "axisa", "axisb", "axisc", "base",
    "bias", "compute_uv", "copy", "correction", "ddof", "decimals", "density", "destination",
    "dims", "edge_order", "endpoint", "full_matrices", "hermitian", "include_initial", "increasing",
    "indices_or_sections", "invert", "k", "keepdims", "kth", "minlength", "n", "new_shape", "num",
    "obj", "offset", "ord", "overwrite_input", "pad_width", "q", "repeats", "reps", "retstep",
    "return_counts", "return_index", "return_inverse", "returned", "rowvar", "s", "shape", "shift",
    "source", "sparse", "start", "start_or_stop", "step", "stop",
))  # fmt: skip
_SETTINGS_OF = dict.fromkeys(
    (np.linspace, np.logspace, np.geomspace), _SETTINGS - {"start", "stop"}
) | {np.digitize: _SETTINGS | {"bins"}}


def call_function(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a NumPy function on boxes (NEP 18)."""
    name = f"{func.__module__}.{func.__name__}"
    if func in REFUSED:
        raise not_dispatched(name, REFUSED[func])
    _refuse_lazy_settings(func, name, args, kwargs)
    shim = SHIMS.get(func)
    if shim is not None:
        if any(map(is_dask, (*args, *kwargs.values()))):  # as an operator holds them
            args, kwargs = tuple(map(_lifted, args)), {k: _lifted(v) for k, v in kwargs.items()}
        return shim(*args, **kwargs)
    if func in _ACCUMULATIONS:
        return _accumulated(func, name, *args, **kwargs)
    out = kwargs.pop("out", None)
    result = _lazily(func, name, to_dask(args), to_dask(kwargs))
    wrapped = from_dask(result, name)
    if func in _READ_ONLY_VIEWS and isinstance(wrapped, DispatchArray):
        more, settings = args[1:], dict(kwargs)

        def read(owner: DispatchArray) -> Any:
            taken = _lazily(func, name, (owner.dask(), *to_dask(more)), to_dask(settings))
            return from_dask(taken, name)

        return wrapped.reading(as_box(args[0]), read) if args else wrapped
    if func in _OF_THE_SAME_DTYPE:  # dask joins blocks in native byte order
        wrapped = wrapped.astype(args[0].dtype)
    elif func in (np.round, np.around):  # NumPy's of truth values are numbers
        given = (args[0] if args else kwargs["a"]).dtype
        wrapped = wrapped.astype(func(np.ones(1, given), *args[1:], **kwargs).dtype)
    return written(out, wrapped, name, "unsafe" if func in _CAST_UNSAFELY else "same_kind")


def _lifted(x: Any) -> Any:
    return as_box(x) if is_dask(x) else x


def _refuse_lazy_settings(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> None:
    settings = _SETTINGS_OF.get(func, _SETTINGS)
    for parameter, value in (*zip(_parameters(func), args, strict=False), *kwargs.items()):
        if parameter in settings and holds(value, _is_unread):
            raise not_dispatched(
                f"{name} with a lazy {parameter!r}",
                "Its value has to be known when the graph is made.",
            )


def _is_unread(value: Any) -> bool:
    return is_dask(value) or (isinstance(value, DispatchArray) and value.value is None)


@functools.cache
def _parameters(func: Any) -> tuple[str, ...]:
    """Return the names of a function's arguments, by place; those in C have none."""
    try:
        found = inspect.signature(func).parameters.values()
    except ValueError:
        return ()
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in found if parameter.kind in by_place)


def _accumulated(
    func: Any, name: str, a: Any, axis: Any = None, dtype: Any = None, out: Any = None
) -> Any:
    """Add up, or multiply, in a dtype: its values first, then sums that dask widens."""
    given: Any = as_box(a) if dtype is None else as_box(a).astype(dtype)
    if axis is None:  # dask takes the number of blocks for their length
        given, axis = np.ravel(given), 0
    wrapped = from_dask(_lazily(func, name, (to_dask(given),), {"axis": axis}), name)
    if dtype is not None:
        wrapped = wrapped.astype(dtype)
    return written(out, wrapped, name, "unsafe")


def _lazily(func: Any, name: str, args: Any, kwargs: Any) -> Any:
    if func is np.arange and holds((args, kwargs), is_dask):
        # older ones of dask compute them
        raise not_dispatched("np.arange of lazy ends", "Its length must be known.")
    error: Exception | None = None
    for target in _implementations(func):
        try:
            return target(*args, **kwargs)
        except np.exceptions.AxisError:
            raise
        except (TypeError, ValueError, AttributeError, NotImplementedError) as found:
            error = found
    if error is not None:
        raise not_dispatched(name, f"dask.array cannot do this: {error}") from error
    raise not_dispatched(
        name, "dask.array has no such function; write it with others, or with da.map_blocks."
    )


def _implementations(func: Any) -> list[Any]:
    submodule = func.__module__.partition("numpy.")[2]
    found = []
    for root in (compat, da):
        place = getattr(root, submodule, None) if submodule else root
        if place is None:
            try:
                place = importlib.import_module(f"{root.__name__}.{submodule}")
            except ImportError:
                continue
        target = getattr(place, func.__name__, None)
        if target is not None and target is not func and target not in found:
            found.append(target)
    return found


def to_dask(x: Any) -> Any:
    """Replace boxes by dask arrays, or by the scalars that they were read as."""
    if isinstance(x, DispatchArray):
        return x.dask() if x.value is None else x.value
    if isinstance(x, dict):
        return {k: to_dask(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x)(to_dask(v) for v in x) if type(x) in (list, tuple) else x
    return x


def from_dask(x: Any, name: str) -> Any:
    """Replace dask arrays by boxes; refuse those whose shape depends on values."""
    if isinstance(x, DaskArray):
        if any(np.isnan(n) for n in x.shape):
            raise not_dispatched(name, "The shape of its result depends on values.")
        return DispatchArray(x)
    if isinstance(x, (list, tuple)) and any(is_dask(v) for v in x):
        return type(x)(from_dask(v, name) for v in x) if type(x) in (list, tuple) else x
    return x
