"""Products with matrices, dense or sparse, by blocks."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from typing import Any

import dask.array as da
import numpy as np
import scipy.sparse
from dask._task_spec import DataNode
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from scipy.sparse.linalg import LinearOperator as ScipyOperator
from scipy.sparse.linalg._interface import MatrixLinearOperator

from pylops_dispatch.array import DispatchArray, as_box, is_lazy, lift, lower, source
from pylops_dispatch.blas_threads import one_blas_thread
from pylops_dispatch.blocks import add_up
from pylops_dispatch.halos import Span, fold, gather
from pylops_dispatch.naming import name_of_matrix
from pylops_dispatch.pieces import Chunks, Zeros, balanced, contents, rechunk
from pylops_dispatch.placing import coefficient, on_cluster
from pylops_dispatch.remembering import checksum, remembered
from pylops_dispatch.rules.running import run_whole
from pylops_dispatch.whole_axes import cut_elsewhere


def run(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> DispatchArray:
    """Apply ``MatrixMult``: ``A.dot(x)`` itself would compute a dask ``x`` (matrixmult.py)."""
    rest = tuple(int(n) for n in op.otherdims) if op.reshape else ()
    return product(op.A, box, rest, adjoint)


def run_columns(op: Any, X: DispatchArray, adjoint: bool) -> DispatchArray:
    """Apply ``MatrixMult`` to the columns of a matrix: by blocks, all columns of one in a task.

    Each is multiplied apart, as ``LinearOperator._matmat`` does, so that columns that are equal
    stay equal to the bit: percentiles over all of them (``ista``) would tell them apart.
    """
    rest = tuple(int(n) for n in op.otherdims) if op.reshape else ()
    y = product(op.A, X.reshape(-1), (*rest, X.shape[1]), adjoint, apart=True)
    return y.reshape(-1, X.shape[1])


def inverse(original: Any) -> Any:
    """Wrap ``MatrixMult.inv``: its ``np.linalg.inv`` (matrixmult.py) is dask's on a dask matrix."""

    def wrapper(self: Any) -> Any:
        return lower(as_box(np.linalg.inv(lift(self.A)))) if is_lazy(self.A) else original(self)

    return wrapper


def run_scipy(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Apply a SciPy operator that PyLops has wrapped (``LinearOperator._matvec``)."""
    inner = getattr(op, "Op", None)
    if isinstance(inner, MatrixLinearOperator):
        return product(inner.A, box, (), adjoint)
    if isinstance(inner, ScipyOperator):
        return run_whole(cls, op, box, adjoint, "SciPy's operators want NumPy arrays")
    return NotImplemented


def product(
    A: Any, box: DispatchArray, rest: tuple[int, ...], adjoint: bool, apart: bool = False
) -> DispatchArray:
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
    apart : bool, optional
        Whether to multiply what the last axis numbers one after another, in each task.

    Returns
    -------
    DispatchArray
        Vector; the products of blocks of `A` are added in a tree.
    """
    if is_lazy(A):
        A = source(A)
    n_in, n_out = A.shape if adjoint else A.shape[::-1]
    size = n_out * math.prod(rest)
    dtype = np.result_type(A.dtype, box.dtype)
    piece = Zeros((n_in, *rest), box.dtype) if not size * n_in else box.as_shape((n_in, *rest))
    if isinstance(piece, Zeros):
        return DispatchArray([Zeros((n_out, *rest), dtype)], (size,))
    if getattr(A, "format", None) == "csc":  # by columns: those are the rows of its transpose
        x = da.conj(piece) if A.dtype.kind == "c" else piece
        y = _product(A, x, n_out, not adjoint, dtype, apart, turned=True)
        y = da.conj(y) if A.dtype.kind == "c" else y
    else:
        y = _product(A, piece, n_out, adjoint, dtype, apart)
    return DispatchArray([y], (size,))


def _product(
    A: Any,
    x: DaskArray,
    n_out: int,
    adjoint: bool,
    dtype: Any,
    apart: bool,
    turned: bool = False,
) -> DaskArray:
    """Multiply by blocks of rows of the matrix, the same ones forward and adjoint.

    That is, of its transpose where that is `turned`.
    """
    if any(isinstance(getattr(a, "_meta", None), np.ma.MaskedArray) for a in (A, x)):
        raise TypeError(
            "matrices are not multiplied where blocks are masked arrays: say what stands for the "
            "masked elements, as in dask.array.ma.filled(x, 0)"
        )
    blocks = x.numblocks[0]
    if blocks > 1 and _is_small_for(A, x):
        # the vector moves twice, where sums of products would move it for each of its blocks
        A = A.rechunk(-1) if isinstance(A, DaskArray) else A
        y = _product(A, cut_elsewhere(x, {0}), n_out, adjoint, dtype, apart, turned)
        return rechunk(y, (balanced(n_out, blocks), *x.chunks[1:]))
    rows = x.chunks[0] if adjoint else balanced(n_out, blocks)
    if blocks > 1 and x.nbytes > _SMALL and not isinstance(A, (np.ndarray, DaskArray)):
        reached = _columns_reached(A, rows)
        width = A.shape[0 if turned else 1]
        if 2 * sum(high - low for low, high in reached) <= len(rows) * width:
            return _banded(A, x, rows, reached, balanced(n_out, blocks), adjoint, dtype, apart)
    if isinstance(A, np.ndarray) and not adjoint and x.nbytes > _SMALL and n_out * blocks <= len(x):
        # few rows: each of them would meet all of the vector
        matrix = _wrap(A, ((n_out,), x.chunks[0]))
        return _tiled(matrix, x, adjoint, dtype, apart)
    if isinstance(A, DaskArray):
        if A.numblocks[1] > 1:
            return _tiled(A, x, adjoint, dtype, apart)
        rows = A.chunks[0]
        if adjoint:
            rows = max(rows, x.chunks[0], key=len)
            x = x.rechunk({0: rows})
        matrix = A.rechunk((rows, -1))
    else:
        matrix = _wrap(A, (rows, (A.shape[0 if turned else 1],)))
    i, j, *rest = range(x.ndim + 1)
    y = da.blockwise(
        _block_product,
        (i, j, *rest) if adjoint else (i, *rest),
        matrix,
        (i, j),
        x,
        (i, *rest) if adjoint else (j, *rest),
        name=f"MatrixMult-{tokenize(matrix.name, x.name, adjoint, apart)}",
        adjust_chunks={i: 1} if adjoint else None,
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * (x.ndim + adjoint), dtype=dtype),
        adjoint=adjoint,
        limit=len(rows) * x.npartitions > 1,
        apart=apart,
    )
    if not adjoint:
        return y
    y = add_up(y, (0,), dtype)
    return y.rechunk({0: balanced(n_out, blocks)})


_SMALL = 1 << 20  # bytes of a vector: to move its parts takes longer than it gains


def _is_small_for(A: Any, x: DaskArray) -> bool:
    """Whether a matrix is smaller than a vector, which can be cut along another axis instead.

    That is, than one that stands for as many columns as the matrix has rows, or more.
    """
    if x.ndim == 1 or x.nbytes <= max(_SMALL, math.prod(A.shape) * A.dtype.itemsize):
        return False
    if isinstance(A, DaskArray) and A.nbytes * x.npartitions > x.nbytes:
        return False
    return max(x.shape[1:]) >= x.npartitions


def _tiled(A: DaskArray, x: DaskArray, adjoint: bool, dtype: Any, apart: bool) -> DaskArray:
    """Multiply by a matrix that is cut along both axes: products of blocks, added in a tree."""
    # a matrix that is cut finer than the vector is not gathered: it is mostly the larger
    summed = max(A.chunks[0 if adjoint else 1], x.chunks[0], key=len)
    x = x.rechunk({0: summed})
    matrix = A.rechunk((summed, A.chunks[1]) if adjoint else (A.chunks[0], summed))
    i, j, *rest = range(x.ndim + 1)
    inner, outer = (i, j) if adjoint else (j, i)
    partial = da.blockwise(
        _block_product,
        (inner, outer, *rest),
        matrix,
        (i, j),
        x,
        (inner, *rest),
        name=f"MatrixMult-{tokenize(matrix.name, x.name, adjoint, apart)}",
        adjust_chunks={inner: 1},
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * (x.ndim + 1), dtype=dtype),
        adjoint=adjoint,
        limit=True,
        apart=apart,
        partial=True,
    )
    return add_up(partial, (0,), dtype)


def _columns_reached(A: Any, sizes: tuple[int, ...]) -> list[Span]:
    """Return for blocks of rows of a sparse matrix from where to where there are elements."""
    rows, _ = _by_rows(A)

    def make() -> list[Span]:
        ends = rows.indptr[np.cumsum([0, *sizes])]
        parts = (rows.indices[start:stop] for start, stop in itertools.pairwise(ends))
        return [(int(p.min()), int(p.max()) + 1) if p.size else (0, 1) for p in parts]

    return remembered(rows.indices, ("columns", sizes), name_of_matrix(A), make)


def _banded(
    A: Any,
    x: DaskArray,
    sizes: tuple[int, ...],
    reached: list[Span],
    sizes_out: tuple[int, ...],
    adjoint: bool,
    dtype: Any,
    apart: bool,
) -> DaskArray:
    """Multiply by blocks of rows of a sparse matrix, each with the part of a vector it meets.

    Parameters
    ----------
    A : scipy.sparse array or matrix
        Matrix; by columns, its transpose is meant.
    x : dask.array.Array
        Vector, or columns of vectors.
    sizes : tuple of int
        Of the blocks of rows: for the adjoint those of `x`.
    reached : list of tuple of int
        Where each of them has elements.
    sizes_out : tuple of int
        Chunks of the result of the adjoint.
    adjoint : bool
        Whether it is the adjoint.
    dtype : dtype
        Of the result.
    apart : bool
        Whether columns are multiplied one by one.
    """
    rows, values = _by_rows(A)
    known = name_of_matrix(A)
    made = remembered(
        rows.indices, ("banded", sizes), known, lambda: _narrowed(rows, sizes, reached)
    )
    name = f"coefficient-{tokenize(known, values, sizes, reached)}"
    graph = {(name, i): DataNode((name, i), block) for i, block in enumerate(made)}
    matrix = on_cluster(DaskArray(graph, name, (sizes,), dtype=A.dtype), A)
    given = x if adjoint else gather(x, 0, reached)
    lengths = tuple(high - low for low, high in reached) if adjoint else sizes
    index = tuple(range(x.ndim))
    y = da.blockwise(
        _banded_product,
        index,
        matrix,
        (0,),
        given,
        index,
        name=f"MatrixMult-{tokenize(matrix.name, given.name, adjoint, apart)}",
        adjust_chunks={0: lengths},
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * x.ndim, dtype=dtype),
        adjoint=adjoint,
        limit=True,
        apart=apart,
    )
    return fold(y, 0, reached, sizes_out) if adjoint else y


def _narrowed(rows: Any, sizes: tuple[int, ...], reached: list[Span]) -> list[Any]:
    """Return blocks of rows with the columns that have elements; these are the matrix's own."""
    found = []
    for end, size, (low, high) in zip(np.cumsum(sizes), sizes, reached, strict=True):
        block = _rows_between(rows, int(end) - size, size)
        narrow = scipy.sparse.csr_array((size, high - low), dtype=rows.dtype)
        narrow.data, narrow.indptr = block.data, block.indptr
        narrow.indices = block.indices - block.indices.dtype.type(low)
        found.append(narrow)
    return found


def _banded_product(a: Any, x: Any, *, adjoint: bool, limit: bool, apart: bool) -> Any:
    y = _block_product(a, x, adjoint=adjoint, limit=limit, apart=apart)
    return y[0] if adjoint else y


def _block_product(
    a: Any, x: Any, *, adjoint: bool, limit: bool, apart: bool, partial: bool = False
) -> Any:
    if isinstance(x, list):  # a block of whole rows meets all blocks of the vector
        a, x = a[0], np.concatenate(x) if len(x) > 1 else x[0]
    with one_blas_thread() if limit else nullcontext():
        if apart and x.shape[-1]:
            parts = (np.ascontiguousarray(x[..., i]) for i in range(x.shape[-1]))
            y = np.stack([_multiplied(a, part, adjoint) for part in parts], axis=-1)
        else:
            y = _multiplied(a, x, adjoint)
    return y[np.newaxis] if adjoint or partial else y


def _multiplied(a: Any, x: Any, adjoint: bool) -> Any:
    columns = x.reshape(x.shape[0], -1)
    if not adjoint:
        y = a @ columns
    elif a.dtype.kind == "c":
        y = (a.T @ columns.conj()).conj()
    else:
        y = a.T @ columns
    return y.reshape(y.shape[0], *x.shape[1:])


def _wrap(A: Any, chunks: Chunks) -> DaskArray:
    """Return a matrix in memory as a dask array of dense or sparse blocks."""
    if isinstance(A, np.ndarray):
        return coefficient(A, chunks)
    rows, values = _by_rows(A)
    name = f"coefficient-{tokenize(name_of_matrix(A), values, chunks)}"
    ends = np.cumsum(chunks[0])
    graph = {
        (name, number, 0): DataNode((name, number, 0), _rows_between(rows, int(end) - size, size))
        for number, (size, end) in enumerate(zip(chunks[0], ends, strict=True))
    }
    return on_cluster(DaskArray(graph, name, chunks, dtype=A.dtype), A)


def _by_rows(A: Any) -> tuple[Any, Any]:
    """Return a sparse matrix by rows, and what tells whether it was changed since it was copied.

    Of a matrix by columns it is the transpose.
    """
    if A.format == "csr":
        return A, None
    if A.format == "csc":
        return A.T, None
    held = [v for value in vars(A).values() for v in (value if type(value) is tuple else (value,))]
    arrays = [v for v in held if isinstance(v, np.ndarray) and v.dtype != object]
    if not arrays or A.format == "lil":  # made of Python's lists or dictionaries
        rows = scipy.sparse.csr_array(A)
        return rows, [contents(v) for v in (rows.data, rows.indices, rows.indptr)]
    values = tuple(map(checksum, arrays))
    # matrices of other shapes may share the arrays
    what = ("rows", A.format, A.shape, A.dtype.str, *(array.shape for array in arrays))
    return remembered(arrays[0], what, values, lambda: scipy.sparse.csr_array(A)), values


def _rows_between(rows: Any, start: int, count: int) -> Any:
    """Return some rows of a sparse matrix; their elements are those of the matrix itself."""
    indptr = rows.indptr[start : start + count + 1]
    where = slice(int(indptr[0]), int(indptr[-1]))
    block = scipy.sparse.csr_array((count, rows.shape[1]), dtype=rows.dtype)
    block.data, block.indices, block.indptr = (
        rows.data[where],
        rows.indices[where],
        indptr - indptr[0],
    )
    return block
