"""The graph of one execution in a solver, as it is handed to a scheduler."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import chain, product
from typing import Any, NamedTuple, cast

import dask
import dask.threaded
from dask._task_spec import (
    Alias,
    DataNode,
    GraphNode,
    List,
    Task,
    TaskRef,
    convert_legacy_graph,
    cull,
)
from dask.array.core import Array as DaskArray
from dask.array.optimization import optimize
from dask.blockwise import Blockwise, blockwise_token, optimize_blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from pylops_dispatch.executions import Executions
from pylops_dispatch.layers import in_full
from pylops_dispatch.pieces import array_of
from pylops_dispatch.programs import (
    Setting,
    block_and_samples,
    is_getter,
    is_small_slice,
    joined,
    straightening,
)
from pylops_dispatch.shuffles import of_their_own
from pylops_dispatch.threads import pool_of, run
from pylops_dispatch.workers import client_in_use, number_of_workers


def persist(
    arrays: Sequence[DaskArray],
    mark: str = "",
    keep: Collection[str] = (),
    executions: Executions | None = None,
    placed: AbstractContextManager[None] | None = None,
) -> tuple[DaskArray, ...]:
    """Return arrays in memory, worked out in one execution: ``dask.persist``, for these alone.

    Where dask runs in this process, ``dask.persist`` wraps each graph in expressions first, which
    have nothing to do for arrays and take as long as fusing the tasks of a small step.

    Parameters
    ----------
    arrays : sequence of dask.array.Array
        Lazy.
    mark : str, optional
        On a cluster, what the names of all tasks end in, and of the arrays. Its scheduler may
        still know a task of that name from another execution, where others were fused into it.
    keep : collection of str, optional
        Names of arrays that stay what they are, and all that they are made of.
    executions : Executions, optional
        Those of the same solve: a graph that they had is not optimised again.
    placed : context manager, optional
        In which a cluster is handed its tasks, and not sooner: what of it annotates layers that
        are fused later has to be lists (``dask.blockwise._fuse_annotations``).
    """
    with straight_tasks():
        schedule = dask.base.get_scheduler(collections=arrays)
        graph = HighLevelGraph.merge(*(array.dask for array in arrays))
        if hasattr(getattr(schedule, "__self__", schedule), "persist"):  # a cluster's
            marked = _marked(arrays, in_full(graph), mark, keep)
            with placed or nullcontext():
                return tuple(dask.persist(*marked, optimize_graph=False))
        keys = [list(flatten(array.__dask_keys__())) for array in arrays]
        wanted = list(chain.from_iterable(keys))
        found = _executed(graph, wanted, arrays[0].__dask_optimize__, schedule, executions)
    values = dict(zip(wanted, found, strict=True))
    done = []
    for array, own in zip(arrays, keys, strict=True):
        layer = MaterializedLayer({key: values[key] for key in own})
        held = HighLevelGraph({array.name: layer}, {array.name: set()})
        done.append(array_of(held, array.name, array.chunks, array._meta))
    return tuple(done)


def _executed(
    graph: HighLevelGraph,
    wanted: list[Any],
    optimise: Any,
    schedule: Any,
    executions: Executions | None,
) -> Sequence[Any]:
    """Return the results of a graph, on threads that nobody watches without dask's scheduler."""
    if executions is None or optimise is not _optimised:
        nodes = optimise(in_full(graph), wanted)
    elif pool := pool_of(schedule):
        return run(*executions.in_order(graph, wanted, optimise), pool)
    else:
        nodes = executions.optimised(graph, wanted, optimise)
    return cast(Sequence[Any], schedule(nodes, wanted))


def _marked(
    arrays: Sequence[DaskArray], graph: HighLevelGraph, mark: str, keep: Collection[str]
) -> list[DaskArray]:
    """Return arrays of an optimised graph whose tasks have names of their own."""
    graph, shuffles = of_their_own(graph, mark)
    ready = [DaskArray(graph, shuffles.get(a.name, a.name), a.chunks, meta=a._meta) for a in arrays]
    keys = [list(flatten(array.__dask_keys__())) for array in ready]
    nodes = dict(convert_legacy_graph(arrays[0].__dask_optimize__(graph, keys)))
    # what waits for a shuffle is known by its key
    held = {k for k, node in nodes.items() if isinstance(node, DataNode) or node.block_fusion}
    stay = [
        array.name in keep or not held.isdisjoint(own)
        for array, own in zip(ready, keys, strict=True)
    ]
    fixed = [own for own, stays in zip(keys, stay, strict=True) if stays]
    held.update(cull(nodes, set(chain.from_iterable(fixed))) if fixed else ())
    new = {key: _with_mark(key, mark) for key in nodes if key not in held}
    tasks = {
        new.get(key, key): node.substitute(new, key=new.get(key)) for key, node in nodes.items()
    }
    marked = HighLevelGraph({f"tasks{mark}": tasks}, {f"tasks{mark}": set()})
    names = (a.name if stays else a.name + mark for a, stays in zip(ready, stay, strict=True))
    return [
        DaskArray(marked, name, array.chunks, meta=array._meta)
        for name, array in zip(names, ready, strict=True)
    ]


def _with_mark(key: Any, mark: str) -> Any:
    return (key[0] + mark, *key[1:]) if isinstance(key, tuple) else key + mark


def tasks_on_cluster(nodes: Mapping[Any, Any], keys: Iterable[Any]) -> int:
    """Return how many tasks a cluster runs for a graph that is handed to it.

    Its workers make tasks of data and of other names of tasks too, but not of futures, which are
    no part of the graph, nor of what the cluster has already.
    """
    found = cull(convert_legacy_graph(nodes), set(keys))
    return sum(not getattr(node, "on_cluster", False) for node in found.values())


@contextmanager
def straight_tasks() -> Iterator[None]:
    """Let fused tasks of graphs that are executed here run in an order that is found once.

    dask's ``_execute_subgraph`` orders the tasks that were fused each time that it runs, in
    every block, which costs more than the tasks of a small block; and its element-wise tasks each
    read and write a whole block. A function that the user has set for ``array_optimize`` stays.
    """
    global _users
    with _changing:
        own = _users or dask.config.get("array_optimize", None) is None
        if own and not _users:
            _setting.enter_context(dask.config.set(array_optimize=_optimised))
        _users += bool(own)
    try:
        yield
    finally:
        with _changing:
            _users -= bool(own)
            if own and not _users:
                _setting.close()


# dask's configuration is for all threads: the first that needs the setting makes it, the last
# one takes it back
_changing = threading.Lock()
_setting = ExitStack()
_users = 0


def _optimised(graph: Any, keys: Any, **kwargs: Any) -> dict[Any, Any]:
    """Return what ``dask.array.optimize`` does, found with less work for the blocks of a layer."""
    wanted = set(flatten(keys))
    if isinstance(graph, HighLevelGraph):
        graph = in_full(graph)
    straighten = straightening()
    nodes: Mapping[Any, Any] | None = None
    if isinstance(graph, HighLevelGraph):
        graph = optimize_blockwise(graph, keys=list(wanted))
        layers = graph.layers.values()
        if not any(isinstance(layer, Blockwise) and is_getter(layer.task) for layer in layers):
            tasks: dict[Any, Any] = {}
            for layer in layers:
                tasks.update(_tasks_of_blocks(layer, straighten))
            nodes = cull(convert_legacy_graph(tasks), wanted)
    if nodes is None or any(map(is_getter, nodes.values())):
        # slices of files are fused into one
        nodes = dict(optimize(graph, keys, **kwargs))
    nodes = {key: straighten(node) for key, node in nodes.items()}
    return _joined(_with_slices(_without_names(nodes, wanted), wanted), wanted)


def _without_names(nodes: dict[Any, GraphNode], wanted: set[Any]) -> dict[Any, GraphNode]:
    """Let tasks read what is behind another name, and hold their settings.

    On a cluster each of these would be a task. Whatever else a graph has, a key stands for the
    same task: the scheduler may still know it from another graph.
    """
    names = {key: node.target for key, node in nodes.items() if isinstance(node, Alias)}
    inside: dict[Any, GraphNode] = {k: n for k, n in nodes.items() if isinstance(n, Setting)}
    if not names and not inside:
        return nodes

    def meant(key: Any) -> Any:
        while key in names:
            key = names[key]
        return key

    known = names.keys() | inside.keys()
    return {
        key: node.substitute(
            {read: inside.get(meant(read), meant(read)) for read in node.dependencies & known}
        )
        for key, node in nodes.items()
        if key not in known or key in wanted
    }


def _tasks_of_blocks(
    layer: Layer, straighten: Callable[[GraphNode], GraphNode]
) -> Mapping[Any, Any]:
    """Return the tasks of a layer; those of blocks that lie one on another in one go.

    ``Blockwise`` itself puts each key into a task in a step of its own.
    """
    if not isinstance(layer, Blockwise) or layer.is_materialized() or layer.io_deps:
        return layer
    place = {index: number for number, index in enumerate(layer.output_indices)}
    task: GraphNode = layer.task
    inputs: dict[Any, _Input] = {}
    for number, (name, indices) in enumerate(layer.indices):
        token = blockwise_token(number)
        if indices is None:
            node: Any = name
            if not isinstance(node, (GraphNode, TaskRef)):
                node = DataNode(None, node)
            task = task.substitute({token: node})
        elif all(a in place or (layer.dims[a] == 1 and not layer.concatenate) for a in indices):
            counts = zip(indices, layer.numblocks[str(name)], strict=True)
            axes = [None if n == 1 else place[a] for a, n in counts]
            inputs[token] = _Input(name, axes, sum(a not in place for a in indices))
        else:
            return layer
    task = cast(Task, straighten(task))
    found = [inputs.get(a.key) if isinstance(a, TaskRef) else None for a in task.args]
    if len(task.dependencies & inputs.keys()) != len({id(read) for read in found if read}):
        return layer  # some are read within other arguments
    made = {}
    for block in product(*(range(layer.dims[a]) for a in place)):
        args = [
            argument if read is None else read.block(block)
            for argument, read in zip(task.args, found, strict=True)
        ]
        key = (layer.output, *block)
        made[key] = Task(key, task.func, *args, _data_producer=task.data_producer, **task.kwargs)
    return made


class _Input(NamedTuple):
    """An array whose blocks a layer reads."""

    name: Any
    axes: list[int | None]  # of the output, which number its blocks; None where it has but one
    lists: int  # around a block: one for each axis that the output does not have

    def block(self, block: tuple[int, ...]) -> Any:
        """Return what stands for the block that a block of the output reads."""
        found: Any = TaskRef((self.name, *(0 if a is None else block[a] for a in self.axes)))
        for _ in range(self.lists):
            found = List(found)
        return found


def _with_slices(nodes: dict[Any, GraphNode], wanted: set[Any]) -> dict[Any, GraphNode]:
    """Let tasks take the small slices of blocks that they alone read, as ``rechunk`` cuts them.

    On a cluster a slice is taken where the block is, and sent instead of it, unless to send all of
    the block costs less than the tasks.
    """
    slices = {key for key, node in nodes.items() if key not in wanted and is_small_slice(node)}
    if slices and client_in_use() is not None:
        slices = _cheaper_than_tasks({key: nodes[key] for key in slices}, number_of_workers())
    if not slices:
        return nodes
    readers = Counter(chain.from_iterable(node.dependencies & slices for node in nodes.values()))
    taken = {k for k in slices if readers[k] == 1 and slices.isdisjoint(nodes[k].dependencies)}
    apart = {key for key, node in nodes.items() if node.block_fusion and node.dependencies & taken}
    taken -= set(chain.from_iterable(nodes[key].dependencies for key in apart))
    found = {}
    for key, node in nodes.items():
        if key not in taken:
            own = node.dependencies & taken
            found[key] = joined([*map(nodes.__getitem__, own), node]) if own else node
    return found


_SENT = 1 << 17  # bytes that are sent in the time that a cluster takes for a task


def _cheaper_than_tasks(slices: Mapping[Any, GraphNode], workers: int) -> set[Any]:
    """Return the slices of blocks that may as well be sent to all workers: these are small.

    Each worker gets a block once. A sample is taken for one of complex128.
    """
    blocks = {key: block_and_samples(node) for key, node in slices.items()}
    pieces = Counter(block for block, _ in blocks.values())
    samples: Counter[Any] = Counter()
    for block, n in blocks.values():
        samples[block] += n
    more = (workers - 1) ** 2 / workers * 16  # of each sample of a block that lies on one of them
    return {
        key for key, (block, _) in blocks.items() if more * samples[block] <= _SENT * pieces[block]
    }


def _joined(nodes: dict[Any, GraphNode], wanted: set[Any]) -> dict[Any, Any]:
    """Join tasks that can only run one after another: dask does, but for those that read data too.

    Handing a task to a thread takes as long as to work on a small block, and dask leaves another
    task, an alias, for the name of what it fused. What else the later one reads is data, or is
    wanted itself.
    """
    reads = {
        key: [k for k in node.dependencies if not isinstance(nodes.get(k), DataNode)]
        for key, node in nodes.items()
        if not isinstance(node, DataNode)
    }
    readers = Counter(chain.from_iterable(reads.values()))
    before = {}
    for key, found in reads.items():
        others = [k for k in found if k in reads and k not in wanted]
        apart = any(nodes[k].block_fusion for k in (key, *others))
        if len(others) == 1 and readers[others[0]] == 1 and not apart:
            before[key] = others[0]
    inside = set(before.values())
    ready = {key: node for key, node in nodes.items() if key not in inside}
    for last in before.keys() - inside:
        keys = [last]
        while keys[-1] in before:
            keys.append(before[keys[-1]])
        ready[last] = joined([nodes[key] for key in reversed(keys)])
    return ready
