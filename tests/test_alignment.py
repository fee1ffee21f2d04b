"""Arrays that came over a network are where NumPy and SciPy work on them without a copy."""

import numpy as np
import pylops
import pytest
import scipy.sparse

from pylops_dispatch.alignment import aligned

from .helpers import rand


def unaligned(array):
    """The same samples, one byte beyond where they should begin."""
    new = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    new[...] = array
    assert not new.flags.aligned
    return new


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128, np.int64])
def test_an_array_is_copied_only_if_it_has_to_be(dtype):
    array = rand((3, 4)).astype(dtype)
    assert aligned(array) is array
    moved = unaligned(array)
    new = aligned(moved)
    assert new.flags.aligned
    assert new.dtype == dtype
    np.testing.assert_array_equal(new, array)
    np.testing.assert_array_equal(moved, array)


def test_what_an_operator_holds_is_found_wherever_it_is():
    weights = unaligned(rand(5))

    def weigh(x):
        return weights * x

    def held_by(op):
        (part,) = (part for part in op.args[0].ops if isinstance(part, pylops.FunctionOperator))
        matrix, sparse = (part.A for part in op.args[0].ops if hasattr(part, "A"))
        return matrix, sparse.data, part.f.__closure__[0].cell_contents

    sparse = scipy.sparse.csr_array(np.eye(5))
    sparse.data = unaligned(sparse.data)
    op = pylops.VStack(
        [
            pylops.MatrixMult(unaligned(rand((4, 5)))),
            pylops.MatrixMult(sparse),
            pylops.FunctionOperator(weigh, weigh, 5, 5, dtype=float),
        ]
    )
    op = 2.0 * op
    x = rand(5, seed=1)
    new = aligned(op)
    np.testing.assert_array_equal(new @ x, op @ x)
    assert all(array.flags.aligned for array in held_by(new))
    assert not any(array.flags.aligned for array in held_by(op))


def test_an_operator_whose_arrays_are_fine_is_the_same():
    op = pylops.MatrixMult(rand((4, 5)))
    assert aligned(op) is op
