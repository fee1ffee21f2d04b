"""The operators of seismic reservoir characterisation."""

from __future__ import annotations

import numpy as np
from pylops import avo

from ..helpers import rand
from .entry import add

NT = 9
THETA = np.array([0.0, 12.0, 25.0, 33.0])
VSVP = np.linspace(0.4, 0.6, NT)
WAVELET = np.array([-0.2, 0.3, 1.0, 0.4, -0.1])

# ---------------------------------------------------------- AVOLinearModelling

for linearization, spatdims, vsvp in [
    ("akirich", None, 0.5),
    ("fatti", 3, 0.45),
    ("ps", (3, 2), 0.5),
]:
    add(
        f"AVOLinearModelling-{linearization}",
        lambda c, k=linearization, s=spatdims, v=vsvp: avo.AVOLinearModelling(
            c(THETA), vsvp=v, nt0=NT, spatdims=s, linearization=k
        ),
        coefficients=True,
    )
    add(
        f"AVOLinearModelling-{linearization}-profile",
        lambda c, k=linearization, s=spatdims: avo.AVOLinearModelling(
            c(THETA), vsvp=c(VSVP), spatdims=s, linearization=k
        ),
        coefficients=True,
    )
add(
    "AVOLinearModelling-float32",
    lambda c: avo.AVOLinearModelling(THETA, vsvp=VSVP, spatdims=(2,), dtype="float32"),
)

# ---------------------------------------------------- PoststackLinearModelling

STATIONARY, NONSTATIONARY = WAVELET, WAVELET * (1 + 0.1 * np.arange(NT)[:, None])
for setting, wavelet, spatdims, kwargs in [
    ("1d", STATIONARY, None, {}),
    ("2d-forward", STATIONARY, 4, {"kind": "forward"}),
    ("float32", STATIONARY.astype("float32"), 3, {}),
    ("explicit-2d-forward", STATIONARY, 4, {"explicit": True, "kind": "forward"}),
    ("explicit-sparse-3d", STATIONARY, (3, 2), {"explicit": True, "sparse": True}),
    ("nonstationary-1d", NONSTATIONARY, None, {}),
    ("nonstationary-sparse-2d", NONSTATIONARY, 4, {"sparse": True}),
    ("nonstationary-explicit-2d", NONSTATIONARY, 4, {"explicit": True}),
]:
    add(
        f"PoststackLinearModelling-{setting}",
        lambda c, w=wavelet, s=spatdims, k=kwargs: avo.PoststackLinearModelling(
            c(w), NT, spatdims=s, **k
        ),
        coefficients=True,
    )

# ----------------------------------------------------- PrestackLinearModelling

for setting, spatdims, kwargs in [
    ("1d", None, {}),
    ("2d-fatti-forward", 3, {"linearization": "fatti", "kind": "forward"}),
    ("3d-ps", (2, 3), {"linearization": "ps"}),
    ("explicit-1d-fatti", None, {"explicit": True, "linearization": "fatti"}),
    ("explicit-2d-forward", 3, {"explicit": True, "kind": "forward"}),
]:
    add(
        f"PrestackLinearModelling-{setting}",
        lambda c, s=spatdims, k=kwargs: avo.PrestackLinearModelling(
            c(WAVELET), c(THETA), vsvp=c(VSVP), spatdims=s, **k
        ),
        coefficients=True,
    )
add(
    "PrestackLinearModelling-float32",
    lambda c: avo.PrestackLinearModelling(
        c(WAVELET.astype("float32")), c(THETA.astype("float32")), vsvp=0.5, nt0=NT, spatdims=2
    ),
    coefficients=True,
)

# ---------------------------------------------------- PrestackWaveletModelling

for linearization, vsvp in [("akirich", VSVP), ("fatti", 0.5)]:
    add(
        f"PrestackWaveletModelling-{linearization}",
        lambda c, k=linearization, v=vsvp: avo.PrestackWaveletModelling(
            c(rand((NT, 3))),
            c(THETA),
            nwav=5,
            wavc=None if k == "akirich" else 1,
            vsvp=v if np.isscalar(v) else c(v),
            linearization=k,
        ),
        coefficients=True,
    )
