"""Rules of ``pylops.medical``."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import Array as DaskArray
from pylops import medical

from pylops_dispatch import blocks
from pylops_dispatch.array import DispatchArray
from pylops_dispatch.naming import layer_name, name_of
from pylops_dispatch.operators import dims_of, shaped
from pylops_dispatch.pieces import balanced
from pylops_dispatch.placing import coefficient
from pylops_dispatch.rules.table import RULES, compose, parallel_sum

# projections of an image in one block are made in up to this many tasks
_BLOCKS = 8


def _tomography(cls: type, op: Any, box: DispatchArray, adjoint: bool) -> DispatchArray:
    """Project by blocks of angles; a task makes an operator of its own for its angles.

    A ``CT2D`` owns objects of ASTRA by number and deletes them when it goes, so that it can be
    neither copied nor sent to another process.
    """

    def apply(x: DaskArray) -> DaskArray:
        return _projections(cls, op, x, adjoint)

    return shaped(op, box, adjoint, box.dtype, apply)


def _projections(cls: type, op: Any, piece: DaskArray, adjoint: bool) -> DaskArray:
    dims, dimsd = dims_of(op, False)
    angles = piece.chunks[0] if adjoint else balanced(dimsd[0], min(dimsd[0], _BLOCKS))
    x: DaskArray = piece.rechunk({1: -1}) if adjoint else piece.rechunk(-1)
    fan = "_fanflat" if op.proj_geom_type == "fanflat" and op.engine == "cpu" else ""
    settings = {
        "dims": dims,
        "det_width": op.det_width,
        "det_count": op.det_count,
        "engine": op.engine,
        "proj_geom_type": op.proj_geom_type,
        "source_origin_dist": op.source_origin_dist,
        "origin_detector_dist": op.origin_detector_dist,
        "projector_type": op.projector_type.removesuffix(fan),
        "dtype": op.dtype,
    }
    y = da.blockwise(
        _project,
        (0, 1, 2) if adjoint else (0, 3),
        coefficient(np.asarray(op.thetas), (angles,)),
        (0,),
        x,
        (0, 3) if adjoint else (1, 2),
        name=layer_name(cls, adjoint, name_of(op), x.name),
        new_axes={1: dims[0], 2: dims[1]} if adjoint else {3: dimsd[1]},
        adjust_chunks={0: 1} if adjoint else None,
        align_arrays=False,
        dtype=x.dtype,
        meta=np.empty((0,) * (3 if adjoint else 2), dtype=x.dtype),
        kind=cls,
        settings=settings,
        adjoint=adjoint,
    )
    return blocks.add_up(y, (0,), x.dtype) if adjoint else y


def _project(thetas: Any, x: Any, *, kind: type, settings: Any, adjoint: bool) -> Any:
    op = kind(thetas=thetas, **settings)
    x = blocks.single(x)
    y = blocks.run(kind, op, x, adjoint)
    return y.reshape((1, *settings["dims"]) if adjoint else (len(thetas), settings["det_count"]))


RULES[medical.CT2D] = parallel_sum(_tomography, "angles apart; back-projections are added up")
RULES[medical.MRI2D] = compose("a Fourier transform, then a mask or a restriction")
