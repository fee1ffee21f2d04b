"""Tests of pyproximal's that cannot pass on dask arrays, and why: the beginning of the name.

Each of them must fail: one that passes is reported.
"""

EXCEPTIONS: dict[str, str] = {
    "test_projection.py::test_Simplex[par0]": (
        "asks whether a sum in single precision is within 1e-8 of NumPy's own sum of the same "
        "numbers: a sum of blocks differs from it in the last digit"
    ),
}
