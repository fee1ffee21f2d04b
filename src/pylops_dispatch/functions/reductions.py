"""Reductions of boxes: piece by piece, then over the pieces."""

from __future__ import annotations

import functools
import hashlib
import inspect
import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.blockwise import blockwise
from dask.highlevelgraph import Layer, MaterializedLayer

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray, as_box, session
from pylops_dispatch.blas_threads import one_blas_thread
from pylops_dispatch.functions.elementwise import partition
from pylops_dispatch.functions.outputs import written
from pylops_dispatch.functions.registry import implements
from pylops_dispatch.layers import Form, graph_on
from pylops_dispatch.pieces import Zeros, array_of, real_dtype
from pylops_dispatch.placing import blocks_by_worker, bytes_of_block, runs_here_at_once
from pylops_dispatch.policy import not_dispatched
from pylops_dispatch.repeating import layer_of

_FAN_IN = 32  # numbers that one task adds


def _reduction(func: Any, reduce_piece: Any, merge: np.ufunc) -> None:
    name = f"np.{func.__name__}"
    parameters = tuple(inspect.signature(func).parameters)

    @implements(func)
    def shim(*args: Any, **kwargs: Any) -> Any:
        # np.sum takes a dtype at the place where np.max takes out
        return reduced(**dict(zip(parameters, args, strict=False)), **kwargs)

    def reduced(
        a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False,
        initial: Any = np._NoValue, where: Any = True,
    ) -> Any:  # fmt: skip
        box: Any = as_box(a)
        kwargs: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        if keepdims is not np._NoValue and keepdims:
            kwargs["keepdims"] = True
        if np.ndim(initial):
            raise TypeError(f"the initial value of {name} is a number, not an array")
        if where is not True and where is not np._NoValue:
            box = _chosen(box, where, merge, initial)
        if not box.size and merge.identity is None:
            raise not_dispatched(f"{name} of no elements", "There is no lazy form of it.")
        if box.value is not None:
            result: Any = func(box.value, **kwargs)
        elif box.ndim == 1 and axis in (None, 0, -1, (0,)) and not keepdims:
            pieces = [p for p in box.pieces if pc.size(p)] or box.pieces[:1]
            parts = [DispatchArray(reduce_piece(pc.realise(p), **kwargs)) for p in pieces]
            result = functools.reduce(merge, parts)
        else:
            axis = None if not box.ndim and axis in (0, -1) else axis  # as NumPy has it
            result = DispatchArray(reduce_piece(box.dask(), axis=axis, **kwargs))
        result = result.astype(result.dtype.newbyteorder("="))  # dask's largest keeps the order
        if initial is not None and initial is not np._NoValue:
            result = merge(_as_dtype(initial, result.dtype), result)
        return written(out, result, name, "unsafe")


def _chosen(box: Any, where: Any, merge: np.ufunc, initial: Any) -> Any:
    """Return a box that holds, where a mask is false, what changes nothing in a reduction."""
    mask = as_box(where, box)
    if mask.dtype != bool:
        raise TypeError(f"where must be of dtype bool, not {mask.dtype}")
    if np.broadcast_shapes(mask.shape, box.shape) != box.shape:
        raise ValueError(f"where of shape {mask.shape} does not fit an array of {box.shape}")
    neutral = initial if merge.identity is None or initial is None else merge.identity
    if neutral is None or neutral is np._NoValue:
        raise ValueError(
            f"reduction operation '{merge.__name__}' does not have an identity, so to use a "
            "where mask one has to specify 'initial'"
        )
    return np.where(mask, box, _as_dtype(neutral, box.dtype))


def _as_dtype(scalar: Any, dtype: Any) -> Any:
    """Return a scalar, which may be lazy, in another dtype, as NumPy does with ``initial=``."""
    return scalar.astype(dtype) if isinstance(scalar, DispatchArray) else np.full((), scalar, dtype)


_reduction(np.sum, da.sum, np.add)
_reduction(np.prod, da.prod, np.multiply)
_reduction(np.max, da.max, np.maximum)
_reduction(np.min, da.min, np.minimum)
_reduction(np.amax, da.max, np.maximum)
_reduction(np.amin, da.min, np.minimum)
_reduction(np.any, da.any, np.logical_or)
_reduction(np.all, da.all, np.logical_and)
_reduction(np.nansum, da.nansum, np.add)
_reduction(np.nanmax, da.nanmax, np.fmax)
_reduction(np.nanmin, da.nanmin, np.fmin)


@implements(np.mean)
def _mean(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, **kwargs: Any) -> Any:
    box = as_box(a)
    kwargs = {k: v for k, v in kwargs.items() if v is not np._NoValue}
    if kwargs.pop("where", True) is not True:
        raise not_dispatched("np.mean with a mask", "Divide a sum by the number of elements.")
    flat = box.ndim == 1 and axis in (None, 0, -1, (0,))
    if not flat or dtype is not None or kwargs or box.value is not None:
        result: Any = DispatchArray(da.mean(box.dask(), axis=axis, dtype=dtype, **kwargs))
    elif box.dtype == np.float16:  # as numpy._core._methods._mean
        total = np.sum(box, dtype=np.float32)
        result = np.true_divide(total, box.size).astype(box.dtype)
    else:
        result = np.true_divide(np.sum(box), box.size)
    return written(out, result, "np.mean", "unsafe")


def _block_dot(a: Any, b: Any) -> Any:
    """Dot product of two blocks, unravelled: no copy, whatever their strides."""
    if _are_for_blas(a, b):
        with _one_thread_for(a):
            return np.dot(a.ravel("K"), b.ravel("K")).reshape((1,) * a.ndim)
    a, b = np.ma.filled(a, 0), np.ma.filled(b, 0)  # ``einsum`` takes what masks hide
    axes = list(range(a.ndim))
    return np.einsum(a, axes, b, axes, []).reshape((1,) * a.ndim)


def _block_square_norm(a: Any) -> Any:
    a = np.ma.filled(a, 0)
    if a.dtype.kind != "c":
        return _block_dot(a, a)
    if _are_for_blas(a, a):
        # as real numbers: a complex product of infinite ones, as IRLS begins with, is not a number
        parts = a.ravel("K").view(real_dtype(a.dtype))
        return _block_dot(parts, parts).reshape((1,) * a.ndim)
    return _block_dot(a.real, a.real) + _block_dot(a.imag, a.imag)


def _one_thread_for(a: Any) -> AbstractContextManager[None]:
    """Give BLAS one thread; OpenBLAS has no more for vectors of up to 10,000 elements anyway."""
    return one_blas_thread() if a.size > 10_000 else nullcontext()


def _are_for_blas(a: Any, b: Any) -> bool:
    """Whether blocks lie in memory alike and without gaps; einsum takes three times as long."""
    return (
        type(a) is type(b) is np.ndarray
        and a.dtype == b.dtype
        and a.dtype.char in "fdFD"
        and (
            (a.flags.c_contiguous and b.flags.c_contiguous)
            or (a.flags.f_contiguous and b.flags.f_contiguous)
        )
    )


def _by_block(function: Callable[..., Any], dtype: np.dtype[Any], *arrays: DaskArray) -> DaskArray:
    """Reduce each block to one number by `function`, and add the numbers in a tree."""
    numblocks = arrays[0].numblocks
    together = _blocks_together(arrays[0])
    reads = tuple(array.name for array in arrays)
    runs = [len(run) for run in together]
    digest = hashlib.blake2b(repr((function.__name__, reads, runs)).encode(), digest_size=16)
    token = digest.hexdigest()
    sources: Sequence[DaskArray] = arrays
    if not together:
        partial = f"{function.__name__.strip('_')}-{token}"
        make = functools.partial(_layer_of_blocks, partial, function, numblocks, reads)
        layer = layer_of(Form((_by_block, function, numblocks), reads), make)
        graph = graph_on(partial, layer, arrays)
        meta = np.empty((0,) * len(numblocks), dtype=dtype)
        chunks = tuple((1,) * n for n in numblocks)
        sources = [array_of(graph, partial, chunks, meta)]
        reads = (partial,)
    name = f"add-{token}"
    make = functools.partial(_layer_of_sums, name, function, numblocks, together, reads)
    kind = (_layer_of_sums, function, numblocks, tuple(map(tuple, together)))
    graph = graph_on(name, layer_of(Form(kind, reads), make), sources)
    return array_of(graph, name, (), np.empty((), dtype))


def _layer_of_blocks(
    name: str,
    function: Callable[..., Any],
    numblocks: tuple[int, ...],
    reads: Sequence[str],
    numbers: Sequence[Any],
) -> Layer:
    """Return tasks that make a number of each block."""
    axes = tuple(range(len(numblocks)))
    operands = (item for read in reads for item in (read, axes))
    return blockwise(function, name, axes, *operands, numblocks=dict.fromkeys(reads, numblocks))


def _layer_of_sums(
    name: str,
    function: Callable[..., Any],
    numblocks: tuple[int, ...],
    together: Sequence[Sequence[tuple[int, ...]]],
    reads: Sequence[str],
    numbers: Sequence[Any],
) -> Layer:
    """Return tasks that add up numbers of blocks in a tree."""
    graph: dict[Any, Any] = {}
    keys: list[Any] = []
    for indices in together:
        blocks = [List(*(TaskRef((read, *index)) for read in reads)) for index in indices]
        keys.append((f"{name}-blocks", len(keys)))
        graph[keys[-1]] = Task(keys[-1], _sum_of_blocks, function, List(*blocks))
    keys = keys or [(reads[0], *index) for index in np.ndindex(*numblocks)]
    level = 0
    while len(keys) > 1 or not level:
        groups = [keys[i : i + _FAN_IN] for i in range(0, len(keys), _FAN_IN)]
        last = len(groups) == 1
        keys = [(name,) if last else (f"{name}-{level}", i) for i in range(len(groups))]
        for key, group in zip(keys, groups, strict=True):
            graph[key] = Task(key, _add_blocks, List(*(TaskRef(k) for k in group)))
        level += 1
    return MaterializedLayer(graph)


# bytes of small blocks that one task reduces in a solve; a cluster needs longer for each task
_TOGETHER = 1 << 20
_TOGETHER_ON_CLUSTER = 1 << 24


def _blocks_together(x: DaskArray) -> list[list[tuple[int, ...]]]:
    """Return which blocks of an array one task reduces, none if each has a task of its own.

    On a cluster they are small ones that lie on the same worker.
    """
    if session.get() is None:
        return []
    limit = _TOGETHER if runs_here_at_once() else _TOGETHER_ON_CLUSTER
    count = limit // max(1, bytes_of_block(x))
    if count < 2:
        return []
    runs = blocks_by_worker(x.numblocks)
    return [run[i : i + count] for run in runs for i in range(0, len(run), count)]


def _sum_of_blocks(function: Callable[..., Any], blocks: list[list[Any]]) -> Any:
    return _add_blocks([function(*block) for block in blocks])


def _add_blocks(parts: list[Any]) -> Any:
    return functools.reduce(operator.add, (part.reshape(()) for part in parts))[()]


def _added(total: Any, part: Any) -> Any:
    return total + part if isinstance(total, DispatchArray) or total != 0 else part


def dot(a: Any, b: Any, conjugate: bool = False) -> Any:
    """Return the dot product of two vectors, the first conjugated or not, as a 0-d box."""
    model = a if isinstance(a, DispatchArray) else b
    first, second = as_box(a, model), as_box(b, model)
    if first.shape != second.shape:
        raise ValueError(
            f"shapes {first.shape} and {second.shape} not aligned: "
            f"{first.size} (dim 0) != {second.size} (dim 0)"
        )
    dtype = np.result_type(first.dtype, second.dtype)
    alike = first.names == (second.names if conjugate else second.conjugated)
    if alike and dtype.kind in "fc":  # whole numbers are added up as such
        square = square_norm(first)
        return square.astype(dtype)
    total: Any = dtype.type(0)
    for p, q in zip(*partition([first, second]), strict=True):
        if isinstance(p, Zeros) or isinstance(q, Zeros):
            continue
        left = p.conj() if conjugate and p.dtype.kind == "c" else p
        right = q if q.chunks == p.chunks else q.rechunk(p.chunks)
        total = _added(total, DispatchArray(_by_block(_block_dot, dtype, left, right)))
    return total


def square_norm(a: Any) -> Any:
    """Return the sum of the squared magnitudes of all elements."""
    box = as_box(a)
    dtype = real_dtype(box.dtype)
    if dtype.kind in "biu":
        dtype = np.dtype(float)
        box = box.astype(dtype)
    current = session.get()
    total: Any = dtype.type(0)
    for piece in box.pieces:
        if isinstance(piece, Zeros):
            continue
        part = DispatchArray(square_of(piece)) if current is None else current.norm(piece)
        total = _added(total, part)
    return total


def square_of(piece: DaskArray) -> DaskArray:
    """Return the sum of the squared magnitudes of an inexact array as a 0-d array."""
    return _by_block(_block_square_norm, real_dtype(piece.dtype), piece)
