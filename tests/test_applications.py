"""Everything of PyLops that solves a problem of its own: dask arrays in, dask arrays out.

Each problem below is one call of one public function (or class) of PyLops, with small arrays.
``data`` are what is inverted, ``coefficients`` what its operators are made of: kernels,
wavelets, angles.  The tests give both as dask arrays in turn, and compare with what PyLops
gives for the same NumPy arrays.  Solvers that SciPy runs for NumPy arrays take SciPy's keywords
(``iter_lim``, ``damp``) for dask arrays too.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
import numpy as np
import pylops
import pytest
from pylops.avo.poststack import PoststackInversion
from pylops.avo.prestack import PrestackInversion, PrestackWaveletModelling
from pylops.waveeqprocessing import (
    LSM,
    MDD,
    Deghosting,
    Marchenko,
    SeismicInterpolation,
    WavefieldDecomposition,
)

import pylops_dispatch

from .helpers import (
    assert_close,
    assert_same,
    count_executions,
    forbid_executions,
    noting,
    rand,
    random_chunks,
    to_dask,
)

pytestmark = [
    # Kirchhoff announces its new implementation each time it is made
    pytest.mark.filterwarnings("ignore:A new implementation of Kirchhoff:FutureWarning"),
]

# Both sides do the same few steps of the same solver: they differ by rounding, which a step
# of lsqr multiplies by the condition number of what it inverts.
RTOL = 1e-8

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Problem:
    """One call of PyLops: ``solve(**data, **coefficients)``."""

    solve: Callable[..., Any]
    data: Arrays
    coefficients: Arrays = field(default_factory=dict)
    explicit: bool = False  # a matrix is factorised: one task on the whole of it is right
    rtol: float = RTOL


PROBLEMS: dict[str, Problem] = {}
ITERATIONS = {"iter_lim": 2}  # as SciPy says it
STEPS = {"niter": 2}  # as PyLops says it


def wavelet(n: int) -> np.ndarray:
    """Centered, not symmetric: mixing up its two sides would show."""
    return np.hanning(n + 2)[1:-1] + 0.1 * rand(n, seed=5)


# ------------------------------------------------- multi-dimensional deconvolution


def mdd(
    nv: int = 1,
    nt: int = 9,
    dtype: str = "float64",
    wav: bool = False,
    solver: dict[str, Any] = ITERATIONS,
    rtol: float = RTOL,
    **settings: Any,
) -> Problem:
    """Kernel of 4 sources and 3 receivers; d has a virtual source axis unless ``nv`` is 1."""

    def solve(d, G, wav=None):
        return MDD(G, d, dt=0.01, dr=0.5, wav=wav, **settings, **solver)

    coefficients = {"G": rand((4, 3, nt), dtype, seed=1)}
    if wav:
        coefficients["wav"] = wavelet(5).astype(dtype)
    shape = (4, nt) if nv == 1 else (4, nv, nt)
    return Problem(solve, {"d": rand(shape, dtype, seed=2)}, coefficients, rtol=rtol)


CAUSAL = {"causality_precond": True}

PROBLEMS |= {
    "mdd": mdd(),
    "mdd-several": mdd(nv=2),
    "mdd-damped": mdd(nv=2, solver={**ITERATIONS, "damp": 0.1}),
    # it stops by itself, where both sides are as close as SciPy's own tolerance says
    "mdd-until-converged": mdd(nv=2, nt=5, solver={}, rtol=1e-5),
    "mdd-float32": mdd(nv=2, dtype="float32", rtol=1e-4),
    "mdd-wav": mdd(wav=True),
    "mdd-few-frequencies": mdd(nv=2, nfmax=4, fftengine="scipy"),
    "mdd-onesided": mdd(nv=2, twosided=False, adjoint=True),
    "mdd-both-sides-given": mdd(nv=2, add_negative=False),
    "mdd-causal": mdd(**CAUSAL),
    "mdd-causal-smooth": mdd(nv=2, smooth_precond=3, **CAUSAL),
    "mdd-causal-psf": mdd(nv=2, psf=True, **CAUSAL),
    "mdd-adjoint": mdd(adjoint=True),
    "mdd-psf": mdd(psf=True),
    "mdd-adjoint-psf": mdd(nv=2, adjoint=True, psf=True, wav=True),
    "mdd-kernel-not-saved": mdd(nv=2, saveGt=False, adjoint=True),
    # any callback sends PyLops to its own cgls, for NumPy too
    "mdd-callback": mdd(nv=2, solver={**STEPS, "callback": lambda x: None}),
}


# ----------------------------------------------------------------------- Marchenko


def marchenko(
    points: int | None = None,
    frequency: bool = False,
    wav: bool = False,
    apply: dict[str, Any] | None = None,
    solver: dict[str, Any] = ITERATIONS,
    **settings: Any,
) -> Problem:
    """Reflection response of 3 by 3 traces of 10 samples, for one point or several."""
    nr, nt, dt = 3, 10, 0.004
    R = 5 * rand((nr, nr, nt), seed=1)
    if frequency:
        R = np.fft.rfft(R, 2 * nt - 1, axis=-1)[..., :8]
        settings["nt"] = nt
    shape = (nr,) if points is None else (nr, points)
    # where the window of each trace ends: a shape, hence known
    trav = dt * np.random.default_rng(3).uniform(3, 7, shape)

    def solve(R, G0=None, wav=None):
        method = Marchenko(R, dt=dt, dr=2.0, toff=dt, nsmooth=3, wav=wav, **settings)
        run = method.apply_onepoint if points is None else method.apply_multiplepoints
        nfft = {} if wav is None else {"nfft": 32}
        return run(trav, G0=G0, **nfft, **(apply or {}), **solver)

    if wav:
        return Problem(solve, {"R": R}, {"wav": wavelet(7)})
    return Problem(solve, {"R": R, "G0": rand((*shape, nt), seed=2)})


ALL_RESULTS = {"rtm": True, "greens": True}

PROBLEMS |= {
    "marchenko": marchenko(),
    "marchenko-rtm": marchenko(apply={"rtm": True}),
    "marchenko-greens": marchenko(apply={"greens": True}),
    "marchenko-all": marchenko(apply=ALL_RESULTS),
    "marchenko-all-several": marchenko(points=2, apply=ALL_RESULTS),
    "marchenko-few-frequencies": marchenko(nfmax=6),
    "marchenko-frequency": marchenko(frequency=True, apply=ALL_RESULTS),
    "marchenko-frequency-several": marchenko(points=2, frequency=True, prescaled=True),
    "marchenko-wav": marchenko(wav=True),
    "marchenko-wav-several": marchenko(points=2, wav=True),
    "marchenko-matmul": marchenko(apply={"usematmul": True}),
    "marchenko-kernel-not-saved": marchenko(saveRt=False, fftengine="scipy"),
}


# --------------------------------------------------------- least-squares migration


def lsm(solver: dict[str, Any] = ITERATIONS, threed: bool = False, **settings: Any) -> Problem:
    """2 sources and 3 receivers at the surface of a small constant medium."""
    x, z, t = 2.0 * np.arange(5), 2.0 * np.arange(4), 0.004 * np.arange(16)
    srcs = np.array([[1.0, 6.0], [1.0, 1.0]])
    recs = np.array([[0.0, 4.0, 8.0], [1.0, 1.0, 1.0]])
    if threed:
        settings["y"] = 2.0 * np.arange(3)
        srcs, recs = (np.vstack([np.full(a.shape[1], 2.0), a]) for a in (srcs, recs))
    settings.setdefault("mode", "analytic")
    tables = {}
    if settings["mode"] == "byot":
        rng = np.random.default_rng(6)
        tables = {
            "trav_srcs": rng.uniform(0, 0.02, (20, 2)),
            "trav_recs": rng.uniform(0, 0.02, (20, 3)),
        }

    def solve(d, wav, trav_srcs=None, trav_recs=None):
        trav = {} if trav_srcs is None else {"trav": (trav_srcs, trav_recs)}
        method = LSM(z, x, t, srcs, recs, 800.0, wav, 3, engine="numpy", **trav, **settings)
        return method.solve(d, **solver)

    return Problem(solve, {"d": rand((2, 3, 16))}, {"wav": wavelet(7), **tables})


PROBLEMS |= {
    "lsm": lsm(),
    "lsm-cgls": lsm({"solver": pylops.cgls, **STEPS}),
    "lsm-damped": lsm({**ITERATIONS, "damp": 0.1}),
    "lsm-3d": lsm(threed=True),
    "lsm-dynamic": lsm(dynamic=True),
    "lsm-tables-given": lsm(mode="byot"),
}


# --------------------------------------------------------- wavefield decomposition


def decomposition(
    *nr: int,
    kind: str = "inverse",
    restricted: bool = False,
    sparse: bool = False,
    solver: dict[str, Any] = ITERATIONS,
    **settings: Any,
) -> Problem:
    """Pressure and velocity of 8 samples at one line (or a square) of receivers."""
    nt = 8
    dims, kept = (*nr, nt), nr
    if restricted:
        every = np.arange(0, nr[0], 2)
        keep = pylops.Restriction(dims, every, axis=0, dtype="complex128")
        settings["restriction"] = pylops.BlockDiag([keep, keep])
        kept = (len(every), *nr[1:])
    if sparse:
        settings["sptransf"] = pylops.Smoothing1D(3, dims, axis=0, dtype="complex128")
    nffts = (*(n + 2 for n in nr), nt + 4)
    receivers, spacing = (nr[0], 10.0) if len(nr) == 1 else (nr, (10.0,) * len(nr))
    if kind == "analytical":
        solver = {}

    def solve(p, vz):
        return WavefieldDecomposition(
            p,
            vz,
            nt,
            receivers,
            0.004,
            spacing,
            1000.0,
            1500.0,
            nffts=nffts,
            critical=90.0,
            ntaper=2,
            scaling=1.5e6,
            kind=kind,
            dtype="complex128",
            **settings,
            **solver,
        )

    shape = (*kept, nt)
    return Problem(solve, {"p": rand(shape, seed=1), "vz": 1e-6 * rand(shape, seed=2)})


PROBLEMS |= {
    "decomposition-analytical": decomposition(6, kind="analytical"),
    "decomposition-analytical-3d": decomposition(6, 5, kind="analytical"),
    "decomposition": decomposition(6),
    "decomposition-3d": decomposition(6, 5),
    "decomposition-damped": decomposition(6, solver={**ITERATIONS, "damp": 0.5}),
    "decomposition-cgls": decomposition(6, solver={"solver": pylops.cgls, **STEPS}),
    "decomposition-restricted": decomposition(6, restricted=True),
    "decomposition-sparse": decomposition(6, sparse=True),
    "decomposition-restricted-sparse": decomposition(6, restricted=True, sparse=True),
    "decomposition-restricted-3d": decomposition(6, 5, restricted=True),
}


# ---------------------------------------------------------------------- deghosting


def deghosting(
    *nr: int,
    direct: bool = False,
    restricted: bool = False,
    solver: dict[str, Any] = ITERATIONS,
    **settings: Any,
) -> Problem:
    """Ten samples at one line (or a square) of receivers, with a window or a direct wave."""
    nt = 10
    dims, shape = (nt, *nr), (nt, *nr)
    if len(nr) == 1:
        extent, spacing = (nr[0], 2, 2), 5.0
    else:  # PyLops needs the spacing of both axes as an array of one element
        extent, spacing = (nr, (2, 2), (2, 2)), np.array([5.0])
    receivers, npad, ntaper = extent
    if restricted:
        every = np.arange(0, nr[0], 2)
        settings["restriction"] = pylops.Restriction(dims, every, axis=1)
        settings["sptransf"] = pylops.Smoothing1D(3, dims, axis=1)
        shape = (nt, len(every), *nr[1:])

    def solve(p, pd=None, win=None):
        return Deghosting(
            p,
            nt,
            receivers,
            0.004,
            spacing,
            1500.0,
            6.0,
            pd=pd,
            win=win,
            npad=npad,
            ntaper=ntaper,
            dtype="float64",
            **settings,
            **solver,
        )

    p = {"p": rand(shape, seed=1)}
    if direct:
        return Problem(solve, p | {"pd": rand(shape, seed=2)})
    return Problem(solve, p, {"win": np.abs(rand(shape, seed=3))})


PROBLEMS |= {
    "deghosting": deghosting(6),
    "deghosting-direct": deghosting(6, direct=True),
    "deghosting-vz": deghosting(6, kind="vz"),
    "deghosting-damped": deghosting(6, solver={**ITERATIONS, "damp": 0.5}),
    "deghosting-lsqr": deghosting(6, solver={"solver": pylops.lsqr, **STEPS}),
    "deghosting-restricted": deghosting(6, restricted=True),
    "deghosting-3d": deghosting(6, 5),
}


# ------------------------------------------------------------ seismic interpolation

NY, NX, NT = 8, 6, 10
TAXIS, YAXIS, XAXIS = 0.004 * np.arange(NT), 2.0 * np.arange(NY), 2.0 * np.arange(NX)
SLOWNESSES = {"paxis": np.linspace(-1e-3, 1e-3, 5), "p1axis": np.linspace(-1e-3, 1e-3, 4)}
CURVATURES = {"paxis": np.linspace(0.0, 1e-4, 5)}
VELOCITIES = {"paxis": np.linspace(800.0, 1500.0, 5)}
KEPT, KEPT1 = np.array([0, 1, 3, 4, 6]), np.array([0, 2, 3, 5])
FISTA = {"niter": 3, "eps": 0.1}
ESTIMATED = {"alpha": None, "eigsdict": {"niter": 200, "tol": 1e-10}}


def interpolation(
    kind: str,
    threed: bool = False,
    iava1: np.ndarray | None = None,
    results: slice = slice(2),
    alpha: float | None = 0.05,
    **settings: Any,
) -> Problem:
    """8 (by 6) traces of 10 samples, of which some are known; numbers are left to their test."""
    nrec: int | tuple[int, int] = NY
    shape: tuple[int, ...] = (len(KEPT), NT)
    axes = {"spataxis": YAXIS, "taxis": TAXIS}
    if threed:
        nrec, shape = (NY, NX), (len(KEPT), NX if iava1 is None else len(iava1), NT)
        axes["spat1axis"] = XAXIS
    if kind != "spatial":
        settings = FISTA | settings | {"alpha": alpha}

    def solve(data):
        found = SeismicInterpolation(
            data, nrec, KEPT, iava1, kind=kind, engine="numpy", **axes, **settings
        )
        return found[results]

    return Problem(solve, {"data": rand(shape)})


SPATIAL = {"epsRs": [0.3], "damp": 1e-2, **ITERATIONS}
WINDOWS = {"nwin": 4, "nwins": 3, "nover": 2}
WINDOWS_3D = {"nwin": (4, 4), "nwins": (3, 2), "nover": (2, 2)}

PROBLEMS |= {
    "interpolation-spatial": interpolation("spatial", **SPATIAL),
    "interpolation-fk": interpolation("fk", nffts=(8, 12)),
    "interpolation-radon-linear": interpolation("radon-linear", **SLOWNESSES),
    "interpolation-radon-parabolic": interpolation("radon-parabolic", **CURVATURES),
    "interpolation-radon-hyperbolic": interpolation("radon-hyperbolic", **VELOCITIES),
    "interpolation-chirpradon": interpolation("chirpradon-linear", **SLOWNESSES),
    "interpolation-sliding": interpolation("sliding", **WINDOWS, **SLOWNESSES),
    "interpolation-chirp-sliding": interpolation("chirp-sliding", **WINDOWS, **SLOWNESSES),
    "interpolation-spatial-3d": interpolation("spatial", threed=True, **SPATIAL),
    "interpolation-spatial-3d-both": interpolation("spatial", threed=True, iava1=KEPT1, **SPATIAL),
    "interpolation-fk-3d": interpolation("fk", threed=True, nffts=(8, 6, 12)),
    "interpolation-fk-3d-both": interpolation("fk", threed=True, iava1=KEPT1, nffts=(8, 6, 12)),
    "interpolation-radon-linear-3d": interpolation(
        "radon-linear", threed=True, alpha=1e-3, **SLOWNESSES
    ),
    "interpolation-chirpradon-3d": interpolation(
        "chirpradon-linear", threed=True, alpha=1e-3, **SLOWNESSES
    ),
    "interpolation-sliding-3d": interpolation(
        "sliding", threed=True, alpha=1e-2, **WINDOWS_3D, **SLOWNESSES
    ),
}


# --------------------------------------------------------------- post-stack inversion


def poststack(
    *space: int,
    background: bool = False,
    nonstationary: bool = False,
    dtype: str = "float64",
    rtol: float = RTOL,
    **settings: Any,
) -> Problem:
    """Traces of 10 samples; with a matrix where ``explicit``, else with an operator."""
    nt0 = 10
    shape = (nt0, *space)
    data = {"data": rand(shape, dtype, seed=1)}
    if background:
        data["m0"] = rand(shape, dtype, seed=2)
    wav = wavelet(5).astype(dtype)
    if nonstationary:
        wav = wav * (1 + 0.05 * np.arange(nt0, dtype=dtype)[:, np.newaxis])

    def solve(data, wav, m0=None):
        return PoststackInversion(data, wav, m0=m0, **settings)

    return Problem(solve, data, {"wav": wav}, explicit=settings.get("explicit", False), rtol=rtol)


SPACES = {"1d": (), "2d": (3,), "3d": (2, 3)}
TRACES = {"explicit": True}
# the derivative has no constant: what is tiny but not zero must not be divided by
LEAST_NORM = {"explicit": True, "cond": 1e-8}
TOGETHER = {"explicit": True, "simultaneous": True, **ITERATIONS}
BLOCKY = {"epsRL1": 0.2, "mu": 0.1, "niter_outer": 2, "niter_inner": 1, **ITERATIONS}

for dims, space in SPACES.items():
    PROBLEMS |= {
        f"poststack-{dims}": poststack(*space, background=True, **ITERATIONS),
        f"poststack-regularised-{dims}": poststack(*space, epsR=0.3, **ITERATIONS),
        f"poststack-traces-{dims}": poststack(*space, **LEAST_NORM),
    }
    if space:  # for one trace alone, PyLops wants a regularisation that it does not make
        PROBLEMS[f"poststack-blocky-{dims}"] = poststack(*space, epsR=0.3, **BLOCKY)

PROBLEMS |= {
    "poststack-no-background": poststack(3, **ITERATIONS),
    "poststack-damped": poststack(3, damp=0.1, **ITERATIONS),
    "poststack-float32": poststack(3, dtype="float32", rtol=1e-4, **ITERATIONS),
    "poststack-regularised-background": poststack(3, background=True, epsR=0.3, **ITERATIONS),
    "poststack-regularised-matrix": poststack(3, explicit=True, epsR=0.3, **ITERATIONS),
    "poststack-traces-damped": poststack(3, epsI=0.1, **TRACES),
    "poststack-traces-damped-background": poststack(3, background=True, epsI=0.1, **TRACES),
    "poststack-together": poststack(3, **TOGETHER),
    "poststack-together-damped": poststack(3, background=True, epsI=0.1, **TOGETHER),
    "poststack-nonstationary": poststack(3, nonstationary=True, **ITERATIONS),
    "poststack-traces-nonstationary": poststack(3, nonstationary=True, **LEAST_NORM),
}


# ---------------------------------------------------------------- pre-stack inversion


def prestack(
    *space: int,
    background: bool = False,
    lines: tuple[str, ...] = (),
    wavs: bool = False,
    vsvp: bool = False,
    **settings: Any,
) -> Problem:
    """4 angles of 10 samples, for three properties; ``lines`` are several linearizations."""
    nt0, ntheta = 10, 4
    shape = (nt0, ntheta, *space)
    data = {"data": rand((len(lines), *shape) if lines else shape, seed=1)}
    if background:
        data["m0"] = rand((nt0, 3, *space), seed=2)
    coefficients = {"theta": np.linspace(0.0, 30.0, ntheta), "wav": wavelet(5)}
    if wavs:
        coefficients["wav2"] = -0.5 * wavelet(5)[::-1]
    if vsvp:
        coefficients["vsvp"] = np.linspace(0.4, 0.6, nt0)
    if lines:
        settings["linearization"] = list(lines)

    def solve(data, theta, wav, wav2=None, m0=None, vsvp=0.5):
        wav = wav if wav2 is None else [wav, wav2]
        return PrestackInversion(data, theta, wav, m0=m0, vsvp=vsvp, returnres=True, **settings)

    return Problem(solve, data, coefficients, explicit=settings.get("explicit", False))


PS_AND_PP = ("fatti", "ps")

for dims, space in SPACES.items():
    PROBLEMS |= {
        f"prestack-{dims}": prestack(*space, background=True, **ITERATIONS),
        f"prestack-traces-{dims}": prestack(*space, **LEAST_NORM),
    }

PROBLEMS |= {
    "prestack-no-background": prestack(3, **ITERATIONS),
    "prestack-together": prestack(3, **TOGETHER),
    "prestack-together-damped": prestack(3, background=True, epsI=0.1, **TOGETHER),
    "prestack-vsvp": prestack(3, vsvp=True, **ITERATIONS),
    "prestack-traces-vsvp": prestack(3, vsvp=True, background=True, **LEAST_NORM),
    "prestack-ps": prestack(3, linearization="ps", kind="forward", **ITERATIONS),
    "prestack-traces-damped": prestack(3, epsI=0.1, **TRACES),
    "prestack-regularised-1d": prestack(epsR=0.3, **ITERATIONS),
    "prestack-regularised-3d": prestack(2, 3, epsR=0.3, **ITERATIONS),
    "prestack-regularised-matrix": prestack(3, explicit=True, epsR=0.3, **ITERATIONS),
    "prestack-regularised-damped-each": prestack(
        3, epsR=0.3, epsI=[0.1, 0.2, 0.3], background=True, **ITERATIONS
    ),
    "prestack-blocky-damped": prestack(3, epsR=0.3, epsI=0.1, **BLOCKY),
    "prestack-blocky-background": prestack(3, background=True, epsR=0.3, **BLOCKY),
    "prestack-lines": prestack(3, lines=PS_AND_PP, **ITERATIONS),
    "prestack-lines-wavs": prestack(3, lines=PS_AND_PP, wavs=True, **ITERATIONS),
    "prestack-lines-regularised": prestack(3, lines=PS_AND_PP, epsR=0.3, **ITERATIONS),
    "prestack-lines-traces": prestack(3, lines=PS_AND_PP, wavs=True, **LEAST_NORM),
}


# ------------------------------------------------------------------------------ tests


def results(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


def solved(problem: Problem) -> tuple[Any, ...]:
    """What comes out for NumPy arrays; PyLops may write to what it is given."""
    arrays = problem.data | problem.coefficients
    return results(problem.solve(**{key: array.copy() for key, array in arrays.items()}))


@functools.cache
def all_alone() -> dict[Problem, tuple[Any, ...]]:
    """What PyLops alone gives for the problems, found together: to switch takes its time."""
    with pylops_dispatch.disabled():
        return {problem: solved(problem) for problem in PROBLEMS.values()}


def alone(problem: Problem) -> tuple[Any, ...]:
    """What PyLops gives on its own."""
    if problem in all_alone():
        return all_alone()[problem]
    with pylops_dispatch.disabled():
        return solved(problem)


def with_dask(problem: Problem, lazy: str = "data", seed: int | None = 1) -> tuple[Any, ...]:
    """The same with dask arrays, cut in two on every axis, or whole."""

    def cut(arrays: Arrays) -> dict[str, da.Array]:
        return {
            key: to_dask(a.copy(), -1 if seed is None else random_chunks(a.shape, seed, parts=1))
            for key, a in arrays.items()
        }

    data = cut(problem.data)
    coefficients = cut(problem.coefficients) if lazy == "all" else problem.coefficients
    found = results(problem.solve(**data, **coefficients))
    for key, array in data.items():
        np.testing.assert_array_equal(array, problem.data[key], f"{key} was written to")
    return found


def check(found: tuple[Any, ...], expected: tuple[Any, ...], rtol: float) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if other is None:
            assert one is None
        else:
            assert_same(one, other, rtol=rtol)


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def cases() -> Iterator[Any]:
    for name, problem in PROBLEMS.items():
        yield pytest.param(problem, "data", id=f"{name}-data")
        if problem.coefficients:
            yield pytest.param(problem, "all", id=f"{name}-all")


def some(*names: str) -> list[Any]:
    return [pytest.param(PROBLEMS[name], id=name) for name in names]


@pytest.mark.parametrize(("problem", "lazy"), list(cases()))
def test_result_is_that_of_numpy(problem, lazy):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", pylops_dispatch.PerformanceWarning)
        found = with_dask(problem, lazy)
    check(found, alone(problem), problem.rtol)
    announced = [w for w in seen if w.category is pylops_dispatch.PerformanceWarning]
    assert problem.explicit or not announced, str(announced[0].message)


def single_arguments() -> Iterator[Any]:
    """One or two problems of each function and set of arguments."""
    seen: Counter[Any] = Counter()
    for name, problem in PROBLEMS.items():
        arrays = problem.data | problem.coefficients
        for key in arrays:
            case = name.partition("-")[0], *sorted(arrays), key
            seen[case] += 1
            # what Marchenko computes once; all of the data are lazy above
            computed = (name[:13], key) == ("marchenko-wav", "wav")
            if [key] != list(problem.data) and not computed and seen[case] <= 2:
                yield pytest.param(problem, key, id=f"{name}-{key}")


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize(("problem", "key"), list(single_arguments()))
def test_one_lazy_argument_makes_the_result_lazy(problem, key):
    """Next to NumPy arrays, which are not written to: data or coefficient, whichever it is."""
    arrays = problem.data | problem.coefficients
    given: dict[str, Any] = {name: array.copy() for name, array in arrays.items()}
    given[key] = to_dask(given[key], -1)
    check(results(problem.solve(**given)), alone(problem), problem.rtol)
    for name, array in arrays.items():
        np.testing.assert_array_equal(given[name], array, f"{name} was written to")


def test_a_wavelet_that_is_computed_once_leaves_the_data_as_they_are():
    problem = PROBLEMS["marchenko-wav"]
    wav = to_dask(problem.coefficients["wav"], 4)
    with pytest.warns(pylops_dispatch.ImplicitComputeWarning, match="wav"):
        found = problem.solve(**problem.data, wav=wav)
    for one, other in zip(found, alone(problem), strict=True):
        assert type(one) is np.ndarray
        assert_close(one, other, rtol=problem.rtol)


def test_data_next_to_a_lazy_kernel_that_a_callback_sends_to_pylops_own_solver():
    seen = []
    problem = mdd(nv=2, solver={**STEPS, "callback": lambda x: seen.append(type(x))})
    expected = alone(problem)
    G = to_dask(problem.coefficients["G"], -1)
    check(results(problem.solve(**problem.data, G=G)), expected, problem.rtol)
    assert seen == [np.ndarray] * 2 + [da.Array] * 2


# one or two of each function
SOME = some(
    "mdd-adjoint-psf",
    "mdd-causal-smooth",
    "marchenko-all",
    "lsm",
    "decomposition-analytical",
    "decomposition-restricted-sparse",
    "deghosting",
    "interpolation-fk",
    "interpolation-spatial",
    "poststack-2d",
    "poststack-traces-damped",
    "prestack-vsvp",
    "prestack-traces-2d",
)


@pytest.mark.parametrize("problem", SOME)
def test_nothing_happens_behind_the_users_back(problem):
    """Nothing is computed because PyLops asked, and no step runs on a whole vector."""
    with warnings.catch_warnings(), pylops_dispatch.set_policy(implicit_compute="warn"):
        warnings.simplefilter("error", pylops_dispatch.ImplicitComputeWarning)
        whole = "ignore" if problem.explicit else "error"
        warnings.simplefilter(whole, pylops_dispatch.PerformanceWarning)
        with_dask(problem, "all")


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("problem", SOME)
def test_result_does_not_depend_on_the_chunks(problem):
    one, other = with_dask(problem, "all", seed=None), with_dask(problem, "all", seed=7)
    for a, b in zip(one, other, strict=True):
        if a is not None:
            assert_close(a, b, rtol=problem.rtol)


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize(
    "problem", some("poststack-traces-2d", "poststack-traces-damped", "prestack-traces-2d")
)
def test_a_factorisation_does_not_compute_its_arrays_twice(problem):
    """It is lazy, or one execution."""
    with count_executions(budget=1):
        with_dask(problem, "all")


def iterated(n: int) -> dict[str, Problem]:
    """One of each function that iterates, with so many iterations."""
    solver = {"iter_lim": n}
    return {
        "mdd": mdd(nv=2, solver=solver),
        "mdd-causal": mdd(nv=2, solver=solver, **CAUSAL),
        "marchenko": marchenko(solver=solver),
        "lsm": lsm(solver),
        "decomposition": decomposition(6, solver=solver),
        "deghosting": deghosting(6, solver=solver),
        "interpolation-spatial": interpolation("spatial", **(SPATIAL | solver)),
        "interpolation-fk": interpolation("fk", nffts=(8, 12), niter=n),
        "poststack": poststack(3, **solver),
        "poststack-regularised": poststack(3, epsR=0.3, **solver),
        "poststack-together": poststack(3, explicit=True, simultaneous=True, **solver),
        "prestack": prestack(3, **solver),
    }


@pytest.mark.parametrize("name", iterated(1))
def test_executions_of_a_step(name):
    """As many as PyLops's own solver needs, and a few at the start and the end."""
    counts = []
    for n in (3, 6):
        with count_executions() as executions:
            with_dask(iterated(n)[name], seed=None)
        counts.append(executions.count)
    few, more = counts
    budget = 1 if name == "interpolation-fk" else 3  # fista, else lsqr
    assert more - few <= 3 * budget
    assert few <= 3 * budget + 4


# ------------------------------------------------------------------- what is particular


@pytest.mark.parametrize("lazy", ["data", "all"])
def test_mdd_takes_the_keywords_of_pylops(lazy):
    """``niter`` of PyLops's solvers; cgls and lsqr have the same iterates but for rounding."""
    found = with_dask(mdd(nv=2, solver=STEPS), lazy)
    check(found, alone(mdd(nv=2)), rtol=1e-6)


def test_an_analytical_formula_stays_lazy():
    problem = PROBLEMS["decomposition-analytical"]
    arrays = {key: to_dask(a, random_chunks(a.shape, 1)) for key, a in problem.data.items()}
    with forbid_executions():
        found = problem.solve(**arrays)
    check(found, alone(problem), problem.rtol)


def test_costs_of_an_interpolation_are_numbers():
    problem = interpolation("fk", nffts=(8, 12), results=slice(2, 3))
    (cost,), (expected,) = with_dask(problem), alone(problem)
    assert not isinstance(cost, da.Array)
    assert_close(cost, expected, rtol=problem.rtol)


@pytest.mark.parametrize("lazy", ["spataxis", "taxis", "paxis"])
def test_interpolation_in_windows_with_lazy_axes(lazy):
    problem = interpolation("sliding", **WINDOWS, **SLOWNESSES)
    axes = {"spataxis": YAXIS, "taxis": TAXIS, "paxis": SLOWNESSES["paxis"]}
    axes[lazy] = to_dask(axes[lazy], 2)
    with pytest.warns(pylops_dispatch.ImplicitComputeWarning, match="Radon2D inspects"):
        found = SeismicInterpolation(
            **problem.data, nrec=NY, iava=KEPT, kind="sliding", engine="numpy",
            **axes, **WINDOWS, **FISTA, alpha=0.05,
        )  # fmt: skip
    check(found[:2], alone(problem), problem.rtol)


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(interpolation("fk", nffts=(8, 12), **ESTIMATED), id="fk"),
        pytest.param(interpolation("radon-linear", **SLOWNESSES, **ESTIMATED), id="radon"),
    ],
)
def test_interpolation_estimates_its_step(problem):
    """The largest eigenvalue is found from a random start: close, never the same."""
    check(with_dask(problem), alone(problem), rtol=1e-4)


@pytest.mark.parametrize("lazy", ["data", "all"])
def test_wavelet_estimated_from_angle_gathers(lazy):
    """Not one call, but what PyLops shows: to invert PrestackWaveletModelling."""

    def estimate(d, m, theta):
        op = PrestackWaveletModelling(m, theta, nwav=5)
        return pylops.lsqr(op, d, niter=3)[0]

    properties = {"m": rand((10, 3)), "theta": np.linspace(0.0, 30.0, 4)}
    problem = Problem(estimate, {"d": rand(40, seed=2)}, properties)
    check(with_dask(problem, lazy), alone(problem), problem.rtol)


# ------------------------------------------ what applies operators while it makes them


@pytest.mark.usefixtures("first_of_its_kind")
def test_constructor_that_tests_its_operator_runs_it_on_blocks():
    """``LSM(..., dottest=True)``: two executions, not one for each trace of each pixel."""
    x, z, t = np.arange(6) * 4.0, np.arange(5) * 4.0, np.arange(12) * 0.004
    ends = np.array([[0.0, 16.0], [0.0, 0.0]])
    wav = da.from_array(wavelet(5), chunks=2)
    with warnings.catch_warnings(), count_executions(budget=2):
        warnings.simplefilter("ignore")
        LSM(z, x, t, ends, ends, 1000.0, wav, 2, mode="analytic", engine="numpy", dottest=True)


def test_inversion_that_tests_its_operator_runs_it_on_blocks(first_of_its_kind):
    """``MDD(..., dottest=True)``: one more execution, and the kernel is worked out once."""
    made = []

    def executions(**settings):
        kernel = rand((4, 3, 9))
        lazy = da.from_array(kernel, chunks=(2, 3, 9)).map_blocks(noting(made), meta=kernel)
        made.clear()
        with count_executions() as counted:
            MDD(lazy, rand((4, 9)), dt=0.01, dr=0.5, iter_lim=2, **settings)
        assert made == [(2, 3, 9)] * 2
        return counted.count

    np.random.seed(0)
    tested = executions(dottest=True)
    first_of_its_kind()
    assert tested == executions() + 1


LOOKED_AT = {
    "SeismicInterpolation": (
        lambda iava: SeismicInterpolation(
            rand((5, 6)), 8, iava, kind="spatial", epsRs=[0.1], iter_lim=3
        )[0],
        np.array([0, 2, 3, 5, 7]),
    ),
    "Marchenko": (
        lambda nfft: Marchenko(
            rand((3, 3, 17)), wav=wavelet(5), dt=0.004, nsmooth=2
        ).apply_onepoint(0.004 * np.array([3.0, 4.0, 5.0]), nfft=nfft, rtm=True, iter_lim=2)[0],
        np.array(32),
    ),
    "WavefieldDecomposition": (
        lambda vel: WavefieldDecomposition(
            rand((16, 9)), rand((16, 9), seed=1), 16, 9, 0.004, 10.0, 1000.0, vel,
            nffts=(16, 16), ntaper=2, kind="inverse", iter_lim=2,
        )[0],
        np.array(1500.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKED_AT)
def test_values_that_an_application_looks_at_are_worked_out_once(name):
    solve, values = LOOKED_AT[name]
    made = []

    expected = solve(values)
    with pytest.warns(pylops_dispatch.ImplicitComputeWarning, match="computed once"):
        found = solve(da.from_array(values).map_blocks(noting(made), meta=values))
    assert_close(np.asarray(found), expected, rtol=RTOL)
    assert np.abs(expected).max() > 0
    assert len(made) == 1


@pytest.mark.parametrize("smooth", [2, (1.5, 3.0), 30], ids=str)
@pytest.mark.parametrize("name", ["slope_estimate", "dip_estimate"])
def test_slopes_of_a_lazy_image(name, smooth):
    """Smoothed with halos, and by SciPy's rule at the edges, however wide the filter is."""
    estimate = getattr(pylops.utils.signalprocessing, name)
    image = rand((30, 20)) + np.sin(np.arange(20))
    found = estimate(to_dask(image, ((11, 19), (7, 7, 6))), smooth=smooth)
    for lazy, known in zip(found, estimate(image, smooth=smooth), strict=True):
        assert isinstance(lazy, da.Array)
        assert_close(lazy.compute(), known, rtol=1e-8)
