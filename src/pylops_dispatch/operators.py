"""Copies of operators for other dims, and what an operator holds: parts, arrays, settings."""

from __future__ import annotations

import copy
import functools
import hashlib
import math
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pylops
from dask.array.core import Array as DaskArray

from pylops_dispatch.array import DispatchArray, found, is_dask
from pylops_dispatch.pieces import Shape, Zeros, contents, identity, samples

LinearOperator = pylops.LinearOperator

_SMALL = 4096  # bytes: arrays up to this size are named by their contents
# not empty once an operator was made of dask arrays: until then NumPy input needs no look at it
made_lazy: set[bool] = set()

_DERIVED = ("_name", "_slice", "_sample")  # what follows from other settings, or changes nothing


def is_operator(value: Any) -> bool:
    """Whether `value` is a linear operator; ``isinstance`` of its abstract base class is slow."""
    return _is_operator_class(type(value))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=1024)
def _is_operator_class(cls: Any) -> bool:
    return issubclass(cls, LinearOperator)


def dims_of(op: Any, adjoint: bool) -> tuple[Shape, Shape]:
    """Return the shapes of the input and of the output of an operator, as plain ints."""
    # LinearOperator.apply_columns leaves dims a number
    given = (d if np.iterable(d) else (d,) for d in (op.dims, op.dimsd))
    dims, dimsd = (tuple(int(n) for n in d) for d in given)
    return (dimsd, dims) if adjoint else (dims, dimsd)


def shaped(
    op: Any,
    box: DispatchArray,
    adjoint: bool,
    dtype: Any,
    apply: Callable[[DaskArray], DaskArray],
) -> DispatchArray:
    """Return what `apply` makes of a vector in the shape of its side of `op`; zeros stay zeros."""
    into, out = dims_of(op, adjoint)
    piece = box.as_shape(into)
    y = Zeros(out, np.dtype(dtype)) if isinstance(piece, Zeros) else apply(piece)
    return DispatchArray([y], (math.prod(out),))


def duplicate(op: Any) -> Any:
    """Return a shallow copy of an operator.

    Bound methods that the operator keeps of itself (``FirstDerivative._hmatvec``) are bound to
    the copy; all else is shared.
    """
    new = copy.copy(op)
    for name, value in vars(op).items():
        if isinstance(value, types.MethodType) and value.__self__ is op:
            setattr(new, name, types.MethodType(value.__func__, new))
    return new


def resized(op: Any, dims: Shape, dimsd: Shape) -> Any:
    """Return a copy of an operator for other dims."""
    new = duplicate(op)
    new._dims, new._dimsd = dims, dimsd
    new._shape = (math.prod(dimsd), math.prod(dims))
    return new


def parts(op: Any) -> list[Any]:
    """Return the operators that `op` directly holds, each once."""
    found: list[Any] = []
    for value in vars(op).values():
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if is_operator(item) and not any(item is f for f in found):
                found.append(item)
    return found


def rebuilt(op: Any, change: Callable[[Any], Any], new: Any | None = None) -> Any:
    """Return `new`, or a copy of `op`, whose parts are replaced by ``change(part)``."""
    new = duplicate(op) if new is None else new
    seen: dict[int, Any] = {}

    def changed(item: Any) -> Any:
        if not is_operator(item):
            return item
        if id(item) not in seen:
            seen[id(item)] = change(item)
        return seen[id(item)]

    for name, value in vars(op).items():
        if is_operator(value):
            setattr(new, name, changed(value))
        elif isinstance(value, (list, tuple)) and any(is_operator(v) for v in value):
            setattr(new, name, type(value)(changed(v) for v in value))
    return new


def counters(op: Any) -> dict[str, Any]:
    """Return PyLops's counters of an operator's applications, to put them back."""
    return {name: value for name, value in vars(op).items() if name.endswith("_count")}


def without_pools(op: Any) -> Any:
    """Return an operator for a task: stacks without their pools, which a task cannot have.

    ``VStack.pool`` cannot be pickled, and may be closed before the task runs.
    """
    if getattr(op, "pool", None) is None and not any(
        without_pools(part) is not part for part in parts(op)
    ):
        return op
    new = rebuilt(op, without_pools)
    if getattr(op, "pool", None) is not None:
        vars(new).update(_nproc=1, pool=None, lock=None)
    return new


def lazy_arrays(op: Any) -> Iterator[tuple[Any, str, DaskArray]]:
    """Yield owner, attribute and array for every dask array that an operator holds."""
    for name, value in vars(op).items():
        if isinstance(value, DaskArray):
            yield op, name, value
        elif isinstance(value, DispatchArray):
            yield op, name, value.dask()
    for part in parts(op):
        yield from lazy_arrays(part)


def arrays_of(op: Any) -> Iterator[DaskArray]:
    """Yield the dask arrays that an operator holds in any of its attributes."""
    yield from found(vars(op), is_dask)
    for part in parts(op):
        yield from arrays_of(part)


def name_of(op: Any) -> str:
    """Return a name for an operator as it is now: the same settings, the same name."""
    # the signature is made of strings; dask's tokenize would walk through it again
    return hashlib.blake2b(repr(signature(op)).encode(), digest_size=16).hexdigest()


def signature(op: Any, skip: tuple[str, ...] = ()) -> Any:
    """Return what tells this operator from another, cheaply and for good.

    Settings count by value, large arrays and unknown objects by identity.
    """
    items = []
    for name, value in vars(op).items():
        if name in skip or name in _DERIVED or name.endswith("_count"):
            continue
        items.append((name, _token(value, op)))
    return (f"{type(op).__module__}.{type(op).__qualname__}", tuple(items))


def _token(value: Any, owner: Any) -> Any:
    if isinstance(value, (str, int, float, complex, bool, type(None), np.dtype, np.generic, slice)):
        return repr(value)
    if is_operator(value):
        return signature(value)
    if isinstance(value, types.MethodType) and value.__self__ is owner:
        return value.__func__.__qualname__
    if isinstance(value, DaskArray):
        return value.name
    if isinstance(value, np.ndarray):
        if value.nbytes <= _SMALL:
            return contents(value)
        return identity(value), samples(value)
    if isinstance(value, functools.partial):
        return (_token(value.func, owner), _token(value.args, owner), _token(value.keywords, owner))
    if isinstance(value, (tuple, list)):
        return tuple(_token(v, owner) for v in value)
    if isinstance(value, dict):
        return tuple((repr(k), _token(v, owner)) for k, v in value.items())
    if hasattr(value, "__dask_tokenize__"):
        return value.__dask_tokenize__()
    try:
        return identity(value)
    except TypeError:
        return f"{type(value).__qualname__}-{id(value)}"
