"""Shared tools: counted executions, comparison with NumPy, chunkings."""

from __future__ import annotations

import contextlib
import gc
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.base import compute_as_if_collection
from dask.core import flatten
from hypothesis import strategies as st

from pylops_dispatch.optimisation import straight_tasks
from pylops_dispatch.testing import Executions, assert_close, assert_lazy

# ---------------------------------------------------------------- executions


def graph_of(collection: Any) -> dict[Any, Any]:
    """The plain dictionary of tasks of a collection, an expression or a graph."""
    if hasattr(collection, "__dask_graph__"):
        collection = collection.__dask_graph__()
    return dict(collection)


@contextlib.contextmanager
def count_executions(budget: int | None = None, threads: bool = False) -> Iterator[Executions]:
    """Count (and record) every graph that dask executes in this block.

    With a ``budget``, the execution that exceeds it raises ``UnexpectedExecution``.
    """
    scheduler = "threads" if threads else "synchronous"
    with dask.config.set(scheduler=scheduler), assert_lazy(budget) as seen:
        yield seen


def forbid_executions() -> contextlib.AbstractContextManager[Executions]:
    """No graph may be executed in this block."""
    return count_executions(budget=0)


def overlook_what_there_is() -> None:
    """Let the garbage collector, and what it lists, pass over all objects made so far."""
    gc.collect()
    gc.freeze()


# ---------------------------------------------------------------- comparison


def tolerance(dtype: Any) -> float:
    dtype = np.dtype(dtype)
    if dtype.kind not in "fc":
        return 0.0
    return 100 * float(np.finfo(dtype).eps)


def assert_same(
    result: Any, expected: np.ndarray, *, rtol: float | None = None, as_in_a_solver: bool = True
) -> None:
    """A lazy dask array with the shape, the dtype and the values of ``expected``.

    Its graph is optimised as in a solver, which is faster for small blocks, or as dask does it.
    """
    assert type(result) is da.Array, f"{type(result)} instead of dask.array.Array"
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    assert type(result._meta) is np.ndarray
    assert result._meta.dtype == expected.dtype
    assert result._meta.ndim == expected.ndim
    assert tuple(sum(axis) for axis in result.chunks) == expected.shape
    with straight_tasks() if as_in_a_solver else contextlib.nullcontext():
        blocks = compute_as_if_collection(
            da.Array, result.__dask_graph__(), result.__dask_keys__(), scheduler="synchronous"
        )
    said = itertools.product(*result.chunks)
    for block, shape in zip(flatten(blocks, (list, tuple)), said, strict=True):
        assert np.shape(block) == shape, f"a block of {shape} is {np.shape(block)}"
        assert block.dtype == expected.dtype, f"a block is of {block.dtype}, not {expected.dtype}"
    values = da.core.finalize(blocks)
    assert type(values) is np.ndarray or expected.ndim == 0
    assert_close(values, expected, rtol=rtol)


def assert_bitwise(actual: Any, expected: Any) -> None:
    assert type(actual) is type(expected)
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()


def noting(made: list[Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of blocks, for ``map_blocks``, that adds the shape of each to `made`."""

    def block(x: np.ndarray) -> np.ndarray:
        made.append(x.shape)
        return x

    return block


# ------------------------------------------------------------ random arrays


def rand(shape: Any, dtype: Any = "float64", seed: int = 0) -> np.ndarray:
    """Seeded normal numbers, real or complex."""
    rng = np.random.default_rng([seed, *np.atleast_1d(shape)])
    dtype = np.dtype(dtype)
    values = rng.normal(size=shape)
    if dtype.kind == "c":
        values = values + 1j * rng.normal(size=shape)
    return np.asarray(values).astype(dtype)


# -------------------------------------------------------------------- chunks

Chunks = tuple[tuple[int, ...], ...]


def cut(n: int, at: Any) -> tuple[int, ...]:
    """The chunks of an axis of n samples cut at these positions."""
    edges = [0, *sorted({int(i) for i in at if 0 < i < n}), n]
    return tuple(int(i) for i in np.diff(edges)) if n else (0,)


def random_chunks(shape: tuple[int, ...], seed: int, parts: int = 3) -> Chunks:
    """Uneven chunks on every axis that is long enough to be cut."""
    rng = np.random.default_rng([seed, *shape])
    return tuple(
        cut(n, rng.integers(1, n, size=rng.integers(1, parts + 1))) if n > 1 else (n,)
        for n in shape
    )


def ones_chunks(shape: tuple[int, ...], axis: int) -> Chunks:
    """Chunks of one single sample on one axis, the other axes whole."""
    axis %= len(shape)
    return tuple((1,) * n if i == axis else (n,) for i, n in enumerate(shape))


@st.composite
def chunks_for(draw: Any, shape: tuple[int, ...]) -> Chunks:
    """Any chunks: one chunk, single samples, or uneven cuts, axis by axis."""
    chunks = []
    for n in shape:
        kind = draw(st.sampled_from(["whole", "uneven", "uneven", "ones"]))
        if n < 2 or kind == "whole":
            chunks.append((n,))
        elif kind == "ones" and n <= 8:
            chunks.append((1,) * n)
        else:
            at = draw(st.lists(st.integers(1, n - 1), min_size=1, max_size=3))
            chunks.append(cut(n, at))
    return tuple(chunks)


def to_dask(x: np.ndarray, chunks: Any) -> da.Array:
    return da.from_array(x, chunks=chunks)


def as_numpy_coefficient(a: np.ndarray) -> np.ndarray:
    return a


def as_dask_coefficient(a: np.ndarray) -> da.Array:
    """A lazy coefficient, cut unevenly on every axis."""
    return da.from_array(a, chunks=tuple(cut(n, [n // 3 + 1]) for n in a.shape))


COEFFICIENTS = {"numpy": as_numpy_coefficient, "dask": as_dask_coefficient}


NUMBER = re.compile(r"[-+]?\d+\.\d+(?:e[-+]?\d+)?j?", re.IGNORECASE)


def printed(text):
    """The words and the numbers of an output, without the times."""
    lines = [line for line in text.splitlines() if "Total time" not in line]
    text = "\n".join(lines)
    numbers_ = [complex(n) for n in NUMBER.findall(text)]
    return NUMBER.sub("#", text).split(), numbers_


def is_compiled(name):
    """Whether the entry of the catalogue, or the test of it, has Numba compile its kernels."""
    return "numba" in name or "PWSprayer2D" in name
