"""Building operators from dask arrays: PyLops's own constructors, on boxes."""

from __future__ import annotations

import functools
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import dask.array as da
import numpy as np
import pylops
from dask.base import tokenize

from pylops_dispatch.array import (
    DispatchArray,
    as_box,
    check,
    holds,
    is_box,
    is_dask,
    is_lazy,
    lift,
    lower,
    lower_all,
    session,
    values_of,
    walk,
)
from pylops_dispatch.namespace import dask_namespace, with_namespace
from pylops_dispatch.operators import all_parts, made_lazy
from pylops_dispatch.pieces import one_block
from pylops_dispatch.policy import ImplicitComputeWarning, users_stacklevel
from pylops_dispatch.rules.table import RULES


def is_array(x: Any) -> bool:
    """Whether `x` is a NumPy array, of at least one dimension."""
    return isinstance(x, np.ndarray) and x.ndim > 0


def built(
    original: Callable[..., Any],
    inspected: tuple[str, ...] = (),
    everything: bool = False,
    namespace: bool = False,
    numbers: bool = False,
) -> Callable[..., Any]:
    """Wrap a constructor, or a function that builds an operator, that is given dask arrays.

    Parameters
    ----------
    original : callable
        PyLops's own.
    inspected : tuple of str, optional
        Parameters whose values PyLops looks at: they are computed once, with a warning.
    everything : bool, optional
        Whether NumPy arrays next to dask arrays become boxes too, for code that asks for the
        namespace of one array and works on another with it.
    namespace : bool, optional
        Whether the code calls ``np.asarray`` and its like, not its input's namespace.
    numbers : bool, optional
        Whether what PyLops says is a number is computed, as its settings are.
    """
    inspected += settings_of(original, numbers)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outermost = holds((args, kwargs), is_dask)
        if not outermost and not holds((args, kwargs), is_box):
            return original(*args, **kwargs)
        given = _settled_arguments(original, inspected, args, kwargs)
        given = walk(given, is_dask, lift)
        if everything:
            given = walk(given, is_array, as_box)
        run = original
        if namespace:
            run = with_namespace(original, get_module=lambda name: dask_namespace)
        positional = [given.pop(name) for name in ("self",) if name in given]
        result = run(*positional, **given)
        if outermost:
            _lower_held(positional[0] if positional else result)
        return result

    return wrapper


def settled(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a constructor whose arrays may stay lazy, but for its settings."""
    inspected = settings_of(original)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not holds((args, kwargs), is_lazy):
            return original(*args, **kwargs)
        made_lazy.add(True)
        given = _settled_arguments(original, inspected, args, kwargs)
        return original(given.pop("self"), **given)

    return wrapper


def _settled_arguments(
    original: Callable[..., Any], inspected: tuple[str, ...], args: Any, kwargs: Any
) -> dict[str, Any]:
    given = named_arguments(original, args, kwargs)
    for name, value in given.items():
        if is_dask(value):
            check(value, name)
    given.update(inspect_all(original, inspected, given))
    return given


def settings_of(function: Callable[..., Any], numbers: bool = False) -> tuple[str, ...]:
    """Return the parameters that are never coefficients: with `numbers`, all single numbers."""
    known = {"int", "bool", "None", "float"} if numbers else {"int", "bool", "None"}

    def is_setting(parameter: inspect.Parameter) -> bool:
        kinds = str(getattr(parameter.annotation, "__name__", parameter.annotation)).split(" | ")
        return parameter.name in _SETTINGS or known.issuperset(kinds)

    return tuple(p.name for p in inspect.signature(function).parameters.values() if is_setting(p))


# what PyLops makes integers, tuples and shapes of, wherever it is a parameter
_SETTINGS = frozenset((
    "dims", "dimsd", "dim", "dimd", "shape", "otherdims", "spatdims", "axis", "axes",
    "pad", "offset", "sampling", "spacing", "nsmooth", "nwin", "nover", "nop", "nfft", "nffts",
    "hsize", "hshape", "ih", "ihx", "ihy", "ihz", "level", "flims", "cols", "order", "ntaper",
    "dt",
))  # fmt: skip


def named_arguments(
    function: Callable[..., Any], args: Any, kwargs: Any, defaults: bool = False
) -> dict[str, Any]:
    """Return the arguments of a call by name, those of its ``**kwargs`` among them."""
    signature = inspect.signature(function)
    bound = signature.bind(*args, **kwargs)
    if defaults:
        bound.apply_defaults()
    given = dict(bound.arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            given.update(given.pop(parameter.name, {}))
    return given


def inspect_values(original: Callable[..., Any], name: str, value: Any) -> dict[str, Any]:
    """Return the parameter computed, if it is lazy."""
    if not holds(value, is_lazy):
        return {}
    warnings.warn(
        f"{original.__qualname__.removesuffix('.__init__')} inspects the values of {name}, which "
        "is computed once, here; pass a NumPy array to avoid this.",
        ImplicitComputeWarning,
        stacklevel=users_stacklevel(),
    )
    return {name: walk(value, is_lazy, _values)}


def _values(x: Any) -> Any:
    """Compute a lazy array; a vector of a solve is not worked out again by its steps."""
    current = session.get()
    return values_of(x) if current is None or not is_box(x) else current.vector(x)


def inspect_all(
    original: Callable[..., Any], names: Iterable[str], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return those parameters computed, of the given names, that are lazy."""
    found: dict[str, Any] = {}
    for name in names:
        found.update(inspect_values(original, name, given.get(name)))
    return found


def _lower_held(result: Any) -> None:
    """Let the operators in a result hold dask arrays, not boxes."""
    for op in {id(owner): owner for owner in _owners(result)}.values():
        for name, value in list(vars(op).items()):
            if holds(value, is_box):
                made_lazy.add(True)
                setattr(op, name, walk(value, is_box, lambda box: box.dask()))
            elif value is dask_namespace:
                setattr(op, name, np)


def _owners(result: Any) -> Iterator[Any]:
    """Yield the objects that hold a result's arrays: operators, and what is made of them."""
    for item in result if isinstance(result, (tuple, list)) else [result]:
        if hasattr(item, "__dict__") and not isinstance(item, DispatchArray):
            yield from all_parts(item)


def in_one_task(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that makes a small matrix: of a box, it makes it in one lazy task."""
    signature = inspect.signature(original)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        first, array = next(iter(bound.arguments.items()))
        if not is_lazy(array):
            return original(*args, **kwargs)
        if is_dask(array) and bound.arguments.get("sparse"):  # SciPy's matrix, of a user
            bound.arguments.update(inspect_values(original, first, array))
            return original(*bound.args, **bound.kwargs)
        inside = is_box(array)
        bound.arguments["sparse"] = False
        array = array.dask() if is_box(array) else array
        with warnings.catch_warnings(action="ignore"):
            bound.arguments[first] = np.zeros(array.shape, array.dtype)
            model = original(*bound.args, **bound.kwargs)
        del bound.arguments[first]
        array = array.rechunk(-1)
        make = functools.partial(_quietly, original.__module__, original.__name__, first)
        name = f"{original.__name__}-{tokenize(array.name, bound.arguments)}"
        result = one_block(name, make, [bound.arguments], [array], model.shape, model.dtype)
        return DispatchArray(result) if inside else result

    return wrapper


def lazily(original: Callable[..., Any], everything: bool = False) -> Callable[..., Any]:
    """Wrap a function that makes arrays of arrays: dask arrays in, dask arrays out.

    `everything` is as in :func:`built`, and the function's ``np`` is the namespace of boxes.
    """

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        inside = holds((args, kwargs), is_box)
        args, kwargs = walk((args, kwargs), is_dask, lift)
        run = original
        if everything and holds((args, kwargs), is_box):
            args, kwargs = walk((args, kwargs), is_array, as_box)
            run = with_namespace(original)
        found = run(*args, **kwargs)
        return found if inside else lower_all(found)

    return wrapper


def masked(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``Restriction.mask``, which writes the data into a masked array of NumPy's."""

    def wrapper(self: Any, x: Any) -> Any:
        if not is_dask(x):
            return original(self, x)
        check(x)
        model = original(self, np.zeros(self.dims))
        values = as_box(x).reshape(model.shape)
        kept: Any = np.where(model.mask, model.dtype.type(0), values).astype(model.dtype)
        return da.ma.masked_array(lower(kept), mask=model.mask)

    return wrapper


def inspecting(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that makes NumPy arrays, of whatever it is given."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not holds((args, kwargs), is_lazy):
            return original(*args, **kwargs)
        given = named_arguments(original, args, kwargs)
        return original(**{**given, **inspect_all(original, given, given)})

    return wrapper


def _quietly(module: str, name: str, first: str, given: dict[str, Any], array: Any) -> Any:
    # a function of PyLops's that has a wrapper here is found by no pickle
    function = getattr(importlib.import_module(module), name)
    with warnings.catch_warnings(action="ignore"):
        return function(**{first: array}, **given)


# functions that build operators, by module, with the settings of :func:`built`
FUNCTIONS: dict[str, dict[str, dict[str, Any]]] = {
    # Shift: np.asarray(shift), f * shift
    "pylops.signalprocessing.shift": {"Shift": {"everything": True}},
    # loops over the samples of the axes that make the table of Spread
    "pylops.signalprocessing.radon2d": {"Radon2D": {"inspected": ("taxis", "haxis", "pxaxis")}},
    "pylops.signalprocessing.radon3d": {
        "Radon3D": {"inspected": ("taxis", "hyaxis", "hxaxis", "pyaxis", "pxaxis")}
    },
    # Interp: np.unique(iava), np.any(iava >= n)
    "pylops.signalprocessing.interp": {"Interp": {"inspected": ("iava",)}},
    "pylops.waveeqprocessing.blending": {"BlendingGroup": {}, "BlendingHalf": {}},
    # wav's namespace makes matrices; isinstance(vsvp, ncp.ndarray)
    "pylops.avo.poststack": {"PoststackLinearModelling": {}},
    "pylops.avo.prestack": {
        "PrestackLinearModelling": {"everything": True},
        "PrestackWaveletModelling": {},
    },
    "pylops.waveeqprocessing.mdd": {"MDC": {}},
    # OBL[critical_mask] = ...; scaling * op, both of np
    "pylops.waveeqprocessing.wavedecomposition": {
        "PressureToVelocity": {"numbers": True},
        "UpDownComposition2D": {"numbers": True},
        "UpDownComposition3D": {"numbers": True},
    },
}

# constructors, likewise
CLASSES: dict[str, dict[str, dict[str, Any]]] = {
    # np.unique(self.iava); np.any(self.table > self.nt)
    "pylops.basicoperators": {
        "Restriction": {"inspected": ("iava",)},
        "Spread": {"inspected": ("table",)},
        "Roll": {"inspected": ("shift",)},  # np.roll(x, shift)
        "Laplacian": {"inspected": ("weights",)},  # numbers that scale operators
    },
    "pylops.signalprocessing": {
        "InterpCubicSpline": {"inspected": ("iava",)},  # np.asarray(iava)
        "Bilinear": {"inspected": ("iava",)},  # np.unique(iava)
        # np.abs(haxis[1] - haxis[0]), a number of the step of the transform
        "ChirpRadon2D": {"inspected": ("taxis", "haxis", "pmax")},
        "ChirpRadon3D": {"inspected": ("taxis", "hyaxis", "hxaxis", "pmax")},
        "ConvolveND": {},  # self.h.reshape(dimsh)
        "PWSprayer2D": {"namespace": True},  # np.ascontiguousarray(sigma)
        "PWSmoother2D": {},
        "Seislet": {},
    },
    "pylops.waveeqprocessing": {
        # Devito makes numbers of the velocity, and arrays of its own of positions
        "AcousticWave2D": {"inspected": ("vp", "src_x", "src_z", "rec_x", "rec_z")},
        "LSM": {"inspected": ("z", "x", "y", "t", "srcs", "recs", "vel")},
        "Marchenko": {"inspected": ("wav",)},  # a loop over the frequencies of the wavelet
        "BlendingContinuous": {"inspected": ("times",)},  # int(shift // dt)
        # loops over sources and receivers; scikit-fmm wants a NumPy velocity
        "Kirchhoff": {"inspected": ("z", "x", "y", "t", "srcs", "recs", "vel")},
    },
    "pylops.avo": {"AVOLinearModelling": {"everything": True}},  # isinstance(vsvp, ncp.ndarray)
    "pylops.medical": {
        "MRI2D": {"namespace": True},  # get_module(engine).asarray(mask)
        "CT2D": {"inspected": ("thetas",)},  # to_numpy(thetas)
    },
}


# modules of functions that make NumPy arrays: loops over samples and frequencies
_MAKERS = ("pylops.utils.seismicevents", "pylops.utils.wavelets")


def functions() -> Iterator[tuple[Any, Callable[[Any], Any]]]:
    """Yield functions that build operators or arrays, and what makes their replacements."""
    for module, names in FUNCTIONS.items():
        for name, settings in names.items():
            function = getattr(importlib.import_module(module), name)
            yield function, functools.partial(built, **settings)
    arrays = importlib.import_module("pylops.utils.signalprocessing")
    for name in ("convmtx", "nonstationary_convmtx"):
        yield getattr(arrays, name), in_one_task
    yield arrays.pwd_slope_estimate, inspecting  # Numba's kernels
    # ncp.ones(n), ncp.array([[sin(theta1), ...]]): made of boxes, they are boxes
    reflection = importlib.import_module("pylops.avo.avo")
    for name in ("zoeppritz_scattering", "zoeppritz_element", "zoeppritz_pp"):
        yield getattr(reflection, name), lazily
    # ncp.array(vp1), where ncp is of the angles; isinstance(vsvp, np.ndarray)
    for name in ("approx_zoeppritz_pp", "akirichards", "fatti", "ps"):
        yield getattr(reflection, name), functools.partial(lazily, everything=True)
    # direct[iw] = ..., in a NumPy array
    yield importlib.import_module("pylops.waveeqprocessing.marchenko").directwave, inspecting
    for module in _MAKERS:
        for name, function in vars(importlib.import_module(module)).items():
            own = inspect.isfunction(function) and function.__module__ == module
            if own and not name.startswith("_"):
                yield function, inspecting


def constructors() -> Iterator[tuple[type, str, Callable[..., Any]]]:
    """Yield constructors and methods: class, name, and what makes its replacement."""
    yield pylops.Restriction, "mask", masked
    # ncp.array([ncp.roll(...) for h in hs])
    yield pylops.signalprocessing.NonStationaryConvolve1D, "todense", lazily
    acoustic = pylops.waveeqprocessing.AcousticWave2D
    yield acoustic, "updatesrc", functools.partial(built, inspected=("wav",))
    changed = set()
    for module, names in CLASSES.items():
        for name, settings in names.items():
            cls = getattr(importlib.import_module(module), name)
            changed.add(cls)
            yield cls, "__init__", functools.partial(built, **settings)
    changed.add(pylops.LinearOperator)
    for cls in RULES:
        own = vars(cls).get("__init__")
        # what is made of other operators only, as in each ``op.H``
        plain = cls.__module__ == pylops.LinearOperator.__module__
        if own and cls not in changed and (settings_of(own) or not plain):
            yield cls, "__init__", settled
