"""Checkpoints: the state of a solver in a Zarr store, and going on from it."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.array.core import Array as DaskArray
from pylops.optimization.basesolver import Solver
from pylops.optimization.callback import Callbacks
from pylops.optimization.cls_leastsquares import (
    NormalEquationsInversion,
    PreconditionedInversion,
    RegularizedInversion,
)
from pylops.optimization.cls_sparsity import IRLS, SPGL1

from pylops_dispatch import pieces as pc
from pylops_dispatch.arguments import require_count
from pylops_dispatch.array import DispatchArray, is_box, lift, lower_all, session, walk
from pylops_dispatch.pieces import Zeros
from pylops_dispatch.steps import needed, steps_of
from pylops_dispatch.workers import client_in_use

# written in turn, so that there is always one that is complete
_SLOTS = ("a", "b")
# not the state: what `setup` is given anew, and what belongs to this process
_GIVEN = frozenset({"Op", "y", "x", "callback", "callbacks", "tstart", "tend", "telapsed"})
# how far to go is for the run that goes on to say
_LIMITS = frozenset(
    {"niter", "nouter", "niter_outer", "decay", "tol", "atol", "btol", "ctol", "conlim", "sigma"}
)
# how a run prints, and how it uses memory
_MANNERS = frozenset({"show", "verb", "preallocate"})
# solvers whose steps are those of another one, inside
_WITHOUT_STEPS = (
    IRLS, NormalEquationsInversion, PreconditionedInversion, RegularizedInversion, SPGL1,
)  # fmt: skip
# what tells a store of checkpoints from one that holds something else
_MARK = {"pylops_dispatch": "checkpoints"}


def checkpoint(store: Any, every: int = 10) -> Callbacks:
    """Write the state of a solver to a Zarr store every few steps.

    Dask vectors are written by the workers, block by block. The last two checkpoints are kept,
    one of which is complete at any time, also when the process ends while it writes. Before the
    first step each worker writes something, to see that it reaches the store.

    Parameters
    ----------
    store : str, pathlib.Path or zarr store
        Where to write; it must hold nothing else, and on a cluster its workers must reach it.
    every : int, optional
        The number of steps from one checkpoint to the next.

    Returns
    -------
    pylops.optimization.callback.Callbacks
        For the ``callbacks`` of a solver: of its class, as functions such as ``pylops.cgls`` have
        none.

    Raises
    ------
    ImportError
        If zarr is not installed.
    TypeError
        If `store` is nothing that zarr can write to, or `every` no integer.
    ValueError
        If `every` is not positive.
    FileExistsError
        If a file is where the folder `store` is to be, or something else is in the store.

    See Also
    --------
    resume : Go on from a checkpoint.

    Examples
    --------
    >>> import numpy as np
    >>> import pylops
    >>> import pylops_dispatch
    >>> from pylops.optimization.cls_basic import CGLS
    >>> op, y = pylops.Diagonal(np.arange(1.0, 9.0)), np.ones(8)
    >>> solver = CGLS(op)
    >>> solver.callbacks = [pylops_dispatch.checkpoint("run.zarr", every=2)]  # doctest: +SKIP
    >>> x = solver.solve(y, niter=4)[0]

    and in another process, with a solver that is set up for the same problem:

    >>> solver = CGLS(op)
    >>> x = solver.setup(y)
    >>> x = pylops_dispatch.resume("run.zarr", solver)  # doctest: +SKIP
    >>> x = solver.run(x, niter=10)
    """
    require_count(every, "every")
    zarr = _zarr()
    store = _checked(zarr, store)
    _require_own(zarr, store)
    return _Checkpoint(zarr, store, every)


def resume(store: Any, solver: Solver) -> Any:
    """Bring a solver to where the last complete checkpoint was written.

    A checkpoint of which something is missing, was cut short, or has other bytes than were
    written, is passed over for the one before it.

    Parameters
    ----------
    store : str, pathlib.Path or zarr store
        What :func:`checkpoint` was given.
    solver : pylops.optimization.basesolver.Solver
        Of the same class and operator, after ``setup`` with the same data. Its state becomes
        that of the checkpoint, all but the number of iterations and the tolerances, which
        stay as given to ``setup``. Shapes, dtypes and settings are compared; the values of data
        and of operators are not.

    Returns
    -------
    array
        The solution so far, for ``solver.run``; followed by what ``run`` needs besides,
        ``cols`` for OMP.

    Raises
    ------
    ImportError
        If zarr is not installed.
    TypeError
        If `store` is no store, or `solver` no solver.
    FileExistsError
        If `store` is a file, and not the folder that a store is.
    FileNotFoundError
        If the store has no complete checkpoint, with what each of them lacks.
    ValueError
        If the solver is not set up, the checkpoint is one of another problem, or workers of a
        cluster cannot read it.
    """
    zarr = _zarr()
    if isinstance(store, Solver) or not isinstance(solver, Solver):
        raise TypeError(
            "resume(store, solver) takes what checkpoint() was given, and a solver after setup, "
            f"got {type(store).__name__} and {type(solver).__name__}"
        )
    store = _checked(zarr, store)
    complete, reasons = _complete(zarr, store)
    if complete:
        _require_seen(store)
    for group, state in complete:
        if not hasattr(solver, "y"):
            raise ValueError("set the solver up first: x = solver.setup(y, ...)")
        _require_same(solver, state)
        try:
            attributes, iterate = _read(group, state, _is_lazy(solver))
            break
        except ValueError as error:  # of a checksum
            reasons.append(f"in {state['slot']!r} {error}")
    else:
        lacking = "; ".join(sorted(reasons))
        raise FileNotFoundError(f"there is no complete checkpoint in {_name(store)}: {lacking}")
    vars(solver).update(lower_all(attributes))
    iterate = lower_all(iterate)
    # a run takes x, while the next step may need more of the iterate than that
    steps_of(solver).pending = tuple(lift(value) for value in iterate)
    taken = 1 + needed(type(solver).run)
    return iterate[0] if taken == 1 else tuple(iterate[:taken])


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise ImportError(
            "checkpoints are written with zarr: pip install 'pylops-dispatch[storage]'"
        ) from error
    return zarr


def _checked(zarr: Any, store: Any) -> Any:
    """Return a store; raise for what zarr cannot write to, before a solve begins."""
    if isinstance(store, (str, os.PathLike)):
        if "://" in os.fspath(store) or "::" in os.fspath(store):
            return store
        path = Path(store).absolute()  # workers may have been started in another folder
        for each in (path, *path.parents):
            # zarr keeps a whole store in a single file where it is an archive
            if each.is_file() and not (each == path and path.suffix == ".zip"):
                raise FileExistsError(
                    f"the store {str(store)!r} is to be a folder, and {str(each)!r} is a file: "
                    "give another path, such as 'run.zarr'"
                )
        return str(path)
    if not isinstance(store, (dict, zarr.abc.store.Store, zarr.storage.StorePath)):
        raise TypeError(
            f"store must be a path or a store of zarr, and is of type {type(store).__name__}"
        )
    return store


def _name(store: Any) -> str:
    return repr(store) if isinstance(store, str) else f"of type {type(store).__name__}"


def _require_own(zarr: Any, store: Any) -> None:
    """Raise if there is something else than checkpoints in a store: it would be overwritten."""
    folder = isinstance(store, str) and os.path.isdir(store)
    others = {name for name in os.listdir(store) if name != "zarr.json"} if folder else set()
    try:
        root = zarr.open_group(store, mode="r")
    except FileNotFoundError:
        root = None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileExistsError(
            f"the store {_name(store)} is no group of zarr, or a damaged one: give another path"
        ) from error
    if root is not None:
        if _has_mark(root):
            return
        others.update(root)
    if others := {name for name in others if not name.startswith(".")}:
        raise FileExistsError(
            f"the store {_name(store)} has something else in it ({', '.join(sorted(others)[:5])}): "
            "give checkpoints a store of their own, such as 'run.zarr'"
        )


def _require_seen(store: Any) -> None:
    """Raise if workers of a cluster do not see a store: what is missing would be zeros there."""
    client = client_in_use()
    seen = {} if client is None else client.run(_is_seen, store)
    blind = [worker for worker, sees in seen.items() if not sees]
    if blind:
        raise ValueError(
            f"{', '.join(blind)} cannot read the store {_name(store)}: on a cluster it must be one "
            "that its workers and this process share"
        )


def _is_seen(store: Any) -> bool:
    import zarr

    try:
        return _has_mark(zarr.open_group(store, mode="r"))
    except FileNotFoundError:
        return False


def _has_mark(root: Any) -> bool:
    return _MARK.items() <= dict(root.attrs).items()


def _problem(solver: Solver) -> dict[str, Any]:
    """Return what a problem is known by, in words."""
    return {
        "solver": type(solver).__name__,
        "shape of the operator": str(tuple(int(n) for n in solver.Op.shape)),
        "dtype of the operator": str(np.dtype(solver.Op.dtype)),
        "dtype of the data": str(solver.y.dtype),
    }


def _settings(solver: Solver) -> dict[str, Any]:
    """Return what was said in ``setup``, of which no step changes anything, for JSON."""
    parameters = inspect.signature(type(solver).setup).parameters.values()
    left_out = _GIVEN | _LIMITS | _MANNERS
    # what is None by default is worked out: the step length of ISTA, by a random start
    names = {p.name for p in parameters if p.default is not None} - left_out
    said = {name: vars(solver)[name] for name in names & vars(solver).keys()}
    plain = (bool, int, float, complex, str, np.generic)
    return {name: str(value) for name, value in said.items() if isinstance(value, plain)}


def _require_same(solver: Solver, state: dict[str, Any]) -> None:
    """Raise if a checkpoint is of another problem than a solver was set up for."""
    here = {**_problem(solver), **_settings(solver)}
    written = state["problem"]
    other = [name for name in written.keys() & here.keys() if written[name] != here[name]]
    if other:
        raise ValueError(
            "the checkpoint is of another problem: "
            + "; ".join(f"{name} {written[name]}, here {here[name]}" for name in sorted(other))
        )
    if _is_lazy(solver) and not state["lazy"]:
        raise ValueError("the checkpoint is of NumPy vectors, and y is a dask array")


def _is_lazy(solver: Solver) -> bool:
    return not isinstance(solver.y, np.ndarray)


class _Checkpoint(Callbacks):
    """What :func:`checkpoint` gives to a solver."""

    def __init__(self, zarr: Any, store: Any, every: int) -> None:
        self._zarr, self._store, self._every = zarr, store, every
        self._reached = False

    def __call__(self, x: Any) -> None:
        """Refuse to be the ``callback`` of a solver's function, which is given no solver."""
        raise TypeError(
            "checkpoint() is for the callbacks of a solver's class: solver = CGLS(Op); "
            "solver.callbacks = [checkpoint(...)]; solver.solve(y)"
        )

    def on_setup_begin(self, solver: Solver, x0: Any) -> None:
        """Refuse solvers and stores before any work."""
        self._prepare(solver)

    def on_run_begin(self, solver: Solver, x: Any) -> None:
        """Likewise, of a solver that was given this after its ``setup``."""
        self._prepare(solver)

    on_step_begin = on_run_begin

    def on_step_end(self, solver: Solver, x: Any) -> None:
        """Write a checkpoint where one is due."""
        if solver.iiter % self._every == 0:
            _write(self._zarr, self._store, solver, steps_of(solver).complete or (x,))

    def _prepare(self, solver: Solver) -> None:
        if isinstance(solver, _WITHOUT_STEPS):
            raise TypeError(
                f"{type(solver).__name__} has no steps to go on from: those that it takes are of "
                "another solver, whose data it makes. Solve with that one (CGLS, LSQR) to have "
                "checkpoints"
            )
        if not self._reached:
            _require_own(self._zarr, self._store)
            _reach(self._zarr, self._store)
            self._reached = True


# ---- writing -------------------------------------------------------------------------------


def _reach(zarr: Any, store: Any) -> None:
    """Begin a store, from here and from each worker of a cluster.

    Workers that write elsewhere, into a copy of what is in this process's memory or onto a disk
    of their own, would leave checkpoints without blocks.
    """
    root = zarr.open_group(store, mode="a")
    root.attrs.update(_MARK)
    client = client_in_use()
    if client is None:
        return
    key = f"reached-{uuid.uuid4().hex}"
    workers = client.run(_written_by_a_worker, store, key)
    there = {str(name) for name in root[key]} if key in root else set()
    missing = [worker for worker, name in workers.items() if name not in there]
    if key in root:
        del root[key]
    if missing:
        raise ValueError(
            f"what {', '.join(missing)} writes to the store {_name(store)} does not come here: on "
            "a cluster give a path, or a store, that its workers and this process share"
        )


def _written_by_a_worker(store: Any, key: str) -> str:
    import zarr

    name = uuid.uuid4().hex
    zarr.open_group(store, mode="a", path=f"{key}/{name}")
    return name


class _NotWritable(TypeError):
    """What `setup` makes and no step changes: operators, functions, modules."""


def _write(zarr: Any, store: Any, solver: Solver, iterate: tuple[Any, ...]) -> None:
    vectors: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    for name, value in vars(solver).items():
        found: dict[str, Any] = {}
        if name not in _GIVEN:
            with suppress(_NotWritable):
                attributes[name] = _encoded(value, name, found)
                vectors.update(found)
    complete, _ = _complete(zarr, store)
    latest: dict[str, Any] = complete[0][1] if complete else {"slot": None, "serial": 0}
    slot = next(s for s in _SLOTS if s != latest["slot"])
    state = {
        "problem": {**_problem(solver), **_settings(solver)},
        "lazy": _is_lazy(solver),
        "slot": slot,
        "serial": latest["serial"] + 1,
        "attributes": attributes,
        "iterate": _encoded(list(iterate), "iterate", vectors),
    }
    _persist([v for v in vectors.values() if isinstance(v, DispatchArray)])
    group = _emptied(zarr, store, slot)
    _store(zarr, group, vectors)
    state["stored"] = {name: int(array.nbytes_stored()) for name, array in group.arrays()}
    try:
        _check_arrays(group, state["stored"])
    except _Incomplete as error:  # of workers that came after the first step
        raise OSError(f"after writing a checkpoint to {_name(store)}, {error}") from error
    text = json.dumps(state)
    # the last thing written: without it the slot does not count
    group.attrs.update({"state": text, "digest": _digest(text)})


def _encoded(value: Any, name: str, vectors: dict[str, Any]) -> Any:
    """Return `value` for JSON, with its arrays put into `vectors`."""
    value = lift(value)
    if isinstance(value, DispatchArray) and value.ndim == 0:
        if value.value is None and session.get() is None:
            value.settle(value.compute())
        value = value.read("a checkpoint")
    if isinstance(value, DispatchArray):
        vectors[name] = value
        cuts = [
            [piece.shape, None] if isinstance(piece, Zeros) else [piece.shape, piece.chunks]
            for piece in value.pieces
        ]
        return {"vector": name, "shape": value.shape, "dtype": value.dtype.str, "pieces": cuts}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        vectors[name] = value
        return {"array": name}
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return {"scalar": value.tobytes().hex(), "dtype": value.dtype.str}
    if isinstance(value, (list, tuple)):
        items = [_encoded(v, f"{name}.{i}", vectors) for i, v in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise _NotWritable(type(value).__name__)


def _persist(boxes: list[DispatchArray]) -> None:
    """Hold in memory what a step has left lazy, so that the next one does not do it again."""
    pieces = (p for box in boxes for p in box.pieces)
    lazy = {p.name: p for p in pieces if not isinstance(p, Zeros) and not pc.in_memory(p)}
    done = dict(zip(lazy, dask.persist(*lazy.values()), strict=True)) if lazy else {}
    for box in boxes:
        box.replace([p if isinstance(p, Zeros) else done.get(p.name, p) for p in box.pieces])


def _emptied(zarr: Any, store: Any, slot: str) -> Any:
    root = zarr.open_group(store, mode="a")
    if slot in root:
        # a slot that is half deleted must not count either
        root[slot].attrs["state"] = ""
    return root.create_group(slot, overwrite=True)


def _store(zarr: Any, group: Any, vectors: dict[str, Any]) -> None:
    """Write NumPy arrays from here, and dask arrays from the workers in one execution."""
    sources: list[DaskArray] = []
    targets: list[Any] = []
    for name, value in vectors.items():
        if isinstance(value, np.ndarray):
            _new_array(zarr, group, name, value, value.shape)[...] = value
            continue
        for i, piece in enumerate(value.pieces):
            if not isinstance(piece, Zeros):
                # two blocks must not meet in one chunk of the store, whose chunks are all alike
                size = tuple(max(axis) for axis in piece.chunks)
                sources.append(piece.rechunk(size))
                targets.append(_new_array(zarr, group, f"{name}.{i}", piece, size))
    if sources:
        da.store(sources, targets, lock=False)


def _new_array(zarr: Any, group: Any, name: str, like: Any, chunks: tuple[int, ...]) -> Any:
    return group.create_array(
        name,
        shape=like.shape,
        dtype=like.dtype,
        chunks=tuple(max(n, 1) for n in chunks),
        compressors=[zarr.codecs.Crc32cCodec()],
        config={"write_empty_chunks": True},  # what is missing was not written
    )


# ---- reading -------------------------------------------------------------------------------


class _Incomplete(Exception):
    """What a slot lacks."""


def _complete(zarr: Any, store: Any) -> tuple[list[tuple[Any, dict[str, Any]]], list[str]]:
    """Return the complete slots of a store, the newest first, and what others lack."""
    found, reasons = [], []
    for slot in _SLOTS:
        try:
            group, state = _opened(zarr, store, slot)
            _check_arrays(group, state["stored"])
            found.append((group, state))
        except _Incomplete as error:
            reasons.append(f"in {slot!r} {error}")
    return sorted(found, key=lambda each: -each[1]["serial"]), reasons


def _read(group: Any, state: dict[str, Any], lazy: bool) -> tuple[dict[str, Any], Any]:
    """Return the attributes of a solver and its iterate, with all blocks in memory."""
    attributes = {
        name: _decoded(value, group, lazy)
        for name, value in state["attributes"].items()
        if name not in _LIMITS
    }
    iterate = _decoded(state["iterate"], group, lazy)
    boxes: list[DispatchArray] = []
    walk([attributes, iterate], is_box, boxes.append)
    _persist(boxes)
    return attributes, iterate


def _opened(zarr: Any, store: Any, slot: str) -> tuple[Any, dict[str, Any]]:
    try:
        group = zarr.open_group(store, path=slot, mode="r")
    except FileNotFoundError:
        raise _Incomplete("nothing was written") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _Incomplete(f"the group is damaged ({error})") from error
    text = group.attrs.get("state")
    if not text:
        raise _Incomplete("the state is missing: it was not written to its end")
    if not isinstance(text, str) or group.attrs.get("digest") != _digest(text):
        raise _Incomplete("the state is damaged")
    return group, json.loads(text)


def _check_arrays(group: Any, stored: dict[str, int]) -> None:
    """Compare what there is of each array with what was written."""
    for name, n_bytes in stored.items():
        try:
            array = group[name]
            missing, found = array.nchunks - array.nchunks_initialized, int(array.nbytes_stored())
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise _Incomplete(f"the array {name!r} is missing or damaged") from error
        if missing:
            raise _Incomplete(f"{missing} of {array.nchunks} chunks of {name!r} are missing")
        if found != n_bytes:
            raise _Incomplete(f"{name!r} has {found} bytes instead of {n_bytes}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _decoded(value: Any, group: Any, lazy: bool) -> Any:
    """Return what :func:`_encoded` was given; dask vectors as boxes, or NumPy if not `lazy`."""
    if not isinstance(value, dict):
        return value
    if "vector" in value:
        box = _box(value, group)
        return box if lazy else box.compute()
    if "array" in value:
        return group[value["array"]][...]
    if "scalar" in value:
        return np.frombuffer(bytes.fromhex(value["scalar"]), dtype=value["dtype"])[0]
    if "complex" in value:
        return complex(*value["complex"])
    ((kind, items),) = value.items()
    made = [_decoded(item, group, lazy) for item in items]
    return made if kind == "list" else tuple(made)


def _box(value: dict[str, Any], group: Any) -> DispatchArray:
    pieces: list[Any] = []
    dtype = np.dtype(value["dtype"])
    for i, (shape, chunks) in enumerate(value["pieces"]):
        if chunks is None:
            pieces.append(Zeros(tuple(shape), dtype))
        else:
            # a name of its own: the next checkpoint but one has other values in the same place
            stored = group[f"{value['vector']}.{i}"]
            name = f"checkpoint-{uuid.uuid4().hex}"
            sizes = tuple(tuple(axis) for axis in chunks)
            pieces.append(da.from_array(stored, chunks=sizes, name=name))
    return DispatchArray(pieces, tuple(value["shape"]), dtype)
