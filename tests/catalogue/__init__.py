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
ELEMENTWISE = [entry for entry in CATALOGUE if entry.kind == "elementwise"]
STENCILS = [entry for entry in CATALOGUE if entry.kind == "stencil"]

__all__ = [
    "CASES",
    "CATALOGUE",
    "DTYPES",
    "ELEMENTWISE",
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
