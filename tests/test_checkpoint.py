"""Checkpoints: the state of a solver in a Zarr store, and the same numbers after it."""

import sys
from pathlib import Path

import dask.array as da
import distributed
import numpy as np
import pylops
import pytest
from pylops.optimization.cls_basic import CG, CGLS, LSQR
from pylops.optimization.cls_leastsquares import (
    NormalEquationsInversion,
    PreconditionedInversion,
    RegularizedInversion,
)
from pylops.optimization.cls_sparsity import FISTA, IRLS, ISTA, OMP, SPGL1, SplitBregman

import pylops_dispatch
from pylops_dispatch.array import lift

from .helpers import assert_close, count_executions, forbid_executions, rand, to_dask
from .interpreters import run_python

zarr = pytest.importorskip("zarr")

DIMS = (9, 7)
CHUNKS = ((4, 3, 2), (5, 2))
KINDS = ["dask", "numpy"]


def square(dtype="float64"):
    slope = pylops.FirstDerivative(DIMS, axis=0, kind="forward", dtype=dtype)
    return pylops.Diagonal(1 + np.abs(rand(DIMS)).astype(dtype)) + 0.5 * (slope.H @ slope)


def stacked(dtype="float64"):
    return pylops.VStack(
        [
            pylops.Diagonal(1 + np.abs(rand(DIMS)).astype(dtype), dtype=dtype),
            0.5 * pylops.FirstDerivative(DIMS, axis=0, dtype=dtype),
        ]
    )


def data(op, kind, dtype="float64"):
    if kind == "numpy":
        return op @ rand(DIMS, dtype, seed=1).ravel()
    return (op @ to_dask(rand(DIMS, dtype, seed=1), CHUNKS)).ravel()


SOLVERS = {
    CG: (square, {"tol": 0}),
    CGLS: (stacked, {"tol": 0, "damp": 0.1}),
    LSQR: (stacked, {"atol": 0, "btol": 0, "conlim": 0}),
    ISTA: (stacked, {"alpha": 0.1, "eps": 0.05, "tol": 0}),
    FISTA: (stacked, {"alpha": 0.1, "eps": 0.05, "tol": 0}),
}


def run_and_write(solver, store, y, niter, every=1, **settings):
    solver.callbacks = [pylops_dispatch.checkpoint(store, every=every)]
    solver.solve(y, niter=niter, **settings)


def values(x):
    return x.compute(scheduler="synchronous") if isinstance(x, da.Array) else x


@pytest.mark.parametrize(("dtype", "preallocate"), [("float64", False), ("complex128", True)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", SOLVERS)
def test_same_numbers_as_without_interruption(tmp_path, cls, kind, dtype, preallocate):
    make, settings = SOLVERS[cls]
    settings = {**settings, "preallocate": preallocate}
    op = make(dtype)
    y = data(op, kind, dtype)
    whole = cls(op)
    expected = whole.solve(y, niter=5, **settings)[0]

    run_and_write(cls(op), tmp_path / "run.zarr", y, 2, **settings)
    solver = cls(make(dtype))
    solver.setup(y, niter=5, **settings)
    x = pylops_dispatch.resume(tmp_path / "run.zarr", solver)
    assert solver.iiter == 2
    assert type(x) is (da.Array if kind == "dask" else np.ndarray)
    x = solver.run(x)
    solver.finalize()
    assert solver.iiter == 5
    assert type(x) is type(expected)
    assert_close(values(x), values(expected))
    assert_close(solver.cost, whole.cost)


def test_splitbregman(tmp_path):
    op = square()
    y = data(op, "dask")
    settings = {
        "RegsL1": [pylops.FirstDerivative(DIMS)], "niter_inner": 1, "mu": 1.0,
        "epsRL1s": [0.1], "tol": 1e-12, "tau": 1.0,
    }  # fmt: skip

    def solve(solver, niter_outer):
        x = solver.setup(y, niter_outer=niter_outer, **settings)
        return solver.run(x, engine="pylops", niter=3)

    whole = SplitBregman(op)
    expected = solve(whole, 4)
    solver = SplitBregman(op)
    solver.callbacks = [pylops_dispatch.checkpoint(tmp_path, every=2)]
    solve(solver, 3)
    solver = SplitBregman(op)
    solver.setup(y, niter_outer=4, **settings)
    x = solver.run(pylops_dispatch.resume(tmp_path, solver), engine="pylops", niter=3)
    assert_close(values(x), values(expected))
    assert_close(solver.cost, whole.cost)


@pytest.mark.parametrize("kind", KINDS)
def test_omp_goes_on_with_its_columns(tmp_path, kind):
    op = pylops.MatrixMult(rand((12, 20)))
    y = op @ np.where(np.arange(20) % 7 == 0, 1.0 + np.arange(20), 0)
    y = to_dask(y, 5) if kind == "dask" else y
    settings = {"niter_inner": 20, "sigma": 0.0}

    def solve(solver, x, cols):
        return solver.run(x, cols, engine="pylops")

    whole = OMP(op)
    whole.setup(y, niter_outer=3, **settings)
    expected, expected_cols = solve(whole, [], [])
    solver = OMP(op)
    solver.callbacks = [pylops_dispatch.checkpoint(tmp_path, every=1)]
    solver.setup(y, niter_outer=2, **settings)
    solve(solver, [], [])
    solver = OMP(op)
    solver.setup(y, niter_outer=3, **settings)
    x, cols = solve(solver, *pylops_dispatch.resume(tmp_path, solver))
    assert cols == expected_cols
    assert_close(values(x), values(expected))


def test_after_another_process_was_killed(tmp_path):
    store = str(tmp_path / "run.zarr")
    script = """
        import os, sys
        import dask.array as da
        import pylops
        import pylops_dispatch
        from pylops.optimization.cls_basic import LSQR

        def killed(x):
            if solver.iiter == 5:
                os._exit(3)

        solver = LSQR(pylops.Laplacian((12, 9)) + 5 * pylops.Identity(108))
        solver.callbacks = [pylops_dispatch.checkpoint(sys.argv[1], every=2)]
        solver.callback = killed
        solver.solve(da.arange(108, chunks=50, dtype=float), niter=8, atol=0, btol=0)
        """
    assert run_python(script, store).returncode == 3

    op = pylops.Laplacian((12, 9)) + 5 * pylops.Identity(108)
    y = da.arange(108, chunks=50, dtype=float)
    whole, solver = LSQR(op), LSQR(op)
    expected = whole.solve(y, niter=8, atol=0, btol=0)[0]
    solver.setup(y, niter=8, atol=0, btol=0)
    x = pylops_dispatch.resume(store, solver)
    assert solver.iiter == 4
    assert_close(values(solver.run(x)), values(expected))
    assert_close(solver.cost, whole.cost)


def test_layout_is_kept(tmp_path):
    op = stacked()
    run_and_write(CGLS(op), tmp_path, data(op, "dask"), 2, tol=0)
    solver = CGLS(op)
    solver.setup(data(op, "dask"), tol=0)
    setup = {name: lift(getattr(solver, name)) for name in ("s", "c", "q")}
    x = pylops_dispatch.resume(tmp_path, solver)
    assert [piece.chunks for piece in lift(x).pieces] == [CHUNKS]
    for name, before in setup.items():
        after = lift(getattr(solver, name))
        assert [p.chunks for p in after.pieces] == [p.chunks for p in before.pieces]


def test_every_n_steps(tmp_path):
    op = stacked()
    y = data(op, "dask")
    run_and_write(CGLS(op), tmp_path, y, 8, every=3, tol=0)
    solver = CGLS(op)
    solver.setup(y)
    pylops_dispatch.resume(tmp_path, solver)
    assert solver.iiter == 6


def test_steps_that_a_user_takes(tmp_path):
    op = stacked()
    y = data(op, "dask")
    whole = FISTA(op)
    settings = {"alpha": 0.1, "tol": 0, "niter": 6}
    expected = whole.solve(y, **settings)[0]
    solver = FISTA(op)
    solver.callbacks = [pylops_dispatch.checkpoint(tmp_path, every=3)]
    x = solver.setup(y, **settings)
    z = x.copy()
    for _ in range(4):
        x, z, _ = solver.step(x, z)
    solver = FISTA(op)
    solver.setup(y, **settings)
    x = pylops_dispatch.resume(tmp_path, solver)
    z = x.copy()
    for _ in range(3):
        x, z, _ = solver.step(x, z)
    assert_close(values(x), values(expected))


def test_no_task_of_the_solver_runs_twice(tmp_path):
    op = stacked()
    y = data(op, "dask").persist(scheduler="synchronous")
    with count_executions() as alone:
        FISTA(op).solve(y, niter=6, alpha=0.1, tol=0)
    with count_executions() as written:
        run_and_write(FISTA(op), tmp_path, y, 6, every=2, alpha=0.1, tol=0)
    # one execution for each checkpoint, which finds its vectors in memory
    assert written.count == alone.count + 3
    assert len(alone.tasks) < len(written.tasks) < len(alone.tasks) + 3 * 30


def test_vectors_do_not_come_to_the_client(tmp_path):
    op = stacked()
    with pylops_dispatch.ledger() as log:
        run_and_write(CGLS(op), tmp_path, data(op, "dask"), 4, tol=0)
    assert log.brought < DIMS[0] * DIMS[1] * 8


def test_a_crash_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    op = stacked()
    y = data(op, "dask")
    whole = CGLS(op)
    expected = whole.solve(y, niter=8, tol=0)[0]
    steps = []

    def crash(*args, **kwargs):
        steps.append(1)
        if len(steps) == 3:
            raise OSError("the disk is full")
        return original(*args, **kwargs)

    original = da.store
    monkeypatch.setattr(da, "store", crash)
    with pytest.raises(OSError, match="full"):
        run_and_write(CGLS(op), tmp_path, y, 8, tol=0)
    monkeypatch.undo()
    solver = CGLS(op)
    solver.setup(y, niter=8, tol=0)
    x = pylops_dispatch.resume(tmp_path, solver)
    assert solver.iiter == 2
    assert_close(values(solver.run(x)), values(expected))
    assert_close(solver.cost, whole.cost)


@pytest.mark.parametrize("text", ["", "{", None])
def test_a_checkpoint_that_is_half_written_does_not_count(tmp_path, text):
    op = stacked()
    y = data(op, "numpy")
    run_and_write(CGLS(op), tmp_path, y, 2, tol=0)
    newest = tmp_path / "b" / "zarr.json"
    if text is None:
        newest.unlink()
    else:
        newest.write_text(text)
    solver = CGLS(op)
    solver.setup(y)
    pylops_dispatch.resume(tmp_path, solver)
    assert solver.iiter == 1


def remove_a_chunk(slot):
    chunk_of(slot).unlink()


def cut_a_chunk_short(slot):
    chunk = chunk_of(slot)
    chunk.write_bytes(chunk.read_bytes()[:-1])


def chunk_of(slot):
    return min(path for path in slot.glob("iterate.0.0/c/**/*") if path.is_file())


def put_zeros_into_a_chunk(slot):
    """As a file may have them whose blocks were not written before the power went."""
    chunk = chunk_of(slot)
    chunk.write_bytes(bytes(len(chunk.read_bytes())))


def remove_an_array(slot):
    (slot / "iterate.0.0" / "zarr.json").unlink()


def change_the_metadata_of_an_array(slot):
    (slot / "iterate.0.0" / "zarr.json").write_text("[1]")


def change_the_metadata_of_the_slot(slot):
    (slot / "zarr.json").write_text("[1]")


def change_the_state(slot):
    group = zarr.open_group(slot, mode="a")
    group.attrs["state"] = '{"serial": 99}'


def put_a_number_for_the_state(slot):
    zarr.open_group(slot, mode="a").attrs["state"] = 5


DAMAGES = {
    remove_a_chunk: "1 of [0-9]+ chunks of 'iterate.0.0' are missing",
    cut_a_chunk_short: "'iterate.0.0' has [0-9]+ bytes instead of",
    put_zeros_into_a_chunk: "checksum",
    remove_an_array: "the array 'iterate.0.0' is missing",
    change_the_metadata_of_an_array: "the array 'iterate.0.0' is missing or damaged",
    change_the_metadata_of_the_slot: "the group is damaged",
    change_the_state: "the state is damaged",
    put_a_number_for_the_state: "the state is damaged",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_two_checkpoints_the_one_that_is_whole_counts(tmp_path, damage):
    op = stacked()
    y = data(op, "dask")
    run_and_write(CGLS(op), tmp_path, y, 2, tol=0)
    damage(tmp_path / "b")
    solver = CGLS(op)
    solver.setup(y, niter=5, tol=0)
    x = pylops_dispatch.resume(tmp_path, solver)
    assert solver.iiter == 1
    assert_close(values(solver.run(x)), values(CGLS(op).solve(y, niter=5, tol=0)[0]))


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_none_is_whole_the_error_says_what_is_missing(tmp_path, damage):
    op = stacked()
    y = data(op, "dask")
    run_and_write(CGLS(op), tmp_path, y, 2, tol=0)
    for slot in "ab":
        damage(tmp_path / slot)
    solver = CGLS(op)
    solver.setup(y)
    with pytest.raises(FileNotFoundError, match=rf"in 'a' .*{DAMAGES[damage]}.*; in 'b' "):
        pylops_dispatch.resume(tmp_path, solver)


def test_a_damaged_checkpoint_is_the_one_that_is_written_anew(tmp_path):
    op = stacked()
    y = data(op, "dask")
    run_and_write(CGLS(op), tmp_path, y, 2, tol=0)
    remove_a_chunk(tmp_path / "b")
    run_and_write(CGLS(op), tmp_path, y, 1, tol=0)
    assert zarr.open_group(tmp_path, path="a").attrs["state"]
    remove_a_chunk(tmp_path / "a")
    solver = CGLS(op)
    solver.setup(y)
    pylops_dispatch.resume(tmp_path, solver)
    assert solver.iiter == 1


def test_blocks_of_zeros_are_complete(tmp_path):
    op = pylops.Identity(12)
    y = to_dask(np.repeat([0.0, 1.0, 0.0], 4), 4)
    run_and_write(CGLS(op), tmp_path, y, 1, tol=0)
    solver = CGLS(op)
    solver.setup(y)
    assert_close(values(pylops_dispatch.resume(tmp_path, solver)), values(y))


def test_going_on_writes_into_the_same_store(tmp_path):
    op = stacked()
    y = data(op, "dask")
    run_and_write(CGLS(op), tmp_path, y, 3, tol=0)
    for niter in (5, 8):
        solver = CGLS(op)
        solver.callbacks = [pylops_dispatch.checkpoint(tmp_path, every=1)]
        solver.setup(y, niter=niter, tol=0)
        x = solver.run(pylops_dispatch.resume(tmp_path, solver))
    expected = CGLS(op).solve(y, niter=8, tol=0)[0]
    assert_close(values(x), values(expected))
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["a", "b", "zarr.json"]


def test_a_store_in_memory():
    store = zarr.storage.MemoryStore()
    op = stacked()
    run_and_write(CGLS(op), store, data(op, "dask"), 2, tol=0)
    solver = CGLS(op)
    solver.setup(data(op, "dask"))
    pylops_dispatch.resume(store, solver)
    assert solver.iiter == 2


def test_whatever_a_solver_keeps_comes_back_as_it_was():
    """Numbers, flags, text, and nested lists of them and of arrays; functions are left out."""
    kept = {
        "shift": 2.5 - 1j,
        "flag": False,
        "label": "third",
        "nothing": None,
        "scale": np.float32(0.1),
        "history": [1.0, (np.complex128(1 + 2j), [3])],
        "weights": np.arange(6).reshape(2, 3),
        "size": da.ones(4, chunks=2).sum(),
    }
    op, store = stacked(), zarr.storage.MemoryStore()
    solver = CGLS(op)
    vars(solver).update(kept, function=np.add)
    run_and_write(solver, store, data(op, "dask"), 1, tol=0)
    other = CGLS(op)
    other.setup(data(op, "dask"))
    pylops_dispatch.resume(store, other)
    found = {name: getattr(other, name) for name in kept}
    assert_close(found.pop("weights"), kept.pop("weights"))
    assert float(found.pop("size")) == 4
    kept.pop("size")
    assert found == kept
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in kept.items()
    }
    assert not hasattr(other, "function")


def test_numpy_goes_on_from_dask_and_not_the_other_way(tmp_path):
    op = stacked()
    expected = CGLS(op).solve(data(op, "numpy"), niter=6, tol=0)[0]
    run_and_write(CGLS(op), tmp_path / "dask", data(op, "dask"), 3, tol=0)
    solver = CGLS(op)
    solver.setup(data(op, "numpy"), niter=6, tol=0)
    x = solver.run(pylops_dispatch.resume(tmp_path / "dask", solver))
    assert type(x) is np.ndarray
    assert_close(x, expected)

    run_and_write(CGLS(op), tmp_path / "numpy", data(op, "numpy"), 3, tol=0)
    solver = CGLS(op)
    solver.setup(data(op, "dask"), tol=0)
    with pytest.raises(ValueError, match="NumPy"):
        pylops_dispatch.resume(tmp_path / "numpy", solver)


def test_errors_say_what_is_wrong(tmp_path):
    op = stacked()
    y = data(op, "numpy")
    solver = CGLS(op)
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        pylops_dispatch.resume(tmp_path / "nothing", solver)
    run_and_write(CGLS(op), tmp_path / "run", y, 2, tol=0)
    with pytest.raises(ValueError, match="set the solver up first"):
        pylops_dispatch.resume(tmp_path / "run", solver)
    other = LSQR(op)
    other.setup(y)
    with pytest.raises(ValueError, match=r"the checkpoint is of .*CGLS.*LSQR"):
        pylops_dispatch.resume(tmp_path / "run", other)
    with pytest.raises(ValueError, match="at least 1"):
        pylops_dispatch.checkpoint(tmp_path, every=0)
    with pytest.raises(TypeError, match="every must be an integer"):
        pylops_dispatch.checkpoint(tmp_path, every="second")
    with pytest.raises(TypeError, match=r"resume\(store, solver\)"):
        pylops_dispatch.resume(solver, tmp_path / "run")


WITHOUT_STEPS = {
    IRLS: {"nouter": 2},
    NormalEquationsInversion: {"Regs": None},
    PreconditionedInversion: {"P": pylops.Identity(63)},
    RegularizedInversion: {"Regs": None},
    SPGL1: {},
}


@pytest.mark.parametrize("cls", WITHOUT_STEPS)
def test_solvers_without_steps_are_refused_before_they_do_anything(tmp_path, cls):
    solver, store = cls(square()), tmp_path / "run"
    solver.callbacks = [pylops_dispatch.checkpoint(store, every=1)]
    with forbid_executions(), pytest.raises(TypeError, match=f"{cls.__name__} has no steps"):
        solver.solve(data(square(), "dask"), **WITHOUT_STEPS[cls])
    assert not store.exists()


def test_a_checkpoint_is_no_callback_of_a_function(tmp_path):
    checkpoint = pylops_dispatch.checkpoint(tmp_path / "run")
    with pytest.raises(TypeError, match="for the callbacks of a solver's class"):
        pylops.cgls(stacked(), data(stacked(), "dask"), niter=2, callback=checkpoint)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"damp": 5.0}, "damp 0.0, here 25.0"),
        ({"op": "complex128"}, "dtype of the operator float64, here complex128"),
        ({"y": "float32"}, "dtype of the data float64, here float32"),
    ],
)
def test_a_checkpoint_of_another_problem_is_refused(tmp_path, kind, change, told):
    run_and_write(CGLS(stacked()), tmp_path, data(stacked(), kind), 2, tol=0)
    solver = CGLS(stacked(change.get("op", "float64")))
    y = data(stacked(), kind).astype(change.get("y", "float64"))
    solver.setup(y, damp=change.get("damp", 0.0))
    before = dict(vars(solver))
    with pytest.raises(ValueError, match=f"of another problem: .*{told}"):
        pylops_dispatch.resume(tmp_path, solver)
    assert vars(solver) == before


def test_limits_and_manners_may_be_others(tmp_path):
    op = stacked()
    y = data(op, "dask")
    run_and_write(CGLS(op), tmp_path, y, 2, tol=0, preallocate=True)
    solver = CGLS(op)
    solver.setup(y, niter=9, tol=0.5)
    pylops_dispatch.resume(tmp_path, solver)
    assert (solver.niter, solver.tol) == (9, 0.5)


def hold_an_array(store):
    da.ones(3).to_zarr(str(store), component="a")


def be_an_array(store):
    da.ones(3).to_zarr(str(store))


def hold_files(store):
    (store / "a").mkdir(parents=True)
    (store / "a" / "notes.txt").write_text("of somebody else")


def be_damaged(store):
    store.mkdir()
    (store / "zarr.json").write_text("[1]")


@pytest.mark.parametrize("fill", [hold_an_array, be_an_array, hold_files, be_damaged])
def test_what_else_is_in_a_store_is_left_alone(tmp_path, fill):
    fill(tmp_path / "run")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(FileExistsError, match="give"):
        pylops_dispatch.checkpoint(tmp_path / "run")
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_what_comes_into_a_store_before_a_solve_is_left_alone(tmp_path):
    solver = CGLS(stacked())
    solver.callbacks = [pylops_dispatch.checkpoint(tmp_path / "run")]
    hold_an_array(tmp_path / "run")
    with forbid_executions(), pytest.raises(FileExistsError, match="something else"):
        solver.solve(data(stacked(), "dask"), niter=2)


def test_blocks_that_are_not_there_after_writing_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(da, "store", lambda *args, **kwargs: None)
    with pytest.raises(OSError, match=r"after writing .* chunks of .* are missing"):
        run_and_write(CGLS(stacked()), tmp_path, data(stacked(), "dask"), 2, tol=0)


@pytest.mark.parametrize("name", ["notes.txt", "notes.txt/run.zarr"])
def test_a_file_in_the_way_is_told_before_anything_runs(tmp_path, name):
    (tmp_path / "notes.txt").write_text("of somebody else")
    for store in (tmp_path / name, str(tmp_path / name)):
        with pytest.raises(FileExistsError, match=r"notes.txt' is a file: give another path"):
            pylops_dispatch.checkpoint(store)
        with pytest.raises(FileExistsError, match=r"notes.txt' is a file"):
            pylops_dispatch.resume(store, CGLS(stacked()))


@pytest.mark.parametrize("store", [3, None])
def test_what_is_no_store_is_told_before_anything_runs(store):
    with pytest.raises(TypeError, match="store must be a path or a store of zarr"):
        pylops_dispatch.checkpoint(store)


def test_what_only_zarr_can_judge_is_left_to_it(tmp_path):
    pylops_dispatch.checkpoint("memory://anything")
    (tmp_path / "run.zip").write_bytes(b"")
    pylops_dispatch.checkpoint(tmp_path / "run.zip")


def test_without_zarr_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"pylops-dispatch\[storage\]"):
        pylops_dispatch.checkpoint(tmp_path)


def test_workers_of_other_processes_write_where_they_can_be_read(tmp_path, monkeypatch):
    """A path is the same in another folder; what is in the memory of one process is refused."""
    op = stacked()
    y = data(op, "dask")
    run_and_write(CGLS(op), "memory://checkpoints", y, 2, tol=0)
    with pylops_dispatch.client(n_workers=1, threads_per_worker=1):
        monkeypatch.chdir(tmp_path)
        solver = CGLS(op)
        solver.setup(y)
        with pytest.raises(ValueError, match="cannot read the store 'memory://checkpoints'"):
            pylops_dispatch.resume("memory://checkpoints", solver)
        for store in ({}, zarr.storage.MemoryStore()):
            with pytest.raises(ValueError, match="does not come here: on a cluster give a path"):
                run_and_write(CGLS(op), store, y, 2, tol=0)
        run_and_write(CGLS(op), "run.zarr", y, 2, tol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["run.zarr"]
    solver = CGLS(op)
    solver.setup(y, niter=5, tol=0)
    x = solver.run(pylops_dispatch.resume("run.zarr", solver))
    assert_close(values(x), values(CGLS(op).solve(y, niter=5, tol=0)[0]))


def test_on_a_cluster(tmp_path):
    op = stacked()
    y = data(op, "dask")
    expected = CGLS(op).solve(y, niter=5, tol=0)[0].compute(scheduler="synchronous")
    with (
        distributed.LocalCluster(
            processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        run_and_write(CGLS(op), tmp_path, y, 3, tol=0)
        solver = CGLS(op)
        solver.setup(y, niter=5, tol=0)
        x = solver.run(pylops_dispatch.resume(tmp_path, solver))
        assert_close(x.compute(), expected)
