"""``pytest -n 2 --coverage=95`` prints the lines and branches of the package that tests miss.

slipcover measures in the workers of pytest-xdist, by its own plugin, which takes its settings
from the environment; here they come from ``pyproject.toml``. The table stands above pytest's
closing line, and the run fails below the bound. (slipcover's own ``--fail-under`` forgets the
workers where it prints.)
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import slipcover
from slipcover import pytest_plugin
from slipcover.config import read_config


def pytest_addoption(parser):
    parser.addoption(
        "--coverage",
        type=float,
        metavar="PERCENT",
        help="print the lines and branches that tests miss, and fail if more than that",
    )


def is_measured(config):
    return config.getoption("coverage") is not None


def is_worker(config):
    return hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if not is_measured(config):
        return
    if is_worker(config):
        config.pluginmanager.register(InstrumentsLeaveBetweenTests())
        return
    if not config.getoption("numprocesses"):
        raise pytest.UsageError("--coverage measures in workers: give -n as well")
    settings = read_config(config.inipath)
    os.environ["SLIPCOVER_ENABLED"] = "1"
    os.environ["SLIPCOVER_BRANCH"] = "1" if settings["branch"] else "0"
    os.environ["SLIPCOVER_SOURCE"] = str(config.rootpath / settings["source"])
    os.environ["SLIPCOVER_OMIT"] = settings["omit"]


class InstrumentsLeaveBetweenTests:
    """Before Python 3.12 slipcover rewrites functions once more when their lines were seen.

    It then reads the locals of every frame, which from there on hold what PyLops has let go
    since: an array that is alive is computed with the others of its step, and counts of tasks
    are no longer exact. So this waits until no test is running.
    """

    def __init__(self):
        self.asked = False
        if hasattr(slipcover.Slipcover, "deinstrument_seen"):
            self.leave = slipcover.Slipcover.deinstrument_seen
            slipcover.Slipcover.deinstrument_seen = self.ask

    def ask(self, *_):
        self.asked = True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self):
        if self.asked:
            self.asked = False
            self.leave(pytest_plugin._slipcover_instance)


def found(config):
    """What the workers have seen; None if none of them came to tell."""
    path = Path(os.environ["SLIPCOVER_COVERAGE_DIR"], "merged.json")
    return json.loads(path.read_text()) if path.exists() else None


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    config = session.config
    if is_measured(config) and not is_worker(config) and exitstatus == pytest.ExitCode.OK:
        seen = found(config)
        if seen is None or seen["summary"]["percent_covered"] < config.getoption("coverage"):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if not is_measured(config):
        return
    seen, wanted = found(config), config.getoption("coverage")
    if seen is None:
        terminalreporter.write_line("coverage: no worker has told what it has seen", red=True)
        return
    slipcover.print_coverage(
        seen, outfile=terminalreporter._tw, missing_width=80, skip_covered=True
    )
    percent = seen["summary"]["percent_covered"]
    terminalreporter.write_line(
        f"\ncoverage: {percent:.2f} % of lines and branches, at least {wanted:g} % wanted",
        red=percent < wanted,
    )
