"""How the tests are shared out to the workers of pytest-xdist."""

from __future__ import annotations

import zlib

import pytest

_PARTS = 32  # of the cases of a test, each of which goes to one worker


def part_of(test):
    """What goes to a worker together: tests that Numba compiles for, so that it does so once."""
    if "numba" in test:
        return "numba"
    function = test.partition("[")[0]
    return f"{function} {zlib.crc32(test.encode()) % _PARTS}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Sharing(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return part_of(nodeid)

    # fixtures of a module are made once for the tests of that module
    config.option.loadscopereorder = False
    return Sharing(config, log)
