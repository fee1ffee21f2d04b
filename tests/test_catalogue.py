"""The catalogue is complete, and right for PyLops alone."""

import numpy as np
import pylops
import pytest

from .catalogue import CATALOGUE, UNAVAILABLE, build, case_id
from .helpers import assert_close
from .references import numpy_result

NAMESPACES = [
    pylops.basicoperators,
    pylops.signalprocessing,
    pylops.waveeqprocessing,
    pylops.avo,
    pylops.medical,
]

NOT_OPERATORS = {
    "sliding1d_design": "sizes of the windows",
    "sliding2d_design": "sizes of the windows",
    "sliding3d_design": "sizes of the windows",
    "patch2d_design": "sizes of the patches",
    "patch3d_design": "sizes of the patches",
    "zoeppritz_scattering": "reflection coefficients as an array",
    "zoeppritz_element": "reflection coefficients as an array",
    "zoeppritz_pp": "reflection coefficients as an array",
    "approx_zoeppritz_pp": "reflection coefficients as an array",
    "akirichards": "coefficients of a linearization as arrays",
    "fatti": "coefficients of a linearization as arrays",
    "ps": "coefficients of a linearization as arrays",
    "PoststackInversion": "solves for the impedance",
    "PrestackInversion": "solves for the elastic parameters",
    "MDD": "solves a multidimensional deconvolution",
    "Marchenko": "solves for the focusing functions",
    "SeismicInterpolation": "solves for the missing traces",
    "WavefieldDecomposition": "solves for the up- and down-going fields",
    "Deghosting": "solves for the up-going field",
    "LSM": "solves a least-squares migration",
}


def public_names(namespace):
    """All that a user may import from it, exported or not."""
    named = {
        name
        for name, value in vars(namespace).items()
        if callable(value) and not name.startswith("_")
    }
    return named | set(namespace.__all__)


@pytest.mark.parametrize("namespace", NAMESPACES, ids=lambda namespace: namespace.__name__)
def test_every_public_operator_has_an_entry(namespace):
    # a new PyLops that adds a name must be noticed
    covered = {name for entry in CATALOGUE for name in entry.covers} | UNAVAILABLE
    assert public_names(namespace) - covered - set(NOT_OPERATORS) == set()


def test_what_is_not_an_operator_has_no_entry():
    covered = {name for entry in CATALOGUE for name in entry.covers}
    assert not covered & set(NOT_OPERATORS)
    assert set(NOT_OPERATORS) <= set().union(*map(public_names, NAMESPACES))


def test_every_class_of_the_top_level_is_in_a_namespace():
    # a new PyLops that adds an operator elsewhere must be noticed
    packages = tuple(f"{namespace.__name__}." for namespace in NAMESPACES)
    public = {
        name
        for name, value in vars(pylops).items()
        if isinstance(value, type)
        and issubclass(value, pylops.LinearOperator)
        and value.__module__.startswith(packages)
    }
    assert public <= set().union(*map(public_names, NAMESPACES))


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
    u, forward = numpy_result(entry, "forward", shaped=False)
    v, backward = numpy_result(entry, "adjoint", shaped=False)
    with build(entry) as op:
        complex_field = entry.dot == "op" and op.clinear
    dot = np.vdot if complex_field else real_dot
    rtol = 1e-4 if op.dtype in ("float32", "complex64") else 1e-10
    # PyLops gives dimensions back to a vector of an operator's one dimension
    assert_close(dot(u, backward.ravel()), dot(forward.ravel(), v), rtol=rtol)
