"""SciPy's solvers, where PyLops calls them, on lazy vectors: PyLops's own take their place.

``scipy.sparse.linalg`` works on NumPy arrays in one process. PyLops's ``lsqr`` and ``cg`` are the
same algorithms; where they differ is when they stop, which here is as in SciPy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pylops
import scipy.sparse.linalg
from pylops.optimization.cls_basic import LSQR

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray, as_box, holds, is_lazy, session, walk
from pylops_dispatch.operators import check_length, is_made_of_lazy
from pylops_dispatch.policy import announce_numpy_vectors
from pylops_dispatch.steps import watched

# keywords that only PyLops's solvers have: with these, it is PyLops's route that is wanted
_PYLOPS_ONLY = {"niter", "tol", "rtol1", "itershow", "preallocate"}


def lsqr(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``scipy.sparse.linalg.lsqr`` as PyLops's modules have it."""
    signature = inspect.signature(scipy.sparse.linalg.lsqr)

    def wrapper(A: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
        if not _meets_lazy(A, b, *args, *kwargs.values()):
            return original(A, b, *args, **kwargs)
        b = _in_solve(b)
        if "x0" in kwargs:
            kwargs["x0"] = _in_solve(kwargs["x0"])
        if (_PYLOPS_ONLY | {"callback"}) & set(kwargs):
            return _flat(pylops.cgls(A, b, **kwargs))
        given = signature.bind(A, b, *args, **kwargs)
        given.apply_defaults()
        given.arguments.update(b=_squeezed(b, A.shape[0]))
        _require_vector(given.arguments["x0"], A.shape[1], "x0")
        with _solving():
            return _lsqr(**given.arguments)

    return wrapper


def _squeezed(b: Any, length: int) -> Any:
    """Return data as a vector where SciPy's ``lsqr`` makes one of them: ``b.squeeze()``."""
    check_length(b, length)
    if getattr(b, "ndim", 1) > 1 and max(b.shape) == length:
        return b.reshape(length)
    return _require_vector(b, length, "b")


def _require_vector(x: Any, length: int, name: str) -> Any:
    if getattr(x, "ndim", 1) != 1:
        raise ValueError(
            f"{name} has shape {x.shape}, and is to be a vector of {length}: {name}.ravel()"
        )
    return x


def _meets_lazy(*given: Any) -> bool:
    """Whether an operator, the data or a first guess are lazy: then so is the solution."""
    return any(map(is_made_of_lazy, given))


def _in_solve(vector: Any) -> Any:
    """Return a vector as a box where a solve is going on; elsewhere the solvers see to it."""
    return vector if vector is None or session.get() is None else as_box(vector)


def _solving() -> AbstractContextManager[None]:
    """A solver inside another function frees its vectors, and may read values."""
    current = session.get()
    return nullcontext() if current is None else current.letting_go()


def _lsqr(
    A: Any,
    b: Any,
    damp: float,
    atol: float,
    btol: float,
    conlim: float,
    iter_lim: int | None,
    show: bool,
    calc_var: bool,
    x0: Any,
) -> tuple[Any, ...]:
    """Run the steps of PyLops's ``LSQR``, and stop them where SciPy would.

    The two differ in what the residual of the normal equations is compared with.
    """
    niter = 2 * A.shape[1] if iter_lim is None else int(iter_lim)
    solver = LSQR(A)
    x = solver.setup(
        b, x0=x0, damp=damp, atol=0.0, btol=0.0, conlim=0.0, niter=niter,
        calc_var=calc_var, show=bool(show),
    )  # fmt: skip
    # as NumPy's number, which may divide by zero: so does SciPy's
    bnorm = np.float64(solver.bnorm if x0 is None else np.linalg.norm(b))
    istop = 0
    numbers: Any = np.float16  # which raises no dtype
    with watched(solver, x, niter):
        while not istop and solver.iiter < niter and float(solver.arnorm):
            x = solver.step(x, bool(show))
            # of a damped diagonal, a Python number, _sym_ortho takes np.sign if it is the larger
            if damp > 0 and float(solver.rhobar1) >= float(solver.beta):
                numbers = np.float64
            istop = _stops(solver, bnorm, atol, btol, conlim)
    if not istop and solver.iiter >= niter:
        istop = 7
    solver.istop = istop
    solver.finalize(bool(show))
    norms = (solver.r1norm, solver.r2norm, solver.anorm, solver.acond, solver.arnorm)
    if x0 is not None:
        dtype = np.result_type(x0, b, A.dtype, numbers) if solver.iiter else x0.dtype
        x = x.astype(dtype, copy=False)
    elif not solver.iiter:  # SciPy starts from zeros of double precision
        x = x.real.astype(float)
    return _flat((x, istop, solver.iiter, *norms, solver.xnorm, solver.var))


def _stops(solver: Any, bnorm: np.float64, atol: float, btol: float, conlim: float) -> int:
    """Return SciPy's number for the reason to stop, or 0: ``_isolve/lsqr.py``, its tests."""
    eps = np.finfo(float).eps
    names = ("r2norm", "arnorm", "anorm", "acond", "xnorm")
    rnorm, arnorm, anorm, acond, xnorm = (float(getattr(solver, name)) for name in names)
    scaled = anorm * xnorm / bnorm
    test1 = rnorm / bnorm
    test2 = arnorm / (anorm * rnorm + eps)
    test3 = 1 / (acond + eps)
    reasons = {
        1: test1 <= btol + atol * scaled,
        2: test2 <= atol,
        3: conlim > 0 and test3 <= 1 / conlim,
        4: 1 + test1 / (1 + scaled) <= 1,
        5: 1 + test2 <= 1,
        6: 1 + test3 <= 1,
    }
    return next((number for number, holds_now in reasons.items() if holds_now), 0)


def cg(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``scipy.sparse.linalg.cg`` as PyLops's modules have it."""

    def wrapper(
        A: Any,
        b: Any,
        x0: Any = None,
        *,
        rtol: float = 1e-5,
        atol: float = 0.0,
        maxiter: int | None = None,
        **kwargs: Any,
    ) -> Any:
        if not _meets_lazy(A, b, x0):
            return original(A, b, x0, rtol=rtol, atol=atol, maxiter=maxiter, **kwargs)
        if _PYLOPS_ONLY & set(kwargs):
            return _flat(pylops.cg(A, b, x0, tol=atol or 1e-4, **kwargs)[:1])[0], None
        check_length(b, A.shape[0])
        check_length(x0, A.shape[1])
        # SciPy's make_system
        x0 = x0.reshape(-1) if getattr(x0, "shape", ()) == (A.shape[1], 1) else x0
        _require_vector(x0, A.shape[1], "x0")
        own = b.dtype if b.dtype.char in "fdFD" else np.dtype(float)
        dtype = np.result_type(A.dtype if A.dtype.char in "fdFD" else float, own)
        b, x0 = (None if v is None else _in_solve(v).astype(dtype, copy=False) for v in (b, x0))
        with _solving():
            bnorm = float(np.linalg.norm(b))
            if not bnorm:
                return b.copy(), 0
            niter = 10 * A.shape[0] if maxiter is None else int(maxiter)
            # PyLops stops at the square of the residual's norm
            tol = max(atol, rtol * bnorm) ** 2
            x, iterations, cost = _flat(pylops.cg(A, b, x0, niter=niter, tol=tol, **kwargs))
        if np.isnan(cost[-1]):  # SciPy goes on, and PyLops stops before the first step
            return (x * np.nan if niter else x), niter
        return x, int(iterations) if iterations >= niter else 0

    return wrapper


def vectors_here(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``spgl1.spgl1``, which works on NumPy vectors: dask applies the operator only.

    The package is not PyLops's and calls NumPy throughout: data and iterates are in this
    process, which is a matter of policy, and the work on n-d arrays stays with dask.
    """

    def wrapper(A: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
        if not (is_lazy(b) or holds(kwargs, is_lazy)):
            return original(A, b, *args, **kwargs)
        announce_numpy_vectors("spgl1")

        def here_too(vector: Any) -> Any:
            return session.get().vector(as_box(vector))

        def forward(v: Any) -> Any:
            return session.get().product(A.matvec(_chunked(v, A.dims)))

        def backward(v: Any) -> Any:
            return session.get().product(A.rmatvec(_chunked(v, A.dimsd)))

        here = scipy.sparse.linalg.LinearOperator(
            A.shape, matvec=forward, rmatvec=backward, dtype=A.dtype
        )
        kwargs = walk(kwargs, is_lazy, here_too)
        solution, *rest = original(here, here_too(b), *args, **kwargs)
        return (as_box(solution), *rest)

    return wrapper


def _chunked(v: Any, dims: Any) -> DispatchArray:
    """Return a vector in memory as a lazy one, cut as dask cuts an array of the dims."""
    array = np.asarray(v).reshape(dims)
    return DispatchArray([pc.wrap_numpy(array, "auto")], (array.size,))


def _flat(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the solution as a vector, as SciPy's solvers do."""
    return (result[0].ravel(), *result[1:])


scipy_lsqr = lsqr(scipy.sparse.linalg.lsqr)


def in_place_of_scipy(solver: Any) -> Any:
    """Return a solver for lazy vectors that a user has chosen from SciPy."""
    chosen = {scipy.sparse.linalg.lsqr: lsqr, scipy.sparse.linalg.cg: cg}
    return chosen[solver](solver) if solver in chosen else solver
