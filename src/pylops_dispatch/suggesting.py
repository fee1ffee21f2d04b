"""Chunks that suit an operator, from its rule and its graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import dask.array as da
import dask.system
import numpy as np
from dask.utils import parse_bytes

from pylops_dispatch.arguments import (
    require_count,
    require_direction,
    require_enabled,
    require_operator,
)
from pylops_dispatch.foresight import foreseen, stand_in
from pylops_dispatch.operators import dims_of, parts
from pylops_dispatch.pieces import Chunks, Shape, balanced
from pylops_dispatch.rules import running
from pylops_dispatch.rules.table import Terms

_TARGET = 32 << 20
_SMALLEST = 1 << 20  # below this a task costs more than the work on its block
SUMMED = 1e6  # an axis that is summed over: worse than any halo, better than a whole axis
_BLOCK_TO_HALO = 8


def costs_of_axes(
    op: Any, adjoint: bool = False, around: tuple[Any, ...] = ()
) -> tuple[float, ...]:
    """Return what cutting each axis of an operator's input costs.

    Parameters
    ----------
    op : LinearOperator
        Operator.
    adjoint : bool, optional
        Whether the input is that of the adjoint.
    around : tuple of LinearOperator, optional
        Those that it was reached through.

    Returns
    -------
    tuple of float
        0 where blocks are independent, the halo where neighbours are needed, a large number
        where the results of blocks are added up, and infinity where an axis is one block.
    """
    dims = dims_of(op, adjoint)[0]
    found = _own_costs(op, adjoint, dims)
    if found is None:
        found = _costs_of_parts(op, adjoint, dims, (*around, op))
    return found


def _own_costs(op: Any, adjoint: bool, dims: Shape) -> tuple[float, ...] | None:
    local = running.local_needs(op, adjoint)
    if local is not None:
        depth = local.depth or (0,) * len(dims)
        return tuple(
            math.inf if a in local.axes else float(d) for a, d in enumerate(depth[: len(dims)])
        )
    rule = running.rule_of(op)
    if rule is None:
        return None
    terms = running.terms_of(rule, op)
    if terms is not None:
        return _costs_of_terms(terms, adjoint)
    if rule.kind == "whole":
        return (math.inf,) * len(dims)
    if rule.kind == "parallel_sum":  # of blocks of a matrix, or of what a table points at
        out = dims_of(op, not adjoint)[0]
        kept = len(out) == len(dims)
        return tuple(0.0 if kept and a and n == out[a] else SUMMED for a, n in enumerate(dims))
    if rule.axes is not None:
        whole = {axis % len(dims) for axis in rule.axes(op)}
        return tuple(math.inf if a in whole else 0.0 for a in range(len(dims)))
    return None


def _costs_of_terms(terms: Terms, adjoint: bool) -> tuple[float, ...]:
    into, out = (terms.data, terms.model) if adjoint else (terms.model, terms.data)
    return tuple(
        math.inf if label in terms.whole else 0.0 if label in out else SUMMED for label in into
    )


def _costs_of_parts(
    op: Any, adjoint: bool, dims: Shape, around: tuple[Any, ...]
) -> tuple[float, ...]:
    """Return the largest cost of any part whose input is like that of the whole."""
    costs = [0.0] * len(dims)
    for part in parts(op, around):
        if dims_of(part, adjoint)[0] == dims:
            own = costs_of_axes(part, adjoint, around)
            costs = [max(pair) for pair in zip(costs, own, strict=True)]
    return tuple(costs)


_SAMPLED = 8  # blocks that an axis is cut into, to see what moves


def moved_by_axis(
    op: Any, adjoint: bool, dtype: Any, blocks: int = _SAMPLED
) -> dict[int, int | None]:
    """Return the bytes that move if one axis alone of an operator's input is cut.

    Parameters
    ----------
    op : pylops.LinearOperator
        Operator.
    adjoint : bool
        Whether the input is that of the adjoint.
    dtype : dtype
        Of the input.
    blocks : int, optional
        How many there are to be, if an axis is long enough.

    Returns
    -------
    dict
        The bytes by the axis, without what the operator itself holds; None for an axis that has
        to be one block. Axes of length one are left out.
    """
    dims = dims_of(op, adjoint)[0]
    costs = costs_of_axes(op, adjoint)
    return {
        axis: None if math.isinf(costs[axis]) else _moved(op, adjoint, dtype, axis, blocks)
        for axis, n in enumerate(dims)
        if n > 1
    }


def _moved(op: Any, adjoint: bool, dtype: Any, axis: int, blocks: int) -> int:
    dims = dims_of(op, adjoint)[0]
    chunks = tuple(balanced(n, min(blocks, n) if a == axis else 1) for a, n in enumerate(dims))
    held = stand_in(da.zeros(dims, chunks=chunks, dtype=dtype))
    try:
        _, graph, _ = foreseen(op, held, adjoint)
    except Exception:  # of the operator's own code: it is told when the operator is applied
        return 0
    moved = graph.moved({held.name})
    return sum(n for kind, n in moved.items() if kind != "coefficients")


def _cheapest_first(op: Any, adjoint: bool, dtype: Any, blocks: int) -> Iterator[int]:
    """Yield the axes that may be cut, those first whose cut moves least.

    What an operator moves follows from its graph, whatever it is made of. No more is looked at
    than is needed: an axis that moves nothing is as good as any.
    """
    dims = dims_of(op, adjoint)[0]
    costs = costs_of_axes(op, adjoint)
    left = [a for a, n in enumerate(dims) if n > 1 and not math.isinf(costs[a])]
    left.sort(key=lambda a: costs[a])
    moved: dict[int, int] = {}
    while left:
        for axis in left if len(left) > 1 else []:
            if axis not in moved:
                moved[axis] = _moved(op, adjoint, dtype, axis, min(blocks, _SAMPLED))
            if not moved[axis]:
                break
        best = min(left, key=lambda axis: moved.get(axis, math.inf))
        left.remove(best)
        yield best


def suggest_chunks(
    Op: Any,
    dims: Shape | None = None,
    dtype: Any = None,
    *,
    adjoint: bool = False,
    target_bytes: int | str = _TARGET,
    blocks: int | None = None,
) -> Chunks:
    """Choose chunks for the model of an operator, or for its data.

    Axes are cut first whose cut moves nothing, the first of them before the last, and then those
    that move least, which is seen from the operator's graph for a few blocks. Axes that have to
    be one block are not cut.

    Parameters
    ----------
    Op : pylops.LinearOperator
        Operator, of any composition.
    dims : tuple of int, optional
        Shape of the array. That of the operator by default.
    dtype : dtype, optional
        Of the array. That of the operator by default.
    adjoint : bool, optional
        Whether the array is what the adjoint is applied to.
    target_bytes : int or str, optional
        Size of a block that is not to be exceeded where axes can be cut, ``"64 MiB"`` too.
        Default 32 MiB.
    blocks : int, optional
        Number of blocks that there should be at least, as long as they are not tiny. By default
        two for each core.

    Returns
    -------
    tuple of tuple of int
        As for ``chunks=`` of dask arrays.

    Raises
    ------
    TypeError
        If `Op` is no operator, `dims` no shape, `adjoint` neither true nor false, or
        `target_bytes` or `blocks` no number.
    ValueError
        If `dims` does not fit the operator, or a number is not positive.
    RuntimeError
        While the dispatch is disabled: the operator is applied to dask arrays to see its graph.

    Examples
    --------
    >>> import pylops, pylops_dispatch
    >>> D = pylops.FirstDerivative((512, 512, 512), axis=0)
    >>> chunks = pylops_dispatch.suggest_chunks(D)
    >>> [len(axis) for axis in chunks]
    [1, 32, 1]
    """
    require_enabled("suggest_chunks")
    require_operator(Op)
    require_direction(adjoint)
    own = dims_of(Op, adjoint)[0]
    shape = own if dims is None else _shape(dims)
    if len(shape) != len(own) or math.prod(shape) != math.prod(own):
        raise ValueError(f"dims must have {len(own)} axes and fit {own}, got {shape}")
    target = require_count(
        parse_bytes(target_bytes) if isinstance(target_bytes, str) else target_bytes, "target_bytes"
    )
    itemsize = np.dtype(Op.dtype if dtype is None else dtype).itemsize
    total = math.prod(shape) * itemsize
    parallel = 2 * dask.system.CPU_COUNT if blocks is None else require_count(blocks, "blocks")
    wanted = max(-(-total // target), min(parallel, max(total // _SMALLEST, 1)))
    costs = costs_of_axes(Op, adjoint)
    counts = [1] * len(shape)
    for axis in _cheapest_first(Op, adjoint, Op.dtype if dtype is None else dtype, wanted):
        left = -(-wanted // math.prod(counts))
        if left <= 1:
            break
        halo = int(costs[axis]) if costs[axis] < SUMMED else 0
        longest = -(-shape[axis] // left)
        if longest * (total / math.prod(counts)) > target * shape[axis]:
            longest = shape[axis] // left
        longest = max(longest, _BLOCK_TO_HALO * halo, 1)
        counts[axis] = -(-shape[axis] // longest)
    return tuple(balanced(n, count) for n, count in zip(shape, counts, strict=True))


def _shape(dims: Any) -> Shape:
    given = dims if isinstance(dims, Iterable) else (dims,)
    return tuple(require_count(n, "each of dims", 0) for n in given)
