"""Stacks of operators, whatever pool they have: one task for each operator, or PyLops's code."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pylops
from dask._task_spec import DataNode, Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from pylops.linearoperator import aslinearoperator

from pylops_dispatch import blocks
from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray, session
from pylops_dispatch.operators import duplicate, lazy_arrays, name_of, parts
from pylops_dispatch.pieces import Zeros
from pylops_dispatch.rules.running import COMBINATIONS
from pylops_dispatch.rules.table import RULES


class _Read(NamedTuple):
    """What an operator of a stack reads: a block of an array, or a part of that."""

    array: DaskArray
    key: tuple[Any, ...]
    where: slice | None


def run(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Run the operators of a stack apart; dask's scheduler takes the place of the pool.

    Operators that read one block each are one task each. For others PyLops's serial code runs
    on the box: ``inoutengine`` would make NumPy buffers (``VStack._matvec_serial``), and a
    SciPy operator's own ``matvec`` asks for a NumPy array, so that a copy of the stack is run
    without either.
    """
    if _are_one_task_each(op, box):
        if all(isinstance(piece, Zeros) for piece in box.pieces):
            return DispatchArray(Zeros((int(op.shape[1 if adjoint else 0]),), np.dtype(op.dtype)))
        reads = _reads(op, box, adjoint)
        if None not in reads:
            return DispatchArray(_one_task_each(cls, op, reads, adjoint))
    serial = duplicate(op)
    serial.inoutengine = None
    serial.ops = [aslinearoperator(part) for part in op.ops]
    return serial._rmatvec_serial(box) if adjoint else serial._matvec_serial(box)


def _are_one_task_each(op: Any, box: DispatchArray) -> bool:
    """Whether the operators of a stack would be one task each on vectors of one block anyway."""
    if box.dtype.kind == "c" and np.dtype(op.dtype).kind != "c":
        return False  # PyLops's code decides what becomes of the imaginary part
    return all(_is_one_task(part) for part in _once(op.ops))


def _once(ops: Sequence[Any]) -> list[Any]:
    return list({id(op): op for op in ops}.values())


def _is_one_task(op: Any) -> bool:
    rule = RULES.get(type(op))
    if rule is None or rule.kind == "whole" or (rule.terms is not None and rule.terms(op)):
        return False
    if any(array.npartitions > 1 for _, _, array in lazy_arrays(op)):
        return False
    inner = parts(op)
    if isinstance(op, pylops.MatrixMult) or (rule.local and rule.run is None):
        return True
    if type(op) in COMBINATIONS and inner:
        return all(_is_one_task(part) for part in inner)
    return rule.kind == "whole_axis" and rule.run is None


def _reads(op: Any, box: DispatchArray, adjoint: bool) -> list[Any]:
    """Return what each operator reads, None for more than one block."""
    bounds = _bounds(op, not adjoint)
    ranges = [(0, box.size)] * len(op.ops) if bounds is None else pairwise(bounds)
    return [_block_of(box, start, stop) for start, stop in ranges]


def _bounds(op: Any, model: bool) -> list[int] | None:
    """Return where the parts of model, or data, begin and end; None if operators share it."""
    bounds = vars(op).get("mmops" if model else "nnops")
    return None if bounds is None else [int(n) for n in bounds]


def _block_of(box: DispatchArray, start: int, stop: int) -> _Read | None:
    """Return where elements `start` to `stop` of a vector are, if that is within one block."""
    for piece in box.pieces:
        n = pc.size(piece)
        if start >= n:
            start, stop = start - n, stop - n
            continue
        # blocks that are cut along the first axis alone lie one after another
        if isinstance(piece, Zeros) or stop > n or any(m > 1 for m in piece.numblocks[1:]):
            return None
        row = n // piece.shape[0]
        for number, length in enumerate(piece.chunks[0]):
            size = row * length
            if start < size:
                where = None if (start, stop) == (0, size) else slice(start, stop)
                key = (piece.name, number, *(0,) * (piece.ndim - 1))
                return _Read(piece, key, where) if stop <= size else None
            start, stop = start - size, stop - size
    return None


def _one_task_each(cls: type, op: Any, reads: Sequence[_Read], adjoint: bool) -> DaskArray:
    dtype = np.dtype(op.dtype)
    kind = "rmatvec" if adjoint else "matvec"
    name = f"{cls.__name__}-{kind}-{tokenize(name_of(op), [read[1:] for read in reads])}"
    bounds = _bounds(op, adjoint)
    # terms of a sum are stacked along an axis that goes when they are added
    leading = () if bounds is not None else (1,)
    arguments = {id(part): _embedded(part) for part in _once(op.ops)}
    graph: dict[Any, Any] = {}
    for number, (part, read) in enumerate(zip(op.ops, reads, strict=True)):
        setattr(part, f"{kind}_count", getattr(part, f"{kind}_count") + 1)
        key = (name, number, *(0 for _ in leading))
        template, held, _ = arguments[id(part)]
        graph[key] = Task(
            key, _apply, adjoint, leading, dtype, template, TaskRef(read.key), read.where, *held
        )
    sources = [read.array for read in reads]
    for _, _, collections in arguments.values():
        sources += collections
    layers = HighLevelGraph.from_collections(name, graph, dependencies=sources)
    if bounds is not None:
        return DaskArray(layers, name, (tuple(int(n) for n in np.diff(bounds)),), dtype=dtype)
    chunks = ((1,) * len(reads), (int(op.shape[1 if adjoint else 0]),))
    return blocks.add_up(DaskArray(layers, name, chunks, dtype=dtype), (0,), dtype)


def _embedded(op: Any) -> tuple[Any, list[Any], list[Any]]:
    """Return an operator and its dask arrays as arguments of tasks, and where these come from."""
    template, arrays = blocks.taken_apart(op)
    current = session.get()
    if current is not None:
        arrays = [current.leaf(array) for array in arrays]
    argument = blocks.embed(template)
    references = [TaskRef((array.name, *(0,) * array.ndim)) for array in arrays]
    if not isinstance(argument, Delayed):
        return DataNode(None, argument), references, arrays
    return TaskRef(argument.key), references, [*arrays, argument]


def _apply(
    adjoint: bool, leading: tuple[int, ...], dtype: Any, template: Any, block: Any, where: Any,
    *arrays: Any,
) -> Any:  # fmt: skip
    op = blocks.filled(template, arrays)
    x = block.reshape(-1)
    with blocks.one_blas_thread():
        y = blocks.run(type(op), op, x if where is None else x[where], adjoint)
    return y.reshape(*leading, y.size).astype(dtype, copy=False)
