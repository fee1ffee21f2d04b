"""From a rule to a graph: what happens when an operator's ``_matvec`` meets a box."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.array.core import Array as DaskArray
from pylops import LinearOperator, MemoizeOperator
from pylops.linearoperator import _AdjointLinearOperator, _TransposedLinearOperator

from pylops_dispatch import blocks
from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray, is_lazy, source
from pylops_dispatch.naming import name_of
from pylops_dispatch.operators import (
    dims_of,
    has_new_methods,
    is_pylops,
    left_as_they_are,
    parts,
    shaped,
    title,
)
from pylops_dispatch.pieces import Piece, Shape, Zeros
from pylops_dispatch.placing import coefficient
from pylops_dispatch.policy import announce_whole, users_stacklevel
from pylops_dispatch.rules.table import RULES, Rule, Terms
from pylops_dispatch.rules.terms import apply_terms, sampled_dtype
from pylops_dispatch.turns import in_turn, turns_of
from pylops_dispatch.whole_axes import (
    cut_elsewhere,
    whole_along,
    worth_cutting,
    would_be_one_task,
)

logger = logging.getLogger(__name__)


@dataclass
class LocalNeeds:
    """What a tree of local operators needs: None for dims means any shape."""

    dims: Shape | None
    depth: Shape
    axes: frozenset[int] = frozenset()  # which must be one block


def rule_of(op: Any) -> Rule | None:
    """Return the rule of an operator's own class, or of the class that defines its methods."""
    if has_new_methods(op):
        return None
    return RULES.get(type(op)) or RULES.get(_defining(op))  # type: ignore[arg-type]


def why_unused(op: Any) -> str:
    """Return why the rule of an operator's class is not for this operator; empty where it is."""
    cls: Any = type(op)
    rule = RULES.get(cls)
    if rule is None:
        return ""
    if has_new_methods(op):
        return f"the rule of {cls.__name__} is for the class's methods, and this object has its own"
    if rule.depth is not None and tuple(op.dims) != tuple(op.dimsd):
        return (
            f"the rule of {cls.__name__}, {rule.kind}, is for operators whose dims and dimsd are "
            f"the same, and these are {tuple(op.dims)} and {tuple(op.dimsd)}"
        )
    if rule.kind == "whole_axis" and len(op.dims) != len(op.dimsd):
        return (
            f"the rule of {cls.__name__}, whole_axis, is for operators whose dims and dimsd have "
            f"as many axes, and these are {tuple(op.dims)} and {tuple(op.dimsd)}: name the axes, "
            "by parallel_sum(model=..., data=...)"
        )
    return ""


def _defining(op: Any) -> type | None:
    """Return the class whose ``_matvec`` and ``_rmatvec`` an operator runs, None if its own."""
    if "_matvec" in vars(op) or "_rmatvec" in vars(op):
        return None  # FourierRadon2D._register_multiplications sets them on the object
    kinds = type(op).__mro__
    forward, adjoint = (
        next((k for k in kinds if name in vars(k)), None) for name in ("_matvec", "_rmatvec")
    )
    # a class may define one and inherit the other; then it is a rule for itself that counts
    return forward if forward is adjoint and not _overrides(kinds[0], forward) else kinds[0]


def _overrides(cls: type, defining: Any) -> bool:
    """Whether users' classes below `defining` change what runs when an operator is applied."""
    below = _below(cls, defining)
    applied = any(name in vars(kind) for kind in below for name in ("matvec", "rmatvec"))
    return applied or changes_helpers(cls, defining)


def _below(cls: type, defining: type) -> list[type]:
    return [k for k in cls.__mro__[: cls.__mro__.index(defining)] if not is_pylops(k)]


def changes_helpers(cls: type, defining: type) -> bool:
    """Whether users' classes below `defining` change methods that its ``_matvec`` may call."""
    return any(
        # what else LinearOperator has is for those who use an operator: ``todense``, ``eigs``
        hasattr(defining, name) and not hasattr(LinearOperator, name)
        for kind in _below(cls, defining)
        for name in vars(kind).keys() - {"__slotnames__"}  # which a copy leaves in its class
    )


def local_needs(op: Any, adjoint: bool, cls: type | None = None) -> LocalNeeds | None:
    """Return what the tree of operators below `op` needs, or None if some of it is not local."""
    cls = cls or _defining(op)
    if cls is None:
        return None
    rule = RULES.get(type(op)) or RULES.get(cls)
    if rule is None:
        return None
    if rule.depth is not None:
        found = rule.depth(op)
        if found is None or tuple(op.dims) != tuple(op.dimsd):
            return None
        depth = tuple(int(d[adjoint] if isinstance(d, tuple) else d) for d in found)
        dims = tuple(int(n) for n in op.dims)
        # an element-wise operator on a vector works on any layout of that vector
        if len(dims) == 1 and not any(depth) and rule.axes is None and rule.place is None:
            return LocalNeeds(None, ())
        whole = rule.axes(op) if rule.axes is not None else ()
        return LocalNeeds(dims, depth, frozenset(a % len(dims) for a in whole))
    merge = COMBINATIONS.get(cls)
    if merge is None:
        return None
    needs = []
    turned = cls in (_AdjointLinearOperator, _TransposedLinearOperator)
    for part in parts(op):
        need = local_needs(part, adjoint != turned)
        if need is None:
            return None
        needs.append(need)
    if not needs:
        return None  # a wrapped SciPy operator
    shaped = [n for n in needs if n.dims is not None]
    if not shaped:
        return LocalNeeds(None, ())
    if any(n.dims != shaped[0].dims for n in shaped):
        return None
    axes = frozenset().union(*(n.axes for n in shaped))
    return LocalNeeds(shaped[0].dims, merge(op, [n.depth for n in shaped]), axes)


def deepest(op: Any, depths: Sequence[Shape]) -> Shape:
    """Halo of a sum: the largest of its terms."""
    return tuple(max(d) for d in zip(*depths, strict=True))


def added(op: Any, depths: Sequence[Shape]) -> Shape:
    """Halo of a product: that of all factors together."""
    both = len(parts(op)) == 1 and len(op.args) == 2
    return tuple(sum(d) * (2 if both else 1) for d in zip(*depths, strict=True))


def repeated(op: Any, depths: Sequence[Shape]) -> Shape:
    """Halo of a power."""
    return tuple(d * int(op.args[1]) for d in depths[0])


# PyLops's own combinations of operators that keep a tree local, and the halo that they need
COMBINATIONS: dict[type, Callable[[Any, Sequence[Shape]], Shape]] = {}


def _rule(op: Any, root: Any, cls: type) -> Rule | None:
    # the root runs as `cls` defines it, which may be a base of a user's class
    defining = cls if op is root else _defining(op)
    return RULES.get(type(op)) or RULES.get(defining)  # type: ignore[arg-type]


def _shape_in_dims(op: Any, name: str) -> Shape:
    """Return the shape of a coefficient, with an axis of one for each that it is the same along.

    Raises
    ------
    ValueError
        If an array of a user's operator is neither flat nor as long as the dims.
    """
    shape, dims = tuple(vars(op)[name].shape), tuple(int(n) for n in op.dims)
    if is_pylops(type(op)) or shape == (math.prod(dims),):
        return shape
    if not _is_along(shape, dims):
        raise ValueError(
            f"the rule of {type(op).__name__} names the coefficient {name!r}, of shape {shape}, "
            f"and the operator has dims {dims}: it must have these, with one sample along axes "
            "that it is the same along, or be flat"
        )
    return (1,) * (len(dims) - len(shape)) + shape


def _is_along(shape: Shape, lengths: Sequence[int | None]) -> bool:
    """Whether an array is as long as the last of some axes, or the same along them."""
    missing = len(lengths) - len(shape)
    if missing < 0:
        return False
    along = zip(shape, lengths[missing:], strict=True)
    return all(n == 1 or m is None or n == m for n, m in along)


def _coefficient(
    array: Any, shape: Shape, dims: Shape, offset: int, count: int, model: DaskArray
) -> DaskArray:
    """Return a coefficient as a dask array with the chunks of `model`, shaped to `dims`."""
    held = array
    if math.prod(shape) == 1:
        shape = (1,) * len(dims)
    array = array if array.shape == shape else array.reshape(shape)
    apart = array.size == count or (array.ndim == 1 and array.size != 1)
    size = math.prod(dims)
    if isinstance(array, DispatchArray) and apart:
        array = pc.realise(pc.assemble(pc.take_range(array.pieces, offset, offset + size), dims))
    elif is_lazy(array):
        array = source(array)
    if array.shape != dims and apart:
        flat = array.reshape(-1)
        array = (flat if size == count else flat[offset : offset + size]).reshape(dims)
    chunks = pc.chunks_like(array.shape, model)
    if isinstance(array, DaskArray):
        return array if array.chunks == chunks else array.rechunk(chunks)
    return coefficient(array, chunks, held)


_dtypes: dict[Any, np.dtype[Any]] = {}


def _probe(
    cls: type, template: Any, need: LocalNeeds, held: Sequence[Any], x: Any, adjoint: bool
) -> Any:
    """Return the dtype that an operator gives, from a run on a few samples of zeros."""
    depth = need.depth or (0,) * len(x.shape)
    dims = tuple(
        n if a in need.axes else min(n, 2 * d + 2)
        for a, (n, d) in enumerate(zip(x.shape, depth, strict=True))
    )
    template = _sampled(template)
    samples = [
        np.zeros(tuple(min(m, n) for m, n in zip(c.shape, dims, strict=True)), c.dtype)
        for c in held
    ]
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        op = blocks.fitted(template, dims, samples, (0,) * len(dims), (False,) * len(dims))
        return blocks.run(cls, op, np.zeros(dims, x.dtype), adjoint).dtype


def _sampled(op: Any) -> Any:
    """Return a copy of a tree of operators with zeros where it has dask arrays."""
    template, arrays = blocks.taken_apart(op)
    return blocks.filled(template, [np.zeros(a.shape, a.dtype) for a in arrays])


def _result_dtype(
    cls: type, op: Any, box: DispatchArray, adjoint: bool, sample: Callable[[], Any]
) -> np.dtype[Any]:
    """Return the dtype that a rule declares, or else that of a run on a few samples."""
    declared = _declared_dtype(RULES[cls], op, box, adjoint)
    if declared is not None:
        return declared
    return _found_once((cls, name_of(op), box.dtype, adjoint), sample)


def _declared_dtype(rule: Rule, op: Any, box: DispatchArray, adjoint: bool) -> np.dtype[Any] | None:
    found = None if rule.dtype is None else rule.dtype(op, box.dtype, adjoint)
    return None if found is None else np.dtype(found)


def _run_piece(
    cls: type, op: Any, need: LocalNeeds, piece: Piece, offset: int, total: int, adjoint: bool
) -> Piece:
    dims = piece.shape
    depth = need.depth or (0,) * len(dims)

    def rule(part: Any) -> Rule | None:
        return _rule(part, op, cls)

    def names(part: Any) -> tuple[str, ...]:
        return blocks.arrays_to_cut(part, rule(part))

    template, name = blocks.stripped(op, rule), name_of(op)
    bare = name if template is op else name_of(template)
    # there are none where nothing was taken out
    found = () if template is op else blocks.leaves(op, names)
    held = [(getattr(owner, name), _shape_in_dims(owner, name)) for owner, name in found]
    if isinstance(piece, Zeros):
        cheap = [np.zeros((1,) * len(dims), a.dtype) for a, _ in held]
        return Zeros(dims, _dtype_of(cls, bare, template, need, cheap, piece, adjoint))
    x = whole_along(piece, need.axes, title(op))
    coefficients = [_coefficient(a, shape, dims, offset, total, x) for a, shape in held]
    dtype = _dtype_of(cls, bare, template, need, coefficients, piece, adjoint)
    return blocks.apply_local(
        cls, template, x, depth, coefficients, adjoint, dtype, (name, bare), need.axes
    )


def _dtype_of(
    cls: type,
    name: str,
    template: Any,
    need: LocalNeeds,
    held: Sequence[Any],
    x: Any,
    adjoint: bool,
) -> np.dtype[Any]:
    key = (cls, name, x.dtype, tuple(c.dtype for c in held), adjoint)
    return _found_once(key, lambda: _probe(cls, template, need, held, x, adjoint))


def _found_once(key: Any, find: Callable[[], Any]) -> np.dtype[Any]:
    """Return a dtype that `find` gives, which runs an operator on a few samples, or remember it."""
    if key not in _dtypes:
        if len(_dtypes) > 1000:
            _dtypes.clear()
        _dtypes[key] = np.dtype(find())
    return _dtypes[key]


def run_local(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Run a tree of local operators as one task for each block."""
    need = local_needs(op, adjoint, cls)
    if need is None:
        return NotImplemented
    if need.dims is not None:
        out = _run_piece(cls, op, need, box.as_shape(need.dims), 0, box.size, adjoint)
        return DispatchArray([out], (box.size,))
    found = []
    offset = 0
    for piece in box.pieces:
        found.append(_run_piece(cls, op, need, piece, offset, box.size, adjoint))
        offset += pc.size(piece)
    return DispatchArray(found, (box.size,))


def run_along(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Run an operator along whole axes, in parallel over the others."""
    rule = RULES[cls]
    assert rule.axes is not None
    dims, dimsd = dims_of(op, False)
    axes = rule.axes(op)

    def sample() -> np.dtype[Any]:
        return _sampled_dtype(cls, op, dims, dimsd, axes, box, adjoint)

    dtype = _result_dtype(cls, op, box, adjoint, sample)

    whole = {axis % len(dims) for axis in axes}
    free = [axis for axis in range(len(dims)) if axis not in whole]
    made = math.prod(dims if adjoint else dimsd) * dtype.itemsize

    def apply(x: DaskArray) -> DaskArray:
        if would_be_one_task(x, whole, made):
            factors = rule.factors(op) if rule.factors is not None else []
            if any(x.shape[axis] > 1 for axis in free):
                x = cut_elsewhere(x, whole, worth_cutting(x, made))
            elif len(factors) > 1:
                return _one_after_another(factors, x, adjoint).astype(dtype)
            else:
                announce_whole(title(op), "it works along all axes of the data, which are cut")
        return blocks.apply_along(cls, op, x, dims, dimsd, axes, adjoint, dtype, rule.fit)

    return shaped(op, box, adjoint, dtype, apply)


def _one_after_another(factors: Sequence[Any], x: DaskArray, adjoint: bool) -> DaskArray:
    """Apply operators that each work along one axis, in parallel over the others."""
    cut = x.numblocks
    for factor in factors[::-1] if adjoint else factors:
        axis = int(np.atleast_1d(factor.axes)[0]) % x.ndim
        lengths = [-(-n // count) for n, count in zip(x.shape, cut, strict=True)]
        if x.npartitions > math.prod(count for a, count in enumerate(cut) if a != axis) == 1:
            x = cut_elsewhere(x, {axis}, worth_cutting(x))
        else:
            x = pc.rechunk(x, {a: -1 if a == axis else n for a, n in enumerate(lengths)})
        box = DispatchArray([x], (x.size,))
        y = factor.rmatvec(box) if adjoint else factor.matvec(box)
        x = y.as_shape(tuple(factor.dims if adjoint else factor.dimsd))
    return x


def _sampled_dtype(
    cls: type, op: Any, dims: Shape, dimsd: Shape, axes: Sequence[int], box: Any, adjoint: bool
) -> np.dtype[Any]:
    whole = {a % len(dims) for a in axes}
    part, partd = (
        tuple(n if a in whole else min(n, 1) for a, n in enumerate(d)) for d in (dims, dimsd)
    )
    shape = partd if adjoint else part
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        y = blocks.along_block(
            np.zeros(shape, box.dtype), cls=cls, op=_sampled(op), dims=part, dimsd=partd,
            axes=tuple(whole), adjoint=adjoint, fit=RULES[cls].fit,
        )  # fmt: skip
    return y.dtype


def terms_of(rule: Rule, op: Any) -> Terms | None:
    """Return the independent terms that an operator is the sum of; None if its rule has none.

    Raises
    ------
    ValueError
        If the rule names another number of axes than the operator has.
    """
    terms = None if rule.terms is None else rule.terms(op)
    if terms is not None and (len(terms.model), len(terms.data)) != (len(op.dims), len(op.dimsd)):
        raise ValueError(
            f"the rule of {type(op).__name__} names the axes {' '.join(terms.model)!r} of the "
            f"model and {' '.join(terms.data)!r} of the data, and the operator has dims "
            f"{tuple(op.dims)} and dimsd {tuple(op.dimsd)}"
        )
    if terms is not None and not is_pylops(type(op)):
        _check_coefficients(op, terms)
    return terms


def _check_coefficients(op: Any, terms: Terms) -> None:
    """Raise where a rule names arrays that a user's operator has not, or axes that these have not.

    Raises
    ------
    AttributeError
        If the operator has no such attribute.
    ValueError
        If an array is not as long as the axes that it is said to have.
    """
    lengths = dict(zip((*terms.model, *terms.data), (*op.dims, *op.dimsd), strict=True))
    for name, labels in terms.coefficients.items():
        blocks.require_attribute(op, name)
        array = vars(op)[name]
        shape = tuple(getattr(array, "shape", ()))
        wanted = tuple(lengths.get(label) for label in labels)
        # one with fewer axes is reshaped, or is the same along the first
        size = math.prod(n for n in wanted if n is not None)
        split = len(shape) < len(labels) and math.prod(shape) == size
        if not _is_along(shape, wanted) and not split:
            raise ValueError(
                f"the rule of {type(op).__name__} gives {name} the axes {' '.join(labels)!r}, of "
                f"{wanted} samples, and its shape is {shape}"
            )


def _warn_of_whole_arrays(cls: type, op: Any, rule: Rule) -> None:
    """Warn where each block of a user's operator meets an array of the model's shape as a whole.

    Not so where a rule says enough, and the shape may be that of something else.
    """
    for name in rule.coefficients:
        blocks.require_attribute(op, name)
    dims = tuple(int(n) for n in op.dims)
    if rule.kind != "alone" and len(set(dims)) < 2:  # of a filter, or of a matrix
        return
    whole = set(range(len(dims))) if rule.axes is None else {a % len(dims) for a in rule.axes(op)}
    cut = rule.local or any(n > 1 for axis, n in enumerate(dims) if axis not in whole)
    for name, value in vars(op).items() if cut else ():
        array = isinstance(value, (np.ndarray, DaskArray, DispatchArray)) and value.ndim > 0
        if array and value.shape == dims and name not in rule.coefficients:
            advice = (
                f"name it: {rule.kind}(..., coefficients=({name!r},))"
                if rule.local
                else "parallel_sum(model=..., data=..., coefficients={...}, whole=...) cuts it"
            )
            warnings.warn(
                f"the rule of {cls.__name__} says nothing of {name}, which has the shape of the "
                f"model, {dims}: each block meets all of it. Where it belongs to the samples, "
                f"{advice}",
                stacklevel=users_stacklevel(),
            )


def run_terms(cls: type, op: Any, box: DispatchArray, adjoint: bool, terms: Terms) -> DispatchArray:
    """Run a sum of independent terms."""
    fit = RULES[cls].fit

    def sample() -> np.dtype[Any]:
        return sampled_dtype(cls, op, box.dtype, terms, fit, adjoint)

    dtype = _result_dtype(cls, op, box, adjoint, sample)

    def apply(x: DaskArray) -> DaskArray:
        return apply_terms(cls, op, x, terms, fit, adjoint, dtype)

    return shaped(op, box, adjoint, dtype, apply)


def run_whole(
    cls: type | None, op: Any, box: DispatchArray, adjoint: bool, reason: str
) -> DispatchArray:
    """Run an operator, as `cls` or else itself defines it, in one lazy task, and say so."""
    announce_whole(title(op), reason)
    dtype = _whole_dtype(cls, op, box, adjoint)
    n = op.shape[1 if adjoint else 0]
    return DispatchArray([blocks.apply_whole(cls, op, box.dask(), adjoint, dtype)], (int(n),))


# elements: operators of this size, with dask arrays of that one, are run on zeros, once, to learn
# their dtype
PROBED = 1 << 16
_PROBED_COEFFICIENTS = 1 << 24


def _whole_dtype(cls: type | None, op: Any, box: DispatchArray, adjoint: bool) -> np.dtype[Any]:
    rule = None if cls is None else RULES.get(cls)
    declared = None if rule is None else _declared_dtype(rule, op, box, adjoint)
    if declared is not None:
        return declared

    def sample() -> np.dtype[Any]:
        try:
            found = _of_zeros(cls, op, box, adjoint)
        except Exception as error:
            if isinstance(error, TypeError) and type(error).__module__.startswith("numpy."):
                raise  # NumPy refuses dtypes, whatever the values are
            logger.debug("%s cannot be applied to zeros: %s", type(op).__name__, error)
            found = None
        # LinearOperator(shape=...) has no dtype
        declared = np.result_type(getattr(op, "dtype", box.dtype), box.dtype)
        return np.dtype(declared) if found is None else found.dtype

    return _found_once(_run_of(cls, op, box, adjoint), sample)


def _run_of(cls: type | None, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Return what the runs of an operator on zeros have in common that are alike."""
    return cls, type(op), name_of(op), box.dtype, adjoint


def error_on_zeros(
    op: Any, box: DispatchArray, adjoint: bool
) -> tuple[type[Exception], str] | None:
    """Return the kind and the words of what keeps an operator from NumPy vectors, too.

    As far as can be told: None of one that takes them. An operator that is as it was is not
    asked again, nor for the dtype.
    """
    key = _run_of(None, op, box, adjoint)
    if key not in _errors:
        if len(_errors) > 1000:
            _errors.clear()
        try:
            y = _of_zeros(None, op, box, adjoint)
        except Exception as error:
            _errors[key] = type(error), str(error)
        else:
            _errors[key] = None
            if y is not None:
                _found_once(key, lambda: y.dtype)
    return _errors[key]


_errors: dict[Any, tuple[type[Exception], str] | None] = {}


def _of_zeros(
    cls: type | None, op: Any, box: DispatchArray, adjoint: bool
) -> np.ndarray[Any, Any] | None:
    """Return what a small operator in memory makes of zeros, None for others."""
    if isinstance(op, MemoizeOperator):  # which would keep the zeros
        return _of_zeros(None, op.Op, box, adjoint)
    if max(op.shape) > PROBED:
        return None
    copy, lazy = blocks.whole_copy(op, name_of(op))
    if sum(array.size for array in lazy) > _PROBED_COEFFICIENTS:
        return None
    copy = blocks.filled(copy, [np.zeros(array.shape, array.dtype) for array in lazy])
    # what it keeps of these zeros is not for the data
    with (
        warnings.catch_warnings(action="ignore"),
        np.errstate(all="ignore"),
        in_turn(turns_of(op)),
        left_as_they_are([copy]),
    ):
        y = blocks.method_of(cls, copy, adjoint)(np.zeros(box.size, box.dtype))
        if is_lazy(y):  # of a dask array that a function closes over
            y = np.zeros(y.shape, y.dtype)
        return np.asarray(y.reshape(op.shape[1 if adjoint else 0]))  # as ``matvec`` does


def run_rule(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Run `op` as the rule of `cls` says; NotImplemented leaves it to PyLops's own code."""
    rule = RULES[cls]
    if box.ndim != 1 or changes_helpers(type(op), cls):
        return NotImplemented
    if rule.run is not None:
        return rule.run(cls, op, box, adjoint)
    if rule.kind == "whole":
        return run_whole(cls, op, box, adjoint, rule.note)
    terms = terms_of(rule, op)
    if terms is not None:
        return run_terms(cls, op, box, adjoint, terms)
    if not is_pylops(cls) and (rule.local or rule.kind == "whole_axis"):
        _warn_of_whole_arrays(cls, op, rule)
    if rule.kind == "whole_axis" and len(op.dims) == len(op.dimsd):
        return run_along(cls, op, box, adjoint)
    if rule.local or cls in COMBINATIONS:
        return run_local(cls, op, box, adjoint)
    return NotImplemented
