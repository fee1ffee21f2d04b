"""The operators on dask arrays: three lines for each."""

import pytest

from downstream import Blur, slopes
from pylops_dispatch import capabilities
from pylops_dispatch.testing import assert_dask_equal, operator_tests

TestBlur = operator_tests(
    lambda: Blur((7, 5), axis=0),
    lambda: Blur((4, 9), weights=(1.0, 2.0, 4.0, 0.5, 3.0)),
    lambda: Blur((11,), weights=(1.0, 2.0, 3.0), dtype="float32"),
)

TestSlopes = operator_tests(lambda: slopes((6, 5)))


def test_blur_of_complex_numbers():
    assert_dask_equal(Blur((6, 7), axis=0, dtype="complex128"), chunks=(2, 4))


def test_blur_runs_on_blocks():
    rule = capabilities()["downstream.operators.Blur"]
    assert rule.kind == "halo"


def test_weights_must_be_odd_in_number():
    with pytest.raises(ValueError, match="odd"):
        Blur((5,), weights=(1, 2))
