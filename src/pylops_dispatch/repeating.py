"""Applications that a solve repeats: their graph is made once, and then given other names.

A step of a solver applies the same operator to a vector that is cut as the last one was. What
PyLops's code and the rules make of it is then the same graph, but for the names of the vector
and of all that follows from it; to rename layers takes a fraction of the time.
"""

from __future__ import annotations

import functools
import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from dask._task_spec import convert_legacy_graph
from dask.array.core import Array as DaskArray
from dask.blockwise import Blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from pylops import MemoizeOperator

from pylops_dispatch import pieces as pc
from pylops_dispatch.array import DispatchArray, session
from pylops_dispatch.layers import Form, RepeatedLayer
from pylops_dispatch.naming import signature
from pylops_dispatch.operators import all_parts, arrays_of, counters, runs_users_code
from pylops_dispatch.pieces import Piece, Zeros, array_of
from pylops_dispatch.renaming import name_in, with_names
from pylops_dispatch.workers import client_in_use

Apply = Callable[[DispatchArray], DispatchArray]


def layer_of(form: Form, make: Callable[[Sequence[Any]], Layer]) -> Layer:
    """Return a layer, in a solve in this process as one that the next step may have again."""
    current = session.get()
    if current is None or current.recording or not (current.repeats and current.runs_here):
        return make(form.numbers)
    return RepeatedLayer(form, make)


class ValuesNeededError(Exception):
    """Code asked for values of what stands for a vector while its graph is made."""


class _Input(NamedTuple):
    """What a graph depends on of the vector that an operator is applied to."""

    size: int
    pieces: tuple[Any, ...]  # zeros, or chunks, dtype and kind of blocks
    same: tuple[int, ...]  # the first place of each piece: two may be one array


class _Output(NamedTuple):
    """A piece of a result, and the layers of its graph."""

    piece: Piece
    made: tuple[str, ...]  # of the application
    read: tuple[str, ...]  # what stands for pieces of the vector
    layers: dict[str, Layer]  # of the operator
    dependencies: dict[str, set[str]]


class _Made(NamedTuple):
    """A layer of an application, which is given another name each time."""

    stem: str
    layer: Layer
    reads: tuple[str, ...]  # names of what it depends on
    inner: frozenset[str]  # other names that its tasks have
    kind: object  # one of its own


@dataclass
class Application:
    """An application whose graph was made for what stands for a vector."""

    given: _Input
    arrays: list[DaskArray]  # of the operator
    held: list[DaskArray | None]  # the same in memory, if they are needed
    names: list[str]  # of what stands for the pieces
    made: dict[str, _Made]
    result: list[_Output]
    dtype: np.dtype[Any]
    adopted: list[_Output]  # what the vector holds from here on, if that is something else
    counted: list[tuple[int, str, int]]  # which of the operators that it is made of, and how often
    tried: int = 0  # how often one was made anew without being of use


# by the operator as it is, and direction; or how often it was tried in vain
Known = dict[tuple[Any, ...], Application | int]

_KEPT = 64  # in a solve, the first of which go: an operator may change in each step

_TRIED = 3  # arrays of an operator may have to come into memory first


def repeated(op: Any, x: DispatchArray, adjoint: bool, apply: Apply) -> DispatchArray:
    """Apply an operator, from the second time on in a solve by renaming what that gave.

    Parameters
    ----------
    op : LinearOperator
        Operator, of PyLops's own code alone if it is to be renamed.
    x : DispatchArray
        Vector.
    adjoint : bool
        Whether it is the adjoint that is applied.
    apply : callable
        Applies it.

    Returns
    -------
    DispatchArray
        What `apply` gives.
    """
    current = session.get()
    # operators within it run as it does; on a cluster each application looks where arrays lie
    if current is None or current.applying or not current.repeats or client_in_use() is not None:
        return apply(x)
    as_it_is = _as_it_is(op, current)
    if as_it_is is None:
        return apply(x)
    current.applying = True
    try:
        # what is equal to an operator, as ``Op.H`` is each time that it is made, is that operator
        known, place = current.applications, (as_it_is, adjoint)
        if place not in known:
            if len(known) >= _KEPT:
                del known[next(iter(known))]
            known[place] = 0
            return apply(x)
        given, found = _input(x), known[place]
        if given is None or (isinstance(found, int) and found >= _TRIED):
            return apply(x)
        if isinstance(found, Application) and _is_as_before(found, given, current):
            found.tried = 0
            return _renamed(found, op, x)
        tried = 1 + (found.tried if isinstance(found, Application) else found)
        made = _record(op, x, given, apply, current) if tried <= _TRIED else None
        known[place] = tried if made is None else made
        if made is None:
            return apply(x)
        made.tried = tried
        return _renamed(made, op, x)
    finally:
        current.applying = False


@dataclass
class LookedAt:
    """An operator, and what it was found to be; nothing changes it but a user's code."""

    op: Any
    signature: Any = None  # once it is known, and never where there is a user's code in it


def _as_it_is(op: Any, current: Any) -> Any:
    """Return the signature of an operator, None if applications of it are not to be renamed."""
    looked_at = current.looked_at
    if looked_at is not None and looked_at.op is not op:
        looked_at = None
    if looked_at is not None and looked_at.signature is not None:
        return looked_at.signature
    if any(runs_users_code(part) or isinstance(part, MemoizeOperator) for part in all_parts(op)):
        return None
    found = signature(op)
    if looked_at is not None:
        looked_at.signature = found
    return found


def _input(x: DispatchArray) -> _Input | None:
    """Return what a graph depends on of a vector, None if it is more than can be told."""
    if not x.is_plain_vector:
        return None
    pieces = x.pieces
    names = [id(p) if isinstance(p, Zeros) else p.name for p in pieces]
    kinds = (p if isinstance(p, Zeros) else (p.chunks, p.dtype, type(p._meta)) for p in pieces)
    return _Input(x.size, tuple(kinds), tuple(map(names.index, names)))


def _is_as_before(found: Application, given: _Input, current: Any) -> bool:
    held = _in_memory(found.arrays, current)
    return found.given == given and all(map(operator.is_, held, found.held))


def _in_memory(arrays: list[DaskArray], current: Any) -> list[DaskArray | None]:
    """Return the dask arrays of an operator as they are by now, None if one was not needed."""
    return [current.needed(array) for array in arrays]


def _record(
    op: Any, x: DispatchArray, given: _Input, apply: Apply, current: Any
) -> Application | None:
    """Apply an operator to what stands for a vector; None if what comes of it is not for others."""
    arrays = list(arrays_of(op))
    held = _in_memory(arrays, current)
    if not all(array is None or pc.in_memory(array) for array in held):
        return None
    before = signature(op)
    # each once, in the last of its places: a tree may have an operator in several
    counted = list(
        {id(p): (place, p, counters(p)) for place, p in enumerate(all_parts(op))}.values()
    )
    names = [f"input-{number}" for number in given.same]
    pieces = [
        piece if isinstance(piece, Zeros) else _stand_in(name, piece)
        for name, piece in zip(names, x.pieces, strict=True)
    ]
    inputs = {piece.name: piece for piece in pieces if isinstance(piece, DaskArray)}
    current.recording = True  # values of what stands for the vector are not there to be read
    try:
        stand_in = DispatchArray(list(pieces), x.shape, x.dtype)
        y = apply(stand_in)
    except ValuesNeededError:
        return None
    finally:
        current.recording = False
        increments = [
            (place, name, number - old.get(name, 0))
            for place, part, old in counted
            for name, number in counters(part).items()
            if number != old.get(name, 0)
        ]
        for _, part, old in counted:
            vars(part).update(old)
    if y is stand_in or not y.is_plain_vector or signature(op) != before:
        return None
    if not all(map(operator.is_, _in_memory(arrays, current), held)):
        return None  # some are needed for the first time
    after = stand_in.pieces
    made: dict[str, _Made] = {}
    result = [_output(piece, inputs, made) for piece in y.pieces]
    same = len(after) == len(pieces) and all(map(operator.is_, after, pieces))
    kept = [] if same else [_output(piece, inputs, made) for piece in after]
    return Application(given, arrays, held, names, made, result, y.dtype, kept, increments)


def _stand_in(name: str, piece: DaskArray) -> DaskArray:
    graph = HighLevelGraph({name: MaterializedLayer({})}, {name: set()})
    return DaskArray(graph, name, piece.chunks, meta=piece._meta)


def _output(piece: Piece, inputs: dict[str, DaskArray], made: dict[str, _Made]) -> _Output:
    """Take the graph of a piece apart; what follows from the vector goes to `made`."""
    if isinstance(piece, Zeros):
        return _Output(piece, (), (), {}, {})
    graph = piece.dask
    order = graph._toposort_layers()
    follows = set(inputs)
    for name in order:
        if graph.dependencies[name] & follows:
            follows.add(name)
    own = tuple(name for name in order if name in follows - inputs.keys())
    for name in own:
        if name not in made:
            made[name] = _made(name, graph, inputs)
    rest = [name for name in order if name not in follows]
    return _Output(
        piece,
        own,
        tuple(name for name in inputs if name in graph.layers),
        {name: graph.layers[name] for name in rest},
        {name: set(graph.dependencies[name]) for name in rest},
    )


def _made(name: str, graph: HighLevelGraph, inputs: dict[str, DaskArray]) -> _Made:
    """Return a layer in a form that can be renamed."""
    layer, reads = graph.layers[name], tuple(graph.dependencies[name])
    stem = name.rpartition("-")[0] or name
    if isinstance(layer, Blockwise):
        return _Made(stem, layer, reads, frozenset(), object())
    keys = set(layer)
    for read in reads:
        if read in inputs:
            keys.update(flatten(inputs[read].__dask_keys__()))
        else:
            keys |= graph.layers[read].get_output_keys()
    nodes = MaterializedLayer(convert_legacy_graph(layer, keys))
    return _Made(stem, nodes, reads, frozenset(map(name_in, nodes)) - {name}, object())


def _renamed(found: Application, op: Any, x: DispatchArray) -> DispatchArray:
    """Return the result of an application that was made before, for another vector."""
    given = {
        name: piece
        for name, piece in zip(found.names, x.pieces, strict=True)
        if isinstance(piece, DaskArray)
    }
    names = {name: piece.name for name, piece in given.items()}
    which = hashlib.blake2b(repr(list(names.values())).encode(), digest_size=16)
    for name, made in found.made.items():
        for own in (name, *made.inner):
            digest = which.copy()
            digest.update(own.encode())
            names[own] = f"{made.stem}-{digest.hexdigest()}"
    layers: dict[str, Layer] = {}
    dependencies: dict[str, set[str]] = {}
    for name, made in found.made.items():
        reads = tuple(names.get(read, read) for read in made.reads)
        make = functools.partial(_named, made.layer, names)
        layers[names[name]] = RepeatedLayer(Form(made.kind, reads), make)
        dependencies[names[name]] = set(reads)

    def output(of: _Output) -> Piece:
        if isinstance(of.piece, Zeros):
            return of.piece
        own = [names[name] for name in of.made]
        graphs = [given[name].dask for name in of.read]
        graph = HighLevelGraph(
            _joined(of.layers, *(g.layers for g in graphs), {n: layers[n] for n in own}),
            _joined(
                of.dependencies,
                *(g.dependencies for g in graphs),
                {n: dependencies[n] for n in own},
            ),
        )
        name = names.get(of.piece.name, of.piece.name)
        return array_of(graph, name, of.piece.chunks, of.piece._meta)

    if found.adopted:
        x.adopt([output(of) for of in found.adopted])
    parts = list(all_parts(op)) if any(place for place, _, _ in found.counted) else [op]
    for place, name, number in found.counted:
        setattr(parts[place], name, getattr(parts[place], name) + number)
    y = [output(of) for of in found.result]
    return DispatchArray(y, (sum(map(pc.size, y)),), found.dtype)


def _named(layer: Layer, names: Mapping[str, str], numbers: Sequence[Any]) -> Layer:
    return with_names(layer, names)


def _joined(*mappings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for mapping in mappings:
        found.update(mapping)
    return found
