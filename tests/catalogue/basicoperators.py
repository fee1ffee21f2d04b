"""The operators of the top level of PyLops, and operators written by a user."""

from __future__ import annotations

import functools

import numpy as np
import pylops
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg
from pylops.utils.backend import get_array_module
from pylops.utils.decorators import reshaped

from ..helpers import rand
from .entry import DTYPES, add

# ------------------------------------------------- operators written by a user


class UserDifference(pylops.LinearOperator):
    """As PyLops's guide teaches: the backend's buffer, filled in place."""

    def __init__(self, dims, weight=2.0, dtype="float64"):
        super().__init__(dtype=np.dtype(dtype), dims=dims, dimsd=dims)
        self.weight = weight

    def _matvec(self, x):
        ncp = get_array_module(x)
        x = ncp.reshape(x, self.dims)
        y = ncp.zeros(self.dims, dtype=self.dtype)
        y[0] = x[0]
        y[1:] = x[1:] - x[:-1]
        y *= self.weight
        return y.ravel()

    def _rmatvec(self, x):
        ncp = get_array_module(x)
        x = ncp.reshape(x, self.dims)
        y = ncp.zeros_like(x)
        y[:] = x
        y[:-1] -= x[1:]
        y *= self.weight
        return y.ravel()


class UserBlur(pylops.LinearOperator):
    """Calls SciPy directly, which sees no protocol."""

    def __init__(self, dims, dtype="float64"):
        super().__init__(dtype=np.dtype(dtype), dims=dims, dimsd=dims)

    @reshaped
    def _matvec(self, x):
        return scipy.ndimage.correlate1d(x, np.array([0.25, 0.5, 0.25]), axis=0, mode="constant")

    _rmatvec = _matvec


class UserWeights(pylops.LinearOperator):
    """Decorated with ``reshaped``; owns a coefficient."""

    def __init__(self, weights, axis=0, dtype="float64"):
        super().__init__(dtype=np.dtype(dtype), dims=weights.shape, dimsd=weights.shape)
        self.weights = weights
        self.axis = axis

    @reshaped
    def _matvec(self, x):
        return np.flip(self.weights * x, axis=self.axis)

    @reshaped
    def _rmatvec(self, x):
        return np.conj(self.weights) * np.flip(x, axis=self.axis)


class UserNorm(pylops.LinearOperator):
    """A rectangular operator that reduces, concatenates and broadcasts."""

    def __init__(self, dims, dtype="float64"):
        super().__init__(dtype=np.dtype(dtype), dims=dims, dimsd=(dims[0] + 1, dims[1]))

    @reshaped
    def _matvec(self, x):
        return np.concatenate([x, x.mean(axis=0, keepdims=True)], axis=0)

    @reshaped
    def _rmatvec(self, x):
        return x[:-1] + x[-1:] / self.dims[0]


for dims in [(9,), (5, 6, 4)]:
    add(f"UserDifference-{len(dims)}d", lambda c, d=dims: UserDifference(d))
    add(f"UserBlur-{len(dims)}d", lambda c, d=dims: UserBlur(d), whole=True)
add("UserDifference-complex64", lambda c: UserDifference((5, 6), dtype="complex64"))
for dtype in ["float64", "complex128"]:
    add(
        f"UserWeights-{dtype}",
        lambda c, t=dtype: UserWeights(c(rand((6, 5), t)), axis=1, dtype=t),
        coefficients=True,
    )
add("UserNorm", lambda c: UserNorm((6, 5)))

# ------------------------------------------------------------ FunctionOperator


def _double_flip(v):
    return 2 * np.flip(v)


def _docs_forward(v):
    return np.array([2 * v[0], 3 * v[1]])


def _take_half(v):
    return v[:5] + 1.0 * v[5:]


def _put_half(v):
    return np.concatenate([v, v])


add(
    "FunctionOperator-flip",
    lambda c: pylops.FunctionOperator(_double_flip, _double_flip, 12),
)
add(
    "FunctionOperator-rectangular",
    lambda c: pylops.FunctionOperator(_take_half, _put_half, 5, 10),
)
add(
    "FunctionOperator-complex",
    lambda c: pylops.FunctionOperator(_double_flip, _double_flip, 12, dtype="complex64"),
)
add(
    "FunctionOperator-forward_only",
    lambda c: pylops.FunctionOperator(_docs_forward, 2),
    adjoint=False,
    whole=True,
)

# ------------------------------------------------------------- MemoizeOperator

add(
    "MemoizeOperator-diagonal",
    lambda c: pylops.MemoizeOperator(pylops.Diagonal(c(rand(12)))),
    coefficients=True,
    fresh=True,
)
add(
    "MemoizeOperator-derivative",
    lambda c: pylops.MemoizeOperator(pylops.FirstDerivative((6, 5), axis=0)),
    fresh=True,
)

# ------------------------------------------------------------------ Regression

for order in [0, 1, 3]:
    add(
        f"Regression-order{order}",
        lambda c, o=order: pylops.Regression(c(np.linspace(-1, 1, 11)), order=o),
        coefficients=True,
    )
add(
    "Regression-float32",
    lambda c: pylops.Regression(
        c(np.linspace(-1, 1, 11, dtype="float32")), order=2, dtype="float32"
    ),
    coefficients=True,
)
add(
    "LinearRegression",
    lambda c: pylops.LinearRegression(c(np.linspace(0, 1, 13))),
    coefficients=True,
)

# ------------------------------------------------------------------ MatrixMult

for dtype in DTYPES:
    add(
        f"MatrixMult-{dtype}",
        lambda c, t=dtype: pylops.MatrixMult(c(rand((7, 9), t)), dtype=t),
        coefficients=True,
    )
    add(
        f"MatrixMult-otherdims-{dtype}",
        lambda c, t=dtype: pylops.MatrixMult(c(rand((7, 6), t)), otherdims=5, dtype=t),
        coefficients=True,
    )
add(
    "MatrixMult-otherdims-3d",
    lambda c: pylops.MatrixMult(c(rand((4, 5))), otherdims=(3, 4)),
    coefficients=True,
)
add(
    "MatrixMult-tall-forceflat",
    lambda c: pylops.MatrixMult(c(rand((9, 4))), forceflat=True),
    coefficients=True,
)
add(
    "MatrixMult-column",
    lambda c: pylops.MatrixMult(c(rand((6, 1)))),
    coefficients=True,
)


def _sparse(shape, dtype, fmt):
    dense = rand(shape, dtype)
    dense[np.abs(dense) < 0.7] = 0
    return getattr(scipy.sparse, f"{fmt}_matrix")(dense)


for fmt, dtype in [("csr", "float64"), ("csc", "complex128"), ("coo", "float32")]:
    add(
        f"MatrixMult-sparse-{fmt}-{dtype}",
        lambda c, f=fmt, t=dtype: pylops.MatrixMult(_sparse((8, 6), t, f), dtype=t),
    )
add(
    "MatrixMult-sparse-otherdims",
    lambda c: pylops.MatrixMult(_sparse((8, 6), "float64", "csr"), otherdims=3),
)

# -------------------------------------------------------------------- Diagonal

for dtype in DTYPES:
    add(
        f"Diagonal-1d-{dtype}",
        lambda c, t=dtype: pylops.Diagonal(c(rand(13, t)), dtype=t),
        coefficients=True,
        kind="elementwise",
    )
add(
    "Diagonal-nd",
    lambda c: pylops.Diagonal(c(rand((5, 6, 4)))),
    coefficients=True,
    kind="elementwise",
)
for axis in [0, 1, -1]:
    add(
        f"Diagonal-dims-axis{axis}",
        lambda c, a=axis: pylops.Diagonal(
            c(rand((5, 6, 4)[a], "complex128")),
            dims=(5, 6, 4),
            axis=a,
            dtype="complex128",
        ),
        coefficients=True,
        kind="elementwise",
    )

# ---------------------------------------------------- Zero, Identity, Kronecker

add("Zero-square", lambda c: pylops.Zero(8))
add("Zero-rectangular", lambda c: pylops.Zero(8, 5, dtype="float32"))
add("Zero-nd", lambda c: pylops.Zero((4, 5), (3, 2), dtype="complex64"))
add("Identity-square", lambda c: pylops.Identity(9), kind="elementwise")
add("Identity-nd", lambda c: pylops.Identity((5, 4, 3)), kind="elementwise")
add(
    "Identity-copy",
    lambda c: pylops.Identity((5, 4), inplace=False, dtype="complex64"),
    kind="elementwise",
)
add("Identity-N<M", lambda c: pylops.Identity(5, 9))
add("Identity-N>M", lambda c: pylops.Identity(9, 5, dtype="float32"))
add("Identity-N<M-copy", lambda c: pylops.Identity(5, 9, inplace=False))
add("Identity-nd-N<M", lambda c: pylops.Identity((3, 4), (5, 6)))
add("Identity-nd-N>M", lambda c: pylops.Identity((5, 6), (5, 4)))
add(
    "Identity-nd-forceflat",
    lambda c: pylops.Identity((5, 6), (5, 4), forceflat=True),
)
add(
    "Kronecker-matrices",
    lambda c: pylops.Kronecker(
        pylops.MatrixMult(c(rand((3, 4)))), pylops.MatrixMult(c(rand((5, 2))))
    ),
    coefficients=True,
)
add(
    "Kronecker-complex",
    lambda c: pylops.Kronecker(
        pylops.MatrixMult(c(rand((3, 4), "complex128")), dtype="complex128"),
        pylops.FirstDerivative(5, dtype="complex128"),
        dtype="complex128",
    ),
    coefficients=True,
)

# ----------------------------------------------------------------- Restriction

for axis in [0, 1, 2]:
    add(
        f"Restriction-axis{axis}",
        lambda c, a=axis: pylops.Restriction((5, 6, 7), c(np.array([0, 2, 3])), axis=a),
        coefficients=True,
        peeks=1,
    )
for name, iava in {
    "sorted": [1, 4, 5, 9],
    "unsorted": [7, 2, 10, 0, 4],
    "repeated": [3, 3, 0, 9, 3, 11],
    "negative": [-1, 2, -5],
}.items():
    add(
        f"Restriction-1d-{name}",
        lambda c, i=iava: pylops.Restriction(12, c(np.array(i))),
        coefficients=True,
        peeks=1,
    )
add("Restriction-list", lambda c: pylops.Restriction((4, 9), [8, 1, 3]))
add(
    "Restriction-repeated-axis0",
    lambda c: pylops.Restriction((6, 5), np.array([5, 1, 1, 0]), axis=0, dtype="complex64"),
)
add(
    "Restriction-copy-forceflat",
    lambda c: pylops.Restriction((4, 9), [0, 5], inplace=False, forceflat=True),
)

# ---------------------------------- Flip, Symmetrize, Transpose, Roll, Pad, Sum

for dims, axis in [((9,), -1), ((5, 6), 0), ((5, 6, 4), 1), ((5, 6, 4), -1)]:
    setting = f"{len(dims)}d-axis{axis}"
    add(f"Flip-{setting}", lambda c, d=dims, a=axis: pylops.Flip(d, axis=a))
    add(f"Symmetrize-{setting}", lambda c, d=dims, a=axis: pylops.Symmetrize(d, axis=a))
    for shift in [2, -1]:
        add(
            f"Roll-{setting}-shift{shift}",
            lambda c, d=dims, a=axis, s=shift: pylops.Roll(d, axis=a, shift=s),
        )
add("Roll-more_than_a_turn", lambda c: pylops.Roll((5, 6), axis=0, shift=13))
add("Flip-complex64", lambda c: pylops.Flip((5, 6), axis=0, dtype="complex64"))
add("Symmetrize-float32", lambda c: pylops.Symmetrize((5, 6), 0, dtype="float32"))
add("Transpose-2d", lambda c: pylops.Transpose((5, 7), (1, 0)))
for axes in [(1, 0, 2), (2, 0, 1), (0, -1, 1)]:
    add(
        f"Transpose-3d-{''.join(map(str, axes))}",
        lambda c, a=axes: pylops.Transpose((3, 5, 4), a, dtype="complex128"),
    )
add("Pad-1d", lambda c: pylops.Pad(8, (2, 3)))
add("Pad-2d", lambda c: pylops.Pad((5, 6), ((1, 0), (0, 4)), dtype="float32"))
add("Pad-3d", lambda c: pylops.Pad((3, 4, 5), ((0, 0), (1, 2), (3, 1))))
add("Sum-1d", lambda c: pylops.Sum((9,)))
for dims, axis in [((5, 6), 0), ((5, 6), 1), ((5, 6, 4), 0), ((5, 6, 4), 1)]:
    add(
        f"Sum-{len(dims)}d-axis{axis}",
        lambda c, d=dims, a=axis: pylops.Sum(d, axis=a),
    )
add("Sum-3d-complex", lambda c: pylops.Sum((5, 6, 4), axis=-1, dtype="complex64"))
add("Sum-2d-forceflat", lambda c: pylops.Sum((5, 6), axis=0, forceflat=True))

# ---------------------------------------------------------------------- Spread

NX0, NT0, NX, NT = 4, 6, 3, 9


def _table(fractions):
    rng = np.random.default_rng(3)
    table = rng.integers(0, NT - 2, size=(NX0, NT0, NX)).astype(float)
    table[1, 2, 0] = np.nan
    table[3, 5] = np.nan
    return (table, rng.uniform(size=table.shape)) if fractions else table


def _fh_plain(ix0, it):
    return np.array([it, np.nan, (it + ix0) % 7], dtype=float)


def _fh_interp(ix0, it):
    return _fh_plain(ix0, it), np.array([0.25, 0.5, 0.75])


@functools.cache
def _fh_numba(interp):
    import numba

    @numba.njit
    def fh(ix0, it):
        index = np.empty(3)
        index[0], index[1], index[2] = it, np.nan, (it + ix0) % 7
        part = np.empty(3)
        part[0], part[1], part[2] = 0.25, 0.5, 0.75
        return index, part

    return fh


for engine in ["numpy", "numba"]:
    add(
        f"Spread-{engine}-table",
        lambda c, e=engine: pylops.Spread((NX0, NT0), (NX, NT), table=c(_table(False)), engine=e),
        coefficients=True,
        peeks=1,
        whole=True,
        matmat=engine != "numba",
    )
    add(
        f"Spread-{engine}-dtable",
        lambda c, e=engine: pylops.Spread(
            (NX0, NT0),
            (NX, NT),
            table=c(_table(True)[0]),
            dtable=c(_table(True)[1]),
            engine=e,
        ),
        coefficients=True,
        peeks=1,
        whole=True,
        matmat=engine != "numba",
    )
    for interp in [False, True]:
        add(
            f"Spread-{engine}-fh-interp{interp}",
            lambda c, e=engine, i=interp: pylops.Spread(
                (NX0, NT0),
                (NX, NT),
                fh=_fh_numba(i) if e == "numba" else (_fh_interp if i else _fh_plain),
                interp=i,
                engine=e,
            ),
            whole=True,
            matmat=engine != "numba",
        )

# ------------------------------------------------- Real, Imag, Conj and ToCupy

for dtype in ["complex64", "complex128"]:
    real = "float32" if dtype == "complex64" else "float64"
    for dims in [(9,), (5, 6, 4)]:
        setting = f"{len(dims)}d-{dtype}"
        add(
            f"Real-{setting}",
            lambda c, d=dims, t=dtype: pylops.Real(d, dtype=t),
            kind="elementwise",
            y_dtype=real,
        )
        add(
            f"Imag-{setting}",
            lambda c, d=dims, t=dtype: pylops.Imag(d, dtype=t),
            kind="elementwise",
            y_dtype=real,
        )
        add(
            f"Conj-{setting}",
            lambda c, d=dims, t=dtype: pylops.Conj(d, dtype=t),
            kind="elementwise",
        )
add("ToCupy", lambda c: pylops.ToCupy((5, 6)), kind="elementwise")

# ------------------------------------------------------------------- Smoothing

for dtype in DTYPES:
    add(
        f"Smoothing1D-{dtype}",
        lambda c, t=dtype: pylops.Smoothing1D(3, 11, dtype=t),
        kind="stencil",
    )
for axis, nsmooth in [(0, 4), (1, 5), (-1, 3)]:
    add(
        f"Smoothing1D-3d-axis{axis}-n{nsmooth}",
        lambda c, a=axis, n=nsmooth: pylops.Smoothing1D(n, (6, 5, 7), axis=a),
        kind="stencil",
    )
add("Smoothing1D-widest", lambda c: pylops.Smoothing1D(5, (5, 6), axis=0))
add(
    "Smoothing2D-2d",
    lambda c: pylops.Smoothing2D((3, 4), (7, 8)),
    kind="stencil",
)
add(
    "Smoothing2D-3d-axes02",
    lambda c: pylops.Smoothing2D((2, 3), (6, 4, 7), axes=(0, 2), dtype="float32"),
    kind="stencil",
)
add(
    "SmoothingND-3d",
    lambda c: pylops.SmoothingND((3, 2, 3), (5, 4, 6), axes=(0, 1, 2)),
    kind="stencil",
)
add(
    "SmoothingND-3d-axes12",
    lambda c: pylops.SmoothingND((3, 5), (4, 6, 7), axes=(1, 2), dtype="complex128"),
    kind="stencil",
)

# ----------------------------------------------------------- CausalIntegration

for kind in ["full", "half", "trapezoidal"]:
    for removefirst in [False, True]:
        for dims, axis in [((9,), -1), ((5, 6, 4), 0), ((5, 6, 4), 1)]:
            add(
                f"CausalIntegration-{kind}-{len(dims)}d-axis{axis}"
                + ("-removefirst" if removefirst else ""),
                lambda c, k=kind, r=removefirst, d=dims, a=axis: pylops.CausalIntegration(
                    d, axis=a, sampling=0.3, kind=k, removefirst=r
                ),
            )
add(
    "CausalIntegration-complex64",
    lambda c: pylops.CausalIntegration((5, 6), axis=0, kind="half", dtype="complex64"),
)
add(
    "CausalIntegration-float32",
    lambda c: pylops.CausalIntegration((5, 6), kind="trapezoidal", dtype="float32"),
)

# ----------------------------------------------------------------- derivatives

for dims, axis in [((11,), -1), ((7, 6), 0), ((6, 5, 7), 1), ((6, 5, 7), 2)]:
    setting = f"{len(dims)}d-axis{axis}"
    for kind in ["forward", "backward", "centered"]:
        for edge in [False, True] if kind == "centered" else [False]:
            for order in [3, 5] if kind == "centered" else [3]:
                add(
                    f"FirstDerivative-{setting}-{kind}-o{order}" + ("-edge" if edge else ""),
                    lambda c, d=dims, a=axis, k=kind, e=edge, o=order: pylops.FirstDerivative(
                        d, axis=a, sampling=0.5, kind=k, edge=e, order=o
                    ),
                    kind="stencil",
                )
            add(
                f"SecondDerivative-{setting}-{kind}" + ("-edge" if edge else ""),
                lambda c, d=dims, a=axis, k=kind, e=edge: pylops.SecondDerivative(
                    d, axis=a, sampling=0.5, kind=k, edge=e
                ),
                kind="stencil",
            )
for dtype in ["float32", "complex64", "complex128"]:
    add(
        f"FirstDerivative-{dtype}",
        lambda c, t=dtype: pylops.FirstDerivative((7, 6), 0, edge=True, dtype=t),
        kind="stencil",
    )
    add(
        f"SecondDerivative-{dtype}",
        lambda c, t=dtype: pylops.SecondDerivative((7, 6), 0, dtype=t),
        kind="stencil",
    )
    add(
        f"Laplacian-{dtype}",
        lambda c, t=dtype: pylops.Laplacian((7, 6), dtype=t),
        kind="stencil",
    )
add("FirstDerivative-short_axis", lambda c: pylops.FirstDerivative((3, 6), axis=0))
add("FirstDerivative-scalar_dims", lambda c: pylops.FirstDerivative(9), kind="stencil")
add(
    "Laplacian-3d",
    lambda c: pylops.Laplacian(
        (6, 5, 7), axes=(0, 1, 2), weights=(1, 2, 0.5), sampling=(1, 0.5, 2)
    ),
    kind="stencil",
)
add(
    "Laplacian-3d-edge-axes02",
    lambda c: pylops.Laplacian((6, 5, 7), axes=(0, 2), edge=True),
    kind="stencil",
)
add(
    "Laplacian-forward",
    lambda c: pylops.Laplacian((6, 7), kind="forward"),
    kind="stencil",
)
for kind in ["forward", "backward", "centered"]:
    add(f"Gradient-2d-{kind}", lambda c, k=kind: pylops.Gradient((6, 7), kind=k))
add(
    "Gradient-3d-edge",
    lambda c: pylops.Gradient((6, 5, 7), sampling=(1, 2, 0.5), edge=True, dtype="float32"),
)
add("Gradient-complex", lambda c: pylops.Gradient((6, 5), dtype="complex128"))
for name in ["FirstDirectionalDerivative", "SecondDirectionalDerivative"]:
    add(
        f"{name}-vector",
        lambda c, n=name: getattr(pylops, n)((6, 7), c(np.array([0.6, 0.8]))),
        coefficients=True,
    )
    add(
        f"{name}-float32",
        lambda c, n=name: getattr(pylops, n)(
            (6, 7), c(np.array([0.6, 0.8], dtype="float32")), dtype="float32"
        ),
        coefficients=True,
    )
    add(
        f"{name}-field",
        lambda c, n=name: getattr(pylops, n)(
            (5, 4, 6), c(rand((3, 5, 4, 6))), edge=True, kind="forward"
        ),
        coefficients=True,
    )

# ---------------------------------------------------------------------- stacks


def _rows(c):
    return [
        pylops.FirstDerivative((6, 5), axis=0),
        pylops.Diagonal(c(rand((6, 5)))),
        pylops.Sum((6, 5), axis=0),
    ]


def _columns(c):
    return [
        pylops.FirstDerivative((6, 5), axis=1),
        pylops.Restriction((6, 10), np.arange(0, 10, 2)),
        pylops.Identity((6, 5)),
    ]


def _same(c):
    return [
        pylops.FirstDerivative((6, 5), axis=0),
        pylops.Diagonal(c(rand((6, 5)))),
        pylops.Smoothing1D(3, (6, 5), axis=1),
    ]


POOL = {"nproc": 2, "parallel_kind": "multithread"}
for setting, kwargs in {"serial": {}, "multithread": POOL}.items():
    add(
        f"VStack-mixed-{setting}",
        lambda c, k=kwargs: pylops.VStack(_rows(c), **k),
        coefficients=True,
    )
    add(
        f"HStack-mixed-{setting}",
        lambda c, k=kwargs: pylops.HStack(_columns(c), **k),
    )
    add(
        f"BlockDiag-mixed-{setting}",
        lambda c, k=kwargs: pylops.BlockDiag(_rows(c), **k),
        coefficients=True,
    )
    add(
        f"Block-mixed-{setting}",
        lambda c, k=kwargs: pylops.Block([_same(c)[:2], _same(c)[1:]], **k),
        coefficients=True,
    )
    for stack in ["VStack", "HStack", "BlockDiag"]:
        add(
            f"{stack}-same-{setting}",
            lambda c, s=stack, k=kwargs: getattr(pylops, s)(_same(c), **k),
            coefficients=True,
        )
for stack, shapes in {
    "VStack": [(3, 6), (5, 6)],
    "HStack": [(6, 3), (6, 5)],
    "BlockDiag": [(3, 6), (6, 5)],
}.items():
    for dtype in ["float64", "complex64"]:
        add(
            f"{stack}-matrices-{dtype}",
            lambda c, s=stack, hs=shapes, t=dtype: getattr(pylops, s)(
                [c(rand(h, t)) for h in hs], dtype=t
            ),
            coefficients=True,
        )
    add(
        f"{stack}-matrix_and_operator",
        lambda c, s=stack: getattr(pylops, s)(
            [c(rand((6, 6))), pylops.FirstDerivative(6), _sparse((6, 6), "f8", "csr")]
        ),
        coefficients=True,
    )
    add(
        f"{stack}-scipy",
        lambda c, s=stack: getattr(pylops, s)(
            [
                pylops.FirstDerivative(6),
                pylops.aslinearoperator(scipy.sparse.linalg.aslinearoperator(rand((6, 6)))),
            ]
        ),
        whole=True,
    )
add(
    "VStack-with_zero",
    lambda c: pylops.VStack([pylops.Zero(4, 6), pylops.Identity(6)]),
)
add(
    "HStack-with_zero",
    lambda c: pylops.HStack([pylops.Zero(6, 4), pylops.Identity(6)]),
)
add(
    "Block-matrices",
    lambda c: pylops.Block(
        [
            [c(rand((3, 4))), c(rand((3, 2), seed=1))],
            [c(rand((5, 4), seed=2)), c(rand((5, 2), seed=3))],
        ]
    ),
    coefficients=True,
)
add(
    "VStack-regularised",
    lambda c: pylops.VStack(
        [
            pylops.Smoothing1D(3, (6, 5), axis=0),
            0.3 * pylops.FirstDerivative((6, 5), axis=0),
            0.2 * pylops.Laplacian((6, 5)),
        ]
    ),
)
add(
    "VStack-nested",
    lambda c: pylops.VStack([pylops.Gradient((4, 5)), pylops.Identity((4, 5))]),
)

# ---------------------------------------------------------------- compositions

DIMS = (6, 5)


def _d(dtype="float64", axis=0):
    return pylops.FirstDerivative(DIMS, axis=axis, kind="forward", dtype=dtype)


def _w(c, dtype="float64"):
    return pylops.Diagonal(c(rand(DIMS, dtype)), dtype=dtype)


for dtype in ["float64", "complex64"]:
    for name, compose in {
        "sum": lambda a, b: a + b,
        "difference": lambda a, b: a - 2.0 * b,
        "product": lambda a, b: a @ b,
        "product_adjoint": lambda a, b: (a @ b).H,
        "normal": lambda a, b: a.H @ a + 0.1 * b.H @ b,
        "negative": lambda a, b: -(a * b),
    }.items():
        add(
            f"compose-{name}-{dtype}",
            lambda c, f=compose, t=dtype: f(_d(t), _w(c, t)),
            "composition",
            coefficients=True,
        )
for name, compose in {
    "scaled": lambda a: 3 * a,
    "scaled_complex": lambda a: (2 - 1j) * a,
    "power": lambda a: a**3,
    "power_zero": lambda a: a**0,
    "H": lambda a: a.H,
    "T": lambda a: a.T,
    "HT": lambda a: a.H.T,
    "conj": lambda a: a.conj(),
    "conj_H": lambda a: a.conj().H,
    "adjoint_power": lambda a: (a**2).H,
}.items():
    for dtype in ["float64", "complex128"]:
        add(
            f"compose-{name}-{dtype}",
            lambda c, f=compose, t=dtype: f(_w(c, t) @ _d(t)),
            "composition",
            coefficients=True,
            x_dtype=dtype,
            y_dtype=dtype,
        )
for part, parts, x_dtype, y_dtype, dot in [
    ("toreal", "both", "float64", "float64", "real"),
    ("toreal", "forward", "complex128", "float64", "real"),
    ("toreal", "adjoint", "float64", "complex128", "real"),
    ("toreal", "both_complex", "complex128", "complex128", "none"),
    ("toimag", "both", "float64", "float64", "real"),
    ("toimag", "forward", "complex128", "float64", "none"),
    ("toimag", "adjoint", "float64", "complex128", "none"),
    ("toimag", "both_complex", "complex128", "complex128", "none"),
]:
    add(
        f"compose-{part}-{parts}",
        lambda c, p=part, ps=parts: getattr(_w(c, "complex128"), p)(
            forw=ps != "adjoint", adj=ps != "forward"
        ),
        "composition",
        coefficients=True,
        x_dtype=x_dtype,
        y_dtype=y_dtype,
        dot=dot,
    )
add(
    "compose-apply_columns",
    lambda c: _d(axis=1).apply_columns([0, 7, 3, 29]),
    "composition",
)
add(
    "compose-apply_columns_explicit",
    lambda c: pylops.MatrixMult(c(rand((7, 9), "complex128")), dtype="complex128").apply_columns(
        [8, 1, 4]
    ),
    "composition",
    coefficients=True,
)
add(
    "compose-different_dims",
    lambda c: (
        pylops.Sum((4, 6, 5), axis=0)
        @ pylops.Transpose((6, 5, 4), (2, 0, 1))
        @ pylops.Pad((6, 5, 3), ((0, 0), (0, 0), (0, 1)))
    ),
    "composition",
)


def _scipy_operator(shape, dtype="float64"):
    return scipy.sparse.linalg.aslinearoperator(rand(shape, dtype))


add(
    "compose-scipy_sum",
    lambda c: pylops.FirstDerivative(7) + _scipy_operator((7, 7)),
    "composition",
    whole=True,
)
add(
    "compose-scipy_product",
    lambda c: pylops.FirstDerivative(7) @ _scipy_operator((7, 4)),
    "composition",
    whole=True,
)
add(
    "compose-scipy_sparse",
    lambda c: (
        pylops.aslinearoperator(scipy.sparse.linalg.aslinearoperator(_sparse((6, 7), "c16", "csr")))
        @ pylops.Diagonal(c(rand(7, "complex128")), dtype="complex128")
    ),
    "composition",
    coefficients=True,
    whole=True,
)
add(
    "compose-user_and_pylops",
    lambda c: UserDifference(DIMS) @ _w(c) + 2 * UserBlur(DIMS),
    "composition",
    coefficients=True,
    whole=True,
)
