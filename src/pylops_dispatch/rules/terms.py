"""Sums over independent terms: an operator cut along named axes of its model and data."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import DataNode
from dask.array.core import Array as DaskArray
from dask.base import tokenize

from pylops_dispatch import blocks
from pylops_dispatch.array import is_lazy, source
from pylops_dispatch.blas_threads import one_blas_thread
from pylops_dispatch.blocks import Fit
from pylops_dispatch.naming import layer_name, name_of
from pylops_dispatch.operators import dims_of, duplicate, resized, title
from pylops_dispatch.pieces import balanced
from pylops_dispatch.placing import coefficient
from pylops_dispatch.policy import announce_whole
from pylops_dispatch.rules.table import Terms
from pylops_dispatch.whole_axes import worth_cutting, would_be_one_task

Labels = tuple[str, ...]
Sizes = dict[str, tuple[int, ...]]  # chunks by the name of an axis


def apply_terms(
    cls: type, op: Any, x: DaskArray, terms: Terms, fit: Fit | None, adjoint: bool, dtype: Any
) -> DaskArray:
    """Apply an operator to its terms apart, and add them up where the output needs it.

    Parameters
    ----------
    cls : type
        Class whose ``_matvec`` runs.
    op : LinearOperator
        The operator.
    x : dask.array.Array
        Input, of the operator's dims, or dimsd for the adjoint.
    terms : Terms
        Names of the axes.
    fit : callable or None
        Sets what follows from the lengths of a copy for a block.
    adjoint : bool
        Whether to apply the adjoint.
    dtype : dtype
        Of the result.

    Returns
    -------
    dask.array.Array
        Axes that input and output share keep the chunks of the input, or of a larger
        coefficient.
    """
    into, out = (terms.data, terms.model) if adjoint else (terms.model, terms.data)
    held = _held(op, terms, adjoint)
    if terms.sizes is not None:
        sizes = terms.sizes(op, x, adjoint)
    else:
        sizes = _sizes(op, x, into, out, held, terms, adjoint)
    given = dict(zip(into, x.chunks, strict=True))
    x = x.rechunk(tuple(sizes[label] for label in into))
    summed = tuple(a for a in into if a not in out and len(sizes[a]) > 1)
    index = {label: number for number, label in enumerate(dict.fromkeys((*into, *out)))}
    arguments: list[Any] = [x, tuple(index[label] for label in into)]
    spare = len(index)
    for array, labels, owner in held.values():
        own = []
        for label in labels:
            own.append(index.get(label, spare))
            spare += label not in index
        chunks = tuple(
            sizes[label] if label in index else (n,)
            for label, n in zip(labels, array.shape, strict=True)
        )
        if isinstance(array, DaskArray):
            wrapped = array.rechunk(chunks)
        elif owner is None:
            wrapped = _ranges(chunks[0])
        else:
            wrapped = coefficient(array, chunks, owner)
        arguments += [wrapped, tuple(own)]
    template, whole = _template(op, terms)
    arguments += blocks.whole_arguments(whole, spare)
    result = tuple(index[label] for label in (*out, *summed))
    alone = {index[a]: sizes[a] for a in out if a not in into}
    term = functools.partial(
        _term,
        cls=cls,
        names=tuple(held),
        terms=terms,
        sizes={label: sizes[label][0] for label in index if len(sizes[label]) == 1},
        n_summed=len(summed),
        adjoint=adjoint,
        fit=fit,
    )
    function, apart = blocks.with_operators(term, op=blocks.embed(template))
    partial = da.blockwise(
        function,
        result,
        *arguments,
        name=layer_name(cls, adjoint, name_of(op), x.name, [a.name for a in arguments[2::2]]),
        new_axes={i: n for i, n in alone.items() if not _is_cut(arguments, i)},
        adjust_chunks={index[a]: 1 for a in summed},
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * len(result), dtype=dtype),
        **apart,
    )
    y = blocks.add_up(partial, tuple(range(len(out), len(result))), dtype)
    gathered = {a for a in _untouched(into, out, held) if len(sizes[a]) < len(given[a])}
    return y.rechunk({axis: given[a] for axis, a in enumerate(out) if a in gathered - terms.whole})


def _ranges(sizes: tuple[int, ...]) -> DaskArray:
    """Return where along an axis the samples of each block lie, as ranges that are to be arrays."""
    edges = itertools.pairwise(itertools.accumulate(sizes, initial=0))
    name = f"positions-{tokenize(sizes)}"
    graph = {(name, i): DataNode((name, i), range(*pair)) for i, pair in enumerate(edges)}
    return DaskArray(graph, name, (sizes,), dtype=np.intp)


def _untouched(into: Labels, out: Labels, held: Any) -> set[str]:
    """Return the axes of input and output that no coefficient has."""
    return {*into} & {*out} - {label for _, labels, _ in held.values() for label in labels}


def _is_cut(arguments: list[Any], index: int) -> bool:
    return any(index in indices for indices in arguments[1::2])


def _template(op: Any, terms: Terms) -> tuple[Any, list[DaskArray]]:
    template = duplicate(op)
    for name in (*terms.coefficients, *terms.positions):
        if getattr(vars(op).get(name), "ndim", 0):  # a number is for all blocks
            setattr(template, name, None)
    return blocks.taken_apart(template)


def _held(op: Any, terms: Terms, adjoint: bool) -> dict[str, tuple[Any, Labels, Any]]:
    """Return the arrays to be cut, by attribute, the names of their axes, and what op has."""
    held: dict[str, tuple[Any, Labels, Any]] = {}
    lengths = _lengths(op, terms)
    unused = terms.unused(op, adjoint) if terms.unused is not None else ()
    for name, labels in terms.coefficients.items():
        array = vars(op).get(name)
        if name in unused or not getattr(array, "ndim", 0):
            continue
        owner = array
        if is_lazy(array):
            array = source(array)
        elif not isinstance(array, np.ndarray):
            continue
        if array.ndim != len(labels):
            shape = tuple(lengths.get(label, -1) for label in labels)
            if -1 not in shape and array.size != math.prod(shape):
                shape = (1,) * (len(labels) - array.ndim) + array.shape
            array = array.reshape(shape)
        # an axis of one sample is for all of a longer one
        labels = tuple(
            "." if n == 1 and lengths.get(a, 1) > 1 else a
            for a, n in zip(labels, array.shape, strict=True)
        )
        held[name] = (array, labels, owner)
    for name, label in terms.positions.items():
        held[name] = (np.broadcast_to(np.intp(0), lengths[label]), (label,), None)
    return held


def _lengths(op: Any, terms: Terms) -> dict[str, int]:
    dims, dimsd = dims_of(op, False)
    return dict(zip((*terms.model, *terms.data), (*dims, *dimsd), strict=True))


def _sizes(
    op: Any, x: DaskArray, into: Labels, out: Labels, held: Any, terms: Terms, adjoint: bool
) -> Sizes:
    """Return the chunks of every axis.

    Lazy coefficients keep theirs along axes that are summed over or new, and along all axes
    that they are cut finer on where they are larger than the input: that is then gathered along
    the axes that they do not have, so that each of their blocks is read once. Else the input is
    gathered and the output cut, or the input cut and the outputs added, whichever of the two is
    the smaller to move.
    """
    shape_in, shape_out = dims_of(op, adjoint)
    lengths = _lengths(op, terms)
    sizes: Sizes = {
        a: (n,) if a in terms.whole else c for a, n, c in zip(into, shape_in, x.chunks, strict=True)
    }
    unseparated = [axis for axis, a in enumerate(into) if a in terms.whole]
    separate = [a for a in into if a not in terms.whole and lengths[a] > 1]
    if separate and would_be_one_task(x, unseparated):
        longest = max(separate, key=lambda a: lengths[a])
        most = worth_cutting(x, math.prod(shape_out) * x.dtype.itemsize)
        sizes[longest] = balanced(lengths[longest], min(x.npartitions, most))
    lazy: Sizes = {}
    for array, labels, _ in held.values():
        if isinstance(array, DaskArray):
            for label, chunks in zip(labels, array.chunks, strict=True):
                if label not in terms.whole and len(chunks) > len(lazy.get(label, ())):
                    lazy[label] = chunks
                    if label in into and label in out and _is_larger(held, x):
                        sizes[label] = max(sizes[label], chunks, key=len)
    blocks_of_coefficients = math.prod(
        len(sizes[a]) for a in lazy if a in into and a in out and sizes[a] == lazy[a]
    )
    across = [a for a in into if a in _untouched(into, out, held)]
    if lazy and blocks_of_coefficients >= math.prod(len(sizes[a]) for a in across):
        sizes.update((a, (lengths[a],)) for a in across if _is_larger(held, x))
    summed = [a for a in into if a not in out]
    new = [a for a in out if a not in into]
    cut = [a for a in (*summed, *new) if len(lazy.get(a, ())) > 1]
    for label in (*summed, *new):
        if label in lazy:
            sizes[label] = lazy[label]
    pieces = math.prod(len(sizes[a]) for a in summed)
    known = {label for _, labels, _ in held.values() for label in labels}
    free = [a for a in new if a in known and a not in terms.whole and a not in lazy]
    if not cut and free and (pieces == 1 or math.prod(shape_in) <= math.prod(shape_out)):
        shared = math.prod(len(sizes[a]) for a in into if a in out)
        sizes.update({a: (lengths[a],) for a in summed})
        longest = max(free, key=lambda a: lengths[a])
        wanted = max(pieces, _TERMS if shared == 1 else 1)
        sizes[longest] = balanced(lengths[longest], min(lengths[longest], wanted))
    for label in new:
        sizes.setdefault(label, (lengths[label],))
    one = not separate and all(len(chunks) == 1 for chunks in sizes.values())
    if one and would_be_one_task(x, unseparated):
        announce_whole(title(op), "it works along all axes of the data, which are cut")
    return sizes


def _is_larger(held: Any, x: DaskArray) -> bool:
    """Whether lazy coefficients cost more to move than the input."""
    return sum(a.nbytes for a, _, _ in held.values() if isinstance(a, DaskArray)) > x.nbytes


# an output that nothing else cuts is made in this many blocks
_TERMS = 16


def _term(
    x: Any,
    *arrays: Any,
    cls: type,
    op: Any,
    names: Labels,
    terms: Terms,
    sizes: Mapping[str, int],
    n_summed: int,
    adjoint: bool,
    fit: Fit | None,
) -> Any:
    """Apply the operator to one block, with its parts of the coefficients."""
    x = blocks.single(x)
    found = [blocks.single(array) for array in arrays]
    found = [
        np.arange(array.start, array.stop) if isinstance(array, range) else array for array in found
    ]
    lengths = dict(sizes)
    own = dict(zip(names, found[: len(names)], strict=True))
    for name, array in own.items():
        labels = terms.coefficients.get(name) or (terms.positions[name],)
        known = zip(labels, array.shape, strict=True)
        lengths.update((a, n) for a, n in known if a not in sizes and n > 0)
    lengths.update(zip(terms.data if adjoint else terms.model, x.shape, strict=True))
    dims, dimsd = (tuple(lengths[a] for a in axes) for axes in (terms.model, terms.data))
    new = resized(blocks.filled(op, found[len(names) :]), dims, dimsd)
    vars(new).update(own)
    for name, label in terms.lengths.items():
        if name in vars(new):
            setattr(new, name, lengths[label])
    if fit is not None:
        fit(new)
    with one_blas_thread():
        y = terms.kernel(new, x, adjoint) if terms.kernel else blocks.run(cls, new, x, adjoint)
    return y.reshape((*(dims if adjoint else dimsd), *(1,) * n_summed))


def sampled_dtype(
    cls: type, op: Any, dtype: Any, terms: Terms, fit: Fit | None, adjoint: bool
) -> np.dtype[Any]:
    """Return the dtype of the output, from a run on one sample of zeros along each free axis."""
    lengths = {
        label: n if label in terms.whole else min(n, 1) for label, n in _lengths(op, terms).items()
    }
    held = _held(op, terms, adjoint)
    arrays = [
        np.zeros(
            tuple(lengths.get(a, n) for a, n in zip(labels, array.shape, strict=True)), array.dtype
        )
        for array, labels, _ in held.values()
    ]
    template, whole = _template(op, terms)
    arrays += [np.zeros(a.shape, a.dtype) for a in whole]
    shape = tuple(lengths[a] for a in (terms.data if adjoint else terms.model))
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        return _term(
            np.zeros(shape, dtype), *arrays, cls=cls, op=template, names=tuple(held),
            terms=terms, sizes=lengths, n_summed=0, adjoint=adjoint, fit=fit,
        ).dtype  # fmt: skip
