"""The capability table: for each operator class, how it runs on blocks.

This is the single place where that is declared: the dispatch, the tests and the docs read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["alone", "halo", "whole_axis", "compose", "parallel_sum", "whole"]
Depth = Callable[[Any], tuple[int | tuple[int, int], ...] | None]
Axes = Callable[[Any], tuple[int, ...]]
Dtype = Callable[[Any, Any, bool], Any]
Run = Callable[[type, Any, Any, bool], Any]


@dataclass(frozen=True)
class Rule:
    """How an operator class runs on blocks.

    Parameters
    ----------
    kind : {"alone", "halo", "whole_axis", "compose", "parallel_sum", "whole"}
        What the operator's work needs of the blocks.
    note : str
        What a user should know; for ``"whole"`` the reason.
    depth : callable, optional
        Samples needed on either side of a block for each axis of the operator's dims, or
        pairs of them, forward and adjoint; None if the settings of an operator rule it out.
    coefficients : tuple of str, optional
        Attributes that hold arrays to multiply by, with the operator's dims (or ones).
    axes : callable, optional
        Axes that must be one block.
    dtype : callable, optional
        ``dtype(op, dtype of the input, adjoint)`` returns the dtype of the output; without it
        one line of samples along `axes` is run to learn it.
    run : callable, optional
        ``run(cls, op, box, adjoint)`` returns a box, or NotImplemented to go on to PyLops's
        own code.
    """

    kind: Kind
    note: str = ""
    depth: Depth | None = None
    coefficients: tuple[str, ...] = ()
    axes: Axes | None = None
    dtype: Dtype | None = None
    run: Run | None = field(default=None, repr=False)

    @property
    def local(self) -> bool:
        """Whether the operator can be one of a tree that runs on a block in one task."""
        return self.depth is not None


RULES: dict[type, Rule] = {}


def alone(coefficients: tuple[str, ...] = (), note: str = "") -> Rule:
    """Rule for an operator that works element by element."""
    return Rule("alone", note, lambda op: (0,) * len(op.dims), coefficients)


def halo(
    depth: int | tuple[int, ...] | Depth, coefficients: tuple[str, ...] = (), note: str = ""
) -> Rule:
    """Rule for an operator that needs `depth` neighbouring samples on either side.

    Parameters
    ----------
    depth : int, tuple of int, or callable
        For every axis, for each axis of ``op.dims``, or a function of the operator. It must
        cover both forward and adjoint, and the samples at the ends that the operator treats
        in another way.
    coefficients : tuple of str, optional
        Attributes that hold arrays of the operator's dims to multiply by.
    note : str, optional
        For the table.
    """
    if callable(depth):
        return Rule("halo", note, depth, coefficients)
    given = depth
    return Rule(
        "halo",
        note,
        lambda op: (given,) * len(op.dims) if isinstance(given, int) else tuple(given),
        coefficients,
    )


def whole_axis(axes: Axes, note: str = "", dtype: Dtype | None = None) -> Rule:
    """Rule for an operator whose work lies along `axes`, and is independent along the others."""
    return Rule("whole_axis", note, axes=axes, dtype=dtype)


def compose(note: str = "", run: Run | None = None) -> Rule:
    """Rule for an operator whose own Python code runs on boxes."""
    return Rule("compose", note, run=run)


def parallel_sum(run: Run, note: str = "") -> Rule:
    """Rule for an operator that is a sum of independent terms, added in a tree."""
    return Rule("parallel_sum", note, run=run)


def whole(reason: str, dtype: Dtype | None = None) -> Rule:
    """Rule for an operator that truly couples every sample: one task, never parallel."""
    return Rule("whole", reason, dtype=dtype)
