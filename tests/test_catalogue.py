"""The catalogue is complete, and right for PyLops alone."""

import numpy as np
import pylops
import pytest

import pylops_dispatch

from .catalogue import CATALOGUE, adjoint, build, case_id, data, model
from .helpers import assert_close


def test_every_public_operator_has_an_entry():
    covered = {name for entry in CATALOGUE for name in entry.covers}
    assert set(pylops.basicoperators.__all__) <= covered


def test_every_class_of_the_top_level_is_in_basicoperators():
    # a new PyLops that adds an operator elsewhere must be noticed
    public = {
        name
        for name, value in vars(pylops).items()
        if isinstance(value, type)
        and issubclass(value, pylops.LinearOperator)
        and value.__module__.startswith("pylops.basicoperators")
    }
    assert public <= set(pylops.basicoperators.__all__)


def test_ids_are_unique():
    ids = [entry.id for entry in CATALOGUE]
    assert len(ids) == len(set(ids))


def real_dot(a, b):
    return np.dot(a.real, b.real) + np.dot(a.imag, b.imag)


@pytest.mark.parametrize(
    "entry",
    [entry for entry in CATALOGUE if entry.adjoint and entry.dot != "none"],
    ids=case_id,
)
def test_dot_test_of_pylops_alone(entry):
    with pylops_dispatch.disabled():
        with build(entry) as op:
            u, v = model(entry, op), data(entry, op)
            forward = op @ u
            complex_field = entry.dot == "op" and op.clinear
        with build(entry) as op:
            backward = adjoint(op, v)
    dot = np.vdot if complex_field else real_dot
    rtol = 1e-4 if op.dtype in ("float32", "complex64") else 1e-10
    assert_close(dot(u, backward), dot(forward, v), rtol=rtol)
