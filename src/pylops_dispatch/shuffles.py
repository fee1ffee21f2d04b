"""Rechunking in which workers send each other parts of blocks (``rechunk_p2p``), in a solve.

The scheduler of ``distributed`` knows such a shuffle by a token, which is in the name of the layer,
in its tasks, and in the key of the task that waits for all parts. Two executions of one token
would be taken for the same one.
"""

from __future__ import annotations

import copy
from typing import Any

from dask._task_spec import convert_legacy_graph
from dask.blockwise import Blockwise
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from pylops_dispatch.renaming import with_names


def of_their_own(graph: HighLevelGraph, mark: str) -> tuple[HighLevelGraph, dict[str, str]]:
    """Return a graph whose shuffles no other execution has.

    Parameters
    ----------
    graph : HighLevelGraph
        For a cluster.
    mark : str
        What their names end in from here on.

    Returns
    -------
    graph : HighLevelGraph
        `graph` itself if there are none.
    names : dict
        New names of layers by the old ones.
    """
    from distributed.shuffle._rechunk import P2PRechunkLayer, rechunk_name

    shuffles = {n: layer for n, layer in graph.layers.items() if isinstance(layer, P2PRechunkLayer)}
    names = {name: name + mark for name in shuffles}
    if not names:
        return graph, names
    layers: dict[str, Any] = {}
    for name, layer in graph.layers.items():
        read = graph.dependencies[name]
        if name in shuffles:
            own = copy.copy(layer)
            own.name = names[name]
            own.token = own.name.removeprefix(rechunk_name(""))  # which the name is made of
            own.name_input = names.get(layer.name_input, layer.name_input)
            own._cached_dict = None
            layers[own.name] = own
        elif read & names.keys():
            if not isinstance(layer, Blockwise):
                known = set(layer).union(*(graph.layers[n].get_output_keys() for n in read))
                layer = MaterializedLayer(convert_legacy_graph(layer, known))
            layers[name] = with_names(layer, {**names, name: name})
        else:
            layers[name] = layer
    dependencies = {
        names.get(name, name): {names.get(n, n) for n in read}
        for name, read in graph.dependencies.items()
    }
    return HighLevelGraph(layers, dependencies), names
