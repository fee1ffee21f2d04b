"""The documentation says what the rules say."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
from functools import reduce
from pathlib import Path

import dask
import dask.array as da
import pylops
import pytest

import pylops_dispatch
import pylops_dispatch.testing

ROOT = Path(__file__).parents[1]
# not the addresses of pages: a name follows neither a slash nor a hyphen
NAME = re.compile(r"(?<![/\w.-])(?:pylops|pylops_dispatch)(?:\.[A-Za-z]\w*)+(?!\w*[/\w])")


def load_generator():
    spec = importlib.util.spec_from_file_location("capabilities", ROOT / "docs/capabilities.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_has_the_table_that_the_rules_give():
    generator = load_generator()
    readme = (ROOT / "README.md").read_text()
    assert generator.section(readme) == readme, "run: python docs/capabilities.py --write"


@pytest.mark.parametrize("module", [pylops_dispatch, pylops_dispatch.testing])
def test_every_public_name_has_a_page(module):
    pages = set((ROOT / "docs/api.rst").read_text().split())
    assert set(module.__all__) <= pages


def test_every_public_operator_of_the_top_level_has_a_rule():
    covered = {name.rpartition(".")[2] for name in pylops_dispatch.capabilities()}
    assert set(pylops.basicoperators.__all__) <= covered


def test_an_operator_that_runs_whole_gives_its_reason():
    for name, rule in pylops_dispatch.capabilities().items():
        assert rule.kind != "whole" or rule.note, name


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.rst")), ids=lambda page: page.name)
def test_names_of_pylops_and_of_this_package_exist(page):
    names = NAME.findall(page.read_text())
    for name in names:
        owner, *rest = name.split(".")
        module = {"pylops": pylops, "pylops_dispatch": pylops_dispatch}[owner]
        assert reduce(getattr, rest, module) is not None, name


# ---- what pages tell users to write runs ---------------------------------------------------


def code(page):
    """The blocks of Python of a page."""
    text = (ROOT / page).read_text()
    if page.endswith(".md"):
        return re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    found = re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", text)
    return [textwrap.dedent(block) for block in found]


def run(block, **names):
    """Run a block of code, with fewer steps than it has, in what it is given."""
    exec(block.replace("niter=200", "niter=25"), names)
    return names


@pytest.mark.parametrize("page", ["README.md", "docs/index.rst"])
def test_the_first_example_runs(page, capsys):
    run(code(page)[0])
    assert capsys.readouterr().out == f"[{' '.join(['1.'] * 10)}]\n"


def test_the_long_solve_runs_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("matplotlib").use("agg")
    first, long = code("docs/index.rst")
    names = run(long, **run(first))
    assert "executions" in capsys.readouterr().out
    solver = pylops.optimization.cls_basic.CGLS(names["Op"])
    solver.setup(names["y"], niter=25)
    again = solver.run(pylops_dispatch.resume("run.zarr", solver))
    assert da.allclose(again, names["x"]).compute()


def test_the_five_minutes_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = code("docs/start.rst")
    for large, small in {"(400, 100, 120)": "(90, 4, 6)", "(400, 50, 60)": "(90, 2, 3)"}.items():
        assert block.count(large) == 1
        block = block.replace(large, small)
    run(block.replace("niter=20", "niter=2"))
    assert da.from_zarr("model.zarr").shape == (90, 4, 6)


def test_the_code_on_clusters_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    solve, planning, setting = code("docs/clusters.rst")
    asked = '"slurm", jobs=8, cores=16, memory="64GB"'
    here = "processes=False, n_workers=1, threads_per_worker=1"
    assert asked in solve
    names = run(solve.replace(asked, here), __name__="__main__")
    assert da.from_zarr("x.zarr").shape == names["Op"].dims
    run(planning, **names)
    assert "tasks" in capsys.readouterr().out
    with dask.config.set({"pylops-dispatch.lineage-steps": 20}):
        run(setting, **names)
        assert dask.config.get("pylops-dispatch.lineage-steps") == 50


def test_the_operator_that_is_given_a_rule_keeps_it(tmp_path, monkeypatch):
    (block,) = code("docs/rules.rst")
    (tmp_path / "blurring.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    cls = importlib.import_module("blurring").Blur
    try:
        pylops_dispatch.testing.check_operator(cls((12, 10)))
        assert "halo: 1 sample" in str(pylops_dispatch.capability(cls((12, 10))))
    finally:
        del pylops_dispatch.rules.RULES[cls]
        del sys.modules["blurring"]


OF_PYLOPS_MPI = """
    MPIBlockDiag MPIFFT2D MPIFFTND MPIFirstDerivative MPIFredholm1 MPIGradient MPIHStack MPIHalo
    MPIL2 MPIL21 MPILaplacian MPILinearOperator MPIMDC MPIMatrixMult MPINonStationaryConvolve1D
    MPIProxOperator MPISecondDerivative MPIStackedBlockDiag MPIStackedLinearOperator
    MPIStackedVStack MPIVStack ADMML2 PrimalDual ProximalGradient cg cgls ista fista
    power_iteration asmpilinearoperator dottest DistributedArray StackedDistributedArray Partition
    local_split subcomm_split plot_distributed_array plot_local_arrays benchmark
"""
OF_PYLOPS_DISTRIBUTED = """
    MatrixMult Identity Diagonal Transpose Roll Restriction Spread VStack HStack BlockDiag Block
    FirstDerivative SecondDerivative Laplacian Smoothing1D FFT FFT2D Convolve1D Fredholm1 MDC MDD
    Marchenko Demigration LSM cg cgls dottest
"""


@pytest.mark.parametrize(
    "names", [OF_PYLOPS_MPI, OF_PYLOPS_DISTRIBUTED], ids=["mpi", "distributed"]
)
def test_who_comes_from_another_package_finds_every_name(names):
    page = (ROOT / "docs/migrating.rst").read_text()
    there = page.split("From pylops-mpi\n---")[names is OF_PYLOPS_MPI]
    assert set(names.split()) <= set(re.findall(r"\w+", there))
