"""Watching solvers: bars for their runs, and plots of their convergence."""

import builtins
import io
import sys

import dask
import dask.array as da
import numpy as np
import pylops
import pytest
from pylops.optimization.cls_basic import CG, CGLS, LSQR
from pylops.optimization.cls_sparsity import FISTA, ISTA
from pylops.optimization.leastsquares import regularized_inversion

import pylops_dispatch
from pylops_dispatch.watching import known_cost

from .helpers import count_executions, rand, to_dask

DIMS = (9, 7)
CHUNKS = ((4, 3, 2), (5, 2))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def square():
    slope = pylops.FirstDerivative(DIMS, axis=0, kind="forward")
    return pylops.Diagonal(1 + np.abs(rand(DIMS))) + 0.5 * (slope.H @ slope)


def data(kind):
    y = square() @ rand(DIMS, seed=1).ravel()
    return to_dask(y, 20) if kind == "dask" else y


def last_bars(file):
    """The last state of each bar that stayed."""
    return [line.split("\r")[-1] for line in file.getvalue().split("\n") if line.strip()]


KINDS = ["dask", "numpy"]
SOLVERS = {
    CG: {"tol": 0},
    CGLS: {"tol": 0},
    LSQR: {"atol": 0, "btol": 0, "conlim": 0},
    ISTA: {"alpha": 0.1, "tol": 0},
    FISTA: {"alpha": 0.1, "tol": 0},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", SOLVERS)
def test_a_run_has_a_bar_with_iterations_and_cost(cls, kind):
    file = Terminal()
    solver = cls(square())
    with pylops_dispatch.progress(file=file):
        solver.solve(data(kind), niter=6, **SOLVERS[cls])
    (bar,) = last_bars(file)
    assert bar.startswith(f"{cls.__name__}: 100%")
    assert "6/6" in bar
    assert f"cost={solver.cost[-1]:.3e}" in bar


@pytest.mark.parametrize("kind", KINDS)
def test_functions_that_solve_have_bars_too(kind):
    file = Terminal()
    with pylops_dispatch.progress(file=file):
        pylops.cg(square(), data(kind), niter=3, tol=0)
        pylops.cgls(square(), data(kind), niter=4, tol=0)
    first, second = last_bars(file)
    assert first.startswith("CG:")
    assert "4/4" in second


def test_what_runs_in_the_place_of_scipy_has_a_bar():
    file = Terminal()
    with pylops_dispatch.progress(file=file):
        regularized_inversion(square(), data("dask"), [pylops.Identity(63)], iter_lim=6)
    (bar,) = last_bars(file)
    assert bar.startswith("LSQR: 100%")
    assert "6/6" in bar


def test_watching_executes_nothing():
    op, y = square(), data("dask")
    with count_executions() as alone:
        expected = pylops.cgls(op, y, niter=5, tol=0)[0].compute()
    with count_executions() as watched, pylops_dispatch.progress(True, file=io.StringIO()):
        result = pylops.cgls(op, y, niter=5, tol=0)[0].compute()
    assert watched.sizes == alone.sizes
    np.testing.assert_array_equal(result, expected)


def test_a_cost_that_is_lazy_is_not_shown():
    solver = CG(square())
    assert known_cost(solver) is None
    solver.cost = [da.ones(())]
    assert known_cost(solver) is None
    solver.cost = [1.0, np.float32(0.5)]
    assert known_cost(solver) == 0.5


def test_quiet_in_pipes_unless_asked(capsys, monkeypatch):
    with pylops_dispatch.progress():
        pylops.cg(square(), data("numpy"), niter=3, tol=0)
    assert capsys.readouterr().err == ""
    with pylops_dispatch.progress(True):
        pylops.cg(square(), data("numpy"), niter=3, tol=0)
    assert "CG: 100%" in capsys.readouterr().err
    file = Terminal()
    with pylops_dispatch.progress(False, file=file):
        pylops.cg(square(), data("numpy"), niter=3, tol=0)
    assert file.getvalue() == ""


def test_not_quiet_in_a_notebook(capsys, monkeypatch):
    class Shell:
        config = {"IPKernelApp": {}}  # noqa: RUF012

    module = type(sys)("IPython")
    module.get_ipython = Shell
    monkeypatch.setitem(sys.modules, "IPython", module)
    file = io.StringIO()
    with pylops_dispatch.progress(file=file):
        pylops.cg(square(), data("numpy"), niter=3, tol=0)
    assert "CG" in file.getvalue()


def test_going_on_starts_where_the_solver_is():
    file = Terminal()
    solver = CG(square())
    x = solver.setup(data("dask"), niter=9, tol=0)
    x = solver.run(x, 4)
    with pylops_dispatch.progress(file=file):
        solver.run(x, niter=6)
    assert "6/6" in last_bars(file)[0]
    assert "| 4/6 [" in file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_inner_solvers_are_shown_while_they_run(kind):
    file = Terminal()
    y = data(kind)
    with pylops_dispatch.progress(file=file, mininterval=0):
        pylops.optimization.sparsity.splitbregman(
            square(), y, [pylops.FirstDerivative(DIMS)], niter_outer=2, niter_inner=1,
            mu=1.0, epsRL1s=[0.1], engine="pylops", niter=3,
        )  # fmt: skip
    text = file.getvalue()
    assert "SplitBregman: 100%" in text
    assert "CGLS: " in text


def test_a_run_that_fails_closes_its_bar_and_leaves_the_solver_as_it_was():
    class Stop(Exception):
        pass

    def stop(x):
        raise Stop

    file = Terminal()
    solver = CG(square())
    solver.callback = stop
    x = solver.setup(data("dask"), niter=5, tol=0)
    with pylops_dispatch.progress(file=file):
        with pytest.raises(Stop):
            solver.run(x)
        assert solver.callbacks is None
        pylops.cg(square(), data("dask"), niter=2, tol=0)
    assert [bar.partition(":")[0] for bar in last_bars(file)] == ["CG", "CG"]


def test_outside_of_the_block_there_is_no_bar():
    file = Terminal()
    with pylops_dispatch.progress(file=file):
        pass
    pylops.cg(square(), data("dask"), niter=2, tol=0)
    assert file.getvalue() == ""


def without(monkeypatch, package):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_without_tqdm_the_error_says_what_to_install(monkeypatch):
    without(monkeypatch, "tqdm")
    with (
        pytest.raises(ImportError, match=r"pylops-dispatch\[watch\]"),
        pylops_dispatch.progress(True),
    ):
        pass
    # where nobody looks it is not needed
    with pylops_dispatch.progress(False):
        pass


# ------------------------------------------------------------------------ convergence


@pytest.fixture
def ax():
    figure = pytest.importorskip("matplotlib.figure")
    return figure.Figure().add_subplot()


def test_plot_of_costs(ax):
    cost = pylops.cgls(square(), data("dask"), niter=5, tol=0)[-1]
    assert pylops_dispatch.plot_convergence(cost, ax, color="k") is ax
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), cost)
    np.testing.assert_array_equal(line.get_xdata(), range(6))
    assert line.get_color() == "k"
    assert ax.get_yscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("iteration", "cost")


def test_plots_of_solvers_share_axes_and_are_named(ax):
    for cls in (CG, CGLS):
        solver = cls(square())
        solver.solve(data("dask"), niter=5, tol=0)
        pylops_dispatch.plot_convergence(solver, ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["CG", "CGLS"]


def test_a_cost_of_zero_is_plotted_on_a_linear_axis(ax):
    assert pylops_dispatch.plot_convergence([1.0, 0.5, 0.0], ax).get_yscale() == "linear"


def test_a_new_figure_by_default(monkeypatch):
    pytest.importorskip("matplotlib").use("agg")
    import matplotlib.pyplot as plt

    ax = pylops_dispatch.plot_convergence([1.0, 0.5])
    assert len(ax.get_lines()) == 1
    plt.close(ax.figure)


def test_a_solver_that_has_not_run_has_nothing_to_plot(ax):
    with pytest.raises(ValueError, match="CG has no costs"):
        pylops_dispatch.plot_convergence(CG(square()), ax)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    without(monkeypatch, "matplotlib")
    with pytest.raises(ImportError, match="pip install matplotlib"):
        pylops_dispatch.plot_convergence([1.0])


def test_values_are_those_without_watching():
    y = data("numpy")
    expected = pylops.lsqr(square(), y, niter=5)[0]
    with pylops_dispatch.progress(True, file=io.StringIO()):
        result = pylops.lsqr(square(), y, niter=5)[0]
    np.testing.assert_array_equal(result, expected)
    assert not dask.is_dask_collection(result)


@pytest.mark.parametrize("given", [3, "cost", pylops.cgls(pylops.Identity(2), np.ones(2))])
def test_what_has_no_costs_cannot_be_plotted(given):
    name = type(given).__name__
    with pytest.raises(TypeError, match=rf"the costs that a solver returned.*got {name}"):
        pylops_dispatch.plot_convergence(given)


@pytest.mark.parametrize("show", ["yes", 5])
def test_bars_are_shown_or_not(show):
    with (
        pytest.raises(TypeError, match="show must be True, False or None"),
        pylops_dispatch.progress(show),
    ):
        pass
