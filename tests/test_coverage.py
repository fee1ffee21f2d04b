"""The test command tells what the tests miss, and fails if that is too much."""

import io
import json
from types import SimpleNamespace

import pytest
import slipcover

from .coverage import (
    InstrumentsLeaveBetweenTests,
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
)


class Screen(io.StringIO):
    """What pytest writes to."""

    def write_line(self, line, **markup):
        self.write(f"{line}\n")


def finished(bound, percent, folder, monkeypatch):
    """The exit status, and what is printed, of a run whose tests pass."""
    lines = {
        "executed_lines": [1],
        "missing_lines": [2, 3],
        "summary": {"percent_covered": percent},
    }
    seen = {"meta": {}, "files": {"src/halos.py": lines}, "summary": {"percent_covered": percent}}
    monkeypatch.setenv("SLIPCOVER_COVERAGE_DIR", str(folder))
    if percent is not None:
        (folder / "merged.json").write_text(json.dumps(seen))
    config = SimpleNamespace(getoption={"coverage": bound}.get)
    session = SimpleNamespace(config=config, exitstatus=pytest.ExitCode.OK)
    pytest_sessionfinish(session, pytest.ExitCode.OK)
    screen = Screen()
    screen._tw = screen
    pytest_terminal_summary(screen, config)
    return session.exitstatus, screen.getvalue()


def test_a_run_that_misses_too_much_fails_though_its_tests_pass(tmp_path, monkeypatch):
    status, printed = finished(95.0, 94.99, tmp_path, monkeypatch)
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "src/halos.py" in printed
    assert "2-3" in printed
    assert "94.99 % of lines and branches, at least 95 % wanted" in printed


def test_a_run_that_misses_little_passes(tmp_path, monkeypatch):
    status, printed = finished(95.0, 95.0, tmp_path, monkeypatch)
    assert status == pytest.ExitCode.OK
    assert "95.00 % of lines" in printed


def test_a_run_of_which_nothing_is_known_fails(tmp_path, monkeypatch):
    status, printed = finished(95.0, None, tmp_path, monkeypatch)
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "no worker has told" in printed


def test_a_run_that_is_not_measured_is_left_alone(tmp_path, monkeypatch):
    assert finished(None, None, tmp_path, monkeypatch) == (pytest.ExitCode.OK, "")


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
