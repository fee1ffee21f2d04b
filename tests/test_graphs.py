"""What the graphs look like: chunks, number of tasks, what is embedded in them."""

import gc
import warnings
import weakref

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pylops
import pytest
import scipy.sparse
from dask.callbacks import Callback
from hypothesis import given
from hypothesis import strategies as st
from pylops import signalprocessing as sp

import pylops_dispatch
from pylops_dispatch import blocks, whole_axes
from pylops_dispatch.array import lift
from pylops_dispatch.functions import fft, positions
from pylops_dispatch.pieces import balanced, ravel
from pylops_dispatch.remembering import checksum, remembered
from pylops_dispatch.rules import columns, matrix

from .catalogue import ELEMENTWISE, STENCILS, UserDifference, build, case_id, model
from .helpers import (
    assert_close,
    assert_same,
    forbid_executions,
    graph_of,
    rand,
    random_chunks,
    to_dask,
)

MOVES = ("rechunk", "reshape", "ravel")


def moves(y):
    """The names of the layers and tasks that move data between chunks."""
    names = {str(name) for name in y.dask.layers}
    names |= {str(key[0] if isinstance(key, tuple) else key) for key in graph_of(y)}
    return sorted(name for name in names if any(move in name for move in MOVES))


def tasks_after_optimisation(y):
    (optimised,) = dask.optimize(y)
    return len(graph_of(optimised))


def uneven(dims):
    return tuple((n // 2 + 1, n - n // 2 - 1) if n > 2 else (n,) for n in dims)


# -------------------------------------------------------------- chunks survive


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
@pytest.mark.parametrize("entry", ELEMENTWISE + STENCILS, ids=case_id)
def test_chunks_survive_on_all_axes(entry, direction):
    with build(entry) as op:
        x0 = model(entry, op).reshape(op.dims)
        x = to_dask(x0, uneven(op.dims))
        y = op @ x if direction == "forward" else op.H @ x
    assert y.chunks == x.chunks
    assert moves(y) == []


ALONG_AN_AXIS = {
    "FirstDerivative": lambda axis: pylops.FirstDerivative((8, 9), axis=axis),
    "SecondDerivative": lambda axis: pylops.SecondDerivative((8, 9), axis=axis),
    "Smoothing1D": lambda axis: pylops.Smoothing1D(3, (8, 9), axis=axis),
    "Convolve1D": lambda axis: sp.Convolve1D((8, 9), rand(3), offset=1, axis=axis),
    "NonStationaryConvolve1D": lambda axis: sp.NonStationaryConvolve1D(
        (9, 9), rand((3, 5)), ih=(2, 4, 6), axis=axis
    ),
    "CausalIntegration": lambda axis: pylops.CausalIntegration((8, 9), axis=axis),
    "Diagonal": lambda axis: pylops.Diagonal(rand(9), dims=(9, 9), axis=axis),
    "Sum": lambda axis: pylops.Sum((8, 9), axis=axis),
    "Flip": lambda axis: pylops.Flip((8, 9), axis=axis),
    "FFT": lambda axis: sp.FFT((8, 9), axis=axis),
    "DCT": lambda axis: sp.DCT((8, 9), axes=axis),
}


@pytest.mark.parametrize("make", ALONG_AN_AXIS.values(), ids=ALONG_AN_AXIS)
def test_an_axis_counted_from_the_end_is_worked_on_alike(make):
    for axis in (0, 1):
        graphs = []
        for op in (make(axis), make(axis - 2)):
            results = [op @ da.ones(op.dims, chunks=3), op.H @ da.ones(op.dimsd, chunks=3)]
            graphs.append([(y.chunks, len(graph_of(y))) for y in results])
        assert graphs[0] == graphs[1]


@given(n=st.integers(0, 40), blocks=st.integers(0, 50))
def test_balanced_blocks_are_as_many_as_asked_for_and_nearly_equal(n, blocks):
    sizes = balanced(n, blocks)
    assert sum(sizes) == n
    assert len(sizes) == max(1, min(n, blocks))
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_positions_are_cut_into_blocks_once_for_an_operator(monkeypatch, direction, shuffled):
    made = []
    original = positions._routes
    monkeypatch.setattr(positions, "_routes", lambda *args: made.append(args) or original(*args))
    chosen = np.random.default_rng(0).permutation(90)[:40]
    op = pylops.Restriction(90, chosen if shuffled else np.sort(chosen))
    apply = op if direction == "forward" else op.H
    for _ in range(3):
        x0 = rand(apply.shape[1])
        assert_same(apply @ to_dask(x0, 25), apply @ x0)
    assert len(made) == 1
    assert_same(apply @ to_dask(x0, 20), apply @ x0)  # other chunks
    assert len(made) == 2


def test_positions_changed_in_place_are_seen_by_the_next_application():
    op = pylops.Restriction(5000, np.arange(0, 5000, 2))
    x0 = rand(5000)
    x = to_dask(x0, 1000)
    assert_same(op @ x, op @ x0)
    op.iava[[100, 101]] = op.iava[[101, 100]]
    assert_same(op @ x, op @ x0)
    op.iava[7] += 1
    assert_same(op @ x, op @ x0)


def test_what_is_remembered_of_an_array_goes_with_it():
    array = np.arange(10)

    def made(of):
        return remembered(of, "made", checksum(of), lambda: np.ones(3))

    first = made(array)
    assert made(array) is first
    assert made(array[:]) is first
    assert made(array[1:]) is not first
    gone = weakref.ref(first)
    del first, array
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("size", [1, 9, 4000, 4001])
@pytest.mark.parametrize("dtype", ["int64", "int32", "bool", "float32"])
def test_a_checksum_changes_with_any_element(size, dtype):
    array = (rand(size) * 100).astype(dtype)
    before = checksum(array)
    assert checksum(array.copy()) == before
    for place in {0, size // 2, size - 1}:
        changed = array.copy()
        changed[place] = not changed[place] if dtype == "bool" else changed[place] + 1
        assert checksum(changed) != before


@pytest.mark.parametrize("size", [600, 9000, 9001])
@pytest.mark.parametrize("dtype", ["float64", "bool"])
@pytest.mark.parametrize("by", [1, 8, 300])
def test_a_checksum_changes_with_elements_that_are_moved(size, dtype, by):
    """Of a mask, or of a matrix with a single row that is not zero: all sums stay."""
    array = np.zeros(size, dtype)
    array[3:40] = 1
    assert checksum(np.roll(array, by)) != checksum(array)


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
@pytest.mark.parametrize("places", [slice(None), np.ix_([2, 9], [1, 30]), np.s_[:, 5], np.s_[3]])
def test_a_checksum_changes_with_signs(dtype, places):
    """Each changes the last bit of a word, of which an even number would cancel out."""
    array = rand((32, 32), dtype)
    changed = array.copy()
    changed[places] *= -1
    assert checksum(changed) != checksum(array)
    if array.dtype.kind == "c":
        assert checksum(array.conj()) != checksum(array)


def test_a_sum_along_a_cut_axis_and_its_adjoint_keep_the_chunks():
    op = pylops.CausalIntegration((12, 6), axis=0)
    x = da.ones((12, 6), chunks=(4, 3))
    assert (op @ x).chunks == x.chunks
    assert not [move for move in moves(op @ x) if "rechunk" in move]
    copies = pylops.Sum((12, 6), axis=0).H @ da.ones(6, chunks=3)
    assert copies.chunks == ((12,), (3, 3))


@pytest.mark.parametrize("savetaper", [False, True])
def test_windows_in_many_blocks_are_worked_on_apart(savetaper):
    op = sp.Sliding1D(pylops.Identity(4), dim=4 * 9, dimd=20, nwin=4, nover=2, savetaper=savetaper)
    for y in (op @ da.ones(op.dims, chunks=(3, 4)), op.H @ da.ones(20, chunks=5)):
        assert len([key for key in graph_of(y) if str(key[0]).startswith("Sliding1D-")]) >= 3


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
def test_a_kernel_that_is_larger_than_the_data_is_read_once_where_it_lies(direction):
    kernel = rand((8, 6, 7))
    op = pylops.signalprocessing.Fredholm1(to_dask(kernel, (2, 6, 7)), nz=3)
    known = pylops.signalprocessing.Fredholm1(kernel, nz=3)
    if direction == "adjoint":
        op, known = op.H, known.H
    x = rand(known.dims)
    y = op @ to_dask(x, (*known.dims[:2], 1))
    assert_same(y, known @ x)
    assert len([k for k in graph_of(y) if str(k[0]).startswith("Fredholm1-")]) == 4
    assert y.chunks[2] == (1, 1, 1)


@pytest.mark.parametrize("steps", [1, 5])
def test_chunks_survive_many_applications(steps):
    dims = (12, 10)
    op = pylops.Laplacian(dims) @ pylops.FirstDerivative(dims, axis=0)
    x = to_dask(rand(dims), uneven(dims))
    y = x
    for _ in range(steps):
        y = op @ y
    assert y.chunks == x.chunks
    assert moves(y) == []


@pytest.mark.parametrize(
    "compose",
    [
        lambda d, f: d @ f,
        lambda d, f: d + 2 * f,
        lambda d, f: f.H @ f + 0.1 * d,
        lambda d, f: (d - f) ** 2,
        lambda d, f: (d @ f).T,
        lambda d, f: -f.conj(),
    ],
)
def test_chunks_survive_a_composition(compose):
    dims = (8, 6, 10)
    op = compose(pylops.Diagonal(rand(dims)), pylops.FirstDerivative(dims, axis=0))
    x = to_dask(rand(dims), uneven(dims))
    y = op @ x
    assert y.chunks == x.chunks
    assert moves(y) == []


def test_coefficients_take_the_chunks_of_the_model():
    dims = (8, 6, 10)
    x = to_dask(rand(dims), uneven(dims))
    for diag in [rand(dims), to_dask(rand(dims), uneven(dims))]:
        y = pylops.Diagonal(diag) @ x
        assert y.chunks == x.chunks
        assert moves(y) == []


def test_stack_and_its_adjoint_give_the_chunks_of_the_model_back():
    """The flat data of a stack remember what they were flattened from."""
    dims = (8, 10)
    op = pylops.VStack(
        [pylops.Identity(dims), pylops.Laplacian(dims), pylops.FirstDerivative(dims, 0)]
    )
    x = to_dask(rand(dims), uneven(dims))
    y = op @ x
    assert y.ndim == 1
    back = op.H @ y
    assert back.chunks == x.chunks
    assert moves(back) == []
    assert_same(back, op.H @ (op @ x.compute()))


def test_user_stencil_keeps_the_chunks():
    op = UserDifference((9, 8))
    x = to_dask(rand((9, 8)), ((4, 5), (3, 5)))
    assert (op @ x).chunks == x.chunks


def test_gradient_stacks_on_a_new_axis():
    dims = (8, 10)
    x = to_dask(rand(dims), uneven(dims))
    y = pylops.Gradient(dims) @ x
    assert y.shape == (2, *dims)
    assert y.chunks[1:] == x.chunks
    assert moves(y) == []


# -------------------------------------------------------------- number of tasks


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
@pytest.mark.parametrize("cuts", [4, 16, 50])
@pytest.mark.parametrize(
    "make",
    [
        lambda dims: pylops.FirstDerivative(dims, axis=0),
        lambda dims: pylops.FirstDerivative(dims, axis=0, order=5, edge=True),
        lambda dims: pylops.FirstDerivative(dims, axis=1),
        lambda dims: pylops.SecondDerivative(dims, axis=0),
        lambda dims: pylops.Laplacian(dims, axes=(0, 1)),
        lambda dims: pylops.Diagonal(rand(dims)),
        lambda dims: pylops.Diagonal(rand(dims[0]), dims=dims, axis=0),
    ],
)
def test_at_most_eight_tasks_for_a_chunk(make, cuts, direction):
    dims = (4 * cuts, 6)
    op = make(dims)
    x = da.ones(dims, chunks=(4, 6)).persist(scheduler="synchronous")
    y = op @ x if direction == "forward" else op.H @ x
    assert tasks_after_optimisation(y) <= 8 * cuts


def test_tasks_grow_linearly_with_the_chunks():
    def tasks(cuts):
        dims = (4 * cuts, 6)
        x = da.ones(dims, chunks=(4, 6)).persist(scheduler="synchronous")
        return tasks_after_optimisation(pylops.Laplacian(dims, axes=(0, 1)) @ x)

    few, many, more = tasks(8), tasks(16), tasks(32)
    assert more - many == 2 * (many - few)


def test_three_cut_axes_stay_sparse():
    """A stencil on three cut axes: a few tasks for each of the 4**3 chunks."""
    dims = (16, 16, 16)
    x = da.ones(dims, chunks=4).persist(scheduler="synchronous")
    y = pylops.Laplacian(dims, (0, 1, 2), (1, 1, 1), (1, 1, 1)) @ x
    assert tasks_after_optimisation(y) <= 24 * 4**3


# --------------------------------------------------------- what tasks contain


class Finder(cloudpickle.Pickler):
    """Finds the large arrays inside any object, however deep."""

    def __init__(self, limit):
        import io

        super().__init__(io.BytesIO())
        self.limit = limit
        self.found = []

    def persistent_id(self, obj):
        if isinstance(obj, np.ndarray) and obj.nbytes > self.limit:
            self.found.append(obj)
            return f"array {len(self.found)}"
        return None


def large_arrays(node, limit):
    finder = Finder(limit)
    finder.dump(node)
    return finder.found


def addresses(y, limit):
    """For each task, where the large arrays that it carries live in memory."""
    carried = {}
    for key, node in graph_of(y).items():
        for array in large_arrays(node, limit):
            address = array.__array_interface__["data"][0]
            carried.setdefault(address, set()).add(key)
    return carried


MEGABYTE = 2**20


@pytest.mark.parametrize("applications", [1, 3])
@pytest.mark.parametrize("optimised", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: (pylops.Diagonal(rand(n)), (n,)),
        lambda n: (pylops.Diagonal(rand((n // 8, 8))), (n // 8, 8)),
        lambda n: (pylops.MatrixMult(rand((800, 800))), (800,)),
        lambda n: (pylops.MatrixMult(rand((800, 800)), otherdims=4), (800, 4)),
        lambda n: (
            pylops.Diagonal(rand(n)) @ pylops.FirstDerivative(n),
            (n,),
        ),
    ],
)
def test_no_large_array_is_in_more_than_one_task(make, optimised, applications):
    op, dims = make(400_000)
    x = da.ones(dims, chunks=(-(-dims[0] // 8), *dims[1:]))
    x = x.persist(scheduler="synchronous")
    y = x
    for _ in range(applications):
        y = op @ y
    if optimised:
        (y,) = dask.optimize(y)
    for address, keys in addresses(y, MEGABYTE).items():
        assert len(keys) == 1, f"array at {address} is in {len(keys)} tasks"


def test_the_finder_finds_what_is_hidden():
    """The check above can fail: a closure, an attribute, a partial."""
    array = np.ones(200_000)
    op = pylops.Diagonal(array)
    y = da.ones(8, chunks=2).map_blocks(lambda b: b + op.diag[0], dtype="f8")
    assert [a is array for a in large_arrays(dict(y.dask), MEGABYTE)][:1] == [True]
    assert any(len(keys) > 1 for keys in addresses(y, MEGABYTE).values())


def test_pieces_of_a_coefficient_do_not_carry_the_whole():
    """A task that needs an eighth of a coefficient does not ship all of it."""
    n = 400_000
    x = da.ones(n, chunks=n // 8).persist(scheduler="synchronous")
    y = pylops.Diagonal(rand(n)) @ x
    assert all(len(keys) == 1 for keys in addresses(y, 8 * n - 1).values())


def test_second_application_reuses_the_coefficient():
    """The coefficient is wrapped once: its keys are the same, without hashing."""
    n = 400_000
    op = pylops.Diagonal(rand(n))
    x1 = da.ones(n, chunks=n // 4).persist(scheduler="synchronous")
    x2 = da.zeros(n, chunks=n // 4).persist(scheduler="synchronous")
    own1 = {k for k in graph_of(op @ x1) if k not in graph_of(x1)}
    own2 = {k for k in graph_of(op @ x2) if k not in graph_of(x2)}
    assert own1 & own2, "no key is shared: the coefficient was wrapped twice"
    carrying1 = {k for ks in addresses(op @ x1, MEGABYTE).values() for k in ks}
    carrying2 = {k for ks in addresses(op @ x2, MEGABYTE).values() for k in ks}
    assert carrying1 - set(graph_of(x1)) == carrying2 - set(graph_of(x2))


@pytest.fixture
def hashed(monkeypatch):
    """The shapes of the large NumPy arrays that dask hashes."""
    from dask.tokenize import normalize_token

    normalize_token(np.ones(1))  # registers the handler
    handler = normalize_token.dispatch(np.ndarray)
    shapes = []

    def watching(array):
        if array.nbytes > MEGABYTE:
            shapes.append(array.shape)
        return handler(array)

    monkeypatch.setitem(normalize_token._lookup, np.ndarray, watching)
    return shapes


def test_second_application_hashes_nothing_large(hashed):
    n = 400_000
    op = pylops.Diagonal(rand(n))
    x = da.ones(n, chunks=n // 4).persist(scheduler="synchronous")
    op @ x
    hashed.clear()
    op @ x
    op.H @ x
    op @ (2 * x)
    assert hashed == []


def test_the_hash_watcher_watches(hashed):
    da.from_array(np.ones(400_000), chunks=100_000)
    assert hashed == [(400_000,)]


def test_coefficient_is_released_with_its_operator():
    diag = rand(2000)
    alive = weakref.ref(diag)
    op = pylops.Diagonal(diag)
    y = op @ da.ones(2000, chunks=500)
    y.compute(scheduler="synchronous")
    del op, y, diag
    gc.collect()
    assert alive() is None


def test_input_is_released_with_its_result():
    op = pylops.FirstDerivative(2000)
    x0 = rand(2000)
    alive = weakref.ref(x0)
    x = da.from_array(x0, chunks=500, name=False)
    y = op @ x
    y.compute(scheduler="synchronous")
    del x, y, x0
    gc.collect()
    assert alive() is None


def test_graph_survives_dask_optimisation():
    dims = (9, 8)
    op = pylops.Diagonal(rand(dims)) @ pylops.Laplacian(dims)
    x = to_dask(rand(dims), random_chunks(dims, 1))
    y = op @ x
    (optimised,) = dask.optimize(y)
    assert_same(optimised, op @ x.compute())
    assert_same(y[2:5, ::2], (op @ x.compute())[2:5, ::2])
    assert_same((y + 1).sum(axis=0), ((op @ x.compute()) + 1).sum(axis=0))


def test_layers_do_not_hold_the_box():
    """No DispatchArray is hidden in a graph that the user gets."""
    from pylops_dispatch.array import DispatchArray

    class BoxFinder(cloudpickle.Pickler):
        boxes = 0

        def persistent_id(self, obj):
            if isinstance(obj, DispatchArray):
                self.boxes += 1
                return "box"
            return None

    import io

    dims = (9, 8)
    op = pylops.VStack([pylops.Diagonal(rand(dims)), UserDifference(dims)])
    y = op @ to_dask(rand(dims), 4)
    finder = BoxFinder(io.BytesIO())
    finder.dump(dict(graph_of(y)))
    assert finder.boxes == 0


@pytest.mark.parametrize("kind", ["NumPy", "dask", "by rows", "by columns"])
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("chunks", [((9,) * 8, (40000,)), ((30, 42), (15000, 25000))], ids=str)
def test_a_small_matrix_meets_no_more_than_a_block_of_a_large_vector(chunks, adjoint, kind):
    """Cut along the axis that it sums over, the vector is cut along another one instead."""
    a = rand((72, 72), "complex128")
    held = {
        "NumPy": lambda: a,
        "dask": lambda: da.from_array(a, chunks=(40, 72)),
        "by rows": lambda: scipy.sparse.csr_array(a),
        "by columns": lambda: scipy.sparse.csc_array(a),
    }[kind]()
    op, known = (pylops.MatrixMult(m, otherdims=40000, dtype=a.dtype) for m in (held, a))
    x = rand((72, 40000))
    lazy = to_dask(x, chunks)
    y = (op.H if adjoint else op) @ lazy
    sizes = {}
    with Callback(posttask=lambda key, result, *_: sizes.update({key: np.size(result)})):
        found = y.persist(scheduler="synchronous")
    assert_close(found.compute(), (known.H if adjoint else known) @ x)
    assert y.chunks == chunks
    assert max(sizes.values()) <= 1.2 * max(map(max, chunks)) * max(chunks[0])
    assert len(sizes) <= 25 * lazy.npartitions


ALONG_ROWS = {
    "FFT": lambda n: sp.FFT((n, n), axis=0),
    "FFT2D": lambda n: sp.FFT2D((n, n), real=True),
    "DWT": lambda n: sp.DWT((n, n), axis=0),
    "Shift": lambda n: sp.Shift((n, n), 3.3, axis=0),
}


@pytest.mark.parametrize("name", ALONG_ROWS)
def test_blocks_of_rows_are_transformed_along_columns_without_ever_being_one_block(name):
    """``da.rechunk`` alone would put all that has less than 128 MiB into one, on its way."""
    n = 2048
    op = ALONG_ROWS[name](n)
    y = op @ da.ones((n, n), chunks=(n // 16, n))
    largest = []
    with Callback(posttask=lambda key, result, *_: largest.append(getattr(result, "nbytes", 0))):
        y.persist()
    assert max(largest) < y.nbytes / 2 + n


ALONG = {
    "fft": lambda x: np.fft.fft(x, axis=0),
    "fft2": np.fft.fft2,
    "rfftn": np.fft.rfftn,
    "rfftn of other lengths": lambda x: np.fft.rfftn(x, s=(5, 8), axes=(0, 1), norm="ortho"),
    "irfft2": np.fft.irfft2,
    "irfftn of other lengths": lambda x: np.fft.irfftn(x, s=(9, 7), axes=(1, 0)),
    "ifftn": lambda x: np.fft.ifftn(x, axes=(1, 0), norm="forward"),
    "sort": lambda x: np.sort(x, axis=0),
    "argsort": lambda x: np.argsort(x, axis=0),
    "pad": lambda x: np.pad(x, ((2, 0), (0, 0)), "median"),
    "median": lambda x: np.median(x, axis=0),
    "percentiles": lambda x: np.percentile(x, [20, 30], axis=0, keepdims=True),
}


@pytest.mark.parametrize("name", ALONG)
def test_functions_along_the_axis_that_is_cut_cut_another(name, monkeypatch):
    """No task has all of an array that is large: here, of more than 64 bytes."""
    monkeypatch.setattr(whole_axes, "_ONE_TASK", 0)
    for module in (whole_axes, fft):
        monkeypatch.setattr(module, "LARGE", 64)
    x0 = rand((6, 10))
    with forbid_executions(), warnings.catch_warnings():
        warnings.simplefilter("error", pylops_dispatch.PerformanceWarning)
        y = ALONG[name](lift(to_dask(x0, (2, 10)))).dask()
    assert min(len(layer) for layer in y.dask.layers.values()) > 1
    assert_same(y, ALONG[name](x0))


def test_a_function_that_can_only_work_on_the_whole_says_so(monkeypatch):
    monkeypatch.setattr(whole_axes, "_ONE_TASK", 0)
    x = lift(to_dask(rand(20), 5))
    with pytest.warns(pylops_dispatch.PerformanceWarning, match="numpy.fft.fft runs in one task"):
        np.fft.fft(x)


N = 2048  # samples: 32 MiB where it is squared
WORKING_ALONG = {
    "Kronecker": lambda: pylops.Kronecker(pylops.FirstDerivative(N), pylops.FirstDerivative(N)),
    "ChirpRadon2D": lambda: sp.ChirpRadon2D(np.arange(1.0 * N), np.arange(1.0 * N), 0.5),
    "PWSprayer2D": lambda: sp.PWSprayer2D((N, N), np.broadcast_to(0.01, (N, N)), radius=1),
    "AVO": lambda: pylops.avo.avo.AVOLinearModelling(
        np.linspace(0, 30, 16), vsvp=0.5, nt0=N // 4, spatdims=(N // 4,)
    ),
    "Sliding2D": lambda: sp.Sliding2D(
        pylops.MatrixMult(np.ones((32, 24)), otherdims=(N,)), (85 * 24, N), (N, N), 32, 8
    ),
    "Interp": lambda: sp.Interp((N, N), np.linspace(1, N - 2, N // 3), 0, "cubic_spline")[0],
}


def cut_along(shape, axis):
    return tuple(-(-n // 16) if a == axis else n for a, n in enumerate(shape))


@pytest.mark.parametrize("name", WORKING_ALONG)
def test_operators_along_the_axis_that_is_cut_cut_another(name):
    """Of what has up to 32 MiB no task has all, however it is cut."""
    op = WORKING_ALONG[name]()
    for turned in (op, op.H):
        dims = turned.dims if len(turned.dims) > 1 else (N, N)
        for axis in range(len(turned.dims)):
            x = da.ones(dims, chunks=cut_along(dims, axis))
            with warnings.catch_warnings():
                warnings.simplefilter("error", pylops_dispatch.PerformanceWarning)
                y = turned @ (x if len(turned.dims) > 1 else x.ravel())
            large = {
                name: len(layer)
                for name, layer in y.dask.layers.items()
                if not name.startswith(("coefficient", "ones"))
            }
            assert min(large.values()) > 1, (turned, axis, large)


def test_a_vector_is_flattened_in_parallel():
    """Dask makes one block of all axes after the first."""
    sizes = []
    for shape in ((N, N), (3, N + 512, N // 2)):
        x0 = np.arange(float(np.prod(shape))).reshape(shape)
        y = ravel(da.from_array(x0, chunks=(*shape[:-1], shape[-1] // 16)))
        sizes.clear()
        with Callback(posttask=lambda key, block, *_: sizes.append(getattr(block, "size", 0))):
            y.persist(scheduler="synchronous")
        assert max(sizes) <= y.size // 8
        np.testing.assert_array_equal(y.compute(), x0.ravel())


def test_what_is_flattened_after_it_was_reshaped_has_its_own_blocks():
    """``PoststackInversion`` reshapes three axes to two, and flattens these."""
    x = da.ones((4, 6, 8), chunks=(4, 3, 2))
    box = lift(x)
    moved = box.reshape(4, 48)
    assert moved.ravel().pieces[0].chunks == x.chunks
    assert moved.reshape(4, 6, 8).pieces[0].chunks == x.chunks
    moved += 1
    assert moved.ravel().pieces[0].shape == (4, 48)
    np.testing.assert_array_equal(moved.ravel().dask().compute(), np.full(192, 2.0))


def test_sums_along_all_axes_have_as_many_blocks_as_there_were():
    y = np.cumsum(lift(da.ones((400, 50), chunks=(40, 50)))).dask()
    assert y.numblocks == (10,)
    np.testing.assert_array_equal(y.compute(), np.arange(1.0, 20_001))


@pytest.mark.parametrize("count", [2, 4096])
def test_blocks_of_columns_that_are_large_run_in_parallel(count):
    """Few run one after another, on the blocks that they have; of many, each task has some."""
    n = 2**22 // count
    op = pylops.FirstDerivative(n)
    X = da.ones((n, count), chunks=(n // 16, count))
    for turned in (op, op.H):
        y = turned @ X
        assert y.numblocks == ((16, 2) if count == 2 else (1, 3))
        assert min(len(layer) for layer in y.dask.layers.values()) > 1


def test_columns_that_are_cut_give_what_numpy_gives(monkeypatch):
    monkeypatch.setattr(whole_axes, "_ONE_TASK", 0)
    for module in (whole_axes, columns):
        monkeypatch.setattr(module, "LARGE", 64)
    op = pylops.FirstDerivative(20)
    for count in (2, 3, 30):
        X0 = rand((20, count))
        for turned in (op, op.H):
            assert_same(turned @ to_dask(X0, (7, count)), turned @ X0)


def test_an_operator_within_others_leaves_its_axis_whole():
    """The vector of ``Shift`` moves twice: before its first transform, and after its second."""
    op = sp.Shift((2048, 2048), 3.3, axis=0)
    y = op @ da.ones((2048, 2048), chunks=(128, 2048))
    assert sum(name.startswith("rechunk-merge") for name in y.dask.layers) == 2
    assert y.chunks == ((128,) * 16, (2048,))


@pytest.mark.parametrize(("size", "blocks"), [("128 MiB", 2), ("4 MiB", 8)])
def test_data_that_are_larger_than_their_model_are_cut(size, blocks):
    """No chunks of four coefficients say how four million samples are to be cut."""
    with dask.config.set({"array.chunk-size": size}):
        y = pylops.Regression(np.linspace(-1, 1, 4_000_000), order=3) @ da.ones(4, chunks=4)
    assert y.numblocks == (blocks,)


@pytest.mark.parametrize(("large", "most"), [(1 << 20, 7), (0, 2)])
def test_large_terms_are_added_two_by_two(monkeypatch, large, most):
    """So that few of them are there at once."""
    monkeypatch.setattr(blocks, "_LARGE", large)
    table = np.random.default_rng(1).integers(0, 6, (7, 5, 4)).astype(float)
    op = pylops.Spread((7, 5), (4, 6), table=table)
    x0 = rand((7, 5))
    y = op @ to_dask(x0, (1, 5))
    sums = [task for key, task in graph_of(y).items() if key[0].startswith("sum-")]
    assert max(len(task.dependencies) for task in sums) == most
    assert_same(y, op @ x0)


def banded(n, form, dtype):
    """Return a matrix with elements on three diagonals, and none in some rows."""
    values = [rand(n - abs(k), dtype, seed=k + 9) for k in (-3, 0, 1)]
    for part in values:
        part[8:16] = 0
    matrix = scipy.sparse.diags_array(values, offsets=[-3, 0, 1], shape=(n, n)).tocsr()
    matrix.eliminate_zeros()
    return matrix[:, : n - 2].asformat(form)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@pytest.mark.parametrize("rest", [(), (3,)])
def test_blocks_of_a_banded_matrix_meet_the_part_of_the_vector_that_they_need(
    form, dtype, rest, monkeypatch
):
    monkeypatch.setattr(matrix, "_SMALL", 0)
    op = pylops.MatrixMult(banded(48, form, dtype), otherdims=rest or None, dtype=dtype)
    for turned in (op, op.H):
        x0 = rand(turned.dims, dtype, seed=2)
        y = turned @ to_dask(x0, (6, *rest))
        assert_same(y, turned @ x0)
        parts = [name for name in y.dask.layers if name.startswith(("gather", "fold"))]
        assert len(parts) == 1
        reads = [len(task.dependencies) for key, task in graph_of(y).items() if key[0] == parts[0]]
        assert max(reads) <= 3


def test_a_banded_matrix_that_is_changed_in_place_gives_what_it_holds(monkeypatch):
    monkeypatch.setattr(matrix, "_SMALL", 0)
    A = banded(48, "csr", "float64")
    op, x0 = pylops.MatrixMult(A), rand(46)
    first = op @ to_dask(x0, 6)
    assert_same(first, op @ x0)
    A.data *= 2
    second = op @ to_dask(x0, 6)
    assert second.name != first.name
    assert_same(second, op @ x0)


def test_a_matrix_with_elements_everywhere_is_multiplied_by_blocks_of_rows(monkeypatch):
    monkeypatch.setattr(matrix, "_SMALL", 0)
    op = pylops.MatrixMult(scipy.sparse.csr_array(rand((12, 12))))
    y = op @ to_dask(rand(12), 4)
    assert not [name for name in y.dask.layers if name.startswith("gather")]


@pytest.mark.parametrize("rest", [(), (2,)])
def test_a_matrix_of_few_rows_is_multiplied_by_blocks_of_columns(rest, monkeypatch):
    """Each row would meet all of the vector."""
    monkeypatch.setattr(matrix, "_SMALL", 0)
    op = pylops.MatrixMult(rand((2, 40)), otherdims=rest or None)
    x0 = rand(op.dims)
    y = op @ to_dask(x0, (8, *rest))
    assert_same(y, op @ x0)
    (products,) = (layer for name, layer in y.dask.layers.items() if name.startswith("MatrixMult"))
    assert len(products) == 5
