"""Every public operator of PyLops, in several settings.

Importing a family's module adds its entries to ``CATALOGUE``.
"""

from __future__ import annotations

from . import avo, basicoperators, medical, signalprocessing, waveeqprocessing
from .basicoperators import UserBlur, UserDifference, UserNorm, UserWeights
from .entry import (
    CATALOGUE,
    DTYPES,
    UNAVAILABLE,
    Entry,
    add,
    adjoint,
    build,
    case_id,
    data,
    model,
    nd,
)

WITH_COEFFICIENTS = [entry for entry in CATALOGUE if entry.coefficients]
CASES = [(entry, "numpy") for entry in CATALOGUE] + [(entry, "dask") for entry in WITH_COEFFICIENTS]
# a few entries of each operator, for laws that do not depend on its settings; all compositions
SOME = [
    entry
    for entry in CATALOGUE
    if "composition" in entry.covers
    or any([e for e in CATALOGUE if name in e.covers].index(entry) < 2 for name in entry.covers)
]
SOME_CASES = [case for case in CASES if case[0] in SOME]
ELEMENTWISE = [entry for entry in CATALOGUE if entry.kind == "elementwise"]
STENCILS = [entry for entry in CATALOGUE if entry.kind == "stencil"]

__all__ = [
    "CASES",
    "CATALOGUE",
    "DTYPES",
    "ELEMENTWISE",
    "SOME",
    "SOME_CASES",
    "STENCILS",
    "UNAVAILABLE",
    "WITH_COEFFICIENTS",
    "Entry",
    "UserBlur",
    "UserDifference",
    "UserNorm",
    "UserWeights",
    "add",
    "adjoint",
    "avo",
    "basicoperators",
    "build",
    "case_id",
    "data",
    "medical",
    "model",
    "nd",
    "signalprocessing",
    "waveeqprocessing",
]
