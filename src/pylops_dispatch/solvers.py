"""One execution a step: what reading a scalar does inside PyLops's solvers."""

from __future__ import annotations

import functools
import inspect
import math
import sys
import traceback
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeGuard

import dask
import dask.array as da
import numpy as np
from dask.array.core import Array as DaskArray
from dask.highlevelgraph import HighLevelGraph
from pylops import LinearOperator
from pylops.optimization.basesolver import Solver

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import (
    DispatchArray,
    as_box,
    check,
    check_vector,
    found,
    holds,
    is_box,
    is_dask,
    is_lazy,
    layout_of,
    lift,
    lower,
    session,
    walk,
)
from pylops_dispatch.assumptions import Assumption, WrongAssumption, norm_in_question
from pylops_dispatch.construction import inspect_all, is_array, named_arguments
from pylops_dispatch.executions import Executions
from pylops_dispatch.functions.elementwise import align
from pylops_dispatch.functions.reductions import square_of
from pylops_dispatch.layers import array_in_full
from pylops_dispatch.lineage import Lineage, futures_of
from pylops_dispatch.notes import note_asynchronous, note_blocks_elsewhere, note_step
from pylops_dispatch.operators import (
    all_parts,
    arrays_of,
    check_length,
    gives_lazy,
    is_lazy_operator,
    is_made_of_lazy,
    is_pylops,
    note_left,
    runs_users_code,
)
from pylops_dispatch.optimisation import persist
from pylops_dispatch.placing import (
    bytes_of_block,
    copied_again,
    is_to_be_sent,
    vectors_together,
)
from pylops_dispatch.policy import few_reads, not_dispatched, set_policy
from pylops_dispatch.programs import elementwise
from pylops_dispatch.repeating import Known, LookedAt, ValuesNeededError
from pylops_dispatch.scipy_solvers import in_place_of_scipy
from pylops_dispatch.steps import followed, sessions
from pylops_dispatch.undoing import Before, read_whole
from pylops_dispatch.workers import beside_other_tasks, client_in_use

_CLOSED = "the cluster that this solve runs on is closed"
_KEPT = 4  # steps
_METHODS = ("setup", "step", "run", "finalize", "solve")


class _Found(NamedTuple):
    """An array of an operator that a solve did not know when it began."""

    array: weakref.ref[DaskArray]
    last: int  # step that read it


class Session:
    """The boxes that are alive in one solve, and the arrays that came into it.

    Reading a scalar persists all of them that are still lazy in one execution, so that the
    graph of a step starts from data in memory, and nothing is worked out twice.
    """

    repeats = True  # whether the graph of an application is made once

    def __init__(self) -> None:
        self._boxes: weakref.WeakValueDictionary[int, DispatchArray] = weakref.WeakValueDictionary()
        self._coefficients: dict[str, DaskArray] = {}  # lazy arrays of operators, by name
        self._made_by: dict[str, frozenset[str]] = {}  # layers to run for each of them
        self._kernel = 0  # bytes of the largest block of an operator's dask array
        self._leaves: dict[str, DispatchArray] = {}  # those of them that were needed so far
        self._found: dict[str, _Found] = {}  # those that came up in the solve
        self._step = 0
        self._norms: dict[str, DispatchArray] = {}
        self._last: set[str] = set()  # what the last execution brought into memory
        self._missed = False  # whether a norm of that was asked for since
        self._with_norms = False
        self._lineage = Lineage()
        self.before: Before | None = None  # what the step being taken began with
        self.assumed: Assumption | None = None  # of the step being taken, until it is known
        self._asks = False  # whether the step may take something for true
        self._solvers: list[weakref.ref[Any]] = []
        self._solving = 0  # functions that solve, one inside another
        self._visited: dict[int, weakref.ref[Any]] = {}
        # data that are read only as the solver is set up: their box, and its lazy pieces by name
        self._data: tuple[DispatchArray, dict[str, DaskArray]] | None = None
        self._client: weakref.ref[Any] | None = None  # of the cluster that has the vectors
        self.runs_here = client_in_use() is None  # as of the last execution: in this process
        self._shown: list[tuple[Any, str, Any, Any]] = []  # object, attribute, as seen, boxes
        self._outside = _Shown()
        self.applications: Known = {}
        self.looked_at: LookedAt | None = None  # the operator that a step being taken is of
        self._executions = Executions()
        self.applying = False  # an operator: those within it run as it does
        self.recording = False  # the graph of an application, of what stands for a vector

    @property
    def may_read(self) -> bool:
        """Whether values may be read; solvers do so in each step."""
        return True

    def visit(self, owner: Any) -> None:
        """Know an object that may keep boxes; outside of this session they are dask arrays."""
        self._visited[id(owner)] = weakref.ref(owner)

    def come_in(self) -> None:
        """Let the objects that were visited hold their boxes again."""
        for owner, name, seen, boxes in self._shown:
            if vars(owner).get(name) is seen:
                vars(owner)[name] = boxes
        self._outside.take_back()
        self._shown, self._outside = [], _Shown()

    def go_out(self) -> None:
        """Let the objects that were visited hold dask arrays."""
        alive = (made() for made in self._visited.values())
        for owner in [owner for owner in alive if owner is not None]:
            for name, value in list(vars(owner).items()):
                if holds(value, is_box):
                    vars(owner)[name] = self._outside.outwards(value)
                    self._shown.append((owner, name, vars(owner)[name], value))
                    note_left(owner, [name])

    def adopt(self, solver: Any) -> None:
        """Know a solver that PyLops makes inside of one of its functions."""
        self._solvers.append(weakref.ref(solver))

    @contextmanager
    def letting_go(self) -> Iterator[None]:
        """Free the vectors of solvers that were made in this context, at its end.

        Each solver is in a cycle: ``Solver._registercallbacks`` keeps bound methods in it.
        """
        known = len(self._solvers)
        self._solving += 1
        try:
            yield
        finally:
            self._solving -= 1
            for solver in [made() for made in self._solvers[known:]]:
                for name in () if solver is None else ("setup", "step", "run"):
                    vars(solver).pop(name, None)
            del self._solvers[known:]

    def read_in_setup_only(self, data: Any) -> None:
        """Know data that the solver does not read again once it is set up."""
        if isinstance(data, DispatchArray):
            self._data = data, {piece.name: piece for piece in data.pieces if self._is_due(piece)}

    def let_go_of_data(self, solver: Any) -> None:
        """Keep the data in memory no longer than the vectors of a solver that start as them.

        The solver's ``y``, and what the function that solves was given, are lazy data again.
        """
        first = self._solvers[0]() if self._solvers else None
        if self._data is None or solver is not first:  # an operator has made it
            return
        (given, known), self._data = self._data, None
        for box in (vars(solver).get("y"), given):
            if isinstance(box, DispatchArray) and not box.is_let_go and box.value is None:
                pieces = [known.get(getattr(piece, "name", "")) for piece in box.pieces]
                if pieces and all(piece is not None for piece in pieces):
                    box.let_go(functools.partial(list, pieces))

    def register(self, box: DispatchArray) -> None:
        """Watch a box for as long as something holds it.

        One that is made of what stands for a vector is nothing to work out: an interrupt leaves it
        in the frames of its traceback.
        """
        if not self.recording:
            self._boxes[id(box)] = box

    def in_memory(self) -> Iterator[DaskArray]:
        """Yield the arrays in memory that boxes of this session hold."""
        for box in list(self._boxes.values()):
            for piece in () if box.is_let_go or box.value is not None else box.pieces:
                if isinstance(piece, DaskArray) and not self._is_due(piece):
                    yield piece

    def is_to_be_sent(self, array: DaskArray) -> bool:
        """Whether an array would go to a cluster with each graph that reads it."""
        return is_to_be_sent(array)

    def _is_due(self, piece: Any) -> TypeGuard[DaskArray]:
        """Whether the next execution brings a piece into the memory of those who work."""
        return _is_lazy(piece) or (isinstance(piece, DaskArray) and self.is_to_be_sent(piece))

    def know(self, values: Any) -> None:
        """Know the lazy arrays of operators among `values`: each is worked out once at most."""
        for op in found(values, lambda value: isinstance(value, LinearOperator)):
            for part in filter(runs_users_code, all_parts(op)):
                self.visit(part)
            held = list(arrays_of(op))
            self._kernel = max([self._kernel, *map(bytes_of_block, held)])
            # a vector that an operator gave is a view of its pieces: these are kept in memory
            kept = (piece for array in held for piece in layout_of(array) or [array])
            self._coefficients.update((piece.name, piece) for piece in kept if _is_lazy(piece))
        # data that arrays of operators are made of
        made_of = set().union(*(array.dask.layers for array in self._coefficients.values()))
        for array in found(values, is_dask) if made_of else ():
            if array.name in made_of and _is_lazy(array):
                self._coefficients[array.name] = array

    def leaf(self, array: DaskArray) -> DaskArray:
        """Return what an operator's dask array is to be read from: memory, once persisted.

        What operators make of their arrays as they run (``np.conj(self.weights)``) is made again
        each time, as for NumPy arrays, but of arrays in memory; see `_from_memory`.
        """
        if pc.in_memory(array):
            return array
        if array.name not in self._leaves:
            if array.name not in self._coefficients and self._ancestors(array)[0]:
                return array
            self._new_leaf(array)
        if array.name not in self._coefficients:
            self._found[array.name] = _Found(weakref.ref(array), self._step)
        return self._source(array.name)

    def _let_go_of_replaced(self) -> None:
        """Free arrays that operators were given in the solve, and have read no more for a while."""
        self._step += 1
        for name, (array, last) in list(self._found.items()):
            if array() is None and self._step - last > _KEPT:
                del self._found[name]
                self._leaves.pop(name, None)

    def needed(self, array: DaskArray) -> DaskArray | None:
        """Return what an operator's dask array was read from, None if it was not needed so far."""
        if pc.in_memory(array):
            return array
        return self._source(array.name) if array.name in self._leaves else None

    def _ancestors(self, array: DaskArray, itself: bool = True) -> tuple[set[str], set[str]]:
        """Return the nearest arrays of operators that an array is made of, and layers between."""
        dependencies = array.dask.dependencies
        sources: set[str] = set()
        between: set[str] = set()
        left = [array.name]
        while left:
            name = left.pop()
            known = name in self._leaves or name in self._coefficients
            if known and (itself or name != array.name):
                sources.add(name)
            elif name not in between:
                between.add(name)
                left.extend(dependencies.get(name, ()))
        return sources, between

    def _from_memory(self, array: DaskArray) -> DaskArray:
        """Return `array` made of those arrays of operators that are in memory already."""
        if self._reads_memory(array):
            return array
        sources, between = self._ancestors(array, itself=False)
        # in the order of the graph: that of a set is another in each step
        given = [self._source(name) for name in array.dask.layers if name in sources]
        held = [each if pc.in_memory(each) else self._from_memory(each) for each in given]
        changed = (a is not b or pc.in_memory(a) for a, b in zip(held, given, strict=True))
        if not any(changed):
            return array
        layers = {name: layer for name, layer in array.dask.layers.items() if name in between}
        dependencies = {name: array.dask.dependencies[name] for name in layers}
        for source in held:
            layers.update(source.dask.layers)
            dependencies.update(source.dask.dependencies)
        graph = HighLevelGraph(layers, dependencies)
        return pc.array_of(graph, array.name, array.chunks, array._meta)

    def _reads_memory(self, array: DaskArray) -> bool:
        """Whether an array is made of arrays of operators as they are in memory, if of any."""
        layers = array.dask.layers
        for name in layers.keys() & (self._leaves.keys() | self._coefficients.keys()):
            piece = self._leaves[name].pieces[0] if name in self._leaves else None
            if not isinstance(piece, DaskArray) or not pc.in_memory(piece):
                return False
            if piece.dask.layers.get(name) is not layers[name]:
                return False
        return True

    def _new_leaf(self, array: DaskArray) -> None:
        box = self._leaves[array.name] = DispatchArray(array)
        self._boxes[id(box)] = box  # an application may be recorded that needs it first

    def _source(self, name: str) -> DaskArray:
        if name not in self._leaves:
            self._new_leaf(self._coefficients[name])
        return pc.realise(self._leaves[name].pieces[0])

    def norm(self, piece: DaskArray) -> Any:
        """Return the sum of squares of a piece: a number, or the same lazy box each time."""
        box = self._norms.get(piece.name)
        if box is None:
            self._missed |= piece.name in self._last
            box = self._norms[piece.name] = DispatchArray(square_of(piece))
        return box if box.value is None else box.value

    def persist(self, wanted: DispatchArray) -> None:
        """Persist in one execution all boxes that are alive and lazy, `wanted` among them."""
        if self.recording:
            raise ValuesNeededError
        with self._lost_with_cluster():
            self._persist(wanted)

    def assumes(self, box: DispatchArray) -> bool:
        """Whether a comparison is taken for true, for as long as nothing is executed."""
        if self.before is None or not self._asks or self.recording:
            return False
        norm = norm_in_question(sys._getframe(2))  # asked for by ``DispatchArray.__bool__``
        if norm is None:
            return False
        self.assumed, self._asks = Assumption(box, norm), False
        return True

    @property
    def is_assuming(self) -> bool:
        """Whether something is taken for true, and not known yet."""
        return self.assumed is not None and self.assumed.comparison.value is None

    @contextmanager
    def in_step(self, op: Any) -> Iterator[None]:
        """Look at an operator once in a step of one of PyLops's solvers, which applies it."""
        outer, self.looked_at = self.looked_at, LookedAt(op)
        try:
            yield
        finally:
            self.looked_at = outer

    @contextmanager
    def assuming(self, asks: bool) -> Iterator[None]:
        """Let a step take something for true, or nothing.

        Raises
        ------
        WrongAssumption
            At the end of the block if that was wrong, whatever else was raised: code that runs in
            the step may have met what is not to be, or have handled an error.
        """
        outer, taken, failed = (self.assumed, self._asks), None, False
        norms = self._norms.copy()
        self.assumed, self._asks = None, asks
        try:
            yield
            if self.assumed is not None and self.is_assuming:
                self.persist(self.assumed.comparison)
        except Exception as error:
            failed = self.is_assuming
            if not failed:
                raise
            # what the step has made is not to be worked out when it is taken again
            traceback.clear_frames(error.__traceback__)
            self._norms = norms
        finally:
            taken = self.assumed
            self.assumed, self._asks = outer
            if taken is not None and taken.comparison.value is not None:
                self._check(taken)
        if failed:
            raise WrongAssumption

    def _check(self, assumed: Assumption) -> None:
        if not assumed.comparison.value:
            raise WrongAssumption

    def _persist(self, wanted: DispatchArray) -> None:
        executed = self._execute_alive(wanted)
        boxes = self._unread(wanted)
        scalars = [box for box in boxes if not box.ndim and pc.in_memory(box.dask())]
        values = self.values([box.dask() for box in scalars])
        for box, value in zip(scalars, values, strict=True):
            box.settle(value)
        if wanted.value is None:
            (value,) = self.values([wanted.dask()])
            wanted.settle(value)
        if executed and self.before is None:
            self.cut_lineage()
        if self.assumed is not None and not self.is_assuming:
            self._check(self.assumed)

    def _execute_alive(self, wanted: DispatchArray) -> bool:
        """Bring all that is lazy into memory; whether anything was.

        No graph outlives this call: it would keep the vectors that it reads.
        """
        self._check_cluster()
        self._leave_owners()
        if self.before is not None:
            self.before.let_go_of_finished(wanted)
        lazy = self._lazy(wanted)
        # a solver that reads norms of what is in memory gets them with the vectors next time
        self._with_norms |= self._missed and not any(a.ndim for a in lazy.values())
        vectors = [a for a in lazy.values() if a.ndim and a.dtype.kind in "fc"]
        if self._with_norms:
            for vector in vectors:
                self.norm(vector)
            lazy = self._lazy(wanted)
            # the garbage collector may have found some in between
            vectors = [vector for vector in vectors if vector.name in lazy]
        made = list(lazy.values())
        if self._leaves:
            made = [self._from_memory(array) for array in made]
        done = dict(zip(lazy, self.execute(made), strict=True)) if lazy else {}
        for box in self._unread(wanted):
            held = (done.get(p.name, p) if isinstance(p, DaskArray) else p for p in box.pieces)
            box.replace(list(held))
        if self._data is not None:
            known = self._data[1]
            known.update([(done[n].name, piece) for n, piece in known.items() if n in done])
        if vectors:
            now = {a.name: done[a.name].name for a in vectors}
            self._last, self._missed = set(now.values()), False
            self._norms = {now[n]: box for n, box in self._norms.items() if n in now}
        if self.before is not None and any(futures_of(done[a.name]) for a in vectors[:1]):
            used = {n: done[a.name] for n, a in read_whole(vectors).items()}
            self.before.let_go(used, list(self._boxes.values()))
        self._lineage.count(len(done) > 0)
        return bool(lazy)

    def is_cluster_gone(self) -> bool:
        """Whether the vectors were lost with a cluster."""
        client = None if self._client is None else self._client()
        # one that loses its scheduler connects again, or its futures say that they are cancelled
        return client is not None and client.status in ("closing", "closed")

    @contextmanager
    def _lost_with_cluster(self) -> Iterator[None]:
        """Say so where an error in the block comes of a cluster that was closed meanwhile.

        ``Client._gather_remote`` asks a scheduler that a closed client has no more.
        """
        try:
            yield
        except Exception as error:
            if self.is_cluster_gone():
                from distributed.comm import CommClosedError

                if not isinstance(error, CommClosedError):
                    raise CommClosedError(_CLOSED) from error
            raise

    def _check_cluster(self) -> None:
        """Raise if the vectors went with a cluster; dask would look for them in this process."""
        if self.is_cluster_gone():
            from distributed.comm import CommClosedError

            raise CommClosedError(_CLOSED)
        client = client_in_use()
        self._client = None if client is None else weakref.ref(client)
        self.runs_here = client is None

    def _leave_owners(self) -> None:
        """Let vectors that are seen through one view only go: the view is what is kept."""
        for number in list(self._boxes):
            box = self._boxes.get(number)  # one at a time: each would be a reference
            if box is not None:
                box.leave_owner()

    def execute(self, arrays: list[DaskArray]) -> tuple[DaskArray, ...]:
        """Return arrays in memory, worked out in one execution."""
        mark = f"-{uuid.uuid4().hex[:12]}"
        held = self._coefficients.keys() | self._leaves.keys()
        executions = self._executions if self.repeats else None
        try:
            placed = vectors_together(arrays, self._kernel, mark)
            return persist(arrays, mark, held, executions, placed)
        except ValueError as error:
            note_blocks_elsewhere(error)
            raise
        except RuntimeError as error:
            note_asynchronous(error)
            raise

    def vector(self, box: DispatchArray) -> Any:
        """Return a lazy vector as a NumPy array; what it is made of is not worked out again."""
        with self._lost_with_cluster():
            self._execute_alive(box)
            return np.asarray(array_in_full(box.dask()).compute())

    def product(self, box: DispatchArray) -> Any:
        """Return a vector that an operator gave as a NumPy array, for code that takes no other."""
        with self._lost_with_cluster():
            if any(_is_lazy(piece) for held in self._leaves.values() for piece in held.pieces):
                self._execute_alive(box)
            return np.asarray(array_in_full(self._from_memory(box.dask())).compute())

    def values(self, scalars: list[DaskArray]) -> list[Any]:
        """Return the values of 0-d arrays; only futures have to be fetched, all at once."""
        nodes = [array.dask.get((array.name,)) for array in scalars]
        values = [getattr(node, "value", node) for node in nodes]
        futures = [futures_of(array) for array in scalars]
        if scalars and all(futures):
            # an error that is raised of a future stays in it, with the frames that hold it
            client = futures[0][0].client
            values = client.gather([future for (future,) in futures], errors="skip")
        if len(values) < len(scalars) or not all(hasattr(value, "dtype") for value in values):
            values = list(dask.compute(*scalars))
        return [value[()] for value in values]

    def cut_lineage(self) -> None:
        """Let vectors forget how they came about, if it is time for that."""
        self._let_go_of_replaced()
        for array in copied_again():
            self.keep_until_cut(array)
        boxes = [box for box in list(self._boxes.values()) if not box.is_let_go]
        renamed = self._lineage.cut_if_due(boxes, self._leaves.values())
        self._last = {renamed.get(name, name) for name in self._last}
        self._norms = {renamed.get(name, name): box for name, box in self._norms.items()}

    def keep_until_cut(self, array: DaskArray) -> None:
        """Keep an array of an operator on a cluster that was put elsewhere."""
        self._lineage.keep_until_cut(array)

    def result(self, value: Any) -> Any:
        """Return the result of a solve: dask arrays, which are safe without this session."""
        boxes = [box for box in found(value, is_box) if box.value is None and not box.is_let_go]
        self._lineage.finish(boxes)
        return result_of(value)

    def _unread(self, wanted: DispatchArray) -> list[DispatchArray]:
        boxes = [b for b in list(self._boxes.values()) if b.value is None and not b.is_let_go]
        return boxes if any(box is wanted for box in boxes) else [*boxes, wanted]

    def _lazy(self, wanted: DispatchArray) -> dict[str, DaskArray]:
        lazy = {p.name: p for box in self._unread(wanted) for p in box.pieces if self._is_due(p)}
        if self._coefficients or self._leaves:
            made = [array for array in lazy.values() if not self._reads_memory(array)]
            sources = {name for array in made for name in self._ancestors(array)[0]}
            needed = {name: self._source(name) for name in sources}
            lazy.update((name, array) for name, array in needed.items() if _is_lazy(array))
        self._add_what_is_made_of_the_same(lazy)
        return lazy

    def _add_what_is_made_of_the_same(self, lazy: dict[str, DaskArray]) -> None:
        """Add arrays of operators that share lazy arrays with those that are to be executed.

        Executed later, weights that are made of the data would have these worked out again, and be
        of other data if they are of random numbers. What is made of another operator's array
        (``Fredholm1.GT``) reads that in memory, and may never be needed.
        """
        later = [name for name in self._coefficients if name not in self._leaves]
        for name in later:
            if name not in self._made_by:
                array = self._coefficients[name]
                layers = self._ancestors(array, itself=False)[1]
                run = (layer for layer in layers if not pc.is_data(array.dask.layers[layer]))
                self._made_by[name] = frozenset(run)
        executed = [array.dask.layers for array in lazy.values()] if later else []
        while executed:
            alike = [n for n in later if not all(map(self._made_by[n].isdisjoint, executed))]
            lazy.update((name, self._source(name)) for name in alike)
            executed = [self._coefficients[name].dask.layers for name in alike]
            later = [name for name in later if name not in alike]


def _is_lazy(piece: Any) -> TypeGuard[DaskArray]:
    return isinstance(piece, DaskArray) and not pc.in_memory(piece)


# what a solve keeps its boxes in; a plan has a kind of its own
new_session: ContextVar[Callable[[], Session]] = ContextVar("new_session", default=Session)
# what is done to a solver before a method of it runs; a plan prepares it
before_solving: ContextVar[Callable[[Any], None]] = ContextVar(
    "before_solving", default=lambda solver: None
)


def exchange_session(solver: Any, new: Session | None) -> Session | None:
    """Give a solver another session, or none, and return the one that it had."""
    known = sessions.pop(solver, None)
    if new is not None:
        sessions[solver] = new
    return known


@contextmanager
def in_session(own: Session) -> Iterator[None]:
    """Let boxes made here belong to `own`."""
    token = session.set(own)
    own.come_in()
    try:
        with beside_other_tasks():
            yield
    finally:
        own.go_out()
        session.reset(token)


@contextmanager
def reading_once(op: Any) -> Iterator[None]:
    """Let products of an operator in this context find its lazy arrays in memory."""
    if session.get() is not None:
        yield
        return
    own = new_session.get()()
    own.know(op)
    with in_session(own):
        yield


def result_of(value: Any) -> Any:
    """Take boxes out of a solver's result; scalars come out as NumPy's, as they would."""

    def outwards(box: DispatchArray) -> Any:
        return box.read("a solver's result") if box.ndim == 0 else lower(box)

    return walk(value, is_box, outwards)


class _Shown:
    """Boxes as a user's code sees them: dask arrays, which it may write into."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[DispatchArray, Any, str | None]] = {}

    def outwards(self, values: Any) -> Any:
        """Return values with dask arrays for boxes, one array for each box."""
        return walk(values, is_box, self._array_of)

    def _array_of(self, box: DispatchArray) -> Any:
        if id(box) not in self._seen:
            array = lower(box)
            self._seen[id(box)] = box, array, array.name if is_dask(array) else None
        return self._seen[id(box)][1]

    def inwards(self, values: Any) -> Any:
        """Return values with boxes for dask arrays: those that the arrays were made of, if any."""
        boxes = {id(array): box for box, array, name in self._seen.values() if name}
        return walk(values, is_dask, lambda x: boxes[id(x)] if id(x) in boxes else lift(x))

    def take_back(self) -> None:
        """Write into the boxes what the user's code has written into their arrays."""
        for box, array, name in self._seen.values():
            if name and array.name != name:
                _write_as(box, array)


def _write_as(box: DispatchArray, array: DaskArray) -> None:
    """Write an array of the same shape into a box, whose layout stays."""
    layout = box.pieces
    pieces = [
        align(pc.realise(piece), model) if isinstance(model, DaskArray) else piece
        for piece, model in zip(pc.split_like([array.copy()], layout), layout, strict=True)
    ]
    box.assign(DispatchArray(pieces, box.shape))


def lowered(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Let a user's function see dask arrays, not boxes; what it writes reaches the boxes."""
    if getattr(callback, "_pylops_dispatch_lowered", False):
        return callback

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        shown = _Shown()
        with ExitStack() as stack:
            stack.callback(shown.take_back)
            owner = getattr(callback, "__self__", None)  # of a method of a user's own solver
            for solver in (a for a in (owner, *args) if isinstance(a, Solver)):
                stack.enter_context(_boxes_outside(solver, shown))
            given, named = shown.outwards((args, kwargs))
            outside = session.set(None)
            try:
                return callback(*given, **named)
            finally:
                session.reset(outside)

    wrapper._pylops_dispatch_lowered = True  # type: ignore[attr-defined]
    return wrapper


# whether metrics stay boxes for now, to be read together
_read_later: ContextVar[bool] = ContextVar("_read_later", default=False)


def metric(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap one of PyLops's metrics: inside a solver its result is a number, as in NumPy."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if session.get() is not None:
            args, kwargs = walk((args, kwargs), is_dask, as_box)
        result = original(*args, **kwargs)
        now = isinstance(result, DispatchArray) and not _read_later.get()
        return result.read(original.__name__) if now else result

    return wrapper


def metrics_of_step(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``MetricsCallback.on_step_end``: one execution for all metrics of a step."""

    def wrapper(self: Any, solver: Any, x: Any) -> None:
        token = _read_later.set(True)
        try:
            original(self, solver, x)
        finally:
            _read_later.reset(token)
        for values in self.metrics.values():
            if values and is_box(values[-1]):
                values[-1] = values[-1].read("a metric")  # the first brings all into memory

    return wrapper


def threshold(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap one of PyLops's thresholds: one task for each block, whatever it does inside.

    ``_halfthreshold`` indexes with a mask, and ``_hardthreshold`` calls ``math.sqrt``.
    """

    def wrapper(x: Any, thresh: Any) -> Any:
        if not isinstance(x, DispatchArray):
            return original(x, thresh)
        known = thresh.dtype.type(1) if isinstance(thresh, DispatchArray) else thresh
        dtype = original(np.ones(1, x.dtype), known).dtype
        value = thresh.dask() if isinstance(thresh, DispatchArray) else thresh

        def apply(piece: DaskArray) -> DaskArray:
            index = tuple(range(piece.ndim))
            scalar = () if isinstance(value, DaskArray) else None
            return da.blockwise(
                _in_tiles, index, piece, index, value, scalar, dtype=dtype, align_arrays=False,
                meta=np.empty((0,) * piece.ndim, dtype), function=original, out_dtype=dtype,
            )  # fmt: skip

        return x.map(apply)

    return wrapper


_TILE_BYTES = 1 << 19  # the temporaries of a threshold stay in the cache


@elementwise
def _in_tiles(x: Any, thresh: Any, *, function: Callable[..., Any], out_dtype: Any) -> Any:
    """Apply a function of single elements to a block, some rows at a time."""
    rows = max(1, _TILE_BYTES * len(x) // max(x.nbytes, 1))
    if rows >= len(x):
        return function(x, thresh)
    out = np.empty_like(x, dtype=out_dtype)
    for start in range(0, len(x), rows):
        out[start : start + rows] = function(x[start : start + rows], thresh)
    return out


def refuse_outside_solve(name: str) -> None:
    """Raise where an operator that is applied outside of any solver solves for its input.

    The steps would be worked out when it is applied; a task on the whole vector can solve later.

    Raises
    ------
    NotDispatchedError
        Which has the operator run in such a task.
    """
    if session.get() is None:
        raise not_dispatched(name, "A solver works out its steps one after another.")


def solver_function(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap one of PyLops's solver functions: dask arrays in, dask arrays out."""
    check_problem = _lengths_checked(original)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        op = args[0] if args else None
        if not holds((args, kwargs), gives_lazy):
            return original(*args, **kwargs)
        outer = session.get()
        if holds((args, kwargs), is_box):
            refuse_outside_solve(original.__name__)
            with nullcontext() if outer is None else outer.letting_go():
                return original(*args, **kwargs)  # inside another solver
        for name, value in kwargs.items():
            if name.endswith("callback") and callable(value):
                kwargs[name] = lowered(value)
        own = new_session.get()()
        own.know((args, kwargs))
        with in_session(own), own.letting_go():
            given, named = _boxed((args, kwargs), _lengths((args, kwargs)))
            check_problem(op, given, named)
            if original.__name__ in _READ_DATA_IN_SETUP and not named.get("callback"):
                own.read_in_setup_only(named.get("y", given[1] if len(given) > 1 else None))
            return own.result(original(*given, **named))

    return wrapper


# their classes read ``self.y`` nowhere else (pylops/optimization/cls_basic.py)
_READ_DATA_IN_SETUP = ("cg", "cgls", "lsqr")


def _lengths_checked(original: Callable[..., Any], method: bool = False) -> Callable[..., None]:
    """Return what checks the lengths of the data and of the first guess of one of PyLops's solvers.

    It would find out after the first norms, which take all that is lazy to be computed.
    """
    if not original.__module__.startswith("pylops."):
        return lambda *given: None
    names = list(inspect.signature(original).parameters)[1:]
    columns = "threshkind" in names  # ISTA and FISTA take matrices of data
    name = original.__qualname__.partition(".")[0]
    vectors = name.lower() in ("irls", "omp", "splitbregman")  # of rows SciPy makes vectors

    def check_problem(op: Any, args: Any, kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(names, args if method else args[1:], strict=False)), **kwargs}
        if not isinstance(op, LinearOperator):
            return
        y = given.get("y", given.get("b"))
        check_length(y, op.shape[0], columns)
        shape: tuple[int, ...] = getattr(y, "shape", ())
        if vectors and len(shape) > 1 and shape[0] > 1:
            raise ValueError(f"y has shape {shape}, and {name} takes a vector: y.ravel()")
        preconditioner = given.get("P")
        model = op if preconditioner is None else preconditioner
        check_length(given.get("x0"), model.shape[1], columns)

    return check_problem


# what applications call the data, whose kind of array decides how they go on
_DATA = frozenset(("d", "data", "p", "vz", "pd", "m0", "G0"))


def application(
    original: Callable[..., Any], inspected: tuple[str, ...] = ()
) -> Callable[..., Any]:
    """Wrap a function or a method that sets up a problem and solves it.

    Dask arrays become boxes, and the data next to them; other NumPy arrays stay as they are.
    Where the solver to be used is SciPy's, PyLops's takes its place. Parameters whose values
    PyLops looks at are computed, with a warning.
    """

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        lazy = holds((args, kwargs), is_dask) or (args and _holds_lazy(args[0]))
        if not lazy or holds((args, kwargs), is_box):
            return original(*args, **kwargs)
        given = named_arguments(original, args, kwargs, defaults=True)
        given.update(inspect_all(original, inspected, given))
        if "solver" in given:
            given["solver"] = in_place_of_scipy(given["solver"])
        own = [given.pop("self")] if "self" in given else []
        inside = _boxes_inside(own[0]) if own else nullcontext()
        current = new_session.get()()
        current.know((list(given.values()), [vars(solver) for solver in own]))
        with in_session(current), current.letting_go(), inside:
            given = walk(given, is_dask, lift)
            data = _DATA & given.keys()
            given.update((name, walk(given[name], is_array, as_box)) for name in data)
            return current.result(original(*own, **given))

    return wrapper


def _holds_lazy(owner: Any) -> bool:
    if isinstance(owner, np.ndarray) or not hasattr(owner, "__dict__"):
        return False
    return any(map(is_made_of_lazy, list(vars(owner).values())))


def solver_method(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of a solver class; a solver keeps one session for its life.

    Between the calls that a user makes, the solver's attributes are dask arrays.
    """
    check_problem = _lengths_checked(original, method=True)
    is_step = original.__name__ == "step"
    original = followed(original)

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        before_solving.get()(self)
        current = session.get()
        if holds((args, kwargs), is_box):
            refuse_outside_solve(f"{type(self).__name__}.{original.__name__}")
        known = sessions.get(self)
        op = getattr(self, "Op", None)  # pyproximal's solvers have none, or not yet
        begins = original.__name__ in ("setup", "solve")
        lazy = holds((op, args, kwargs), gives_lazy if begins else is_made_of_lazy)
        if not lazy and current is not known and begins:
            known = None  # a new problem, of NumPy arrays only
            sessions.pop(self, None)
        if known is None and not lazy:
            return original(self, *args, **kwargs)
        # a class of the user's may make a problem of its own kind of data in setup
        if original.__name__ == "setup" or is_pylops(type(self)):
            check_problem(op, args, kwargs)
        if current is not None and known in (None, current):
            if known is None:
                current.adopt(self)
            sessions[self] = current
            with _told_as_set_up(self, original), _users_callbacks(self), few_reads(math.inf):
                result = original(self, *args, **kwargs)
            if original.__name__ == "setup":
                current.let_go_of_data(self)
            return result
        if known is None:
            known = sessions[self] = new_session.get()()
        if begins and known.is_cluster_gone():
            for name in [n for n, value in vars(self).items() if holds(value, is_lazy)]:
                delattr(self, name)  # what it was of a problem that is lost
            known = sessions[self] = new_session.get()()
        known.know((vars(self), args, kwargs))
        # on a cluster that would keep the blocks of vectors that the step replaces
        undone = is_step and client_in_use() is None
        with (
            _told_as_set_up(self, original),
            _put_back_if_interrupted(self) if undone else nullcontext(),
            in_session(known),
            _users_callbacks(self),
            _boxes_inside(self),
        ):
            given, named = _boxed((args, kwargs), _lengths((vars(self), args, kwargs)))
            result = original(self, *given, **named)
            return known.result(result) if original.__name__ == "solve" else result_of(result)

    return wrapper


def norm_of_data(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``CostToDataCallback.on_setup_end``: the norm is worked out with the first step.

    Where a user takes the steps it runs outside of them, and each would work it out again.
    """

    def wrapper(self: Any, solver: Any, x: Any) -> None:
        known = sessions.get(solver)
        if known is None or session.get() is not None:
            return original(self, solver, x)
        with in_session(known), _boxes_inside(solver):
            return original(self, solver, x)

    return wrapper


def computing(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function whose very answer is a value: ``dottest`` on lazy coefficients."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        op = args[0] if args else kwargs.get("Op")
        once = reading_once(op) if is_lazy_operator(op) else nullcontext()
        with set_policy(implicit_compute="allow"), once:
            return original(*args, **kwargs)

    return wrapper


def _lengths(values: Any) -> set[int]:
    """Return the lengths of vectors: of the operators among `values`, else of lazy arrays."""
    operators = found(values, lambda value: isinstance(value, LinearOperator))
    lengths = {int(n) for op in operators for n in op.shape}
    return lengths or {int(n) for x in found(values, is_lazy) for n in (x.size, *x.shape)}


def _boxed(values: Any, lengths: set[int]) -> Any:
    """Lift dask arrays, and NumPy arrays next to them that are vectors of the same solve.

    Other arrays are settings, such as ``epsRs`` and ``decay``.
    """

    def vector(x: Any) -> bool:
        if not isinstance(x, np.ndarray) or x.ndim == 0 or x.dtype.kind not in "biufc":
            return is_dask(x)
        return not lengths or x.size in lengths or len(x) in lengths

    def boxed(x: Any) -> Any:
        if not is_dask(x):
            return as_box(x)
        check_vector(x)
        return lift(x)

    return walk(values, vector, boxed)


@contextmanager
def _boxes_inside(solver: Any) -> Iterator[None]:
    """Make a solver's dask arrays boxes inside, and dask arrays again outside."""
    try:
        _convert(solver, _is_vector, lift)
        yield
    finally:
        _convert(solver, is_box, lower)
        for callbacks in getattr(solver, "callbacks", None) or ():
            _convert(callbacks, _is_read, lower)  # CostToDataCallback.ynorm, with the first step


def _is_vector(x: Any) -> bool:
    """Whether a dask array may be one of a solve; a user's solver may keep others: labels, say."""
    if not is_dask(x):
        return False
    try:
        check(x)
    except (TypeError, ValueError):
        return False
    return True


def _is_read(x: Any) -> bool:
    return is_box(x) and x.value is not None


@contextmanager
def _told_as_set_up(solver: Any, method: Callable[..., Any]) -> Iterator[None]:
    """Say so where an error of a cluster comes of what a solver is set up with."""
    try:
        yield
    except Exception as error:
        if method.__name__ == "setup":
            note_step(error, solver, None)
        raise


@contextmanager
def _put_back_if_interrupted(solver: Any) -> Iterator[None]:
    """Put attributes back as a user saw them when a step does not come to its end.

    It may be interrupted as well where its boxes become dask arrays.
    """
    attributes = dict(vars(solver))
    lists = [(value, list(value)) for value in attributes.values() if isinstance(value, list)]
    try:
        yield
    except BaseException:
        vars(solver).clear()
        vars(solver).update(attributes)
        for held, items in lists:
            held[:] = items
        raise


@contextmanager
def _boxes_outside(solver: Any, shown: _Shown) -> Iterator[None]:
    """Let a user's callback see dask arrays in the solver that it is given."""
    before = dict(vars(solver))
    seen = {name: shown.outwards(value) for name, value in before.items() if holds(value, is_box)}
    items = {name: list(value) for name, value in seen.items() if isinstance(value, list)}
    vars(solver).update(seen)
    try:
        yield
    finally:
        for name, value in list(vars(solver).items()):
            if name in seen and value is seen[name]:
                vars(solver)[name] = before[name]
                if name in items:
                    _same_items(before[name], items[name], value, shown)
            elif value is not before.get(name) and holds(value, is_dask):
                vars(solver)[name] = shown.inwards(value)


def _same_items(own: list[Any], seen: list[Any], now: list[Any], shown: _Shown) -> None:
    """Do to a list of boxes what a user's code has done to the list that it saw."""
    if len(seen) == len(now) and all(a is b for a, b in zip(seen, now, strict=True)):
        return
    known = {id(item): box for item, box in zip(seen, own, strict=True)}
    own[:] = [known[id(item)] if id(item) in known else shown.inwards(item) for item in now]


def _convert(solver: Any, matches: Callable[[Any], bool], change: Callable[[Any], Any]) -> None:
    for name, value in list(vars(solver).items()):
        if holds(value, matches):
            setattr(solver, name, walk(value, matches, change))


class _LoweredCallbacks:
    """A user's Callbacks object, whose methods see dask arrays."""

    def __init__(self, callbacks: Any) -> None:
        self._callbacks = callbacks

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._callbacks, name)
        return lowered(value) if name.startswith("on_") else value


@contextmanager
def _users_callbacks(solver: Any) -> Iterator[None]:
    """Let a solver's callbacks that are not PyLops's own, or ours, see dask arrays."""
    given, held = solver.callback, "callback" in vars(solver)
    objects = solver.callbacks
    of_user = held or type(solver).callback is not Solver.callback
    if of_user:
        solver.callback = lowered(given)
    if objects:
        solver.callbacks = [
            cb
            if isinstance(cb, _LoweredCallbacks)
            or type(cb).__module__.startswith(("pylops.", "pylops_dispatch."))
            else _LoweredCallbacks(cb)
            for cb in objects
        ]
    try:
        yield
    finally:
        if held:
            solver.callback = given
        elif of_user:
            vars(solver).pop("callback", None)
        solver.callbacks = objects


def methods_of(cls: type) -> Iterator[str]:
    """Yield the names of the methods that a solver class defines itself."""
    return (name for name in _METHODS if inspect.isfunction(vars(cls).get(name)))
