"""Faults made by hand in rules and shims, each of which some test must catch.

``python tests/mutations.py [words of a fault's name]`` puts one fault at a time into a copy of
the package, runs the tests that ought to find it, and prints a table. It fails if a fault is
not found, or if what it changes is not in the code any more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPERATORS = "tests/test_operators.py"
ARRAY = "tests/test_array.py"
SELECTIONS = "tests/test_selections.py"
TILES = "tests/test_tiles.py"
STACKS = "tests/test_stacks.py"
VIEWS = "tests/test_views.py"
FUNCTIONS = "tests/test_functions.py"
OPTIMISATION = "tests/test_optimisation.py"


@dataclass(frozen=True)
class Fault:
    """A change of the code, and where to look for the test that finds it."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str
    chosen: str


FAULTS = [
    Fault(
        "numbers of the step that was optimised in those after it", "executions.py",
        "references.append(TaskRef(number))", "references.append(value)",
        "tests/test_executions.py", "each_graph_is_optimised",
    ),
    Fault(
        "data under other names taken for those of a layer", "executions.py",
        "own = (isinstance(key, tuple) and key[0] == name for key in layer)",
        "own = (True for key in layer)",
        "tests/test_executions.py", "under_other_names",
    ),
    Fault(
        "tasks of a step that keep the names of another", "executions.py",
        "names[name] = own[place]", "names[name] = name",
        "tests/test_executions.py", "names_of_their_own or each_graph",
    ),
    Fault(
        "data of the step that was optimised in those after it", "executions.py",
        "block = held[place][own[place], *key[1:]]",
        "block = known.fixed.setdefault(key, held[place][own[place], *key[1:]])",
        "tests/test_executions.py", "what_a_step_starts_from or blocks_of_a_step",
    ),
    Fault(
        "all costs looked at in each step", "undoing.py",
        "if not any(issubclass(kind, DispatchArray) for kind in set(map(type, items))):",
        "if not items:",
        "tests/test_undoing.py", "costs_become_more",
    ),
    Fault(
        "tasks begun as they become ready on threads", "threads.py",
        "keys = sorted(made, key=places.__getitem__)", "keys = sorted(made, key=str)",
        "tests/test_threads.py", "in_the_order_that_dask",
    ),
    Fault(
        "tasks begun on threads in the order that they became ready in", "threads.py",
        "number = self._ready.pop()", "number = self._ready.pop(0)",
        "tests/test_threads.py", "in_the_order_that_dask or few_results",
    ),
    Fault(
        "values that nothing needs any more kept by an execution on threads", "threads.py",
        "del self._values[read]", "pass",
        "tests/test_threads.py", "few_results",
    ),
    Fault(
        "a step that a user takes half done by an interrupt on its way out", "solvers.py",
        "_put_back_if_interrupted(self) if undone else nullcontext(),", "nullcontext(),",
        "tests/test_steps.py", "become_dask_arrays",
    ),
    Fault(
        "what stands for a vector worked out after an interrupt", "solvers.py",
        "if not self.recording:", "if True:",
        "tests/test_repeating.py", "an_interrupt_while",
    ),
    Fault(
        "an execution on threads over before its last task is noted", "threads.py",
        "while not self._ended.wait(_PATIENCE):",
        "while self._left and not self._ended.wait(_PATIENCE):",
        "tests/test_threads.py", "whenever_the_wait",
    ),
    Fault(
        "keys without a task looked for by threads", "threads.py",
        "if missing:", "if False:",
        "tests/test_distributed.py", "not_in_use_are_told",
    ),
    Fault(
        "one thread for all tasks of an execution", "threads.py",
        "self._call_for(len(self._ready) - 1)", "self._call_for(0)",
        "tests/test_threads.py", "is_called_when",
    ),
    Fault(
        "tasks begun after an error on threads", "threads.py",
        "if self._ended.is_set() or not self._ready:", "if not self._ready:",
        "tests/test_threads.py", "beside_one_that_fails",
    ),
    Fault(
        "an error on threads that keeps what its task has read", "threads.py",
        "error, self._error = self._error, None", "error = self._error",
        "tests/test_threads.py", "keeps_no_blocks",
    ),
    Fault(
        "an execution on threads that goes on when it is interrupted", "threads.py",
        "finally:\n            self._ended.set()\n", "finally:\n            pass\n",
        "tests/test_threads.py", "interrupts_the_wait",
    ),
    Fault(
        "tasks on threads that share context variables", "threads.py",
        "self._context.copy().run(task, given)", "self._context.copy() and task(given)",
        "tests/test_threads.py", "see_the_variables",
    ),
    Fault(
        "those who watch dask not told of executions of a solve", "threads.py",
        "watched = Callback.active or config(", "watched = config(",
        "tests/test_threads.py", "who_watch",
    ),
    Fault(
        "an optimisation of the user's left out", "optimisation.py",
        "if executions is None or optimise is not _optimised:", "if executions is None:",
        "tests/test_executions.py", "user_sets",
    ),
    Fault(
        "no end to trying graphs that are all unlike", "executions.py",
        "if self._vain > _TRIED:", "if False:",
        "tests/test_executions.py", "gives_up",
    ),
    Fault(
        "numbers of several types alike in the structure of tasks", "structures.py",
        "return kind, repr(value) if kind in (float, complex) else value", "return 0, value",
        "tests/test_executions.py", "otherwise_is_not_alike",
    ),
    Fault(
        "functions alike whatever they refer to", "structures.py",
        "                _value(value, names)\n", "                pass\n",
        "tests/test_executions.py", "refer_to_arrays",
    ),
    Fault(
        "layers for repeated graphs given out", "array.py",
        "    box.make_in_full()\n", "",
        "tests/test_executions.py", "leaves_a_solve",
    ),
    Fault(
        "an operator that code changes in a step looked at once", "repeating.py",
        "if looked_at is not None and looked_at.op is not op:", "if False:",
        "tests/test_writing.py", "filled_anew",
    ),
    Fault(
        "applications of an operator in two places counted twice", "repeating.py",
        "{id(p): (place, p, counters(p))", "{place: (place, p, counters(p))",
        "tests/test_repeating.py", "parts_are_counted",
    ),
    Fault(
        "checksums of words whose last bits cancel out", "remembering.py",
        "    words = words ^ (words >> np.uint64(32))\n", "",
        "tests/test_graphs.py", "with_signs",
    ),
    Fault(
        "attributes of what classes of users add to Python's own", "naming.py",
        "return token if type(value) in _EXACTLY else _token_of_more(value, token, owner, within)",
        "return token",
        "tests/test_naming.py", "changed_in_place or look_alike",
    ),
    Fault(
        "numbers named by what their class says of them", "naming.py",
        "return plain.__repr__(value)", "return repr(value)",
        "tests/test_naming.py", "look_alike",
    ),
    Fault(
        "keys of dictionaries named by what they look like", "naming.py",
        "found = ((_token(k, owner, within), _token(v, owner, within)) for k, v in items)",
        "found = ((repr(k), _token(v, owner, within)) for k, v in items)",
        "tests/test_naming.py", "look_alike",
    ),
    Fault(
        "attributes of functions make no difference", "naming.py",
        "    found.update(vars(function))\n", "",
        "tests/test_naming.py", "changed_in_place",
    ),
    Fault(
        "plans that do not know arrays that lie on a cluster", "foresight.py",
        "for name, layer in held.items() if _is_there(layer)}", "for name, layer in ()}",
        "tests/test_planning.py", "hold_arrays_on_the",
    ),
    Fault(
        "each part written is an array on top of the last", "functions/indexing.py",
        "if _write_part(box, index, value):", "if False:",
        "tests/test_parts.py", "grows_with_them_only",
    ),
    Fault(
        "parts that lie across others kept beside them", "functions/parts.py",
        "            del self._written[first, last]\n", "",
        "tests/test_parts.py", "last_one_counts",
    ),
    Fault(
        "parts read of what lay under them", "functions/parts.py",
        "if not self._covered[start:stop].any():", "if True:",
        "tests/test_parts.py", "as_in_numpy or overlap",
    ),
    Fault(
        "blocks that are written in part taken for zeros", "functions/parts.py",
        "and sum(b - a for a, b, _ in places) < along[block[axis]]:", "and not places:",
        "tests/test_parts.py", "as_in_numpy",
    ),
    Fault(
        "parts put at the start of each block", "functions/parts.py",
        "(max(p.start - first, 0),", "(0 * max(p.start - first, 0),",
        "tests/test_parts.py", "as_in_numpy",
    ),
    Fault(
        "ufuncs known by their names", "functions/elementwise.py",
        "which = ufunc.__name__ if own else tokenize(ufunc)",
        "which = ufunc.__name__",
        "tests/test_naming.py", "ufuncs_of_one_name",
    ),
    Fault(
        "vectors with masks taken", "array.py",
        "if issubclass(kind, np.ma.MaskedArray):",
        "if False:",
        "tests/test_errors.py", "blocks_that_are",
    ),
    Fault(
        "vectors of sparse blocks taken", "array.py",
        "if not issubclass(kind, np.ndarray) and not kind",
        "if False and not kind",
        "tests/test_errors.py", "blocks_that_are",
    ),
    Fault(
        "data with masks taken by solvers", "solvers.py",
        "        check_vector(x)\n        return lift(x)",
        "        return lift(x)",
        "tests/test_errors.py", "blocks_that_are",
    ),
    Fault(
        "a plan of a vector with masks", "planning.py",
        "    require_dask(x)\n    check_vector(x)",
        "    require_dask(x)",
        "tests/test_errors.py", "blocks_that_are",
    ),
    Fault(
        "columns of data left as they are", "scipy_solvers.py",
        "given.arguments.update(b=_squeezed(b, A.shape[0]))",
        "pass",
        "tests/test_inversions.py", "column_or_a_row",
    ),
    Fault(
        "first guesses of any shape taken", "scipy_solvers.py",
        '_require_vector(given.arguments["x0"], A.shape[1], "x0")',
        "pass",
        "tests/test_inversions.py", "no_vector_is_refused",
    ),
    Fault(
        "columns as first guesses left as they are", "scipy_solvers.py",
        'x0 = x0.reshape(-1) if getattr(x0, "shape", ()) == (A.shape[1], 1) else x0',
        "pass",
        "tests/test_inversions.py", "column_is_a_first_guess",
    ),
    Fault(
        "steps of any solver in tasks taken for those of the solve", "steps.py",
        "return current is not None and sessions.get(solver) is current",
        "return current is not None",
        "tests/test_solvers.py", "within_tasks",
    ),
    Fault(
        "one block of data for all", "pieces.py",
        "all(map(_is_data, kinds))",
        "any(map(_is_data, kinds))",
        "tests/test_solvers.py", "of_data_and_of_tasks",
    ),
    Fault(
        "operators watched over again", "pieces.py",
        "if place not in _watched:",
        "if key not in table:",
        "tests/test_copying.py", "watched_over_once",
    ),
    Fault(
        "zeros cut as dask was set once", "pieces.py",
        "limit = min(parse_bytes(dask.config.get(\"array.chunk-size\")), LARGE)",
        "limit = LARGE",
        "tests/test_parts.py", "as_dask_is_set",
    ),
    Fault(
        "a thread keeps what it has made", "threads.py",
        "value = None  # what is not",
        "pass  # what is not",
        "tests/test_threads.py", "keeps_nothing_of_its_last",
    ),
    Fault(
        "lists named as tuples", "naming.py",
        'kind = () if isinstance(value, tuple) else ("list",)',
        "kind = ()",
        "tests/test_naming.py", "look_alike",
    ),
    Fault(
        "dictionaries named as their items", "naming.py",
        'return "dict", *found',
        "return tuple(found)",
        "tests/test_naming.py", "look_alike",
    ),
    Fault(
        "half enabled after an interruption", "activation.py",
        "            disable()\n            raise",
        "            raise",
        "tests/test_activation.py", "keeps_enable_from_its_end",
    ),
    Fault(
        "all arrays of a solver taken for vectors", "solvers.py",
        "_convert(solver, _is_vector, lift)",
        "_convert(solver, is_dask, lift)",
        "tests/test_solvers.py", "users_keeps",
    ),
    Fault(
        "only results themselves come out", "solvers.py",
        "return walk(value, is_box, outwards)",
        "return outwards(value) if is_box(value) else value",
        "tests/test_solvers.py", "users_keeps",
    ),
    Fault(
        "callbacks of a user's class see boxes", "solvers.py",
        "of_user = held or type(solver).callback is not Solver.callback",
        "of_user = held",
        "tests/test_solvers.py", "users_keeps",
    ),
    Fault(
        "callbacks see boxes in the solver that they are of", "solvers.py",
        "for solver in (a for a in (owner, *args) if",
        "for solver in (a for a in args if",
        "tests/test_solvers.py", "users_keeps",
    ),
    Fault(
        "named tuples made tuples", "array.py",
        'return x._make(values) if hasattr(x, "_make") else tuple(values)',
        "return tuple(values)",
        "tests/test_solvers.py", "users_keeps",
    ),
    Fault(
        "dictionaries of other kinds made plain", "array.py",
        "        if type(x) is dict:\n",
        "        if True:\n",
        "tests/test_solvers.py", "users_keeps",
    ),
    Fault(
        "lists of other kinds made plain", "array.py",
        "        if type(x) is list:\n",
        "        if True:\n",
        "tests/test_solvers.py", "users_keeps",
    ),
    Fault(
        "boxes left in dataclasses", "array.py",
        "    elif _has_fields(x) and not any",
        "    elif False and not any",
        "tests/test_solvers.py", "users_keeps",
    ),
    Fault(
        "objects that hold themselves looked into again", "array.py",
        "    elif _has_fields(x) and not any(x is outer for outer in around):",
        "    elif _has_fields(x):",
        "tests/test_solvers.py", "users_keeps",
    ),
    Fault(
        "objects that hold themselves copied again", "array.py",
        "    if id(x) not in made:",
        "    if True:",
        "tests/test_solvers.py", "users_keeps",
    ),
    Fault(
        "no other axis cut for what works along one", "whole_axes.py",
        "    if would_be_one_task(x, whole, nbytes):",
        "    if False:",
        "tests/test_graphs.py", "cut_another",
    ),
    Fault(
        "functions along all axes do not say so", "whole_axes.py",
        'announce_whole(what, "it works along all axes of the data, which are cut")',
        "pass",
        "tests/test_graphs.py", "only_work_on_the_whole",
    ),
    Fault(
        "functions along all axes in one task", "functions/fft.py",
        "if several and len(set(whole)) == len(whole) > 1 and",
        "if False and",
        "tests/test_graphs.py", "cut_another",
    ),
    Fault(
        "inverse transforms of real data in another order", "functions/fft.py",
        'if last == "irfft" else',
        'if last == "rfft" else',
        "tests/test_graphs.py", "cut_another",
    ),
    Fault(
        "few columns put together", "rules/columns.py",
        "(columns.nbytes > LARGE and n <= blocks)",
        "False",
        "tests/test_graphs.py", "columns_that_are_large",
    ),
    Fault(
        "many columns in one task", "rules/columns.py",
        "array = whole_along(X.dask(), (0,), f\"{title(self)}.{name.strip('_')}\")",
        "array = X.dask().rechunk({0: -1})",
        "tests/test_graphs.py", "columns_that_are_large",
    ),
    Fault(
        "halos beside an axis that is whole in one task", "rules/running.py",
        "x = whole_along(piece, need.axes, title(op))",
        "x = piece.rechunk(dict.fromkeys(need.axes, -1))",
        "tests/test_graphs.py", "cut_another",
    ),
    Fault(
        "a spread of other axes", "rules/spread.py",
        "if len(op.dims) + len(op.dimsd) != 4:",
        "if False:",
        "tests/test_errors.py", "other_axes_than",
    ),
    Fault(
        "matrices of data taken by solvers of vectors", "solvers.py",
        "if vectors and len(shape) > 1 and shape[0] > 1:", "if False:",
        "tests/test_inversions.py", "take_vectors_refuse",
    ),
    Fault(
        "many large terms wait to be added", "blocks.py",
        "2 if largest_block(partial) > _LARGE else _FAN_IN", "_FAN_IN",
        "tests/test_graphs.py", "two_by_two",
    ),
    Fault(
        "whole numbers squared as others", "functions/reductions.py",
        "if alike and dtype.kind in \"fc\":",
        "if alike:",
        "tests/test_functions.py", "wraps_as_numpy",
    ),
    Fault(
        "half precision added up in half", "functions/reductions.py",
        "np.sum(box, dtype=np.float32)",
        "np.sum(box)",
        "tests/test_functions.py", "half_precision",
    ),
    Fault(
        "a mean of vectors along any axis", "functions/reductions.py",
        "flat = box.ndim == 1 and axis in (None, 0, -1, (0,))",
        "flat = box.ndim == 1",
        "tests/test_functions.py", "functions_of_vectors",
    ),
    Fault(
        "pieces of no elements reduced", "functions/reductions.py",
        "pieces = [p for p in box.pieces if pc.size(p)] or box.pieces[:1]",
        "pieces = box.pieces",
        "tests/test_functions.py", "functions_of_vectors",
    ),
    Fault(
        "first positions among no elements", "functions/searching.py",
        "for piece in filter(pc.size, box.pieces):",
        "for piece in box.pieces:",
        "tests/test_functions.py", "functions_of_vectors",
    ),
    Fault(
        "ranks that keep no axis", "functions/searching.py",
        "return result.reshape((1,) * box.ndim) if keepdims else result",
        "return result",
        "tests/test_functions.py", "functions_of_vectors",
    ),
    Fault(
        "positions cut to whole numbers", "functions/positions.py",
        "if positions.size and positions.dtype.kind not in \"iu\":",
        "if False:",
        "tests/test_functions.py", "functions_of_vectors",
    ),
    Fault(
        "negative positions counted from the end", "functions/indexing.py",
        "if positions.min(initial=0) < 0:",
        "if False:",
        "tests/test_functions.py", "functions_of_vectors",
    ),
    Fault(
        "weights of other positions dropped", "functions/indexing.py",
        "if values.shape != positions.shape:",
        "if False:",
        "tests/test_functions.py", "functions_of_vectors",
    ),
    Fault(
        "zero less zero negative", "functions/elementwise.py",
        "return _blockwise(ufunc, [dtype.type(0), second])",
        "return (-second).astype(dtype)",
        "tests/test_functions.py", "zero_less_zero",
    ),
    Fault(
        "one axis taken for another", "whole_axes.py",
        "normalize_axis_index(axis, x.ndim)",
        "axis % x.ndim",
        "tests/test_functions.py", "functions_of_vectors",
    ),
    Fault(
        "lengths of transforms that are -1", "functions/fft.py",
        "[array.shape[a] if m == -1 else m for m, a in zip(n, axis, strict=True)]",
        "list(n)",
        "tests/test_functions.py", "functions_of_vectors",
    ),
    Fault(
        "columns of a system in one task", "functions/linalg.py",
        "    if data.npartitions == 1:\n",
        "    if True:\n",
        "tests/test_functions.py", "blocks_stay_apart",
    ),
    Fault(
        "differences of blocks of one sample in one block", "functions/linalg.py",
        "array.rechunk({a: balanced(array.shape[a], most)})",
        "array.rechunk({a: -1})",
        "tests/test_functions.py", "blocks_stay_apart",
    ),
    Fault(
        "jobs submitted by commands that are not there", "cluster.py",
        "if jobs and command and shutil.which(command) is None:",
        "if False:",
        "tests/test_cluster.py", "where_there_is_the_command",
    ),
    Fault(
        "jobs and workers of a queue both taken", "cluster.py",
        "if workers is not None and jobs is not None:",
        "if False:",
        "tests/test_cluster.py", "workers_of_batch_queues",
    ),
    Fault(
        "one machine for scheduler and workers", "cluster.py",
        "isinstance(hosts, str) or len(hosts) < 2:",
        "isinstance(hosts, str):",
        "tests/test_cluster.py", "list_of_hosts",
    ),
    Fault(
        "asynchronous clients taken", "cluster.py",
        "if options.get(\"asynchronous\") or getattr(kind, \"asynchronous\", False):",
        "if False:",
        "tests/test_cluster.py", "asynchronous_client",
    ),
    Fault(
        "asynchronous clients not told of", "solvers.py",
        "            note_asynchronous(error)\n",
        "            pass\n",
        "tests/test_cluster.py", "asynchronous_client",
    ),
    Fault(
        "cancelled data not told of", "solvers.py",
        "            note_step(error, solver, None)\n",
        "            pass\n",
        "tests/test_distributed.py", "cancelled_are_told",
    ),
    Fault(
        "sums along all axes cut as dask does", "functions/__init__.py",
        "given, axis = np.ravel(given), 0",
        "pass",
        "tests/test_graphs.py", "sums_along_all_axes",
    ),
    Fault(
        "no other axis of terms cut", "rules/terms.py",
        "if separate and would_be_one_task(x, unseparated):",
        "if False:",
        "tests/test_graphs.py", "cut_another",
    ),
    Fault(
        "windows beside an axis that is whole in one task", "rules/windows.py",
        "x = whole_along(x, range(n, x.ndim), title(op))",
        "x = x.rechunk(dict.fromkeys(range(n, x.ndim), -1))",
        "tests/test_graphs.py", "cut_another",
    ),
    Fault(
        "size of what is made left out", "rules/running.py",
        "made = math.prod(dims if adjoint else dimsd) * dtype.itemsize",
        "made = 0",
        "tests/test_graphs.py", "cut_another",
    ),
    Fault(
        "flattened as dask does", "pieces.py",
        "or not piece.numblocks[0] == 1 < piece.npartitions:", "or True:",
        "tests/test_graphs.py", "flattened_in_parallel",
    ),
    Fault(
        "few rows flattened in one block each", "pieces.py",
        "if len(piece) <= piece.npartitions:",
        "if False:",
        "tests/test_graphs.py", "flattened_in_parallel",
    ),
    Fault(
        "blocks moved to be reshaped forgotten", "array.py",
        "            _remember(pieces[0], of._pieces)\n",
        "            pass\n",
        "tests/test_graphs.py", "has_its_own_blocks",
    ),
    Fault(
        "medians along all that is cut in one task", "functions/searching.py",
        "array = whole_along(array, axes, f\"numpy.{func.__name__}\")",
        "array = array.rechunk(dict.fromkeys(axes, -1))",
        "tests/test_graphs.py", "cut_cut_another",
    ),
    Fault(
        "threads of Numba that write over each other", "rules/signalprocessing.py",
        "numba.set_num_threads(1)", "pass",
        "tests/test_blas_threads.py", "write_over_each_other",
    ),
    Fault(
        "banded matrices meet all of the vector", "rules/matrix.py",
        "if 2 * sum(high - low for low, high in reached) <= len(rows) * width:",
        "if False:",
        "tests/test_graphs.py", "banded",
    ),
    Fault(
        "columns of a block start at the first", "rules/matrix.py",
        "narrow.indices = block.indices - block.indices.dtype.type(low)",
        "narrow.indices = block.indices",
        "tests/test_graphs.py", "banded",
    ),
    Fault(
        "all matrices taken for banded ones", "rules/matrix.py",
        "if 2 * sum(high - low for low, high in reached) <= len(rows) * width:",
        "if True:",
        "tests/test_graphs.py", "elements_everywhere",
    ),
    Fault(
        "banded matrices known for good", "rules/matrix.py",
        "name = f\"coefficient-{tokenize(known, values, sizes, reached)}\"",
        "name = f\"coefficient-{tokenize(sizes, reached)}\"",
        "tests/test_graphs.py", "changed_in_place_gives",
    ),
    Fault(
        "few rows meet all of the vector", "rules/matrix.py",
        "n_out * blocks <= len(x)",
        "False",
        "tests/test_graphs.py", "few_rows",
    ),
    Fault(
        "callbacks that are dataclasses copied", "array.py",
        'and not hasattr(kind, "on_step_end")', "",
        "tests/test_solvers.py", "stay_the_users_own",
    ),
    Fault(
        "one column in one task", "rules/columns.py",
        "return n == 1 or (columns", "return (columns",
        OPERATORS, "one_column",
    ),
    Fault(
        "transforms along all axes in one task", "rules/running.py",
        "elif len(factors) > 1:", "elif False:",
        "tests/test_transforms.py", "one_after_another",
    ),
    Fault(
        "adjoints of transforms along one axis after another in the order of the forward",
        "rules/running.py",
        "for factor in factors[::-1] if adjoint else factors:", "for factor in factors:",
        "tests/test_transforms.py", "one_after_another",
    ),
    Fault(
        "transforms of SciPy in two dimensions scaled as others", "rules/transforms.py",
        'if hasattr(op, "_scale"):', "if False:",
        "tests/test_transforms.py", "one_after_another",
    ),
    Fault(
        "what works along all axes does not say so", "rules/running.py",
        'announce_whole(title(op), "it works along all axes of the data, which are cut")', "pass",
        "tests/test_transforms.py", "says_so",
    ),
    Fault(
        "the other axis left whole", "rules/running.py",
        "if any(x.shape[axis] > 1 for axis in free):", "if False:",
        "tests/test_transforms.py", "other_axis_is_cut",
    ),
    Fault(
        "errors of NumPy about dtypes left to the task", "rules/running.py",
        'if isinstance(error, TypeError) and type(error).__module__.startswith("numpy."):',
        "if False:",
        "tests/test_errors.py", "refused_when_it_is_applied",
    ),
    Fault(
        "errors of other classes with the same words are about boxes", "entry.py",
        "return found is None or not issubclass(found[0], type(error)) or found[1] != str(error)",
        "return found != (type(error), str(error))",
        "tests/test_errors.py", "refused_when_it_is_applied",
    ),
    Fault(
        "numbers are named as they are printed", "functions/elementwise.py",
        "name_of_number(a) if isinstance(a, np.generic) else a", "a",
        "tests/test_optimisation.py", "scalars_apart",
    ),
    Fault(
        "errors that come of what was taken for true come out", "solvers.py",
        "failed = self.is_assuming", "failed = False",
        "tests/test_solvers.py", "does_not_see",
    ),
    Fault(
        "norms of a step that failed are worked out when it is taken again", "solvers.py",
        "            self._norms = norms\n", "",
        "tests/test_solvers.py", "does_not_see",
    ),
    Fault(
        "small slices are tasks", "optimisation.py",
        "if not slices:", "if True:",
        "tests/test_optimisation.py", "small_slices",
    ),
    Fault(
        "to make shares even, a block is sent to where a face of it is", "homes.py",
        "if size >= much]", "]",
        "tests/test_placing.py", "made_even",
    ),
    Fault(
        "products with matrices are taken to be as large as these", "scheduling.py",
        "min(_guessed(task, sizes), largest.get(task.prefix.name, math.inf))",
        "_guessed(task, sizes)",
        "tests/test_placing.py", "products_are_asked",
    ),
    Fault(
        "whole blocks are sent for slices of them", "optimisation.py",
        "if slices and client_in_use() is not None:", "if False:",
        "tests/test_optimisation.py", "on_a_cluster_are_tasks",
    ),
    Fault(
        "sums that do not tell where elements are", "remembering.py",
        "integers(1, 1 << 62, length", "integers(1, 2, length",
        "tests/test_graphs.py tests/test_naming.py", "checksum or changed_in_place",
    ),
    Fault(
        "norms of LSQR are read between operator and adjoint", "array.py",
        "current is not None and current.assumes(self)", "False",
        "tests/test_solvers.py", "of_lsqr",
    ),
    Fault(
        "norms that are taken for positive are not looked at again", "solvers.py",
        "if not assumed.comparison.value:", "if False:",
        "tests/test_solvers.py", "lsqr_that",
    ),
    Fault(
        "a step that is taken again counts applications twice", "steps.py",
        "vars(part).update(counts)", "pass",
        "tests/test_solvers.py", "lsqr_that",
    ),
    Fault(
        "vectors are divided by norms that are zero", "assumptions.py",
        "x + ~assumed.comparison if x is assumed.norm else x", "x",
        "tests/test_solvers.py", "lsqr_that",
    ),
    Fault(
        "errors of a client that was closed meanwhile come out", "solvers.py",
        "                if not isinstance(error, CommClosedError):", "                if False:",
        "tests/test_distributed.py", "closed_while",
    ),
    Fault(
        "mistakes of code are left to one task", "entry.py",
        "found is None or not issubclass(found[0], type(error)) or found[1] != str(error)", "True",
        "tests/test_errors.py", "mistakes_of_code",
    ),
    Fault(
        "rules call methods of classes unbound", "activation.py",
        "defined if isinstance(defined, types.FunctionType) else bound", "defined",
        "tests/test_errors.py", "methods_of_any_kind",
    ),
    Fault(
        "arrays of the model's shape that a rule does not name are not told", "rules/running.py",
        "if array and value.shape == dims and name not in rule.coefficients:", "if False:",
        "tests/test_errors.py", "does_not_name",
    ),
    Fault(
        "axes of coefficients are not compared with their shapes", "rules/running.py",
        "        _check_coefficients(op, terms)", "        pass",
        "tests/test_errors.py", "does_not_fit",
    ),
    Fault(
        "filters in between are boxes", "rules/filters.py",
        "if not is_lazy(self.hs):", "if True:",
        "tests/test_construction.py", "filters_in_between",
    ),
    Fault(
        "sums are compared with the precision of the result alone", "testing.py",
        "10 * _tolerance(apart.dtype, x0.dtype)", "10 * _tolerance(apart.dtype)",
        "tests/test_testing.py", "less_precision",
    ),
    Fault(
        "of arrays that are not small, only some elements make a difference", "naming.py",
        "checksum(value) if summed else samples(value)", "samples(value)",
        "tests/test_naming.py", "changed_in_place",
    ),
    Fault(
        "vectors that solvers of this package read again are let go", "liveness.py",
        " or module in _SOLVERS", "",
        "tests/test_distributed.py", "splitbregman",
    ),
    Fault(
        "dask arrays on a cluster are known by their names alone", "placing.py",
        'name = f"{array.name}-{tokenize([pc.samples(value) for value in values.values()])}"',
        "name = array.name",
        "tests/test_placing.py", "of_the_same_name",
    ),
    Fault(
        "pickled graphs need the cluster", "placing.py",
        "        frame = frame.f_back\n    return None",
        "        frame = frame.f_back\n    return client_in_use()",
        "tests/test_placing.py", "pickled_while",
    ),
    Fault(
        "what an attempt has worked out is worked out again by its task", "entry.py",
        "if trusted and not holds(value, is_box):", "if False:",
        "tests/test_turns.py", "works_out_once",
    ),
    Fault(
        "what was worked out without what was refused is kept", "entry.py",
        "            after.attributes[name] = None\n", "            pass\n",
        "tests/test_errors.py", "kept_of_a_refusal or forgotten",
    ),
    Fault(
        "operators of large matrices in groups", "rules/stacks.py",
        "* box.dtype.itemsize + held", "* box.dtype.itemsize",
        "tests/test_placing.py", "products_are_worked_out",
    ),
    Fault(
        "small operators are one task each", "rules/stacks.py",
        "if count <= _FEW or bounds is None", "if True",
        "tests/test_stacks.py", "many_small or groups_begin",
    ),
    Fault(
        "groups begin anywhere", "rules/stacks.py",
        "np.searchsorted(bounds, blocks_begin[:-1]).tolist()", "0",
        "tests/test_stacks.py", "groups_begin",
    ),
    Fault(
        "groups of operators that a user has changed since", "rules/stacks.py",
        "if known is None or known[0] != token:", "if known is None:",
        "tests/test_stacks.py", "operators_as_they_are",
    ),
    Fault(
        "large operators in groups", "rules/stacks.py",
        "if read > count * _SMALL:", "if False:",
        "tests/test_stacks.py", "stay_apart",
    ),
    Fault(
        "tasks change the operator that they share", "blocks.py",
        "            take_back()\n", "            pass\n",
        "tests/test_states.py", "same_each_time",
    ),
    Fault(
        "a flag that is set is taken back", "operators.py",
        " and not isinstance(value, bool)", "",
        "tests/test_states.py", "there_the_next_time",
    ),
    Fault(
        "changes after a refusal are forgotten", "entry.py",
        "        for change in later:\n            change()\n", "",
        "tests/test_states.py", "one_after_another",
    ),
    Fault(
        "zeros that are not added are counted", "rules/stacks.py",
        "added and isinstance(part, pylops.Zero)", "False",
        "tests/test_stacks.py", "groups_are_counted",
    ),
    Fault(
        "a generator of Python's has one name whatever it has drawn", "naming.py",
        "        return value.getstate()\n", "        return identity(value)\n",
        "tests/test_states.py", "one_after_another",
    ),
    Fault(
        "generators are shared by copies", "copying.py",
        "if isinstance(value, _GENERATORS):", "if False:",
        "tests/test_states.py", "one_after_another",
    ),
    Fault(
        "a task has the state of after the attempt", "entry.py",
        "    _put_back(before)  # what the task begins with\n", "",
        "tests/test_states.py", "one_after_another",
    ),
    Fault(
        "an operator forgets what its attempt has changed", "entry.py",
        "        _put_back(after)\n", "",
        "tests/test_states.py", "one_after_another",
    ),
    Fault(
        "generators are not put back", "operators.py",
        "    np.random.RandomState: (np.random.RandomState.get_state,",
        "    np.random.MT19937: (np.random.RandomState.get_state,",
        "tests/test_states.py", "one_after_another or of_its_own",
    ),
    Fault(
        "operators that have changed are not tried again", "entry.py",
        "if not reads[0] and not changed:", "if not reads[0]:",
        "tests/test_states.py", "a_solve_is_that",
    ),
    Fault(
        "columns share a state", "rules/columns.py",
        "if any(map(changes, before)):", "if False:",
        "tests/test_states.py", "state_of_its_own",
    ),
    Fault(
        "arrays that operators had in a solve stay", "solvers.py",
        "if array() is None and self._step - last > _KEPT:", "if False:",
        "tests/test_states.py", "let_go",
    ),
    Fault(
        "arrays that operators are given in a solve are let go", "solvers.py",
        "if array() is None and self._step - last > _KEPT:", "if self._step - last > _KEPT:",
        "tests/test_states.py", "given_in_a_solve",
    ),
    Fault(
        "functions keep what they were given", "structures.py",
        "    yield from function.__defaults__ or ()\n", "",
        "tests/test_executions.py", "keeps_no_array",
    ),
    Fault(
        "methods keep the array that they are of", "structures.py",
        "isinstance(function, _FUNCTIONS) and isinstance(owner, _OWNERS)",
        "isinstance(function, _FUNCTIONS)",
        "tests/test_executions.py", "keeps_no_array",
    ),
    Fault(
        "a structure that never ends", "structures.py",
        "        if id(value) in self._within:\n            raise UnknownStructureError\n", "",
        "tests/test_executions.py", "hold_themselves",
    ),
    Fault(
        "executions that were of no use stay", "executions.py",
        "                self._seen.clear()\n", "",
        "tests/test_executions.py", "keep_no_functions",
    ),
    Fault(
        "barriers of shuffles are asked for on a worker", "scheduling.py",
        "free and not is_barrier", "free",
        "tests/test_planning.py", "shuffle",
    ),
    Fault(
        "wishes of a user for some workers are passed over", "scheduling.py",
        "asked = set(task.worker_restrictions or threads) & threads.keys()",
        "asked = set(threads)",
        "tests/test_planning.py", "named_by_the_user",
    ),
    Fault(
        "wishes for a worker that takes no tasks stay", "scheduling.py",
        "self._scheduler.set_restrictions({key: None})", "pass",
        "tests/test_planning.py", "paused",
    ),
    Fault(
        "blocks are sent to where a face of a neighbour is", "scheduling.py",
        "if any(map(_is_ours, found)):", "if False:",
        "tests/test_planning.py", "cut_along_two_axes",
    ),
    Fault(
        "other people's graphs are told where to run", "scheduling.py",
        "if any(map(_is_ours, found)):", "if True:",
        "tests/test_planning.py", "graphs_of_others",
    ),
    Fault(
        "faces are taken for whole blocks", "scheduling.py",
        "return max(known) / _THIN", "return max(known)",
        "tests/test_planning.py", "cut_along_two_axes",
    ),
    Fault(
        "a plan has all pairs of blocks on one worker", "foresight.py",
        "found = other if are_even(other.given.values(), _threads()) else found", "pass",
        "tests/test_planning.py", "most_of_each_pair",
    ),
    Fault(
        "workers are asked though one gets all", "scheduling.py",
        "    evenly = are_even(given.values(), threads)\n    left", "    evenly = True\n    left",
        "tests/test_planning.py", "graphs_of_others",
    ),
    Fault(
        "parts of a block are taken on another worker", "scheduling.py",
        "if evenly or ((few", "if evenly and ((few",
        "tests/test_planning.py", "cut_along_two_axes and transforms",
    ),
    Fault(
        "products are worked out on any worker", "scheduling.py",
        "            if home is not None:", "            if False:",
        "tests/test_placing.py", "products_are_worked_out",
    ),
    Fault(
        "operators are nothing to a scheduler", "placing.py",
        "return sys.getsizeof(op) + sum(array.nbytes for array in arrays)",
        "return sys.getsizeof(op)",
        "tests/test_placing.py", "as_large_as",
    ),
    Fault(
        "large arrays of an operator are sent one after another", "placing.py",
        "(many or held.large > 1)", "many",
        "tests/test_placing.py", "sent_together",
    ),
    Fault(
        "dask arrays of an operator travel with each graph to a cluster", "array.py",
        "sent_once(x if current is None else current.leaf(x))",
        "(x if current is None else current.leaf(x))",
        "tests/test_placing.py", "graphs_stay_small",
    ),
    Fault(
        "data of a solve travel with each graph to a cluster", "solvers.py",
        "isinstance(piece, DaskArray) and self.is_to_be_sent(piece)", "False",
        "tests/test_placing.py", "go_to_the_cluster_once",
    ),
    Fault(
        "plans take data that travel for what a cluster has", "planning_solvers.py",
        "if not travels(array):", "if True:",
        "tests/test_placing.py", "counts_data",
    ),
    Fault(
        "imaginary parts that were not announced are dropped", "blocks.py",
        'if not np.can_cast(y.dtype, announced, "same_kind"):', "if False:",
        "tests/test_errors.py", "found_out_too_late",
    ),
    Fault(
        "only small operators are asked for their dtype", "rules/running.py",
        "PROBED = 1 << 16", "PROBED = 1 << 12",
        "tests/test_errors.py", "not_the_declared",
    ),
    Fault(
        "rules of classes whose matvec a subclass changes", "rules/running.py",
        "return applied or changes_helpers", "return changes_helpers",
        "tests/test_operators.py", "run_by_or_run",
    ),
    Fault(
        "rules of classes whose helpers a subclass changes", "rules/running.py",
        "if box.ndim != 1 or changes_helpers(type(op), cls):", "if box.ndim != 1:",
        "tests/test_operators.py", "run_by_or_run",
    ),
    Fault(
        "coefficients stay on workers as they came over the network", "lineage.py",
        "Task(own, aligned, TaskRef", "Task(own, _same, TaskRef",
        "tests/test_worker_tasks.py", "lie_on_workers",
    ),
    Fault(
        "coefficients stay on a single worker as they came over the network", "placing.py",
        "else _aligned(there)", "else there",
        "tests/test_worker_tasks.py", "lie_on_workers",
    ),
    Fault(
        "a task keeps its worker's thread while it solves", "solvers.py",
        "        with beside_other_tasks():\n            yield",
        "        if True:\n            yield",
        "tests/test_worker_tasks.py", "may_solve",
    ),
    Fault(
        "a task keeps its worker's thread while arrays are copied", "lineage.py",
        "@beside_other_tasks()\ndef cut", "def cut",
        "tests/test_worker_tasks.py", "sent_apart",
    ),
    Fault(
        "one task of whole arrays forgets what keeps them in memory", "pieces.py",
        "    graph = HighLevelGraph.from_collections(name, {key: task}, dependencies=arrays)",
        "    from dask.array import from_delayed\n    from dask.delayed import delayed\n"
        "    return from_delayed(delayed(function)(*given, *arrays), shape, dtype)",
        "tests/test_worker_tasks.py", "in_memory",
    ),
    Fault(
        "graphs of applications kept though the operator changed", "repeating.py",
        "    found = signature(op)\n", "    found = id(op)\n",
        "tests/test_repeating.py", "changes",
    ),
    Fault(
        "graphs of applications kept though the vector is cut in another way", "repeating.py",
        "return found.given == given and all", "return all",
        "tests/test_repeating.py", "cut_in_another_way",
    ),
    Fault(
        "lazy arrays that a repeated application does not need", "repeating.py",
        "return [current.needed(array) for", "return [current.leaf(array) for",
        "tests/test_repeating.py", "not_needed",
    ),
    Fault(
        "applications that are repeated are not counted", "repeating.py",
        "    for place, name, number in found.counted:", "    for place, name, number in ():",
        "tests/test_repeating.py", "counted",
    ),
    Fault(
        "repeated applications of what remembers vectors", "repeating.py",
        "runs_users_code(part) or isinstance(part, MemoizeOperator)", "runs_users_code(part)",
        "tests/test_repeating.py", "remembers",
    ),
    Fault(
        "a plan leaves something in an operator", "operators.py",
        "            put_back(state)", "            pass",
        "tests/test_errors.py", "leave_something",
    ),
    Fault(
        "tolerances of comparisons that are absolute", "testing.py",
        "(largest or 1e-2) if scale is None", "max(largest, 1e-2) if scale is None",
        "tests/test_testing.py", "small_values",
    ),
    Fault(
        "attributes set since the import are thrown away", "activation.py",
        "if vars(owner).get(name) is not ours:", "if False:",
        "tests/test_activation.py", "somebody_else",
    ),
    Fault(
        "many small arrays sent with each graph", "placing.py",
        "_SMALL if many else _LARGE", "_LARGE",
        "tests/test_placing.py", "many_small",
    ),
    Fault(
        "many small arrays in the first graph", "entry.py",
        "            if sent:", "            if False:",
        "tests/test_placing.py", "many_small",
    ),
    Fault(
        "lazy arrays of operators worked out for each product", "solvers.py",
        "if any(_is_lazy(piece) for held in", "if False and any(_is_lazy(piece) for held in",
        "tests/test_inversions.py", "worked_out_once",
    ),
    Fault(
        "positions along several axes first", "functions/indexing.py",
        "taken = da.moveaxis(taken, range(ndim)", "da.moveaxis(taken, range(ndim)",
        ARRAY, "several_arrays",
    ),
    Fault(
        "tasks that no result needs in plans", "foresight.py",
        "            if key in self._needed and not", "            if not",
        "tests/test_planning.py", "no_result_needs",
    ),
    Fault(
        "a cluster that is gone looked for in this process", "solvers.py",
        "        self._check_cluster()\n", "",
        "tests/test_distributed.py", "goes_away",
    ),
    Fault(
        "_matvec of a dask array on NumPy's way", "activation.py",
        "if isinstance(x, DaskArray):\n            return", "if False:\n            return",
        OPERATORS, "keeps_to_itself",
    ),
    Fault(
        "tasks that wait for workers that are gone", "scheduling.py",
        "scheduler.set_restrictions(dict.fromkeys(waiting))", "pass",
        "tests/test_distributed.py", "may_die_at_once",
    ),
    Fault(
        "what vectors are made of worked out anywhere", "placing.py",
        "if counts in cuts:", "if False:",
        "tests/test_placing.py", "made_of_lies_where",
    ),
    Fault(
        "futures of one cluster sent to another", "placing.py",
        "future.client is not _sender()", "future.client is not client_in_use()",
        "tests/test_placing.py", "another_cluster",
    ),
    Fault(
        "arrays of operators put on any worker", "placing.py",
        "    (worker,) = _home(", "    return None\n    (worker,) = _home(",
        "tests/test_placing.py", "where_vectors",
    ),
    Fault(
        "plans that send what operators hold", "foresight.py",
        'set_policy(whole_array="warn"), nothing_sent()', 'set_policy(whole_array="warn")',
        "tests/test_planning.py", "sends_nothing",
    ),
    Fault(
        "plans that leave out the copies of a solve", "planning_solvers.py",
        "if waiting >= every:", "if False:",
        "tests/test_planning.py", "solver_on_a_cluster",
    ),
    Fault(
        "plans that take blocks of a cluster for data", "foresight.py",
        "arrays = [_of_futures(array, data, blocks) for array in arrays]", "pass",
        "tests/test_planning.py", "tasks_on_a_cluster",
    ),
    Fault(
        "plans that do not ask where blocks lie", "planning.py",
        "where_blocks_lie({**{a.name: a for a in arrays_of(Op)}, held.name: x})", "{}",
        "tests/test_planning.py", "operators_hold_moves_once",
    ),
    Fault(
        "errors of a cluster without the step", "steps.py",
        "note_step(error, self, steps.number)", "pass",
        "tests/test_distributed.py", "names_the_step",
    ),
    Fault(
        "vectors not cut when arrays of operators were put elsewhere", "lineage.py",
        "lost |= bool(self._until_cut)", "pass",
        "tests/test_distributed.py", "lies_elsewhere",
    ),
    Fault(
        "arrays of operators left on the one worker that has them", "placing.py",
        "if there is not None and is_safe(there, workers):", "if there is not None:",
        "tests/test_placing.py", "one_worker_alone",
    ),
    Fault(
        "memory that malloc keeps left to it", "trimming.py",
        "trim(0)", "pass",
        "tests/test_cluster.py", "malloc_keeps",
    ),
    Fault(
        "a solution that dies with a worker after the solve", "lineage.py",
        "        self._cut_all(boxes)\n        for array", "        boxes = []\n        for array",
        "tests/test_distributed.py", "killed_after_the_solve",
    ),
    Fault(
        "copies let go that a solution may have to be made from", "lineage.py",
        "_sources[future] = self._pairs", "pass",
        "tests/test_distributed.py", "have_to_be_made_from",
    ),
    Fault(
        "lazy data let go when a solver within an operator is set up", "solvers.py",
        "if self._data is None or solver is not first:", "if self._data is None:",
        "tests/test_solvers.py", "worked_out_once_whatever",
    ),
    Fault(
        "lazy data kept in memory all along", "solvers.py",
        "own.read_in_setup_only(", "str(",
        "tests/test_undoing.py", "let_go_once",
    ),
    Fault(
        "arrays of operators made anew of data in memory", "solvers.py",
        "each if pc.in_memory(each) else self._from_memory(each)", "each",
        "tests/test_solvers.py", "worked_out_once_whatever",
    ),
    Fault(
        "an error kept by the future that it was raised of", "solvers.py",
        ', errors="skip")', ")",
        "tests/test_undoing.py", "nothing_stays",
    ),
    Fault(
        "settings as tasks of their own on a cluster", "rules/stacks.py",
        "DataNode if client_in_use() is None else Setting", "DataNode",
        "tests/test_placing.py", "two_tasks_a_matrix",
    ),
    Fault(
        "blocks of a norm that lie on several workers", "placing.py",
        "[-(-len(places) * number // count)", "[len(places) * number // count",
        "tests/test_placing.py", "runs_of_blocks",
    ),
    Fault(
        "inverse by blocks, which have no pivots outside of the diagonal", "functions/linalg.py",
        "_of_a_matrix(np.linalg.inv, _square)",
        "implements(np.linalg.inv)(lambda a: DispatchArray(da.linalg.inv(as_box(a).dask())))",
        FUNCTIONS, "pivots",
    ),
    Fault(
        "first of equal extremes in another order than that of C", "functions/searching.py",
        "stride = math.prod(array.shape[axis + 1 :])", "stride = math.prod(array.shape[:axis])",
        FUNCTIONS, "equal_extremes",
    ),
    Fault(
        "small integers added in their own dtype", "functions/indexing.py",
        "exact = source.astype(np.result_type(target.dtype, source.dtype)).dask()",
        "exact = source.dask()",
        FUNCTIONS, "come_to_one_position",
    ),
    Fault(
        "weights that a stack gave cut to their first part", "solvers.py",
        "in layout_of(array) or [array])", "in (layout_of(array) or [array])[:1])",
        "tests/test_solvers.py", "weights_that_operators_gave",
    ),
    Fault(
        "session of a solve kept by a context", "array.py",
        "else weakref.ref(value))", "else (lambda: value))",
        "tests/test_distributed.py", "context_that_is_kept",
    ),
    Fault(
        "refusal that code has handled goes unnoticed", "entry.py",
        "if not refused or known:", "if True:",
        "tests/test_errors.py", "swallows",
    ),
    Fault(
        "FFTW plans shared by threads", "operators.py",
        "return without_plans(new) if has_plans(new) else new", "return new",
        "tests/test_transforms.py", "holds_a_plan or plans_of_their_own",
    ),
    Fault(
        "settings of a user's operator shared with later applications", "blocks.py",
        "for_tasks(with_own_settings(op))", "for_tasks(op)",
        "tests/test_copying.py", "changed_in_place",
    ),
    Fault(
        "what ravel has to copy given as a view", "array.py",
        "return vector if self._strides is None else vector.copy()", "return vector",
        VIEWS, "parts_of_complex",
    ),
    Fault(
        "flatten without a copy", "array.py",
        "return self.ravel(order).copy()", "return self.ravel(order)",
        VIEWS, "a_view_or_a_copy",
    ),
    Fault(
        "the order of one operand enough for that of the result", "memory_layout.py",
        "return all(told) if told else None", "return any(told) if told else None",
        VIEWS, "laid_out_as_numpy",
    ),
    Fault(
        "axes of positions left where they are behind a slice", "functions/indexing.py",
        "return places[-1] - places[0] >= len(places)", "return False",
        VIEWS, "at_an_index",
    ),
    Fault(
        "a mask of any length taken", "functions/indexing.py",
        "if _is_mask(entry) and entry.shape != shape[axis : axis + count]:", "if False:",
        VIEWS, "write_outside",
    ),
    Fault(
        "classes of one name told apart by nothing", "naming.py",
        'name = f"{plain}-{identity(cls)}" if plain in _given else plain', "name = plain",
        "tests/test_naming.py", "two_classes",
    ),
    Fault(
        "chunks without samples kept", "array.py",
        "if all(0 not in sizes for sizes in x.chunks):", "if True:",
        OPERATORS, "test_any_chunks and (Diagonal or FirstDerivative)",
    ),
    Fault(
        "a pool's stack given the dtype of the serial one", "rules/stacks.py",
        'return op.parallel_kind == "multiproc" or _bounds(op, adjoint) is not None',
        "return False",
        STACKS, "pool_of_threads",
    ),
    Fault(
        "blocks of an axis that is summed over handed over without their list", "optimisation.py",
        "for _ in range(self.lists):", "for _ in range(0):",
        OPTIMISATION, "to_the_bit",
    ),
    Fault(
        "the only block along an axis numbered like the others", "optimisation.py",
        "[None if n == 1 else place[a] for a, n in counts]", "[place[a] for a, n in counts]",
        OPTIMISATION, "to_the_bit",
    ),
    Fault(
        "a task that is wanted joined to the one that reads it", "optimisation.py",
        "if k in reads and k not in wanted]", "if k in reads]",
        OPTIMISATION, "persisted_together",
    ),
    Fault(
        "what reads files not left to dask", "programs.py",
        'return getattr(node, "func", None) in _GETTERS or', "return False and",
        OPTIMISATION, "of_a_file",
    ),
    Fault(
        "among neighbours, a halo one sample too small before a block", "halos.py",
        "(max(int(start) - width, 0), min(int(stop) + width, n))",
        "(min(max(int(start) - width, 0) + 1, int(start)), min(int(stop) + width, n))",
        OPERATORS, "read_by_their_neighbours and FirstDerivative",
    ),
    Fault(
        "among neighbours, blocks numbered along the wrong axis", "halos.py",
        "for sizes in chunks[axis + 1 :])", "for sizes in chunks[:axis])",
        OPERATORS, "read_by_their_neighbours and FirstDerivative",
    ),
    Fault(
        "among neighbours, where a block lies in its array", "blocks.py",
        "start = tuple(int(e[i]) for e, i in zip(edges, index, strict=True))",
        "start = tuple(0 for _ in index)",
        OPERATORS, "read_by_their_neighbours and NonStationary",
    ),
    Fault(
        "small blocks that are reduced together, but for the last", "functions/reductions.py",
        "[run[i : i + count] for run in runs", "[run[i : i + count][:-1] for run in runs",
        ARRAY, "one_task_reduces",
    ),
    Fault(
        "a tile's ends meet in its transform where they are the array's", "spectra.py",
        "n if inner[axis] else n + taps // 2", "n",
        f"{TILES} tests/test_spectra.py", "Convolve or as_with_scipy",
    ),
    Fault(
        "ends of a tile that are halo, where there is too little of it", "blocks.py",
        "d > 0 and d <= t.start and t.stop + d <= n", "d > 0",
        f"{TILES} tests/test_spectra.py", "Convolve or products",
    ),
    Fault(
        "middle of a filter one sample off", "spectra.py",
        "-((h.shape[axis] - 1) // 2)", "-(h.shape[axis] // 2 - 1)",
        "tests/test_spectra.py", "as_with_scipy",
    ),
    Fault(
        "a dtype found for one direction is taken for the other", "rules/running.py",
        "tuple(c.dtype for c in held), adjoint)", "tuple(c.dtype for c in held))",
        "tests/test_construction.py", "dtype",
    ),
    Fault(
        "chunks of windows' data that start where windows end", "rules/windows.py",
        "*(start for start, _ in spans[1:])", "*(end for _, end in spans[:-1])",
        "tests/test_construction.py", "windows",
    ),
    Fault(
        "vectors before a step that are let go", "solvers.py",
        "if self.before is not None and any(", "if False and any(",
        "tests/test_undoing.py", "step_before_is_held",
    ),
    Fault(
        "vectors that are read again", "undoing.py",
        "if is_box(box) and id(box) not in kept]", "if is_box(box)]",
        "tests/test_undoing.py", "needed_again",
    ),
    Fault(
        "part of a block that an operator of a stack reads", "rules/stacks.py",
        "block.reshape(-1)[where]", "block.reshape(-1)[: where.stop - where.start]",
        STACKS, "equals_numpy",
    ),
    Fault(
        "adjoint of an operator of a stack", "rules/stacks.py",
        "op, blocks.single(block), adjoint)", "op, blocks.single(block), False)",
        STACKS, "equals_numpy",
    ),
    Fault(
        "halo one sample too small before a block", "halos.py",
        "else (max(int(start) - width, 0), int(start))",
        "else (min(max(int(start) - width, 0) + 1, int(start)), int(start))",
        OPERATORS, "test_flat_vector and FirstDerivative",
    ),
    Fault(
        "halo one sample too small after a block", "halos.py",
        "(int(stop), min(int(stop) + width, n))",
        "(int(stop), max(min(int(stop) + width, n) - 1, int(stop)))",
        OPERATORS, "test_flat_vector and FirstDerivative",
    ),
    Fault(
        "adjoint of a derivative without the samples at the ends", "rules/basic.py",
        '("centered", 5): (2, 4)', '("centered", 5): (2, 2)',
        OPERATORS, "FirstDerivative",
    ),
    Fault(
        "halo of a second derivative for its forward only", "rules/basic.py",
        "(2, 3) if op.edge else (1, 2)", "(2, 2) if op.edge else (1, 1)",
        OPERATORS, "SecondDerivative or Laplacian",
    ),
    Fault(
        "halo of a product as of its deepest factor",
        "rules/running.py",
        "tuple(sum(d) * (2 if both else 1) for d in zip",
        "tuple(max(d) for d in zip",
        OPERATORS,
        "product_of_stencils",
    ),
    Fault(
        "halo of a power as of its base", "rules/running.py",
        "tuple(d * int(op.args[1]) for d in depths[0])", "tuple(depths[0])",
        OPERATORS, "power",
    ),
    Fault(
        "halo of a sum as of its shallowest term", "rules/running.py",
        "tuple(max(d) for d in zip(*depths, strict=True))",
        "tuple(min(d) for d in zip(*depths, strict=True))",
        OPERATORS, "Laplacian",
    ),
    Fault(
        "filter reaches one sample less", "rules/basic.py",
        "return tuple(int(n) // 2 for n in op.h.shape)",
        "return tuple(max(int(n) // 2 - 1, 0) for n in op.h.shape)",
        OPERATORS, "Convolve or Smoothing",
    ),
    Fault(
        "coefficients of the first piece for every piece", "rules/running.py",
        "flat[offset : offset + size]", "flat[:size]",
        OPERATORS, "each_piece",
    ),
    Fault(
        "matrix transposed without conjugate", "rules/matrix.py",
        "y = (a.T @ columns.conj()).conj()", "y = a.T @ columns",
        OPERATORS, "MatrixMult",
    ),
    Fault(
        "only the first block row of an adjoint matrix product", "rules/matrix.py",
        "y = add_up(y, (0,), dtype)", "y = y[0]",
        OPERATORS, "MatrixMult",
    ),
    Fault(
        "matrix product and its adjoint under one name", "rules/matrix.py",
        "x.name, adjoint, apart)}\",\n        adjust_chunks={i: 1} if adjoint else None,",
        "x.name, apart)}\",\n        adjust_chunks={i: 1} if adjoint else None,",
        OPERATORS, "MatrixMult or never_share",
    ),
    Fault(
        "dot product without conjugate", "functions/reductions.py",
        'p.conj() if conjugate and p.dtype.kind == "c" else p', "p",
        ARRAY, "dot",
    ),
    Fault(
        "norm of complex numbers without their imaginary parts", "functions/reductions.py",
        "return _block_dot(parts, parts)", "return _block_dot(parts[::2], parts[::2])",
        ARRAY, "norm",
    ),
    Fault(
        "last chunk dropped from a sum over blocks", "functions/reductions.py",
        "reshape(()) for part in parts)", "reshape(()) for part in parts[:-1] or parts)",
        ARRAY, "dot or norm",
    ),
    Fault(
        "last chunk dropped when a sum is put together from terms",
        "blocks.py",
        "Task(key, _squeezed_sum, axes, List(*terms))",
        "Task(key, _squeezed_sum, axes, List(*(terms[:-1] or terms)))",
        OPERATORS,
        "Fredholm or Spread or Radon or MDC or NonStationary",
    ),
    Fault(
        "overlaps of windows overwritten", "halos.py",
        "axis, place)] += values", "axis, place)] = values",
        OPERATORS, "Sliding or Patch",
    ),
    Fault(
        "blocks of windows span no overlap", "rules/windows.py",
        "(int(starts[a]), int(ends[b - 1]))",
        "(int(starts[a]), int(starts[b]) if b < len(starts) else int(ends[b - 1]))",
        OPERATORS, "Sliding or Patch",
    ),
    Fault(
        "windows at the ends of a block tapered as at the ends of the data", "rules/windows.py",
        "tapers.take([ends[0], 1, ends[1]], axis=axis)", "tapers.take([0, 1, 2], axis=axis)",
        OPERATORS, "Sliding or Patch",
    ),
    Fault(
        "points between two blocks miss the second", "rules/points.py",
        "(int(s), int(min(s + n + 1, sum(sizes))))", "(int(s), int(min(s + n, sum(sizes))))",
        OPERATORS, "Bilinear",
    ),
    Fault(
        "slopes counted from the start of each block", "rules/spread.py",
        "whole(ix0 + first, it)", "whole(ix0, it)",
        OPERATORS, "Spread",
    ),
    Fault(
        "columns of an adjoint multiplied forward", "rules/columns.py",
        "op._rmatmat(block) if adjoint else op._matmat(block)", "op._matmat(block)",
        OPERATORS, "test_matrix_of_columns and FirstDerivative",
    ),
    Fault(
        "real transform said to be complex", "rules/transforms.py",
        "return real_dtype(found) if real else found", "return found",
        OPERATORS, "FFT",
    ),
    Fault(
        "positions taken relative to the wrong block", "functions/positions.py",
        "return block, positions - edges[block]", "return block, positions - edges[0]",
        OPERATORS, "Restriction",
    ),
    Fault(
        "complex conjugate left out", "array.py",
        "self.map(lambda p: p.conj(), of_zeros=self._dtype)",
        "self.map(lambda p: p, of_zeros=self._dtype)",
        "tests/test_array.py tests/test_operators.py", "conj",
    ),
    Fault(
        "writes through a transposed view transposed twice", "array.py",
        "back = tuple(int(a) for a in np.argsort(wanted))", "back = wanted",
        ARRAY, "view or transpose or write",
    ),
    Fault(
        "corners of a halo left out", "halos.py",
        "reached[axis] = slice(0, shape[axis])", "reached[axis] = reached[axis]",
        OPERATORS, "Convolve2D or ConvolveND or Smoothing2D",
    ),
    Fault(
        "samples of several neighbours only from the first", "halos.py",
        'last = int(np.searchsorted(edges, high, side="left"))', "last = first + 1",
        OPERATORS, "Convolve or Smoothing or FirstDerivative",
    ),
    Fault(
        "tiles without a halo", "blocks.py",
        "slice(max(t.start - d, 0), min(t.stop + d, n))", "slice(t.start, t.stop)",
        TILES, "Laplacian or FirstDerivative",
    ),
    Fault(
        "halo of a tile one sample too small", "blocks.py",
        "slice(max(t.start - d, 0), min(t.stop + d, n))",
        "slice(max(t.start - d + 1, 0), min(t.stop + d, n))",
        TILES, "SecondDerivative or FirstDerivative",
    ),
    Fault(
        "tiles all counted from the start of their block", "blocks.py",
        "tuple(o + w.start for o, w in zip(origin, where, strict=True))", "origin",
        TILES, "NonStationary",
    ),
    Fault(
        "filters of a block counted from its start", "rules/signalprocessing.py",
        "op.oh -= starts[op.axis]", "op.oh -= 0",
        OPERATORS, "NonStationaryConvolve1D",
    ),
    Fault(
        "non-stationary filter reaches one sample less", "rules/signalprocessing.py",
        "return tuple(int(n) // 2 for n in op.hshape)",
        "return tuple(max(int(n) // 2 - 1, 0) for n in op.hshape)",
        OPERATORS, "NonStationaryConvolve2D or NonStationaryConvolve3D",
    ),
    Fault(
        "samples around a block counted twice for the filters", "rules/filters.py",
        "new.inp[core] = signal[core]", "new.inp[...] = signal",
        OPERATORS, "NonStationaryFilters",
    ),
    Fault(
        "predictions do not look at the traces of other blocks", "rules/seislets.py",
        "blocks.with_halos((x,), (1, 0))", "blocks.with_halos((x,), (0, 0))",
        OPERATORS, "Seislet",
    ),
    Fault(
        "record of a block of sources one sample short", "rules/waveeqprocessing.py",
        "min(max(shifts) + op.nt + 1, int(op.nttot))", "min(max(shifts) + op.nt, int(op.nttot))",
        OPERATORS, "Blending",
    ),
    Fault(
        "records that are too short left to the task", "rules/waveeqprocessing.py",
        "if end > op.nttot:", "if False:",
        "tests/test_errors.py", "record_that_ends",
    ),
    Fault(
        "shifts by whole samples said to need one more", "rules/waveeqprocessing.py",
        "int(op.nt) + (not on_the_grid)", "int(op.nt) + 1",
        "tests/test_errors.py", "record_that_ends",
    ),
    Fault(
        "settings of transforms left to the task", "rules/transforms.py",
        "return bool(op._kwargs_fft) or", "return",
        "tests/test_errors.py", "transform_that",
    ),
    Fault(
        "transforms of no samples left to the task", "rules/transforms.py",
        "return bool(op._kwargs_fft) or any(op.dimsd[axis] == 0 for axis in _axes(op))",
        "return bool(op._kwargs_fft)",
        "tests/test_errors.py", "transform_that",
    ),
    Fault(
        "no dtype of a rule taken for double precision", "rules/running.py",
        "return None if found is None else np.dtype(found)", "return np.dtype(found)",
        "tests/test_errors.py", "transform_that",
    ),
    Fault(
        "traces of one receiver only in a block of sources", "rules/waveeqprocessing.py",
        "op.nsnr = op.ns * op.nr", "op.nsnr = op.ns",
        OPERATORS, "Kirchhoff",
    ),
    Fault(
        "values at one position overwritten, not added", "functions/positions.py",
        "np.add.at(out, (*before, target), block[(*before, taken)])",
        "out[(*before, target)] += block[(*before, taken)]",
        ARRAY, "add_at or add.at",
    ),
    Fault(
        "positions from the end not counted from there", "functions/indexing.py",
        "target = np.where(positions < 0, positions + n, positions) - first[0]",
        "target = np.abs(positions) - first[0]",
        SELECTIONS, "positions",
    ),
    Fault(
        "elements of one mask written through another", "functions/selecting.py",
        "if _key(mask) != values.key:", "if False:",
        SELECTIONS, "refused",
    ),
    Fault(
        "dtype of a buffer lost when it is written", "array.py",
        "source = source.astype(self._dtype)", "source = source.copy()",
        ARRAY, "",
    ),
    Fault(
        "imaginary part lost when the real part is written", "array.py",
        "self.assign(value + 1j * self._part(lambda p: p.imag))", "self.assign(value)",
        ARRAY, "keeps_the_other",
    ),
    Fault(
        "NaN not left out of a maximum over pieces", "functions/reductions.py",
        "_reduction(np.nanmax, da.nanmax, np.fmax)", "_reduction(np.nanmax, da.nanmax, np.maximum)",
        ARRAY, "without_a_number",
    ),
    Fault(
        "vector that has some zeros taken for zeros", "array.py",
        "of_zeros is not None and all(isinstance", "of_zeros is not None and any(isinstance",
        ARRAY, "zeros_between",
    ),
    Fault(
        "number written to two places of a vector", "functions/indexing.py",
        "index = slice(start, start + 1)", "index = slice(start, start + 2)",
        ARRAY, "any_part",
    ),
    Fault(
        "values written into a vector keep their dtype", "functions/indexing.py",
        "source = source.astype(box.dtype)", "source = source.copy()",
        ARRAY, "any_part",
    ),
    Fault(
        "range that ends in the next row taken for one within a row", "pieces.py",
        "low // row == (high - 1) // row", "low // row == (high - 2) // row",
        ARRAY, "any_range",
    ),
    Fault(
        "positions in some rows added to in all rows", "functions/indexing.py",
        "isinstance(index, slice) and _range(index, n) == (0, n)", "isinstance(index, slice)",
        ARRAY, "no_write_is_lost",
    ),
    Fault(
        "blocks folded as if each span began where a chunk does", "halos.py",
        "ahead = int(edges[target]) - low", "ahead = 0",
        "tests/test_halos.py", "folded",
    ),
    Fault(
        "matrix of many blocks gathered for a vector of one", "rules/matrix.py",
        "rows = max(rows, x.chunks[0], key=len)", "rows = x.chunks[0]",
        STACKS, "not_gathered",
    ),
    Fault(
        "axis counted from the end is not the axis of a filter", "rules/basic.py",
        "        axis = op.axis % len(op.dims)\n        if any(",
        "        axis = op.axis\n        if any(",
        "tests/test_graphs.py", "counted_from_the_end",
    ),
    Fault(
        "one vector more remembered than is asked for", "rules/basic.py",
        "len(store) + 1 > op.max_neval", "len(store) > op.max_neval",
        OPERATORS, "forgets",
    ),
    Fault(
        "upper triangle for the lower", "functions/linalg.py",
        "lower=not upper", "lower=upper",
        "tests/test_functions_complete.py", "cholesky",
    ),
    Fault(
        "copies of blocks of sparse matrices", "rules/matrix.py",
        "rows.data[where],", "rows.data[where].copy(),",
        OPERATORS, "sparse",
    ),
    Fault(
        "sparse matrices in disorder are copied once for good", "rules/matrix.py",
        "values = tuple(map(checksum, arrays))", "values = tuple(map(len, arrays))",
        OPERATORS, "sparse",
    ),
    Fault(
        "matrices by columns are not conjugated", "rules/matrix.py",
        'y = da.conj(y) if A.dtype.kind == "c" else y', "y = y",
        OPERATORS, "MatrixMult-sparse-csc",
    ),
    Fault(
        "lazy results let go of what an operator has sent", "placing.py",
        "known.futures.pop(name, None)", "known.futures.pop(name, {}).clear()",
        "tests/test_placing.py", "gone_read",
    ),
    Fault(
        "a mask is sent for each application", "functions/indexing.py",
        "coefficient(mask, pc.chunks_like(mask.shape, piece), held)",
        "coefficient(mask, pc.chunks_like(mask.shape, piece))",
        "tests/test_placing.py", "mask",
    ),
    Fault(
        "executions of a solve share the names of tasks", "solvers.py",
        'mark = f"-{uuid.uuid4().hex[:12]}"', 'mark = ""',
        "tests/test_distributed.py", "tasks_of_their_own",
    ),
    Fault(
        "shuffles of two executions are one", "optimisation.py",
        "of_their_own(graph, mark)", "(graph, {})",
        OPTIMISATION, "told_apart",
    ),
    Fault(
        "names that are to stay are changed", "optimisation.py",
        "array.name in keep or not held", "not held",
        OPTIMISATION, "keep_theirs",
    ),
    Fault(
        "what waits for a shuffle is fused", "optimisation.py",
        "apart = any(nodes[k].block_fusion for k in (key, *others))",
        "apart = any(nodes[k].block_fusion for k in others)",
        "tests/test_distributed.py", "shuffles",
    ),
    Fault(
        "sparse matrices of two shapes are taken for one", "rules/matrix.py",
        '("rows", A.format, A.shape, A.dtype.str,', '("rows", A.format, A.dtype.str,',
        OPERATORS, "may_share",
    ),
    Fault(
        "shuffles are bound to workers that may have died", "placing.py",
        "name.startswith(BARRIER)", 'name.startswith("barrier")',
        "tests/test_placing.py", "may_choose",
    ),
    Fault(
        "masks of all axes take matrices", "functions/indexing.py",
        "only.ndim == box.ndim and np.ndim(value) > 1", "only.ndim == box.ndim and False",
        VIEWS, "takes_a_number",
    ),
    Fault(
        "lazy data are kept under their new names", "solvers.py",
        "known.update([(done[n].name, piece) for n, piece in known.items() if n in done])",
        "known.update([])",
        "tests/test_undoing.py", "let_go_once",
    ),
    Fault(
        "SciPy's cg works on data that are zero", "scipy_solvers.py",
        "if not bnorm:", "if bnorm < 0:",
        "tests/test_inversions.py", "no_step_can",
    ),
    Fault(
        "SciPy's cg is done where data are no numbers", "scipy_solvers.py",
        "if np.isnan(cost[-1]):", "if np.isinf(cost[-1]):",
        "tests/test_inversions.py", "no_step_can",
    ),
    Fault(
        "zeros of the precision of the data", "scipy_solvers.py",
        "x = x.real.astype(float)", "x = x.real",
        "tests/test_inversions.py", "no_step_can",
    ),
    Fault(
        "the adjoint of filters has the operator's dtype", "rules/signalprocessing.py",
        "adjoint_dtype=lambda op: op.inp.dtype", "adjoint_dtype=lambda op: op.dtype",
        OPERATORS, "NonStationaryFilters2D",
    ),
    Fault(
        "an operator is read while another thread adds to it", "array.py",
        "list(x.values()) if isinstance(x, dict)", "x.values() if isinstance(x, dict)",
        "tests/test_planning.py", "given_an_attribute",
    ),
    Fault(
        "lazy attributes are read while another thread adds to them", "operators.py",
        "in dict(vars(op)).items():\n        if isinstance(value, (DaskArray",
        "in vars(op).items():\n        if isinstance(value, (DaskArray",
        "tests/test_planning.py", "given_an_attribute",
    ),
    Fault(
        "users' code writes into blocks", "blocks.py",
        "x.copy() if foreign and", "x.copy() if False and",
        "tests/test_writing.py", "code_that",
    ),
    Fault(
        "users' code on tiles writes into blocks", "blocks.py",
        "foreign = runs_foreign_code(template)", "foreign = False",
        "tests/test_writing.py", "code_that",
    ),
    Fault(
        "SciPy's transforms write into blocks", "blocks.py",
        "runs_users_code(part) or _overwrites(part)", "runs_users_code(part)",
        "tests/test_writing.py", "transforms",
    ),
    Fault(
        "futures within tasks of dask.delayed", "placing.py",
        "if key is None and self.key in subs:", "if False:",
        "tests/test_placing.py", "called_later",
    ),
    Fault(
        "lazy results of tasks share names with what lies on the cluster", "placing.py",
        "if in_task() and session.get() is None:", "if False:",
        "tests/test_worker_tasks.py", "lazy_results",
    ),
    Fault(
        "lazy settings of functions are computed", "functions/__init__.py",
        "parameter in settings and", "False and",
        "tests/test_functions_complete.py", "wherever_it_is_lazy",
    ),
    Fault(
        "a lazy end of a range is taken for the other", "functions/creation.py",
        "(*ends, *numbers) if lazy_first else (*numbers, *ends)", "(*ends, *numbers)",
        "tests/test_functions.py", "ranges_between_lazy_ends",
    ),
    Fault(
        'a subclass that was copied loses its rule', 'rules/running.py',
        'vars(kind).keys() - {"__slotnames__"}',
        'vars(kind).keys()',
        'tests/test_rules.py', 'copy_leaves',
    ),
    Fault(
        'a negative halo of a function', 'rules/table.py',
        'isinstance(n, _WHOLE_NUMBERS) and n >= 0',
        'isinstance(n, _WHOLE_NUMBERS)',
        'tests/test_rules.py', 'no_number_of_samples',
    ),
    Fault(
        'a flat coefficient is given to blocks with their axes', 'blocks.py',
        'return array.reshape(-1) if self.flat else array',
        'return array',
        'tests/test_rules.py', 'stays_flat',
    ),
    Fault(
        'code for vectors sees the axes of blocks', 'blocks.py',
        'own = (math.prod(dims),) if flat else dims',
        'own = dims',
        'tests/test_rules.py', 'stays_flat',
    ),
    Fault(
        'numbers are cut as arrays are', 'blocks.py',
        'if getattr(vars(op)[name], "ndim", 0))',
        ')',
        'tests/test_rules.py', 'numbers_or_of_some',
    ),
    Fault(
        'coefficients of another shape are reshaped', 'rules/running.py',
        'if not _is_along(shape, dims):',
        'if len(shape) > len(dims):',
        'tests/test_rules.py', 'numpy_does_not_take',
    ),
    Fault(
        'a number that the terms of a sum share is lost', 'rules/terms.py',
        'if getattr(vars(op).get(name), "ndim", 0):  # a number',
        'if name in vars(op):  # a number',
        'tests/test_rules.py', 'numbers_or_of_some',
    ),
    Fault(
        'a direction that was changed is not seen', 'rules/basic.py',
        'if made_of != direction:',
        'if tree is None:',
        'tests/test_operators.py', 'direction_changed',
    ),
    Fault(
        'the norm of the data is worked out in each step', 'solvers.py',
        'known = sessions.get(solver)\n        if known is None or',
        'known = None\n        if known is None or',
        'tests/test_steps.py', 'norm_of_the_data',
    ),
    Fault(
        'checks take real factors alone', 'testing.py',
        '(2 - 1j, -3 + 0.5j) if complex_too else (2, -3)',
        '(2, -3)',
        'tests/test_testing.py', 'complex_factors',
    ),
    Fault(
        'checks give no input of another precision', 'testing.py',
        '_OTHER_PRECISION.get(np.dtype(op.dtype).str[1:])',
        'None',
        'tests/test_testing.py', 'dtype_that_a_rule',
    ),
    Fault(
        'vectors that are cut otherwise are taken for alike', 'functions/elementwise.py',
        'elif x.shape != shape or cut != chunks:',
        'elif x.shape != shape:',
        'tests/test_array.py tests/test_functions.py', '',
    ),
    Fault(
        "arguments after those of any number are taken for others", "functions/__init__.py",
        "if parameter.kind in by_place", "if parameter.kind",
        "tests/test_functions_complete.py", "meshgrid",
    ),
    Fault(
        "boxes within tasks", "array.py",
        "@normalize_token.register(DispatchArray)\n", "",
        "tests/test_functions.py", "as_a_setting",
    ),
    Fault(
        "differences of truth values", "functions/shaping.py",
        "np.not_equal if box.dtype == bool else np.subtract", "np.subtract",
        "tests/test_functions.py", "differences",
    ),
    Fault(
        "arrays are filled with lazy numbers within tasks", "functions/creation.py",
        "if np.ndim(fill_value) or is_lazy(fill_value):", "if np.ndim(fill_value):",
        "tests/test_functions.py", "lazy_numbers",
    ),
    Fault(
        "damped solves stay in single precision", "scipy_solvers.py",
        "np.result_type(x0, b, A.dtype, numbers)", "np.result_type(x0, b, A.dtype)",
        "tests/test_inversions.py", "damped",
    ),
    Fault(
        "data on another cluster are not told apart", "notes.py",
        'if str(error).startswith("Missing', 'if str(error).endswith("Missing',
        "tests/test_distributed.py", "told_apart",
    ),
    Fault(
        "what is written through a view is read anew of its array", "array.py",
        "view.version = view.root._version  # or", "pass  # or",
        VIEWS, "written_to_after",
    ),
    Fault(
        "graphs refer to small buffers", "pieces.py",
        'array.copy(order="K") if array.nbytes <= _HASHED else array', "array",
        "tests/test_writing.py", "may_change_before or runs_once",
    ),
    Fault(
        "graphs refer to large buffers that were filled anew", "refilling.py",
        "if all(_contents(array) == before for", "if True or all(_contents(array) == before for",
        "tests/test_writing.py", "filled_anew",
    ),
    Fault(
        "an operator that was run again is counted twice", "refilling.py",
        "    put_back()\n    return _on_copies", "    return _on_copies",
        "tests/test_writing.py", "filled_anew",
    ),
    Fault(
        "samples are read one by one in a solver", "policy.py",
        "if not left[0]:", "if left[0] < -1000:",
        "tests/test_solvers.py", "one_by_one",
    ),
    Fault(
        "code that reads much is tried in each application", "entry.py",
        "keep_for(op, _reading_much, reason)", "pass",
        "tests/test_solvers.py", "one_by_one",
    ),
    Fault(
        "a solver within an operator may read little", "solvers.py",
        "few_reads(math.inf)", "nullcontext()",
        "tests/test_solvers.py", "as_many_values",
    ),
    Fault(
        "functions may give a halo for other axes", "rules/table.py",
        "or len(found) != len(op.dims)):", "or not len(found)):",
        "tests/test_errors.py", "said_to_be_none",
    ),
    Fault(
        "all operators get a rule", "rules/__init__.py",
        "issubclass(cls, base)) or cls is base:", "issubclass(cls, base)):",
        "tests/test_errors.py", "no_rule_for_all",
    ),
    Fault(
        "checks of operators that write into their input", "testing.py",
        "apply(x0.copy())  # code", "apply(x0)  # code",
        "tests/test_testing.py", "may_write",
    ),
    Fault(
        "operators need a hash", "pieces.py",
        "key = identity(owner)\n    place", "key = str(hash(owner))\n    place",
        "tests/test_placing.py", "need_no_hash",
    ),
    Fault(
        "numbers are changed in place", "array.py",
        "scalar = not self._shape and self._view is None", "scalar = False",
        VIEWS, "not_changed_in_place",
    ),
    Fault(
        "vectors that are seen through one view stay", "solvers.py",
        "        self._leave_owners()\n", "",
        "tests/test_repeating.py", "as_large_as",
    ),
    Fault(
        "templates of operators refer to small arrays", "blocks.py",
        "vars(op)[name] = taking.get()(value)", "pass",
        "tests/test_writing.py", "small_coefficients",
    ),
    Fault(
        "views leave owners that others see", "array.py",
        "sys.getrefcount(view.root) <= _ONE_REFERENCE:", "True:",
        VIEWS, "in_a_solver",
    ),
    Fault(
        "what is broadcast is no view", "functions/shaping.py",
        "return read(array).reading(array, read)", "return read(array)",
        VIEWS, "array_is_later or not_to_be_written",
    ),
    Fault(
        "diagonals are no views", "functions/__init__.py",
        "if func in _READ_ONLY_VIEWS and", "if False and",
        VIEWS, "array_is_later or not_to_be_written",
    ),
    Fault(
        "imaginary parts are dropped", "functions/indexing.py",
        'if type(value) is complex and box.dtype.kind != "c":', "if False:",
        VIEWS, "not_dropped",
    ),
    Fault(
        "complex samples that windows add up in real ones", "rules/windows.py",
        "return added_up(op, dtype)", "return np.dtype(op.dtype)",
        "tests/test_errors.py", "dtype or windows",
    ),
    Fault(
        "asking what windows give counts in their operator", "rules/windows.py",
        "left_as_they_are([op.Op])", "left_as_they_are([])",
        "tests/test_errors.py", "changes_nothing",
    ),
    Fault(
        "what windows are given is taken for what they add up", "rules/windows.py",
        "if not op.simOp:", "if False:",
        "tests/test_errors.py", "dtype or windows",
    ),
    Fault(
        "real spectra of whole numbers", "rules/transforms.py",
        "if adjoint and op.real:", "if False:",
        "tests/test_errors.py", "dtype",
    ),
    Fault(
        "solver objects look for lazy operators in themselves alone", "solvers.py",
        "lazy = holds((op, args, kwargs), gives_lazy if begins else is_made_of_lazy)",
        "lazy = holds((args, kwargs), is_lazy) or gives_lazy(op)",
        "tests/test_inversions.py", "one_lazy_operator",
    ),
    Fault(
        "operators of dask arrays that are the first are not known as such", "construction.py",
        "        made_lazy.add(True)\n        given", "        given",
        "tests/test_construction.py tests/test_applications.py", "first or tests_its_operator",
    ),
    Fault(
        "what an application has looked at is worked out again", "construction.py",
        "if current is None or not is_box(x) else current.vector(x)", "",
        "tests/test_applications.py", "looks_at",
    ),
    Fault(
        "lazy numbers in a solve that NumPy arrays are made with", "construction.py",
        """        if not holds((args, kwargs), is_lazy):
            return original(*args, **kwargs)
        given = named_arguments(original, args, kwargs)
        return original(**""",
        """        if not holds((args, kwargs), is_dask):
            return original(*args, **kwargs)
        given = named_arguments(original, args, kwargs)
        return original(**""",
        "tests/test_applications.py", "looks_at",
    ),
    Fault(
        "whole numbers that PyLops counts with stay lazy", "construction.py",
        "in _SETTINGS or known.issuperset(kinds)", "in _SETTINGS",
        "tests/test_construction.py", "counts_with",
    ),
    Fault(
        "velocities that code writes with stay lazy", "construction.py",
        'if numbers else {"int", "bool", "None"}', 'if False else {"int", "bool", "None"}',
        "tests/test_construction.py", "are_looked_at",
    ),
    Fault(
        "callbacks of PyLops keep boxes", "solvers.py",
        "_convert(callbacks, _is_read, lower)", "pass",
        "tests/test_steps.py", "norm_of_the_data",
    ),
    Fault(
        "globals of functions of operators are not looked into", "operators.py",
        "yield is_dask(function.__globals__.get(name))", "yield False",
        "tests/test_inversions.py", "refer_to",
    ),
    Fault(
        "what functions of operators close over is not looked into", "operators.py",
        "yield is_dask(cell.cell_contents)", "yield False",
        "tests/test_inversions.py", "refer_to",
    ),
    Fault(
        "terms of pyproximal are not looked into", "operators.py",
        "    if not TERMS or not isinstance(x, tuple(TERMS)):", "    if True:",
        "tests/test_pyproximal.py", "terms_of",
    ),
    Fault(
        "dtypes of columns from zeros of another dtype", "rules/castings.py",
        "da.zeros(shape, dtype=dtype)", "da.zeros(shape, dtype)",
        "tests/test_states.py", "columns_have_the_dtype",
    ),
    Fault(
        "solutions of a matrix in the operator's dtype", "blocks.py",
        "dtype = _dtype_of_solution(op.A, y.dtype, args, kwargs)", "dtype = np.dtype(op.dtype)",
        "tests/test_solvers.py", "division_has_the_dtype",
    ),
    Fault(
        "one window taken for what its operator gives", "rules/windows.py",
        "if op.simOp and tuple(op.Op.dimsd[:n]) != dims[:n]:", "if False:",
        "tests/test_construction.py", "one_window",
    ),
    Fault(
        "points beyond the grid are refused in their tasks", "rules/points.py",
        "    _require_inside(op, dims)\n", "",
        "tests/test_construction.py", "on_both_sides",
    ),
    Fault(
        "checkpoints overwrite what else is in a store", "checkpoint.py",
        'if others := {name for name in others if not name.startswith(".")}:', "if False:",
        "tests/test_checkpoint.py", "left_alone",
    ),
    Fault(
        "checkpoints of other problems", "checkpoint.py",
        "        _require_same(solver, state)\n", "",
        "tests/test_checkpoint.py", "another_problem",
    ),
    Fault(
        "workers that write elsewhere are not noticed", "checkpoint.py",
        "            _reach(self._zarr, self._store)\n", "",
        "tests/test_checkpoint.py", "other_processes",
    ),
    Fault(
        "workers that cannot read are not noticed", "checkpoint.py",
        "        _require_seen(store)\n", "        pass\n",
        "tests/test_checkpoint.py", "other_processes",
    ),
    Fault(
        "paths that depend on the folder of a process", "checkpoint.py",
        "path = Path(store).absolute()", "path = Path(store)",
        "tests/test_checkpoint.py", "other_processes",
    ),
    Fault(
        "bytes of a checkpoint are not checked", "checkpoint.py",
        "compressors=[zarr.codecs.Crc32cCodec()]", "compressors=None",
        "tests/test_checkpoint.py", "the_one_that_is_whole",
    ),
    Fault(
        "solvers without steps are given a checkpoint", "checkpoint.py",
        "if isinstance(solver, _WITHOUT_STEPS):", "if False:",
        "tests/test_checkpoint.py", "without_steps",
    ),
    Fault(
        "blocks that were not written count", "checkpoint.py",
        '        _check_arrays(group, state["stored"])\n    except _Incomplete as error:  # of',
        "        pass\n    except _Incomplete as error:  # of",
        "tests/test_checkpoint.py", "after_writing",
    ),
    Fault(
        "dask arrays that operators hold are worked out by functions", "functions/__init__.py",
        "if any(map(is_dask, (*args, *kwargs.values()))):", "if False:",
        "tests/test_functions.py", "what_an_operator_holds",
    ),
    Fault(
        "lazy bounds of slices are worked out twice", "functions/indexing.py",
        "operator.index(as_box(value)) if is_lazy(value) else value", "value",
        "tests/test_functions.py", "what_an_operator_holds",
    ),
    Fault(
        "trials on zeros leave their numbers in arrays of operators", "entry.py",
        "            array[...] = content\n", "            pass\n",
        "tests/test_testing.py", "array_of_its_own",
    ),
    Fault(
        "flattened zeros cut as what they were", "functions/elementwise.py",
        "zeros = Zeros(x.shape, piece.dtype)", "zeros = piece",
        "tests/test_array.py", "flattened_zeros",
    ),
    Fault(
        "products with all of a large vector, for each of its blocks", "rules/matrix.py",
        "if blocks > 1 and _is_small_for(A, x):", "if False:",
        "tests/test_graphs.py", "small_matrix",
    ),
    Fault(
        "all of an array in one block on its way to others", "pieces.py",
        "return x.rechunk(chunks, threshold=_DIRECT, block_size_limit=1)",
        "return x.rechunk(chunks)",
        "tests/test_graphs.py", "small_matrix",
    ),
    Fault(
        "the last of two axes transformed in one block", "rules/running.py",
        "if x.npartitions > math.prod(count for a, count in enumerate(cut) if a != axis) == 1:",
        "if False:",
        "tests/test_graphs.py", "ever_being_one_block",
    ),
    Fault(
        "an axis is cut again within an operator", "entry.py",
        "return y if within and _works_along_axes(op) else", "return",
        "tests/test_graphs.py", "leaves_its_axis_whole",
    ),
    Fault(
        "settings of a solution are looked at in its task", "namespace.py",
        "np.ones(1, columns.dtype), kwargs).dtype", "np.ones(1, columns.dtype), {}).dtype",
        "tests/test_construction.py", "settings_of_scipy",
    ),
    Fault(
        "positions of sources are computed without a word", "construction.py",
        '("vp", "src_x", "src_z", "rec_x", "rec_z")', "()",
        "tests/test_construction.py", "acoustic",
    ),
    Fault(
        "large data of a small model in one block", "rules/basic.py",
        'min(parse_bytes(dask.config.get("array.chunk-size")), pc.LARGE)', "None",
        "tests/test_graphs.py", "larger_than_their_model",
    ),
    Fault(
        "what lies between large parts is one block", "functions/parts.py",
        "length = max(length, *(part.stop - part.start for part in placed))", "length = n",
        "tests/test_parts.py", "between_large_parts",
    ),
    Fault(
        "large parts of an array lose their chunks", "functions/parts.py",
        "<= _FEW < len(placed):", "<= 0:",
        "tests/test_parts.py", "keep_their_chunks",
    ),
    Fault(
        "dtypes of columns from zeros that are known as such", "rules/castings.py",
        "da.zeros(shape, dtype=dtype) if users else Zeros(shape, dtype)", "Zeros(shape, dtype)",
        "tests/test_states.py", "columns",
    ),
    Fault(
        "lazy ratios of velocities taken for numbers", "construction.py",
        "run = with_namespace(original)\n        found", "run = original\n        found",
        "tests/test_construction.py", "ratios",
    ),
    Fault(
        "a cluster's graph is made where tasks are given their workers", "optimisation.py",
        "            marked = _marked(arrays, in_full(graph), mark, keep)\n"
        "            with placed or nullcontext():\n",
        "            with placed or nullcontext():\n"
        "                marked = _marked(arrays, in_full(graph), mark, keep)\n",
        "tests/test_placing.py", "operators_of_users",
    ),
    Fault(
        "workers that the user has named are others in a solve", "placing.py",
        'chosen = "workers" in dask.get_annotations()', "chosen = False",
        "tests/test_placing.py", "named",
    ),
    Fault(
        "operators without a rule are run on zeros at each application", "rules/running.py",
        "    if key not in _errors:\n", "    if True:\n",
        "tests/test_states.py", "when_it_is_new",
    ),
    Fault(
        "what an operator refused before it was changed", "rules/running.py",
        "return cls, type(op), name_of(op), box.dtype, adjoint",
        "return cls, type(op), box.dtype, adjoint",
        "tests/test_states.py", "when_it_is_new",
    ),
    Fault(
        "projections of single samples may each read as much as all of them", "packages.py",
        "shared = outer if outer is not None and outer[0] <= _READS else None", "shared = None",
        "tests/test_pyproximal.py", "one_by_one",
    ),
    Fault(
        "a method that has read too much begins again each time", "packages.py",
        "                if not reads[0]:\n", "                if False:\n",
        "tests/test_pyproximal.py", "one_by_one",
    ),
    Fault(
        "what is made of masked blocks is said to be none", "functions/elementwise.py",
        "return isinstance(piece, DaskArray) and type(piece._meta) is np.ndarray",
        "return isinstance(piece, DaskArray)",
        "tests/test_functions.py", "masked",
    ),
    Fault(
        "weights that are made of the data are worked out later", "solvers.py",
        "        self._add_what_is_made_of_the_same(lazy)\n", "",
        "tests/test_inversions.py", "made_of_the_same",
    ),
    Fault(
        "what is made of an array of an operator is worked out with it", "solvers.py",
        "layers = self._ancestors(array, itself=False)[1]", "layers = set(array.dask.layers)",
        "tests/test_repeating.py", "stay_lazy",
    ),
    Fault(
        "data in memory that arrays of an operator share has them all worked out", "solvers.py",
        "if not pc.is_data(array.dask.layers[layer])", "if True",
        "tests/test_repeating.py", "stay_lazy",
    ),
    Fault(
        "arrays that are made of the same arrays are looked for once", "solvers.py",
        "executed = [self._coefficients[name].dask.layers for name in alike]", "executed = []",
        "tests/test_inversions.py", "share",
    ),
    Fault(
        "columns of a matrix are as many as what is solved with all of it", "blocks.py",
        'shape = (op.A.shape[1], ', "shape = (op.shape[1], ",
        "tests/test_inversions.py", "columns_of_a_matrix",
    ),
    Fault(
        "stacks of one task each take booleans", "rules/stacks.py",
        'if box.dtype.kind == "b" or (', "if (",
        "tests/test_errors.py", "booleans",
    ),
    Fault(
        "constructors of what is made of operators only", "construction.py",
        "(settings_of(own) or not plain)", "True",
        "tests/test_construction.py", "own_constructor",
    ),
]  # fmt: skip


def copied(folder: Path) -> Path:
    """A copy of the package and its tests, without what was compiled."""
    ignored = shutil.ignore_patterns("__pycache__", ".*", "_build")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def tests_fail(folder: Path, tests: list[str]) -> str:
    """The first of these tests that fails; empty if all of them pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider"]
    env = {**os.environ, "PYTHONPATH": str(folder / "src"), "CI": "1"}
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [*command, *tests],
        cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if done.returncode not in (0, 1) and not failed:  # 2 may be that of the first to fail
        raise RuntimeError(f"the tests {tests} do not run:\n{done.stdout}{done.stderr}")
    return failed[0].removeprefix("FAILED ").partition(" - ")[0] if failed else ""


def caught_by(folder: Path, fault: Fault) -> str:
    """The test that fails with the fault and passes without it; empty if there is none."""
    path = folder / "src" / "pylops_dispatch" / fault.file
    text = path.read_text()
    if fault.right not in text:
        print(f"{fault.file} has no {fault.right!r} any more")
        return ""
    path.write_text(text.replace(fault.right, fault.wrong))
    try:
        test = tests_fail(folder, [*fault.tests.split(), "-k", fault.chosen])
    finally:
        path.write_text(text)
    return test if test and not tests_fail(folder, [test]) else ""


def main() -> int:
    words = sys.argv[1:]
    faults = [fault for fault in FAULTS if all(word in fault.name for word in words)]
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = copied(Path(name))
        where = [sys.executable, "-c", "import pylops_dispatch; print(pylops_dispatch.__file__)"]
        env = {**os.environ, "PYTHONPATH": str(folder / "src")}
        found = subprocess.run(where, env=env, capture_output=True, text=True, check=True).stdout
        assert Path(found.strip()).is_relative_to(folder), f"the tests would use {found}"
        for fault in faults:
            start = time.perf_counter()
            test = caught_by(folder, fault)
            missed += not test
            seconds = time.perf_counter() - start
            found = "caught" if test else "MISSED"
            print(
                f"{found} {seconds:4.0f} s  {fault.name:74} {test.partition('::')[2]}", flush=True
            )
    print(f"{len(faults) - missed} of {len(faults)} faults caught")
    return bool(missed)


if __name__ == "__main__":
    raise SystemExit(main())
