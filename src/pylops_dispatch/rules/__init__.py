"""The capability table and what reads it."""

from __future__ import annotations

import sys
from typing import get_args

from pylops_dispatch.rules import (
    avo,
    basic,
    combinations,
    medical,
    signalprocessing,
    spread,
    transforms,
    waveeqprocessing,
)
from pylops_dispatch.rules.running import run_rule
from pylops_dispatch.rules.table import (
    FUNCTIONS,
    RULES,
    Kind,
    Rule,
    alone,
    compose,
    halo,
    parallel_sum,
    whole,
    whole_axis,
)

__all__ = [
    "RULES",
    "Rule",
    "alone",
    "capabilities",
    "compose",
    "halo",
    "parallel_sum",
    "register_rule",
    "run_rule",
    "whole",
    "whole_axis",
]

# importing fills the table
_FAMILIES = (
    avo,
    basic,
    combinations,
    medical,
    signalprocessing,
    spread,
    transforms,
    waveeqprocessing,
)


def register_rule(cls: type, rule: Rule) -> None:
    """Declare how an operator class runs on blocks.

    Parameters
    ----------
    cls : type
        Subclass of :class:`pylops.LinearOperator`, which may inherit its ``_matvec``. The rule
        is for this class itself: a subclass that overrides ``_matvec`` needs one of its own.
    rule : Rule
        Made by :func:`alone`, :func:`halo`, :func:`whole_axis`, :func:`compose`,
        :func:`parallel_sum` or :func:`whole`.

    Raises
    ------
    TypeError
        If `cls` is not an operator class, or `rule` not a rule.
    ValueError
        If `rule` is of no such kind, or does not say what its kind needs: terms that have no
        names, neighbours without their number, or axes without theirs.

    Examples
    --------
    >>> import pylops, pylops_dispatch
    >>> class Neighbours(pylops.LinearOperator):
    ...     pass
    >>> pylops_dispatch.register_rule(Neighbours, pylops_dispatch.halo(2))
    """
    import pylops

    from pylops_dispatch import activation

    base = pylops.LinearOperator  # of which all operators would have the rule
    if not (isinstance(cls, type) and issubclass(cls, base)) or cls is base:
        raise TypeError(f"cls must be a subclass of pylops.LinearOperator, got {cls!r}")
    if not isinstance(rule, Rule):
        raise TypeError(f"rule must be a Rule, such as halo(1), got {rule!r}")
    if rule.kind not in get_args(Kind):
        raise ValueError(f"a rule is one of {', '.join(get_args(Kind))}, got {rule.kind!r}")
    says = {
        "alone": (rule.depth, "to be made by alone()"),
        "halo": (rule.depth, "a number of samples"),
        "whole_axis": (rule.axes, "the axes"),
        "parallel_sum": (rule.terms, "the names of the axes of both model and data"),
    }
    said, needed = says.get(rule.kind, ("", ""))
    if said is None and rule.run is None:
        raise ValueError(f"{rule.kind}() needs {needed}")
    new = cls not in RULES
    RULES[cls] = rule
    if new and activation.is_enabled():
        activation.change_operator(cls)


def capabilities() -> dict[str, Rule]:
    """Return the capability table: qualified name to rule.

    Returns
    -------
    dict
        The rules of PyLops's public operators, by the name that users import them by, whether
        they are classes or functions that build an operator, and of registered classes.
    """
    found = {
        f"{_namespace(cls)}.{cls.__qualname__}": rule
        for cls, rule in RULES.items()
        if not cls.__name__.startswith("_")
    }
    return {**found, **FUNCTIONS}


def _namespace(cls: type) -> str:
    """Return the package of PyLops's that exports a class, or else the module that defines it."""
    parts = cls.__module__.split(".")
    if parts[0] != "pylops":
        return cls.__module__
    package = ".".join(parts[:2])
    return (
        package
        if hasattr(sys.modules[package], "__path__") and parts[1] != "basicoperators"
        else "pylops"
    )
