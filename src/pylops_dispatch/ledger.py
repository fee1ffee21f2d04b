"""The ledger: what dask executed, who asked for it, and what it cost."""

from __future__ import annotations

import functools
import html
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import dask.base
from dask._task_spec import Alias, DataNode, convert_legacy_graph, cull
from dask.core import flatten
from dask.sizeof import sizeof
from dask.utils import format_bytes
from pylops.optimization.basesolver import Solver

from pylops_dispatch.optimisation import tasks_on_cluster
from pylops_dispatch.policy import WRAPPERS
from pylops_dispatch.steps import steps_of

Kind = Literal["compute", "persist"]

_ROWS = 60  # of a longer ledger, a table shows the first and the last


@dataclass(frozen=True)
class Execution:
    """One graph that dask was given to execute."""

    asked: str
    """The solver step, the operator, or the line of the user's that asked."""
    kind: Kind
    """Whether the results came to this process as values, or were kept as blocks."""
    tasks: int
    """Number of tasks, as they are run; a cluster makes tasks of data in a graph too."""
    brought: int
    """Bytes of the values that came to this process."""
    kept: int
    """Bytes of the blocks kept: in this process by threads, by the workers of a cluster."""
    seconds: float
    """Time until dask returned. A cluster keeps blocks in the background: there, the time
    shows with the execution that waits for them."""
    failed: bool = False
    """Whether it ended in an error."""


@dataclass
class Ledger:
    """The executions of a block of code, as a list with sums, a table, or HTML."""

    executions: list[Execution] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.executions)

    def __iter__(self) -> Iterator[Execution]:
        return iter(self.executions)

    @property
    def tasks(self) -> int:
        """Number of tasks of all executions."""
        return sum(e.tasks for e in self.executions)

    @property
    def brought(self) -> int:
        """Bytes that came to this process as values."""
        return sum(e.brought for e in self.executions)

    @property
    def kept(self) -> int:
        """Bytes that were kept as blocks, those since freed among them."""
        return sum(e.kept for e in self.executions)

    @property
    def seconds(self) -> float:
        """Time that all executions took."""
        return sum(e.seconds for e in self.executions)

    def __str__(self) -> str:
        rows = [_HEADER, *_rows(self)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i in (0, 1) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )

    __repr__ = __str__  # what a prompt shows

    def _repr_html_(self) -> str:
        head, *rows = (
            "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
            for tag, row in [("th", _HEADER), *(("td", row) for row in _rows(self))]
        )
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_HEADER = ("asked by", "kind", "tasks", "brought", "kept", "seconds")


def _rows(log: Ledger) -> list[tuple[str, ...]]:
    rows = [_row(e.asked, e.kind + " (failed)" * e.failed, e) for e in log]
    if len(rows) > _ROWS:
        left_out = (f"... {len(rows) - _ROWS} more ...", "", "", "", "", "")
        rows[_ROWS // 2 : -_ROWS // 2] = [left_out]
    noun = "execution" if len(log) == 1 else "executions"
    return [*rows, _row(f"{len(log)} {noun}", "", log)]


def _row(asked: str, kind: str, of: Execution | Ledger) -> tuple[str, ...]:
    sizes = format_bytes(of.brought), format_bytes(of.kept)
    return (asked, kind, str(of.tasks), *sizes, f"{of.seconds:.3f}")


_open: ContextVar[tuple[Ledger, ...]] = ContextVar("ledgers", default=())
# tasks of the graphs that the present call of a client sends
_counted: ContextVar[list[int] | None] = ContextVar("counted", default=None)


@contextmanager
def ledger() -> Iterator[Ledger]:
    """Record every execution of dask in the block.

    Those of this thread (or asyncio task) count, whether a solver's step, an operator or a
    line of the block asks for them, on threads, on a cluster, or one task after another.
    Ledgers may be nested; each records.

    Yields
    ------
    Ledger
        ``print(log)`` shows a table, a notebook shows it as HTML; ``log.executions`` is the
        list, and ``log.tasks``, ``log.brought``, ``log.kept`` and ``log.seconds`` are sums.

    Examples
    --------
    >>> import dask.array as da
    >>> import pylops_dispatch
    >>> with pylops_dispatch.ledger() as log:
    ...     total = da.ones(10, chunks=5).sum().compute()
    >>> len(log), log.brought
    (1, 8)
    """
    log = Ledger()
    _install()
    before = _open.get()
    _open.set((*before, log))
    try:
        yield log
    finally:
        _open.set(before)
        _uninstall()


@contextmanager
def unrecorded() -> Iterator[None]:
    """Keep out of ledgers what moves data and runs nothing of the user's."""
    before = _open.set(())
    try:
        yield
    finally:
        _open.reset(before)


# ---- where executions are seen -------------------------------------------------------------

# `dask.base.compute` and `persist` get their scheduler from here, by whatever name users have
# bound them, and a `Client` has methods of its own. dask's Callback would not do: it is one
# global set, which two threads that execute at once empty for each other.

_lock = threading.Lock()
_installed = 0
_undo = ExitStack()


def _install() -> None:
    import distributed  # as dask does when it first executes: it takes its time

    global _installed
    with _lock:
        _installed += 1
        if _installed == 1:
            _replace(dask.base, "get_scheduler", _scheduler)
            for name in ("get", "compute", "persist"):
                _replace(distributed.Client, name, functools.partial(_client_method, name=name))
            _replace(distributed.Client, "_graph_to_futures", _sent_to_cluster)


def _uninstall() -> None:
    global _installed
    with _lock:
        _installed -= 1
        if _installed == 0:
            _undo.close()


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(make(original)))
    _undo.callback(setattr, owner, name, original)


_ASKING: dict[str, Kind] = {
    "compute": "compute",
    "compute_as_if_collection": "compute",
    "persist": "persist",
}


def _scheduler(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``get_scheduler``: what it gives to ``compute`` and ``persist`` records."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        schedule = original(*args, **kwargs)
        # others ask in order to compare schedulers, which must be what they are
        kind = _ASKING.get(sys._getframe(1).f_code.co_name)
        of_client = hasattr(getattr(schedule, "__self__", None), "persist")
        if kind is None or schedule is None or of_client or not _open.get():
            return schedule

        def recorded(graph: Any, keys: Any, **kwargs: Any) -> Any:
            tasks = _tasks_of(graph, keys)
            return _record(kind, lambda: tasks, lambda: schedule(graph, keys, **kwargs))

        return recorded

    return wrapper


def _client_method(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap a method of a distributed client that executes graphs."""

    def wrapper(self: Any, what: Any, *args: Any, **kwargs: Any) -> Any:
        def run() -> Any:
            return original(self, what, *args, **kwargs)

        if not _open.get():
            return run()
        counted: list[int] = []
        token = _counted.set(counted)
        try:
            kind: Kind = "persist" if name == "persist" else "compute"
            return _record(kind, lambda: sum(counted), run)
        finally:
            _counted.reset(token)

    return wrapper


def _sent_to_cluster(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap what sends a graph to a cluster, whose scheduler optimises it: it is counted so."""

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        counted = _counted.get()
        if counted is not None:
            graph, keys = [*args, *kwargs.values()][:2]
            nodes = graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph
            counted.append(tasks_on_cluster(dict(nodes), keys))
        return original(self, *args, **kwargs)

    return wrapper


def _record(kind: Kind, count: Callable[[], int], run: Callable[[], Any]) -> Any:
    logs, asked = _open.get(), asked_by()
    # what tasks execute themselves is part of this execution, whichever thread they run in
    _open.set(())
    start = time.perf_counter()
    size, failed = 0, True
    try:
        results = run()
        size, failed = _size(results), False
    finally:
        seconds = time.perf_counter() - start
        _open.set(logs)
        brought, kept = (0, size) if kind == "persist" else (size, 0)
        for log in logs:
            log.executions.append(Execution(asked, kind, count(), brought, kept, seconds, failed))
    return results


def _size(results: Any) -> int:
    if isinstance(results, (list, tuple)):
        return sum(_size(result) for result in results)
    if results is None:  # what a task gives that writes a block of a store
        return 0
    if hasattr(results, "add_done_callback"):  # a future: its value is elsewhere
        return 0
    size = getattr(results, "nbytes", None)
    return int(sizeof(results) if size is None else size)


def _tasks_of(graph: Any, keys: Any) -> int:
    # the scheduler asks for the same again: dask keeps the layers that this makes
    tasks = graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph
    # it leaves out what no key needs
    needed = cull(convert_legacy_graph(tasks), set(flatten([keys])))
    return sum(not isinstance(node, (Alias, DataNode)) for node in needed.values())


# ---- who asked -----------------------------------------------------------------------------

_PASSED_OVER = ("pylops_dispatch", "numpy", "dask", "distributed", "contextlib", "functools")


def asked_by() -> str:
    """Say which line asked for an execution, and in which step of which solver.

    Returns
    -------
    str
        ``"CGLS.step 3 (pylops/optimization/cls_basic.py:640)"``, or for a line of the user's
        ``"<module> (project/invert.py:12)"``; for a user's operator in a solver, both.
    """
    nearest: Any = None
    step = ""
    frame: Any = sys._getframe(1)
    while frame is not None and not step:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in _PASSED_OVER and module not in WRAPPERS:
            nearest = nearest or frame
            step = _step_of(frame)
        frame = frame.f_back
    if nearest is None:
        return "unknown code"
    where = f"({_short(nearest.f_code.co_filename)}:{nearest.f_lineno})"
    if step and step == _step_of(nearest):
        return f"{step} {where}"
    name = f"{_owner(nearest)}{nearest.f_code.co_name} {where}"
    return f"{name} in {step}" if step else name


def _step_of(frame: Any) -> str:
    if frame.f_code.co_name != "step":
        return ""
    solver = frame.f_locals.get("self")
    if not isinstance(solver, Solver):
        return ""
    return f"{type(solver).__name__}.step {steps_of(solver).number}"


def _owner(frame: Any) -> str:
    owner = frame.f_locals.get("self")
    return "" if owner is None else f"{type(owner).__name__}."


def _short(path: str) -> str:
    parts = path.replace("\\", "/").split("/")
    if "pylops" in parts:
        return "/".join(parts[len(parts) - 1 - parts[::-1].index("pylops") :])
    return "/".join(parts[-2:])
