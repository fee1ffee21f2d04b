"""What is said of an operator before it runs is what its rule makes of it."""

import doctest
import sys

import numpy as np
import pylops
import pytest

import pylops_dispatch

from .catalogue import SOME, build

DIMS = (12, 10)


def lines(op):
    return str(pylops_dispatch.capability(op)).splitlines()


def test_the_example_of_the_docstring():
    assert doctest.testmod(sys.modules["pylops_dispatch.capability"]).failed == 0


@pytest.mark.parametrize(
    ("op", "said"),
    [
        (pylops.Identity(DIMS), "alone: each block by itself"),
        (
            pylops.SecondDerivative(DIMS, axis=1),
            "halo: 1 (adjoint 2) samples of neighbours along axis 1",
        ),
        (pylops.Smoothing2D((3, 3), DIMS), "halo: 1 sample of neighbours along axes 0, 1"),
        (pylops.signalprocessing.FFT(DIMS, axis=1), "axis 1 in one block"),
        (pylops.MatrixMult(np.ones((3, 4))), "added up along axis 0"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_operator(op, said):
    assert len(lines(op)) == 1
    assert lines(op)[0].endswith(said)


def test_a_tree_of_local_operators_is_one_task():
    rows = pylops_dispatch.capability(pylops.Identity(DIMS) + pylops.Laplacian(DIMS)).rows
    assert rows[0] == ("Sum", "halo: 1 (adjoint 2) samples of neighbours along axes 0, 1")
    assert {how for _, how in rows[1:]} == {"in the same task"}


def test_a_class_without_a_rule():
    class Mine(pylops.LinearOperator):
        def _matvec(self, x):
            return x

        _rmatvec = _matvec

    (row,) = lines(Mine(dtype="f8", shape=(3, 3)))
    assert row.startswith("Mine")
    assert "no rule" in row


def test_in_a_notebook():
    found = pylops_dispatch.capability(pylops.VStack([pylops.Identity(3)] * 2))
    assert repr(found) == str(found)
    html = found._repr_html_()
    assert "white-space:pre'>  Identity" in html  # what is within another stays indented
    assert html.count("<tr>") == 2


@pytest.mark.parametrize("entry", SOME, ids=str)
def test_every_operator_says_something(entry):
    with build(entry) as op:
        rows = pylops_dispatch.capability(op).rows
    assert all(name.strip() and how for name, how in rows)
