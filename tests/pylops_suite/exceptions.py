"""Tests of PyLops's that pass on NumPy arrays, and why they cannot on dask arrays.

By the way of running them (``vectors``, ``arrays``, see ``pylops_on_dask.py``): the beginning
of the test's name, ``file::test``, and the reason. At most twenty entries.
"""

EXCEPTIONS: dict[str, dict[str, str]] = {
    "vectors": {
        "test_functionoperator.py::test_FunctionOperator": (
            "asserts that A @ x has the very bits of NumPy's product; blocks are added in "
            "another order"
        ),
        "test_basicoperators.py::test_MatrixMult_sparse[par2]": (
            "lsqr in single precision with a matrix of condition 1032, to four decimals: the "
            "rounding of sums of blocks is 1.7e-4"
        ),
    },
    "arrays": {
        "test_functionoperator.py::test_FunctionOperator": "bits of a product, as above",
        "test_linearoperator.py::test_rlinear": "bits of a product, as above",
        "test_basicoperators.py::test_MatrixMult_sparse[par2]": "rounding of sums, as above",
    },
}
