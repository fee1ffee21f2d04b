"""Every NumPy function that can be overridden, on lazy arrays: none computes.

Each is in exactly one of three tables: dask.array does it lazily, a shim of ours does, or it is
refused with an error that names it and says why. A function that is in none of them, in a newer
NumPy for example, fails the first test by its name.
"""

import contextlib
import importlib
import inspect
import io
import re
import warnings

import dask.array as da
import numpy as np
import pytest
from numpy.lib import recfunctions as rfn
from numpy.lib import stride_tricks
from numpy.testing.overrides import (
    get_overridable_numpy_array_functions,
    get_overridable_numpy_ufuncs,
)

import pylops_dispatch
from pylops_dispatch import NotDispatchedError
from pylops_dispatch.array import DispatchArray, lower
from pylops_dispatch.functions.registry import SHIMS

from .helpers import assert_close, forbid_executions, rand, random_chunks, to_dask

# NumPy lists the functions of these once they are imported
for _module in ("fft", "char", "strings", "polynomial", "linalg"):
    importlib.import_module(f"numpy.{_module}")

# One call of each function: the text before the first parenthesis names it. The letters are
# the arrays below; those of LAZY and SHIM must give what NumPy gives, with nothing executed.
LAZY = """
np.append(x, y, axis=0)
np.apply_over_axes(np.sum, x, [0])
np.arange(3, like=x)
np.around(x, 1)
np.array([1], like=x)
np.asanyarray([1], like=x)
np.asarray([1], like=x)
np.astype(x, "float32")
np.average(x, axis=0, weights=y)
np.block([[x, y], [y, x]])
np.broadcast_arrays(x, y)
np.can_cast("f4", "f8")
np.choose(i % 2, [v, w])
np.compress([True, False], x, axis=0)
np.corrcoef(x, y)
np.count_nonzero(m)
np.cov(x)
np.cumprod(v)
np.cumsum(x, axis=0)
np.cumulative_prod(v)
np.cumulative_sum(v)
np.delete(x, 1, axis=0)
np.diag(v)
np.diagonal(x)
np.digitize(v, r)
np.dstack([x, y])
np.ediff1d(v)
np.empty(3, like=x)
np.fft.fftshift(x)
np.fft.ifftshift(x)
np.fix(x)
np.full(3, 1, like=x)
np.histogram2d(v, w, bins=3, range=((-2, 2), (-2, 2)))
np.i0(x)
np.insert(x, 1, 0, axis=0)
np.iscomplex(z)
np.isin(i, j)
np.isreal(z)
np.linalg.diagonal(s)
np.linalg.matrix_norm(x)
np.linalg.outer(v, w)
np.linalg.trace(s)
np.linalg.vector_norm(x)
np.meshgrid(v, w)
np.nan_to_num(x)
np.nancumprod(x, axis=0)
np.nancumsum(x, axis=0)
np.nanmean(x)
np.nanprod(x)
np.nanstd(x)
np.nanvar(x)
np.ones(3, like=x)
np.outer(v, w)
np.ptp(x, axis=0)
np.ravel_multi_index((i, j), (9, 9))
np.repeat(x, 2, axis=0)
np.result_type(x, z)
np.round(x)
np.searchsorted(o, v)
np.sinc(x)
np.stack([x, y])
np.std(x)
np.trace(s)
np.tri(3, like=x)
np.tril(x)
np.triu(x)
np.unravel_index(i, (9, 9))
np.var(x)
np.zeros(3, like=x)
stride_tricks.sliding_window_view(x, 2, axis=0)
"""
SHIM = """
np.all(m)
np.allclose(x, y)
np.amax(x)
np.amin(x, axis=1)
np.angle(z)
np.any(m, axis=0)
np.argmax(x, axis=0)
np.argmin(v)
np.argsort(x)
np.array_equal(x, y)
np.array_split(v, 2)
np.atleast_1d(x)
np.atleast_2d(v)
np.atleast_3d(x)
np.bincount(i, minlength=9)
np.broadcast_to(v, (2, 6))
np.clip(x, -1, 1)
np.concatenate([x, y])
np.copy(x)
np.copyto(x.copy(), y)
np.diff(x, axis=0)
np.dot(x, y.T)
np.dsplit(u, 2)
np.einsum("ij,ij->i", x, y)
np.empty_like(x)
np.expand_dims(x, 1)
np.fft.fft(z)
np.fft.fft2(z)
np.fft.fftn(z)
np.fft.hfft(z)
np.fft.ifft(z)
np.fft.ifft2(z)
np.fft.ifftn(z)
np.fft.ihfft(x)
np.fft.irfft(z)
np.fft.irfft2(z)
np.fft.irfftn(z)
np.fft.rfft(x)
np.fft.rfft2(x)
np.fft.rfftn(x)
np.flip(x, 0)
np.fliplr(x)
np.flipud(x)
np.full_like(x, 3)
np.geomspace(abs(v).sum(), 10, 3)
np.gradient(x, axis=0)
np.histogram(v, bins=4, range=(-2, 2))
np.hsplit(x, 3)
np.hstack([x, y])
np.imag(z)
np.inner(v, w)
np.isclose(x, y)
np.iscomplexobj(z)
np.isneginf(x)
np.isposinf(x)
np.isrealobj(z)
np.linalg.cholesky(s)
np.linalg.det(s)
np.linalg.eigvalsh(s)
np.linalg.inv(s)
np.linalg.matmul(x, y.T)
np.linalg.matrix_transpose(x)
np.linalg.norm(x)
np.linalg.pinv(x)
np.linalg.solve(s, t)
np.linalg.svd(x)
np.linalg.svdvals(x)
np.linalg.tensordot(x, y.T, axes=1)
np.linalg.vecdot(x, y)
np.linspace(v.sum(), 1, 3)
np.logspace(v.sum(), 1, 3)
np.matrix_transpose(x)
np.max(x)
np.mean(x)
np.min(x)
np.moveaxis(u, 0, 1)
np.nanargmax(x, axis=0)
np.nanargmin(x, axis=0)
np.nanmax(x)
np.nanmin(x)
np.median(x, axis=1)
np.nanmedian(x, axis=1)
np.nanpercentile(x, 30, axis=0)
np.nanquantile(x, 0.3, axis=0)
np.nansum(x)
np.ndim(x)
np.ones_like(x)
np.pad(x, 1)
np.percentile(v, 30)
np.prod(x)
np.putmask(x.copy(), m, y)
np.quantile(v, 0.3)
np.ravel(x)
np.real(z)
np.reshape(x, (3, 4))
np.roll(x, 1, axis=0)
np.rollaxis(u, 2)
np.rot90(x)
np.select([m], [x], 0)
np.shape(x)
np.size(x)
np.sort(x)
np.split(v, 2)
np.squeeze(x)
np.sum(x)
np.swapaxes(x, 0, 1)
np.take(x, [1, 0], axis=0)
np.tensordot(x, y.T, axes=1)
np.tile(x, 2)
np.transpose(x)
np.unstack(x)
np.vdot(v, w)
np.vsplit(x, 2)
np.vstack([x, y])
np.where(m, x, y)
np.zeros_like(x)
"""
REFUSED = """
np.apply_along_axis(np.sum, 0, x)
np.argpartition(x, 1)
np.argwhere(m)
np.array2string(x)
np.array_equiv(x, y)
np.array_repr(x)
np.array_str(x)
np.ascontiguousarray([1], like=x)
np.asfortranarray([1], like=x)
np.busday_count("2011-01", x)
np.busday_offset("2011-10", x)
np.column_stack([v, w])
np.common_type(x, y)
np.convolve(v, w)
np.correlate(v, w)
np.cross(x, y)
np.datetime_as_string(x)
np.diag_indices_from(s)
np.diagflat(v)
np.einsum_path("ij,ij->i", x, y)
np.emath.arccos(x)
np.emath.arcsin(x)
np.emath.arctanh(x)
np.emath.log(x)
np.emath.log10(x)
np.emath.log2(x)
np.emath.logn(2, x)
np.emath.power(x, 2)
np.emath.sqrt(x)
np.extract(m, x)
np.eye(3, like=x)
np.fill_diagonal(s.copy(), 1)
np.flatnonzero(m)
np.frombuffer(b"12345678", like=x)
np.fromfile("none", like=x)
np.fromfunction(np.add, shape=(2, 2), like=x)
np.fromiter([1], float, like=x)
np.fromstring("1 2", sep=" ", like=x)
np.genfromtxt("none", like=x)
np.histogram_bin_edges(v)
np.histogramdd(x, bins=2, range=((-2, 2),) * 3)
np.identity(3, like=x)
np.in1d(i, j)
np.interp(v, r, r)
np.intersect1d(i, j)
np.is_busday(x)
np.ix_(i, j)
np.kron(x, y)
np.lexsort(x)
np.linalg.cond(s)
np.linalg.cross(x, y)
np.linalg.eig(s)
np.linalg.eigh(s)
np.linalg.eigvals(s)
np.linalg.lstsq(x, x)
np.linalg.matrix_power(s, 2)
np.linalg.matrix_rank(s)
np.linalg.multi_dot([x, y.T, x])
np.linalg.qr(x)
np.linalg.slogdet(s)
np.linalg.tensorinv(s, ind=1)
np.linalg.tensorsolve(s, t)
np.loadtxt("none", like=x)
np.may_share_memory(x, y)
np.min_scalar_type(x)
np.nonzero(x)
np.packbits(m)
np.partition(x, 1)
np.piecewise(v, [n], [1, 2])
np.place(x.copy(), m, [1])
np.poly(v)
np.polyadd(v, w)
np.polyder(v)
np.polydiv(v, w)
np.polyfit(v, w, 1)
np.polyint(v)
np.polymul(v, w)
np.polynomial.polynomial.polygrid2d(v, w, x)
np.polynomial.polynomial.polyval2d(v, w, x)
np.polynomial.polynomial.polyvalnd((v, w), x)
np.polysub(v, w)
np.polyval(v, w)
np.put(x.copy(), [0], 1)
np.put_along_axis(v.copy(), i % 2, 1, 0)
np.real_if_close(z)
np.require([1], like=x)
np.resize(x, (2, 2))
np.roots(v)
np.save(io.BytesIO(), x)
np.savetxt(io.BytesIO(), x)
np.savez(io.BytesIO(), x)
np.savez_compressed(io.BytesIO(), x)
np.setdiff1d(i, j)
np.setxor1d(i, j)
np.shares_memory(x, y)
np.sort_complex(z)
np.take_along_axis(x, k, 0)
np.trapezoid(x)
np.tril_indices_from(s)
np.trim_zeros(v)
np.triu_indices_from(s)
np.union1d(i, j)
np.unique(v)
np.unique_all(v)
np.unique_counts(v)
np.unique_inverse(v)
np.unique_values(v)
np.unpackbits(p)
np.unwrap(v)
np.vander(v)
rfn.append_fields(x, "a", y)
rfn.apply_along_fields(np.mean, x)
rfn.assign_fields_by_name(x, y)
rfn.drop_fields(x, "a")
rfn.find_duplicates(x)
rfn.join_by("a", x, y)
rfn.merge_arrays([x, y])
rfn.rec_append_fields(x, "a", y)
rfn.rec_drop_fields(x, "a")
rfn.rec_join("a", x, y)
rfn.recursive_fill_fields(x, y)
rfn.rename_fields(x, {})
rfn.repack_fields(x)
rfn.require_fields(x, "f8")
rfn.stack_arrays([x, y])
rfn.structured_to_unstructured(x)
rfn.unstructured_to_structured(x)
"""


def arrays():
    """The arrays of the calls: all of them are lazy, but for the sorted numbers r."""
    i, j = np.random.default_rng(0).integers(0, 5, size=(2, 6))
    x, v = rand((4, 3)), rand(6, seed=2)
    return {
        "x": x, "y": rand((4, 3), seed=1), "z": rand((4, 3), "complex128"), "m": x > 0,
        "u": rand((2, 3, 4)), "s": x.T @ x + np.eye(3), "t": rand(3),
        "v": v, "w": rand(6, seed=3), "n": v > 0, "o": np.sort(rand(6, seed=3)),
        "i": i, "j": j, "k": np.zeros((1, 3), int), "p": np.array([3, 7], "uint8"),
    }  # fmt: skip


NAMES = {"np": np, "rfn": rfn, "stride_tricks": stride_tricks, "io": io, "r": np.sort(rand(6))}


def boxes():
    return {
        name: DispatchArray(to_dask(a, random_chunks(a.shape, 1))) for name, a in arrays().items()
    }


def run(call, values):
    return eval(call, {**NAMES, **values})


def qualified(function):
    return f"{function.__module__}.{function.__name__}"


def function_of(call):
    return run(call.partition("(")[0], {})


def calls(table):
    """Those of functions that this NumPy has; some are not in its first version 2."""
    lines = [line for line in table.splitlines() if line]
    return [line for line in lines if _exists(*line.partition("(")[0].rpartition(".")[::2])]


def _exists(owner, name):
    return hasattr(eval(owner, NAMES), name)


def parametrized(table):
    return pytest.mark.parametrize("call", calls(table) if isinstance(table, str) else table)


@pytest.fixture(autouse=True)
def ranks_in_one_task():
    with pylops_dispatch.set_policy(whole_array="allow"):
        yield


def of_strings(function):
    """Functions of arrays of strings, which are no vectors of numbers."""
    return function.__module__ in ("numpy.strings", "numpy.char")


def takes_like(function):
    """Whether NumPy hands it on for `like`, by which 2.0 does not list what is written in C."""
    return callable(function) and "like=None" in (getattr(function, "__doc__", None) or "")


FUNCTIONS = get_overridable_numpy_array_functions() | set(filter(takes_like, vars(np).values()))
# older NumPy makes arrays of what these are given, which is refused by the name of that
LATER = {np.polynomial.polynomial.polyval2d, np.polynomial.polynomial.polygrid2d} - FUNCTIONS
if np.lib.NumpyVersion(np.__version__) >= "2.4.0":
    assert not LATER
STRING_FUNCTIONS = sorted(filter(of_strings, FUNCTIONS), key=qualified)
UFUNCS = sorted(get_overridable_numpy_ufuncs(), key=lambda ufunc: ufunc.__name__)


# --------------------------------------------------------------------- functions


def test_every_function_is_in_exactly_one_table():
    tables = [function_of(call) for call in calls(LAZY + SHIM + REFUSED)]
    listed = [qualified(function) for function in tables if function not in LATER]
    listed += [qualified(function) for function in STRING_FUNCTIONS]
    assert sorted(listed) == sorted(set(listed))
    assert sorted(set(listed)) == sorted({qualified(function) for function in FUNCTIONS})


def test_the_shims_are_listed_as_such():
    listed = {function_of(call) for call in calls(SHIM)}
    # argwhere has a shim for solvers, which read values anyway
    assert listed == {f for f in SHIMS if f in FUNCTIONS} - {np.argwhere}
    assert set(SHIMS) <= FUNCTIONS


def check(result, expected, values=True):
    """Lazy where NumPy gives an array, and the same; everything else is equal."""
    if isinstance(expected, (tuple, list)):
        assert len(result) == len(expected)
        for one, other in zip(result, expected, strict=True):
            check(one, other, values)
    elif isinstance(expected, np.ndarray) and isinstance(result, np.ndarray):
        assert_close(result, expected)  # known without the values, as edges of bins are
    elif isinstance(expected, (np.ndarray, np.generic)):
        assert isinstance(result, DispatchArray)
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
        if values:
            assert_close(lower(result).compute(scheduler="synchronous"), expected)
    elif isinstance(result, DispatchArray):  # a truth, which is a bool in NumPy
        assert result.dask().compute(scheduler="synchronous") == expected
    else:
        assert result == expected


@parametrized(LAZY + SHIM)
def test_function_is_lazy_and_equal_to_numpy(call):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "numpy.fix is deprecated")  # as of NumPy 2.5
        with forbid_executions():
            result = run(call, boxes())
    check(result, run(call, arrays()), values="empty" not in call)


ARRAYS = arrays()


def of_dtype(dtype, call):
    """The arrays of a call in another dtype; positions and masks stay what they are."""
    kind = np.dtype(dtype).kind
    found = {}
    for name in ARRAYS.keys() & set(re.findall(r"\b\w\b", call)):
        array = ARRAYS[name]
        if name not in "mnijkp":
            array = array if kind == "c" else array.real
            array = np.round(3 * array) if kind in "biu" else array
            array = (abs(array) if kind == "u" else array).astype(dtype)
        found[name] = array
    return found


@pytest.mark.filterwarnings("ignore")  # NumPy's own, of casts and divisions
@pytest.mark.parametrize("dtype", ["float32", "complex64", "uint8", "bool"])
@parametrized([call for call in calls(LAZY + SHIM) if "empty" not in call])
def test_function_has_the_dtype_of_numpy(call, dtype):
    """Or the error, where NumPy has no such function of the dtype."""
    given = of_dtype(dtype, call)
    try:
        expected = run(call, {name: array.copy() for name, array in given.items()})
    except (TypeError, ValueError, OverflowError) as error:
        expected = error
    with forbid_executions():
        lazy = {n: DispatchArray(to_dask(a, random_chunks(a.shape, 1))) for n, a in given.items()}
        try:
            result = run(call, lazy)
        except NotDispatchedError:
            return
        except (TypeError, ValueError, OverflowError) as error:
            result = error
    if isinstance(expected, Exception):
        assert isinstance(result, (Exception, DispatchArray))
        with pytest.raises(type(expected)):
            raise result if isinstance(result, Exception) else lower(result).compute()
    else:
        check(result, expected)


@parametrized(REFUSED)
def test_function_is_refused_by_name_and_with_advice(call):
    with forbid_executions(), pytest.raises(NotDispatchedError) as error:
        run(call, boxes())
    message = str(error.value)
    assert ("asarray" if function_of(call) in LATER else function_of(call).__name__) in message
    assert len(message.partition(" was called on a lazy dask array by ")[2]) > 40


@pytest.mark.parametrize("function", STRING_FUNCTIONS, ids=qualified)
def test_functions_of_strings_are_refused(function):
    """With as many arguments as the function takes."""
    x, refused = boxes()["x"], False
    with forbid_executions():
        for count in range(1, 5):
            try:
                function(*[x] * count)
            except NotDispatchedError:
                refused = True
            except TypeError:
                continue
            else:
                pytest.fail(f"{qualified(function)} gave a result")
    assert refused


# ------------------------------------------------------------------------ ufuncs

KINDS = {"?": bool, "d": float, "l": int, "D": complex, "q": int}


def sample(kind, number):
    """Numbers that almost every ufunc is defined for."""
    if kind == "?":
        return rand((4, 3), seed=number) > 0
    if kind in "lq":
        return np.arange(12).reshape(4, 3) % 5 + number
    values = abs(rand((4, 3), seed=number)) % 1
    return values.astype(KINDS[kind])


def inputs_of(ufunc):
    """Arrays of a type that the ufunc is made for; none when that is not numbers."""
    for kind in "dl?D":
        for signature in ufunc.types:
            kinds = signature.partition("->")[0]
            if kind in kinds and all(k in KINDS for k in kinds):
                return [sample(k, n + 1) for n, k in enumerate(kinds)]
    return None


def matrices_of(ufunc, arrays):
    """Arrays whose shapes fit the signature of a generalised ufunc."""
    sizes = {"n": 3, "m": 4, "p": 2, "k": 2, "": 1}
    cores = [core.strip("()").replace("?", "") for core in _cores(ufunc.signature)]
    return [
        rand(tuple(sizes[name] for name in core.split(",")), seed=number)
        for number, core in enumerate(cores)
    ]


def _cores(signature):
    return signature.partition("->")[0].replace("),(", ");(").split(";")


@pytest.mark.parametrize("ufunc", UFUNCS, ids=lambda ufunc: ufunc.__name__)
def test_ufunc_is_lazy_and_equal_to_numpy_or_refused(ufunc):
    arrays = inputs_of(ufunc)
    if arrays is None:  # strings and dates
        x = boxes()["x"]
        with forbid_executions(), pytest.raises(TypeError):
            ufunc(*[x] * ufunc.nin)
        return
    if ufunc.signature is not None:
        arrays = matrices_of(ufunc, arrays)
    lazy = [DispatchArray(to_dask(a, random_chunks(a.shape, n))) for n, a in enumerate(arrays)]
    with forbid_executions():
        result = ufunc(*lazy)
    check(result, ufunc(*arrays))


@pytest.mark.parametrize("method", ["reduce", "accumulate", "outer", "reduceat", "at"])
@pytest.mark.parametrize(
    "ufunc",
    [u for u in UFUNCS if u.nin == 2 and u.nout == 1 and not u.signature and inputs_of(u)],
    ids=lambda ufunc: ufunc.__name__,
)
def test_methods_of_ufuncs_never_compute(ufunc, method):
    arrays = inputs_of(ufunc)
    lazy = [DispatchArray(to_dask(a, random_chunks(a.shape, 1))) for a in arrays]
    more = {"outer": lazy[1:], "reduceat": [[0, 2]], "at": [[0, 1], 1]}.get(method, [])
    more_arrays = {"outer": arrays[1:], "reduceat": [[0, 2]], "at": [[0, 1], 1]}.get(method, [])
    call, numpys = getattr(ufunc, method), contextlib.suppress(TypeError, ValueError)
    expected = None
    with numpys:
        expected = call(arrays[0].copy(), *more_arrays)
    try:
        with forbid_executions():
            result = call(lazy[0], *more)
    except TypeError:  # NotDispatchedError is one
        return
    except ValueError:
        assert expected is None
        return
    if method != "at":
        check(result, expected)


def arguments(call, values):
    """What a function is called with in one of the calls, by place or name."""
    args, kwargs = run(
        f"given({call.partition('(')[2]}", {**values, "given": lambda *a, **k: (a, k)}
    )
    return dict(enumerate(args)) | kwargs


def called(function, given):
    places = sorted(place for place in given if isinstance(place, int))
    named = {name: value for name, value in given.items() if isinstance(name, str)}
    return function(*(given[place] for place in places), **named)


def more_values(function, given):
    """Numbers and positions for what the function may be given besides."""
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:
        return
    for number, name in enumerate(names):
        if number not in given and name not in given and name not in ("out", "like", "where"):
            yield name, 1
            yield name, [0]


@pytest.mark.filterwarnings("ignore")
@parametrized(LAZY + SHIM)
def test_no_argument_is_computed_wherever_it_is_lazy(call):
    """Ends, bins, what is put before: such a result is lazy, and NumPy's, or is refused."""
    function, with_arrays, with_boxes = function_of(call), arguments(call, arrays()), None
    numbers = [(place, v) for place, v in with_arrays.items() if type(v) in (int, float, list)]
    sorted_ones = [(place, v) for place, v in with_arrays.items() if v is NAMES["r"]]
    for place, value in [*numbers, *sorted_ones, *more_values(function, with_arrays)]:
        try:
            expected = called(function, arguments(call, arrays()) | {place: np.array(value)})
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
            continue
        with_boxes = arguments(call, boxes())
        with_boxes[place] = DispatchArray(da.from_array(np.array(value), chunks=2))
        with forbid_executions():
            try:
                result = called(function, with_boxes)
            except TypeError:  # NotDispatchedError is one
                continue
        check(result, expected, values="empty" not in call)


def test_results_with_shapes_that_depend_on_values_are_refused():
    x = boxes()["x"]
    for call in [lambda: x[x[:, 0] > 0], lambda: np.nonzero(x), lambda: np.unique_counts(x)]:
        with forbid_executions(), pytest.raises(NotDispatchedError, match="depends on values"):
            call()


def test_dask_arrays_never_come_out_of_a_function_as_they_are():
    for call in calls(LAZY + SHIM):
        result = run(call, boxes())
        parts = result if isinstance(result, (tuple, list)) else [result]
        assert not any(isinstance(part, da.Array) for part in parts), call
