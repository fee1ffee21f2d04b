"""Chunks that suit an operator, from its rule."""

from __future__ import annotations

import math
from typing import Any

import dask.system
import numpy as np

from pylops_dispatch.arguments import require_operator
from pylops_dispatch.functions.positions import balanced
from pylops_dispatch.operators import dims_of, parts
from pylops_dispatch.pieces import Chunks, Shape
from pylops_dispatch.rules import running
from pylops_dispatch.rules.table import Terms

_TARGET = 32 << 20
_SMALLEST = 1 << 20  # below this a task costs more than the work on its block
SUMMED = 1e6  # an axis that is summed over: worse than any halo, better than a whole axis
_BLOCK_TO_HALO = 8


def costs_of_axes(op: Any, adjoint: bool = False) -> tuple[float, ...]:
    """Return what cutting each axis of an operator's input costs.

    Parameters
    ----------
    op : LinearOperator
        Operator.
    adjoint : bool, optional
        Whether the input is that of the adjoint.

    Returns
    -------
    tuple of float
        0 where blocks are independent, the halo where neighbours are needed, a large number
        where the results of blocks are added up, and infinity where an axis is one block.
    """
    dims = dims_of(op, adjoint)[0]
    found = _own_costs(op, adjoint, dims)
    if found is None:
        found = _costs_of_parts(op, adjoint, dims)
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
    terms = rule.terms(op) if rule.terms is not None else None
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


def _costs_of_parts(op: Any, adjoint: bool, dims: Shape) -> tuple[float, ...]:
    """Return the largest cost of any part whose input is like that of the whole."""
    costs = [0.0] * len(dims)
    for part in parts(op):
        if dims_of(part, adjoint)[0] == dims:
            costs = [max(pair) for pair in zip(costs, costs_of_axes(part, adjoint), strict=True)]
    return tuple(costs)


def suggest_chunks(
    Op: Any,
    dims: Shape | None = None,
    dtype: Any = None,
    *,
    adjoint: bool = False,
    target_bytes: int = _TARGET,
    blocks: int | None = None,
) -> Chunks:
    """Choose chunks for the model of an operator, or for its data.

    Axes that the operator leaves independent are cut first, the first of them before the last;
    then those with the smallest halo. Axes that have to be one block are not cut.

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
    target_bytes : int, optional
        Size of a block that is not to be exceeded where axes can be cut. Default 32 MiB.
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
        If `Op` is no operator.
    ValueError
        If `dims` does not have the axes of the operator, or `target_bytes` is not positive.

    Examples
    --------
    >>> import pylops, pylops_dispatch
    >>> D = pylops.FirstDerivative((512, 512, 512), axis=0)
    >>> chunks = pylops_dispatch.suggest_chunks(D)
    >>> [len(axis) for axis in chunks]
    [1, 32, 1]
    """
    require_operator(Op)
    own = dims_of(Op, adjoint)[0]
    shape = own if dims is None else tuple(int(n) for n in dims)
    if len(shape) != len(own):
        raise ValueError(f"dims must have {len(own)} axes, those of {own}, got {shape}")
    if target_bytes <= 0:
        raise ValueError(f"target_bytes must be positive, got {target_bytes}")
    itemsize = np.dtype(Op.dtype if dtype is None else dtype).itemsize
    total = math.prod(shape) * itemsize
    parallel = 2 * dask.system.CPU_COUNT if blocks is None else blocks
    wanted = max(-(-total // target_bytes), min(parallel, max(total // _SMALLEST, 1)))
    costs = costs_of_axes(Op, adjoint)
    counts = [1] * len(shape)
    for axis in sorted(range(len(shape)), key=lambda a: (costs[a], a)):
        left = -(-wanted // math.prod(counts))
        if left <= 1 or math.isinf(costs[axis]):
            break
        halo = int(costs[axis]) if costs[axis] < SUMMED else 0
        longest = -(-shape[axis] // left)
        if longest * (total / math.prod(counts)) > target_bytes * shape[axis]:
            longest = shape[axis] // left
        longest = max(longest, _BLOCK_TO_HALO * halo, 1)
        counts[axis] = -(-shape[axis] // longest)
    return tuple(balanced(n, count) for n, count in zip(shape, counts, strict=True))
