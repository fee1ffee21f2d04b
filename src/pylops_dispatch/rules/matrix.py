"""Products with matrices, dense or sparse, by blocks."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import dask.array as da
import numpy as np
import scipy.sparse
from dask._task_spec import DataNode
from dask.array.core import Array as DaskArray
from dask.array.core import normalize_chunks, slices_from_chunks
from dask.base import tokenize
from scipy.sparse.linalg import LinearOperator as ScipyOperator
from scipy.sparse.linalg._interface import MatrixLinearOperator

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray, session
from pylops_dispatch.blocks import one_blas_thread
from pylops_dispatch.functions.indexing import balanced
from pylops_dispatch.pieces import Chunks, Zeros
from pylops_dispatch.rules.running import run_local, run_whole


def run(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> DispatchArray:
    """Apply ``MatrixMult``: ``A.dot(x)`` itself would compute a dask ``x`` (matrixmult.py)."""
    rest = tuple(int(n) for n in op.otherdims) if op.reshape else ()
    return product(op.A, box, rest, adjoint)


def run_scipy(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Apply a SciPy operator that PyLops has wrapped (``LinearOperator._matvec``)."""
    inner = getattr(op, "Op", None)
    if isinstance(inner, MatrixLinearOperator):
        return product(inner.A, box, (), adjoint)
    if isinstance(inner, ScipyOperator):
        return run_whole(cls, _Vectors(inner), box, adjoint, "SciPy's operators want NumPy arrays")
    if type(op) is cls and inner is not None:
        return run_local(cls, op, box, adjoint)
    return NotImplemented


class _Vectors:
    """A SciPy operator with the methods that a task calls."""

    def __init__(self, op: Any) -> None:
        self.op, self.shape, self.dtype = op, op.shape, op.dtype

    def matvec(self, x: Any) -> Any:
        """Forward."""
        return self.op.matvec(x)

    def rmatvec(self, x: Any) -> Any:
        """Adjoint."""
        return self.op.rmatvec(x)


def product(A: Any, box: DispatchArray, rest: tuple[int, ...], adjoint: bool) -> DispatchArray:
    """Multiply a vector, seen as columns of shape `rest`, by a matrix or its adjoint.

    Parameters
    ----------
    A : array or sparse matrix
        NumPy, SciPy or dask.
    box : DispatchArray
        Vector.
    rest : tuple of int
        Axes of the vector that the matrix does not touch.
    adjoint : bool
        Whether to multiply by the conjugate transpose.

    Returns
    -------
    DispatchArray
        Vector; the products of blocks of `A` are added in a tree.
    """
    if isinstance(A, DispatchArray):
        A = A.dask()
    n_in, n_out = A.shape if adjoint else A.shape[::-1]
    dtype = np.result_type(A.dtype, box.dtype)
    piece = box.as_shape((n_in, *rest))
    if isinstance(piece, Zeros):
        return DispatchArray([Zeros((n_out, *rest), dtype)], (box.size // n_in * n_out,))
    y = _product(A, piece, n_out, adjoint, dtype)
    return DispatchArray([y], (box.size // n_in * n_out,))


def _product(A: Any, x: DaskArray, n_out: int, adjoint: bool, dtype: Any) -> DaskArray:
    inner = x.chunks[0]
    if isinstance(A, DaskArray):
        current = session.get()
        A = A if current is None else current.leaf(A)
        outer = A.chunks[1 if adjoint else 0]
        chunks = (inner, outer) if adjoint else (outer, inner)
        matrix = A.rechunk(chunks)
    else:
        outer = balanced(n_out, len(inner))
        chunks = (inner, outer) if adjoint else (outer, inner)
        matrix = _wrap(A, chunks)
    i, j, *rest = range(x.ndim + 1)
    alone = len(inner) * len(outer) == 1 and x.npartitions == 1
    partial = da.blockwise(
        _block_product,
        (i, j, *rest),
        matrix,
        (j, i) if adjoint else (i, j),
        x,
        (j, *rest),
        name=f"MatrixMult-{tokenize(matrix.name, x.name, adjoint)}",
        adjust_chunks={j: 1},
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * (x.ndim + 1), dtype=dtype),
        adjoint=adjoint,
        limit=not alone,
    )
    return partial[:, 0] if len(inner) == 1 else partial.sum(axis=1, dtype=dtype)


def _block_product(a: Any, x: Any, *, adjoint: bool, limit: bool) -> Any:
    columns = x.reshape(x.shape[0], -1)
    with one_blas_thread() if limit else nullcontext():
        if not adjoint:
            y = a @ columns
        elif a.dtype.kind == "c":
            y = (a.T @ columns.conj()).conj()
        else:
            y = a.T @ columns
    return y.reshape(y.shape[0], 1, *x.shape[1:])


_sparse: dict[tuple[str, Chunks], dict[Any, Any]] = {}


def _wrap(A: Any, chunks: Chunks) -> DaskArray:
    """Return a matrix in memory as a dask array of dense or sparse blocks."""
    if isinstance(A, np.ndarray):
        return pc.wrap_numpy(A, chunks)
    sizes = normalize_chunks(chunks, A.shape, dtype=A.dtype)
    key = (pc.identity(A), sizes)
    name = f"coefficient-{tokenize(*key)}"
    graph = _sparse.get(key)
    if graph is None:
        rows = scipy.sparse.csr_array(A)
        graph = {
            (name, *index): DataNode((name, *index), rows[where])
            for index, where in zip(
                np.ndindex(*(len(c) for c in sizes)), slices_from_chunks(sizes), strict=True
            )
        }
        if len(_sparse) > 64:
            _sparse.clear()
        _sparse[key] = graph
    return DaskArray(graph, name, sizes, dtype=A.dtype)
