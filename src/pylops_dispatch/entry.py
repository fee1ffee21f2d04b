"""The methods of LinearOperator through which dask arrays come in and go out."""

from __future__ import annotations

import inspect
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dask.array as da
import numpy as np
import pylops
from dask.array.core import Array as DaskArray
from pylops.linearoperator import _AdjointLinearOperator, _TransposedLinearOperator

from pylops_dispatch import blocks, construction, solvers
from pylops_dispatch.array import (
    DispatchArray,
    as_box,
    check,
    check_vector,
    holds,
    is_box,
    is_dask,
    is_lazy,
    lift,
    lower,
    session,
)
from pylops_dispatch.notes import was_noted
from pylops_dispatch.operators import (
    COUNTERS,
    Kept,
    all_parts,
    changes,
    check_length,
    count_applications,
    counters,
    has_new_methods,
    is_operator,
    is_pylops,
    kept_of,
    lazy_arrays,
    let_boxes_out,
    made_lazy,
    numpy_arrays_of,
    parts_without_lazy_arrays,
    put_back,
    state_since,
)
from pylops_dispatch.pieces import contents, identity, keep_for, rechunk
from pylops_dispatch.placing import applied
from pylops_dispatch.policy import (
    NotDispatchedError,
    WholeArrayError,
    announce_numpy_vectors,
    few_reads,
    refusals,
)
from pylops_dispatch.refilling import run_users_code
from pylops_dispatch.repeating import repeated
from pylops_dispatch.rules import RULES
from pylops_dispatch.rules.running import (
    PROBED,
    error_on_zeros,
    rule_of,
    run_whole,
    why_unused,
)
from pylops_dispatch.scipy_solvers import scipy_lsqr

logger = logging.getLogger(__name__)


def is_unsuited(error: Exception) -> bool:
    """Whether code raises this that meets a box where only a NumPy array will do."""
    # Numba has its own hierarchy of errors for arguments that it cannot type
    return isinstance(error, (TypeError, AttributeError)) or type(error).__module__.startswith(
        "numba."
    )


def apply_method(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap ``dot``, ``matvec``, ``rmatvec``, ``matmat`` or ``rmatmat``."""
    adjoint = name.startswith("r")
    vector = name.endswith("matvec")

    def wrapper(self: Any, x: Any) -> Any:
        if type(x) is np.ndarray:
            if not made_lazy or id(self) in _not_lazy.get():
                return original(self, x)
            parts = parts_without_lazy_arrays(self)
            if parts is not None:
                token = _not_lazy.set(parts)
                try:
                    return original(self, x)
                finally:
                    _not_lazy.reset(token)
            if not _holds_lazy_arrays(self):
                return original(self, x)
            if _wants_values.get():
                with _values_wanted(False):
                    return session.get().product(wrapper(self, lift(_named(x))))
            x = _named(x) if session.get() is None else as_box(x)
        if type(x) is DispatchArray:
            return _apply_or_whole(original, self, x, adjoint) if vector else original(self, x)
        if not is_dask(x):
            return original(self, x)
        check_vector(x)
        counts = counters(self)
        try:
            return _outwards(wrapper(self, lift(x)) if vector else original(self, lift(x)))
        except Exception:
            vars(self).update(counts)
            raise
        finally:
            if session.get() is None:
                let_boxes_out(self)

    return wrapper


def on_dask_array(method: Callable[..., Any], op: Any, x: Any, adjoint: bool) -> Any:
    """Run ``_matvec`` or ``_rmatvec`` for other methods of PyLops's, or for a user's.

    ``Regression.apply`` and ``UDCT.inverse`` hand on the array that the user gave them.
    """
    check_vector(x)
    check_length(x, op.shape[0 if adjoint else 1])
    return _outwards(_apply_or_whole(method, op, lift(x), adjoint))


# the operators within the one that is applied to a NumPy vector, if none has dask arrays; they
# are kept alive here, so that no other has the address of one
_not_lazy: ContextVar[dict[int, Any]] = ContextVar("not_lazy", default={})  # noqa: B039, read only


def _holds_lazy_arrays(op: Any) -> bool:
    # most programs have none at all, and need not look
    return bool(made_lazy) and next(lazy_arrays(op), None) is not None


def _named(x: np.ndarray[Any, Any]) -> DaskArray:
    return da.from_array(x, name=f"array-{contents(x)}")


# whether NumPy vectors that meet an operator of dask arrays are to give NumPy vectors
_wants_values: ContextVar[bool] = ContextVar("wants_values", default=False)


@contextmanager
def _values_wanted(wanted: bool = True) -> Iterator[None]:
    token = _wants_values.set(wanted)
    try:
        yield
    finally:
        _wants_values.reset(token)


def values_method(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap ``eigs``, ``cond``, ``trace`` or ``tosparse``, whose very answer is a value.

    SciPy's ARPACK, PyLops's estimators and sparse matrices are made of NumPy vectors; dask
    applies the operator to each.
    """

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _wants_values.get() or not _holds_lazy_arrays(self):
            return original(self, *args, **kwargs)
        if name == "trace" and _trace_of_matrix(self, *args, **kwargs):
            return original(self, *args, **kwargs)
        given = inspect.signature(original).bind(self, *args, **kwargs).arguments
        if _needs_matrix(self, name, given.get("neigs"), given.get("uselobpcg", False)):
            return blocks.values_of_matrix(self, name, args, kwargs)
        announce_numpy_vectors(f"{type(self).__name__}.{name}")
        with solvers.reading_once(self), _values_wanted():
            return original(self, *args, **kwargs)

    return wrapper


def _trace_of_matrix(
    op: Any, neval: int | None = None, method: str | None = None, *args: Any, **kwargs: Any
) -> bool:
    """Whether a trace is the sum of the diagonal of a matrix, which is lazy."""
    return (method or ("explicit" if op.explicit else "hutch++")).lower() == "explicit"


_SMALL = 1 << 24  # bytes of a matrix that is worked on sooner than through its products


def _needs_matrix(op: Any, name: str, neigs: int | None, uselobpcg: bool) -> bool:
    """Whether PyLops is to see a matrix, which it then gives to SciPy as it is.

    ARPACK does not find all eigenvalues, and SciPy's LOBPCG none of a small operator; of a matrix
    that is not square, those of the normal matrix are real.
    """
    if name not in ("eigs", "cond") or not op.explicit or not is_dask(op.A):
        return False
    if name == "eigs" and (neigs is None or neigs == op.shape[1]):
        return True
    return bool(uselobpcg or op.shape[0] != op.shape[1]) and op.A.nbytes <= _SMALL


def _outwards(y: Any) -> Any:
    if not isinstance(y, DispatchArray):
        y = as_box(y)
    found = lower(y)
    return found if is_dask(found) else y.dask()


def _apply_or_whole(
    original: Callable[..., Any], op: Any, x: DispatchArray, adjoint: bool
) -> DispatchArray:
    """Run PyLops's own code on a box, and where it cannot take one, the whole vector."""
    n = op.shape[0 if adjoint else 1]
    if x.shape == (n, 1):  # rules are for vectors
        y = _apply_or_whole(original, op, x.reshape(n), adjoint)
        return y.reshape(y.size, 1)
    if x.shape != (n,):
        return original(op, x)
    return repeated(op, x, adjoint, lambda vector: _applied(original, op, vector, adjoint))


_within: ContextVar[bool] = ContextVar("within", default=False)  # another operator


def _applied(
    original: Callable[..., Any], op: Any, x: DispatchArray, adjoint: bool
) -> DispatchArray:
    refused_before = _reading_much.get(identity(op)) if _reading_much else None
    if refused_before is not None:
        return _applied_whole(op, x, adjoint, refused_before)
    before = _attributes(op)
    known = _is_known(op)

    def on_box() -> DispatchArray:
        within = _within.get()
        token = _within.set(True)
        try:
            y = _checked(original(op, x), op)
        finally:
            _within.reset(token)
        # within others, axes stay whole: what comes next may work along them too
        return y if within and _works_along_axes(op) else _in_chunks_of(x, y)

    def run() -> DispatchArray:
        return on_box() if known else run_users_code(op, on_box, lambda: _put_back(before))

    swallowed = False
    with refusals() as refused, few_reads(_READS) as reads:
        try:
            with applied(op) as sent:
                y = run()
            if sent:  # the graph holds what lies on the cluster by now
                counted = [(part, counters(part)) for part in all_parts(op)]
                _put_back(before)
                with applied(op):
                    y = run()
                for part, counts in counted:
                    vars(part).update(counts)
            if not refused or known:
                return y
            # the code did without something that it would have got of a NumPy array
            reason, swallowed = refused[0], True
            if any(holds(value, is_box) for kept in before for value in vars(kept.op).values()):
                _put_back(before)  # also what it has made of the vector so
        except WholeArrayError:  # the same would be said of this operator
            raise
        except Exception as error:
            for part, held, _ in before:  # which is applied only then
                vars(part).update((name, held[name]) for name in COUNTERS & held.keys())
            if not _calls_for_numpy(error, op, x, adjoint, bool(refused)):
                raise
            reason = _reason(error, refused)
    changed = any(map(changes, before))
    if not reads[0] and not changed:
        keep_for(op, _reading_much, reason)
    after = _attributes(op)
    _put_back(before)  # what the task begins with
    for was, kept in zip(before, after, strict=True):
        _share_what_is_new(was, kept, trusted=not swallowed)
    later = [] if changed or swallowed else _changes_on_zeros(op, x, adjoint)
    try:
        return _applied_whole(op, x, adjoint, reason)
    finally:
        counts = counters(op)
        _put_back(after)
        vars(op).update(counts)
        for change in later:
            change()


_steady: dict[str, bool] = {}  # operators that NumPy vectors do not change


def _changes_on_zeros(op: Any, x: DispatchArray, adjoint: bool) -> list[Callable[[], None]]:
    """Return what makes the changes of an operator that its code makes of a NumPy vector.

    What a lazy one was refused came before them. Operators that change nothing are asked once.
    """
    if identity(op) in _steady or max(op.shape) > PROBED or any(True for _ in lazy_arrays(op)):
        return []
    kept = [kept_of(part) for part in all_parts(op)]
    arrays = numpy_arrays_of(all_parts(op))
    written = [array for array in arrays if array.flags.writeable and array.size <= PROBED]
    contents = [array.copy() for array in written]
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        try:
            (op._rmatvec if adjoint else op._matvec)(np.zeros(x.size, x.dtype))
        except Exception as error:
            logger.debug("%s cannot be applied to zeros: %s", type(op).__name__, error)
    found = [change for each in kept for change in state_since(each)]
    for each in kept:
        put_back(each)
    for array, content in zip(written, contents, strict=True):
        if array.tobytes() != content.tobytes():
            array[...] = content
    if not found:
        keep_for(op, _steady, True)
    return found


def _share_what_is_new(before: Kept, after: Kept, trusted: bool) -> None:
    """Give an operator as it was what its code has worked out since, if that is to be trusted.

    If not, as where code went on without what it was refused, it is not there afterwards, either.
    """
    new = [name for name in after.attributes if before.attributes.get(name) is None]
    for name in new:
        value = after.attributes[name]
        if trusted and not holds(value, is_box):
            vars(before.op)[name] = value
        elif not trusted and name in before.attributes:
            after.attributes[name] = None
        elif not trusted:
            del after.attributes[name]


def _reason(error: Exception, refused: list[str]) -> str:
    """Return why code has no use for a box: what it was refused, or the error that it met."""
    if refused:
        return refused[-1 if isinstance(error, NotDispatchedError) else 0]
    if type(error).__module__.startswith("numba."):
        return "its Numba code takes NumPy arrays only"
    return str(error) or f"it raised {type(error).__name__}"


_READS = 50  # executions for values that an operator's code reads in a solver: norms, not samples
_reading_much: dict[str, str] = {}  # operators whose code reads more, and what was refused


def _applied_whole(op: Any, x: DispatchArray, adjoint: bool, reason: str) -> DispatchArray:
    unused = why_unused(op)
    reason = reason.partition("\n")[0].rstrip(".")
    y = run_whole(None, op, x, adjoint, f"{reason}; {unused}" if unused else reason)
    count_applications(op, adjoint)
    return y


def _attributes(op: Any) -> list[Kept]:
    """Return what an operator holds, and the one that runs in its name.

    PyLops's adjoints, conjugates and the like call ``_matvec`` of the operator that they wrap.
    """
    held = vars(op)
    inner = held.get("Op", held.get("A"))
    found = _attributes(inner) if is_operator(inner) else []
    return [kept_of(op), *found]


def _put_back(before: list[Kept]) -> None:
    for kept in before:
        put_back(kept)


# errors of a user's code that may be about boxes, or just what the user is to be told
_DOUBTFUL = (NotImplementedError, IndexError, ValueError)


def _calls_for_numpy(
    error: Exception, op: Any, x: DispatchArray, adjoint: bool, refused: bool
) -> bool:
    """Whether an operator that raised an error on a box may do better on the whole vector."""
    if _is_known(op):
        return isinstance(error, NotDispatchedError)
    if isinstance(error, AttributeError) and is_operator(error.obj) and _is_raised_by_pylops(error):
        return False  # ``LinearOperator._rmatvec`` of an operator that has no adjoint
    if is_unsuited(error):
        # a mistake of the code itself is one for NumPy vectors, too
        found = error_on_zeros(op, x, adjoint)
        return found is None or not issubclass(found[0], type(error)) or found[1] != str(error)
    # a block is a NumPy array, and what PyLops itself refuses it always refuses
    if was_noted(error):
        return False
    # an assertion of the code itself, not of what counts executions
    doubtful = isinstance(error, _DOUBTFUL) or type(error) is AssertionError
    if not refused and (not doubtful or _is_raised_by_pylops(error)):
        return False
    return error_on_zeros(op, x, adjoint) is None


def _is_raised_by_pylops(error: Exception) -> bool:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    # a result of another size than the operator says, which ``matvec`` cannot reshape
    if _package(frames[-1]) == "pylops_dispatch":
        frames = [frame for frame in frames if _package(frame) != "pylops_dispatch"]
        return bool(frames) and _is_reshaping(frames[-1])
    return _package(frames[-1]) == "pylops"


def _package(frame: Any) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_reshaping(frame: Any) -> bool:
    known = frame.f_globals.get("__name__") == pylops.LinearOperator.__module__
    return known and frame.f_code.co_name in ("matvec", "rmatvec")


def _works_along_axes(op: Any) -> bool:
    while isinstance(op, (_AdjointLinearOperator, _TransposedLinearOperator)):
        (op,) = op.args
    rule = rule_of(op)
    return rule is not None and rule.kind == "whole_axis"


def _is_known(op: Any) -> bool:
    """Whether no user's code runs in an operator, so that its errors are to be seen."""
    return all(
        type(part) in RULES
        and not isinstance(part, pylops.FunctionOperator)
        and not has_new_methods(part)
        for part in all_parts(op)
    )


def _checked(y: Any, op: Any) -> DispatchArray:
    if isinstance(y, DispatchArray):
        return y
    raise NotDispatchedError(f"{type(op).__name__} returned {type(y).__name__} for a dask array")


def _in_chunks_of(x: DispatchArray, y: DispatchArray) -> DispatchArray:
    """Give a result the chunks of the input that it has the shape of.

    Slicing and writing cut chunks; without this they would get smaller in every step.
    """
    if len(x.pieces) == len(y.pieces) == 1:
        before, after = x.pieces[0], y.pieces[0]
        if (
            isinstance(before, DaskArray)
            and isinstance(after, DaskArray)
            and before.shape == after.shape
            and before.chunks != after.chunks
        ):
            y.replace([rechunk(after, before.chunks)])
    return y


def scaling_method(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap ``__rmul__``, or what ``dot`` is: operators are scaled by numbers, not by lazy ones."""

    def wrapper(self: Any, x: Any) -> Any:
        if getattr(x, "ndim", None) == 0 and is_lazy(x):
            what = f"scaling {type(self).__name__} (unlike scalar * (Op @ x), which stays lazy)"
            return original(self, as_box(x).read(what))
        return original(self, x)

    return wrapper


def dot_method(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap ``dot``, which applies an operator, or scales it."""
    return scaling_method(apply_method(original, name), name)


class LeftToOperator:
    """The attribute ``__array_ufunc__`` of operators, by which dask leaves ``x * op`` to them.

    NumPy asks the class for it, and dask the operator: for NumPy there is none, as ever.
    """

    def __get__(self, op: Any, owner: type) -> None:
        if op is None:
            raise AttributeError("__array_ufunc__")


def divide_method(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap ``__truediv__``: lsqr on dask arrays, or one lazy task for an explicit matrix."""

    def wrapper(self: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(y, DispatchArray):  # pyproximal's L2 divides inside its solvers
            solvers.refuse_outside_solve(f"{type(self).__name__} / x")
            return lift(wrapper(self, lower(y), *args, **kwargs))
        if type(y) is np.ndarray and _holds_lazy_arrays(self):
            y = _named(y)
        if not is_dask(y):
            return original(self, y, *args, **kwargs)
        check_vector(y, "y")
        if self.explicit is True:
            if y.shape[0] != self.shape[0]:
                raise ValueError(f"Dimension mismatch: {self.shape}, {y.shape}")
            return blocks.solve_explicit(self, y, args, kwargs)
        check_length(y, self.shape[0])
        niter = args[0] if args else kwargs.get("niter", 100)
        current = solvers.new_session.get()()
        current.know(self)
        with solvers.in_session(current):
            # as LinearOperator.__truediv__ solves for NumPy arrays
            x = scipy_lsqr(self, lift(y).ravel(), iter_lim=niter, atol=1e-8, btol=1e-8)[0]
            return lower(x)

    return wrapper


def own_inverse(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``__truediv__`` or ``inverse`` of a class that knows its own inverse."""

    def wrapper(self: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
        if type(y) is np.ndarray and _holds_lazy_arrays(self):
            y = _named(y)
        if not is_dask(y):
            return original(self, y, *args, **kwargs)
        check_vector(y, "y")
        run = RULES[type(self)].inverse if type(self) in RULES else None
        box = lift(y).ravel()
        x = run(self, box) if run else original(self, box, *args, **kwargs)
        return lower(_in_chunks_of(box, x) if isinstance(x, DispatchArray) else x)

    return wrapper


def check_arrays(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``LinearOperator.__init__``, before which operators store their arrays."""

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        for name, value in self.__dict__.items():
            if is_dask(value):
                check(value, name)
            if is_lazy(value):  # a box: PyLops's code that makes this operator may apply it
                made_lazy.add(True)
        if not is_pylops(type(self)):  # it may get its arrays later
            made_lazy.add(True)
        original(self, *args, **kwargs)

    return wrapper


METHODS: dict[str, Callable[..., Any]] = {
    "dot": dot_method,
    "__rmul__": scaling_method,
    "matvec": apply_method,
    "rmatvec": apply_method,
    "matmat": apply_method,
    "rmatmat": apply_method,
    "__truediv__": divide_method,
    "eigs": values_method,
    "cond": values_method,
    "trace": values_method,
    "tosparse": values_method,
}


def constructors() -> Iterator[tuple[type, str, Callable[..., Any]]]:
    """Yield the constructors to be wrapped: class, method, wrapper."""
    yield from construction.constructors()
    yield pylops.LinearOperator, "__init__", check_arrays
