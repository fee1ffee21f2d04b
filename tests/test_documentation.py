"""The documentation says what the rules say."""

from __future__ import annotations

import importlib.util
import re
from functools import reduce
from pathlib import Path

import pylops
import pytest

import pylops_dispatch
import pylops_dispatch.testing

ROOT = Path(__file__).parents[1]
# not the addresses of pages: a name follows neither a slash nor a hyphen
NAME = re.compile(r"(?<![/\w.-])(?:pylops|pylops_dispatch)(?:\.[A-Za-z]\w*)+(?!\w*[/\w])")


def load_generator():
    spec = importlib.util.spec_from_file_location("capabilities", ROOT / "docs/capabilities.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_has_the_table_that_the_rules_give():
    generator = load_generator()
    readme = (ROOT / "README.md").read_text()
    assert generator.section(readme) == readme, "run: python docs/capabilities.py --write"


@pytest.mark.parametrize("module", [pylops_dispatch, pylops_dispatch.testing])
def test_every_public_name_has_a_page(module):
    pages = set((ROOT / "docs/api.rst").read_text().split())
    assert set(module.__all__) <= pages


def test_every_public_operator_of_the_top_level_has_a_rule():
    covered = {name.rpartition(".")[2] for name in pylops_dispatch.capabilities()}
    assert set(pylops.basicoperators.__all__) <= covered


def test_an_operator_that_runs_whole_gives_its_reason():
    for name, rule in pylops_dispatch.capabilities().items():
        assert rule.kind != "whole" or rule.note, name


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.rst")), ids=lambda page: page.name)
def test_names_of_pylops_and_of_this_package_exist(page):
    names = NAME.findall(page.read_text())
    for name in names:
        owner, *rest = name.split(".")
        module = {"pylops": pylops, "pylops_dispatch": pylops_dispatch}[owner]
        assert reduce(getattr, rest, module) is not None, name
