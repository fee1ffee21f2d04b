"""Elements where a lazy mask is true: worked on in their blocks, and written back by the mask."""

from __future__ import annotations

import operator
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.functions.elementwise import partition
from pylops_dispatch.pieces import Piece
from pylops_dispatch.policy import not_dispatched

_ELEMENTWISE = {np.where, np.real, np.imag, np.angle, np.clip, np.zeros_like, np.ones_like}
_ADVICE = (
    "How many elements a lazy mask selects is not known: they can be worked on element-wise, "
    "and written where the same mask is true. Use np.where for the rest."
)


class Selection(np.lib.mixins.NDArrayOperatorsMixin):
    """What ``x[mask]`` of a lazy mask gives: for each piece a vector of unknown length.

    Each block keeps its own elements, so that nothing moves: code such as
    ``y[mask] = f(x[mask])`` sees the selected elements alone, as in NumPy.

    Parameters
    ----------
    parts : list of dask.array.Array
        For each piece of the array the selected elements, block after block.
    key : object
        Which elements of what layout these are; selections of one key go together.
    """

    __array_priority__ = 2e6

    def __init__(self, parts: list[DaskArray], key: Any) -> None:
        self.parts = parts
        self.key = key
        self.dtype: np.dtype[Any] = parts[0].dtype

    def _apply(self, function: Any, name: str, inputs: Any, kwargs: Any) -> Selection:
        if any(isinstance(x, Selection) and x.key != self.key for x in inputs):
            raise not_dispatched(f"{name} of elements under different masks", _ADVICE)
        whole = [x for x in inputs if not isinstance(x, Selection)]
        if any(np.ndim(x) for x in (*whole, *kwargs.values())):
            raise not_dispatched(f"{name} of some elements and a whole array", _ADVICE)
        plain = [_scalar(x) for x in inputs]
        found = [
            function(*(x.parts[n] if isinstance(x, Selection) else x for x in plain), **kwargs)
            for n in range(len(self.parts))
        ]
        return Selection(found, self.key)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = f"np.{ufunc.__name__}"
        if method != "__call__" or ufunc.nout != 1 or kwargs.get("out") or ufunc.signature:
            raise not_dispatched(f"{name} ({method}) of selected elements", _ADVICE)
        return self._apply(ufunc, name, inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = f"{func.__module__}.{func.__name__}"
        if func in (np.iscomplexobj, np.isrealobj):
            return (self.dtype.kind == "c") == (func is np.iscomplexobj)
        if func not in _ELEMENTWISE or (func is np.where and len(args) < 3):
            raise not_dispatched(f"{name} of selected elements", _ADVICE)
        return self._apply(getattr(da, func.__name__), name, args, kwargs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise not_dispatched("np.asarray() of selected elements", _ADVICE)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise not_dispatched(f".{name} of selected elements", _ADVICE)

    def __bool__(self) -> bool:
        raise not_dispatched("bool() of selected elements", _ADVICE)

    def __len__(self) -> int:
        raise not_dispatched("len() of selected elements", _ADVICE)

    def __iter__(self) -> Any:
        raise not_dispatched("iteration over selected elements", _ADVICE)

    def __getitem__(self, mask: Any) -> Selection:
        """Select again, by a mask of the same elements."""
        if not isinstance(mask, Selection) or mask.dtype != bool or mask.key != self.key:
            raise not_dispatched("indexing of selected elements", _ADVICE)
        parts = [
            _by_block(operator.getitem, "select", None, p, m)
            for p, m in zip(self.parts, mask.parts, strict=True)
        ]
        return Selection(parts, _narrowed(self.key, mask))

    __hash__ = object.__hash__


def _scalar(x: Any) -> Any:
    if isinstance(x, DispatchArray):
        return x.dask() if x.value is None else x.value
    return x[()] if isinstance(x, np.ndarray) else x


def _narrowed(key: Any, mask: Selection) -> Any:
    return key, tuple(part.name for part in mask.parts)


def _key(mask: DispatchArray) -> Any:
    return mask.names if mask.chosen is None else mask.chosen


def _in_one_layout(box: DispatchArray, mask: DispatchArray) -> list[tuple[Piece, DaskArray]]:
    """Return the pieces of an array and of a mask, with the same shapes and chunks."""
    if box.shape != mask.shape:
        raise not_dispatched("a mask of another shape than the array", "Broadcast it first.")
    cut = partition([box, mask]) if box.ndim == 1 else [[box.pieces[0]], [mask.pieces[0]]]
    masks = [pc.realise(piece) for piece in cut[1]]
    return [
        (p if isinstance(p, pc.Zeros) or p.chunks == m.chunks else p.rechunk(m.chunks), m)
        for p, m in zip(cut[0], masks, strict=True)
    ]


def _by_block(function: Any, name: str, like: DaskArray | None, *arrays: DaskArray) -> DaskArray:
    """Apply `function` to the blocks of arrays, which lie in the same order.

    The result has the blocks of `like`; without it, they are vectors of unknown length.
    """
    first = arrays[0]
    name = f"{name}-{tokenize([array.name for array in arrays])}"
    indices = [np.ndindex(*array.numblocks) for array in arrays]
    graph: dict[Any, Any] = {}
    for number, where in enumerate(zip(*indices, strict=True)):
        key = (name, number) if like is None else (name, *where[0])
        refs = (TaskRef((a.name, *i)) for a, i in zip(arrays, where, strict=True))
        graph[key] = Task(key, function, *refs)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=list(arrays))
    chunks = ((np.nan,) * len(graph),) if like is None else like.chunks
    return DaskArray(layers, name, chunks, dtype=first.dtype)


def select(box: DispatchArray, mask: DispatchArray) -> Selection:
    """Return the elements of `box` where `mask`, of the same shape, is true."""
    parts = [
        _by_block(operator.getitem, "select", None, pc.realise(p, m.chunks), m)
        for p, m in _in_one_layout(box, mask)
    ]
    return Selection(parts, _key(mask))


def put(box: DispatchArray, mask: DispatchArray, values: Selection) -> None:
    """Write what was selected, and worked on, where the same mask is true."""
    pairs = _in_one_layout(box, mask)
    if _key(mask) != values.key:
        raise not_dispatched("writing elements through another mask", _ADVICE)
    itself = box is mask
    written: list[Piece] = []
    for (piece, where), part in zip(pairs, values.parts, strict=True):
        target = pc.realise(piece, where.chunks)
        written.append(_by_block(_put, "put", target, target, where, part))
    box.rebind(written)
    if itself:  # mask[mask] = some of these
        box.chosen = _narrowed(values.key, values)


def _put(block: Any, mask: Any, values: Any) -> Any:
    out = block.copy()
    out[mask] = values
    return out
