"""Rules of ``pylops.waveeqprocessing``."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pylops
from pylops import waveeqprocessing as we
from pylops.waveeqprocessing import oneway

from pylops_dispatch.array import DispatchArray
from pylops_dispatch.operators import dims_of, rebuilt, resized
from pylops_dispatch.rules.running import run_terms
from pylops_dispatch.rules.table import FUNCTIONS, RULES, Rule, Terms, alone, compose, parallel_sum

RULES[oneway._PhaseShift] = alone(("gazx",))

# ---- Kirchhoff -------------------------------------------------------------------------------


def _fit_kirchhoff(op: Any) -> None:
    """Set what ``Kirchhoff.__init__`` derives from the numbers of sources and receivers."""
    op.nsnr = op.ns * op.nr
    for name in ("itrav", "travd", "six", "rix"):  # cut by source and receiver, used by pairs
        if getattr(op, name, None) is not None:
            array = getattr(op, name)
            setattr(op, name, array.reshape(*array.shape[:-2], op.nsnr))
    dims = (op.nsnr, op.nt)
    op.cop = rebuilt(op.cop, lambda part: resized(part, dims, dims), resized(op.cop, dims, dims))


def _kirchhoff_dtype(op: Any, x: Any, adjoint: bool) -> np.dtype[Any]:
    # the image is ncp.zeros(self.ni, dtype=self.dtype); data go through the wavelet
    return np.dtype(op.dtype) if adjoint else np.result_type(op.dtype, op.wav.dtype)


RULES[we.Kirchhoff] = parallel_sum(
    note="sources apart; their images are added up",
    model="first depth",
    data="source receiver time",
    coefficients={
        "trav_srcs": ". source",
        "trav_recs": ". receiver",
        "amp_srcs": ". source",
        "amp_recs": ". receiver",
        "angle_srcs": ". source",
        "angle_recs": ". receiver",
        "itrav": ". source receiver",
        "travd": ". source receiver",
        "six": "source receiver",
        "rix": "source receiver",
    },
    lengths={"ns": "source", "nr": "receiver"},
    whole="first depth time",
    dtype=_kirchhoff_dtype,
    fit=_fit_kirchhoff,
)

# ---- blending --------------------------------------------------------------------------------

_BLENDING = Terms(
    ("source", "receiver", "time"),
    ("receiver", "total"),
    lengths={"ns": "source", "nr": "receiver"},
    whole=frozenset({"time", "total"}),
    positions={"_sources": "source", "_receivers": "receiver"},
)


def _fit_blending(op: Any) -> None:
    """Choose the sources of a block, and resize their shifts to its receivers."""
    op.shifts = [op.shifts[source] for source in op._sources]
    if op.shiftall:
        op.ShiftOp = op.PadOp = pylops.Identity(op.dims, dtype=op.dtype)
        return
    op.PadOp = resized(op.PadOp, (op.nr, op.nt), (op.nr, op.nt + 1))
    chosen = [op.ShiftOps[source] for source in op._sources]
    op.ShiftOps = [None if shift is None else _first_axis(shift, op.nr) for shift in chosen]


def _first_axis(op: Any, n: int) -> Any:
    """Return a tree of operators that work along the second axis, for `n` rows."""
    dims, dimsd = dims_of(op, False)
    if dims[0] == n:
        return op
    return resized(rebuilt(op, lambda part: _first_axis(part, n)), (n, *dims[1:]), (n, *dimsd[1:]))


def _blending(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> DispatchArray:
    """Shift all sources at once by the rules of the shift, and blend them by blocks."""
    if not op.shiftall:
        return run_terms(cls, op, box, adjoint)
    shifted = (op.ns, op.nr, op.nt + 1)
    blend = resized(op, shifted, op.dimsd)
    blend.ShiftOp = blend.PadOp = None
    if not adjoint:
        box = op.ShiftOp._matvec(op.PadOp._matvec(box))
        return run_terms(cls, blend, box, adjoint)
    box = run_terms(cls, blend, box, adjoint)
    return op.PadOp._rmatvec(op.ShiftOp._rmatvec(box))


RULES[we.BlendingContinuous] = Rule(
    "parallel_sum",
    "sources apart, added up where they overlap",
    terms=lambda op: _BLENDING,
    fit=_fit_blending,
    run=_blending,
)

# ---- two-way modelling -----------------------------------------------------------------------

# Devito keeps its symbols and buffers in tables of the process that no lock guards
_devito = threading.Lock()


def _fit_shots(op: Any) -> None:
    """Choose the shots of a block, as ``AcousticWave2D._born_allshots`` chooses one."""
    all_shots = op.geometry
    op.geometry = type(all_shots)(
        op.model,
        all_shots.rec_positions,
        all_shots.src_positions[op._shots],
        all_shots.t0,
        all_shots.tn,
        f0=all_shots.f0,
        src_type=all_shots.src_type,
    )
    if hasattr(op, "src_wavefield"):
        op.src_wavefield = [op.src_wavefield[shot] for shot in op._shots]


def _shots(op: Any, x: Any, adjoint: bool) -> Any:
    with _devito:
        return op._rmatvec(x.ravel()) if adjoint else op._matvec(x.ravel())


RULES[we.AcousticWave2D] = parallel_sum(
    note="shots apart, one at a time in each process",
    model="across depth",
    data="shot receiver time",
    positions={"_shots": "shot"},
    whole="across depth receiver time",
    dtype=lambda op, x, adjoint: np.float32,
    fit=_fit_shots,
    kernel=_shots,
)

# ---- functions -------------------------------------------------------------------------------

_OBLIQUE = "Fourier transforms, and weights block by block"
FUNCTIONS |= {
    "pylops.waveeqprocessing.MDC": compose("transforms along time, then frequencies apart"),
    "pylops.waveeqprocessing.PhaseShift": compose(_OBLIQUE),
    "pylops.waveeqprocessing.BlendingGroup": compose("sources apart, added up by groups"),
    "pylops.waveeqprocessing.BlendingHalf": compose("sources apart, added up by groups"),
    "pylops.waveeqprocessing.PressureToVelocity": compose(_OBLIQUE),
    "pylops.waveeqprocessing.UpDownComposition2D": compose(_OBLIQUE),
    "pylops.waveeqprocessing.UpDownComposition3D": compose(_OBLIQUE),
    "pylops.waveeqprocessing.MDD": compose("a solver"),
    "pylops.waveeqprocessing.Marchenko": compose("a solver"),
    "pylops.waveeqprocessing.LSM": compose("a solver"),
    "pylops.waveeqprocessing.Deghosting": compose("a solver"),
    "pylops.waveeqprocessing.SeismicInterpolation": compose("a solver"),
    "pylops.waveeqprocessing.WavefieldDecomposition": compose("a solver"),
}
