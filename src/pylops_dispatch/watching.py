"""Watching a solver: a bar for every run, and its convergence as a plot."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pylops.optimization.basesolver import Solver
from pylops.optimization.callback import Callbacks

from pylops_dispatch.steps import steps_of, watchers


@contextmanager
def progress(show: bool | None = None, **options: Any) -> Iterator[None]:
    """Show a bar for every run of a PyLops solver in the block, on dask and NumPy data alike.

    A bar has the iterations done and left, the time they took and will take, and the cost
    where the solver has it as a number: nothing is computed in order to be shown.

    Parameters
    ----------
    show : bool, optional
        By default bars are shown in terminals and notebooks, and not in pipes and log files.
    **options
        For ``tqdm``: ``file``, ``mininterval``, ``leave`` and so on.

    Yields
    ------
    None
        Bars are closed at the end of each run.

    Raises
    ------
    ImportError
        If bars are to be shown and tqdm is not installed.
    TypeError
        If `show` is none of its values.

    Examples
    --------
    >>> import numpy as np
    >>> import pylops
    >>> import pylops_dispatch
    >>> with pylops_dispatch.progress():
    ...     x = pylops.cgls(pylops.Diagonal(np.ones(5)), np.ones(5))[0]
    """
    if show not in (None, True, False):
        raise TypeError(f"show must be True, False or None, got {show!r}")
    if not (_seen(options.get("file") or sys.stderr) if show is None else show):
        yield
        return
    bars = _Bars(options)
    before = watchers.get()
    watchers.set((*before, bars))
    try:
        yield
    finally:
        watchers.set(before)


def _seen(file: Any) -> bool:
    """Whether somebody looks at what is written to `file`: a terminal, or a notebook."""
    if getattr(file, "isatty", lambda: False)():
        return True
    # the streams of a notebook's kernel do not call themselves terminals
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", {})


class _Bars(Callbacks):
    """One bar for each run that takes steps, inner ones below and gone when they end."""

    def __init__(self, options: dict[str, Any]) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise ImportError(
                "progress() shows its bars with tqdm: pip install 'pylops-dispatch[watch]'"
            ) from error
        self._tqdm = tqdm
        self._options = options
        self._bars: dict[int, Any] = {}

    def on_step_begin(self, solver: Solver, x: Any) -> None:
        """Open the bar: what never takes a step of its own needs none."""
        if id(solver) not in self._bars:
            settings = {
                "total": steps_of(solver).total,
                "initial": solver.iiter,
                "desc": type(solver).__name__,
                "leave": not self._bars,
                "unit": "it",
            }
            self._bars[id(solver)] = self._tqdm(**{**settings, **self._options})

    def on_step_end(self, solver: Solver, x: Any) -> None:
        """Move the bar on."""
        bar = self._bars.get(id(solver))
        if bar is not None:
            cost = known_cost(solver)
            if cost is not None:
                bar.set_postfix_str(f"cost={cost:.3e}", refresh=False)
            bar.update()

    def on_run_end(self, solver: Solver, x: Any) -> None:
        """Close the bar."""
        bar = self._bars.pop(id(solver), None)
        if bar is not None:
            bar.close()


def known_cost(solver: Solver) -> float | None:
    """Return a solver's last cost if it is a plain number already."""
    costs = getattr(solver, "cost", None)
    last = costs[-1] if isinstance(costs, (list, np.ndarray)) and len(costs) else None
    return float(last) if isinstance(last, numbers.Real) else None


def plot_convergence(cost: Any, ax: Any = None, **options: Any) -> Any:
    """Plot the cost of each iteration, on a logarithmic axis where it is positive.

    Parameters
    ----------
    cost : sequence of float or pylops.optimization.basesolver.Solver
        The costs that a solver returned, or a solver that keeps them in ``cost``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default. Curves of several solvers may share one.
    **options
        For ``ax.plot``.

    Returns
    -------
    matplotlib.axes.Axes
        Where the curve was drawn.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If `cost` is neither.
    ValueError
        If the solver keeps no costs.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "plot_convergence() draws with matplotlib: pip install matplotlib"
        ) from error
    if isinstance(cost, Solver):
        options.setdefault("label", type(cost).__name__)
        name, cost = type(cost).__name__, getattr(cost, "cost", None)
        if cost is None or not len(cost):
            raise ValueError(f"{name} has no costs to plot; run it first.")
    several = isinstance(cost, Iterable) and not isinstance(cost, str)
    costs = list(cost) if several else []
    if not several or any(map(np.ndim, costs)):  # all that a solver returned
        raise TypeError(
            "plot_convergence() takes the costs that a solver returned, one for each step (the "
            "last of what pylops.cgls(...) and the like return), or a solver; got "
            f"{type(cost).__name__}"
        )
    values = np.asarray([float(c) for c in costs])
    if ax is None:
        ax = plt.figure().add_subplot()
    ax.plot(np.arange(values.size), values, **options)
    # only what can be shown on it: an exact solution has a cost of zero
    if values.size and np.all(values > 0):
        ax.set_yscale("log")
    ax.set_xlabel("iteration")
    ax.set_ylabel("cost")
    if "label" in options:
        ax.legend()
    return ax
