"""A norm that LSQR asks about on its way: it is taken for positive until it is known.

``LSQR.step`` (pylops/optimization/cls_basic.py) applies its operator, asks ``if self.beta > 0``,
and applies the adjoint if so. To read the norm there takes an execution between the two. It is
zero only when the solution has been found exactly; so the step goes on, and should the norm turn
out to be zero in the execution that follows, is undone and taken again, with the norm read.
"""

from __future__ import annotations

import functools
import operator
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from pylops.optimization.cls_basic import LSQR

from pylops_dispatch.array import DispatchArray, session

_STEP = LSQR.step.__code__  # before anything of PyLops's is replaced


class Assumption(NamedTuple):
    """A comparison that is taken for true in a step, and the norm that it is of."""

    comparison: DispatchArray
    norm: DispatchArray


class WrongAssumption(BaseException):
    """What a step has taken for true is not, or an error came up while it was not known.

    No error of a user's code, which may catch those.
    """


def may_assume(solver: Any) -> bool:
    """Whether steps of a solver may take something for true."""
    return isinstance(solver, LSQR)


def norm_in_question(frame: FrameType) -> Any:
    """Return the norm that ``LSQR.step`` asks about before it reads any, if `frame` is of it.

    To do without reading the one after it, ``if self.alfa > 0``, would make all numbers of the step
    lazy: a graph that takes longer than a second execution.
    """
    if frame.f_code is not _STEP:
        return None
    found = frame.f_locals
    solver = found["self"]
    if isinstance(found, dict):
        found.clear()  # before Python 3.13 a copy, which the frame would keep
    return solver.beta


def without_zero(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what is divided, and by what: a norm that is taken for positive is 1 if it is not."""
    current = session.get()
    assumed = None if current is None else current.assumed
    if assumed is None:
        return inputs
    return tuple(x + ~assumed.comparison if x is assumed.norm else x for x in inputs)


class _Linalg:
    """``numpy.linalg`` with norms of lists of numbers that are lazy."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np.linalg, name)

    @staticmethod
    def norm(x: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what ``numpy.linalg.norm`` does."""
        if isinstance(x, list) and any(map(_is_lazy, x)):
            return _norm_of_numbers(x)
        return np.linalg.norm(x, *args, **kwargs)


class NumPyOfSolvers:
    """What ``np`` is in pylops/optimization/cls_basic.py.

    ``LSQR.step`` has the norm of a list in which a number may be lazy,
    ``np.linalg.norm([self.anorm, to_numpy(self.alfa), to_numpy(self.beta), self.damp])``, of which
    NumPy would make an array; that is no argument that tells NumPy of its kind (NEP 18).
    """

    linalg = _Linalg()

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _is_lazy(value: Any) -> bool:
    return isinstance(value, DispatchArray) and value.value is None


def _norm_of_numbers(values: list[Any]) -> DispatchArray:
    kinds = [np.ones((), v.dtype)[()] if isinstance(v, DispatchArray) else v for v in values]
    dtype = np.asarray(kinds).dtype
    squares = (v * v for v in (np.asarray(1, dtype)[()] * v for v in values))
    return np.sqrt(functools.reduce(operator.add, squares))
