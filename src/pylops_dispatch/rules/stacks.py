"""Stacks of operators: PyLops's serial code, on boxes, whatever pool the operator has."""

from __future__ import annotations

from typing import Any

from pylops.linearoperator import aslinearoperator

from pylops_dispatch.array import DispatchArray
from pylops_dispatch.operators import duplicate


def run(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> Any:
    """Run the terms of a stack apart; dask's scheduler takes the place of the pool.

    ``inoutengine`` would make NumPy buffers (``VStack._matvec_serial``), and a SciPy operator's
    own ``matvec`` asks for a NumPy array, so that a copy of the stack is run without either.
    """
    serial = duplicate(op)
    serial.inoutengine = None
    serial.ops = [aslinearoperator(part) for part in op.ops]
    return serial._rmatvec_serial(box) if adjoint else serial._matvec_serial(box)
