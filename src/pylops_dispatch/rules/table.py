"""The capability table: for each operator class, how it runs on blocks.

This is the single place where that is declared: the dispatch, the tests and the docs read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pylops_dispatch.arguments import require_count

Kind = Literal["alone", "halo", "whole_axis", "compose", "parallel_sum", "whole"]
Depth = Callable[[Any], tuple[int | tuple[int, int], ...] | None]
Axes = Callable[[Any], tuple[int, ...]]
Dtype = Callable[[Any, Any, bool], Any]
Run = Callable[[type, Any, Any, bool], Any]
Fit = Callable[[Any], None]
Place = Callable[[Any, tuple[int, ...]], None]
Tile = Callable[[Any, tuple[bool, ...]], None]
Kernel = Callable[[Any, Any, bool], Any]


@dataclass(frozen=True)
class Terms:
    """The axes of an operator by name: see :func:`parallel_sum`."""

    model: tuple[str, ...]
    data: tuple[str, ...]
    coefficients: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lengths: Mapping[str, str] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    unused: Callable[[Any, bool], tuple[str, ...]] | None = None
    positions: Mapping[str, str] = field(default_factory=dict)
    kernel: Kernel | None = None
    sizes: Callable[[Any, Any, bool], dict[str, tuple[int, ...]]] | None = None


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
        ``dtype(op, dtype of the input, adjoint)`` returns the dtype of the output. Without it,
        or where it returns None, one line of samples along `axes` is run to learn it.
    fit : callable, optional
        ``fit(op)`` sets what else follows from the dims of a copy for a block.
    place : callable, optional
        ``place(op, starts)`` tells a copy for a block where in the operator's dims it lies.
    tile : callable, optional
        ``tile(op, inner)`` tells a copy for a tile along which axes both its ends are halo,
        whose samples are thrown away.
    terms : callable, optional
        ``terms(op)`` returns the names of the axes of an operator that is a sum of terms, or
        None if this one is not.
    run : callable, optional
        ``run(cls, op, box, adjoint)`` returns a box, or NotImplemented to go on to PyLops's
        own code.
    inverse : callable, optional
        ``inverse(op, box)`` returns a box, in place of the class's own method ``inverse``.
    factors : callable, optional
        ``factors(op)`` returns operators along one of the axes each, which applied one after
        another do what the operator does: there is no other axis to be parallel over.
    """

    kind: Kind
    note: str = ""
    depth: Depth | None = field(default=None, repr=False)
    coefficients: tuple[str, ...] = ()
    axes: Axes | None = field(default=None, repr=False)
    dtype: Dtype | None = field(default=None, repr=False)
    fit: Fit | None = field(default=None, repr=False)
    place: Place | None = field(default=None, repr=False)
    tile: Tile | None = field(default=None, repr=False)
    terms: Callable[[Any], Terms | None] | None = field(default=None, repr=False)
    run: Run | None = field(default=None, repr=False)
    inverse: Callable[[Any, Any], Any] | None = field(default=None, repr=False)
    factors: Callable[[Any], list[Any]] | None = field(default=None, repr=False)

    @property
    def local(self) -> bool:
        """Whether the operator can be one of a tree that runs on a block in one task."""
        return self.depth is not None


RULES: dict[type, Rule] = {}

# PyLops's public functions that build operators, or solve: how what they build runs
FUNCTIONS: dict[str, Rule] = {}


def alone(coefficients: tuple[str, ...] = (), note: str = "") -> Rule:
    """Rule for an operator that works element by element.

    Parameters
    ----------
    coefficients : tuple of str, optional
        Attributes that hold arrays to multiply by: of the operator's dims, of length one along
        axes where they do not vary, or flat. Each block has its own part of them, in the same
        form. Numbers, None and all that is not named are for every block.
    note : str, optional
        For the table.

    Returns
    -------
    Rule
        For :func:`register_rule`. It is for operators whose `dims` and `dimsd` are the same.
    """
    return Rule("alone", _text(note), lambda op: (0,) * len(op.dims), _names(coefficients))


def halo(
    depth: int | tuple[int, ...] | Depth,
    coefficients: tuple[str, ...] = (),
    note: str = "",
    axes: Axes | None = None,
    place: Place | None = None,
    tile: Tile | None = None,
) -> Rule:
    """Rule for an operator that needs `depth` neighbouring samples on either side.

    Parameters
    ----------
    depth : int, tuple of int, or callable
        For every axis, for each axis of ``op.dims``, or a function of the operator. It must
        cover both forward and adjoint, and the samples at the ends that the operator treats
        in another way. A function may return pairs, forward and adjoint, or None for an
        operator that has no such neighbourhood.
    coefficients : tuple of str, optional
        Attributes that hold arrays to multiply by: of the operator's dims, of length one along
        axes where they do not vary, or flat. Each block has its own part of them, in the same
        form. Numbers, None and all that is not named are for every block.
    note : str, optional
        For the table.
    axes : callable, optional
        Axes that must be one block, from the operator.
    place : callable, optional
        ``place(op, starts)`` tells a copy of an operator for a block where the block lies, for
        operators that count samples from the start of an axis.
    tile : callable, optional
        ``tile(op, inner)`` tells a copy for a tile along which axes both its ends are halo.

    Returns
    -------
    Rule
        For :func:`register_rule`. It is for operators whose `dims` and `dimsd` are the same.

    Raises
    ------
    TypeError, ValueError
        If `depth` is no number of samples, nor one for each axis, nor a function.
    """
    given = depth
    if not callable(given):
        each = given if isinstance(given, (tuple, list, np.ndarray)) else (given,)
        sizes = tuple(require_count(n, "depth, in samples,", 0) for n in each)
        one = each is not given

        def given(op: Any) -> tuple[int | tuple[int, int], ...]:
            return sizes * len(op.dims) if one else sizes

    _require_functions(axes=axes, place=place, tile=tile)
    return Rule(
        "halo",
        _text(note),
        _of_each_axis(given),
        _names(coefficients),
        None if axes is None else _within(axes),
        place=place,
        tile=tile,
    )


_WHOLE_NUMBERS = (int, np.integer)


def _of_each_axis(depth: Depth) -> Depth:
    """Return a function that gives depths for the operator's axes, or says that they are none."""

    def checked(op: Any) -> tuple[int | tuple[int, int], ...] | None:
        found = depth(op)
        if found is not None and (not np.iterable(found) or len(found) != len(op.dims)):
            raise ValueError(
                f"the rule of {type(op).__name__} has a halo of {found!r}, and the operator has "
                f"dims {tuple(op.dims)}: a number of samples for each axis is needed. Give halo() "
                "one number for all axes, or a function of the operator that returns one for each"
            )
        for given in found or ():
            pair = given if isinstance(given, tuple) and len(given) == 2 else (given,)
            if not all(isinstance(n, _WHOLE_NUMBERS) and n >= 0 for n in pair):
                raise ValueError(
                    f"the rule of {type(op).__name__} has a halo of {found!r}: {given!r} is no "
                    "number of samples, which is an integer, 0 or more, nor a pair of these, for "
                    "forward and adjoint"
                )
        return found

    return checked


def whole_axis(
    axes: int | tuple[int, ...] | Axes,
    note: str = "",
    dtype: Dtype | None = None,
    fit: Fit | None = None,
) -> Rule:
    """Rule for an operator whose work lies along `axes`, and is independent along the others.

    Parameters
    ----------
    axes : int, tuple of int, or callable
        The axes; negative ones count from the last. Or a function of the operator.
    note : str, optional
        For the table.
    dtype : callable, optional
        ``dtype(op, dtype of the input, adjoint)`` returns that of the output. Without it, or
        where it returns None, a line of zeros is run to learn it.
    fit : callable, optional
        ``fit(op)`` sets what follows from the dims of a copy for a block, besides ``dims``,
        ``dimsd`` and ``shape``.

    Returns
    -------
    Rule
        For :func:`register_rule`.

    Raises
    ------
    TypeError
        If `axes` are neither integers nor a function.
    """
    given = axes
    if not callable(given):
        each = given if isinstance(given, (tuple, list)) else (given,)
        for axis in each:
            if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
                raise TypeError(
                    "axes must be integers, or a function of the operator that returns them, "
                    f"got {axis!r}"
                )
        fixed = tuple(each)

        def given(op: Any) -> tuple[int, ...]:
            return fixed

    _require_functions(dtype=dtype, fit=fit)
    return Rule("whole_axis", _text(note), axes=_within(given), dtype=dtype, fit=fit)


def _within(axes: Axes) -> Axes:
    """Return a function that gives axes of the operator's dims, or says that they are none."""

    def checked(op: Any) -> tuple[int, ...]:
        found, n = axes(op), len(op.dims)
        found = found if np.iterable(found) else (found,)
        for axis in found:
            if not isinstance(axis, (int, np.integer)) or not -n <= axis < n:
                raise ValueError(
                    f"the rule of {type(op).__name__} gives {axis!r} for an axis, and the operator "
                    f"has dims {tuple(op.dims)}: axes are integers from {-n} to {n - 1}"
                )
        return tuple(int(axis) % n for axis in found)

    return checked


def compose(note: str = "", run: Run | None = None) -> Rule:
    """Rule for an operator whose own Python code runs on lazy arrays.

    Parameters
    ----------
    note : str, optional
        For the table.
    run : callable, optional
        ``run(cls, op, box, adjoint)`` returns a box, or NotImplemented to go on to the
        operator's own code. A box is the array that PyLops's code sees.

    Returns
    -------
    Rule
        For :func:`register_rule`.
    """
    _require_functions(run=run)
    return Rule("compose", _text(note), run=run)


def parallel_sum(
    run: Run | None = None,
    note: str = "",
    *,
    model: str = "",
    data: str = "",
    coefficients: Mapping[str, str] | None = None,
    lengths: Mapping[str, str] | None = None,
    whole: str = "",
    unused: Callable[[Any, bool], tuple[str, ...]] | None = None,
    positions: Mapping[str, str] | None = None,
    dtype: Dtype | None = None,
    fit: Fit | None = None,
    kernel: Kernel | None = None,
) -> Rule:
    """Rule for an operator that is a sum of independent terms, added in a tree.

    Either `run` does it all, or the axes are named, as in ``einsum``, and what the operator
    holds is cut along them: axes that model and data share are independent of each other,
    and those that only the input has are summed over.

    Parameters
    ----------
    run : callable, optional
        ``run(cls, op, box, adjoint)`` returns a box, or NotImplemented.
    note : str, optional
        For the table.
    model, data : str
        Names of the axes of the operator's ``dims`` and ``dimsd``, with spaces between.
    coefficients : mapping, optional
        Names of the axes of arrays that the operator holds, by attribute; ``.`` for an axis
        that is never cut. An array with fewer axes than names is reshaped first.
    lengths : mapping, optional
        Attributes that hold the length of an axis, with its name.
    whole : str, optional
        Names of axes that must be one block.
    unused : callable, optional
        ``unused(op, adjoint)`` returns the coefficients that this direction does without.
    positions : mapping, optional
        Attributes to be set, for `fit`, to where along an axis the samples of a block lie,
        with the name of that axis.
    dtype : callable, optional
        ``dtype(op, dtype of the input, adjoint)`` returns that of the output. Without it, or
        where it returns None, one sample of zeros is run to learn it.
    fit : callable, optional
        ``fit(op)`` sets what else follows from the lengths of a copy for a block.
    kernel : callable, optional
        ``kernel(op, block, adjoint)`` runs in place of the operator's own method, for one
        that cannot take a block of a single sample.

    Returns
    -------
    Rule
        For :func:`register_rule`.

    Raises
    ------
    TypeError
        If `model`, `data` or `whole` is no text.
    ValueError
        If only one of `model` and `data` is given, or names in neither are used, or twice.

    Examples
    --------
    An operator like :class:`pylops.signalprocessing.Fredholm1`:

    >>> rule = parallel_sum(
    ...     model="slice column right", data="slice row right",
    ...     coefficients={"G": "slice row column"},
    ...     lengths={"nsl": "slice", "nx": "row", "ny": "column", "nz": "right"},
    ... )  # doctest: +SKIP
    """
    for name, given in (("model", model), ("data", data), ("whole", whole)):
        if not isinstance(given, str):
            raise TypeError(f"{name} must be names with spaces between, got {given!r}")
    for name, mapping in (
        ("coefficients", coefficients),
        ("lengths", lengths),
        ("positions", positions),
    ):
        if mapping is not None and not isinstance(mapping, Mapping):
            raise TypeError(
                f"{name} must be a mapping of attributes to names of axes, got {mapping!r}"
            )
        for attribute, names in (mapping or {}).items():
            if not isinstance(names, str):
                raise TypeError(f"{name}[{attribute!r}] must be names of axes, got {names!r}")
    _require_functions(run=run, unused=unused, dtype=dtype, fit=fit, kernel=kernel)
    if bool(model) != bool(data):
        raise ValueError("parallel_sum() needs the names of the axes of both model and data")
    terms = Terms(
        tuple(model.split()),
        tuple(data.split()),
        {name: tuple(axes.split()) for name, axes in (coefficients or {}).items()},
        dict(lengths or {}),
        frozenset(whole.split()),
        unused,
        dict(positions or {}),
        kernel,
    )
    named = {*terms.model, *terms.data}
    used = {*(lengths or {}).values(), *terms.whole, *(positions or {}).values()}
    unknown = sorted(used.union(*terms.coefficients.values()) - named - {"."})
    if model and unknown:
        raise ValueError(
            f"{', '.join(map(repr, unknown))}: no axis of the model, {model!r}, or of the data, "
            f"{data!r}"
        )
    for axes in (terms.model, terms.data):
        if len(set(axes)) < len(axes):
            raise ValueError(f"the axes {' '.join(axes)!r} need names that differ")
    known = (lambda op: terms) if model else None
    return Rule("parallel_sum", _text(note), run=run, terms=known, dtype=dtype, fit=fit)


def whole(reason: str, dtype: Dtype | None = None) -> Rule:
    """Rule for an operator that truly couples every sample: one task, never parallel.

    Parameters
    ----------
    reason : str
        Why; what the warning says.
    dtype : callable, optional
        ``dtype(op, dtype of the input, adjoint)`` returns that of the output.

    Returns
    -------
    Rule
        For :func:`register_rule`.

    Raises
    ------
    ValueError
        If there is no `reason`.
    """
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(f"whole() needs a reason, which its warning gives, got {reason!r}")
    return Rule("whole", reason, dtype=dtype)


def _require_functions(**given: Any) -> None:
    for name, value in given.items():
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be a function, got {value!r}")


def _text(note: Any) -> str:
    if not isinstance(note, str):
        raise TypeError(f"note must be text for the table, got {note!r}")
    return note


def _names(coefficients: Any) -> tuple[str, ...]:
    if isinstance(coefficients, (tuple, list)) and all(isinstance(n, str) for n in coefficients):
        return tuple(coefficients)
    raise TypeError(f"coefficients must be a tuple of names of attributes, got {coefficients!r}")
