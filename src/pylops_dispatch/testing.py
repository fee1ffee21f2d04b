"""Checks for packages that build their own operators on PyLops.

Three lines test an operator on dask arrays, under pytest::

    from pylops_dispatch.testing import operator_tests
    from mypackage import Blur
    TestBlur = operator_tests(lambda: Blur((7, 5)), lambda: Blur((6,), sigma=2.0))

Everywhere else, :func:`check_operator` runs the same checks on one operator. Neither pytest nor
hypothesis is needed to import this module; with hypothesis the chunks are drawn by it.
"""

from __future__ import annotations

import importlib
import numbers
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import cloudpickle
import dask
import dask.array as da
import dask.base
import dask.threaded
import numpy as np
from dask._task_spec import Alias, DataNode

from pylops_dispatch.arguments import require_count, require_numpy, require_operator
from pylops_dispatch.policy import WholeArrayError, set_policy

__all__ = [
    "Execution",
    "Executions",
    "UnexpectedExecution",
    "assert_close",
    "assert_dask_equal",
    "assert_lazy",
    "check_operator",
    "chunks_of",
    "dask_dottest",
    "operator_tests",
]

Chunks = tuple[tuple[int, ...], ...]
Shape = tuple[int, ...]

# ---------------------------------------------------------------- executions


class UnexpectedExecution(AssertionError):
    """Dask ran a graph although the budget of executions was spent."""


@dataclass
class Execution:
    """One graph that a scheduler was given.

    Parameters
    ----------
    size : int
        Number of its keys, data included.
    tasks : tuple
        The keys that are not data yet.
    """

    size: int
    tasks: tuple[Any, ...]


@dataclass
class Executions:
    """The graphs that dask ran.

    Parameters
    ----------
    runs : list of Execution
        In the order in which they were started.
    """

    runs: list[Execution] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of executions."""
        return len(self.runs)

    @property
    def sizes(self) -> list[int]:
        """Size of the graph of each execution."""
        return [run.size for run in self.runs]

    @property
    def tasks(self) -> list[Any]:
        """The keys of all executions that were not data."""
        return [key for run in self.runs for key in run.tasks]


def _execution(dsk: Any) -> Execution:
    graph = dict(dsk.__dask_graph__() if hasattr(dsk, "__dask_graph__") else dsk)
    data = (Alias, DataNode, np.ndarray, np.generic, int, float, complex)
    tasks = tuple(key for key, node in graph.items() if not isinstance(node, data))
    return Execution(len(graph), tasks)


@contextmanager
def assert_lazy(budget: int | None = 0) -> Iterator[Executions]:
    """Let dask execute no graph in this block, or not more than a number of them.

    Counts what goes through dask's schedulers in this process, whether one is configured or
    named in the call; they are as before when the block is left.

    Parameters
    ----------
    budget : int, optional
        Number of executions that are allowed; None counts without a limit.

    Yields
    ------
    Executions
        What was executed so far.

    Raises
    ------
    UnexpectedExecution
        From the execution that exceeds the budget, and again at the end of the block when the
        code under test swallowed it.
    ValueError
        If `budget` is no number of executions.

    Examples
    --------
    >>> import dask.array as da
    >>> from pylops_dispatch.testing import assert_lazy
    >>> with assert_lazy():
    ...     y = 2 * da.ones(3)
    >>> with assert_lazy(budget=1) as executions:
    ...     total = float(y.sum())
    >>> executions.count
    1
    """
    whole = isinstance(budget, numbers.Integral) and not isinstance(budget, bool)
    if budget is not None and not (whole and budget >= 0):
        raise ValueError(
            f"budget must be a number of executions, 0 or more, or None, got {budget!r}"
        )
    seen = Executions()
    lock = threading.Lock()

    def counted(run: Callable[..., Any]) -> Callable[..., Any]:
        def get(dsk: Any, keys: Any, **kwargs: Any) -> Any:
            execution = _execution(dsk)
            with lock:
                seen.runs.append(execution)
                count = seen.count
            if budget is not None and count > budget:
                raise UnexpectedExecution(
                    f"execution {count} with a budget of {budget}; it asks for {str(keys)[:200]}"
                )
            return run(dsk, keys, **kwargs)

        return get

    schedulers = dask.base.named_schedulers
    configured = dask.base.get_scheduler() or dask.threaded.get
    # "processes" imports its scheduler when it is first asked for
    named = {name: counted(run) for name, run in schedulers.items() if callable(run)}
    with mock.patch.dict(schedulers, named), dask.config.set(scheduler=counted(configured)):
        yield seen
    if budget is not None and seen.count > budget:
        raise UnexpectedExecution(f"{seen.count} executions with a budget of {budget}")


# ---------------------------------------------------------------- comparison


def _tolerance(*dtypes: Any) -> float:
    inexact = [np.dtype(d) for d in dtypes if np.dtype(d).kind in "fc"]
    return max((100 * float(np.finfo(d).eps) for d in inexact), default=0.0)


def _require_tolerance(rtol: Any) -> None:
    if rtol is not None and not (isinstance(rtol, (int, float, np.floating)) and rtol >= 0):
        raise ValueError(f"rtol must be a number, 0 or more, or None, got {rtol!r}")


@contextmanager
def _told_of(text: str) -> Iterator[None]:
    """Add to any error in the block what was being checked."""
    try:
        yield
    except Exception as error:
        error.add_note(text)
        raise


def assert_close(
    actual: Any, expected: Any, *, rtol: float | None = None, scale: float | None = None
) -> None:
    """Assert that arrays are equal within rounding.

    Parameters
    ----------
    actual, expected : array_like
        What is, and what should be. Values that are not finite must be the same.
    rtol : float, optional
        Largest error, relative to the largest expected value, however small that is; 100 times
        the precision of the less precise of the two by default.
    scale : float, optional
        Size of the values that these come of, where they may cancel: errors are relative to it
        if all that is expected is smaller. By default it matters only where all is to be zero,
        and is 0.01.

    Raises
    ------
    AssertionError
        If shapes or values differ; it says where the error is the largest.
    ValueError
        If `rtol` is no tolerance.
    """
    _require_tolerance(rtol)
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape} instead of {expected.shape}"
    if expected.dtype.kind not in "fciu":
        np.testing.assert_array_equal(actual, expected)
        return
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    actual, expected = actual[finite], expected[finite]
    if expected.size == 0:
        return
    rtol = _tolerance(actual.dtype, expected.dtype) if rtol is None else rtol
    places = np.argwhere(finite)
    if {actual.dtype.kind, expected.dtype.kind} <= {*"biu"}:  # whose own differences overflow
        actual, expected = actual.astype(np.longdouble), expected.astype(np.longdouble)
    largest = float(np.max(np.abs(expected)))
    errors = np.abs(actual - expected)
    error = float(np.max(errors))
    size = (largest or 1e-2) if scale is None else max(largest, scale)
    assert error <= rtol * size, (
        f"largest error {error:.3e} at {tuple(map(int, places[np.argmax(errors)]))}, "
        f"largest value {largest:.3e}, rtol {rtol:.1e}"
    )


def _assert_same(result: Any, expected: Any, rtol: float | None = None) -> None:
    """Assert that a dask array says what it is, and is what NumPy gives."""
    assert type(result) is da.Array, f"{type(result)} instead of dask.array.Array"
    assert result.shape == expected.shape, f"shape {result.shape} instead of {expected.shape}"
    assert result.dtype == expected.dtype, f"dtype {result.dtype} instead of {expected.dtype}"
    meta = result._meta
    assert type(meta) is np.ndarray, f"_meta is a {type(meta)}"
    assert (meta.dtype, meta.ndim) == (expected.dtype, expected.ndim), f"_meta is {meta!r}"
    sums = tuple(sum(axis) for axis in result.chunks)
    assert sums == expected.shape, f"chunks {result.chunks} for the shape {expected.shape}"
    blocks = [result.blocks[index] for index in np.ndindex(*result.numblocks)]
    values, *computed = dask.compute(result, *blocks, scheduler="synchronous")
    for block, value in zip(blocks, computed, strict=True):
        assert np.shape(value) == block.shape, f"a block of {block.shape} is {np.shape(value)}"
    assert values.dtype == expected.dtype, f"values of {values.dtype}, said {expected.dtype}"
    assert_close(values, expected, rtol=rtol)


# ------------------------------------------------------------------- chunkings


def _cut(n: int, at: Any) -> tuple[int, ...]:
    edges = [0, *sorted({int(i) for i in at if 0 < i < n}), n]
    return tuple(int(i) for i in np.diff(edges)) if n else (0,)


def _uneven(shape: Shape, seed: int) -> Chunks:
    rng = np.random.default_rng([seed, *shape])
    return tuple(_cut(n, rng.integers(1, n, size=2)) if n > 1 else (n,) for n in shape)


def _single(n: int) -> tuple[int, ...]:
    # the first and the last samples alone, all of them where they are not many
    return (1,) * n if n <= 16 else (1,) * 8 + (n - 16,) + (1,) * 8


def _layouts(shape: Shape) -> list[Chunks]:
    """Return whole, uneven chunks, and single samples along one axis at a time."""
    whole = tuple((n,) for n in shape)
    singles = [
        (*whole[:axis], _single(n), *whole[axis + 1 :]) for axis, n in enumerate(shape) if n > 1
    ]
    return [whole, _uneven(shape, 1), _uneven(shape, 2), *singles]


def chunks_of(shape: int | tuple[int, ...]) -> Any:
    """Draw any chunks of an array: whole, single samples or uneven, axis by axis.

    Parameters
    ----------
    shape : int or tuple of int
        Shape of the array.

    Returns
    -------
    hypothesis.strategies.SearchStrategy
        Of chunks as ``dask.array.from_array`` takes them.

    Raises
    ------
    ImportError
        If hypothesis is not installed.

    Examples
    --------
    >>> from hypothesis import given
    >>> from pylops_dispatch.testing import chunks_of
    >>> @given(chunks=chunks_of((6, 5)))
    ... def test_something(chunks):
    ...     assert [sum(axis) for axis in chunks] == [6, 5]
    """
    st = _needed("hypothesis.strategies", "chunks_of")
    lengths = shape if np.iterable(shape) else (shape,)

    def axis(n: int) -> Any:
        if n < 2:
            return st.just((n,))
        cuts = st.lists(st.integers(1, n - 1), min_size=1, max_size=3).map(lambda at: _cut(n, at))
        return st.one_of(st.just((n,)), cuts, cuts, st.just(_single(n)))

    return st.tuples(*(axis(int(n)) for n in lengths))


def _needed(module: str, function: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"pylops_dispatch.testing.{function} needs {package}: pip install {package}"
        ) from error


# ------------------------------------------------------------- one operator


def _vector(op: Any, shape: Shape, seed: int, dtype: Any = None) -> Any:
    """Return seeded normal numbers of the operator's dtype."""
    dtype = np.dtype(op.dtype if dtype is None else dtype)
    rng = np.random.default_rng([seed, *shape])
    values = rng.normal(size=shape)
    if dtype.kind == "c":
        values = values + 1j * rng.normal(size=shape)
    return np.asarray(values * (9 if dtype.kind in "iu" else 1)).astype(dtype)


def _inputs(op: Any, adjoint: bool) -> list[Shape]:
    """Return the shapes of input: of the operator's dimensions, and flat."""
    dims = tuple(int(n) for n in (op.dimsd if adjoint else op.dims))
    flat = (int(op.shape[0 if adjoint else 1]),)
    return [flat] if len(dims) < 2 else [dims, flat]


def _directions(op: Any, adjoint: bool) -> Iterator[tuple[Callable[[Any], Any], Shape, bool]]:
    """Yield how to apply the operator, the shape of what it is applied to, and whether it is .H."""
    for shape in _inputs(op, False):
        yield (lambda x: op @ x), shape, False
    if adjoint:
        for shape in _inputs(op, True):
            yield (lambda x: op.H @ x), shape, True


def _chunked(x: Any, chunks: Any) -> da.Array:
    return da.from_array(x, chunks=chunks(x.shape) if callable(chunks) else chunks)


def assert_dask_equal(
    op: Any,
    x: Any = None,
    *,
    chunks: Any = None,
    adjoint: bool = True,
    adjoint_chunks: Any = None,
    reference: Any = None,
    rtol: float | None = None,
) -> None:
    """Assert that an operator does the same to dask arrays as to NumPy arrays.

    It is applied to the model, and its adjoint to the data, n-dimensional and flat. The result
    must be a lazy dask array, built without any execution, of NumPy's shape, dtype and values,
    that pickles and has the same name when it is made again; the input must not change.

    Parameters
    ----------
    op : pylops.LinearOperator
        What is checked.
    x : numpy.ndarray, optional
        Model to apply it to, instead of random ones.
    chunks : int, tuple or callable, optional
        Chunks of the model as dask takes them, or a function of the shape that returns them;
        uneven ones by default.
    adjoint : bool, optional
        Whether the operator has an adjoint, which is then checked too.
    adjoint_chunks : int, tuple or callable, optional
        Chunks of the data; those of `chunks` where it is a number or a function.
    reference : pylops.LinearOperator, optional
        The same operator made of NumPy arrays, where `op` is made of dask arrays.
    rtol : float, optional
        As in :func:`assert_close`.

    Raises
    ------
    AssertionError
        Saying what differs.
    TypeError
        If `op` is no operator, or `x` no NumPy array.
    ValueError
        If chunks are of other axes than anything that the operator is applied to.

    Examples
    --------
    >>> import pylops
    >>> from pylops_dispatch.testing import assert_dask_equal
    >>> assert_dask_equal(pylops.FirstDerivative((8, 5), axis=0), chunks=3)
    """
    require_operator(op, "op")
    if x is not None:
        require_numpy(x)
    reference = op if reference is None else reference
    anywhere = chunks if chunks is None or np.isscalar(chunks) or callable(chunks) else None
    of_data = anywhere if adjoint_chunks is None else adjoint_chunks
    for backwards in (False, True) if adjoint else (False,):
        chosen = of_data if backwards else chunks
        shapes = [x.shape] if x is not None and not backwards else _inputs(op, backwards)
        if isinstance(chosen, tuple) and all(len(chosen) != len(shape) for shape in shapes):
            raise ValueError(
                f"chunks {chosen} are of {len(chosen)} axes, and {type(op).__name__} is applied to "
                f"arrays of shape {' and '.join(map(str, shapes))}"
            )
        for shape in shapes:
            x0 = x if x is not None and not backwards else _vector(op, shape, 1)
            layout = chosen
            if chosen is None or (isinstance(chosen, tuple) and len(chosen) != len(shape)):
                layout = _uneven(shape, 1)
            direction, same = (op.H, reference.H) if backwards else (op, reference)
            with _told_of(_described(op, backwards, shape, layout)):
                _assert_equal(direction, same, x0, layout, rtol)


def _described(op: Any, adjoint: bool, shape: Shape, chunks: Any) -> str:
    """Say what was applied to what."""
    laid_out = chunks(shape) if callable(chunks) else chunks
    name = f"{type(op).__name__}{'.H' if adjoint else ''}"
    return f"of {name} on an array of shape {shape} in chunks of {laid_out}"


def _assert_equal(op: Any, reference: Any, x0: Any, chunks: Any, rtol: float | None) -> None:
    kept = x0.copy()
    expected = reference @ x0.copy()
    x = _chunked(x0, chunks)
    name, layout = x.name, x.chunks
    with assert_lazy():
        y, again = op @ x, op @ x
        copy = cloudpickle.loads(cloudpickle.dumps(y))
    _assert_same(y, expected, rtol)
    assert again.name == y.name, f"the same result has two names: {y.name} and {again.name}"
    assert_close(copy.compute(scheduler="synchronous"), expected, rtol=rtol)
    assert (x.name, x.chunks) == (name, layout), "the input is another array now"
    np.testing.assert_array_equal(x0, kept, "the input was written to")


def dask_dottest(
    op: Any,
    *,
    chunks: Any = None,
    complexflag: int = 0,
    rtol: float = 1e-6,
    atol: float = 1e-21,
    seed: int = 0,
) -> None:
    """Run PyLops's dot test with dask vectors: ``<op u, v>`` equals ``<u, op.H v>``.

    Parameters
    ----------
    op : pylops.LinearOperator
        What is tested.
    chunks : int, tuple or callable, optional
        Chunks of the flat vectors, or a function of the shape; uneven ones by default.
    complexflag : {0, 1, 2, 3}, optional
        Vectors that are complex: none, the model, the data, both.
    rtol, atol : float, optional
        Tolerances of ``numpy.isclose``.
    seed : int, optional
        Of the random vectors.

    Raises
    ------
    AssertionError
        If the two products differ.
    TypeError
        If `op` is no operator.
    ValueError
        If `complexflag` is none of the four.

    Examples
    --------
    >>> import pylops
    >>> from pylops_dispatch.testing import dask_dottest
    >>> dask_dottest(pylops.FirstDerivative(20), chunks=6)
    """
    require_operator(op, "op")
    if complexflag not in (0, 1, 2, 3):
        raise ValueError(f"complexflag must be 0, 1, 2 or 3, got {complexflag!r}")
    real = np.zeros(0, op.dtype).real.dtype if np.dtype(op.dtype).kind in "fc" else float
    kinds = (np.dtype(real), np.result_type(real, np.complex64))
    u0 = _vector(op, (op.shape[1],), seed, kinds[complexflag in (1, 3)])
    v0 = _vector(op, (op.shape[0],), seed + 1, kinds[complexflag in (2, 3)])
    u, v = (_chunked(a, (lambda s: _uneven(s, 3)) if chunks is None else chunks) for a in (u0, v0))
    with assert_lazy():
        y, x = op @ u, op.H @ v
        if getattr(op, "clinear", True):
            left, right = da.vdot(y, v), da.vdot(u, x)
        else:
            left = da.dot(y.real, v.real) + da.dot(y.imag, v.imag)
            right = da.dot(u.real, x.real) + da.dot(u.imag, x.imag)
    left, right = dask.compute(left, right, scheduler="synchronous")
    if complexflag == 0:
        left, right = np.real(left), np.real(right)
    assert np.isclose(left, right, rtol=rtol, atol=atol), (
        f"the dot test fails: <op u, v> = {left}, <u, op.H v> = {right}"
    )


# -------------------------------------------------------------- all the laws


@dataclass(frozen=True)
class _Settings:
    adjoint: bool
    complexflag: int | None
    rtol: float | None
    one_task: bool
    examples: int


def _equal(op: Any, settings: _Settings) -> None:
    assert_dask_equal(op, adjoint=settings.adjoint, rtol=settings.rtol)


def _linear(op: Any, settings: _Settings) -> None:
    for apply, shape, backwards in _directions(op, settings.adjoint):
        x0, y0 = _vector(op, shape, 3), _vector(op, shape, 4)
        layout = _uneven(shape, 3)
        x, y = da.from_array(x0, layout), da.from_array(y0, _uneven(shape, 4))
        complex_too = x0.dtype.kind == "c" and getattr(op, "clinear", True)
        a, b = (2 - 1j, -3 + 0.5j) if complex_too else (2, -3)
        with assert_lazy():
            together, apart = apply(a * x + b * y), a * apply(x) + b * apply(y)
        together, apart = dask.compute(together, apart, scheduler="synchronous")
        # sums of vectors are rounded as these are
        rtol = settings.rtol or 10 * _tolerance(apart.dtype, x0.dtype)
        with _told_of(_described(op, backwards, shape, layout)):
            assert_close(together, apart, rtol=rtol)


def _adjoint(op: Any, settings: _Settings) -> None:
    if not settings.adjoint:
        return
    dtype = np.dtype(op.dtype)
    flag = settings.complexflag
    flag = (3 if dtype.kind == "c" else 0) if flag is None else flag
    rtol = settings.rtol or max(1e-6, 100 * _tolerance(dtype))
    # the products are sums of many terms, which may cancel
    data = np.asarray(op.matvec(_vector(op, (op.shape[1],), 8)))
    atol = rtol * float(np.linalg.norm(data) * np.sqrt(op.shape[0]))
    dask_dottest(op, complexflag=flag, rtol=rtol, atol=atol)


def _layout(op: Any, settings: _Settings) -> None:
    for apply, shape, backwards in _directions(op, settings.adjoint):
        x0 = _vector(op, shape, 5)
        expected = apply(x0.copy())  # code may write into what it is given
        for chunks in _layouts(shape):
            with assert_lazy():
                y = apply(da.from_array(x0, chunks))
            with _told_of(_described(op, backwards, shape, chunks)):
                _assert_same(y, expected, settings.rtol)


_OTHER_PRECISION = {"f4": "f8", "f8": "f4", "c8": "c16", "c16": "c8"}


def _other_precision(op: Any, settings: _Settings) -> None:
    """Input of another dtype than the operator's gives what it gives for NumPy arrays."""
    other = _OTHER_PRECISION.get(np.dtype(op.dtype).str[1:])
    for apply, shape, backwards in _directions(op, settings.adjoint) if other else ():
        x0 = _vector(op, shape, 9, other)
        try:
            expected = apply(x0.copy())
        except Exception:
            continue  # NumPy arrays of this dtype are nothing for it either
        layout = _uneven(shape, 9)
        with _told_of(f"{_described(op, backwards, shape, layout)} and dtype {x0.dtype}"):
            with assert_lazy():
                y = apply(da.from_array(x0, layout))
            _assert_same(y, expected, settings.rtol)


def _any_chunks(op: Any, settings: _Settings) -> None:
    for apply, shape, backwards in _directions(op, settings.adjoint):
        x0 = _vector(op, shape, 6)
        with _told_of(_described(op, backwards, shape, "any size")):
            _for_any_chunks(shape, settings, x0, apply, apply(x0.copy()))


def _for_any_chunks(
    shape: Shape, settings: _Settings, x0: Any, apply: Callable[[Any], Any], expected: Any
) -> None:
    def check(chunks: Chunks) -> None:
        with assert_lazy():
            y = apply(da.from_array(x0, chunks))
        _assert_same(y, expected, settings.rtol)

    try:
        hypothesis = importlib.import_module("hypothesis")
    except ImportError:
        for seed in range(settings.examples):
            check(_uneven(shape, 10 + seed))
        return
    limits = hypothesis.settings(
        max_examples=settings.examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    limits(hypothesis.given(chunks_of(shape))(check))()


def _together(op: Any, settings: _Settings) -> None:
    """Results that differ must not share keys: computed in one graph, each is what it is alone."""
    shape = _inputs(op, False)[0]
    x = da.from_array(_vector(op, shape, 7), _uneven(shape, 7))
    with assert_lazy():
        results = [op @ x, op @ (2 * x)]
        if settings.adjoint:
            results += [op.H @ results[0], op.H @ results[1]]
    together = dask.compute(*results, scheduler="synchronous")
    for one, result in zip(together, results, strict=True):
        assert_close(one, result.compute(scheduler="synchronous"), rtol=settings.rtol)


_LAWS: dict[str, Callable[[Any, _Settings], None]] = {
    "equals_numpy": _equal,
    "linear": _linear,
    "adjoint": _adjoint,
    "independent_of_chunks": _layout,
    "any_chunks": _any_chunks,
    "other_precision": _other_precision,
    "computed_together": _together,
}


def _run_law(law: str, op: Any, settings: _Settings) -> None:
    with ExitStack() as stack:
        stack.enter_context(set_policy(whole_array="allow" if settings.one_task else "raise"))
        stack.enter_context(_told_of(f"in the check {law!r} of {type(op).__name__}"))
        try:
            _LAWS[law](op, settings)
        except WholeArrayError as error:
            error.add_note("where it cannot run by blocks, give one_task=True, whatever the policy")
            raise
        except NotImplementedError as error:
            if settings.adjoint:
                error.add_note("where it has no adjoint, give adjoint=False")
            raise


def check_operator(
    op: Any,
    *,
    adjoint: bool = True,
    complexflag: int | None = None,
    rtol: float | None = None,
    one_task: bool = False,
    examples: int = 10,
) -> None:
    """Check all that should hold for an operator on dask arrays.

    It gives what it gives for NumPy arrays, n-dimensional and flat; it is linear; its adjoint
    is one; the values do not depend on the chunks, be they uneven, single samples, or drawn by
    hypothesis where that is installed; input of another precision gives NumPy's values and
    dtype; nothing is executed before it is asked for; shape, dtype, ``_meta`` and blocks are what
    the lazy array says; results pickle, have the same name when they are made again, and share no
    key when they differ; dask arrays that go in do not change, also where code writes into the
    NumPy arrays that it is given.

    Parameters
    ----------
    op : pylops.LinearOperator
        A small one is best: up to some ten samples along each axis.
    adjoint : bool, optional
        Whether the operator has an adjoint.
    complexflag : {0, 1, 2, 3}, optional
        Of :func:`dask_dottest`; by default that of the operator's dtype.
    rtol : float, optional
        As in :func:`assert_close`.
    one_task : bool, optional
        Whether the operator may run in one task on the whole vector, because it has no rule and
        its own code cannot work on blocks. By default that is a failure.
    examples : int, optional
        Number of chunkings that are drawn.

    Raises
    ------
    AssertionError
        Saying what does not hold.
    pylops_dispatch.NotDispatchedError
        If the operator needs the whole vector in one task, and `one_task` is false.
    TypeError
        If `op` is no operator.
    ValueError
        If `rtol` is no tolerance, or `examples` no number of them.

    Examples
    --------
    >>> import pylops
    >>> from pylops_dispatch.testing import check_operator
    >>> check_operator(pylops.Laplacian((5, 6)), examples=2)
    """
    require_operator(op, "op")
    _require_tolerance(rtol)
    settings = _Settings(adjoint, complexflag, rtol, one_task, require_count(examples, "examples"))
    for law in _LAWS:
        _run_law(law, op, settings)


def operator_tests(
    *make: Callable[[], Any],
    adjoint: bool = True,
    complexflag: int | None = None,
    rtol: float | None = None,
    one_task: bool = False,
    examples: int = 10,
) -> type:
    """Make a test class for pytest that checks operators: one test for each law.

    Parameters
    ----------
    *make : callable
        Each returns an operator, in one setting of its parameters.
    adjoint, complexflag, rtol, one_task, examples
        As in :func:`check_operator`.

    Returns
    -------
    type
        To be given a name that pytest collects: ``TestBlur = operator_tests(...)``.

    Raises
    ------
    ImportError
        If pytest is not installed.
    TypeError
        If nothing is to be tested, or something that is not a function.
    """
    pytest = _needed("pytest", "operator_tests")
    if not make or not all(callable(m) and not hasattr(m, "matvec") for m in make):
        raise TypeError("operator_tests needs functions that make operators: lambda: Blur((7, 5))")
    _require_tolerance(rtol)
    settings = _Settings(adjoint, complexflag, rtol, one_task, require_count(examples, "examples"))

    def test(law: str) -> Callable[..., None]:
        def method(self: Any, make_operator: Callable[[], Any]) -> None:
            _run_law(law, make_operator(), settings)

        method.__name__, method.__doc__ = f"test_{law}", _LAWS[law].__doc__
        return method

    ids = [str(number) for number in range(len(make))]
    tests = {f"test_{law}": test(law) for law in _LAWS}
    cls = type("OperatorTests", (), tests)
    return pytest.mark.parametrize("make_operator", make, ids=ids)(cls)
