"""The operators of medical imaging."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from pylops import medical
from pylops.utils import deps

from .entry import add

# ----------------------------------------------------------------------- MRI2D

for setting, dtype, fft_engine in [
    ("numpy", "complex128", "numpy"),
    ("scipy-complex64", "complex64", "scipy"),
]:
    add(
        f"MRI2D-mask-{setting}",
        lambda c, t=dtype, e=fft_engine: medical.MRI2D(
            (8, 9), c((np.indices((8, 9)).sum(axis=0) % 3 > 0).astype(t)), fft_engine=e, dtype=t
        ),
        coefficients=True,
    )


@functools.cache
def _mri(mask: str, **kwargs: Any) -> medical.MRI2D:
    # masks of lines at random differ from one operator to the next
    return medical.MRI2D((8, 9), mask, **kwargs)


for mask, perc_center in [
    ("vertical-reg", 0.0),
    ("vertical-uni", 0.2),
    ("radial-reg", 0.1),
    ("radial-uni", 0.1),
]:
    add(
        f"MRI2D-{mask}",
        lambda c, m=mask, p=perc_center: _mri(m, nlines=3, perc_center=p),
    )

# ------------------------------------------------------------------------ CT2D

for setting, kwargs in [
    ("parallel-strip", {}),
    ("parallel-linear", {"projector_type": "linear"}),
    (
        "fanflat-line",
        {
            "proj_geom_type": "fanflat",
            "source_origin_dist": 20.0,
            "origin_detector_dist": 10.0,
            "projector_type": "line",
        },
    ),
]:
    add(
        f"CT2D-{setting}",
        lambda c, k=kwargs: medical.CT2D(
            (8, 9), 1.0, 12, np.linspace(0, np.pi, 5, endpoint=False), engine="cpu", **k
        ),
        whole=True,
        available=deps.astra_enabled,
    )
