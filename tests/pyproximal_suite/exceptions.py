"""Tests of pyproximal's that cannot pass on dask arrays, and why: the beginning of the name.

Each of them must fail: one that passes is reported.
"""

_MASK = (
    "called outside of a solver it gets dask's own array, where a mask selects an unknown number "
    "of elements; inside a solver it works (tests/test_pyproximal.py)"
)

EXCEPTIONS: dict[str, str] = {
    f"test_concave_penalties.py::test_{name}[": _MASK
    for name in ("ETP", "Geman", "Log", "Log1", "QuadraticEnvelopeCard", "SCAD")
}
