"""SciPy's solvers, where PyLops calls them, on lazy vectors: PyLops's own take their place.

``scipy.sparse.linalg`` works on NumPy arrays in one process. PyLops's ``lsqr`` is the same
algorithm and returns the same values, and its ``cg`` differs in when it stops, which is set here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pylops
import scipy.sparse.linalg

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray, as_box, holds, is_dask, walk
from pylops_dispatch.policy import announce_numpy_vectors

# keywords that only PyLops's solvers have: with these, it is PyLops's route that is wanted
_PYLOPS_ONLY = {"niter", "tol", "rtol1", "itershow", "preallocate"}


def _is_lazy(x: Any) -> bool:
    return isinstance(x, DispatchArray) or is_dask(x)


def lsqr(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``scipy.sparse.linalg.lsqr`` as PyLops's modules have it."""
    signature = inspect.signature(scipy.sparse.linalg.lsqr)

    def wrapper(A: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_lazy(b):
            return original(A, b, *args, **kwargs)
        if (_PYLOPS_ONLY | {"callback"}) & set(kwargs):
            return _flat(pylops.cgls(A, b, **kwargs))
        given = signature.bind(A, b, *args, **kwargs)
        given.apply_defaults()
        settings = dict(given.arguments)
        op, y, niter = settings.pop("A"), settings.pop("b"), settings.pop("iter_lim")
        settings["niter"] = 2 * op.shape[1] if niter is None else int(niter)
        settings["show"] = bool(settings["show"])
        x, istop, iterations, *norms = _flat(pylops.lsqr(op, y, **settings)[:10])
        if not istop and iterations >= settings["niter"]:
            istop = 7  # SciPy's number for the limit of iterations
        return (x, istop, iterations, *norms)

    return wrapper


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
        if not _is_lazy(b):
            return original(A, b, x0, rtol=rtol, atol=atol, maxiter=maxiter, **kwargs)
        if _PYLOPS_ONLY & set(kwargs):
            return _flat(pylops.cg(A, b, x0, tol=atol or 1e-4, **kwargs)[:1])[0], None
        # PyLops stops at the square of the residual's norm
        tol = max(rtol * float(np.linalg.norm(b)), atol) ** 2
        niter = 10 * A.shape[0] if maxiter is None else int(maxiter)
        x, iterations, _ = _flat(pylops.cg(A, b, x0, niter=niter, tol=tol, **kwargs))
        return x, int(iterations) if iterations >= niter else 0

    return wrapper


def vectors_here(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``spgl1.spgl1``, which works on NumPy vectors: dask applies the operator only.

    The package is not PyLops's and calls NumPy throughout: data and iterates are in this
    process, which is a matter of policy, and the work on n-d arrays stays with dask.
    """

    def wrapper(A: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
        if not (_is_lazy(b) or holds(kwargs, _is_lazy)):
            return original(A, b, *args, **kwargs)
        announce_numpy_vectors("spgl1")

        def forward(v: Any) -> Any:
            return _values(A.matvec(_chunked(v, A.dims)))

        def backward(v: Any) -> Any:
            return _values(A.rmatvec(_chunked(v, A.dimsd)))

        here = scipy.sparse.linalg.LinearOperator(
            A.shape, matvec=forward, rmatvec=backward, dtype=A.dtype
        )
        kwargs = walk(kwargs, _is_lazy, _values)
        solution, *rest = original(here, _values(b), *args, **kwargs)
        return (as_box(solution), *rest)

    return wrapper


def _chunked(v: Any, dims: Any) -> DispatchArray:
    """Return a vector in memory as a lazy one, cut as dask cuts an array of the dims."""
    array = np.asarray(v).reshape(dims)
    return DispatchArray([pc.wrap_numpy(array, "auto")], (array.size,))


def _values(x: Any) -> Any:
    return (x.dask() if isinstance(x, DispatchArray) else x).compute()


def _flat(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the solution as a vector, as SciPy's solvers do."""
    return (result[0].ravel(), *result[1:])


def in_place_of_scipy(solver: Any) -> Any:
    """Return a solver for lazy vectors that a user has chosen from SciPy."""
    chosen = {scipy.sparse.linalg.lsqr: lsqr, scipy.sparse.linalg.cg: cg}
    return chosen[solver](solver) if solver in chosen else solver
