"""What an operator will do to an array, told before anything runs."""

from __future__ import annotations

import html
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask.array.core import Array as DaskArray
from dask.utils import format_bytes

from pylops_dispatch.arguments import require_dask, require_direction
from pylops_dispatch.array import check_vector
from pylops_dispatch.foresight import foreseen, stand_in
from pylops_dispatch.operators import arrays_of, dims_of, parts
from pylops_dispatch.pieces import Chunks, largest_block
from pylops_dispatch.placing import where_blocks_lie
from pylops_dispatch.policy import PerformanceWarning
from pylops_dispatch.suggesting import moved_by_axis
from pylops_dispatch.workers import number_of_workers


@dataclass(frozen=True)
class Plan:
    """What an operator will do to an array whose blocks are in memory.

    Parameters
    ----------
    operator : str
        Name of the operator, of a composition with those that it is made of.
    adjoint : bool
        Which direction.
    input_chunks, output_chunks : tuple
        Chunks of the array, and of the result.
    input_bytes, output_bytes, largest_block : int
        All of the input, all of the output, and the largest block of either.
    tasks : int
        Tasks that a scheduler will run: those of the graph as dask optimises it, without the
        blocks that are data, of which a cluster makes tasks too. Exact.
    threads : int
        That work at a time, for `peak_bytes`.
    workers : int
        Of the cluster that dask runs on, 1 where it runs in this process.
    peak_bytes : int
        Estimate of what is held at once: input, output, and what is in between. Temporaries
        inside a task are not known.
    moved : dict
        Estimate of the bytes that come from another block, by what moves them: ``"halo"``,
        ``"rechunk"``, ``"gather"``, ``"reduction"``, ``"blocks"``, and of what the operator
        holds, ``"coefficients"``. It is what a cluster would send if each block of the input
        had a worker of its own; on a cluster that has the input in memory, what its workers send
        each other, where tasks run on the workers that have most of what they read.
    fallbacks : tuple of str
        Operators that run in one task on the whole vector, and why.
    advice : tuple of str
        What to do about it.
    result : dask.array.Array
        Of the same graph, for :meth:`visualize`; its blocks hold no data.
    """

    operator: str
    adjoint: bool
    input_chunks: Chunks
    output_chunks: Chunks
    input_bytes: int
    output_bytes: int
    largest_block: int
    tasks: int
    threads: int
    workers: int
    peak_bytes: int
    moved: dict[str, int]
    fallbacks: tuple[str, ...]
    advice: tuple[str, ...]
    result: DaskArray = field(repr=False, compare=False)

    @property
    def moved_bytes(self) -> int:
        """All bytes that come from another block."""
        return sum(self.moved.values())

    @property
    def peak_bytes_per_worker(self) -> int:
        """What each worker holds at once, if blocks are spread evenly."""
        return -(-self.peak_bytes // self.workers)

    def rows(self) -> list[tuple[str, str]]:
        """Return the plan as names and values to be read.

        Returns
        -------
        list of tuple of str
            A name and a value for each line.
        """
        return [
            ("operator", self.operator + (", adjoint" if self.adjoint else "")),
            ("input", _described(self.input_chunks, self.input_bytes)),
            ("output", _described(self.output_chunks, self.output_bytes)),
            ("largest block", format_bytes(self.largest_block)),
            ("tasks", str(self.tasks)),
            ("peak", peak_text(self)),
            ("moved", moved_text(self.moved)),
            *(("whole vector", text) for text in self.fallbacks),
            *(("advice", text) for text in self.advice),
        ]

    def __str__(self) -> str:
        return text_of(self.rows())

    __repr__ = __str__  # what a prompt shows

    def _repr_html_(self) -> str:
        return html_of(self.rows())

    def visualize(self, **kwargs: Any) -> Any:
        """Draw the graph as dask optimises it, which needs graphviz.

        Parameters
        ----------
        **kwargs
            For dask's own ``visualize``.

        Returns
        -------
        IPython.display.Image or None
            What dask gives: a picture in a notebook, and a file.
        """
        return self.result.visualize(**{"optimize_graph": True, **kwargs})


def text_of(rows: list[tuple[str, str]]) -> str:
    """Return the rows of a plan as lines."""
    width = max(14, *(len(name) + 2 for name, _ in rows))
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows)


def html_of(rows: list[tuple[str, str]]) -> str:
    """Return the rows of a plan as a table for a notebook."""
    found = (
        f"<tr><th style='text-align:left;white-space:pre'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    return f"<table>{''.join(found)}</table>"


def peak_text(planned: Any) -> str:
    """Return the bytes that are held at once, to be read."""
    text = f"{format_bytes(planned.peak_bytes)} on {planned.threads} threads"
    if planned.workers == 1:
        return text
    share = format_bytes(planned.peak_bytes_per_worker)
    return f"{text}, {share} on each of {planned.workers} workers"


def moved_text(moved: Mapping[str, int]) -> str:
    """Return the bytes that move, by what moves them, to be read."""
    return ", ".join(f"{format_bytes(n)} {kind}" for kind, n in moved.items()) or "nothing"


def fallbacks_of(caught: Iterable[warnings.WarningMessage]) -> tuple[str, ...]:
    """Return what warnings say of operators that run in one task on the whole vector."""
    found = (str(w.message) for w in caught if issubclass(w.category, PerformanceWarning))
    return tuple(dict.fromkeys(text.partition(" Silence")[0] for text in found))


def _described(chunks: Chunks, n_bytes: int) -> str:
    shape = " x ".join(str(sum(axis)) for axis in chunks)
    count = math.prod(len(axis) for axis in chunks)
    return f"{shape}, {count} chunk{'s' * (count != 1)}, {format_bytes(n_bytes)}"


def plan_operator(Op: Any, x: DaskArray, adjoint: bool = False, threads: int = 1) -> Plan:
    """Say what applying an operator to an array will do, without doing it.

    Parameters
    ----------
    Op : pylops.LinearOperator
        Operator.
    x : dask.array.Array
        What it is applied to. Its chunks count, not how it comes about: the plan is for
        blocks that are in memory.
    adjoint : bool, optional
        Whether ``Op.H @ x`` is meant.
    threads : int, optional
        That work at a time. Default 1.

    Returns
    -------
    Plan
        Prints as text, and shows as a table in a notebook.

    Raises
    ------
    TypeError
        If `x` is no dask array, or `adjoint` neither true nor false.
    """
    require_dask(x)
    check_vector(x)
    require_direction(adjoint)
    held = stand_in(x)
    y, graph, caught = foreseen(Op, held, adjoint)
    fallbacks = fallbacks_of(caught)
    lying = where_blocks_lie({**{a.name: a for a in arrays_of(Op)}, held.name: x})
    moved = graph.moved({held.name}, lying)
    peak = graph.peak(threads, {held.name: int(held.nbytes)})
    return Plan(
        operator=public_name(Op),
        adjoint=adjoint,
        input_chunks=x.chunks,
        output_chunks=y.chunks,
        input_bytes=int(x.nbytes),
        output_bytes=int(y.nbytes),
        largest_block=max(largest_block(x), largest_block(y)),
        tasks=graph.count,
        threads=threads,
        workers=number_of_workers(),
        peak_bytes=max(peak, int(x.nbytes + y.nbytes)),  # blocks of zeros may be one and the same
        moved=moved,
        fallbacks=fallbacks,
        advice=tuple(_advice(Op, x, adjoint, moved, fallbacks)),
        result=y,
    )


def public_name(op: Any) -> str:
    """Return the name under which PyLops has an operator, whichever class implements it."""
    bare = _bare_name(op)
    private = type(op).__name__.startswith("_") and bare not in _exported(op)
    held = ", ".join(map(_bare_name, parts(op)))
    return f"{bare}({held})" if private and held else bare


def _bare_name(op: Any) -> str:
    name = type(op).__name__
    if not name.startswith("_"):
        return name
    public = [each for each in _exported(op) if name.startswith(f"_{each}")]
    return max(public, key=len, default=name.strip("_").removesuffix("LinearOperator") or name)


def _exported(op: Any) -> Sequence[str]:
    return getattr(sys.modules.get(type(op).__module__), "__all__", ())


def _advice(
    op: Any, x: DaskArray, adjoint: bool, moved: Mapping[str, int], fallbacks: tuple[str, ...]
) -> Iterator[str]:
    if fallbacks:
        yield "an operator runs in one task: register a rule for it, or keep it small"
    dims = dims_of(op, adjoint)[0]
    if x.shape != dims and x.ndim == 2 and len(x) == math.prod(dims):
        if x.numblocks[0] > 1 and any(kind != "coefficients" for kind in moved):
            yield "chunk along axis 1, that of the columns, instead of 0: no data moves"
    elif x.ndim != len(dims):
        yield f"give it an array of shape {dims}: a flattened one has lost its chunks"
    elif any(kind != "coefficients" for kind in moved):
        moves = moved_by_axis(op, adjoint, x.dtype)
        free = [str(a) for a, n in moves.items() if n == 0]
        cut = [str(a) for a, n in moves.items() if n != 0 and x.numblocks[a] > 1]
        if free and cut:
            yield f"chunk along axis {' or '.join(free)} instead of {', '.join(cut)}: no data moves"
    if largest_block(x) > 256 << 20:
        yield "blocks are large: see pylops_dispatch.suggest_chunks"
    elif largest_block(x) < 1 << 20 and math.prod(x.numblocks) > 64:
        yield "blocks are small, tasks cost more than the work: see pylops_dispatch.suggest_chunks"
