"""What solvers print, and the memory that they predict, is the same for dask arrays."""

import contextlib

import dask.array as da
import numpy as np
import pylops
import pytest
from pylops.optimization import cls_basic, cls_leastsquares, cls_sparsity

import pylops_dispatch

from .helpers import printed, rand, to_dask

A = rand((20, 12))
Y = A @ rand(12, seed=1)
POSITIVE = A.T @ A + np.eye(12)

REGULARISATION = [pylops.SecondDerivative(12)]
SPARSE = {"alpha": 0.01, "eps": 0.05, "tol": 0.0}

SHOWN = {
    "cg": lambda y, **show: pylops.cg(pylops.MatrixMult(POSITIVE), y[:12], niter=6, tol=0, **show),
    "cgls": lambda y, **show: pylops.cgls(matrix(), y, niter=6, tol=0, **show),
    "lsqr": lambda y, **show: pylops.lsqr(matrix(), y, niter=6, **show),
    "normal equations": lambda y, **show: pylops.normal_equations_inversion(
        matrix(), y, REGULARISATION, epsRs=[0.1], engine="pylops", niter=6, **show
    ),
    "regularised": lambda y, **show: pylops.regularized_inversion(
        matrix(), y, REGULARISATION, epsRs=[0.1], engine="pylops", niter=6, **show
    ),
    "preconditioned": lambda y, **show: pylops.preconditioned_inversion(
        matrix(), y, pylops.Smoothing1D(3, 12), engine="pylops", niter=6, **show
    ),
    "irls data": lambda y, **show: pylops.irls(
        matrix(), y, nouter=3, engine="pylops", kind="data", niter=6, **show
    ),
    "irls model": lambda y, **show: pylops.irls(
        matrix(), y, nouter=3, engine="pylops", kind="model", niter=6, **show
    ),
    "omp": lambda y, **show: pylops.omp(matrix(), y, niter_outer=3, engine="pylops", **show),
    "ista": lambda y, **show: pylops.ista(matrix(), y, niter=6, **SPARSE, **show),
    "fista": lambda y, **show: pylops.fista(matrix(), y, niter=6, **SPARSE, **show),
    "split Bregman": lambda y, **show: pylops.splitbregman(
        matrix(),
        y,
        [pylops.FirstDerivative(12)],
        niter_outer=3,
        niter_inner=2,
        mu=1.0,
        epsRL1s=[0.3],
        engine="pylops",
        niter=5,
        **show,
    ),
}
WITHOUT_ITERSHOW = {"normal equations", "regularised", "preconditioned"}


def matrix():
    return pylops.MatrixMult(A)


@pytest.mark.parametrize("rows", [None, (1, 1, 2)], ids=["show", "itershow"])
@pytest.mark.parametrize("name", SHOWN)
def test_a_solver_prints_what_it_prints_for_numpy(name, rows, capsys):
    if rows is not None and name in WITHOUT_ITERSHOW:
        rows = None
    show = {"show": True} if rows is None else {"show": True, "itershow": rows}
    with pylops_dispatch.disabled():
        SHOWN[name](Y, **show)
    expected_words, expected = printed(capsys.readouterr().out)
    SHOWN[name](to_dask(Y, 8), **show)
    words, values = printed(capsys.readouterr().out)
    assert len(expected_words) > 20
    assert words == expected_words
    assert len(values) == len(expected)
    np.testing.assert_allclose(values, expected, rtol=2e-3, atol=1e-10)


CLASSES = {
    "CG": cls_basic.CG,
    "CGLS": cls_basic.CGLS,
    "LSQR": cls_basic.LSQR,
    "NormalEquationsInversion": cls_leastsquares.NormalEquationsInversion,
    "RegularizedInversion": cls_leastsquares.RegularizedInversion,
    "PreconditionedInversion": cls_leastsquares.PreconditionedInversion,
    "IRLS": cls_sparsity.IRLS,
    "OMP": cls_sparsity.OMP,
    "ISTA": cls_sparsity.ISTA,
    "FISTA": cls_sparsity.FISTA,
    "SPGL1": cls_sparsity.SPGL1,
    "SplitBregman": cls_sparsity.SplitBregman,
}


@pytest.mark.parametrize("unit", ["B", "MB"])
@pytest.mark.parametrize("name", CLASSES)
def test_predicted_memory(name, unit, capsys):
    def predicted(values):
        solver = CLASSES[name](pylops.MatrixMult(values))
        with contextlib.suppress(NotImplementedError):
            return solver.memory_usage(show=True, unit=unit)
        return None

    expected = predicted(A), capsys.readouterr().out
    found = predicted(da.from_array(A, chunks=(7, 5))), capsys.readouterr().out
    assert found == expected
