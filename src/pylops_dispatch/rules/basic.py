"""Rules of PyLops's basic operators, and of the convolutions that they build on."""

from __future__ import annotations

import functools
import operator
import weakref
from typing import Any

import dask
import dask.array as da
import numpy as np
import pylops
from dask.array.core import normalize_chunks
from dask.utils import parse_bytes
from pylops import basicoperators as basic
from pylops import signalprocessing as sp
from pylops.signalprocessing import convolve1d
from pylops.utils import backend

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.pieces import Zeros
from pylops_dispatch.rules import matrix, stacks
from pylops_dispatch.rules.running import (
    COMBINATIONS,
    deepest,
    run_along,
    run_local,
    run_terms,
    run_whole,
)
from pylops_dispatch.rules.table import (
    RULES,
    Rule,
    Terms,
    alone,
    compose,
    halo,
    parallel_sum,
    whole,
)
from pylops_dispatch.spectra import convolve_1d_in_tile, convolve_nd_in_tile

# Samples needed forward and adjoint. PyLops's adjoints leave out the rows at the ends of an
# axis, so that a block needs the samples of those rows too, beyond the reach of the stencil.
_FIRST = {("centered", 3): (1, 2), ("centered", 5): (2, 4)}


def _along(op: Any, axis: int, depth: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple(depth if a == axis % len(op.dims) else (0, 0) for a in range(len(op.dims)))


def _first_derivative(op: Any) -> tuple[tuple[int, int], ...]:
    return _along(op, op.axis, _FIRST.get((op.kind, op.order), (1, 1)))


def _second_derivative(op: Any) -> tuple[tuple[int, int], ...]:
    if op.kind != "centered":
        return _along(op, op.axis, (2, 2))
    return _along(op, op.axis, (2, 3) if op.edge else (1, 2))


def _filter(op: Any) -> tuple[int, ...] | None:
    """Half the length of the filter, which PyLops has padded to be centred."""
    if op.h.ndim != len(op.dims):
        return None
    if isinstance(op, convolve1d._Convolve1Dshort):
        axis = op.axis % len(op.dims)
        if any(n != 1 for a, n in enumerate(op.h.shape) if a != axis):
            return None
    return tuple(int(n) // 2 for n in op.h.shape)


def _filter_of_part(op: Any) -> tuple[int, ...] | None:
    if not isinstance(op.Op, convolve1d._Convolve1Dshort):
        return None
    return _filter(op.Op)


def _filters_apart(op: Any) -> Terms | None:
    """Filters of their own for each line along the axis, which is then one block."""
    axis = op.axis % len(op.dims)
    if op.h.ndim != len(op.dims) or _filter(op) is not None:
        return None
    names = tuple(f"axis{a}" for a in range(len(op.dims)))
    h = tuple("." if a == axis else name for a, name in enumerate(names))
    return Terms(names, names, {"h": h, "hstar": h}, whole=frozenset({names[axis]}))


def _long_filter(op: Any) -> Terms | None:
    """A filter longer than the axis: `_rmatvec` asks for the length of the first axis too."""
    axis = op.axis % len(op.dims)
    other_axes = [
        tuple(n for a, n in enumerate(shape) if a != axis) for shape in (op.dims, op.dimsd)
    ]
    # PyLops gives data the shape of the filter, whatever the other axes of the model are
    if len(op.dims) != len(op.dimsd) or other_axes[0] != other_axes[1]:
        return None
    names = [f"axis{a}" for a in range(len(op.dims))]
    model, data, h = list(names), list(names), list(names)
    model[axis], data[axis], h[axis] = "short", "long", "."
    whole = frozenset({"short", "long", "axis0"})
    return Terms(tuple(model), tuple(data), {"h": tuple(h), "hstar": tuple(h)}, whole=whole)


def _along_or_whole(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> DispatchArray:
    terms = _long_filter(op)
    if terms is None:
        return run_whole(
            cls, op, box, adjoint, "a filter longer than its axis gives data of its own shape"
        )
    return run_terms(cls, op, box, adjoint, terms)


def _identity_depth(op: Any) -> tuple[int, ...] | None:
    return (0,) * len(op.dims) if op.mode == "same" else None


def _own_code(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    return NotImplemented


def _zero(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Zeros in the chunks of the input, where the two have the same shape."""
    n = op.shape[1 if adjoint else 0]
    dtype = np.dtype(op.dtype)
    if n != box.size:
        return NotImplemented
    return DispatchArray(
        [
            Zeros(p.shape, dtype)
            if isinstance(p, Zeros)
            else pc.realise(Zeros(p.shape, dtype), p.chunks)
            for p in box.pieces
        ],
        (n,),
    )


class _Store(list[Any]):
    """The store of a MemoizeOperator, in which PyLops sees NumPy arrays only.

    It compares all that is in it by value, which would compute lazy arrays.
    """

    def __init__(self, items: Any) -> None:
        super().__init__(items)
        self.lazy: list[tuple[DispatchArray, DispatchArray]] = []

    def __reduce__(self) -> Any:
        return list, (list(self),)  # a task needs no lazy arrays


def _memoize(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Recognise a vector by its keys: comparing values, as PyLops does, would compute them."""
    if not isinstance(op.store, _Store):
        op.store = _Store(op.store)
    store = op.store.lazy
    for pair in store:
        known, result = (pair[1], pair[0]) if adjoint else pair
        if known.names == box.names:
            return result.copy()
    if len(store) + 1 > op.max_neval:
        del store[0]
    y = op.Op._rmatvec(box) if adjoint else op.Op._matvec(box)
    op.neval += 1
    store.append((y.copy(), box.copy()) if adjoint else (box.copy(), y.copy()))
    return y


def _to_cupy(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> DispatchArray:
    """Move each block to the GPU, or back."""
    move = backend.to_numpy if adjoint else backend.to_cupy
    return box.map(lambda p: da.map_blocks(move, p, dtype=p.dtype))


def _causal_integration(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    piece = box.as_shape(tuple(int(n) for n in (op.dimsd if adjoint else op.dims)))
    if not isinstance(piece, Zeros) and piece.numblocks[op.axis] > 1:
        return NotImplemented  # dask's cumsum adds up the blocks' totals
    return run_along(cls, op, box, adjoint)


def _regression(op: Any) -> Terms | None:
    """Powers of the axis are made in the tasks, of its blocks; a lazy axis runs PyLops's code."""
    if not isinstance(op.taxis, np.ndarray) or op.taxis.shape != (op.shape[0],):
        return None
    return Terms(
        ("degree",), ("time",), {"taxis": ("time",)}, whole=frozenset({"degree"}),
        sizes=_sizes_of_regression,
    )  # fmt: skip


def _sizes_of_regression(op: Any, x: Any, adjoint: bool) -> dict[str, tuple[int, ...]]:
    limit = min(parse_bytes(dask.config.get("array.chunk-size")), pc.LARGE)
    new = normalize_chunks("auto", op.taxis.shape, limit, op.taxis.dtype)
    (time,) = x.chunks if adjoint else new
    return {"degree": (int(op.shape[1]),), "time": time}


_DIRECTIONAL = "one task for the weighted derivatives along all axes"
_expanded: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _directional(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Run a directional derivative as the sum of weighted derivatives that it is."""
    if op.v.ndim == 1 and not isinstance(op.v, np.ndarray):
        return NotImplemented  # lazy numbers: PyLops's own Sum * Diagonal * Gradient
    direction = op.v.tobytes() if op.v.ndim == 1 else b""  # whose numbers the weights are made of
    made_of, tree = _expanded.get(op, (None, None))
    if made_of != direction:
        first = _weighted_derivatives(op)
        tree = first if cls is basic.FirstDirectionalDerivative else -first.H * first
        _expanded[op] = direction, tree
    return run_local(type(tree), tree, box, adjoint)


def _weighted_derivatives(op: Any) -> Any:
    dims = tuple(int(n) for n in op.dims)
    sampling = np.broadcast_to(op.sampling, len(dims))
    terms = []
    for axis, step in enumerate(sampling):
        derivative = basic.FirstDerivative(
            dims, axis=axis, sampling=step, edge=op.edge, kind=op.kind, dtype=op.dtype
        )
        if op.v.ndim == 1:
            weight = np.full(dims[0], op.v[axis])
            factor = basic.Diagonal(weight, dims=dims, axis=0, dtype=op.dtype)
        else:
            factor = basic.Diagonal(op.v[axis], dtype=op.dtype)
        terms.append(factor * derivative)
    return functools.reduce(operator.add, terms)


RULES.update(
    {
        basic.FunctionOperator: compose("the user's functions run on lazy arrays"),
        basic.MemoizeOperator: compose("recognises vectors by their keys", run=_memoize),
        basic.Regression: Rule("parallel_sum", "blocks of the axis", terms=_regression),
        basic.LinearRegression: Rule("parallel_sum", "blocks of the axis", terms=_regression),
        basic.MatrixMult: parallel_sum(matrix.run, "blocks of A, added along its columns"),
        basic.Diagonal: alone(("diag",)),
        basic.Zero: compose(run=_zero),
        basic.Identity: Rule(
            "alone", "N different from M: pads or cuts", _identity_depth, run=_own_code
        ),
        basic.Restriction: compose("only the blocks that are touched"),
        basic.Flip: compose(),
        basic.Symmetrize: compose(),
        basic.Transpose: compose(),
        basic.Roll: compose("the chunks of the input are put back"),
        basic.Pad: compose(),
        basic.Sum: compose("added in a tree"),
        basic.VStack: compose("operators apart, added in adjoint", run=stacks.run),
        basic.HStack: compose("operators apart, added in forward", run=stacks.run),
        basic.BlockDiag: compose("operators apart", run=stacks.run),
        basic.Block: compose("operators apart"),
        basic.Kronecker: compose("columns in parallel"),
        basic.Real: alone(),
        basic.Imag: alone(),
        basic.Conj: alone(),
        basic.Smoothing1D: halo(_filter_of_part),
        basic.Smoothing2D: halo(_filter, tile=convolve_nd_in_tile),
        basic.SmoothingND: halo(_filter, tile=convolve_nd_in_tile),
        basic.CausalIntegration: Rule(
            "whole_axis",
            "along a cut axis the totals of the blocks are added up",
            axes=lambda op: (op.axis,),
            run=_causal_integration,
        ),
        basic.FirstDerivative: halo(_first_derivative),
        basic.SecondDerivative: halo(_second_derivative),
        basic.Laplacian: Rule("halo", "one task for all its axes"),
        basic.Gradient: compose("one derivative for each axis"),
        basic.FirstDirectionalDerivative: Rule("halo", _DIRECTIONAL, run=_directional),
        basic.SecondDirectionalDerivative: Rule("halo", _DIRECTIONAL, run=_directional),
        basic.ToCupy: compose("block by block", run=_to_cupy),
        sp.Convolve1D: halo(_filter_of_part),
        sp.Convolve2D: halo(_filter, tile=convolve_nd_in_tile),
        sp.ConvolveND: halo(_filter, tile=convolve_nd_in_tile),
        convolve1d._Convolve1Dshort: Rule(
            "halo", depth=_filter, tile=convolve_1d_in_tile, terms=_filters_apart
        ),
        convolve1d._Convolve1Dlong: Rule("whole_axis", terms=_long_filter, run=_along_or_whole),
        pylops.JaxOperator: whole("jax.jit traces PyLops's code on arrays of its own"),
        pylops.LinearOperator: compose("SciPy's matrices run by blocks", run=matrix.run_scipy),
    }
)

COMBINATIONS[basic.Laplacian] = deepest
