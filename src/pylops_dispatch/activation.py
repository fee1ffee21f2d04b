"""Rebinding PyLops's seams, and putting them back."""

from __future__ import annotations

import functools
import importlib
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pylops
import scipy.sparse.linalg
from dask.array.core import Array as DaskArray
from pylops.signalprocessing import NonStationaryConvolve1D

from pylops_dispatch import (
    assumptions,
    construction,
    entry,
    multiplication,
    namespace,
    packages,
    scipy_solvers,
    solvers,
)
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.operators import TERMS
from pylops_dispatch.policy import NotDispatchedError
from pylops_dispatch.rules import RULES, columns, filters, matrix, run_rule

_TESTED = "2.8"

_APPLICATIONS = {
    "pylops.avo.poststack": ("PoststackInversion",),
    "pylops.avo.prestack": ("PrestackInversion",),
    "pylops.utils.signalprocessing": ("slope_estimate", "dip_estimate"),  # gmax <= eps
    "pylops.waveeqprocessing.mdd": ("MDD",),
    "pylops.waveeqprocessing.oneway": ("Deghosting",),
    "pylops.waveeqprocessing.seismicinterpolation": ("SeismicInterpolation",),
    "pylops.waveeqprocessing.wavedecomposition": ("WavefieldDecomposition",),
}
_APPLICATION_METHODS = (
    ("pylops.waveeqprocessing.lsm", "LSM", "solve"),
    ("pylops.waveeqprocessing.marchenko", "Marchenko", "apply_onepoint"),
    ("pylops.waveeqprocessing.marchenko", "Marchenko", "apply_multiplepoints"),
)

_SOLVER_FUNCTIONS = {
    "pylops.optimization.basic": ("cg", "cgls", "lsqr"),
    "pylops.optimization.leastsquares": (
        "normal_equations_inversion",
        "regularized_inversion",
        "preconditioned_inversion",
    ),
    "pylops.optimization.sparsity": ("irls", "omp", "ista", "fista", "spgl1", "splitbregman"),
}
# functions of PyLops's, by module, and what makes their replacements
_FUNCTIONS: dict[str, Mapping[str, Callable[[Any], Any]]] = {
    "pylops.utils.backend": namespace.BACKEND_FUNCTIONS,
    "pylops.utils._internal": namespace.INTERNAL_FUNCTIONS,
    "pylops.config": multiplication.FUNCTIONS,
    "pylops.utils.metrics": dict.fromkeys(("mae", "mse", "snr", "psnr"), solvers.metric),
    "pylops.optimization.cls_sparsity": dict.fromkeys(
        ("_softthreshold", "_hardthreshold", "_halfthreshold"), solvers.threshold
    ),
    "pylops.utils.estimators": {
        name: functools.partial(entry.values_method, name=name)
        for name in ("trace_hutchinson", "trace_hutchpp", "trace_nahutchpp")
    },
    "pylops.utils.dottest": {"dottest": solvers.computing},
    "pylops.optimization.eigs": {"power_iteration": solvers.solver_function},
    **{m: dict.fromkeys(names, solvers.application) for m, names in _APPLICATIONS.items()},
    **{m: dict.fromkeys(names, solvers.solver_function) for m, names in _SOLVER_FUNCTIONS.items()},
}
_SEAMS = {
    "pylops.utils.backend": (
        "get_array_module", "get_module_name", "to_numpy", "inplace_set", "inplace_add",
    ),
    "pylops.linearoperator": ("LinearOperator",),
    "pylops.optimization.basesolver": ("Solver",),
    "pylops.config": tuple(multiplication.FUNCTIONS),
    "pylops.utils.decorators": ("add_ndarray_support_to_solver", "reshaped"),
    **_SOLVER_FUNCTIONS,
}  # fmt: skip

_lock = threading.RLock()
_enabled = False
_pause: _Pause | None = None  # the latest that has not ended
# what was put where: (owner, attribute, original, replacement) for classes and modules
_class_changes: list[tuple[Any, str, Any, Any]] = []
# and for functions, by identity, wherever they are bound: replacement and original
_functions: list[tuple[Any, Any]] = []
# replacements are made once: enabling again puts the same objects back
_made: dict[Any, Any] = {}


def is_enabled() -> bool:
    """Whether PyLops runs on dask arrays now.

    Returns
    -------
    bool
        True after import, and false after :func:`disable`.
    """
    return _enabled


def check_seams() -> None:
    """Raise where the installed PyLops lacks something that we rely on.

    Raises
    ------
    ImportError
        Naming what is missing and the versions that work.
    """
    missing = []
    for module_name, names in _SEAMS.items():
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            missing.append(module_name)
            continue
        missing += [f"{module_name}.{name}" for name in names if not hasattr(module, name)]
    operator = getattr(sys.modules.get("pylops.linearoperator"), "LinearOperator", None)
    if operator is not None:
        methods = (*entry.METHODS, "_matvec", "_rmatvec")
        missing += [f"LinearOperator.{m}" for m in methods if not hasattr(operator, m)]
    if missing:
        raise ImportError(
            f"pylops_dispatch relies on {', '.join(missing)}, which PyLops "
            f"{getattr(pylops, '__version__', 'of unknown version')} does not have. "
            f"It works with pylops>={_TESTED}: pip install 'pylops>={_TESTED}'."
        )


def enable() -> None:
    """Let PyLops take dask arrays. Importing the package does this.

    Idempotent and thread-safe. Functions that other modules have bound by name are replaced
    there too, in packages built on PyLops as well.

    Raises
    ------
    ImportError
        If the installed PyLops lacks a seam; nothing is changed then.
    """
    global _enabled
    with _lock:
        if _enabled:
            return
        check_seams()
        _enabled = True
        try:
            _change_everything()
        except BaseException:
            disable()
            raise


def _change_everything() -> None:
    _change_functions()
    _change_classes()
    for package, watcher in _watchers.items():
        if package in sys.modules:
            _change_package(package)
        else:
            watcher.watch()


def disable() -> None:
    """Put back every attribute of PyLops, and of packages built on it, as it was."""
    global _enabled
    with _lock:
        if not _enabled:
            return
        for watcher in _watchers.values():
            watcher.leave()
        for owner, name, original, ours in reversed(_class_changes):
            if vars(owner).get(name) is not ours:  # somebody else's by now
                continue
            if original is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
        _class_changes.clear()
        _rebind({id(new): old for old, new in _functions})
        _functions.clear()
        _enabled = False


@dataclass(eq=False)
class _Pause:
    """Blocks of :func:`disabled` that found PyLops enabled, or one of them that has not ended."""

    outer: _Pause | None
    blocks: int = 0


@contextmanager
def disabled() -> Iterator[None]:
    """Run PyLops as it is inside the block, and put back what was found at its end.

    This is for the whole process: other threads have no dask arrays meanwhile, either. Blocks
    may be nested, and may overlap in several threads: the last that ends puts back what the
    first found.

    Yields
    ------
    None
        PyLops is as it was before the import.
    """
    global _pause
    with _lock:
        if _enabled:
            _pause = _Pause(_pause)
            disable()
        pause = _pause
        if pause is not None:
            pause.blocks += 1
    try:
        yield
    finally:
        with _lock:
            if pause is not None:
                _leave(pause)


def _leave(pause: _Pause) -> None:
    """End a block; what a later pause found, which has not ended, is put back by that."""
    global _pause
    pause.blocks -= 1
    if pause.blocks or pause is not _pause:
        return
    while _pause is not None and not _pause.blocks:
        _pause = _pause.outer
    enable()


def _change_functions() -> None:
    for module_name, makers in _FUNCTIONS.items():
        module = importlib.import_module(module_name)
        _functions.extend(
            _replacement(getattr(module, name), make) for name, make in makers.items()
        )
    _functions.extend(_replacement(old, make) for old, make in construction.functions())
    _rebind({id(old): new for old, new in _functions})
    _change_scipy("pylops")
    sparsity = importlib.import_module("pylops.optimization.cls_sparsity")
    if hasattr(sparsity, "ext_spgl1"):  # the package is optional
        changed = _replacement(sparsity.ext_spgl1, scipy_solvers.vectors_here)
        _rebind({id(changed[0]): changed[1]}, within="pylops.")
        _functions.append(changed)


def _change_scipy(package: str) -> None:
    """Replace SciPy's solvers under the names that a package has for them, and no others."""
    changed = [
        _replacement(scipy.sparse.linalg.lsqr, scipy_solvers.lsqr),
        _replacement(scipy.sparse.linalg.cg, scipy_solvers.cg),
    ]
    _rebind({id(old): new for old, new in changed}, within=f"{package}.")
    _functions.extend(changed)


def _replacement(old: Any, make: Callable[[Any], Any]) -> tuple[Any, Any]:
    if old not in _made:
        _made[old] = functools.wraps(old)(make(old))
    return old, _made[old]


# packages that PyLops is built on: most modules that there are, and none has heard of it
_UNAWARE = frozenset(("dask", "distributed", "llvmlite", "numba", "numpy", "scipy"))


def _rebind(replacements: dict[int, Any], within: str = "") -> None:
    """Replace functions, by identity, in every module `within` that has bound them."""
    for module_name, module in list(sys.modules.items()):
        if module is None or module is sys.modules[__name__] or not module_name.startswith(within):
            continue
        if module_name.partition(".")[0] in _UNAWARE:
            continue
        try:
            attributes = vars(module)
        except TypeError:
            continue
        # of some 10^5 attributes in all: most modules have none of the functions
        if replacements.keys().isdisjoint(map(id, attributes.values())):
            continue
        for name, value in list(attributes.items()):
            if id(value) in replacements:
                setattr(module, name, replacements[id(value)])


def _change(owner: type, name: str, make: Callable[[Any], Any]) -> None:
    original = vars(owner)[name]
    key = (owner, name, original)
    if key not in _made:
        _made[key] = functools.wraps(original)(make(original))
    setattr(owner, name, _made[key])
    _class_changes.append((owner, name, original, _made[key]))


def _change_property(owner: type, name: str, make: Callable[[property], property]) -> None:
    original = vars(owner)[name]
    _replace(owner, name, _made.setdefault((owner, name, original), make(original)))


def _replace(owner: Any, name: str, new: Any) -> None:
    """Replace what a class or a module has under a name."""
    _class_changes.append((owner, name, vars(owner)[name], new))
    setattr(owner, name, new)


def _put(owner: type, name: str, new: Any) -> None:
    """Give a class an attribute that it does not have itself."""
    setattr(owner, name, new)
    _class_changes.append((owner, name, _ABSENT, new))


def _change_classes() -> None:
    for name in entry.METHODS:
        _change(pylops.LinearOperator, name, functools.partial(entry.METHODS[name], name=name))
    for name in ("_matmat", "_rmatmat"):
        _change(pylops.LinearOperator, name, functools.partial(columns.matmat, name=name))
    _change(pylops.MatrixMult, "inv", matrix.inverse)
    left = _made.setdefault(
        (pylops.LinearOperator, "__array_ufunc__", _ABSENT), entry.LeftToOperator()
    )
    _put(pylops.LinearOperator, "__array_ufunc__", left)
    for cls in RULES:
        change_operator(cls)
    _change_solvers()
    basic = importlib.import_module("pylops.optimization.cls_basic")
    _replace(basic, "np", _made.setdefault((basic, "np"), assumptions.NumPyOfSolvers()))
    callback = importlib.import_module("pylops.optimization.callback")
    _change(callback.MetricsCallback, "on_step_end", solvers.metrics_of_step)
    _change(callback.CostToDataCallback, "on_setup_end", solvers.norm_of_data)
    for module_name, cls_name, name in _APPLICATION_METHODS:
        cls = getattr(importlib.import_module(module_name), cls_name)
        # the window of each trace is cut at its travel time
        _change(cls, name, functools.partial(solvers.application, inspected=("trav",)))
    _change_property(NonStationaryConvolve1D, "hsinterp", filters.interpolated)
    for cls, name, make in entry.constructors():
        _change(cls, name, make)


def _change_solvers() -> None:
    """Change PyLops's solvers, and those that other packages derive from its base class."""
    base = importlib.import_module("pylops.optimization.basesolver").Solver
    _change_derived(base, _change_solver)


def _change_derived(base: Any, change: Callable[[type], None]) -> None:
    """Change the classes that derive from one, now and later."""
    for cls in _subclasses(base):
        change(cls)

    def derived(cls: Any, /, **kwargs: Any) -> None:
        super(base, cls).__init_subclass__(**kwargs)
        with _lock:
            change(cls)

    hook = _made.setdefault((base, "__init_subclass__", _ABSENT), classmethod(derived))
    _put(base, "__init_subclass__", hook)


def _change_solver(cls: type) -> None:
    for name in solvers.methods_of(cls):
        _change(cls, name, solvers.solver_method)


def _change_package(package: str) -> None:
    """Change the ways into a package that is built on PyLops, and has been imported."""
    with _lock:
        if not _enabled:
            return
        _change_scipy(package)
        changed = []
        for module_name, names in packages.FUNCTIONS[package].items():
            found = (getattr(sys.modules.get(module_name), name, None) for name in names)
            changed += [_replacement(old, solvers.solver_function) for old in found if old]
        _rebind({id(old): new for old, new in changed}, within=f"{package}.")
        _functions.extend(changed)
        for module_name, name in packages.ARRAYS[package].items():
            module = sys.modules.get(module_name)
            if hasattr(module, name):
                original = getattr(module, name)
                kinds = (original, DispatchArray, DaskArray)
                lazy_too = _made.setdefault((module, name, original), kinds)
                _replace(module, name, lazy_too)
        for (module_name, name), methods in packages.METHODS[package].items():
            base = getattr(sys.modules.get(module_name), name, None)
            if base is not None:
                TERMS.add(base)
                change = functools.partial(_change_methods, methods)
                change(base)
                _change_derived(base, change)


def _change_methods(methods: dict[str, packages.Wrap], cls: type) -> None:
    for name, make in methods.items():
        if name in vars(cls):
            _change(cls, name, functools.partial(make, cls, name))


_watchers = {
    package: packages.WhenImported(package, functools.partial(_change_package, package))
    for package in packages.METHODS
}


def change_operator(cls: type) -> None:
    """Let the rule of an operator class come before its own methods, for boxes only."""
    for name, adjoint in (("_matvec", False), ("_rmatvec", True)):
        if name in vars(cls):
            _change(cls, name, functools.partial(_ruled, cls, adjoint))
            continue
        registers = "_register_multiplications" in vars(cls)
        made = _OwnMethod(cls, name, adjoint) if registers else _inherited(cls, name, adjoint)
        _put(cls, name, _made.setdefault((cls, name, _ABSENT), made))

    for name in ("__truediv__", "inverse"):
        if name in vars(cls) and cls is not pylops.LinearOperator:
            _change(cls, name, entry.own_inverse)


_ABSENT = object()


class _OwnMethod:
    """A method that each operator sets on itself (``Sliding1D._register_multiplications``)."""

    def __init__(self, cls: type, name: str, adjoint: bool) -> None:
        self._cls, self._name, self._adjoint = cls, name, adjoint

    def __get__(self, op: Any, owner: type) -> Any:
        if op is None:
            return lambda op, x: getattr(op, self._name)(x)
        own = vars(op).get(self._name)
        if own is None:  # not registered yet
            return getattr(super(self._cls, op), self._name)
        if not isinstance(own, types.MethodType):  # a user's, in place of what the class sets
            return own
        ruled = _ruled(self._cls, self._adjoint, lambda _, x: own(x))

        def if_still_own(x: Any) -> Any:
            # a copy of the operator for a task would run what took its place
            if type(x) is DispatchArray and vars(op).get(self._name) is not own:
                raise NotDispatchedError(f"{self._name} of {self._cls.__name__} was replaced")
            return ruled(op, x)

        return if_still_own

    def __set__(self, op: Any, method: Any) -> None:
        vars(op)[self._name] = method


def _inherited(cls: type, name: str, adjoint: bool) -> Callable[..., Any]:
    """Return a method for a class that has a rule of its own, and its base class's code."""

    def original(self: Any, x: Any) -> Any:
        return getattr(super(cls, self), name)(x)

    return _ruled(cls, adjoint, original)


def _ruled(cls: type, adjoint: bool, defined: Any) -> Callable[..., Any]:
    def bound(self: Any, x: Any) -> Any:
        return defined.__get__(self, type(self))(x)

    # a class may define it as a static or a partial method
    original = defined if isinstance(defined, types.FunctionType) else bound

    def wrapper(self: Any, x: Any) -> Any:
        if type(x) is np.ndarray:
            return original(self, x)
        if isinstance(x, DaskArray):
            return entry.on_dask_array(wrapper, self, x, adjoint)
        if type(x) is not DispatchArray:
            return original(self, x)
        result = run_rule(cls, self, x, adjoint)
        return original(self, x) if result is NotImplemented else result

    return wrapper


def _subclasses(cls: Any) -> Iterator[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)
