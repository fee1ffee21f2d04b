"""A method of any object in one lazy task, on whole vectors: what NumPy makes of them."""

from __future__ import annotations

import copy
import functools
import types
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask._task_spec import DataNode, Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.highlevelgraph import HighLevelGraph
from pylops import LinearOperator

from pylops_dispatch.array import DispatchArray, is_dask, source
from pylops_dispatch.operators import for_tasks
from pylops_dispatch.placing import client_in_use, coefficient, is_large

_STATELESS = (type, types.ModuleType, types.FunctionType, np.ndarray)


@dataclass(frozen=True)
class _Hole:
    """Where an array was."""

    number: int


def copied(
    value: Any,
    change: Callable[[Any], Any],
    shared: tuple[type, ...] = (),
    functions: bool = False,
) -> Any:
    """Return a copy of an object, and of all that it holds, but not of NumPy arrays.

    What `change` returns something else for is replaced by that; instances of `shared` are kept.
    With `functions`, what they close over, or were given before, is looked at as well.
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
        if functions and isinstance(value, functools.partial):
            return functools.partial(visit(value.func), *visit(value.args), **visit(value.keywords))
        if functions and isinstance(value, types.FunctionType):
            seen[id(value)] = value  # for a function that closes over itself
            seen[id(value)] = _closing_over(value, visit)
            return seen[id(value)]
        if isinstance(value, (*_STATELESS, *shared)) or not hasattr(value, "__dict__"):
            return value
        new = copy.copy(for_tasks(value) if isinstance(value, LinearOperator) else value)
        seen[id(value)] = new
        for name, held in list(vars(new).items()):
            vars(new)[name] = visit(held)
        return new

    return visit(value)


def _closing_over(function: types.FunctionType, change: Callable[[Any], Any]) -> Any:
    """Return a function whose cells and defaults are changed; itself if it has none."""
    cells, defaults = function.__closure__, function.__defaults__
    if not cells and not defaults and not function.__kwdefaults__:
        return function
    new = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        None if defaults is None else tuple(map(change, defaults)),
        None if cells is None else tuple(_changed_cell(cell, change) for cell in cells),
    )
    new.__kwdefaults__ = change(function.__kwdefaults__)
    new.__module__, new.__qualname__ = function.__module__, function.__qualname__
    vars(new).update(change(vars(function)))
    return new


def _changed_cell(cell: types.CellType, change: Callable[[Any], Any]) -> types.CellType:
    try:
        return types.CellType(change(cell.cell_contents))
    except ValueError:  # nothing was put there yet
        return cell


def arrays_within(value: Any) -> list[np.ndarray[Any, Any]]:
    """Return the NumPy arrays that an object holds, and all that it holds, each once."""
    found: dict[int, np.ndarray[Any, Any]] = {}

    def look(held: Any) -> Any:
        if isinstance(held, np.ndarray) and held.size:
            found[id(held)] = held
        return held

    copied(value, look, functions=True)
    return list(found.values())


def without_large_arrays(value: Any) -> tuple[Any, list[DaskArray]]:
    """Return an object for a task on a cluster without its large NumPy arrays, and these, lazily.

    A task puts them back with :func:`with_arrays`. On threads nothing is taken out.
    """
    if client_in_use() is None:
        return value, []
    arrays: list[DaskArray] = []
    numbers: dict[int, int] = {}

    def take(held: Any) -> Any:
        if type(held) is not np.ndarray or not is_large(held.nbytes):
            return held
        if id(held) not in numbers:
            numbers[id(held)] = len(arrays)
            arrays.append(coefficient(held, tuple((n,) for n in held.shape)))
        return _Hole(numbers[id(held)])

    emptied = copied(value, take, functions=True)
    return (emptied, arrays) if arrays else (value, [])


def with_arrays(value: Any, arrays: Sequence[Any]) -> Any:
    """Return an object with `arrays` where :func:`without_large_arrays` took them out."""

    def fill(held: Any) -> Any:
        return arrays[held.number] if isinstance(held, _Hole) else held

    return copied(value, fill, functions=True) if arrays else value


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
