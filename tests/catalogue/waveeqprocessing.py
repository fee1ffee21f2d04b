"""The operators of wave-equation processing."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pylops
from pylops import waveeqprocessing as wep
from pylops.utils import deps

from ..helpers import rand
from .entry import Coef, add

# ------------------------------------------------------------------------- MDC

NT, NS, NR = 9, 4, 3
for setting, nv, nt, dtype, kwargs in [
    ("twosided", 1, NT, "complex128", {"saveGt": False}),
    ("twosided-nv2-matmul", 2, NT, "complex128", {"usematmul": True}),
    ("onesided-complex64", 2, NT, "complex64", {"twosided": False}),
    ("onesided-even-matmul", 1, NT + 1, "complex128", {"twosided": False, "usematmul": True}),
    ("conj-scipy", 2, NT, "complex128", {"conj": True, "saveGt": False, "fftengine": "scipy"}),
    ("conj-matmul", 1, NT, "complex128", {"conj": True, "usematmul": True, "saveGt": False}),
    ("prescaled", 2, NT, "complex64", {"prescaled": True, "usematmul": True, "saveGt": False}),
]:
    add(
        f"MDC-{setting}",
        lambda c, n=nv, m=nt, t=dtype, k=kwargs: wep.MDC(
            c(rand((4, NS, NR), t)), m, nv=n, dt=0.5, dr=2.0, **k
        ),
        coefficients=True,
    )

# ------------------------------------------------------------------ PhaseShift

FREQ, KX = np.fft.rfftfreq(9, 0.01), np.fft.fftshift(np.fft.fftfreq(6, 10.0))
KY = np.fft.fftshift(np.fft.fftfreq(5, 12.0))
for setting, ky, kwargs in [
    ("2d", None, {}),
    ("2d-upward-float32", None, {"dz": -7.0, "dtype": "float32"}),
    ("3d", KY, {}),
    ("3d-scipy", KY, {"fftengine": "scipy", "dz": 20.0}),
]:
    add(
        f"PhaseShift-{setting}",
        lambda c, y=ky, k=kwargs: wep.PhaseShift(
            **{"vel": 1500.0, "dz": 10.0, "nt": 9, "freq": FREQ, "kx": KX, "ky": y, **k}
        ),
    )

# ---------------------------- PressureToVelocity, UpDownComposition2D, and 3D

MEDIUM = {"dt": 0.004, "rho": 1000.0, "vel": 1500.0, "critical": 90.0}
LINE = {**MEDIUM, "nt": 13, "nr": 12, "dr": 5.0, "ntaper": 3}
AREA = {**MEDIUM, "nt": 8, "nr": (7, 7), "dr": (5.0, 4.0), "ntaper": 2}
for setting, kwargs in {
    "velocity": {},
    "pressure": {"topressure": True, "nffts": (12, 16)},
    "complex64": {"dtype": "complex64"},
}.items():
    add(
        f"PressureToVelocity-2d-{setting}",
        lambda c, k=kwargs: wep.PressureToVelocity(**LINE, **k),
    )
for setting, kwargs in {
    "velocity": {"nffts": (8, 7, 9)},
    "pressure": {"topressure": True},
}.items():
    add(
        f"PressureToVelocity-3d-{setting}",
        lambda c, k=kwargs: wep.PressureToVelocity(**AREA, **k),
    )
for setting, kwargs in {"plain": {}, "scaled": {"scaling": 2.5, "nffts": (14, 16)}}.items():
    add(
        f"UpDownComposition2D-{setting}",
        lambda c, k=kwargs: wep.UpDownComposition2D(**LINE, **k),
    )
for fftengine in ["numpy", "scipy"]:
    add(
        f"UpDownComposition3D-{fftengine}",
        lambda c, e=fftengine: wep.UpDownComposition3D(scaling=0.5, fftengine=e, **AREA),
    )

# -------------------------------------------------------------------- blending

TIMES = np.array([0.0, 0.35, 0.8, 1.0])
for setting, kwargs in {
    "each": {},
    "each-nttot": {"nttot": 25},
    "all": {"shiftall": True},
    "all-scipy": {"shiftall": True, "nttot": 25, "engine": "scipy"},
}.items():
    add(
        f"BlendingContinuous-{setting}",
        lambda c, k=kwargs: wep.BlendingContinuous(9, 3, 4, 0.1, c(TIMES), **k),
        coefficients=True,
        # the shifts in samples are ranges of the data
        peeks=1,
    )
for name in ["BlendingGroup", "BlendingHalf"]:
    for engine in ["numpy", "scipy"]:
        add(
            f"{name}-{engine}",
            lambda c, n=name, e=engine: getattr(wep, n)(
                9,
                3,
                4,
                0.1,
                c(TIMES.reshape(2, 2)),
                group_size=2,
                n_groups=2,
                engine=e,
                # of the string that is the default, NumPy 2.5 makes a dtype of strings
                dtype=np.dtype(float),
            ),
            coefficients=True,
        )

# ------------------------------------------------------------------- Kirchhoff

X, Y, Z = 10.0 * np.arange(5), 10.0 * np.arange(3), 8.0 * np.arange(6)
T, VELOCITY, KIRCHHOFF_WAVELET = 0.005 * np.arange(20), 1500.0, np.array([-0.3, 1.0, -0.4])
SOURCES = np.array([[2.0, 18.0, 33.0], [0.0, 0.0, 0.0]])
RECEIVERS = np.array([[7.0, 29.0], [0.0, 0.0]])


def _geometry(ndim: int) -> dict[str, Any]:
    if ndim == 2:
        return {"z": Z, "x": X, "srcs": SOURCES, "recs": RECEIVERS}
    srcs = np.vstack([[3.0, 11.0, 17.0], SOURCES])
    recs = np.vstack([[6.0, 14.0], RECEIVERS])
    return {"z": Z[:4], "x": X, "y": Y, "srcs": srcs, "recs": recs}


def _kirchhoff(c: Coef, ndim: int = 2, vel: Any = VELOCITY, **kwargs: Any) -> wep.Kirchhoff:
    with warnings.catch_warnings():
        # Kirchhoff announces changes of PyLops 3, and what an aperture is
        warnings.simplefilter("ignore")
        return wep.Kirchhoff(
            t=T, vel=vel, wav=c(KIRCHHOFF_WAVELET), wavcenter=1, **_geometry(ndim), **kwargs
        )


def _distances(ndim: int) -> tuple[np.ndarray, np.ndarray]:
    """From each point of the model to the sources and to the receivers."""
    geometry = _geometry(ndim)
    axes = [geometry[name] for name in ["y", "x", "z"] if name in geometry]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])
    srcs, recs = (
        np.linalg.norm(points[:, :, None] - geometry[name][:, None], axis=0)
        for name in ["srcs", "recs"]
    )
    return srcs, recs


def _byot(c: Coef, ndim: int, kind: str, dynamic: bool = False, **kwargs: Any) -> wep.Kirchhoff:
    """With traveltimes of one's own: for sources and receivers, or for their pairs."""
    srcs, recs = (distance / VELOCITY for distance in _distances(ndim))
    if kind == "tables":
        trav = (c(srcs), c(recs))
    else:
        trav = c((srcs[:, :, None] + recs[:, None]).reshape(len(srcs), -1))
    if dynamic:
        kwargs["amp"] = tuple(c(1 / np.sqrt(d + 1)) for d in _distances(ndim))
    return _kirchhoff(c, ndim, mode="byot", trav=trav, dynamic=dynamic, **kwargs)


for setting, kwargs in {
    "analytic-2d": {"mode": "analytic"},
    "analytic-2d-float32": {"mode": "analytic", "dtype": "float32", "wavfilter": True},
    "analytic-3d": {"mode": "analytic", "ndim": 3},
    "analytic-2d-dynamic": {"mode": "analytic", "dynamic": True, "angleaperture": None},
    "analytic-2d-apertures": {
        "mode": "analytic",
        "dynamic": True,
        "aperture": (0.5, 2.0),
        "angleaperture": (20.0, 60.0),
    },
    "analytic-3d-dynamic": {"mode": "analytic", "dynamic": True, "ndim": 3},
    "eikonal-2d": {"mode": "eikonal", "vel": VELOCITY + 10 * Z + 0 * X[:, None]},
    "eikonal-2d-dynamic": {
        "mode": "eikonal",
        "vel": VELOCITY + 10 * Z + 0 * X[:, None],
        "dynamic": True,
        "aperture": 2.0,
    },
}.items():
    add(
        f"Kirchhoff-{setting}",
        lambda c, k=kwargs: _kirchhoff(c, **k),
        coefficients=True,
        available=deps.skfmm_enabled or kwargs["mode"] != "eikonal",
    )
for setting, args, kwargs in [
    ("tables-2d", (2, "tables"), {}),
    ("tables-2d-dynamic", (2, "tables"), {"dynamic": True, "aperture": 1.5}),
    ("pairs-2d", (2, "pairs"), {}),
    ("pairs-3d-float32", (3, "pairs"), {"dtype": "float32"}),
]:
    add(
        f"Kirchhoff-byot-{setting}",
        lambda c, a=args, k=kwargs: _byot(c, *a, **k),
        coefficients=True,
    )


@functools.cache
def _compiled(kind: str) -> wep.Kirchhoff:
    # each operator compiles its kernels again, for seconds
    if kind == "pairs":
        return _byot(lambda a: a, 2, "pairs", engine="numba")
    return _kirchhoff(lambda a: a, mode="analytic", dynamic=kind == "dynamic", engine="numba")


for kind in ["pairs", "tables", "dynamic"]:
    add(f"Kirchhoff-numba-{kind}", lambda c, k=kind: _compiled(k))

# -------------------------------------------------------------- AcousticWave2D


@functools.cache
def _acoustic() -> pylops.LinearOperator:
    return wep.AcousticWave2D(
        shape=(12, 11),
        origin=(0, 0),
        spacing=(10, 10),
        vp=np.full((12, 11), 1500.0, dtype="float32"),
        src_x=np.array([20.0, 70.0]),
        src_z=np.array([20.0, 20.0]),
        rec_x=np.array([10.0, 50.0, 90.0]),
        rec_z=np.array([20.0, 20.0, 20.0]),
        t0=0.0,
        tn=60.0,
        nbl=5,
    )


add(
    "AcousticWave2D",
    lambda c: _acoustic(),
    dot="none",  # the adjoint of Devito's Born modelling is only approximate
    available=deps.devito_enabled,
)
