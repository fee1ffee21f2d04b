"""Rules of ``pylops.avo``."""

from __future__ import annotations

from typing import Any

import numpy as np
from pylops import avo

from pylops_dispatch.rules.table import FUNCTIONS, RULES, Rule, Terms, compose


def _times_and_places(op: Any) -> Terms:
    """Parameters and angles of one sample in time are worked on together."""
    space = tuple(f"space{axis}" for axis in range(len(op.spatdims)))
    return Terms(
        ("time", "parameter", *space),
        ("time", "angle", *space),
        {"G": ("time", "parameter", "angle", *("." for _ in space))},
        {"nt0": "time"},
        whole=frozenset({"parameter", "angle"}),
    )


def _fit(op: Any) -> None:
    op.ncp = np  # AVOLinearModelling keeps the namespace of its angles


RULES[avo.AVOLinearModelling] = Rule(
    "whole_axis", "parameters and angles in one block", terms=_times_and_places, fit=_fit
)

FUNCTIONS |= {
    "pylops.avo.PoststackLinearModelling": compose("wavelet and derivative in one task a block"),
    "pylops.avo.PrestackLinearModelling": compose("derivative, linearisation, wavelet"),
    "pylops.avo.PrestackWaveletModelling": compose("products with small matrices"),
    "pylops.avo.PoststackInversion": compose("a solver"),
    "pylops.avo.PrestackInversion": compose("a solver"),
}
