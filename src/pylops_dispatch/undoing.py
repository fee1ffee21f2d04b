"""What a step of a solver began with: put back when the step does not come to its end.

Boxes are rebound and arrays never written to, so that the arrays before the step need only be
remembered. On a cluster, to hold them would keep the blocks of all vectors before the step next
to those after it. There they are let go as soon as what the step makes of them is asked for: the
scheduler frees each block once it has been read. It remembers how the block came about for as
long as anything that was made of it is there, as it does for blocks that are lost with a worker;
so what was let go is worked out again, in the rare case that it is needed after all.
"""

from __future__ import annotations

import functools
import itertools
import sys
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dask._task_spec import Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.blockwise import Blockwise

from pylops_dispatch.array import DispatchArray, is_box, session
from pylops_dispatch.lineage import futures_of
from pylops_dispatch.liveness import all_variables, unreachable
from pylops_dispatch.pieces import Piece, in_memory
from pylops_dispatch.policy import WRAPPERS

_STEPS = "pylops_dispatch.steps"  # where steps are called from


@contextmanager
def undone_if_interrupted(
    solver: Any, args: tuple[Any, ...], made: tuple[Any, ...]
) -> Iterator[None]:
    """Put attributes, lists and boxes back as they were when a step does not come to its end.

    Parameters
    ----------
    solver : pylops.optimization.basesolver.Solver
        Whose step it is.
    args : tuple
        What the step is given.
    made : tuple
        What the step before returned.
    """
    current = session.get()
    current.cut_lineage()
    before = Before(solver, args, made if _called_by_pylops() else ())
    outer, current.before = current.before, before
    try:
        yield
    except BaseException:
        before.put_back()
        raise
    finally:
        current.before = outer


def _called_by_pylops() -> bool:
    """Whether it is a loop of PyLops's that runs the step: it does not look back."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module not in WRAPPERS and not module.startswith(("pylops_dispatch", "contextlib")):
            return module.startswith("pylops.") and frame.f_code.co_name == "run"
        frame = frame.f_back
    return False


class Before:
    """A solver and the arguments of its step, before the step.

    Parameters
    ----------
    solver : pylops.optimization.basesolver.Solver
        Whose step it is.
    args : tuple
        What the step is given.
    passing : tuple
        Those of them that nobody else reads again.
    """

    def __init__(self, solver: Any, args: tuple[Any, ...], passing: tuple[Any, ...]) -> None:
        self._solver = solver
        self._copies: dict[int, tuple[weakref.ref[DispatchArray], DispatchArray]] = {}
        self._attributes = {
            name: self._kept(value) if is_box(value) and not value.is_let_go else value
            for name, value in vars(solver).items()
        }
        values = (*vars(solver).values(), *args)
        self._lists = [(value, list(value)) for value in values if isinstance(value, list)]
        in_lists = itertools.chain.from_iterable(_boxes_in(items) for _, items in self._lists)
        own = filter(is_box, args)
        self._held = [(box, self._kept(box)) for box in (*own, *in_lists)]
        self._staying = {id(a) for a in args if not any(a is value for value in passing)}
        self._made_of: dict[str, DaskArray] = {}

    def _kept(self, box: DispatchArray) -> DispatchArray:
        known = self._copies.get(id(box))
        if known is None or known[0]() is not box:
            known = self._copies[id(box)] = weakref.ref(box), box.copy()
        return known[1]

    def let_go(self, made_of: Mapping[str, DaskArray], boxes: Iterable[DispatchArray]) -> None:
        """Let go of blocks on a cluster that have been used, and that the step reads no more.

        Parameters
        ----------
        made_of : mapping
            The names of arrays, and for each an array of which each block needs all of the same
            block of it: see :func:`read_whole`. All of these blocks were asked for.
        boxes : iterable of DispatchArray
            All that are alive.
        """
        own = {id(box): box for box in (*(c for _, c in self._copies.values()), *self._passed())}
        alive = {name for box in boxes if id(box) not in own for name in _names(box)}
        # what was made of a vector may be let go in its turn, for what is made of that
        self._made_of = {
            name: made_of.get(array.name, array) for name, array in self._made_of.items()
        }
        for box in own.values():
            pieces = () if box.is_let_go else box.pieces
            arrays = [piece for piece in pieces if isinstance(piece, DaskArray)]
            names = {array.name for array in arrays}
            if (
                names
                and len(arrays) == len(pieces)
                and names <= made_of.keys() - alive
                and all(futures_of(array) for array in arrays)
            ):
                self._made_of.update((name, made_of[name]) for name in names)
                forgone = [_Forgone(array) for array in arrays]
                box.let_go(functools.partial(_recalled, forgone, self._made_of))

    def let_go_of_finished(self, wanted: DispatchArray) -> None:
        """Let go of what the step has made and cannot read again, so that it is not kept."""
        for box in unreachable(_STEPS, lambda value: _is_lazy_box(value) and value is not wanted):
            box.let_go(_finished)

    def _passed(self) -> list[DispatchArray]:
        """Return the variables of the step, and of what it has called, that are not read again."""
        again, never = all_variables(_STEPS)
        again += _with_boxes([*again, *vars(self._solver).values()])
        kept = self._staying | set(map(id, again))
        passing = [box for box, _ in self._held]
        return [box for box in (*never, *passing) if is_box(box) and id(box) not in kept]

    def put_back(self) -> None:
        """Make all as it was."""
        attributes = {
            name: self._original(value) if is_box(value) else value
            for name, value in self._attributes.items()
        }
        for box, copy in self._held:
            _same_again(box, copy)
        vars(self._solver).clear()
        vars(self._solver).update(attributes)
        for held, items in self._lists:
            held[:] = items

    def _original(self, copy: DispatchArray) -> DispatchArray:
        original = next((ref() for ref, known in self._copies.values() if known is copy), None)
        return copy if original is None else _same_again(original, copy)


def _is_lazy_box(value: Any) -> bool:
    if not isinstance(value, DispatchArray) or value.is_let_go or value.value is not None:
        return False
    return any(isinstance(piece, DaskArray) and not in_memory(piece) for piece in value.pieces)


def _finished() -> list[Piece]:
    raise RuntimeError("a vector is read that nothing referred to")


def _boxes_in(items: Sequence[Any]) -> Sequence[Any]:
    """Return the boxes in a list; one of costs, which are numbers, grows with each step."""
    if not any(issubclass(kind, DispatchArray) for kind in set(map(type, items))):
        return ()
    return [item for item in items if is_box(item)]


def _with_boxes(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        yield value
        yield from _boxes_in(value) if isinstance(value, (list, tuple)) else ()


def _same_again(box: DispatchArray, copy: DispatchArray) -> DispatchArray:
    box.replace(list(copy.pieces))
    box.settle(copy.value)
    return box


def _names(box: DispatchArray) -> Iterator[str]:
    pieces = () if box.is_let_go else box.pieces
    return (piece.name for piece in pieces if isinstance(piece, DaskArray))


def read_whole(arrays: Sequence[DaskArray]) -> dict[str, DaskArray]:
    """Return which arrays are read whole, block for block, by one of `arrays`.

    Parameters
    ----------
    arrays : sequence of dask.array.Array
        Lazy.

    Returns
    -------
    dict
        One of `arrays` by the names of those that it reads.
    """
    found: dict[str, DaskArray] = {}
    for array in arrays:
        layers = array.dask.layers
        reading = [array.name]
        while reading:
            layer = layers.get(reading.pop())
            for source, index in layer.indices if isinstance(layer, Blockwise) else ():
                whole = index is not None and set(index) == set(layer.output_indices)
                if whole and isinstance(source, str) and source not in found:
                    found[source] = array
                    reading.append(source)
    return found


class _Forgone:
    """All that is known of an array on a cluster but its blocks."""

    def __init__(self, array: DaskArray) -> None:
        blocks = dict(array.dask)
        self.client = next(iter(blocks.values())).client
        self.keys = list(blocks)
        self.name, self.chunks, self.meta = array.name, array.chunks, array._meta


def _recalled(arrays: Sequence[_Forgone], made_of: Mapping[str, DaskArray]) -> list[Piece]:
    """Return arrays that were let go, being worked out again; `made_of` has kept the way."""
    return [_again(array) for array in arrays if array.name in made_of]


def _again(array: _Forgone) -> DaskArray:
    name = f"recalled-{uuid.uuid4().hex[:12]}"
    keys = {key: (name, *key[1:]) for key in array.keys}
    graph: dict[Any, Any] = {new: Task(new, _same, TaskRef(key)) for key, new in keys.items()}
    if array.client.status == "running":
        futures = array.client.get(graph, list(graph), sync=False)
        graph = dict(zip(graph, futures, strict=True))
    else:
        graph = {new: Task(new, _gone) for new in graph}
    return DaskArray(graph, name, array.chunks, meta=array.meta)


def _same(block: Any) -> Any:
    return block


def _gone() -> Any:
    raise RuntimeError(
        "this vector was in the memory of a cluster that is gone; "
        "pylops_dispatch.checkpoint keeps what a long solve has reached"
    )
