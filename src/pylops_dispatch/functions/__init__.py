"""How NumPy's functions and ufuncs run on boxes.

The order is: a shim of ours, array-api-compat's dask namespace, dask.array by qualified name;
else :class:`~pylops_dispatch.NotDispatchedError`, never a silent compute.
"""

from __future__ import annotations

import importlib
from typing import Any

import array_api_compat.dask.array as compat
import dask.array as da
import numpy as np
from dask.array.core import Array as DaskArray

from pylops_dispatch.array import DispatchArray, is_dask
from pylops_dispatch.functions import (
    axes,
    creation,
    fft,
    indexing,
    linalg,
    reductions,
    searching,
    shaping,
)
from pylops_dispatch.functions.elementwise import elementwise
from pylops_dispatch.functions.registry import REFUSED, SHIMS
from pylops_dispatch.policy import not_dispatched

__all__ = ["call_function", "call_ufunc", "elementwise"]

# importing registers the shims
_MODULES = (axes, creation, fft, indexing, linalg, reductions, searching, shaping)

_REDUCTIONS: dict[Any, Any] = {
    np.add: np.sum, np.multiply: np.prod, np.maximum: np.max, np.minimum: np.min,
    np.logical_and: np.all, np.logical_or: np.any,
}  # fmt: skip
_ACCUMULATIONS: dict[Any, Any] = {np.add: np.cumsum, np.multiply: np.cumprod}


def call_ufunc(
    ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a ufunc, or one of its methods, on boxes (NEP 13)."""
    out = kwargs.pop("out", None)
    if out is not None:
        out = out if isinstance(out, tuple) else (out,)
        if not all(isinstance(o, DispatchArray) for o in out):
            raise not_dispatched(
                f"np.{ufunc.__name__} with a NumPy array for its output",
                "A lazy result cannot be written into memory that already exists; "
                "make the buffer with get_array_module(x).",
            )
    if method == "at":
        return indexing.add_at(ufunc, *inputs)
    if method == "reduce" and ufunc in _REDUCTIONS:
        kwargs = {"axis": 0, **{k: v for k, v in kwargs.items() if k != "initial" and v}}
        result = _REDUCTIONS[ufunc](*inputs, **kwargs)
    elif method == "accumulate" and ufunc in _ACCUMULATIONS:
        result = _ACCUMULATIONS[ufunc](*inputs, **{"axis": 0, **kwargs})
    elif method == "outer":
        first, second = (np.asanyarray(x) if np.isscalar(x) else x for x in inputs)
        result = ufunc(np.reshape(first, np.shape(first) + (1,) * np.ndim(second)), second)
    elif method != "__call__":
        raise not_dispatched(f"np.{ufunc.__name__}.{method}", "It has no lazy form.")
    elif ufunc.signature is not None:
        result = linalg.generalised(ufunc, inputs)
    else:
        where = kwargs.pop("where", True)
        result = elementwise(ufunc, inputs, kwargs)
        if where is not True and out is not None:
            result = np.where(where, result, out[0])
    if out is None:
        return result
    results = result if isinstance(result, tuple) else (result,)
    for target, value in zip(out, results, strict=True):
        _write(ufunc, target, value, kwargs.get("casting", "same_kind"))
    return out if isinstance(result, tuple) else out[0]


def _write(ufunc: np.ufunc, target: DispatchArray, value: Any, casting: str) -> None:
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    if not np.can_cast(dtype, target.dtype, casting):  # type: ignore[arg-type]
        raise TypeError(
            f"Cannot cast ufunc '{ufunc.__name__}' output from {dtype!r} to {target.dtype!r} "
            f"with casting rule '{casting}'"
        )
    if (
        np.shape(value) != target.shape
        and np.broadcast_shapes(np.shape(value), target.shape) != target.shape
    ):
        raise ValueError(
            f"non-broadcastable output operand with shape {target.shape} doesn't match the "
            f"broadcast shape {np.shape(value)}"
        )
    target.assign(value)


def call_function(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a NumPy function on boxes (NEP 18)."""
    name = f"{func.__module__}.{func.__name__}"
    if func in REFUSED:
        raise not_dispatched(name, REFUSED[func])
    shim = SHIMS.get(func)
    if shim is not None:
        return shim(*args, **kwargs)
    out = kwargs.pop("out", None)
    result = _lazily(func, name, to_dask(args), to_dask(kwargs))
    wrapped = from_dask(result, name)
    if out is None:
        return wrapped
    out.assign(wrapped)
    return out


def _lazily(func: Any, name: str, args: Any, kwargs: Any) -> Any:
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
