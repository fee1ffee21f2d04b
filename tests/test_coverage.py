"""The test command tells what the tests miss, and fails if that is too much."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import slipcover

from .coverage import InstrumentsLeaveBetweenTests, pytest_configure

ROOT = Path(__file__).parents[1]


def test_a_run_that_misses_too_much_fails_though_its_tests_pass():
    one = "tests/test_documentation.py::test_an_operator_that_runs_whole_gives_its_reason"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1", "--coverage=95", one],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith(("SLIPCOVER", "PYTEST"))},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert any(line.startswith("src/pylops_dispatch/halos.py") for line in lines)
    assert "at least 95 % wanted" in lines[-2]
    assert "1 passed" in lines[-1]


def test_what_cannot_be_measured_is_refused():
    options = {"coverage": 95.0, "numprocesses": None}
    with pytest.raises(pytest.UsageError, match="give -n"):
        pytest_configure(SimpleNamespace(getoption=options.get))


def test_functions_are_not_rewritten_while_a_test_runs(monkeypatch):
    left = []
    monkeypatch.setattr(slipcover.Slipcover, "deinstrument_seen", left.append, raising=False)
    plugin = InstrumentsLeaveBetweenTests()
    plugin.pytest_runtest_setup()
    slipcover.Slipcover.deinstrument_seen(None)
    assert not left
    plugin.pytest_runtest_setup()
    plugin.pytest_runtest_setup()
    assert len(left) == 1
