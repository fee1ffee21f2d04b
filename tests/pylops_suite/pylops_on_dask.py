"""A pytest plugin: what PyLops's tests do with NumPy arrays is done with dask arrays.

``--on numpy``
    nothing is changed: the results to compare with.
``--on vectors``
    the vector that an operator is applied to becomes a dask array. The operator must return a
    lazy one, with nothing executed; the test gets its values as a NumPy array, of the dtype
    and the shape that the lazy array said.
``--on arrays``
    the arrays that are given to a solver, to an operator's constructor, and to what makes
    operators or solves a problem of its own become dask arrays too. A solver's results, and
    what an operator returns, come back as NumPy arrays.

The outcome of each test is written to the file ``--outcomes``, one JSON object a line.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import signal
import sys
import threading

import dask
import dask.array as da
import dask.core
import numpy as np
import pylops
import pytest

VALUES = ("trace", "todense")  # what tells of an operator itself
METHODS = ("dot", "matvec", "rmatvec", "matmat", "rmatmat")
SOLVERS = {
    "pylops.optimization.basic": ("cg", "cgls", "lsqr"),
    "pylops.optimization.leastsquares": (
        "normal_equations_inversion",
        "regularized_inversion",
        "preconditioned_inversion",
    ),
    "pylops.optimization.sparsity": ("irls", "omp", "ista", "fista", "spgl1", "splitbregman"),
}
# what makes operators, and what solves problems with them
FUNCTIONS = {
    "pylops.avo.poststack": ("PoststackLinearModelling", "PoststackInversion"),
    "pylops.avo.prestack": (
        "PrestackLinearModelling",
        "PrestackWaveletModelling",
        "PrestackInversion",
    ),
    "pylops.waveeqprocessing.mdd": ("MDC", "MDD"),
    "pylops.waveeqprocessing.oneway": ("Deghosting",),
    "pylops.waveeqprocessing.seismicinterpolation": ("SeismicInterpolation",),
    "pylops.waveeqprocessing.wavedecomposition": ("WavefieldDecomposition",),
}
CLASS_METHODS = {
    "pylops.waveeqprocessing.lsm": ("LSM", "__init__", "solve"),
    "pylops.waveeqprocessing.marchenko": (
        "Marchenko",
        "__init__",
        "apply_onepoint",
        "apply_multiplepoints",
    ),
}
# parameters that are coordinates, positions or plain numbers: no coefficients
NOT_COEFFICIENTS = {
    "dims", "dimsd", "shape", "axis", "axes", "nfft", "sampling", "shift", "nwin", "nover",
    "x", "y", "z", "t", "f", "srcs", "recs", "vel", "iava", "theta", "thetas", "taxis", "xaxis",
    "haxis", "hxaxis", "hyaxis", "paxis", "pxaxis", "pyaxis", "times", "freq", "nsmooth",
    "offset", "toffset", "pad", "nsl", "wavfreq", "table", "dtable", "fh", "ih", "ihx", "ihz",
}  # fmt: skip

_inside = threading.local()


def pytest_addoption(parser):
    group = parser.getgroup("pylops_on_dask")
    group.addoption("--on", choices=["numpy", "vectors", "arrays"], default="numpy")
    group.addoption("--outcomes")
    group.addoption("--limit", type=int, default=0, help="seconds for one test; 0: no limit")


def pytest_configure(config):
    on = config.getoption("--on")
    config.addinivalue_line("filterwarnings", "ignore")
    if on == "numpy":
        return
    import pylops_dispatch

    dask.config.set(scheduler=one_after_another)
    pylops_dispatch.set_policy(whole_array="allow", numpy_vectors="allow")
    for name in METHODS:
        setattr(pylops.LinearOperator, name, applied(getattr(pylops.LinearOperator, name)))
    if on == "arrays":
        for name in VALUES:
            setattr(pylops.LinearOperator, name, told(getattr(pylops.LinearOperator, name)))
        change_functions()
        change_constructors()


def one_after_another(graph, keys, **settings):
    """Dask's synchronous scheduler, without what it does to use little memory.

    Executions of the few small tasks of a solver's step take two thirds of the time.
    """
    graph = graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph
    return dask.core.get(dict(graph), keys)


def pytest_runtest_setup(item):
    """The random numbers of a test are the same in every run."""
    np.random.seed(0)


class OutOfTime(pytest.fail.Exception):
    """A test has had its seconds: no ``Exception``, so that no handler of errors takes it."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    def stop(*args):
        # where it was is no line of the test, and may be between lines
        raise OutOfTime("out of time", pytrace=False)

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(item.config.getoption("--limit"))
    yield
    signal.alarm(0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    path = item.config.getoption("--outcomes")
    if path and (report.when == "call" or not report.passed):
        late = call.excinfo is not None and call.excinfo.errisinstance(OutOfTime)
        error = "" if report.passed or call.excinfo is None else call.excinfo.exconly()
        place = str(call.excinfo.traceback[-1]) if error and not late else ""
        line = {"test": item.nodeid, "outcome": "not run" if late else report.outcome}
        line |= {"error": error, "place": place}
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")


# ------------------------------------------------------------------- conversions


@contextlib.contextmanager
def inside():
    """What PyLops itself calls here is left alone."""
    _inside.now = True
    try:
        yield
    finally:
        _inside.now = False


def is_inside():
    return getattr(_inside, "now", False)


def is_array(x):
    return type(x) is np.ndarray and x.size > 0 and x.ndim > 0 and x.dtype.kind in "biufc"


def to_dask(x):
    """A dask array of two uneven chunks along each axis."""
    return da.from_array(x, chunks=tuple(uneven(n) for n in x.shape))


def uneven(n):
    first = n // 2 - (n > 5)
    return (n,) if n < 3 else (first, n - first)


def to_numpy(x):
    """The values of the dask arrays in a result, which must be what they said."""
    if isinstance(x, da.Array):
        values = x.compute()
        assert values.dtype == x.dtype, (values.dtype, x.dtype)
        assert values.shape == x.shape, (values.shape, x.shape)
        return values
    if type(x) in (list, tuple):
        return type(x)(to_numpy(v) for v in x)
    return x


def refuse(*args, **kwargs):
    raise AssertionError("a graph was executed while an operator was applied")


def applied(original):
    """A method of LinearOperator that applies it to a dask array."""

    @functools.wraps(original)
    def method(self, x, *args, **kwargs):
        if is_inside() or not is_array(x):
            result = original(self, x, *args, **kwargs)
            return result if is_inside() else to_numpy(result)
        with inside():
            with dask.config.set(scheduler=refuse):
                y = original(self, to_dask(x), *args, **kwargs)
            assert type(y) is da.Array, f"{type(y)} instead of a dask array"
            return to_numpy(y)

    return method


def told(original):
    """A method that tells of an operator: of dask arrays, it may do so by a lazy one."""

    @functools.wraps(original)
    def method(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        return result if is_inside() else to_numpy(result)

    return method


def change_functions():
    """Functions take and give dask arrays, in every module that has bound them."""
    changes = {}
    for functions, change in ((SOLVERS, solved), (FUNCTIONS, given_coefficients)):
        for module, names in functions.items():
            for name in names:
                original = getattr(importlib.import_module(module), name)
                changes[id(original)] = change(original)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "pylops":
            for key, value in list(vars(module).items()):
                if id(value) in changes:
                    setattr(module, key, changes[id(value)])


def solved(original):
    @functools.wraps(original)
    def solver(*args, **kwargs):
        if is_inside():
            return original(*args, **kwargs)
        args = tuple(to_dask(a) if is_array(a) else a for a in args)
        kwargs = {k: to_dask(a) if is_array(a) else a for k, a in kwargs.items()}
        with inside():
            return to_numpy(original(*args, **kwargs))

    return solver


def change_constructors():
    """Operators take dask arrays for the arrays that are their coefficients."""
    for cls in subclasses(pylops.LinearOperator):
        if "__init__" in vars(cls) and cls.__module__.startswith("pylops."):
            cls.__init__ = given_coefficients(cls.__init__)
    for module, (name, *methods) in CLASS_METHODS.items():
        cls = getattr(importlib.import_module(module), name)
        for method in methods:
            setattr(cls, method, given_coefficients(getattr(cls, method)))


def subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


def given_coefficients(original):
    names = list(inspect.signature(original).parameters)

    def coefficient(name, value):
        if name in NOT_COEFFICIENTS or not is_array(value) or value.dtype.kind not in "fc":
            return value
        return to_dask(value) if value.size > 1 else value

    @functools.wraps(original)
    def wrapper(*args, **kwargs):
        if is_inside():
            return original(*args, **kwargs)
        named = zip(names, args, strict=False)
        args = (*(coefficient(k, a) for k, a in named), *args[len(names) :])
        kwargs = {k: coefficient(k, a) for k, a in kwargs.items()}
        with inside():
            return to_numpy(original(*args, **kwargs))

    return wrapper
