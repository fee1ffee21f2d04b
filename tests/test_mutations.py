"""Faults made by hand: each changes code that is there."""

import pytest

from .mutations import FAULTS, ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_a_fault_changes_is_in_the_code(fault):
    text = (ROOT / "src" / "pylops_dispatch" / fault.file).read_text()
    assert fault.right in text
    assert all((ROOT / tests).exists() for tests in fault.tests.split())
