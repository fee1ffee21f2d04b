"""A method of any object in one lazy task, on whole vectors: what NumPy makes of them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask._task_spec import DataNode
from dask.array.core import Array as DaskArray
from pylops import LinearOperator

from pylops_dispatch.array import DispatchArray, is_dask, is_lazy, source
from pylops_dispatch.copying import all_within, copied, settled
from pylops_dispatch.pieces import one_block
from pylops_dispatch.placing import coefficient, is_large
from pylops_dispatch.workers import client_in_use


@dataclass(frozen=True)
class _Hole:
    """Where an array was."""

    number: int


def without_arrays(value: Any) -> tuple[Any, list[DaskArray]]:
    """Return an object for a task without what comes as inputs of the task, and these, lazily.

    They are the dask arrays that functions close over, and on a cluster large NumPy arrays. A task
    puts them back with :func:`with_arrays`.
    """
    within = client_in_use() is not None
    if not any(_is_input(held, within) for held in all_within(value, functions=True)):
        return value, []
    arrays: list[DaskArray] = []
    numbers: dict[int, int] = {}

    def take(held: Any) -> Any:
        if not _is_input(held, within):
            return held
        if id(held) not in numbers:
            numbers[id(held)] = len(arrays)
            whole = tuple((n,) for n in held.shape)
            lazy = is_lazy(held)
            arrays.append(source(held).rechunk(whole) if lazy else coefficient(held, whole))
        return _Hole(numbers[id(held)])

    return copied(value, take, functions=True), arrays


def _is_input(held: Any, within: bool) -> bool:
    return is_lazy(held) or (within and type(held) is np.ndarray and is_large(held.nbytes))


def with_arrays(value: Any, arrays: Sequence[Any]) -> Any:
    """Return an object with `arrays` where :func:`without_arrays` took them out."""

    def fill(held: Any) -> Any:
        return arrays[held.number] if isinstance(held, _Hole) else held

    return copied(value, fill, functions=True) if arrays else value


def snapshot(value: Any) -> Any:
    """Return a copy that later changes of `value` do not reach; it shares arrays and operators."""
    return copied(value, settled, shared=(LinearOperator,))


def dtype_within(value: Any, x: Any) -> np.dtype[Any]:
    """Return the dtype of what an object makes of `x`: that of `x` and of the object's arrays."""
    dtypes = [x.dtype if x.dtype.kind in "fc" else np.dtype(float)]
    for held in all_within(value):
        dtype = getattr(held, "dtype", None)
        if isinstance(dtype, np.dtype) and dtype.kind in "fc" and np.ndim(held):
            dtypes.append(dtype)
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
    given = (cls, name, DataNode(None, template), shape, dtype)
    return DispatchArray(one_block(result, _run, given, arrays, shape, dtype))


def _run(cls: type, name: str, template: Any, shape: Any, dtype: Any, *arrays: Any) -> Any:
    def fill(held: Any) -> Any:
        # the method may write into what it is given
        return np.array(arrays[held.number]) if isinstance(held, _Hole) else held

    value, args, kwargs = copied(template, fill)
    result = np.empty(shape, dtype)
    result[...] = getattr(cls, name)(value, *args, **kwargs)
    return result
