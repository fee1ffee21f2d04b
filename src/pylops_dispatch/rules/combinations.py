"""Rules of the operators that PyLops makes of others: sums, products, adjoints, and the like."""

from __future__ import annotations

from pylops import linearoperator as lo

from pylops_dispatch.rules.running import COMBINATIONS, added, deepest, repeated
from pylops_dispatch.rules.table import RULES, compose

COMBINATIONS.update(
    {
        lo.LinearOperator: deepest,
        lo._ScaledLinearOperator: deepest,
        lo._ConjLinearOperator: deepest,
        lo._AdjointLinearOperator: deepest,
        lo._TransposedLinearOperator: deepest,
        lo._RealImagLinearOperator: deepest,
        lo._SumLinearOperator: deepest,
        lo._ProductLinearOperator: added,
        lo._PowerLinearOperator: repeated,
    }
)

RULES.update(
    {
        cls: compose("local operators run together, in one task for each block")
        for cls in COMBINATIONS
        if cls.__module__ == lo.__name__ and cls is not lo.LinearOperator
    }
)
RULES[lo._ColumnLinearOperator] = compose()
