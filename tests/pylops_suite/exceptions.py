"""Tests of PyLops's that pass on NumPy arrays, and why they cannot on dask arrays.

By the way of running them (``vectors``, ``arrays``, see ``pylops_on_dask.py``): the beginning
of the test's name, ``file::test``, and the reason. At most twenty entries.
"""

EXCEPTIONS: dict[str, dict[str, str]] = {
    "vectors": {},
    "arrays": {},
}
