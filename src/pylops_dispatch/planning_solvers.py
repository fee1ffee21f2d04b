"""What a solver will do, told before anything runs: its own steps, on blocks that stand in."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, overload

import dask
import numpy as np
import scipy.sparse.linalg
from dask._task_spec import convert_legacy_graph
from dask.array.core import Array as DaskArray
from dask.highlevelgraph import HighLevelGraph
from pylops import LinearOperator
from pylops.optimization.basesolver import Solver
from pylops.optimization.callback import Callbacks

from pylops_dispatch.arguments import require_count, require_enabled, require_operator
from pylops_dispatch.array import is_dask, walk
from pylops_dispatch.foresight import OptimisedGraph, created_arrays, stand_in
from pylops_dispatch.lineage import executions_between_cuts, has_place_for_copies
from pylops_dispatch.optimisation import straight_tasks
from pylops_dispatch.pieces import in_memory
from pylops_dispatch.placing import home_of_blocks, nothing_sent, travels, where_blocks_lie
from pylops_dispatch.planning import (
    Plan,
    fallbacks_of,
    html_of,
    moved_text,
    peak_text,
    plan_operator,
    text_of,
)
from pylops_dispatch.policy import set_policy
from pylops_dispatch.rehearsing import nothing, rehearsed
from pylops_dispatch.solvers import Session, new_session
from pylops_dispatch.steps import steps_of, watchers
from pylops_dispatch.workers import client_in_use, number_of_workers, threads_by_worker

_STEPS = 5  # of a solver that are planned: by then they are alike


@dataclass(frozen=True)
class Stage:
    """What one part of a solve will do.

    Parameters
    ----------
    executions : int
        Graphs that are handed to dask's scheduler.
    tasks : int
        Tasks of these, without those that are fused into others. Exact.
    moved : dict
        Estimate of the bytes that come from another block, by what moves them.
    """

    executions: int
    tasks: int
    moved: dict[str, int]


@dataclass(frozen=True)
class SolverPlan:
    """What a solver will do to data in memory.

    Parameters
    ----------
    solver : str
        Class of the solver.
    setup : Stage
        Before the first step.
    copies : Stage
        Of the vectors, on a cluster: a long solve lets go of the tasks that they came of.
    steps : tuple of Stage
        First steps; all later ones are as the last of these.
    end : Stage
        After the last step: ``SplitBregman.run`` looks once more whether its model changed.
    count : int or None
        Steps that the call may take, None if that is not known.
    threads : int
        That work at a time, for `peak_bytes`.
    workers : int
        Of the cluster that dask runs on, 1 where it runs in this process.
    peak_bytes : int
        Estimate of what is held at once.
    fallbacks : tuple of str
        Operators that run in one task on the whole vector, and why.
    """

    solver: str
    setup: Stage
    copies: Stage
    steps: tuple[Stage, ...]
    end: Stage
    count: int | None
    threads: int
    workers: int
    peak_bytes: int
    fallbacks: tuple[str, ...]

    @property
    def step(self) -> Stage:
        """A step, after the first few."""
        return self.steps[-1]

    @property
    def tasks(self) -> int:
        """Tasks of the whole solve, if it takes all its steps; of the planned ones otherwise."""
        stages = (self.setup, self.copies, *self.steps, self.end)
        later = max((self.count or 0) - len(self.steps), 0)
        return sum(stage.tasks for stage in stages) + later * self.step.tasks

    @property
    def peak_bytes_per_worker(self) -> int:
        """What each worker holds at once, if blocks are spread evenly."""
        return -(-self.peak_bytes // self.workers)

    def rows(self) -> list[tuple[str, str]]:
        """Return the plan as names and values to be read.

        Returns
        -------
        list of tuple of str
            A name and a value for each line.
        """
        return [
            ("solver", self.solver),
            ("setup", _described(self.setup)),
            ("each step", _described(self.step)),
            *((("at the end", _described(self.end)),) if self.end.executions else ()),
            *((("copies", _described(self.copies)),) if self.copies.executions else ()),
            ("steps", "unknown" if self.count is None else f"at most {self.count}"),
            ("tasks", str(self.tasks)),
            ("peak", peak_text(self)),
            *(("whole vector", text) for text in self.fallbacks),
        ]

    def __str__(self) -> str:
        return text_of(self.rows())

    __repr__ = __str__  # what a prompt shows

    def _repr_html_(self) -> str:
        return html_of(self.rows())


def _described(stage: Stage) -> str:
    noun = "execution" if stage.executions == 1 else "executions"
    found = f"{stage.executions} {noun}, {stage.tasks} tasks"
    return f"{found}, moves {moved_text(stage.moved)}"


class _Vectors(NamedTuple):
    """Vectors in memory: their blocks and bytes."""

    blocks: int
    nbytes: int


class _Execution(NamedTuple):
    tasks: int
    moved: dict[str, int]
    peak_bytes: int


class _Enough(Exception):
    """Raised where the step after those that are planned begins."""


class _AllSteps(int):
    """How many steps were made, compared as if these were all: a loop ends as it does then."""

    def __lt__(self, other: object) -> bool:
        return False

    def __ge__(self, other: object) -> bool:
        return True


class _Watch(Callbacks):
    """Notes where the steps of the outermost solver begin and end, and leaves after a few."""

    def __init__(self, executions: list[Any]) -> None:
        self._executions = executions
        self._solver: Solver | None = None
        self.name = ""
        self.count: int | None = None
        self.marks: list[int] = []
        self.solution = _Vectors(0, 0)

    @property
    def has_enough(self) -> bool:
        """Whether enough steps are planned."""
        return len(self.marks) > _STEPS

    def on_step_begin(self, solver: Solver, x: Any) -> None:
        """Take the first solver that makes a step for the one that is meant."""
        if self.has_enough:
            raise _Enough
        if self._solver is None:
            self._solver = solver
            self.name, self.count = type(solver).__name__, steps_of(solver).total
            self.marks.append(len(self._executions))

    def on_step_end(self, solver: Solver, x: Any) -> None:
        """Note the executions so far."""
        if self._solver is not None and solver is self._solver:
            given = (x, getattr(solver, "var", None))  # LSQR.solve gives variances too
            pieces = itertools.chain(*(getattr(value, "pieces", ()) for value in given))
            self.solution = _together(p for p in pieces if isinstance(p, DaskArray))
            self.marks.append(len(self._executions))
            if self.has_enough and self.count is not None:
                solver.iiter = _AllSteps(solver.iiter)  # ``while self.iiter < niter`` in run


def _together(arrays: Iterable[DaskArray]) -> _Vectors:
    found = list(arrays)
    return _Vectors(sum(a.npartitions for a in found), sum(int(a.nbytes) for a in found))


def _copies(watch: _Watch, begins: Sequence[dict[str, DaskArray]]) -> Stage:
    """Return what the copies of a solve take, as `Lineage` makes them.

    `begins` are the vectors in memory as each of the planned steps begins.
    """
    client = client_in_use()
    workers = () if client is None else threads_by_worker(client)
    every = executions_between_cuts()
    if client is None or not every or not has_place_for_copies(workers):
        return Stage(0, 0, {})
    executions = [last - first for first, last in itertools.pairwise([0, *watch.marks])]
    waiting, cuts, made = executions[0], 0, _Vectors(0, 0)
    kept: set[str] = set()
    for step in range(max(watch.count or 0, len(executions) - 1)):
        vectors = begins[min(step, len(begins) - 1)]
        if waiting >= every:
            new = _together(a for name, a in vectors.items() if name not in kept)
            made = _Vectors(made.blocks + new.blocks, made.nbytes + new.nbytes)
            # those that are there as two steps begin do not change
            kept = vectors.keys() & begins[-2].keys() if len(begins) > 1 else set()
            waiting, cuts = 0, cuts + 1
        waiting += executions[min(step + 1, len(executions) - 1)]
    if cuts:  # the solution is cut in the end
        blocks, nbytes = watch.solution
        made, cuts = _Vectors(made.blocks + blocks, made.nbytes + nbytes), cuts + 1
    moved = {"copies": 2 * made.nbytes} if made.nbytes and len(workers) > 1 else {}
    return Stage(2 * len(workers) * cuts, 3 * made.blocks, moved)


def _numbers(scalars: list[DaskArray], arrays: Mapping[str, DaskArray]) -> dict[str, Any]:
    """Return values of 0-d arrays, as they follow from ones: sums over vectors are one.

    A solver branches on what it makes of such numbers: ``1 + test3 <= 1`` in LSQR.
    """
    graph = convert_legacy_graph(dict(HighLevelGraph.merge(*(a.dask for a in scalars))))
    found: dict[Any, Any] = {}

    def value(key: Any) -> Any:
        if key not in found:
            node = graph[key]
            alone = all(isinstance(d, tuple) and len(d) == 1 for d in node.dependencies)
            inputs = {d: value(d) for d in node.dependencies} if alone else {}
            found[key] = node(inputs) if alone else np.ones((), arrays[key[0]].dtype)[()]
        return found[key]

    return {array.name: value((array.name,)) for array in scalars}


def _silent(name: str, value: Any) -> Any:
    """Return what a function is given instead of a user's callback."""
    return nothing if name.endswith("callback") and callable(value) else value


def _at_home(array: DaskArray) -> dict[Any, frozenset[Any]]:
    """Return where the blocks of a vector of a solve are worked out, by their keys."""
    home = home_of_blocks([array])
    keys = ((array.name, *index) for index in np.ndindex(*array.numblocks))
    return {} if home is None else {key: frozenset(home(key)) for key in keys}


def plan_solver(solver: Callable[..., Any], *args: Any, threads: int, **kwargs: Any) -> SolverPlan:
    """Say what a call of a solver will do, without doing it; see :func:`plan`."""
    executions: list[_Execution] = []
    given: dict[str, int] = {}  # bytes of what somebody else holds
    views: set[str] = set()  # arrays that are that in another shape
    held: set[str] = set()
    begins: list[dict[str, DaskArray]] = []  # vectors in memory as steps begin
    lying: dict[Any, frozenset[Any]] = {}  # where blocks are, by their keys

    class Planned(Session):
        """Lets blocks that are all ones stand for what an execution would give."""

        repeats = False

        def foresee(self, arrays: list[DaskArray], kernel: int | None = None) -> None:
            """Note what an execution would do, next to all that is in memory meanwhile."""
            with straight_tasks():
                graph = OptimisedGraph(arrays, known, held)
            # PyLops's solvers flatten the data that they are given
            views.update(graph.views(given))
            own = {array.name: int(array.nbytes) for array in self.in_memory()}
            if client_in_use() is not None:
                # what the graph reads is let go when it is sent (`Before.let_go`)
                kept = {box.dask().name for box in self._leaves.values()}
                own = {n: size for n, size in own.items() if n in kept or n not in graph.read}
            own = {name: 0 if name in views else n for name, n in own.items()}
            peak = graph.peak(threads, {**own, **given}, views)
            home = None if kernel is None else home_of_blocks(arrays, kernel)
            moved = graph.moved(held, lying if client_in_use() is not None else None, home)
            executions.append(_Execution(graph.count, moved, peak))

        def is_to_be_sent(self, array: DaskArray) -> bool:
            return array.name not in held and super().is_to_be_sent(array)

        def cut_lineage(self) -> None:
            if watch.has_enough:
                return
            fixed = {box.dask().name for box in self._leaves.values()}
            begins.append({a.name: a for a in self.in_memory() if a.name not in fixed})

        def execute(self, arrays: list[DaskArray]) -> tuple[DaskArray, ...]:
            self.foresee(arrays, self._kernel)
            held.update(array.name for array in arrays)
            numbers = _numbers([array for array in arrays if not array.ndim], known)
            return tuple(stand_in(a, a.name, numbers.get(a.name, 1)) for a in arrays)

        def values(self, scalars: list[DaskArray]) -> list[Any]:
            lazy = [array for array in scalars if not in_memory(array)]
            if lazy:
                self.foresee(lazy)
            if any(array.dtype == object for array in scalars):
                raise ValueError("steps that depend on positions of values cannot be planned")
            numbers = _numbers(scalars, known)
            return [np.asarray(numbers[a.name], a.dtype)[()] for a in scalars]

    def held_stand_in(array: DaskArray) -> DaskArray:
        planned = stand_in(array)
        if not travels(array):  # or its blocks are tasks for workers
            held.add(planned.name)
        lying.update(where_blocks_lie({planned.name: array}) or _at_home(planned))
        return planned

    watch = _Watch(executions)
    before = watchers.set((watch,)), new_session.set(Planned)
    try:
        with created_arrays() as known, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            args, kwargs = walk((args, kwargs), is_dask, held_stand_in)
            given.update((array.name, int(array.nbytes)) for array in known.values())
            kwargs = {name: _silent(name, value) for name, value in kwargs.items()}
            with (
                set_policy(whole_array="warn"),
                nothing_sent(),
                np.errstate(all="ignore"),
                suppress(_Enough),
                rehearsed(solver, (args, kwargs), held_stand_in),
            ):
                solver(*args, **kwargs)
    finally:
        watchers.reset(before[0])
        new_session.reset(before[1])
    if len(watch.marks) < 2 or not (given or executions):
        raise ValueError(
            f"{getattr(solver, '__name__', solver)} took no step of PyLops on dask arrays: "
            "nothing can be planned. Give a function that runs a solver, such as pylops.cgls, or "
            "the method solve of a solver, and dask data or an operator of dask arrays"
        )

    def stage(first: int, last: int | None) -> Stage:
        found = executions[first:last]
        moved: Counter[str] = Counter()
        for execution in found:
            moved.update(execution.moved)
        return Stage(len(found), sum(execution.tasks for execution in found), dict(moved))

    copies = _copies(watch, begins[-len(watch.marks) + 1 :])
    peak = max((execution.peak_bytes for execution in executions), default=0)
    if copies.moved:
        vectors = sum(int(array.nbytes) for array in begins[-1].values())
        # two of each, those of the cut before as long as these are made
        peak = max(peak + 2 * vectors, sum(given.values()) + 5 * vectors)
    return SolverPlan(
        solver=watch.name,
        setup=stage(0, watch.marks[0]),
        copies=copies,
        steps=tuple(stage(*pair) for pair in itertools.pairwise(watch.marks)),
        end=stage(watch.marks[-1], None),
        count=watch.count,
        threads=threads,
        workers=number_of_workers(),
        peak_bytes=peak,
        fallbacks=fallbacks_of(caught),
    )


def _threads() -> int:
    client = client_in_use()
    return dask.system.CPU_COUNT if client is None else sum(threads_by_worker(client).values()) or 1


class _Operator(Protocol):
    """What tells an operator from a solver to who checks types; PyLops's classes derive of Any."""

    def matvec(self, x: Any, /) -> Any: ...


@overload
def plan(Op: _Operator, *args: Any, threads: int | None = None, **kwargs: Any) -> Plan: ...


@overload
def plan(
    Op: Callable[..., Any], *args: Any, threads: int | None = None, **kwargs: Any
) -> SolverPlan: ...


def plan(Op: Any, *args: Any, threads: int | None = None, **kwargs: Any) -> Plan | SolverPlan:
    """Say what applying an operator, or a call of a solver, will do, without doing it.

    Parameters
    ----------
    Op : pylops.LinearOperator or callable
        Operator, or one of PyLops's solvers.
    *args
        For an operator, the dask array that it is applied to, and whether ``Op.H @ x`` is meant.
        Its chunks count, not how it comes about: the plan is for blocks that are in memory.
        For a solver what it takes: ``plan(pylops.cgls, Op, y, niter=50)``. Its steps are worked
        through on blocks that take no memory, without calling callbacks, printing or writing, and
        a solver is afterwards as it was. Norms and the like are taken for one, so that a solver
        whose work depends on them may turn out otherwise.
    threads : int, optional
        That work at a time. Default one for each core, on a cluster those of all workers.
    **kwargs
        ``adjoint`` for an operator, keywords of a solver.

    Returns
    -------
    Plan or SolverPlan
        Prints as text, and shows as a table in a notebook.

    Raises
    ------
    TypeError
        If `Op` is neither an operator nor a solver, or an operator is given no dask array.
    ValueError
        If what is called takes no step of a solver on dask arrays, or `threads` is not positive.
    RuntimeError
        While the dispatch is disabled.

    Examples
    --------
    >>> import dask.array as da, pylops, pylops_dispatch
    >>> D = pylops.FirstDerivative((100, 100), axis=0)
    >>> planned = pylops_dispatch.plan(D, da.zeros((100, 100), chunks=(100, 50)))
    >>> planned.tasks, planned.moved_bytes
    (2, 0)
    >>> planned = pylops_dispatch.plan(pylops.cgls, D, da.zeros((100, 100), chunks=50), niter=9)
    >>> planned.step.executions
    1
    """
    require_enabled("plan")
    threads = _threads() if threads is None else require_count(threads, "threads")
    if isinstance(Op, LinearOperator):
        known = inspect.signature(plan_operator)
        try:
            known.bind(Op, *args, threads=threads, **kwargs)
        except TypeError as error:
            raise TypeError(
                "an operator is planned by plan(Op, x), with adjoint=True for Op.H @ x, "
                f"and threads: {error}"
            ) from None
        return plan_operator(Op, *args, **{"threads": threads, **kwargs})
    if isinstance(Op, Solver) or (isinstance(Op, type) and issubclass(Op, Solver)):
        name = Op.__name__ if isinstance(Op, type) else type(Op).__name__
        raise TypeError(
            f"Op is a solver of class {name}: give what runs it, "
            "plan(solver.solve, y, ...), or PyLops's function, plan(pylops.cgls, Op, y, ...)."
        )
    # an operator of SciPy's is callable too: it would be applied
    scipys = isinstance(Op, scipy.sparse.linalg.LinearOperator)
    if not callable(Op) or scipys or (isinstance(Op, type) and issubclass(Op, LinearOperator)):
        require_operator(Op)
    if args and not isinstance(Op, type) and _takes_operator(Op):
        require_operator(args[0])
    return plan_solver(Op, *args, threads=threads, **kwargs)


def _takes_operator(function: Callable[..., Any]) -> bool:
    """Whether a function is one of PyLops's whose first argument is an operator."""
    if not getattr(function, "__module__", "").startswith("pylops."):
        return False
    return next(iter(inspect.signature(function).parameters), None) == "Op"
