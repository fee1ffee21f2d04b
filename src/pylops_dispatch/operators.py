"""Copies of operators for other dims, and what an operator holds: parts, arrays, settings."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import random
import re
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import pylops
from dask.array.core import Array as DaskArray

from pylops_dispatch.array import DispatchArray, found, holds, is_box, is_dask, is_lazy, lower
from pylops_dispatch.pieces import Shape, Zeros, identity, keep_for
from pylops_dispatch.plans import has_plans, without_plans

LinearOperator = pylops.LinearOperator

# not empty once an operator was made that may hold dask arrays: until then NumPy input needs no
# look at it
made_lazy: set[bool] = set()

# PyLops's counters of applications
COUNTERS = frozenset(("matvec_count", "rmatvec_count", "matmat_count", "rmatmat_count"))

# what PyLops works out of an operator's dims when it is asked
_FOLLOWING = frozenset(("_shape",))


# what most attributes of an operator are: no operators, and none within
_SETTINGS = frozenset(
    (type(None), bool, int, float, complex, str, np.float64, np.ndarray, dict, types.MethodType)
)


def is_operator(value: Any) -> bool:
    """Whether `value` is a linear operator; ``isinstance`` of its abstract base class is slow."""
    return _is_operator_class(type(value))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=1024)
def _is_operator_class(cls: Any) -> bool:
    return issubclass(cls, LinearOperator)


def _is_pylops(cls: type) -> bool:
    """Whether a class is PyLops's own, not a user's or another package's."""
    return cls.__module__.partition(".")[0] == "pylops"


# asked for each operator that is made, and in each application
is_pylops: Callable[[type], bool] = functools.lru_cache(maxsize=1024)(_is_pylops)


# how users come by operators that PyLops wraps in others
_WRAPPED = {
    "_AdjointLinearOperator": ".H",
    "_TransposedLinearOperator": ".T",
    "_ConjLinearOperator": ".conj()",
}


def title(op: Any) -> str:
    """Return what messages call an operator: its class, and what of it is applied."""
    name = type(op).__name__
    inner = vars(op).get("A", vars(op).get("Op"))
    if name in _WRAPPED and is_operator(inner):
        return title(inner) + _WRAPPED[name]
    found = _ENGINES.fullmatch(name) if is_pylops(type(op)) else None
    return name if found is None else found["public"]


# PyLops has a class for each engine of a transform: ``_FFT2D_numpy`` is what ``FFT2D`` makes
_ENGINES = re.compile(r"_(?P<public>\w+)_(numpy|scipy|fftw|mklfft)")


def runs_users_code(op: Any) -> bool:
    """Whether an operator, apart from its parts, runs code that is not PyLops's own."""
    cls: Any = type(op)
    own = is_pylops(cls) and cls not in (pylops.FunctionOperator, LinearOperator)
    return not own or has_new_methods(op)


def has_new_methods(op: Any) -> bool:
    """Whether the methods of an operator were set on the object, and not by PyLops's own class."""
    # FourierRadon2D._register_multiplications sets them to one of its methods
    named = ("_matvec", "_rmatvec", "matvec", "rmatvec")
    return any(name in vars(op) for name in named) and not hasattr(op, "_register_multiplications")


def dims_of(op: Any, adjoint: bool) -> tuple[Shape, Shape]:
    """Return the shapes of the input and of the output of an operator, as plain ints."""
    # LinearOperator.apply_columns leaves dims a number
    given = (d if np.iterable(d) else (d,) for d in (op.dims, op.dimsd))
    dims, dimsd = (tuple(int(n) for n in d) for d in given)
    return (dimsd, dims) if adjoint else (dims, dimsd)


def check_length(x: Any, length: int, columns: bool = False) -> None:
    """Raise where an array is no vector of a length; nothing is computed.

    Parameters
    ----------
    x : array
        Of any shape; what has no shape, or an unknown one, passes.
    length : int
        Number of elements that it should have.
    columns : bool, optional
        Whether it may be a matrix of such vectors, too.

    Raises
    ------
    ValueError
        With both sizes, as PyLops says it.
    """
    shape = getattr(x, "shape", None)
    if shape is None or math.isnan(math.prod(shape)):
        return
    if math.prod(shape) != length and not (columns and shape[:1] == (length,)):
        raise ValueError(
            f"Dimension mismatch. Got {shape}, but expected ({length},) or ({length}, 1)."
        )


def shaped(
    op: Any,
    box: DispatchArray,
    adjoint: bool,
    dtype: Any,
    apply: Callable[[DaskArray], DaskArray],
) -> DispatchArray:
    """Return what `apply` makes of a vector in the shape of its side of `op`; zeros stay zeros."""
    into, out = dims_of(op, adjoint)
    piece = box.as_shape(into)
    y = Zeros(out, np.dtype(dtype)) if isinstance(piece, Zeros) else apply(piece)
    return DispatchArray([y], (math.prod(out),))


def duplicate(op: Any) -> Any:
    """Return a shallow copy of an operator.

    Bound methods that the operator keeps of itself (``FirstDerivative._hmatvec``) are bound to
    the copy; all else is shared.
    """
    new = copy.copy(op)
    for name, value in dict(vars(op)).items():
        if isinstance(value, types.MethodType) and _is_own_method(op, name, value):
            setattr(new, name, types.MethodType(value.__func__, new))
    return new


def _is_own_method(op: Any, name: str, method: types.MethodType) -> bool:
    """Whether a bound method is the operator's own, or of one that it is an equal copy of."""
    owner: Any = method.__self__
    if owner is op:
        return True
    if type(owner) is not type(op) or vars(owner).get(name) is not method:
        return False
    held, others = vars(op), vars(owner)
    settings = (set(held) & set(others)) - COUNTERS - _FOLLOWING
    return all(held[key] is others[key] for key in settings)


def resized(op: Any, dims: Shape, dimsd: Shape) -> Any:
    """Return a copy of an operator for other dims."""
    new = duplicate(op)
    new._dims, new._dimsd = dims, dimsd
    new._shape = (math.prod(dimsd), math.prod(dims))
    return new


def parts(op: Any, around: Sequence[Any] = ()) -> list[Any]:
    """Return the operators that `op` directly holds, each once.

    Parameters
    ----------
    op : LinearOperator
        Operator.
    around : sequence of LinearOperator, optional
        Those that it was reached through, which it may hold too (an adjoint that is kept).
    """
    found: dict[int, Any] = {}
    for value in list(vars(op).values()):  # another thread may add to them
        kind: Any = type(value)
        if kind in _SETTINGS:
            continue
        if isinstance(value, (list, tuple)):
            for item in value:
                if type(item) not in _SETTINGS and is_operator(item):
                    found[id(item)] = item
        elif _is_operator_class(kind):
            found[id(value)] = value
    for outer in around:
        found.pop(id(outer), None)
    return list(found.values())


def all_parts(op: Any, around: Sequence[Any] = ()) -> Iterator[Any]:
    """Yield an operator and all that it is made of."""
    waiting = [(op, (*around, op))]
    while waiting:
        part, inner = waiting.pop()
        yield part
        waiting.extend((p, (*inner, p)) for p in reversed(parts(part, inner)))


def rebuilt(op: Any, change: Callable[[Any], Any], new: Any | None = None) -> Any:
    """Return `new`, or a copy of `op`, whose parts are replaced by ``change(part)``."""
    new = duplicate(op) if new is None else new
    seen: dict[int, Any] = {}
    around = _around.get()

    def changed(item: Any) -> Any:
        if not is_operator(item) or item is op or any(item is outer for outer in around):
            return item
        if id(item) not in seen:
            seen[id(item)] = change(item)
        return seen[id(item)]

    token = _around.set((*around, op))
    try:
        for name, value in list(vars(new).items()):
            if type(value) in _SETTINGS:
                continue
            if is_operator(value):
                setattr(new, name, changed(value))
            elif isinstance(value, (list, tuple)) and any(is_operator(v) for v in value):
                setattr(new, name, alike(value, [changed(v) for v in value]))
    finally:
        _around.reset(token)
    return new


# the operators that are being rebuilt, each within the one before
_around: ContextVar[tuple[Any, ...]] = ContextVar("around", default=())


def with_changes(value: Any, matches: Callable[[Any], bool], change: Callable[[Any], Any]) -> Any:
    """Change what `matches` in nested lists, tuples and dicts, which stay of their kinds.

    Where nothing matches, `value` itself comes back.
    """
    if not holds(value, matches):
        return value
    if isinstance(value, dict):
        new = copy.copy(value)
        new.update({key: with_changes(item, matches, change) for key, item in value.items()})
        return new
    if isinstance(value, (list, tuple)):
        return alike(value, [with_changes(item, matches, change) for item in value])
    return change(value)


def alike(value: Any, items: list[Any]) -> Any:
    """Return a list or a tuple of the kind of `value` that holds `items`."""
    make = getattr(value, "_make", type(value))  # of named tuples
    return make(items)


def counters(op: Any) -> dict[str, Any]:
    """Return PyLops's counters of an operator's applications, to put them back."""
    return {name: value for name, value in dict(vars(op)).items() if name in COUNTERS}


@contextmanager
def left_as_they_are(values: Any) -> Iterator[None]:
    """Give the operators among `values` the attributes back that they have now.

    Code of an operator may keep what it makes of a vector; of one that only stands for another,
    it must not. Lists, dicts and sets that are attributes get their items back.
    """
    kept = [kept_of(part) for op in found(values, is_operator) for part in all_parts(op)]
    try:
        yield
    finally:
        for state in kept:
            put_back(state)


class Kept(NamedTuple):
    """What an operator holds at some time: attributes, and what those hold that change in place."""

    op: Any
    attributes: dict[str, Any]
    items: list[tuple[Any, Any]]


def _refill(value: Any, items: Any) -> None:
    value.clear()
    value.extend(items) if isinstance(value, (list, deque)) else value.update(items)


# what changes in place: how to know what it holds, and how to put that back
_STATES: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    **dict.fromkeys((list, dict, set, deque), (copy.copy, _refill)),
    np.random.Generator: (
        lambda generator: generator.bit_generator.state,
        lambda generator, state: setattr(generator.bit_generator, "state", state),
    ),
    np.random.RandomState: (np.random.RandomState.get_state, np.random.RandomState.set_state),
    random.Random: (random.Random.getstate, random.Random.setstate),
}


def kept_of(op: Any) -> Kept:
    """Return what an operator holds, so that it may be put back."""
    held = dict(vars(op))
    items = [(v, _STATES[type(v)][0](v)) for v in held.values() if type(v) in _STATES]
    return Kept(op, held, items)


def put_back(kept: Kept) -> None:
    """Give an operator the attributes that it had, and no others; lists and such, their items."""
    op, held, items = kept
    for value, before in items:
        _STATES[type(value)][1](value, before)
    for name in set(vars(op)) - set(held) - _FOLLOWING:
        vars(op).pop(name, None)
    vars(op).update(held)


def changes(kept: Kept) -> list[Callable[[], None]]:
    """Return what takes back each change of what an operator holds that its results may show.

    That is of numbers, texts, generators of random numbers, and of the items of lists and the like.
    What it has worked out since does not count: attributes and items that were not there, or None,
    a flag that is set. Nor do arrays, which code uses again.
    """
    op, held, items = kept
    now = vars(op)
    found: list[Callable[[], None]] = []
    for name, value in held.items():
        new = now.get(name)
        if name not in COUNTERS and _is_plain(value) and new is not None and new != value:
            found.append(functools.partial(now.__setitem__, name, value))
    for value, before in items:
        if _differs(_STATES[type(value)][0](value), before):
            restored = {**value, **before} if isinstance(value, dict) else before
            found.append(functools.partial(_STATES[type(value)][1], value, restored))
    return found


def state_since(kept: Kept) -> list[Callable[[], None]]:
    """Return what makes the changes of `changes` again, once all has been put back."""
    now = vars(kept.op)
    found: list[Callable[[], None]] = [
        functools.partial(now.__setitem__, name, now[name])
        for name, value in kept.attributes.items()
        if name not in COUNTERS and _is_plain(value) and now.get(name, value) != value
    ]
    for value, before in kept.items:
        new = _STATES[type(value)][0](value)
        if _differs(new, before):
            found.append(functools.partial(_STATES[type(value)][1], value, new))
    return found


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, complex, str, np.number)) and not isinstance(value, bool)


def _differs(new: Any, old: Any) -> bool:
    if isinstance(old, (list, deque)) and old:
        pairs = zip(new, old, strict=False)
        return len(new) != len(old) or any(a is not b and b is not None for a, b in pairs)
    if isinstance(old, dict) and "bit_generator" not in old:
        return any(new.get(k) is not v and not _equal(new.get(k), v) for k, v in old.items())
    if isinstance(old, set):
        return not old <= new
    return bool(old) and repr(new) != repr(old)  # of a generator


def _equal(new: Any, old: Any) -> bool:
    return old is None or not _is_plain(old) or new == old


def count_applications(op: Any, adjoint: bool, number: int = 1) -> None:
    """Count applications of an operator that PyLops's own methods do not see."""
    name = "rmatvec_count" if adjoint else "matvec_count"
    setattr(op, name, getattr(op, name) + number)


def for_tasks(op: Any) -> Any:
    """Return an operator for a task: without pools and FFTW plans, which a task cannot have.

    They cannot be pickled. ``VStack.pool`` may be closed before the task runs, and threads that
    run the same plan write into the same buffers.
    """
    return _for_task(op) if any(map(_is_bound, all_parts(op))) else op


def _is_bound(op: Any) -> bool:
    """Whether an operator itself holds what is bound to this process."""
    return getattr(op, "pool", None) is not None or has_plans(op)


def _for_task(op: Any) -> Any:
    new = rebuilt(op, _for_task)
    if getattr(op, "pool", None) is not None:
        vars(new).update(_nproc=1, pool=None, lock=None)
    return without_plans(new) if has_plans(new) else new


def lazy_attributes(op: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the attributes of an operator that hold dask arrays or boxes, and these."""
    containers = not is_pylops(type(op))  # PyLops's own are of operators, and of numbers
    for name, value in dict(vars(op)).items():
        if isinstance(value, (DaskArray, DispatchArray)):
            yield name, (value,)
        elif containers and isinstance(value, (dict, list, tuple)):
            items = tuple(found(value, is_lazy))
            if items:
                yield name, items


_PLAIN = frozenset((int, float, complex, bool, str, type(None), np.ndarray, np.dtype, type))


def parts_without_lazy_arrays(op: Any) -> dict[int, Any] | None:
    """Return an operator and all that it is made of, by identity, if nothing there is lazy.

    This is asked in each application to a NumPy vector. It is None where something may be lazy,
    or is of a user's class, which may change what it holds as it runs.
    """
    seen: dict[int, Any] = {}
    waiting = [op]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if not is_pylops(type(part)):
            return None
        for value in list(vars(part).values()):
            if type(value) in _PLAIN:
                continue
            if isinstance(value, (DaskArray, DispatchArray)):
                return None
            items = value if isinstance(value, (list, tuple)) else (value,)
            waiting.extend(item for item in items if is_operator(item))
    return seen


def lazy_arrays(op: Any) -> Iterator[tuple[Any, str, DaskArray]]:
    """Yield owner, attribute and array for every dask array that an operator is made of.

    What an application has left in it is no such array.
    """
    for part in all_parts(op):
        left = _left.get(identity(part), ()) if _left else ()
        for name, items in lazy_attributes(part):
            for item in items:
                array = item.dask() if isinstance(item, DispatchArray) else item
                if array.name not in left:
                    yield part, name, array


def is_lazy_operator(op: Any) -> bool:
    """Whether `op` is a linear operator that is made of dask arrays."""
    return isinstance(op, LinearOperator) and next(lazy_arrays(op), None) is not None


def is_made_of_lazy(x: Any, within: tuple[Any, ...] = ()) -> bool:
    """Whether `x` is a lazy array, or a linear operator or the like that is made of such.

    `within` are those that it was reached through.
    """
    if type(x) in _PLAIN:  # most of what a step is given
        return False
    if not TERMS or not isinstance(x, tuple(TERMS)):
        return is_lazy(x) or is_lazy_operator(x)
    if any(x is known for known in within):
        return False
    inside = functools.partial(is_made_of_lazy, within=(*within, x))
    return holds(list(vars(x).values()), inside)


TERMS: set[type] = set()  # classes of other packages whose objects hold arrays, as operators do


def gives_lazy(x: Any) -> bool:
    """Whether `x` is made of lazy arrays, or an operator whose functions refer to some."""
    return is_made_of_lazy(x) or (isinstance(x, LinearOperator) and any(_lazy_in_functions(x)))


def _lazy_in_functions(op: Any) -> Iterator[bool]:
    for part in filter(runs_users_code, all_parts(op)):
        for function in filter(inspect.isfunction, vars(part).values()):
            for name in function.__code__.co_names:
                yield is_dask(function.__globals__.get(name))
            for cell in function.__closure__ or ():
                with suppress(ValueError):  # a variable that has no value yet
                    yield is_dask(cell.cell_contents)


# what applications left in operators: the names of dask arrays, by the identity of the operator
_left: dict[str, set[str]] = {}


def let_boxes_out(op: Any) -> None:
    """Let a user's operators in a tree hold dask arrays where their code has kept boxes."""
    for part in all_parts(op):
        if runs_users_code(part):
            kept = {name: value for name, value in dict(vars(part)).items() if holds(value, is_box)}
            vars(part).update({n: with_changes(value, is_box, lower) for n, value in kept.items()})
            note_left(part, kept)


def note_left(op: Any, names: Iterable[str]) -> None:
    """Remember that the dask arrays in these attributes of an operator were boxes."""
    if not names:
        return
    key = identity(op)
    held = {array.name for array in found(vars(op), is_dask)}
    new = {array.name for name in names for array in found(vars(op)[name], is_dask)}
    keep_for(op, _left, (_left.get(key, set()) & held) | new)


def numpy_arrays_of(tree: Iterable[Any]) -> list[np.ndarray[Any, Any]]:
    """Return the NumPy arrays that are attributes of operators."""
    held = (value for part in tree for value in list(vars(part).values()))
    return [value for value in held if isinstance(value, np.ndarray)]


def arrays_of(op: Any) -> Iterator[DaskArray]:
    """Yield the dask arrays that an operator holds in any of its attributes."""
    for part in all_parts(op):
        yield from found(vars(part), is_dask)
