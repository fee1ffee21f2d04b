"""Fixtures and the Hypothesis profile."""

from __future__ import annotations

import gc
import os
import sys

# Numba compiles PyLops's loops in each worker: for arrays as small as these, not to be fast
os.environ.setdefault("NUMBA_OPT", "0")

import dask
import distributed
import pytest
from hypothesis import HealthCheck, settings

import pylops_dispatch
from pylops_dispatch.operators import made_lazy

from . import helpers, interpreters
from .coverage import (  # noqa: F401
    pytest_addoption,
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
)

settings.register_profile(
    "default",
    deadline=None,
    max_examples=8,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("default")

# a graph makes more than 700 objects, after which all of the young ones would be walked through
gc.set_threshold(20_000, 20, 20)


def pytest_sessionstart(session):
    """Compile the package before workers of pytest-xdist start."""
    if not hasattr(session.config, "workerinput"):
        interpreters.compile_package()


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups here too
def pytest_collection_modifyitems(items):
    """Give what Numba compiles to one worker: each would compile it anew."""
    for item in items:
        if helpers.is_compiled(item.name):
            item.add_marker(pytest.mark.xdist_group("compiled"))


def pytest_collection_finish():
    """Let the garbage collector pass over the objects of thousands of tests."""
    helpers.overlook_what_there_is()


@pytest.fixture(autouse=True)
def enabled():
    """Every test starts with the dispatch enabled, and must leave it enabled."""
    assert pylops_dispatch.is_enabled()
    yield
    left = pylops_dispatch.is_enabled()
    pylops_dispatch.enable()
    assert left, "the test left the dispatch disabled"


@pytest.fixture(autouse=True)
def no_client_that_is_gone():
    """Distributed may leave its name in dask's configuration when several clients have closed."""
    try:
        distributed.default_client()
    except ValueError:
        if dask.config.get("scheduler", None) == "dask.distributed":
            del dask.config.config["scheduler"]


@pytest.fixture(autouse=True)
def one_thread_of_numba():
    """What tests compare with is to be right: several threads write over each other in PyLops.

    ``for ix in prange(xdims[0])`` (pylops/signalprocessing/nonstatconvolve2d.py) adds to samples
    that others add to.
    """
    numba = sys.modules.get("numba")
    if numba is not None:
        numba.set_num_threads(1)


@pytest.fixture
def count_executions():
    return helpers.count_executions


@pytest.fixture
def forbid_executions():
    return helpers.forbid_executions


@pytest.fixture
def first_of_its_kind():
    """As in a program that has not made an operator of dask arrays before; call it for the next."""
    seen = set(made_lazy)
    made_lazy.clear()
    yield made_lazy.clear
    made_lazy.update(seen)


@pytest.fixture(scope="module")
def client():
    """One worker with two threads, in this process."""
    with (
        distributed.LocalCluster(
            processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
