"""Running an unmodified PyLops operator on blocks: alone, with a halo, along whole axes, whole."""

from __future__ import annotations

import functools
import itertools
import math
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import pylops
import scipy.sparse
from dask._task_spec import DataNode, List, Task, TaskRef
from dask.array.core import Array as DaskArray
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from pylops import LinearOperator

from pylops_dispatch.alignment import aligned
from pylops_dispatch.array import is_lazy, session, source
from pylops_dispatch.blas_threads import one_blas_thread
from pylops_dispatch.copying import arrays_within, with_own_settings
from pylops_dispatch.halos import (
    Extended,
    Surroundings,
    extended,
    halo_faces,
    shifted,
    surroundings,
)
from pylops_dispatch.namespace import inside_block
from pylops_dispatch.naming import layer_name, name_of
from pylops_dispatch.notes import noted
from pylops_dispatch.operators import (
    all_parts,
    changes,
    duplicate,
    for_tasks,
    is_pylops,
    kept_of,
    lazy_attributes,
    numpy_arrays_of,
    rebuilt,
    resized,
    runs_users_code,
    with_changes,
)
from pylops_dispatch.pieces import (
    Chunks,
    Shape,
    identity,
    keep_for,
    largest_block,
    one_block,
    samples,
    taking,
)
from pylops_dispatch.placing import is_large, operator_on_cluster, runs_here_at_once
from pylops_dispatch.policy import announce_whole
from pylops_dispatch.programs import fused_tasks
from pylops_dispatch.spectra import length_of_transform
from pylops_dispatch.turns import Turn, in_turn, out_of_own_memory, turns_of
from pylops_dispatch.whole import with_arrays, without_arrays
from pylops_dispatch.workers import client_in_use, in_task

if TYPE_CHECKING:
    from pylops_dispatch.rules.table import Rule

Fit = Callable[[Any], None]

# blocks are worked on in tiles of this size: temporaries stay in the cache, and smaller tiles
# lose to the interpreter lock; Fourier transforms have more temporaries
_TILE_BYTES = 2 << 20
_TRANSFORM_BYTES = 1 << 20

# in a solve, tasks read neighbouring blocks up to this size whole: larger ones, if they are not
# kept anyway, would wait in memory for the last of their neighbours; on a cluster some of them are
# sent to another worker, which takes about as long as one more task if they are small
_SURROUNDED_BYTES = 4 << 20
_SURROUNDED_ON_CLUSTER = 1 << 20


# ---- an operator in a graph --------------------------------------------------------------


def embed(op: Any) -> Any:
    """Return an operator as an argument of tasks: with large arrays, as a key of its own."""
    tree = list(all_parts(op))
    within = client_in_use() is not None
    # PyLops's own operators have their arrays as attributes
    closer = within or any(map(runs_users_code, tree))
    held = arrays_within(op) if closer else numpy_arrays_of(tree)
    if not is_large(sum(array.nbytes for array in held)):
        return op
    key = f"operator-{name_of(op)}"
    if within:  # in the name of the operator, objects count by identity
        key += f"-{tokenize([samples(array) for array in held])}"
    largest = max(held, key=lambda array: array.nbytes)
    return operator_on_cluster(key, op, largest)


def with_operators(
    function: Callable[..., Any], **operators: Any
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return a function for blockwise that has operators, and those that are keys of their own.

    dask looks through the arguments that blockwise has by name (``normalize_arg``), not through
    those that the function has already.
    """
    apart = {name: op for name, op in operators.items() if isinstance(op, Delayed)}
    held = {name: op for name, op in operators.items() if name not in apart}
    return functools.partial(function, **held), apart


def run(
    cls: type | None,
    op: Any,
    x: Any,
    adjoint: bool,
    limit: bool = False,
    foreign: bool | None = None,
) -> Any:
    """Apply the operator, as `cls` or else itself defines it, to `x`, and return a vector.

    With `limit`, for one of several blocks, BLAS has one thread. What :func:`runs_foreign_code`
    says of the operator is asked here unless it is given.
    """
    blas = one_blas_thread() if limit else nullcontext()
    with blas, inside_block(), noted(op, "_rmatvec" if adjoint else "_matvec", x):
        op, x = as_foreign_code_takes(op, x.ravel(), x, foreign)
        return method_of(cls, op, adjoint)(x)


def runs_foreign_code(op: Any) -> bool:
    """Whether a block may meet code that is not PyLops's, or what is told to write into it."""
    return any(runs_users_code(part) or _overwrites(part) for part in all_parts(op))


def _overwrites(op: Any) -> bool:
    """Whether SciPy is told that it may use its input for what it works out (``FFT``)."""
    return bool(vars(op).get("_kwargs_fft", {}).get("overwrite_x"))


def as_foreign_code_takes(
    op: Any, x: Any, block: Any, foreign: bool | None = None
) -> tuple[Any, Any]:
    """Return an operator and what it is applied to so that any code of a user may run on them.

    Parameters
    ----------
    op : LinearOperator
        What runs.
    x : numpy.ndarray
        What it runs on.
    block : numpy.ndarray
        What that was made of, which other tasks may read at the same time: it is not written to.
    foreign : bool, optional
        What :func:`runs_foreign_code` says of `op`.

    Returns
    -------
    op : LinearOperator
        With arrays that SciPy takes, also where they came over a network.
    x : numpy.ndarray
        Likewise; a copy of `block` where code may write into it.
    """
    foreign = runs_foreign_code(op) if foreign is None else foreign
    if in_task():
        # PyLops's own operators call none of SciPy's functions that refuse what is not aligned
        op, x = aligned(op) if foreign else op, aligned(x)
    # no flag would do: what SciPy calls of LAPACK writes into arrays that are read-only
    return op, x.copy() if foreign and np.may_share_memory(x, block) else x


def method_of(cls: type | None, op: Any, adjoint: bool) -> Callable[[Any], Any]:
    """Return a method of an operator: as `cls` defines it, or else as the object has it."""
    name = "_rmatvec" if adjoint else "_matvec"
    own = cls is None or not isinstance(op, cls)
    if own or (cls is type(op) and name not in vars(op)):
        return getattr(op, name)
    return functools.partial(getattr(cls, name), op)


def taken_apart(op: Any) -> tuple[Any, list[DaskArray]]:
    """Return a copy of an operator for tasks without its dask arrays, and these, each in one block.

    A task puts them back with :func:`filled`.
    """
    arrays: list[DaskArray] = []
    apart = client_in_use() is not None

    def without(part: Any) -> Any:
        new = duplicate(part)
        for name, _ in lazy_attributes(part):
            put = functools.partial(take, name)
            vars(new)[name] = with_changes(vars(part)[name], is_lazy, put)
        return rebuilt(part, without, _with_arrays_as_they_are(new, apart))

    def take(name: str, array: Any) -> _Placeholder:
        arrays.append(source(array).rechunk(-1))
        return _Placeholder(name)

    return without(for_tasks(with_own_settings(op))), arrays


def _with_arrays_as_they_are(op: Any, apart: bool) -> Any:
    """Give a copy of an operator small arrays of its own: others may be changed before it runs.

    What is large goes to a cluster `apart`, and is known by the array that the operator has.
    """
    for name, value in vars(op).items():
        if type(value) is np.ndarray and not (apart and is_large(value.nbytes)):
            vars(op)[name] = taking.get()(value)
    return op


def filled(template: Any, arrays: Sequence[Any]) -> Any:
    """Return a copy of a tree of operators with `arrays` where the placeholders are."""
    return _refilled(template, duplicate, arrays) if arrays else template


def whole_arguments(arrays: Sequence[DaskArray], first: int) -> list[Any]:
    """Return arguments of blockwise for arrays that every block needs whole."""
    arguments: list[Any] = []
    for array in arrays:
        arguments += [array, tuple(range(first, first + array.ndim))]
        first += array.ndim
    return arguments


_FAN_IN = 8  # blocks that one task adds
_LARGE = 1 << 20  # bytes of blocks of which one task adds two, so that few wait for others


def add_up(partial: DaskArray, axes: tuple[int, ...], dtype: np.dtype[Any]) -> DaskArray:
    """Add blocks of one sample along `axes`, in a tree, and drop these axes.

    ``da.reduction`` would first concatenate the blocks, which costs more than adding them.
    """
    if not axes:
        return partial
    kept = [axis for axis in range(partial.ndim) if axis not in axes]
    name = f"sum-{tokenize(partial.name, axes)}"
    graph: dict[Any, Any] = {}
    for index in np.ndindex(*(partial.numblocks[axis] for axis in kept)):
        where = dict(zip(kept, index, strict=True))
        terms = [
            TaskRef((partial.name, *(where.get(a, i) for a, i in enumerate(found))))
            for found in np.ndindex(
                *(1 if a in where else n for a, n in enumerate(partial.numblocks))
            )
        ]
        level, count = 0, 2 if largest_block(partial) > _LARGE else _FAN_IN
        while len(terms) > count:
            groups = [terms[i : i + count] for i in range(0, len(terms), count)]
            keys = [(f"{name}-{level}", *index, number) for number in range(len(groups))]
            for key, group in zip(keys, groups, strict=True):
                graph[key] = Task(key, _added, List(*group))
            terms, level = [TaskRef(key) for key in keys], level + 1
        key = (name, *index)
        graph[key] = Task(key, _squeezed_sum, axes, List(*terms))
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[partial])
    return DaskArray(layers, name, tuple(partial.chunks[axis] for axis in kept), dtype=dtype)


def _added(blocks: list[Any]) -> Any:
    if len(blocks) == 1:
        return blocks[0]
    total = blocks[0] + blocks[1]
    for block in blocks[2:]:
        total += block
    return total


def _squeezed_sum(axes: tuple[int, ...], blocks: list[Any]) -> Any:
    return _added(blocks).squeeze(axes)


def single(block: Any) -> Any:
    """Return the only block in the nested lists that blockwise makes of contracted axes."""
    while isinstance(block, list):
        (block,) = block
    return block


# ---- local operators ---------------------------------------------------------------------


def apply_local(
    cls: type,
    template: Any,
    x: DaskArray,
    depth: Shape,
    coefficients: Sequence[DaskArray],
    adjoint: bool,
    dtype: np.dtype[Any],
    named: tuple[str, str],
    whole_axes: Collection[int] = (),
) -> DaskArray:
    """Apply an operator that needs a halo of `depth` on each block of `x`.

    Parameters
    ----------
    cls : type
        Class whose ``_matvec`` runs.
    template : LinearOperator
        The operator without its coefficients.
    x : dask.array.Array
        Input, of the operator's dims.
    depth : tuple of int
        Halo for each axis.
    coefficients : sequence of dask.array.Array
        Arrays that the operator multiplies by, in the order of :func:`leaves`, with the chunks
        of `x` along each axis where their length is not one.
    adjoint : bool
        Whether to apply the adjoint.
    dtype : dtype
        Of the result.
    named : tuple of str
        Names of the operator, and of `template`.
    whole_axes : collection of int, optional
        Axes that are one block, and stay whole in the tiles that a block is worked on in.

    Returns
    -------
    dask.array.Array
        With the chunks of `x`.
    """
    axes = tuple(range(x.ndim))
    template, whole = taken_apart(template)
    arrays = (x, *coefficients)
    notes = set().union(*map(vars, all_parts(template)))
    settings = {
        "cls": cls,
        "located": "_place" in notes,
        "transformed": "_tile" in notes,
        "depth": depth,
        "whole_axes": tuple(whole_axes),
        "adjoint": adjoint,
        "out_dtype": dtype,
        "limit": x.npartitions > 1,
    }
    embedded = embed(template)
    if embedded is template and not settings["located"] and not whole and not coefficients:
        settings["remembered"] = f"{_PROCESS}-{named[1]}"
    name = layer_name(cls, adjoint, named[0], x.name, [c.name for c in coefficients], depth)
    limit = _SURROUNDED_BYTES if runs_here_at_once() else _SURROUNDED_ON_CLUSTER
    if any(depth) and session.get() is not None and max(map(largest_block, arrays)) <= limit:
        return _apply_among_neighbours(name, embedded, arrays, whole, settings)
    arguments, layout = with_halos(arrays, depth)
    if settings["located"]:
        for axis in axes:
            arguments += [starts(x.chunks[axis]), (axis,)]
    arguments += whole_arguments(whole, x.ndim)
    local_block = functools.partial(_local_block, layout=layout, **settings)
    function, apart = with_operators(local_block, template=embedded)
    return da.blockwise(
        function,
        axes,
        *arguments,
        name=name,
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * x.ndim, dtype=dtype),
        **apart,
    )


def _apply_among_neighbours(
    name: str,
    template: Any,
    arrays: Sequence[DaskArray],
    whole: Sequence[DaskArray],
    settings: dict[str, Any],
) -> DaskArray:
    """Apply a local operator in tasks that read whole neighbouring blocks."""
    x = arrays[0]
    dtype, depth = settings["out_dtype"], settings["depth"]
    held = [TaskRef((a.name, *(0,) * a.ndim)) for a in whole]
    edges = [np.cumsum([0, *c]) for c in x.chunks]
    dependencies: list[Any] = [*arrays, *whole]
    if isinstance(template, Delayed):
        dependencies.append(template)
        template = TaskRef(template.key)
    graph: dict[Any, Any] = {}
    neighbours = (surroundings(a, depth, x.numblocks) for a in arrays)
    for index, *around in zip(np.ndindex(*x.numblocks), *neighbours, strict=True):
        key = (name, *index)
        start = tuple(int(e[i]) for e, i in zip(edges, index, strict=True))
        keys = [found for found, _ in around]
        graph[key] = Task(
            key, _block_among_neighbours, settings, [how for _, how in around], start, template,
            *itertools.chain(*keys), *held,
        )  # fmt: skip
    layers = HighLevelGraph.from_collections(name, graph, dependencies=dependencies)
    meta = np.empty((0,) * x.ndim, dtype=dtype)
    return DaskArray(layers, name, x.chunks, meta=meta)


def _block_among_neighbours(
    settings: dict[str, Any], around: list[Surroundings], start: Shape, template: Any, *blocks: Any
) -> Any:
    remaining = iter(blocks)
    arrays = [how.filled(list(itertools.islice(remaining, len(how.places)))) for how in around]
    template = filled(template, list(remaining))
    return _in_tiles(arrays, template, start, **settings)


def samples_of_neighbours(task: Any) -> dict[Any, int]:
    """Return how many samples a task reads of blocks that are not its own, by their keys."""
    inner, keys = fused_tasks(task)
    if inner:
        read = [(k, n) for part in inner for k, n in samples_of_neighbours(part).items()]
        return {keys.get(key, key): n for key, n in read}
    if not isinstance(task, Task) or task.func is not _block_among_neighbours:
        return {}
    _, around, _, _, *blocks = task.args
    found: dict[Any, int] = {}
    remaining = iter(blocks)
    for how in around:
        for number, (_, place) in enumerate(how.places):
            key = next(remaining).key
            if number:
                found[key] = math.prod(s.stop - s.start for s in place)
    return found


def with_halos(
    arrays: Sequence[DaskArray], depth: Sequence[int]
) -> tuple[list[Any], list[list[int]]]:
    """Return arguments of blockwise for arrays and their halos, and what :func:`laid_out` needs."""
    axes = tuple(range(arrays[0].ndim))
    arguments: list[Any] = []
    layout = []
    for array in arrays:
        faces = halo_faces(array, depth)
        layout.append([axis for axis, _, _ in faces])
        for item in (array, *(f for _, *pair in faces for f in pair)):
            arguments += [item, axes]
    return arguments, layout


def laid_out(remaining: Iterator[Any], layout: list[list[int]]) -> list[Extended]:
    """Return the blocks of arrays with their halos, from the arguments of a task."""
    arrays = []
    for axes in layout:
        block = next(remaining)
        arrays.append(extended(block, axes, [next(remaining) for _ in range(2 * len(axes))]))
    return arrays


def _local_block(
    *blocks: Any,
    template: Any,
    layout: list[list[int]],
    located: bool,
    **settings: Any,
) -> Any:
    remaining = iter(blocks)
    arrays = laid_out(remaining, layout)
    start = tuple(int(next(remaining)[0]) if located else 0 for _ in arrays[0].shape)
    template = filled(template, [single(block) for block in remaining])
    return _in_tiles(arrays, template, start, **settings)


def _in_tiles(
    arrays: list[Extended],
    template: Any,
    start: Shape,
    cls: type,
    transformed: bool,
    depth: Shape,
    whole_axes: Shape,
    adjoint: bool,
    out_dtype: Any,
    limit: bool,
    located: bool = False,
    remembered: str | None = None,
) -> Any:
    """Run a local operator on a block that starts at `start`, tile by tile."""
    x = arrays[0]
    block, core = x.parts[0]
    origin = tuple(s - c.start for s, c in zip(start, core, strict=True))
    lengths = tile_lengths(block.shape, depth, block.itemsize, whole_axes, transformed)
    corners = [range(c.start, c.stop, max(1, n)) for c, n in zip(core, lengths, strict=True)]
    foreign = runs_foreign_code(template)
    out = None
    for corner in itertools.product(*corners):
        tile = tuple(
            slice(s, min(s + n, c.stop)) for s, n, c in zip(corner, lengths, core, strict=True)
        )
        # the tile with its own halo, as far as there are samples
        where = tuple(
            slice(max(t.start - d, 0), min(t.stop + d, n))
            for t, d, n in zip(tile, depth, x.shape, strict=True)
        )
        inner = tuple(
            d > 0 and d <= t.start and t.stop + d <= n
            for t, d, n in zip(tile, depth, x.shape, strict=True)
        )
        held = [
            a.window(
                tuple(w if m > 1 else slice(0, m) for w, m in zip(where, a.shape, strict=True))
            )
            for a in arrays[1:]
        ]
        window = x.window(where)
        place = tuple(o + w.start for o, w in zip(origin, where, strict=True))
        if remembered is None:
            op = fitted(template, window.shape, held, place, inner)
        else:
            op = _fitted_once(remembered, template, window.shape, inner)
        y = run(cls, op, window, adjoint, limit, foreign)
        y = y.reshape(window.shape)[shifted(tile, where)]
        if tile == core:
            return y
        if out is None:
            out = np.empty_like(y, shape=x.parts[0][0].shape, order="C")
        out[shifted(tile, core)] = y
    return np.empty(x.parts[0][0].shape, dtype=out_dtype) if out is None else out


def starts(sizes: tuple[int, ...]) -> DaskArray:
    """Return where the blocks of an axis start, one number for each block."""
    return da.from_array(np.cumsum([0, *sizes[:-1]]), chunks=1)


def tile_lengths(
    shape: Shape,
    depth: Shape,
    itemsize: int,
    whole_axes: Collection[int] = (),
    transformed: bool = False,
) -> Shape:
    """Return the shape of the tiles that a block is worked on in.

    Axes without a halo are cut first, then those with one, which are kept alike; the last axis,
    contiguous in memory, last of all if it has none. A tile is at least eight times as long as
    the halo of an axis. Tiles that are `transformed` are cut so that a tile with its halo has a
    length that Fourier transforms are fast for.
    """
    lengths = list(shape)
    last = len(shape) - 1
    room = min(_TRANSFORM_BYTES, _TILE_BYTES) if transformed else _TILE_BYTES

    def excess() -> float:
        return math.prod(lengths) * itemsize / room

    if not any(depth) or excess() < 4 / 3:
        return shape
    for axis in range(last):
        if not depth[axis] and axis not in whole_axes:
            lengths[axis] = max(1, int(lengths[axis] / max(excess(), 1)))
    for group in ([a for a, d in enumerate(depth) if d], [last]):
        while excess() > 4 / 3:
            long = [
                a for a in group if a not in whole_axes and lengths[a] >= 2 * max(8 * depth[a], 1)
            ]
            if not long:
                break
            longest = max(long, key=lambda a: lengths[a] / max(depth[a], 1))
            lengths[longest] = -(-lengths[longest] // 2)
    if transformed:
        for axis, (length, d) in enumerate(zip(lengths, depth, strict=True)):
            if d and length < shape[axis]:
                lengths[axis] = length_of_transform(length + 2 * d) - 2 * d
    return tuple(lengths)


def leaves(op: Any, names: Callable[[Any], tuple[str, ...]]) -> Iterator[tuple[Any, str]]:
    """Yield operator and attribute for all coefficients in a tree of operators, in order."""
    for part in all_parts(op):
        wanted = names(part)
        yield from ((part, name) for name in vars(part) if name in wanted)


def stripped(op: Any, rule: Callable[[Any], Rule | None]) -> Any:
    """Return a copy of a tree of operators with a placeholder for each coefficient.

    What a copy for a tile has to learn about where it lies is noted in it. Where there is nothing
    of either, the tree itself comes back.
    """
    rules = map(rule, all_parts(op))
    if any(r is not None and (r.coefficients or r.place or r.tile) for r in rules):
        return _stripped(op, rule)
    return op


def _stripped(op: Any, rule: Callable[[Any], Rule | None]) -> Any:
    new = rebuilt(op, lambda part: _stripped(part, rule))
    found = rule(op)
    if found is None:
        return new
    for name in arrays_to_cut(op, found):
        value = vars(op)[name]
        flat = not is_pylops(type(op)) and value.shape == (math.prod(op.dims),)
        setattr(new, name, Coefficient(name, flat))
    if found.place is not None:
        new._place = found.place
    if found.tile is not None:
        new._tile = found.tile
    return new


def arrays_to_cut(op: Any, rule: Rule | None) -> tuple[str, ...]:
    """Return the attributes of which each block gets its part; a number, or None, is for all.

    Raises
    ------
    AttributeError
        If the rule names an attribute that the operator has not.
    """
    names = () if rule is None else rule.coefficients
    for name in names:
        require_attribute(op, name)
    return tuple(name for name in names if getattr(vars(op)[name], "ndim", 0))


def require_attribute(op: Any, name: str) -> None:
    """Raise where an operator has not the attribute that a rule names as a coefficient.

    Raises
    ------
    AttributeError
        Also where it has a property of that name: what it is made of is to be named.
    """
    if name in vars(op):
        return
    has = "has no such attribute"
    if hasattr(type(op), name):
        arrays = [name for name, held in vars(op).items() if hasattr(held, "dtype")]
        has = "has a property or a slot of that name: name the attribute that holds the array" + (
            f" ({', '.join(sorted(arrays))})" if arrays else ""
        )
    raise AttributeError(
        f"the rule of {type(op).__name__} names the coefficient {name!r}, and the operator {has}"
    )


class _Placeholder:
    """Stands where an array that every block needs whole goes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __dask_tokenize__(self) -> Any:
        return type(self).__name__, self.name

    def replaced_by(self, array: Any) -> Any:
        """Return what an operator gets in place of this."""
        return array


class Coefficient(_Placeholder):
    """Stands where a block's own part of a coefficient goes, as `flat` as the operator has it."""

    def __init__(self, name: str, flat: bool) -> None:
        super().__init__(name)
        self.flat = flat

    def __dask_tokenize__(self) -> Any:
        return super().__dask_tokenize__(), self.flat

    def replaced_by(self, array: Any) -> Any:
        return array.reshape(-1) if self.flat else array


def fitted(
    template: Any, dims: Shape, coefficients: Sequence[Any], starts: Shape, inner: Sequence[bool]
) -> Any:
    """Return a copy of a tree of local operators for a tile of shape `dims` at `starts`.

    Along `inner` axes both its ends are halo.
    """

    def copy(op: Any) -> Any:
        # a user's code for a vector, element by element, sees one, however that is laid out
        flat = len(op.dims) == 1 and not is_pylops(type(op))
        own = (math.prod(dims),) if flat else dims
        new = resized(op, own, own)
        for note, value in (("_place", starts), ("_tile", inner)):
            tell = vars(new).pop(note, None)
            if tell is not None:
                tell(new, value)
        return new

    return _refilled(template, copy, coefficients, Coefficient)


_PROCESS = uuid.uuid4().hex  # names of operators are good within a process
_fits = threading.local()  # an operator may note something in itself while it runs


def _fitted_once(name: str, template: Any, dims: Shape, inner: tuple[bool, ...]) -> Any:
    """Return a copy for a tile as :func:`fitted` does, or the same as for other tiles like it."""
    known = vars(_fits).setdefault("known", OrderedDict())
    key = name, dims, inner
    if key not in known:
        known[key] = fitted(template, dims, (), (0,) * len(dims), inner)
        if len(known) > 256:
            known.popitem(last=False)
    return known[key]


def _refilled(
    template: Any, copy: Callable[[Any], Any], arrays: Sequence[Any], kind: type = _Placeholder
) -> Any:
    remaining = iter(arrays)

    def is_placeholder(value: Any) -> bool:
        return type(value) is kind

    def replaced(placeholder: Any) -> Any:
        return placeholder.replaced_by(next(remaining))

    def fill(op: Any) -> Any:
        new = copy(op)
        containers = kind is _Placeholder and not is_pylops(type(op))
        for name, value in vars(op).items():
            if type(value) is kind:
                setattr(new, name, replaced(value))
            elif containers and isinstance(value, (dict, list, tuple)):
                setattr(new, name, with_changes(value, is_placeholder, replaced))
        return rebuilt(op, fill, new)

    return fill(template)


# ---- along whole axes --------------------------------------------------------------------


def apply_along(
    cls: type,
    op: Any,
    x: DaskArray,
    dims: Shape,
    dimsd: Shape,
    axes: Sequence[int],
    adjoint: bool,
    dtype: np.dtype[Any],
    fit: Fit | None = None,
) -> DaskArray:
    """Apply an operator whose work lies along `axes`, which become one block, to the others.

    `dims` and `dimsd` are the operator's own (not exchanged for the adjoint); `fit` gives a
    copy for a block whatever else follows from its dims.
    """
    whole = {axis % x.ndim for axis in axes}
    template, held = taken_apart(op)
    x = x.rechunk(dict.fromkeys(whole, -1))
    result = dims if adjoint else dimsd
    chunks: Chunks = tuple((result[a],) if a in whole else c for a, c in enumerate(x.chunks))
    index = tuple(range(x.ndim))
    block = functools.partial(
        along_block, cls=cls, dims=dims, dimsd=dimsd, axes=tuple(whole), adjoint=adjoint, fit=fit,
        limit=x.npartitions > 1,
    )  # fmt: skip
    function, apart = with_operators(block, op=embed(template))
    return da.blockwise(
        function,
        index,
        x,
        index,
        *whole_arguments(held, x.ndim),
        name=layer_name(cls, adjoint, name_of(op), x.name),
        adjust_chunks=dict(enumerate(chunks)),
        dtype=dtype,
        meta=np.empty((0,) * x.ndim, dtype=dtype),
        **apart,
    )


def along_block(
    block: Any,
    *arrays: Any,
    cls: type,
    op: Any,
    dims: Shape,
    dimsd: Shape,
    axes: Shape,
    adjoint: bool,
    fit: Fit | None,
    limit: bool = False,
) -> Any:
    """Apply an operator to a block that holds `axes` whole."""
    part, partd = (
        tuple(d[a] if a in axes else n for a, n in enumerate(block.shape)) for d in (dims, dimsd)
    )
    new = resized(filled(op, [single(array) for array in arrays]), part, partd)
    if fit is not None:
        fit(new)
    y = run(cls, new, block, adjoint, limit)
    return y.reshape(part if adjoint else partd)


# ---- the whole vector --------------------------------------------------------------------


def apply_whole(
    cls: type | None, op: Any, x: DaskArray, adjoint: bool, dtype: np.dtype[Any]
) -> DaskArray:
    """Apply an operator to the whole vector in one lazy task, as `cls` or else itself defines it.

    Dask arrays that the operator holds come in as inputs of the task.
    """
    n = op.shape[1 if adjoint else 0]
    known = name_of(op)
    name = layer_name(cls or type(op), adjoint, known, x.name)
    template, held = whole_copy(op, known)
    template, large = without_arrays(template)
    whole = [x.rechunk(-1), *held, *large]
    given = (cls, dtype, DataNode(None, template), len(large), turns_of(op), adjoint)
    return one_block(name, _whole_block, given, whole, (n,), dtype)


_copies: OrderedDict[str, tuple[str, Any]] = OrderedDict()


def whole_copy(op: Any, name: str) -> tuple[Any, list[DaskArray]]:
    """Return what :func:`taken_apart` does, the same again while the operator has this name.

    What an operator works out when it is first applied, and keeps, is there the next time.
    """
    owner = identity(op)
    known = _copies.get(owner)
    if known is not None and known[0] == name:
        return known[1], []
    template, arrays = taken_apart(op)
    if not arrays:
        keep_for(op, _copies, (name, template))
        # one that refers to the operator itself, by a function it keeps, would never go
        if len(_copies) > 32:
            _copies.popitem(last=False)
    return template, arrays


def _whole_block(
    cls: type | None,
    dtype: Any,
    template: Any,
    large: int,
    turns: tuple[Turn, ...],
    adjoint: bool,
    x: Any,
    *arrays: Any,
) -> Any:
    op = _put_together(template, large, arrays)
    # what was announced holds, whatever the operator makes of the values
    with (
        noted(op, "_rmatvec" if adjoint else "_matvec", x),
        in_turn(turns),
        in_its_own_state(op),
    ):
        # as LinearOperator.matvec, which refuses a result of another size
        op, x = as_foreign_code_takes(op, x, x)
        y = method_of(cls, op, adjoint)(x).reshape(op.shape[1 if adjoint else 0])
        _check_dtype(op, x, y, dtype)
        y = y.astype(dtype, copy=False)
        return out_of_own_memory(y, op) if turns else y


@contextmanager
def in_its_own_state(op: Any) -> Iterator[None]:
    """Take back what a user's code changes of the operator that a task has: it may run again.

    What an operator works out when it is first applied, and keeps, is there the next time.
    """
    before = [kept_of(part) for part in all_parts(op) if runs_users_code(part)]
    try:
        yield
    finally:
        for take_back in [each for kept in before for each in changes(kept)]:
            take_back()


def _check_dtype(op: Any, x: Any, y: Any, announced: np.dtype[Any]) -> None:
    """Raise rather than drop imaginary parts, or what is between whole numbers."""
    if not np.can_cast(y.dtype, announced, "same_kind"):
        raise TypeError(
            f"{type(op).__name__} gives {y.dtype} for {x.dtype}, and {announced} was announced: "
            f"its own dtype is {getattr(op, 'dtype', None)}, and of a large operator, or one whose "
            "dtype depends on the values, nothing more is known before it runs. Give it the dtype "
            "of what it gives (``super().__init__(dtype=...)``), or let its code cast to one"
        )


def _put_together(template: Any, large: int, arrays: Sequence[Any]) -> Any:
    """Return an operator with its dask arrays, and the `large` NumPy arrays that come last."""
    lazy = len(arrays) - large
    return filled(with_arrays(template, arrays[lazy:]), arrays[:lazy])


def solve_explicit(
    op: Any, y: DaskArray, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> DaskArray:
    """Solve with the matrix of an explicit operator in one lazy task, as PyLops does."""
    announce_whole(type(op).__name__, "a dense or sparse matrix is factorised by SciPy")
    template, held = taken_apart(op)
    template, large = without_arrays(template)
    whole = [y.rechunk(-1), *held, *large]
    name = f"solve-{tokenize(name_of(op), y.name, args, kwargs)}"
    given = (DataNode(None, template), len(large), args, kwargs)
    # ``_ColumnLinearOperator`` solves with the matrix that it has columns of
    shape = (op.A.shape[1], *y.shape[1:])
    dtype = _dtype_of_solution(op.A, y.dtype, args, kwargs)
    return one_block(name, _solve_block, given, whole, shape, dtype)


def _dtype_of_solution(matrix: Any, dtype: Any, args: Any, kwargs: Any) -> np.dtype[Any]:
    """Return the dtype of what SciPy gives for a matrix of one column like this one."""
    rows = 1 if matrix.shape[0] == matrix.shape[1] else 2
    column: Any = np.ones((rows, 1), matrix.dtype)
    if scipy.sparse.issparse(matrix):
        column = scipy.sparse.csc_array(column)
    small = pylops.MatrixMult(column)
    return LinearOperator.__truediv__(small, np.ones(rows, dtype), *args, **kwargs).dtype


def _solve_block(template: Any, large: int, args: Any, kwargs: Any, y: Any, *arrays: Any) -> Any:
    op = aligned(_put_together(template, large, arrays))
    return LinearOperator.__truediv__(op, aligned(y), *args, **kwargs)


def values_of_matrix(op: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a method of an explicit operator makes of its whole matrix, in one task."""
    announce_whole(f"{type(op).__name__}.{name}", "SciPy needs the dense matrix")
    template, held = taken_apart(op)
    return dask.delayed(_method_block)(name, template, args, kwargs, *held).compute()


def _method_block(name: str, template: Any, args: Any, kwargs: Any, *arrays: Any) -> Any:
    return getattr(LinearOperator, name)(aligned(filled(template, arrays)), *args, **kwargs)
