"""A pytest plugin: what pyproximal's tests do with NumPy arrays is done with dask arrays.

The vector that a proximal operator, its dual or its gradient is given, and the arrays that a
solver is given, become dask arrays of two uneven chunks along each axis. The result must be a
dask array; the test gets its values, of the dtype and the shape that the dask array said. The
value of a function must be that for the NumPy array within rounding; the test gets the latter.
"""

from __future__ import annotations

import functools
import inspect
import sys

import dask
import dask.array as da
import numpy as np
import pyproximal
import pytest
from pyproximal.optimization import palm, pnp, primal, primaldual, segmentation, sr3

import pylops_dispatch
from tests.pylops_suite.pylops_on_dask import (
    inside,
    is_array,
    is_inside,
    one_after_another,
    solved,
    subclasses,
    to_dask,
    to_numpy,
)

from .exceptions import EXCEPTIONS

METHODS = ("prox", "proxdual", "grad")
SOLVERS = (palm, pnp, primal, primaldual, segmentation, sr3)


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "ignore")
    dask.config.set(scheduler=one_after_another)
    pylops_dispatch.set_policy(whole_array="allow", numpy_vectors="allow")
    for cls in subclasses(pyproximal.ProxOperator):
        for name in METHODS:
            if name in vars(cls):
                setattr(cls, name, applied(vars(cls)[name]))
        if "__call__" in vars(cls):
            cls.__call__ = evaluated(cls.__call__)
    change_solvers()


def pytest_collection_modifyitems(items):
    for item in items:
        for start, reason in EXCEPTIONS.items():
            if item.nodeid.rpartition("pytests/")[2].startswith(start):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def applied(original):
    """A method that is given a dask array, and gives one."""

    @functools.wraps(original)
    def method(self, x, *args, **kwargs):
        if is_inside() or not is_array(x):
            return original(self, x, *args, **kwargs)
        with inside():
            y = original(self, to_dask(x), *args, **kwargs)
            assert np.ndim(y) == 0 or type(y) is da.Array, f"{type(y)} instead of a dask array"
            return to_numpy(y)

    return method


def evaluated(original):
    """The value of a function of a dask array: NumPy's within rounding, and then NumPy's."""

    @functools.wraps(original)
    def method(self, x, *args, **kwargs):
        expected = original(self, x, *args, **kwargs)
        if is_inside() or not is_array(x):
            return expected
        with inside():
            found = to_numpy(original(self, to_dask(x), *args, **kwargs))
        assert type(found) is type(expected), (type(found), type(expected))
        # singular values are roots of eigenvalues, where those that vanish are rounding errors
        rtol = 1e-4 if x.dtype.itemsize == 4 else 1e-7
        np.testing.assert_allclose(found, expected, rtol=rtol)
        return expected

    return method


def change_solvers():
    """Solvers take and give dask arrays, in every module that has bound them."""
    changes = {
        function: solved(function)
        for module in SOLVERS
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and name[0].isupper()
    }
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "pyproximal":
            for key, value in list(vars(module).items()):
                if inspect.isfunction(value) and value in changes:
                    setattr(module, key, changes[value])
