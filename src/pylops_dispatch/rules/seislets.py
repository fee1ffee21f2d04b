"""Seislet: PyLops's lifting steps on lazy arrays, predictions in parallel over traces."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import Array as DaskArray
from dask.base import tokenize

from pylops_dispatch import blocks
from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray, is_lazy, source
from pylops_dispatch.blas_threads import one_blas_thread
from pylops_dispatch.halos import everything
from pylops_dispatch.namespace import with_namespace
from pylops_dispatch.operators import dims_of, duplicate
from pylops_dispatch.pieces import Piece
from pylops_dispatch.placing import coefficient
from pylops_dispatch.whole_axes import whole_along


def run(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Apply ``Seislet``: its own code on boxes, but for the prediction of traces.

    ``_predict_haar`` and ``_predict_lin`` make a matrix of time by time for each trace, which
    is work for tasks, and write into ``np.zeros_like(traces)`` trace by trace.
    """
    if adjoint and op.inv:  # Seislet._rmatvec calls it
        return inverse(op, box)
    method = cls._rmatvec if adjoint else cls._matvec  # type: ignore[attr-defined]
    return _run(op, method, box.as_shape(dims_of(op, adjoint)[0]))


def inverse(op: Any, box: DispatchArray) -> Any:
    """Apply ``Seislet.inverse``, likewise."""
    return _run(op, type(op).inverse, box.as_shape(dims_of(op, True)[0]))


def _run(op: Any, method: Callable[..., Any], piece: Piece) -> Any:
    lazy = duplicate(op)
    slopes = source(op.slopes) if is_lazy(op.slopes) else op.slopes
    lazy.predict = _prediction(op.predict, slopes)
    x = DispatchArray([pc.realise(piece).rechunk({1: -1})], (pc.size(piece),))
    # Seislet._matvec makes its buffer with np.zeros, not with its input's namespace
    return with_namespace(method)(lazy, x)


def _prediction(predict: Callable[..., Any], slopes: Any) -> Callable[..., Any]:
    def lazily(
        traces: DispatchArray,
        dt: float,
        dx: float,
        _: Any,
        repeat: int = 0,
        backward: bool = False,
        adj: bool = False,
    ) -> DispatchArray:
        x = pc.realise(traces.as_shape(traces.shape))
        x = whole_along(x, (1,), "Seislet")
        jump = 2 ** (repeat + 1)
        chunks = (tuple(n * jump for n in x.chunks[0]), (slopes.shape[1],))
        around = (
            slopes.rechunk(chunks) if isinstance(slopes, DaskArray) else coefficient(slopes, chunks)
        )
        # linear predictions look at the traces on either side
        arguments, layout = blocks.with_halos((x,), (1, 0))
        more, layout_of_slopes = blocks.with_halos((around,), (jump, 0))
        dtype = np.result_type(x.dtype)
        y = da.blockwise(
            functools.partial(
                _predict_block,
                predict=predict,
                layout=[*layout, *layout_of_slopes],
                settings=(dt, dx, repeat, backward, adj),
            ),
            (0, 1),
            *arguments,
            *more,
            name=f"predict-{tokenize(x.name, around.name, predict, dt, dx, repeat, backward, adj)}",
            align_arrays=False,
            dtype=dtype,
            meta=np.empty((0, 0), dtype=dtype),
        )
        return DispatchArray(y)

    return lazily


def _predict_block(*arrays: Any, predict: Any, layout: Any, settings: Any) -> Any:
    dt, dx, repeat, backward, adj = settings
    traces, slopes = blocks.laid_out(iter(arrays), layout)
    x = traces.window(everything(traces.shape))
    around = slopes.window(everything(slopes.shape))
    with one_blas_thread():
        y = predict(x, dt, dx, around, repeat=repeat, backward=backward, adj=adj)
    return y[traces.parts[0][1]]
