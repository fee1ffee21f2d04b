"""Stacks of operators: one task for each operator where each reads one block."""

from itertools import combinations

import cloudpickle
import dask.array as da
import numpy as np
import pylops
import pytest
import scipy.interpolate
from hypothesis import given
from hypothesis import strategies as st

import pylops_dispatch
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.copying import copied
from pylops_dispatch.rules.stacks import _block_of

from .helpers import (
    as_dask_coefficient,
    assert_same,
    chunks_for,
    forbid_executions,
    graph_of,
    rand,
    to_dask,
)

DIMS = (4, 5)
N = 20


def matrix(as_coefficient, dtype, seed):
    return pylops.MatrixMult(as_coefficient(rand((N, N), dtype, seed)), dtype=dtype)


PARTS = {
    "matrices": lambda c, dtype: [matrix(c, dtype, seed) for seed in range(3)],
    "filters": lambda c, dtype: (
        [pylops.signalprocessing.Convolve1D(DIMS, np.ones(3, dtype), offset=1, dtype=dtype)] * 3
    ),
    "diagonals": lambda c, dtype: [
        pylops.Diagonal(c(rand(N, dtype, seed)), dtype=dtype) for seed in range(2)
    ],
    "transforms": lambda c, dtype: [pylops.signalprocessing.DCT(DIMS, axes=1), pylops.Identity(N)],
    "combinations": lambda c, dtype: [
        2.0 * pylops.Laplacian(DIMS, dtype=dtype),
        matrix(c, dtype, 4) * pylops.FirstDerivative(DIMS, axis=0, dtype=dtype),
        matrix(c, dtype, 5).H,
        pylops.Identity(N, dtype=dtype) + matrix(c, dtype, 6),
    ],
}
STACKS = {"VStack": pylops.VStack, "HStack": pylops.HStack, "BlockDiag": pylops.BlockDiag}


def layouts(n):
    """One block, a block for each operator, or blocks that no operator fits into."""
    return st.sampled_from([(n,), (N,) * (n // N), (7, n - 7)])


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("stack", STACKS)
@given(data=st.data())
def test_a_stack_equals_numpy_whatever_its_operators_read(stack, parts, dtype, data):
    as_coefficient = data.draw(st.sampled_from([np.asarray, lambda a: da.from_array(a, chunks=-1)]))
    lazy = STACKS[stack](PARTS[parts](as_coefficient, dtype))
    op = STACKS[stack](PARTS[parts](np.asarray, dtype))
    for one, other, n in ((op, lazy, op.shape[1]), (op.H, lazy.H, op.shape[0])):
        x = rand(n, op.dtype, seed=8)
        with forbid_executions():
            y = other @ da.from_array(x, chunks=(data.draw(layouts(n)),))
        assert_same(y, one @ x)


@pytest.mark.parametrize("as_coefficient", [np.asarray, da.from_array], ids=["numpy", "dask"])
@pytest.mark.parametrize("count", [2, 9, 40])
@pytest.mark.parametrize("stack", STACKS)
def test_operators_on_one_block_each_are_one_task_each(stack, count, as_coefficient):
    op = STACKS[stack]([matrix(as_coefficient, "float64", seed) for seed in range(count)])
    for applied, n in ((op, op.shape[1]), (op.H, op.shape[0])):
        x = da.from_array(rand(n), chunks=N)
        tasks = [k for k in graph_of(applied @ x) if isinstance(k, tuple) and "matvec" in k[0]]
        assert len(tasks) == count


def test_the_blocks_of_the_data_are_the_operators():
    op = pylops.VStack([pylops.MatrixMult(rand((n, N))) for n in (3, 8, 5)])
    assert (op @ da.ones(N)).chunks == ((3, 8, 5),)


def test_an_operator_on_many_blocks_keeps_them():
    dims = (8, 6)
    op = pylops.BlockDiag([pylops.Identity(dims), pylops.Laplacian(dims)])
    x = np.concatenate([rand(dims).ravel(), rand(dims).ravel()])
    y = op @ da.from_array(x, chunks=12)
    assert_same(y, op @ x)
    assert y.numblocks == (8,)


@given(data=st.data())
def test_what_an_operator_reads_is_its_part_of_the_vector(data):
    shapes = data.draw(st.lists(st.sampled_from([(6,), (4, 3), (2, 2, 3)]), min_size=1, max_size=3))
    chunks = [data.draw(chunks_for(shape)) for shape in shapes]
    if data.draw(st.booleans()):  # cut along the first axis alone
        chunks = [(c[0], *((n,) for n in s[1:])) for c, s in zip(chunks, shapes, strict=True)]
    arrays = [rand(shape, seed=i) for i, shape in enumerate(shapes)]
    pieces = [to_dask(a, c) for a, c in zip(arrays, chunks, strict=True)]
    box = DispatchArray(pieces, (sum(p.size for p in pieces),))
    values = np.concatenate([a.ravel() for a in arrays])
    # where the blocks begin that lie one after another in the vector
    edges = {0}
    for p in pieces:
        is_cut = any(n > 1 for n in p.numblocks[1:])
        rows = [0, p.shape[0]] if is_cut else np.cumsum((0, *p.chunks[0]))
        edges |= {max(edges) + int(n) * p.size // p.shape[0] for n in rows}
    within = data.draw(st.integers(1, box.size - 1))
    for start, stop in combinations(sorted(edges | {within}), 2):
        read = _block_of(box, start, stop)
        is_one_block = not any(start < edge < stop for edge in edges)
        if read is None:
            assert not is_one_block or any(n > 1 for p in pieces for n in p.numblocks[1:])
            continue
        block = read.array.blocks[read.key[1:]].compute(scheduler="synchronous")
        found = block.ravel()[read.where or slice(None)]
        np.testing.assert_array_equal(found, values[start:stop])


@pytest.mark.parametrize("chunks", [(5, N), (5, 5)], ids=str)
@pytest.mark.parametrize("stack", STACKS)
def test_matrices_of_many_blocks_are_not_gathered(stack, chunks):
    matrices = [rand((N, N), seed=seed) for seed in range(2)]
    lazy = STACKS[stack]([pylops.MatrixMult(da.from_array(a, chunks=chunks)) for a in matrices])
    op = STACKS[stack]([pylops.MatrixMult(a) for a in matrices])
    for one, other, n in ((op, lazy, op.shape[1]), (op.H, lazy.H, op.shape[0])):
        x = rand(n)
        y = other @ da.from_array(x, chunks=N)
        assert_same(y, one @ x)
        assert len([key for key in graph_of(y) if "MatrixMult" in str(key[0])]) >= 8


def test_operators_of_a_stack_count_their_applications():
    def applied(x):
        parts = [matrix(np.asarray, "float64", seed) for seed in range(3)]
        op = pylops.BlockDiag(parts)
        op.H @ (op @ x)
        op @ x
        return [(part.matvec_count, part.rmatvec_count) for part in parts]

    x = rand(3 * N)
    assert applied(da.from_array(x, chunks=N)) == applied(x) == [(2, 1)] * 3


def test_stacks_that_are_fused_into_one_task_stay_apart():
    one, other = (
        pylops.BlockDiag([matrix(np.asarray, "float64", seed + i) for i in range(2)])
        for seed in (0, 5)
    )
    x, y = rand(2 * N), rand(2 * N, seed=3)
    result = one @ da.from_array(x, chunks=N) - other @ (one @ da.from_array(y, chunks=N))
    assert_same(result, one @ x - other @ (one @ y))


def test_zeros_stay_zeros_until_they_meet_data():
    op = pylops.BlockDiag([matrix(np.asarray, "float64", seed) for seed in range(3)])
    y = da.from_array(op @ rand(3 * N), chunks=N)
    assert_same(pylops.fista(op, y, niter=3)[0], pylops.fista(op, y.compute(), niter=3)[0])


def test_a_stack_in_a_graph_can_be_pickled():
    op = pylops.VStack([matrix(np.asarray, "float64", seed) for seed in range(3)])
    y = op @ to_dask(rand(N), (N,))
    assert_same(cloudpickle.loads(cloudpickle.dumps(y)), y.compute())


class Holding(pylops.LinearOperator):
    """A user's operator that PyLops's code cannot run lazily, with a stack inside."""

    def __init__(self, op):
        self.stack = op
        super().__init__(dtype=op.dtype, dims=op.dims, dimsd=op.dimsd)

    def _matvec(self, x):
        return 2 * self.stack.matvec(scipy.interpolate.interp1d(x, x)(x))


@pytest.mark.parametrize("kind", ["multiproc", "multithread"])
@pytest.mark.parametrize("lazy", [False, True])
def test_tasks_have_no_pool_of_processes_or_threads(kind, lazy):
    """A pool cannot be pickled, and may be closed before a task runs."""
    alone, parts = (
        [matrix(coefficient, "float64", seed) for seed in range(3)]
        for coefficient in (np.asarray, as_dask_coefficient if lazy else np.asarray)
    )
    alone = pylops.VStack(alone)
    pooled = pylops.VStack(parts, nproc=2, parallel_kind=kind)
    columns, x = rand((N, 2)), rand(N)
    try:
        with pylops_dispatch.set_policy(whole_array="allow"):
            results = {
                "vector": pooled @ to_dask(x, 7),
                "columns": pooled @ to_dask(columns, (N, 1)),
                "within": Holding(pooled) @ to_dask(x, 7),
                "product": pylops.Kronecker(pooled, pylops.Identity(2)) @ to_dask(rand(2 * N), 7),
            }
            held = copied([pooled], lambda value: value)
        cloudpickle.dumps(held)
        assert pooled.pool is not None, "the user's operator keeps its pool"
    finally:
        pooled.close()
    expected = {
        "vector": alone @ x,
        "columns": alone @ columns,
        "within": Holding(alone) @ x,
        "product": pylops.Kronecker(alone, pylops.Identity(2)) @ rand(2 * N),
    }
    for name, y in results.items():
        assert_same(cloudpickle.loads(cloudpickle.dumps(y)), expected[name])


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("model", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("cls", [pylops.VStack, pylops.HStack, pylops.BlockDiag])
def test_a_pool_of_threads_gives_the_dtypes_that_it_gives_numpy_arrays(cls, model, dtype):
    matrix = pylops.MatrixMult(np.full((4, 4), 2, dtype), dtype=dtype)
    op = cls([pylops.FirstDerivative(4, dtype=dtype), matrix], nproc=2, parallel_kind="multithread")
    for direction in (op, op.H):
        x = rand(direction.shape[1], model)
        try:
            expected = direction @ x
        except TypeError:  # complex numbers cannot be added to real ones in place
            with pytest.raises(TypeError):
                direction @ da.from_array(x, chunks=3)
            continue
        with forbid_executions():
            found = direction @ da.from_array(x, chunks=3)
        assert_same(found, expected)
    op.close()


# ---- many small operators ------------------------------------------------------------------

SMALL = {
    "shifts": lambda i: pylops.signalprocessing.Shift(DIMS, 0.1 * i, axis=1),
    "blocks of shifts": lambda i: pylops.HStack(
        [pylops.signalprocessing.Shift(DIMS, 0.1 * i + j, axis=0) for j in range(2)]
    ),
    "matrices of many sizes": lambda i: pylops.MatrixMult(rand((N + i % 3, N + i % 2), seed=i)),
    "trees": lambda i: pylops.Laplacian(DIMS) * pylops.Diagonal(rand(N, seed=i)),
}


def many(stack, name, count=24):
    def make(i):
        op = SMALL[name](i)
        if stack is pylops.BlockDiag:
            return op
        return op.H * op  # all of the same size

    if name == "matrices of many sizes" and stack is not pylops.BlockDiag:
        return stack([pylops.MatrixMult(rand((N, N), seed=i)) for i in range(count)])
    return stack([make(i) for i in range(count)])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("stack", STACKS)
@given(data=st.data())
def test_many_small_operators_equal_numpy_for_any_chunks(stack, name, data):
    op = many(STACKS[stack], name)
    for applied in (op, op.H):
        n = applied.shape[1]
        x = rand(n, op.dtype, seed=9)
        with forbid_executions():
            y = applied @ da.from_array(x, chunks=(data.draw(chunks_for((n,)))))
        assert_same(y, applied @ x)


@pytest.mark.parametrize("dims_of_sources", [(40, 4, 5), (40, 2, 10)], ids=str)
def test_many_small_operators_are_a_task_for_each_group(dims_of_sources):
    op = pylops.BlockDiag([SMALL["shifts"](i) for i in range(40)])
    op.dims = op.dimsd = dims_of_sources
    x = rand(dims_of_sources)
    for chunks, groups in (((20, 4, 5), 14), ((40, 3, 3), 14), ((1, 4, 5), 40), ((13, 4, 2), 16)):
        y = op @ da.from_array(x, chunks=chunks)
        assert_same(y, op @ x)
        tasks = [k for k in graph_of(y) if isinstance(k, tuple) and "matvec" in k[0]]
        assert len(tasks) == groups
        assert y.numblocks == (groups, 1, 1)


def test_groups_begin_where_blocks_do():
    op = pylops.BlockDiag([SMALL["shifts"](i) for i in range(100)])
    y = op @ da.ones((100, *DIMS), chunks=(50, *DIMS))
    assert 50 in np.cumsum(y.chunks[0])
    assert len(graph_of(y)) <= 4 * y.npartitions + 2  # and those of the data


def test_blocks_of_large_operators_stay_apart():
    dims = (300, 400)
    op = pylops.BlockDiag([pylops.FirstDerivative(dims) for _ in range(20)])
    y = op @ da.ones((20, *dims), chunks=(10, 100, 400))
    assert y.npartitions > 20


@pytest.mark.parametrize("stack", STACKS)
def test_operators_of_groups_are_counted(stack):
    def counted(as_array):
        parts = [SMALL["shifts"](i) for i in range(40)]
        parts[7] = pylops.Zero(N, dtype="complex128")
        op = STACKS[stack](parts)
        for applied in (op, op.H):
            applied @ as_array(rand(applied.shape[1], "complex128"))
        return [(part.matvec_count, part.rmatvec_count) for part in parts]

    assert counted(lambda x: da.from_array(x, chunks=200)) == counted(np.asarray)


def test_groups_are_those_of_the_operators_as_they_are():
    parts = [pylops.Diagonal(rand(N, seed=i)) for i in range(40)]
    op = pylops.BlockDiag(parts)
    x = rand(40 * N)
    lazy = da.from_array(x, chunks=300)
    assert_same(op @ lazy, op @ x)
    parts[7].diag[3] = 100.0
    assert_same(op @ lazy, op @ x)
    op.ops[9] = pylops.Identity(N)
    assert_same(op @ lazy, op @ x)


def test_operators_that_hold_lazy_arrays_or_run_the_users_code_are_no_group():
    lazy = [pylops.Diagonal(da.from_array(rand(N, seed=i), chunks=7)) for i in range(20)]
    users = [pylops.FunctionOperator(lambda x: 2 * x, N, N, dtype="float64") for _ in range(20)]
    for parts in (lazy, users):
        op = pylops.BlockDiag(parts)
        x = rand(20 * N)
        with forbid_executions():
            y = op @ da.from_array(x, chunks=100)
        assert_same(y, op @ x)
