"""How an operator will run on blocks, told for each operator that it is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pylops import LinearOperator

from pylops_dispatch.arguments import require_operator
from pylops_dispatch.operators import parts
from pylops_dispatch.planning import html_of, text_of
from pylops_dispatch.rules import running
from pylops_dispatch.suggesting import SUMMED, costs_of_axes


@dataclass(frozen=True)
class Capability:
    """How an operator runs on blocks: prints as lines, and shows as a table in a notebook.

    Parameters
    ----------
    rows : tuple of tuple of str
        Names of the operator and of what it is made of, indented, and how each of them runs.
    """

    rows: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return text_of(list(self.rows))

    __repr__ = __str__  # what a prompt shows

    def _repr_html_(self) -> str:
        return html_of(list(self.rows))


def capability(Op: LinearOperator) -> Capability:
    """Say how an operator will run on blocks, and what its axes cost when they are cut.

    Parameters
    ----------
    Op : pylops.LinearOperator
        Operator, of any composition.

    Returns
    -------
    Capability
        To be printed.

    Raises
    ------
    TypeError
        If `Op` is no operator.

    See Also
    --------
    capabilities : The rules of all operators.
    plan : What an operator will do to one array.

    Examples
    --------
    >>> import pylops
    >>> import pylops_dispatch
    >>> D = pylops.FirstDerivative((400, 300), axis=0, kind="forward")
    >>> print(pylops_dispatch.capability(pylops.VStack([D, pylops.Identity(120_000)])))
    VStack             compose: operators apart, added in adjoint
      FirstDerivative  halo: 1 sample of neighbours along axis 0
      Identity         alone: each block by itself
    """
    require_operator(Op)
    return Capability(tuple(_rows(Op, (), False)))


_MEANINGS = {
    "alone": "each block by itself",
    "halo": "each block with samples of its neighbours",
    "whole_axis": "in parallel over the axes that stay cut",
    "compose": "PyLops's own code on lazy arrays",
    "parallel_sum": "independent terms, added in a tree",
    "whole": "one task with the whole vector",
}


def _rows(op: Any, around: tuple[Any, ...], inside: bool) -> Iterator[tuple[str, str]]:
    name = type(op).__name__.strip("_").removesuffix("LinearOperator") or type(op).__name__
    local = running.local_needs(op, adjoint=False) is not None
    yield "  " * len(around) + name, "in the same task" if inside else _how(op, local)
    inner = (*around, op)
    for part in parts(op, inner):
        yield from _rows(part, inner, local)


def _how(op: Any, local: bool) -> str:
    whole, added, halos = _needs(op)
    needs = [f"{samples} along {_axes(axes)}" for samples, axes in halos.items()]
    needs += [f"{_axes(whole)} in one block"] if whole else []
    if local:
        kind = "whole_axis" if whole else "halo" if halos else "alone"
        return f"{kind}: {', '.join(needs) or _MEANINGS[kind]}"
    rule = running.rule_of(op)
    unused = running.why_unused(op)
    if unused:
        return f"{unused}: its own code on lazy arrays, or else one task with the whole vector"
    if rule is None:
        return "no rule: its own code on lazy arrays, or else one task with the whole vector"
    needs += [f"added up along {_axes(added)}"] if added else []
    note = rule.note or _MEANINGS[rule.kind]
    return f"{rule.kind}: {'; '.join([note] if rule.kind == 'compose' else [note, *needs])}"


def _axes(axes: list[int]) -> str:
    return f"{'axis' if len(axes) == 1 else 'axes'} {', '.join(map(str, axes))}"


def _needs(op: Any) -> tuple[list[int], list[int], dict[str, list[int]]]:
    """Return the axes of the model that are one block, that are added up, and by their halo."""
    forward, adjoint = (costs_of_axes(op, way) for way in (False, True))
    whole = [axis for axis, cost in enumerate(forward) if math.isinf(cost)]
    added = [axis for axis, cost in enumerate(forward) if SUMMED <= cost < math.inf]
    halos: dict[str, list[int]] = {}
    for axis, (cost, back) in enumerate(zip(forward, adjoint, strict=False)):
        if max(cost, back) < SUMMED and (cost or back):
            samples = f"{cost:.0f}" if cost == back else f"{cost:.0f} (adjoint {back:.0f})"
            text = f"{samples} {'sample' if samples == '1' else 'samples'} of neighbours"
            halos.setdefault(text, []).append(axis)
    return whole, added, halos
