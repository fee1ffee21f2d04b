"""Operators are built of NumPy and dask arrays side by side, whichever of them are lazy."""

import functools
import itertools
import warnings
from contextlib import suppress

import dask.array as da
import numpy as np
import pylops
import pytest
from pylops import avo, linearoperator
from pylops import signalprocessing as sp
from pylops.waveeqprocessing import (
    AcousticWave2D,
    BlendingContinuous,
    PressureToVelocity,
    UpDownComposition2D,
    UpDownComposition3D,
)
from pylops.waveeqprocessing.marchenko import directwave

import pylops_dispatch
from pylops_dispatch.operators import is_lazy_operator, made_lazy
from pylops_dispatch.rules.table import whole_axis

from .catalogue import WITH_COEFFICIENTS, build
from .helpers import (
    as_dask_coefficient,
    assert_bitwise,
    assert_same,
    forbid_executions,
    noting,
    rand,
    to_dask,
)

NT = 9
WAVELET, THETA, VSVP = np.array([0.2, 1.0, 0.3]), np.linspace(5, 30, 4), np.linspace(0.4, 0.6, NT)
MAKE = {
    "AVOLinearModelling": (
        lambda w, theta, vsvp: avo.AVOLinearModelling(theta, vsvp=vsvp, nt0=NT)
    ),
    **{
        f"PrestackLinearModelling, explicit {explicit}": (
            lambda w, theta, vsvp, explicit=explicit: avo.PrestackLinearModelling(
                w, theta, vsvp=vsvp, nt0=NT, explicit=explicit
            )
        )
        for explicit in (False, True)
    },
    "PrestackWaveletModelling": (
        lambda w, theta, vsvp: avo.PrestackWaveletModelling(
            np.outer(VSVP, w), theta, nwav=5, wavc=2, vsvp=vsvp
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("lazy", list(itertools.product([False, True], repeat=3)), ids=str)
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_modelling_with_some_of_its_arrays_lazy(make, lazy):
    with pylops_dispatch.disabled():
        expected_op = make(WAVELET, THETA, VSVP)
        x, y = rand(expected_op.shape[1]), rand(expected_op.shape[0])
        expected = expected_op @ x, expected_op.H @ y
    arrays = [
        da.from_array(a, chunks=3) if chosen else a
        for a, chosen in zip((WAVELET, THETA, VSVP), lazy, strict=True)
    ]
    with forbid_executions():
        op = make(*arrays)
        found = op @ to_dask(x, 5), op.H @ to_dask(y, 7)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other, rtol=1e-10)


POINTS = np.array([[0.4, 2.3, 4.0, 1.1], [0.2, 3.9, 1.5, 2.2]])
SINGLE = {
    "Bilinear": lambda: sp.Bilinear(POINTS.astype("float32"), (6, 5), dtype="float32"),
    **{
        f"Sliding1D, one operator for all windows {together}, tapers {tapers}": (
            lambda together=together, tapers=tapers: sp.Sliding1D(
                pylops.Identity((9, 8) if together else 8, dtype="float32"),
                dim=8 * 9, dimd=40, nwin=8, nover=4, tapertype=tapers,
            )
        )
        for together in (False, True)
        for tapers in (None, "hanning")
    },
    "Real": lambda: pylops.Real((6, 5), dtype="complex64"),
    "FFT": lambda: sp.FFT((6, 8), axis=1, real=True, dtype="float32"),
    "Fredholm1": lambda: sp.Fredholm1(rand((3, 4, 5), "float32"), nz=2, dtype="float32"),
}  # fmt: skip


class Turned(pylops.LinearOperator):
    """Complex forward, real in the adjoint, along the last axis."""

    def _matvec(self, x):
        return (x * (1 + 2j)).astype("complex64")

    def _rmatvec(self, x):
        return (x * (1 - 2j)).real.astype("float32")


def turned():
    pylops_dispatch.register_rule(Turned, whole_axis(lambda op: (1,)))
    return Turned(dims=(6, 5), dimsd=(6, 5), dtype="complex64")


SINGLE["an operator of a user"] = turned


@pytest.mark.parametrize("first", [False, True], ids=["forward-first", "adjoint-first"])
@pytest.mark.parametrize("x_dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", SINGLE.values(), ids=SINGLE)
def test_each_direction_has_its_own_dtype(make, x_dtype, first):
    """What is found for one direction is not taken for the other."""
    op = make()
    for adjoint in (first, not first):
        # each takes what the other gives
        complex_forward = isinstance(op, (pylops.Real, Turned))
        complex_input = np.dtype(op.dtype).kind == "c" and (adjoint or complex_forward)
        dtype = np.result_type(x_dtype, np.complex64) if complex_input else x_dtype
        x = rand(op.shape[0 if adjoint else 1], dtype)
        with pylops_dispatch.disabled():
            expected = (op.rmatvec if adjoint else op.matvec)(x)
        assert_same((op.rmatvec if adjoint else op.matvec)(to_dask(x, 7)), expected, rtol=1e-5)


def test_windows_of_a_block_are_put_where_they_start():
    """Chunks of the data begin where the first window of each block of windows does."""
    op = sp.Sliding1D(pylops.Identity(4), dim=4 * 9, dimd=20, nwin=4, nover=2, tapertype=None)
    y = op @ to_dask(rand((9, 4)), ((2, 4, 3), (4,)))
    assert y.chunks == ((4, 8, 8),)


@pytest.mark.parametrize("tapertype", [None, "hanning"])
def test_one_window_is_what_pylops_takes_for_it(tapertype):
    """Of an operator on all windows at once whose data have no axis of windows."""
    matrix = pylops.MatrixMult(rand((4, 3)))
    op = sp.Sliding1D(matrix, 3, 4, 4, 0, tapertype=tapertype, savetaper=False)
    x, y = rand(3), rand(4)
    assert_same(op @ to_dask(x, 2), op @ x)
    assert_same(op.H @ to_dask(y, 3), op.H @ y)


@pytest.mark.parametrize("at", [(7, 2), (2, 5), (-9, 0), (0, -7)])
def test_points_without_samples_on_both_sides_are_refused_when_applied(at):
    points = np.array([[3.2, at[0], 1], [1.5, at[1], 2.5]])
    op = sp.Bilinear(points, (8, 6))
    with pytest.raises(IndexError):
        op @ np.ones((8, 6))
    for apply in (lambda: op @ da.ones((8, 6), chunks=4), lambda: op.H @ da.ones(3, chunks=2)):
        with forbid_executions(), pytest.raises(IndexError, match="point 1 lies at"):
            apply()


def test_a_kernel_is_read_from_one_layout_only():
    """The transpose that ``saveGt`` keeps is not read forward, nor the kernel in the adjoint."""
    kernel = rand((3, 4, 5))
    op = sp.Fredholm1(kernel, nz=2, saveGt=True)
    forward = (op @ to_dask(rand(op.shape[1]), 10)).dask.layers
    backward = (op.H @ to_dask(rand(op.shape[0]), 8)).dask.layers
    held = [{name for name in layers if "coefficient" in name} for layers in (forward, backward)]
    assert [len(names) for names in held] == [1, 1]
    assert held[0] != held[1]


@pytest.mark.parametrize("axes", [(0, 1), (2, 0), (1, 2), (-1, 0)], ids=str)
@pytest.mark.parametrize("cls", [sp.Convolve2D, sp.ConvolveND])
def test_a_lazy_filter_may_have_its_axes_in_any_order(cls, axes):
    dims, taps = (6, 7, 5), rand((4, 3))
    x = rand(dims)
    expected = cls(dims, taps, offset=(1, 1), axes=axes)
    with forbid_executions():
        op = cls(dims, to_dask(taps, 2), offset=(1, 1), axes=axes)
        y, back = op @ to_dask(x, 3), op.H @ to_dask(x, (2, 7, 3))
    assert_same(y, expected @ x)
    assert_same(back, expected.H @ x)


@pytest.mark.filterwarnings("error::pylops_dispatch.PerformanceWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("inverse", [False, True])
def test_a_seislet_of_lazy_slopes_runs_over_traces_in_the_dtype_of_numpy(inverse, dtype):
    slopes, x = 0.1 * rand((4, 8)), rand((4, 8), seed=1)
    expected = sp.Seislet(slopes, level=2, inv=inverse, dtype=dtype)
    for given in (slopes, to_dask(slopes, 3)):
        op = sp.Seislet(given, level=2, inv=inverse, dtype=dtype)
        assert_same(op @ to_dask(x, 2), expected @ x)
        assert_same(op.H @ to_dask(x, 2), expected.H @ x)


LAYERS = (2.0, 1.0, 2.0, 3.0, 1.5, 2.2)  # velocities and densities above and below
REFLECTION = {
    "zoeppritz_scattering": lambda t, v: avo.avo.zoeppritz_scattering(*LAYERS, t),
    "zoeppritz_element": lambda t, v: avo.avo.zoeppritz_element(*LAYERS, t, element="PdSu"),
    "zoeppritz_pp": lambda t, v: avo.avo.zoeppritz_pp(*LAYERS, t),
    "approx_zoeppritz_pp": lambda t, v: avo.avo.approx_zoeppritz_pp(*LAYERS, t),
    "akirichards": lambda t, v: avo.avo.akirichards(t, v, n=4),
    "fatti": lambda t, v: avo.avo.fatti(t, v, n=4),
    "ps": lambda t, v: avo.avo.ps(t, v, n=4),
}


@pytest.mark.filterwarnings("ignore::pylops_dispatch.PerformanceWarning")  # inverses of matrices
@pytest.mark.parametrize("ratio", ["a number", "an array", "lazy"])
@pytest.mark.parametrize("name", REFLECTION)
def test_reflection_coefficients_of_lazy_angles_are_lazy(name, ratio):
    theta = np.array([0.0, 10.0, 25.0])
    vsvp = 0.5 if ratio == "a number" else np.linspace(0.4, 0.6, 4)
    expected = REFLECTION[name](theta, vsvp)
    with forbid_executions():
        found = REFLECTION[name](
            to_dask(theta, (2,)), to_dask(vsvp, (3,)) if ratio == "lazy" else vsvp
        )
    if not isinstance(expected, tuple):
        expected, found = (expected,), (found,)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [1, 4, 5], ids="{} ratios".format)
@pytest.mark.parametrize("name", ["akirichards", "fatti", "ps"])
def test_arrays_of_ratios_are_not_taken_for_numbers(name, count, dtype):
    """However many there are, and whichever of the two arrays is lazy: ``n`` is for numbers."""
    theta = np.array([0.0, 10.0, 25.0], dtype)
    vsvp = np.linspace(0.4, 0.6, count).astype(dtype)
    expected = REFLECTION[name](theta, vsvp)
    cut_theta, cut_vsvp = to_dask(theta, (2,)), to_dask(vsvp, (3,))
    for given in ((cut_theta, vsvp), (theta, cut_vsvp), (cut_theta, cut_vsvp)):
        with forbid_executions():
            found = REFLECTION[name](*given)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("linearization", ["akirich", "fatti", "ps"])
def test_an_explicit_prestack_operator_has_the_dtype_of_its_angles(linearization):
    wav, theta = np.hanning(5).astype("float32"), np.linspace(0, 30, 4, dtype="float32")

    def make(wav, theta):
        return avo.prestack.PrestackLinearModelling(
            wav, theta, vsvp=0.5, nt0=6, explicit=True, linearization=linearization
        )

    x = rand(18, "float32")
    expected = make(wav, theta)
    for given in (
        (to_dask(wav, (3,)), theta),
        (wav, to_dask(theta, (3,))),
        (to_dask(wav, (3,)), to_dask(theta, (3,))),
    ):
        op = make(*given)
        assert op.A.dtype == expected.A.dtype
        assert_same(op @ to_dask(x, (7,)), expected @ x)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("number", range(6))
def test_approximate_reflection_of_lazy_layers_is_lazy(number, count):
    layers: list = [layer * np.linspace(1, 1.1, count) for layer in LAYERS]
    theta = np.array([0.0, 10.0, 25.0])
    expected = avo.avo.approx_zoeppritz_pp(*layers, theta)
    layers[number] = to_dask(layers[number], 2)
    with forbid_executions():
        found = avo.avo.approx_zoeppritz_pp(*layers, theta)
    assert_same(found, expected)


def test_operators_of_dask_arrays_are_known_as_such_from_the_first(first_of_its_kind):
    """NumPy vectors that they are applied to would else go to PyLops's code for NumPy arrays."""
    unknown = []
    for entry in WITH_COEFFICIENTS:
        first_of_its_kind()
        with warnings.catch_warnings(action="ignore"), build(entry, as_dask_coefficient) as op:
            if is_lazy_operator(op) and not made_lazy:
                unknown.append(entry.id)
    assert unknown == []


def test_what_is_made_of_operators_only_has_pylops_own_constructor():
    """``op.H`` makes one each time."""
    made = linearoperator._AdjointLinearOperator, linearoperator._TransposedLinearOperator
    for cls in (*made, linearoperator._ProductLinearOperator, linearoperator._SumLinearOperator):
        assert not hasattr(vars(cls)["__init__"], "__wrapped__"), cls
    assert hasattr(vars(pylops.Diagonal)["__init__"], "__wrapped__")


@pytest.mark.parametrize("name", ["nr", "dt", "nttot"])
def test_lazy_numbers_that_pylops_counts_with_are_computed_once(name):
    made = []

    def make(**changed):
        given = {"nt": 9, "nr": 3, "ns": 4, "dt": 0.1, "nttot": 20, **changed}
        return BlendingContinuous(**given, times=np.array([0.0, 0.35, 0.6, 1.0]))

    value = np.array({"nr": 3, "dt": 0.1, "nttot": 20}[name])
    with pytest.warns(pylops_dispatch.ImplicitComputeWarning, match=f"values of {name}"):
        op = make(**{name: da.from_array(value).map_blocks(noting(made), meta=value)})
    x = rand((4, 3, 9))
    np.testing.assert_array_equal(op @ x, make() @ x)
    assert len(made) == 1


SCALED = {
    "PressureToVelocity": lambda **given: PressureToVelocity(**given),
    "UpDownComposition2D": lambda **given: UpDownComposition2D(**given, scaling=2.0),
    "UpDownComposition3D": lambda nr, dr, nffts, **given: UpDownComposition3D(
        nr=(nr, nr), dr=(dr, dr), nffts=(8, 8, 16), **given
    ),
}


@pytest.mark.parametrize("number", ["dt", "rho", "vel", "critical"])
@pytest.mark.parametrize("name", SCALED)
def test_lazy_numbers_of_which_wavefields_are_scaled_are_looked_at(name, number):
    given: dict = {
        "nt": 12, "nr": 7, "dt": 0.004, "dr": 10.0, "rho": 1000.0, "vel": 1500.0,
        "critical": 90.0, "ntaper": 2, "nffts": (8, 16),
    }  # fmt: skip
    expected = SCALED[name](**given)
    made = []
    lazy = da.from_array(np.array(given[number])).map_blocks(noting(made), meta=np.empty(()))
    with pytest.warns(pylops_dispatch.ImplicitComputeWarning, match=f"{name} inspects .* {number}"):
        op = SCALED[name](**{**given, number: lazy})
    assert len(made) == 1
    x = rand(op.shape[1], op.dtype)
    assert_bitwise(op @ x, expected @ x)


def test_a_function_of_spread_that_gives_dask_arrays_is_refused():
    op = pylops.Spread((3, 4), (3, 6), fh=lambda ix, it: da.ones(3, chunks=2))
    with forbid_executions(), pytest.raises(TypeError, match="give Spread a table"):
        op @ da.ones((3, 4), chunks=2)


def test_a_direct_wave_announces_that_it_looks_at_its_arrays():
    wav, trav = rand(5), 0.01 * np.arange(1.0, 5.0)
    with pytest.warns(pylops_dispatch.ImplicitComputeWarning, match="directwave inspects"):
        found = directwave(wav, to_dask(trav, (2,)), 16, 0.01)
    np.testing.assert_array_equal(found, directwave(wav, trav, 16, 0.01))


def test_non_stationary_filters_that_are_lazy_are_a_lazy_matrix():
    filters = rand((2, 3))
    expected = sp.NonStationaryConvolve1D(8, filters, ih=(1, 5)).todense()
    with forbid_executions():
        found = sp.NonStationaryConvolve1D(8, to_dask(filters, (1, 3)), ih=(1, 5)).todense()
    assert_same(found, expected)


def test_filters_in_between_are_dask_arrays():
    """``NonStationaryConvolve1D.hsinterp`` is a property, which works them out row by row."""
    hs = rand((3, 5))
    make = functools.partial(pylops.signalprocessing.NonStationaryConvolve1D, 20, ih=(4, 9, 14))
    expected = make(hs=hs).hsinterp
    assert type(expected) is np.ndarray
    op = make(hs=da.from_array(hs, chunks=(2, 3)))
    with forbid_executions():
        found = op.hsinterp
    assert_same(found, expected)
    x = da.ones(20, chunks=8)
    assert (op @ x).name == (make(hs=op.hs) @ x).name  # nothing of it stays in the operator
    del op.hsinterp


@pytest.mark.parametrize("name", ["vp", "src_x", "src_z", "rec_x", "rec_z"])
def test_arrays_of_an_acoustic_model_are_looked_at_once(name):
    """Before Devito gets them, which only the session with all engines has."""
    given = {"vp": np.full((5, 4), 1500.0), **dict.fromkeys(("src_x", "src_z", "rec_x", "rec_z"))}
    given = {key: rand(3) if value is None else value for key, value in given.items()}
    made = []
    lazy = da.from_array(given[name]).map_blocks(noting(made), meta=given[name])
    with (
        pytest.warns(pylops_dispatch.ImplicitComputeWarning, match=f"values of {name}"),
        suppress(Exception),
    ):
        AcousticWave2D((5, 4), (0, 0), (10, 10), **{**given, name: lazy}, t0=0, tn=0.1)
    assert len(made) == 1


@pytest.mark.parametrize("settings", [{"iter_lim": 4}, {"lapack_driver": "none"}], ids=str)
@pytest.mark.parametrize("lazy", [False, True])
def test_settings_of_scipy_are_refused_when_a_solve_is_asked_for(settings, lazy):
    """An explicit inversion takes those of ``scipy.linalg.lstsq``."""
    data = rand((12, 3, 4))
    data = da.from_array(data, chunks=3) if lazy else data
    with forbid_executions(), pytest.raises((TypeError, ValueError), match=r"iter_lim|none"):
        avo.prestack.PrestackInversion(
            data, THETA[:3], WAVELET, explicit=True, epsI=0.1, **settings
        )
