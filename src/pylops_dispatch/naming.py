"""Names of operators: the same settings, the same name; what differs, another."""

from __future__ import annotations

import array
import enum
import functools
import hashlib
import random
import threading
import types
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from pylops.signalprocessing import fft

from pylops_dispatch.array import DispatchArray
from pylops_dispatch.operators import COUNTERS, is_operator, is_pylops, runs_users_code
from pylops_dispatch.pieces import contents, identity, name_of_dtype, name_of_number, samples
from pylops_dispatch.plans import PLANS
from pylops_dispatch.remembering import checksum

_SMALL = 4096  # bytes: arrays up to this size are named by their contents
_SUMMED = 1 << 16  # bytes: up to this size, each of their elements makes a difference
DEPTH = 4  # objects within objects whose attributes are looked at

# of PyLops: they follow from other settings
_DERIVED = frozenset(("_name", "_slice", "_sample", "_hsinterp"))

# packages of objects that change as they are used, and what they are used for does not
_MACHINERY = frozenset(
    "_cffi_backend _ctypes asyncio cffi concurrent ctypes dask distributed logging "
    "multiprocessing numba pyfftw queue threading".split()
)

# of FFTW plans: what they do
_PLANNED = tuple(
    "direction axes flags input_shape input_strides input_dtype output_shape output_strides "
    "output_dtype normalise_idft ortho".split()
)


def is_machinery(value: Any) -> bool:
    """Whether an object is one such: a compiled function, a lock, a plan.

    A copy of it cannot be trusted, and what it holds is its own affair.
    """
    return _package(type(value)) in _MACHINERY


def _package(cls: type) -> str:
    return str(cls.__module__).partition(".")[0]


def name_of(op: Any) -> str:
    """Return a name for an operator as it is now: the same settings, the same name."""
    # the signature is made of strings; dask's tokenize would walk through it again
    return hashlib.blake2b(repr(signature(op)).encode(), digest_size=16).hexdigest()


def layer_name(cls: type, adjoint: bool, *given: Any) -> str:
    """Return the name of what the method of an operator class makes of what it is given."""
    method = "rmatvec" if adjoint else "matvec"
    return f"{cls.__name__.strip('_')}-{method}-{tokenize(*given)}"


class Within(NamedTuple):
    """What something was reached through, by address: it may refer back to that."""

    operators: tuple[int, ...] = ()
    objects: tuple[int, ...] = ()

    def operator(self, op: Any) -> Within:
        """Return what its attributes are reached through."""
        return Within((*self.operators, id(op)), self.objects)

    def object(self, value: Any) -> Within:
        """Return what its attributes are reached through."""
        return Within(self.operators, (*self.objects, id(value)))


_NOTHING = Within()


def signature(op: Any, within: Within = _NOTHING) -> Any:
    """Return what tells this operator from another, cheaply and for good.

    Settings count by value, objects by identity and their attributes; arrays that are not small
    by identity and by a sum of all elements, large ones by some of these.

    Parameters
    ----------
    op : LinearOperator
        What is to be told from others.
    within : Within, optional
        What it was reached through.

    Returns
    -------
    tuple
        Of strings and tuples.
    """
    kind = _kind(type(op))
    skipped, inner = kind.skipped, within.operator(op)
    items = [
        (name, _token(value, op, inner))
        for name, value in dict(vars(op)).items()
        if name not in skipped
    ]
    return (kind.name, tuple(items))


def name_of_matrix(matrix: Any) -> str:
    """Return a name for a sparse matrix, which changes when it is changed in place."""
    return repr(_token(matrix, None))


# ---- classes -----------------------------------------------------------------------------


@dataclass(slots=True)
class _Kind:
    """What is known of a class."""

    made: weakref.ref[type]
    name: str
    skipped: frozenset[str]  # attributes of its objects that make no difference


_kinds: dict[int, _Kind] = {}
_given: set[str] = set()  # for good: lazy results may outlive the class
_naming = threading.Lock()


def _kind(cls: type) -> _Kind:
    """Return what is known of a class: the first of a name has that name, others one more."""
    known = _kinds.get(id(cls))
    if known is not None and known.made() is cls:
        return known
    plain, key = f"{cls.__module__}.{cls.__qualname__}", id(cls)
    own = _DERIVED if is_pylops(cls) else frozenset()
    if issubclass(cls, fft._FFT_fftw):
        own |= PLANS
    with _naming:
        known = _kinds.get(key)
        if known is not None and known.made() is cls:  # another thread was faster
            return known
        name = f"{plain}-{identity(cls)}" if plain in _given else plain
        _given.add(plain)
        made = weakref.ref(cls, lambda _: _kinds.pop(key, None))
        _kinds[key] = _Kind(made, name, COUNTERS | own)
        return _kinds[key]


# ---- values ------------------------------------------------------------------------------


_PLAIN = frozenset((str, int, float, complex, bool, type(None)))


def _token(value: Any, owner: Any, within: Within = _NOTHING) -> Any:
    if type(value) in _PLAIN:
        return repr(value)
    if isinstance(value, np.dtype):
        return name_of_dtype(value)
    if isinstance(value, np.generic):
        return name_of_number(value)
    if isinstance(value, slice):
        return "slice", *(_token(v, owner, within) for v in (value.start, value.stop, value.step))
    if isinstance(value, enum.Enum):
        return _kind(type(value)).name, value.name
    if is_operator(value):
        return "around" if id(value) in within.operators else signature(value, within)
    if isinstance(value, types.MethodType):
        return _token_of_method(value, owner, within)
    if isinstance(value, DaskArray):
        return value.name
    if isinstance(value, _BUILT_IN):
        token = _token_of_built_in(value, owner, within)
        return token if type(value) in _EXACTLY else _token_of_more(value, token, owner, within)
    return _token_of_object(value, owner, within)


# what classes of users may be made of, and have attributes besides
_BUILT_IN = (
    str, int, float, complex, np.ndarray, functools.partial, tuple, list, deque, dict, array.array,
)  # fmt: skip
_EXACTLY = frozenset(_BUILT_IN)


def _token_of_built_in(value: Any, owner: Any, within: Within) -> Any:
    for plain in (str, int, float, complex):
        if isinstance(value, plain):
            return plain.__repr__(value)  # what a class says of its objects may be the same for all
    if isinstance(value, np.ndarray):
        if value.nbytes <= _SMALL:
            return contents(value)
        summed = value.nbytes <= _SUMMED and not value.dtype.hasobject
        return identity(value), checksum(value) if summed else samples(value)
    if isinstance(value, functools.partial):
        given = value.func, value.args, value.keywords
        return tuple(_token(v, owner, within) for v in given)
    if isinstance(value, dict):
        items = dict.items(value)
        found = ((_token(k, owner, within), _token(v, owner, within)) for k, v in items)
        return "dict", *found
    if isinstance(value, array.array):
        return value.typecode, hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()
    # NumPy takes a list for positions and a tuple for axes
    kind = () if isinstance(value, tuple) else ("list",)
    if all(type(v) in _PLAIN for v in value):
        return *kind, *map(repr, value)
    # stacks may have the same operator many times
    known = {id(v): _token(v, owner, within) for v in {id(v): v for v in value}.values()}
    return *kind, *(known[id(v)] for v in value)


def _token_of_more(value: Any, token: Any, owner: Any, within: Within) -> Any:
    """Return a name for an object of a class that adds something to one of Python's or NumPy's."""
    if id(value) in within.objects:
        return "around"
    inner, held = within.object(value), vars(value) if hasattr(value, "__dict__") else {}
    if len(within.objects) >= DEPTH or held is value:  # keys that are attributes
        held = {}
    made = getattr(value, "default_factory", None)  # of what is missing
    tokens = tuple((key, _token(v, owner, inner)) for key, v in dict.items({**held}))
    return _kind(type(value)).name, token, tokens, _token(made, owner, inner)


def _token_of_method(method: types.MethodType, owner: Any, within: Within) -> Any:
    function: Any = method.__func__
    if method.__self__ is owner:
        own = getattr(type(owner), function.__name__, None) is function
        return function.__qualname__ if own else _token(function, owner, within)
    return _token(function, owner, within), _token(method.__self__, owner, within)


def _token_of_object(value: Any, owner: Any, within: Within) -> Any:
    if isinstance(value, DispatchArray):
        return value.names
    if isinstance(value, type):
        return _kind(value).name
    if isinstance(value, types.ModuleType):
        return value.__name__
    if hasattr(value, "__dask_tokenize__"):
        return value.__dask_tokenize__()
    if _package(type(value)) == "pyfftw":  # dask has no name for it that lasts
        return tuple(repr(getattr(value, name, None)) for name in _PLANNED)
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(repr(_token(v, owner, within)) for v in value))
    if id(value) in within.objects:
        return "around"
    inner = within.object(value)
    deep = len(within.objects) >= DEPTH
    held = {} if deep else _attributes(value, owner)
    tokens = tuple((key, _token(v, owner, inner)) for key, v in held.items())
    try:
        return (identity(value), tokens) if tokens else identity(value)
    except TypeError:  # nothing tells when it goes, and another may then have its address
        return (_kind(type(value)).name, tokens) if tokens else tokenize(value)


def _attributes(value: Any, owner: Any) -> dict[str, Any]:
    """Return what an object is made of, as far as results may depend on it."""
    if isinstance(value, types.FunctionType):
        return _closure(value)
    held = getattr(value, "__dict__", None)
    if not isinstance(held, dict):
        return {}
    if scipy.sparse.issparse(value):  # the rest are notes of what SciPy found out about it
        return {key: v for key, v in held.items() if isinstance(v, (np.ndarray, dict, tuple))}
    # what PyLops's operators hold is a library's, set once
    if not runs_users_code(owner) or _package(type(value)) == "pylops" or is_machinery(value):
        return {}
    return held.copy()  # another thread may add to it


def _closure(function: types.FunctionType) -> dict[str, Any]:
    """Return what a function has: defaults, attributes, and variables of functions around it."""
    found: dict[str, Any] = dict(function.__kwdefaults__ or {})
    if function.__defaults__:
        found["__defaults__"] = function.__defaults__
    found.update(vars(function))
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found
