"""Stacks of operators, whatever pool they have: one task for each operator, or PyLops's code."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import pylops
from dask._task_spec import Alias, DataNode, Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from pylops.linearoperator import aslinearoperator

from pylops_dispatch import blocks
from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.blas_threads import one_blas_thread
from pylops_dispatch.naming import layer_name, name_of
from pylops_dispatch.operators import (
    all_parts,
    count_applications,
    duplicate,
    is_pylops,
    lazy_arrays,
    numpy_arrays_of,
    parts,
    runs_users_code,
)
from pylops_dispatch.pieces import Zeros, balanced
from pylops_dispatch.placing import something_waits
from pylops_dispatch.plans import has_plans
from pylops_dispatch.programs import Setting
from pylops_dispatch.rules.running import COMBINATIONS
from pylops_dispatch.rules.table import RULES
from pylops_dispatch.workers import client_in_use


class _Read(NamedTuple):
    """What an operator of a stack reads: a block of an array, or a part of that."""

    array: DaskArray
    key: tuple[Any, ...]
    where: slice | None


def run(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Run the operators of a stack apart; dask's scheduler takes the place of the pool.

    Operators that read one block each are one task each, and many small ones that lie one after
    another are one task. For others PyLops's serial code runs
    on the box: ``inoutengine`` would make NumPy buffers (``VStack._matvec_serial``), and a
    SciPy operator's own ``matvec`` asks for a NumPy array, so that a copy of the stack is run
    without either.
    """
    if _pool_keeps_dtypes(op, box, adjoint):
        return _as_in_a_pool(op, box, adjoint)
    edges = _edges_of_groups(op, box, adjoint)
    if edges:
        _count(op, adjoint)
        token = tokenize(name_of(op), edges)
        groups = _grouped(cls, op, edges, token)
        reads = _reads(groups, box, adjoint)
        if None in reads:
            starts = [start for start, _ in _ranges(groups, box, adjoint)]
            reads = _reads(groups, _cut_for_groups(box, starts), adjoint)
        return DispatchArray(_one_task_each(cls, groups, reads, adjoint, token))
    if _are_one_task_each(op, box):
        if all(isinstance(piece, Zeros) for piece in box.pieces):
            return DispatchArray(Zeros((int(op.shape[1 if adjoint else 0]),), np.dtype(op.dtype)))
        reads = _reads(op, box, adjoint)
        if None not in reads:
            _count(op, adjoint)
            return DispatchArray(_one_task_each(cls, op, reads, adjoint, name_of(op)))
    serial = duplicate(op)
    serial.inoutengine = None
    serial.ops = [aslinearoperator(part) for part in op.ops]
    return serial._rmatvec_serial(box) if adjoint else serial._matvec_serial(box)


def _count(op: Any, adjoint: bool) -> None:
    """Count applications of the operators of a stack, but of zeros that PyLops does not add."""
    added = _bounds(op, adjoint) is None
    for part in op.ops:
        if not (added and isinstance(part, pylops.Zero)):
            count_applications(part, adjoint)


def _pool_keeps_dtypes(op: Any, box: DispatchArray, adjoint: bool) -> bool:
    """Whether a stack with a pool gives another dtype than it would without one.

    Its processes or threads give arrays of their own, which ``np.hstack`` or ``np.sum`` puts
    together; the serial code, and threads that add, write into one of the stack's dtype.
    """
    if getattr(op, "nproc", 1) == 1 or np.result_type(op.dtype, box.dtype) == op.dtype:
        return False
    return op.parallel_kind == "multiproc" or _bounds(op, adjoint) is not None


def _as_in_a_pool(op: Any, box: DispatchArray, adjoint: bool) -> Any:
    name = "_rmatvec" if adjoint else "_matvec"
    parts_of_result = [
        getattr(part, name)(box[start:stop]).squeeze()
        for part, (start, stop) in zip(op.ops, _ranges(op, box, adjoint), strict=True)
    ]
    if _bounds(op, adjoint) is None:
        return functools.reduce(np.add, parts_of_result)
    return np.hstack(parts_of_result)


def _are_one_task_each(op: Any, box: DispatchArray) -> bool:
    """Whether the operators of a stack would be one task each on vectors of one block anyway."""
    if box.dtype.kind == "b" or (box.dtype.kind == "c" and np.dtype(op.dtype).kind != "c"):
        return False  # PyLops's code decides what becomes of the imaginary part, or of no numbers
    held = {len(list(lazy_arrays(part))) for part in _once(op.ops)}
    return len(held) == 1 and all(_is_one_task(part) for part in _once(op.ops))


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


# ---- many small operators ------------------------------------------------------------------

_FEW = 16  # tasks, at least
_SMALL = 1 << 20  # bytes that an operator reads, holds and writes


def _edges_of_groups(op: Any, box: DispatchArray, adjoint: bool) -> list[int]:
    """Return the first operator of each group that is worked on in one task; none for no groups.

    Groups begin where blocks of the vector do, or at the operator that is nearest to that.
    """
    count = len(op.ops)
    bounds = _bounds(op, not adjoint)
    if count <= _FEW or bounds is None or len(box.pieces) != 1 or isinstance(box.pieces[0], Zeros):
        return []
    tree = [part for each in _once(op.ops) for part in all_parts(each)]
    if not _run_anywhere(tree, op, box):
        return []
    held = sum(array.nbytes for array in numpy_arrays_of(tree))
    read = sum(op.shape) * box.dtype.itemsize + held
    if read > count * _SMALL:
        return []
    piece = pc.realise(box.pieces[0])
    row = pc.size(piece) // max(1, piece.shape[0])
    if row == 0 or any(n == 0 or n % row for n in np.diff(bounds)):
        return []
    largest = -(-count // max(_FEW, -(-read // _SMALL)))  # operators of a group
    blocks_begin = np.cumsum([0, *piece.chunks[0]]) * row
    cuts = sorted({*np.searchsorted(bounds, blocks_begin[:-1]).tolist(), count})
    return [
        first + sum(sizes[:number])
        for first, last in pairwise(cuts)
        for sizes in (balanced(last - first, -(-(last - first) // largest)),)
        for number in range(len(sizes))
    ]


def _run_anywhere(tree: list[Any], op: Any, box: DispatchArray) -> bool:
    """Whether operators of a stack are PyLops's own, and run on NumPy arrays in any task."""
    if box.dtype.kind == "c" and np.dtype(op.dtype).kind != "c":
        return False
    return all(
        is_pylops(type(part)) and not runs_users_code(part) and not has_plans(part) for part in tree
    ) and not any(True for part in _once(op.ops) for _ in lazy_arrays(part))


_groups: dict[str, tuple[str, Any]] = {}  # by stacks: what they are, and the stack of groups


def _grouped(cls: type, op: Any, edges: list[int], token: str) -> Any:
    """Return a stack of stacks, the same one again while the operators are the same."""
    known = _groups.get(pc.identity(op))
    if known is None or known[0] != token:
        ends = (*edges[1:], len(op.ops))
        stacks = [cls(list(op.ops[a:b]), dtype=op.dtype) for a, b in zip(edges, ends, strict=True)]
        known = token, cls(stacks, dtype=op.dtype)
        pc.keep_for(op, _groups, known)
    return known[1]


def _cut_for_groups(box: DispatchArray, starts: list[int]) -> DispatchArray:
    """Return a vector whose blocks are what groups read, one after another."""
    piece = pc.realise(box.pieces[0])
    row = pc.size(piece) // piece.shape[0]
    sizes = tuple(np.diff([*starts, box.size]).tolist())
    chunks = {0: tuple(n // row for n in sizes), **dict.fromkeys(range(1, piece.ndim), -1)}
    return DispatchArray([piece.rechunk(chunks)], box.shape, box.dtype)


# ---- one task each -------------------------------------------------------------------------


def _reads(op: Any, box: DispatchArray, adjoint: bool) -> list[Any]:
    """Return what each operator reads, None for more than one block."""
    return [_block_of(box, start, stop) for start, stop in _ranges(op, box, adjoint)]


def _ranges(op: Any, box: DispatchArray, adjoint: bool) -> list[tuple[int, int]]:
    """Return where the part of the input that each operator reads begins and ends."""
    bounds = _bounds(op, not adjoint)
    return [(0, box.size)] * len(op.ops) if bounds is None else list(pairwise(bounds))


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
        if isinstance(piece, Zeros) or any(m > 1 for m in piece.numblocks[1:]):
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


def _one_task_each(
    cls: type, op: Any, reads: Sequence[_Read], adjoint: bool, token: str
) -> DaskArray:
    """Return a blockwise array, so that dask fuses it with the vector operations around it."""
    dtype = np.dtype(op.dtype)
    name = layer_name(cls, adjoint, token, [read[1:] for read in reads])
    bounds = _bounds(op, adjoint)
    size = int(op.shape[1 if adjoint else 0])
    added = bounds is None
    sizes = (1,) * len(reads) if bounds is None else tuple(np.diff(bounds).tolist())
    operators, matrices = _operators_once(op, token)
    arguments = [*_vector(reads, shared=_bounds(op, not adjoint) is None), operators, (0,)]
    for matrix in matrices:
        arguments += [matrix, (0,)]
    y = da.blockwise(
        functools.partial(_apply, adjoint=adjoint, leading=(1,) if added else (), out_dtype=dtype),
        (0, 1) if added else (0,),
        *arguments,
        name=name,
        new_axes={1: size} if added else None,
        adjust_chunks={0: sizes},
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0, 0) if added else 0, dtype),
    )
    return blocks.add_up(y, (0,), dtype) if added else y


def _vector(reads: Sequence[_Read], shared: bool) -> list[Any]:
    """Return arguments of blockwise for what the operators read, one block each, or all one."""
    array = reads[0].array
    if shared and reads[0].where is None:
        return blocks.whole_arguments([array], 2)
    keys = [(array.name, number) for number in range(array.npartitions)]
    if [read.key for read in reads] == keys and all(read.where is None for read in reads):
        return [array, (0,)]
    name = f"parts-{tokenize([read[1:] for read in reads])}"
    sizes = []
    graph = {}
    for number, read in enumerate(reads):
        key = (name, number)
        graph[key] = Task(key, _part, TaskRef(read.key), read.where)
        start, stop, _ = (read.where or slice(None)).indices(_size(read))
        sizes.append(stop - start)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[r.array for r in reads])
    return [DaskArray(layers, name, (tuple(sizes),), dtype=array.dtype), (0,)]


def _size(read: _Read) -> int:
    return math.prod(c[i] for c, i in zip(read.array.chunks, read.key[1:], strict=True))


def _part(block: Any, where: slice | None) -> Any:
    return block.reshape(-1) if where is None else block.reshape(-1)[where]


# for each stack its name, whether dask runs on a cluster, its operators and matrices as arrays
_known: dict[str, tuple[str, bool, DaskArray, list[DaskArray]]] = {}


def _operators_once(op: Any, token: str) -> tuple[DaskArray, list[DaskArray]]:
    """Return what `_operators` does, the same again in each step if all is in memory.

    Operators that were sent to a cluster apart are looked for there each time.
    """
    elsewhere = client_in_use() is not None
    known = _known.get(pc.identity(op))
    if known is not None and known[:2] == (token, elsewhere):
        return known[2:]
    lazy = [array for part in op.ops for _, _, array in lazy_arrays(part)]
    operators, matrices = _operators(op.ops, token)
    in_graph = not elsewhere or len(operators.dask.layers) == 1
    if in_graph and not something_waits() and all(map(pc.in_memory, lazy)):
        pc.keep_for(op, _known, (token, elsewhere, operators, matrices))
    return operators, matrices


def _operators(ops: Sequence[Any], name: str) -> tuple[DaskArray, list[DaskArray]]:
    """Return operators as blocks of an argument of blockwise, and their dask arrays likewise.

    ``ArrayValuesDep`` of dask is no such argument: where two of them are fused into one task
    (``Blockwise``), both read the values of one.
    """
    embedded = {}
    for op in _once(ops):
        template, arrays = blocks.taken_apart(op)
        embedded[id(op)] = blocks.embed(template), arrays
    templates = [embedded[id(op)][0] for op in ops]
    held = zip(*(embedded[id(op)][1] for op in ops), strict=True)
    keys = [[(a, (a.name, *(0,) * a.ndim)) for a in arrays] for arrays in held]
    matrices = [_blocks_of(items, tokenize([key for _, key in items])) for items in keys]
    return _blocks_of([(t, getattr(t, "key", t)) for t in templates], name), matrices


def _blocks_of(items: Sequence[tuple[Any, Any]], token: str) -> DaskArray:
    """Return an array whose blocks are those with the given keys, or the objects themselves.

    What is in this process is given itself: another key for it would be a task in each step.
    """
    name = f"operators-{token}"
    kind = DataNode if client_in_use() is None else Setting
    graph: dict[Any, Any] = {}
    sources = []
    for number, (item, key) in enumerate(items):
        place = (name, number)
        if not isinstance(item, (Delayed, DaskArray)):
            graph[place] = kind(place, item)
            continue
        node = item.dask.get(key)
        if type(node) is DataNode or isinstance(node, np.ndarray):
            graph[place] = DataNode(place, getattr(node, "value", node))
        else:
            graph[place] = Alias(place, key)
            sources.append(item)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=sources)
    return DaskArray(layers, name, ((1,) * len(items),), dtype=object)


def _apply(
    block: Any, op: Any, *arrays: Any, adjoint: bool, leading: tuple[int, ...], out_dtype: Any
) -> Any:
    op = blocks.filled(op, arrays)
    with one_blas_thread():
        y = blocks.run(None, op, blocks.single(block), adjoint)
    return y.reshape(*leading, y.size).astype(out_dtype, copy=False)
