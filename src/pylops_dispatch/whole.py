"""A method of any object in one lazy task, on whole vectors: what NumPy makes of them."""

from __future__ import annotations

import copy
import types
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask._task_spec import DataNode, Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.highlevelgraph import HighLevelGraph
from pylops import LinearOperator

from pylops_dispatch.array import DispatchArray, is_dask, source
from pylops_dispatch.operators import without_pools

_STATELESS = (type, types.ModuleType, types.FunctionType, np.ndarray)


@dataclass(frozen=True)
class _Hole:
    """Where an array was."""

    number: int


def copied(value: Any, change: Callable[[Any], Any], shared: tuple[type, ...] = ()) -> Any:
    """Return a copy of an object, and of all that it holds, but not of NumPy arrays.

    What `change` returns something else for is replaced by that; instances of `shared` are kept.
    """
    seen: dict[int, Any] = {}

    def visit(value: Any) -> Any:
        if id(value) in seen:
            return seen[id(value)]
        new = change(value)
        if new is not value:
            return new
        if type(value) in (list, tuple):
            return type(value)(visit(item) for item in value)
        if type(value) is dict:
            return {key: visit(item) for key, item in value.items()}
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, visit(value.__self__))
        if isinstance(value, (*_STATELESS, *shared)) or not hasattr(value, "__dict__"):
            return value
        new = copy.copy(without_pools(value) if isinstance(value, LinearOperator) else value)
        seen[id(value)] = new
        for name, held in list(vars(new).items()):
            vars(new)[name] = visit(held)
        return new

    return visit(value)


def snapshot(value: Any) -> Any:
    """Return a copy that later changes of `value` do not reach; it shares arrays and operators."""

    def kept(held: Any) -> Any:
        return held.copy() if isinstance(held, DispatchArray) else held

    return copied(value, kept, shared=(LinearOperator,))


def dtype_within(value: Any, x: Any) -> np.dtype[Any]:
    """Return the dtype of what an object makes of `x`: that of `x` and of the object's arrays."""
    dtypes = [x.dtype if x.dtype.kind in "fc" else np.dtype(float)]

    def look(held: Any) -> Any:
        dtype = getattr(held, "dtype", None)
        if isinstance(dtype, np.dtype) and dtype.kind in "fc" and np.ndim(held):
            dtypes.append(dtype)
        return held

    copied(value, look)
    return np.result_type(*dtypes)


def in_one_task(
    cls: type,
    name: str,
    value: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> DispatchArray:
    """Return what a method gives, as an array of this shape and dtype, in one lazy task.

    Parameters
    ----------
    cls : type
        The class that has the method.
    name : str
        Name of the method.
    value : object
        Whose method it is: as it was before, not to be changed any more.
    args, kwargs : tuple, dict
        What the method is given.
    shape : tuple of int
        Shape of the result.
    dtype : dtype
        Data type of the result; ``object`` for what is no array.
    """
    arrays: list[DaskArray] = []

    def take(held: Any) -> Any:
        if isinstance(held, DispatchArray) and held.value is not None:
            return held.value
        if isinstance(held, DispatchArray) or is_dask(held):
            arrays.append(source(held).rechunk(-1))
            return _Hole(len(arrays) - 1)
        return held

    template = copied((value, args, kwargs), take)
    result = f"{cls.__name__}-{name}-{uuid.uuid4().hex}"
    key = (result, *(0,) * len(shape))
    inputs = [TaskRef((array.name, *(0,) * array.ndim)) for array in arrays]
    task = Task(key, _run, cls, name, DataNode(None, template), shape, dtype, *inputs)
    graph = HighLevelGraph.from_collections(result, {key: task}, dependencies=arrays)
    return DispatchArray(DaskArray(graph, result, tuple((n,) for n in shape), dtype=dtype))


def _run(cls: type, name: str, template: Any, shape: Any, dtype: Any, *arrays: Any) -> Any:
    def fill(held: Any) -> Any:
        # the method may write into what it is given
        return np.array(arrays[held.number]) if isinstance(held, _Hole) else held

    value, args, kwargs = copied(template, fill)
    result = np.empty(shape, dtype)
    result[...] = getattr(cls, name)(value, *args, **kwargs)
    return result
