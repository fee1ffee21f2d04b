"""Rules of ``pylops.waveeqprocessing``."""

from __future__ import annotations

import functools
import itertools
import threading
from typing import Any

import dask.array as da
import numpy as np
import pylops
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from pylops import waveeqprocessing as we
from pylops.waveeqprocessing import oneway

from pylops_dispatch import blocks
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.halos import Span, fold, gather
from pylops_dispatch.naming import name_of
from pylops_dispatch.operators import dims_of, rebuilt, resized, shaped, title
from pylops_dispatch.pieces import balanced
from pylops_dispatch.rules.castings import added_up
from pylops_dispatch.rules.table import FUNCTIONS, RULES, alone, compose, parallel_sum
from pylops_dispatch.whole_axes import whole_along

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
    if hasattr(op._kirch_matvec, "py_func"):  # Numba's loops add up in zeros(..., self.dtype)
        added_up(op, x)
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


def _blending(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> DispatchArray:
    """Shift and blend blocks of sources, each on the part of the record that it reaches."""
    _require_long_record(op)
    if not op.shiftall:
        return _blended(cls, op, box, adjoint)
    # all shifts at once, by the rules of the shift; sources in blocks only to be blended
    blend = resized(op, (op.ns, op.nr, op.nt + 1), op.dimsd)
    blend.ShiftOp = blend.PadOp = None
    if not adjoint:
        shifted = op.ShiftOp._matvec(op.PadOp._matvec(box))
        return _blended(cls, blend, shifted, adjoint)
    shifted = _blended(cls, blend, box, adjoint)
    return op.PadOp._rmatvec(op.ShiftOp._rmatvec(shifted))


def _require_long_record(op: Any) -> None:
    """Raise if a source goes on after the record's end: blended_data[:, shift_int : ...] += ..."""
    for source, shift in enumerate(op.shifts):
        on_the_grid = not op.shiftall and op.ShiftOps[source] is None
        end = int(shift) + int(op.nt) + (not on_the_grid)
        if end > op.nttot:
            raise ValueError(
                f"{title(op)}: source {source} is recorded up to sample {end}, and the record has "
                f"{int(op.nttot)}: give a larger nttot, or none"
            )


def _blended(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> DispatchArray:
    def apply(x: DaskArray) -> DaskArray:
        return _blend(cls, op, x, adjoint)

    # both are written into ncp.zeros(..., dtype=self.dtype)
    return shaped(op, box, adjoint, op.dtype if adjoint else added_up(op, box.dtype), apply)


def _blend(cls: type, op: Any, piece: DaskArray, adjoint: bool) -> DaskArray:
    dims, dimsd = dims_of(op, False)
    piece = piece if adjoint else whole_along(piece, (2,), title(op))
    sources = balanced(dims[0], min(dims[0], piece.numblocks[1])) if adjoint else piece.chunks[0]
    spans = _reached(op, sources)
    x = gather(piece, 1, spans) if adjoint else piece
    template, held = blocks.taken_apart(op)
    y = da.blockwise(
        functools.partial(_blend_block, cls=cls, sources=sources, spans=spans, adjoint=adjoint),
        (0, 1, 2) if adjoint else (1, 0),
        x,
        (1, 0) if adjoint else (0, 1, 2),
        blocks.starts(sources),
        (0,),
        *blocks.whole_arguments(held, 3),
        name=f"Blending-{'rmatvec' if adjoint else 'matvec'}-{tokenize(name_of(op), x.name)}",
        new_axes={2: dims[2]} if adjoint else None,
        adjust_chunks={0: sources if adjoint else tuple(high - low for low, high in spans)},
        align_arrays=False,
        dtype=op.dtype,
        meta=np.empty((0,) * (3 if adjoint else 2), op.dtype),
        op=blocks.embed(template),
    )
    return y if adjoint else fold(y, 1, spans, _record_chunks(spans, dimsd[1]))


def _reached(op: Any, sources: tuple[int, ...]) -> list[Span]:
    """Return the samples of the record that each block of sources reaches."""
    spans = []
    for start, stop in itertools.pairwise(np.cumsum([0, *sources])):
        shifts = [int(shift) for shift in op.shifts[start:stop]]
        spans.append((min(shifts), min(max(shifts) + op.nt + 1, int(op.nttot))))
    return spans


def _record_chunks(spans: list[Span], n: int) -> tuple[int, ...]:
    """Return chunks of the record that start where blocks of sources do."""
    edges = sorted({0, *(low for low, _ in spans if 0 < low < n), n})
    return tuple(high - low for low, high in itertools.pairwise(edges))


def _blend_block(
    x: Any, start: Any, *arrays: Any, cls: type, op: Any, sources: Any, spans: Any, adjoint: bool
) -> Any:
    """Run the unmodified class on one block of sources."""
    x, first = blocks.single(x), int(blocks.single(start)[0])
    block = int(np.searchsorted(np.cumsum(sources), first, side="right"))
    (low, high), count = spans[block], sources[block]
    new = blocks.filled(op, [blocks.single(array) for array in arrays])
    receivers = x.shape[0 if adjoint else 1]
    dims = (count, receivers, int(op.dims[2]))
    new = resized(new, dims, (receivers, high - low))
    new.ns, new.nr, new.nttot = count, receivers, high - low
    new.shifts = [int(shift) - low for shift in op.shifts[first : first + count]]
    if op.shiftall:
        new.ShiftOp = new.PadOp = pylops.Identity(dims, dtype=op.dtype)
    else:
        new.PadOp = resized(op.PadOp, (receivers, op.nt), (receivers, op.nt + 1))
        new.ShiftOps = [
            None if shift is None else _first_axis(shift, receivers)
            for shift in op.ShiftOps[first : first + count]
        ]
    return blocks.run(cls, new, x, adjoint).reshape(new.dims if adjoint else new.dimsd)


def _first_axis(op: Any, n: int) -> Any:
    """Return a tree of operators that work along the second axis, for `n` rows."""
    dims, dimsd = dims_of(op, False)
    if dims[0] == n:
        return op
    return resized(rebuilt(op, lambda part: _first_axis(part, n)), (n, *dims[1:]), (n, *dimsd[1:]))


RULES[we.BlendingContinuous] = parallel_sum(
    _blending, "blocks of sources, on the part of the record that they reach"
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
