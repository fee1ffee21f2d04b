"""Shims for numpy.linalg and the products of numpy's main namespace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from numpy.lib.array_utils import normalize_axis_tuple

from pylops_dispatch.array import DispatchArray, as_box, holds, is_lazy
from pylops_dispatch.functions.outputs import written
from pylops_dispatch.functions.reductions import dot, square_norm
from pylops_dispatch.functions.registry import implements
from pylops_dispatch.ledger import asked_by
from pylops_dispatch.notes import noted_function
from pylops_dispatch.pieces import balanced, one_block, real_dtype
from pylops_dispatch.policy import announce_whole, not_dispatched
from pylops_dispatch.whole_axes import whole_along


@implements(np.linalg.norm)
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """Norm of a vector piece by piece; PyLops's solvers read it in every step."""
    box: Any = as_box(x)
    if box.dtype.kind in "biu":
        box = box.astype(float)
    vector = axis is None and not keepdims and (box.ndim == 1 or ord is None)
    if vector and ord in (None, 2):
        return np.sqrt(square_norm(box))
    if vector and ord == 1:
        return np.sum(np.abs(box))
    if vector and ord in (np.inf, -np.inf):
        return (np.max if ord > 0 else np.min)(np.abs(box))
    if vector and ord == 0:
        return np.sum(box != 0).astype(real_dtype(box.dtype))
    array = box.dask()
    if ord in (2, -2, "nuc") and (axis is None or np.size(axis) == 2):
        array = _in_strips(array)
    try:
        found = da.linalg.norm(array, ord=ord, axis=axis, keepdims=keepdims)
    except NotImplementedError as error:
        raise not_dispatched("numpy.linalg.norm", f"dask.array cannot do this: {error}") from error
    return DispatchArray(found.astype(real_dtype(box.dtype)))


def _in_strips(matrix: DaskArray) -> DaskArray:
    """Return a matrix cut along its longer axis only, as dask's singular values need it."""
    if matrix.ndim != 2 or 1 in matrix.numblocks:
        return matrix
    return matrix.rechunk({int(np.argmin(matrix.shape)): -1})


@implements(np.dot)
def _dot(a: Any, b: Any, out: Any = None) -> Any:
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        result: Any = np.multiply(a, b)
    elif np.ndim(a) == 1 and np.ndim(b) == 1:
        result = dot(a, b)
    else:
        result = _product(da.dot, a, b)
    return written(out, result, "np.dot", "no")


def _product(function: Callable[..., DaskArray], a: Any, b: Any, **settings: Any) -> DispatchArray:
    """Run a product of dask's, which adds small integers in a larger dtype, as np.sum does."""
    a, b = as_box(a), as_box(b)
    found = function(a.dask(), b.dask(), **settings)
    return DispatchArray(found.astype(np.result_type(a.dtype, b.dtype)))


@implements(np.tensordot)
def _tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    if np.iterable(axes):  # dask counts from the front only
        pairs = zip((as_box(a), as_box(b)), axes, strict=True)
        axes = tuple(tuple(normalize_axis_tuple(along, box.ndim)) for box, along in pairs)
    return _product(da.tensordot, a, b, axes=axes)


@implements(np.linalg.tensordot)
def _linalg_tensordot(x1: Any, x2: Any, /, *, axes: Any = 2) -> Any:
    return np.tensordot(x1, x2, axes)


@implements(np.linalg.matmul)
def _linalg_matmul(x1: Any, x2: Any, /) -> Any:
    return np.matmul(x1, x2)


@implements(np.linalg.vecdot)
def _linalg_vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    return generalised(np.vecdot, (x1, x2), {"axis": axis})


def _matrix(a: Any, name: str) -> DaskArray:
    matrix = as_box(a).dask()
    if matrix.ndim != 2:
        raise not_dispatched(f"numpy.linalg.{name} of a stack", "Take one matrix at a time.")
    return matrix


def _whole_matrix(
    name: str,
    arrays: Sequence[DaskArray],
    shape: tuple[int, ...],
    dtype: Any,
    *args: Any,
    **kwargs: Any,
) -> DaskArray:
    """Return what a function of whole matrices gives, in one lazy task."""
    if arrays[0].npartitions > 1:
        announce_whole(f"numpy.linalg.{name}", "it needs the whole matrix at once")
    whole = [array.rechunk(-1) for array in arrays]
    given = (name, asked_by(), args, kwargs)
    known = f"{name}-{tokenize(given, [array.name for array in whole])}"
    return one_block(known, _named, given, whole, shape, dtype)


def _named(name: str, where: str, args: Any, kwargs: Any, *arrays: Any) -> Any:
    """Run a function; an error says which code of an operator has called it."""
    with noted_function(f"numpy.linalg.{name}", where, arrays[0]):
        return getattr(np.linalg, name)(*arrays, *args, **kwargs)


@implements(np.linalg.cholesky)
def _cholesky(a: Any, /, *, upper: bool = False) -> Any:
    matrix = _matrix(a, "cholesky")
    _square(*matrix.shape)
    if len(set(matrix.chunks[0] + matrix.chunks[1])) != 1:  # dask's blocks must be square
        announce_whole("numpy.linalg.cholesky", "its blocks are not square")
        matrix = matrix.rechunk(-1)
    # dask's default is the upper triangle, NumPy's the lower
    return DispatchArray(da.linalg.cholesky(matrix, lower=not upper))


def _square(m: int, n: int) -> tuple[int, int]:
    """Return the shape of a square matrix, and raise for any other."""
    if m != n:
        raise np.linalg.LinAlgError(f"a matrix of shape {(m, n)} is not square")
    return m, n


@implements(np.linalg.solve)
def _solve(a: Any, b: Any, /) -> Any:
    matrix, data = _matrix(a, "solve"), as_box(b).dask()
    _square(*matrix.shape)
    if not 0 < data.ndim <= 2 or data.shape[0] != matrix.shape[0]:
        raise ValueError(f"solve: a matrix of {matrix.shape}, and data of {data.shape}")
    one = np.ones((1,) * data.ndim, data.dtype)
    dtype = np.linalg.solve(np.ones((1, 1), matrix.dtype), one).dtype
    data = whole_along(data, (0,), "numpy.linalg.solve")
    if data.npartitions == 1:
        return DispatchArray(_whole_matrix("solve", [matrix, data], data.shape, dtype))
    if matrix.npartitions > 1:
        announce_whole("numpy.linalg.solve", "it needs the whole matrix at once")
    x = da.blockwise(  # some columns in each task
        functools.partial(_named, "solve", asked_by(), (), {}),
        (0, 1),
        matrix.rechunk(-1),
        (2, 3),
        data,
        (0, 1),
        concatenate=True,
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0, 0), dtype),
    )
    return DispatchArray(x)


def _of_a_matrix(func: Any, shape: Callable[[int, int], tuple[int, ...]]) -> None:
    """Register a function that needs all of a matrix, and gives one array: one lazy task."""
    name = func.__name__

    @implements(func)
    def shim(a: Any, *args: Any, **kwargs: Any) -> Any:
        matrix = _matrix(a, name)
        size = shape(*matrix.shape)
        dtype = np.asarray(func(np.ones((1, 1), matrix.dtype), *args, **kwargs)).dtype
        return DispatchArray(_whole_matrix(name, [matrix], size, dtype, *args, **kwargs))


# not dask's inverse, which does not look for pivots outside of the blocks on the diagonal
_of_a_matrix(np.linalg.inv, _square)
_of_a_matrix(np.linalg.pinv, lambda m, n: (n, m))
_of_a_matrix(np.linalg.eigvalsh, lambda m, n: (n,))
_of_a_matrix(np.linalg.svdvals, lambda m, n: (min(m, n),))
_of_a_matrix(np.linalg.det, lambda m, n: ())


@implements(np.linalg.svd)
def _svd(
    a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False
) -> Any:
    """Singular values and vectors: in parallel, or with full matrices in one lazy task."""
    if not compute_uv:
        return np.linalg.svdvals(a)
    matrix = _matrix(a, "svd")
    if full_matrices:
        all_parts = _whole_matrix("svd", [matrix], (), object, hermitian=hermitian)
        m, n = matrix.shape
        shapes = ((m, m), (min(m, n),), (n, n))
        dtypes = [part.dtype for part in np.linalg.svd(np.ones((1, 1), matrix.dtype))]
        arrays = [
            one_block(f"{all_parts.name}-{number}", _part, (number,), [all_parts], shape, dtype)
            for number, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
        ]
    else:
        arrays = da.linalg.svd(_in_strips(matrix))
    return _SVD_RESULT(*(DispatchArray(array) for array in arrays))


def _part(number: int, parts: Any) -> Any:
    return parts[number]


_SVD_RESULT: Any = type(np.linalg.svd(np.ones((1, 1))))


@implements(np.gradient)
def _gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: Any = 1) -> Any:
    if holds(varargs, is_lazy):
        raise not_dispatched("np.gradient with lazy spacing", "dask.array takes numbers only.")
    # Kirchhoff.__init__ gives the axes as an array, for which dask asks one by one
    axes = axis if axis is None else [int(a) for a in np.atleast_1d(axis)]
    array = as_box(f).dask()
    dtype = np.gradient(np.ones(edge_order + 1, array.dtype), edge_order=edge_order).dtype
    for a in range(array.ndim) if axes is None else axes:
        if min(array.chunks[a]) <= edge_order:
            most = max(1, min(array.numblocks[a], array.shape[a] // (edge_order + 1)))
            array = array.rechunk({a: balanced(array.shape[a], most)})
    found = da.gradient(array, *varargs, axis=axes, edge_order=edge_order)
    parts = found if isinstance(found, (list, tuple)) else [found]
    boxes = [DispatchArray(part.astype(dtype)) for part in parts]
    return boxes[0] if len(boxes) == 1 else tuple(boxes)


@implements(np.inner)
def _inner(a: Any, b: Any) -> Any:
    if np.ndim(a) == 1 and np.ndim(b) == 1:
        return dot(a, b)
    return np.tensordot(as_box(a), as_box(b), axes=(-1, -1))


@implements(np.vdot)
def _vdot(a: Any, b: Any) -> Any:
    return dot(np.ravel(a), np.ravel(b), conjugate=True)


def generalised(ufunc: np.ufunc, inputs: tuple[Any, ...], settings: dict[str, Any]) -> Any:
    """Run ``np.matmul`` and its kin, which are ufuncs but not element-wise."""
    name = ufunc.__name__
    a: Any
    b: Any
    a, b = inputs if len(inputs) == 2 else (None, None)
    if name == "vecdot" and set(settings) == {"axis"}:
        axis = settings.pop("axis")
        a, b = np.moveaxis(a, axis, -1), np.moveaxis(b, axis, -1)
    if settings:
        raise not_dispatched(f"np.{name} with {', '.join(settings)}", "Leave it out.")
    if name == "matmul":
        if np.ndim(a) == 1 and np.ndim(b) == 1:
            return dot(a, b)
        return _product(da.matmul, a, b)
    if name == "vecdot":
        return np.sum(
            np.conj(a) * b, axis=-1, dtype=np.result_type(as_box(a).dtype, as_box(b).dtype)
        )
    if name == "matvec":
        return np.matmul(a, np.expand_dims(b, -1))[..., 0]
    if name == "vecmat":
        return np.matmul(np.expand_dims(np.conj(a), -2), b)[..., 0, :]
    raise not_dispatched(f"np.{name}", "It has no lazy form.")
