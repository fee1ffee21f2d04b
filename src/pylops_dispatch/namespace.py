"""What PyLops's ``get_array_module`` returns: for boxes, and inside blocks."""

from __future__ import annotations

import inspect
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask.array as da
import numpy as np
import scipy.linalg
import scipy.ndimage
import scipy.signal
from dask.array.core import Array as DaskArray

from pylops_dispatch.array import DispatchArray, as_box, holds, is_dask, is_lazy, session
from pylops_dispatch.pieces import Zeros
from pylops_dispatch.policy import not_dispatched, report_implicit_compute
from pylops_dispatch.whole_axes import whole_along


def _as_shape(shape: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in shape) if np.iterable(shape) else (int(shape),)


class _DaskNamespace:
    """NumPy's namespace, with creation functions that make boxes.

    Every other name is NumPy's own function, which comes back through ``__array_function__``
    when it meets a box.
    """

    ndarray = (DispatchArray, DaskArray)
    __name__ = "pylops_dispatch"

    def __eq__(self, other: object) -> bool:
        # PyLops asks ``ncp == np`` before it goes to SciPy; what it calls there is lazy too
        return other is np or other is self

    def __hash__(self) -> int:
        return hash(np)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def zeros(self, shape: Any, dtype: Any = float, order: str = "C") -> DispatchArray:
        """Zeros, without a layout until they meet an array that has one."""
        return DispatchArray(Zeros(_as_shape(shape), np.dtype(dtype)))

    empty = zeros

    def full(self, shape: Any, fill_value: Any, dtype: Any = None) -> DispatchArray:
        """A constant, or an array that is repeated (pyproximal's PPXA)."""
        if is_lazy(fill_value):
            filled: Any = np.broadcast_to(as_box(fill_value), _as_shape(shape))
            return filled.copy() if dtype is None else filled.astype(dtype)
        return DispatchArray(da.full(_as_shape(shape), fill_value, dtype=dtype))

    def ones(self, shape: Any, dtype: Any = float, order: str = "C") -> DispatchArray:
        """Ones."""
        return DispatchArray(da.ones(_as_shape(shape), dtype=dtype))

    def zeros_like(self, a: Any, dtype: Any = None, **kwargs: Any) -> Any:
        """Zeros in the layout of a box, or of the shape of a NumPy array."""
        return np.zeros_like(as_box(a), dtype=dtype, **kwargs)

    empty_like = zeros_like

    def ones_like(self, a: Any, dtype: Any = None, **kwargs: Any) -> Any:
        """Ones, likewise."""
        return np.ones_like(as_box(a), dtype=dtype, **kwargs)

    def full_like(self, a: Any, fill_value: Any, dtype: Any = None, **kwargs: Any) -> Any:
        """A constant, likewise."""
        return np.full_like(as_box(a), fill_value, dtype=dtype, **kwargs)

    def eye(self, *args: Any, **kwargs: Any) -> DispatchArray:
        """Identity matrix."""
        return DispatchArray(da.eye(*args, **kwargs))

    def asarray(self, a: Any, dtype: Any = None, **kwargs: Any) -> Any:
        """Return boxes and dask arrays as they are, other things as NumPy arrays."""
        if isinstance(a, (list, tuple)) and holds(a, is_lazy):
            stacked: Any = np.stack([as_box(self.asarray(part)) for part in a])
            return stacked if dtype is None else stacked.astype(dtype)
        if isinstance(a, DaskArray):
            return a if dtype is None else a.astype(dtype)
        if isinstance(a, DispatchArray):
            return a if dtype is None else a.astype(dtype, copy=False)
        return np.asarray(a, dtype=dtype, **kwargs)

    asanyarray = asarray

    def ascontiguousarray(self, a: Any, dtype: Any = None) -> Any:
        """Return an array in C order: itself, if it is."""
        found = self.asarray(a, dtype)
        if isinstance(found, DispatchArray):
            return found if found.memory().flags.c_contiguous else found.copy()
        return found if is_dask(found) else np.ascontiguousarray(found)

    def array(self, a: Any, dtype: Any = None, copy: bool | None = True, **kwargs: Any) -> Any:
        """Return what ``asarray`` does, but an array of its own."""
        if not is_lazy(a) and not (isinstance(a, (list, tuple)) and holds(a, is_lazy)):
            return np.array(a, dtype=dtype, copy=copy, **kwargs)
        found = self.asarray(a, dtype)
        if copy and found is a:
            return found.copy("K") if isinstance(found, DispatchArray) else found.copy()
        return found


dask_namespace = _DaskNamespace()


def with_namespace(function: Callable[..., Any], **variables: Any) -> Callable[..., Any]:
    """Return a function of PyLops's whose ``np`` is the namespace of boxes.

    For code that makes its buffers with ``np.zeros``, whatever the input is. `variables` take
    the place of others of its module's.
    """
    plain: Any = inspect.unwrap(function)
    new = types.FunctionType(
        plain.__code__,
        {**plain.__globals__, "np": dask_namespace, **variables},
        plain.__name__,
        plain.__defaults__,
        plain.__closure__,
    )
    new.__kwdefaults__ = plain.__kwdefaults__
    return new


_block = threading.local()


@contextmanager
def inside_block() -> Iterator[None]:
    """Hand out buffers in the memory order of the block that is worked on, in this thread."""
    depth = getattr(_block, "depth", 0)
    _block.depth = depth + 1
    try:
        yield
    finally:
        _block.depth = depth


class _LayoutNamespace:
    """NumPy's namespace, with zeros in the memory order of one array.

    PyLops swaps the axis that it works on to the end and fills a C-ordered ``ncp.zeros``
    (``FirstDerivative._matvec_centered3``): every write then crosses the cache.
    """

    __slots__ = ("_order",)

    def __init__(self, x: np.ndarray[Any, Any]) -> None:
        strides = x.strides
        self._order = sorted(range(x.ndim), key=lambda axis: -abs(strides[axis]))

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def __eq__(self, other: object) -> bool:
        return other is np

    def __hash__(self) -> int:
        return hash(np)

    def zeros(self, shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray[Any, Any]:
        """Zeros whose axes lie in memory as those of the array."""
        sizes = _as_shape(shape)
        if len(sizes) != len(self._order):
            return np.zeros(sizes, dtype=dtype)
        buffer = np.zeros([sizes[axis] for axis in self._order], dtype=dtype)
        return buffer.transpose(np.argsort(self._order))


def _get_array_module(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_array_module(x: Any) -> Any:
        kind = type(x)
        if kind is np.ndarray:
            if getattr(_block, "depth", 0) and x.ndim > 1:
                return _LayoutNamespace(x)
            return original(x)
        if kind is DispatchArray or is_dask(x):
            return dask_namespace
        return original(x)

    return get_array_module


def _get_module_name(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_module_name(mod: Any) -> Any:
        # PyLops asks this to tell jax and cupy apart; work on dask arrays is NumPy's
        return "numpy" if mod is dask_namespace else original(mod)

    return get_module_name


def _to_numpy(original: Callable[..., Any]) -> Callable[..., Any]:
    def to_numpy(x: Any) -> Any:
        if isinstance(x, DispatchArray) and x.ndim == 0:
            current = session.get()
            # what ``LSQR.step`` goes on with stays lazy: see assumptions.py
            waits = current is not None and current.is_assuming
            return x if waits else x.read("to_numpy()")
        if isinstance(x, DispatchArray):
            return np.asarray(x)
        if is_dask(x):
            report_implicit_compute("to_numpy()")
            return x.compute()
        return original(x)

    return to_numpy


def _value_or_sized_to_array(original: Callable[..., Any]) -> Callable[..., Any]:
    def value_or_sized_to_array(value_or_sized: Any, repeat: int = 1) -> Any:
        if isinstance(value_or_sized, DispatchArray):
            return value_or_sized
        return original(value_or_sized, repeat)

    return value_or_sized_to_array


def _for_boxes(lazy: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what makes replacements that choose the function `lazy` for boxes."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def chosen(x: Any) -> Any:
            return lazy if isinstance(x, DispatchArray) else original(x)

        return chosen

    return make


def _block_diag(*matrices: Any) -> DispatchArray:
    """Put matrices on the diagonal of one that is zero elsewhere."""
    arrays = [as_box(matrix).dask() for matrix in matrices]
    rows = [
        [
            a if i == j else da.zeros((a.shape[0], b.shape[1]), dtype=a.dtype)
            for j, b in enumerate(arrays)
        ]
        for i, a in enumerate(arrays)
    ]
    return DispatchArray(da.block(rows))


def _dense(matrix: Any) -> Any:
    """Return the matrix itself: how many of its values are zero is not known yet."""
    return matrix


def _get_fftconvolve(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_fftconvolve(x: Any) -> Any:
        lazy = isinstance(x, DispatchArray) or is_dask(x)
        return _fftconvolve if lazy else original(x)

    return get_fftconvolve


def _fftconvolve(in1: Any, in2: Any, mode: str = "full", axes: Any = None) -> Any:
    """Convolve a lazy array along the axes on which the other is longer than one sample.

    Operators of lazy filters keep this function, and run it on blocks.
    """
    if not isinstance(in1, DispatchArray) and not isinstance(in2, DispatchArray):
        return scipy.signal.fftconvolve(in1, in2, mode=mode, axes=axes)
    x, h = as_box(in1).dask(), as_box(in2).dask()
    if mode != "same" or x.ndim != h.ndim:
        raise not_dispatched("fftconvolve", "Its lazy form has mode='same' only.")
    x = whole_along(x, [axis for axis, n in enumerate(h.shape) if n > 1], "fftconvolve")
    index = tuple(range(x.ndim))
    y = da.blockwise(
        _convolve_block,
        index,
        x,
        index,
        h.rechunk(-1),
        tuple(range(x.ndim, 2 * x.ndim)),
        concatenate=True,
        align_arrays=False,
        dtype=np.result_type(x.dtype, h.dtype),
        meta=np.empty((0,) * x.ndim, np.result_type(x.dtype, h.dtype)),
        axes=axes,
    )
    return DispatchArray(y)


def _convolve_block(x: Any, h: Any, *, axes: Any) -> Any:
    return scipy.signal.fftconvolve(x, h, mode="same", axes=axes)


def _lstsq(a: Any, b: Any, **kwargs: Any) -> tuple[DispatchArray, None, None, None]:
    """Solve for all columns of `b` with a small matrix, blocks of columns apart."""
    matrix = as_box(a).dask().rechunk(-1)
    columns = whole_along(as_box(b).dask(), (0,), "scipy.linalg.lstsq")
    dtype = _lstsq_block(np.ones((1, 1), matrix.dtype), np.ones(1, columns.dtype), kwargs).dtype
    index = tuple(range(1, 1 + columns.ndim))
    x = da.blockwise(
        _lstsq_block,
        (0, *index[1:]),
        matrix,
        (index[0], 0),
        columns,
        index,
        concatenate=True,
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * columns.ndim, dtype),
        settings=kwargs,
    )
    return DispatchArray(x), None, None, None


def _lstsq_block(a: Any, b: Any, settings: dict[str, Any]) -> Any:
    return scipy.linalg.lstsq(a, b, **settings)[0]


_STANDARD_DEVIATIONS = 4.0  # that SciPy's filter reaches on either side


def _gaussian_filter(x: Any, sigma: Any) -> DispatchArray:
    """Smooth a lazy array with halos as wide as the filter."""
    array = as_box(x).dask()
    sigmas = np.broadcast_to(sigma, array.ndim)
    depth = [int(_STANDARD_DEVIATIONS * float(s) + 0.5) for s in sigmas]
    for axis, n in enumerate(array.shape):
        if depth[axis] >= n:  # mirrored more than once
            array, depth[axis] = array.rechunk({axis: -1}), 0
    smooth = array.map_overlap(
        scipy.ndimage.gaussian_filter,
        depth=dict(enumerate(depth)),
        boundary="reflect",
        sigma=tuple(sigmas),
        dtype=array.dtype,
        meta=array._meta,
    )
    return DispatchArray(smooth.rechunk(array.chunks))


# functions of pylops.utils.backend that choose the backend, and what makes their replacements
BACKEND_FUNCTIONS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "get_array_module": _get_array_module,
    "get_module_name": _get_module_name,
    "to_numpy": _to_numpy,
    "get_block_diag": _for_boxes(_block_diag),
    "get_csc_matrix": _for_boxes(_dense),
    "get_csr_matrix": _for_boxes(_dense),
    "get_dia_matrix": _for_boxes(_dense),
    "get_lstsq": _for_boxes(_lstsq),
    "get_fftconvolve": _get_fftconvolve,
    "get_gaussian_filter": _for_boxes(_gaussian_filter),
}

INTERNAL_FUNCTIONS = {"_value_or_sized_to_array": _value_or_sized_to_array}
