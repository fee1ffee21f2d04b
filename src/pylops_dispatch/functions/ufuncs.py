"""Ufuncs on boxes: calls, their methods, and all their keywords."""

from __future__ import annotations

from typing import Any

import numpy as np

from pylops_dispatch.array import DispatchArray
from pylops_dispatch.assumptions import without_zero
from pylops_dispatch.functions import indexing, linalg
from pylops_dispatch.functions.elementwise import elementwise, on_alike
from pylops_dispatch.functions.outputs import check_cast, no_output, written
from pylops_dispatch.functions.registry import SHIMS
from pylops_dispatch.policy import not_dispatched

_REDUCTIONS: dict[Any, Any] = {
    np.add: np.sum, np.multiply: np.prod, np.maximum: np.max, np.minimum: np.min,
    np.logical_and: np.all, np.logical_or: np.any,
}  # fmt: skip
_ACCUMULATIONS: dict[Any, Any] = {np.add: np.cumsum, np.multiply: np.cumprod}
_DEFAULTS: dict[str, Any] = {
    "casting": "same_kind", "dtype": None, "signature": None, "sig": None, "keepdims": False,
}  # fmt: skip
_OF_MEMORY = ("order", "subok")  # nothing that a lazy array has


def call_ufunc(
    ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a ufunc, or one of its methods, on boxes (NEP 13)."""
    if method == "__call__" and ufunc is np.true_divide:
        inputs = without_zero(inputs)
    if method == "__call__" and not kwargs and ufunc.signature is None and ufunc.nout == 1:
        found = on_alike(ufunc, inputs)
        return elementwise(ufunc, inputs) if found is None else found
    out = _outputs(ufunc, kwargs.get("out"))
    where = kwargs.get("where", True)
    settings = {
        k: v
        for k, v in kwargs.items()
        if k not in (*_OF_MEMORY, "out", "where") and (k not in _DEFAULTS or v != _DEFAULTS[k])
    }
    if method == "at":
        return _at(ufunc, *inputs)
    if method == "reduce":
        return _reduce(ufunc, *inputs, out=out, where=where, **settings)
    if method == "accumulate":
        return _accumulate(ufunc, *inputs, out=out, **settings)
    if method == "outer":
        first, second = (x if isinstance(x, DispatchArray) else np.asanyarray(x) for x in inputs)
        first = np.reshape(first, (*first.shape, *(1,) * second.ndim))
        return ufunc(first, second, out=out, where=where, **settings)
    if method != "__call__":
        raise _refused(ufunc, method)
    if ufunc.signature is not None:
        result = linalg.generalised(ufunc, inputs, settings)
    else:
        result = elementwise(ufunc, inputs, settings)
    return _written(ufunc, out, result, where, settings.get("casting", "same_kind"))


def _refused(ufunc: np.ufunc, method: str) -> Exception:
    return not_dispatched(f"np.{ufunc.__name__}.{method}", "It has no lazy form.")


def _outputs(ufunc: np.ufunc, out: Any) -> tuple[DispatchArray, ...] | None:
    if out is None:
        return None
    out = out if isinstance(out, tuple) else (out,)
    if not all(isinstance(o, DispatchArray) for o in out):
        raise no_output(f"np.{ufunc.__name__}")
    return out


def _written(
    ufunc: np.ufunc, out: tuple[DispatchArray, ...] | None, result: Any, where: Any, casting: str
) -> Any:
    results = result if isinstance(result, tuple) else (result,)
    if where is not True:
        where = _mask(where)
    if out is None:
        # what is not computed is uninitialised in NumPy: any number will do, but not any shape
        found = tuple(_of_shape(value, np.shape(where)) for value in results)
    else:
        found = out
        for target, value in zip(out, results, strict=True):
            _write(ufunc, target, value, where, casting)
    return found if isinstance(result, tuple) else found[0]


def _mask(where: Any) -> Any:
    mask = where if isinstance(where, DispatchArray) else np.asanyarray(where)
    if mask.dtype != bool:
        raise TypeError(f"where must be of dtype bool, not {mask.dtype}")
    return mask


def _of_shape(value: Any, shape: tuple[int, ...]) -> Any:
    own = np.shape(value) if not isinstance(value, DispatchArray) else value.shape
    wanted = np.broadcast_shapes(own, shape) if shape else own
    return value if wanted == own else np.broadcast_to(value, wanted)


def _write(ufunc: np.ufunc, target: DispatchArray, value: Any, where: Any, casting: str) -> None:
    check_cast(f"ufunc '{ufunc.__name__}'", value, target, casting)
    shape = np.broadcast_shapes(np.shape(value), np.shape(where), target.shape)
    if shape != target.shape:
        raise ValueError(
            f"non-broadcastable output operand with shape {target.shape} doesn't match the "
            f"broadcast shape {shape}"
        )
    target.assign(value if where is True else np.where(where, value, target))


def _reduce(
    ufunc: np.ufunc, array: Any, *, axis: Any = 0, dtype: Any = None, out: Any = None, **kwargs: Any
) -> Any:
    if ufunc not in _REDUCTIONS:
        raise _refused(ufunc, "reduce")
    if ufunc in (np.add, np.multiply):
        kwargs["dtype"] = dtype
    elif dtype is not None:
        logical = ufunc in (np.logical_and, np.logical_or)
        if logical and np.dtype(dtype) != np.dtype(bool):
            raise not_dispatched(f"np.{ufunc.__name__}.reduce to {dtype}", "It gives booleans.")
        array = array if logical else array.astype(dtype)
    # not through NumPy: np.all knows of no `initial`
    result = SHIMS[_REDUCTIONS[ufunc]](array, axis=axis, **kwargs)
    return written(out, result, f"np.{ufunc.__name__}.reduce", "unsafe")


def _accumulate(
    ufunc: np.ufunc, array: Any, *, axis: Any = 0, dtype: Any = None, out: Any = None
) -> Any:
    if ufunc not in _ACCUMULATIONS or axis is None:
        raise _refused(ufunc, "accumulate")
    if not array.ndim:
        raise TypeError("cannot accumulate on a scalar")
    result = _ACCUMULATIONS[ufunc](array, axis=axis, dtype=dtype)
    return written(out, result, f"np.{ufunc.__name__}.accumulate", "unsafe")


def _at(ufunc: np.ufunc, target: Any, index: Any, *values: Any) -> None:
    dtype = getattr(target, "dtype", None)
    if any(not np.can_cast(_dtype(v), dtype, "same_kind") for v in values):  # type: ignore[arg-type]
        name = f"np.{ufunc.__name__}.at of {dtype}"
        raise not_dispatched(name, "NumPy rounds after each addition: convert the values first.")
    indexing.add_at(ufunc, target, index, *values)


def _dtype(value: Any) -> np.dtype[Any]:
    return value.dtype if isinstance(value, DispatchArray) else np.asarray(value).dtype
