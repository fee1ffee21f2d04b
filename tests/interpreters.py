"""Fresh interpreters, and workers of clusters, that need not import the large libraries again.

They are forked from a server that has imported what PyLops and this package import of others,
which takes longer than most of what is tested in them. This module imports neither of the two.
"""

from __future__ import annotations

import compileall
import functools
import multiprocessing
import os
import sys
import tempfile
import textwrap
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import dask
import distributed  # noqa: F401, or its settings would go with the one that is set here

LIBRARIES = """
    array_api_compat.dask.array array_api_compat.numpy curvelets.utils dask.array distributed
    email.policy numba.cuda numba.np.arrayobj pyfftw pywt scipy.signal scipy.sparse.linalg spgl1
""".split()


class Finished(NamedTuple):
    """How a program ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def compile_package() -> None:
    """Compile this package once for all processes, which may be told to write no bytecode."""
    compileall.compile_dir(Path(__file__).parent.parent / "src", quiet=1)


@functools.cache
def forked() -> Any:
    """Return a context of multiprocessing, whose server has imported the libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    first = context.Process(target=int)  # starts the server, whatever others preload later
    first.start()
    first.join()
    return context


def run_python(code: str, *arguments: str, timeout: float = 180) -> Finished:
    """Run a program in an interpreter that has imported neither PyLops nor this package."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        given = textwrap.dedent(code), arguments, str(out), str(err)
        process = forked().Process(target=_run_as_main, args=given)
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(f"still running after {timeout} s: {code}")
        return Finished(process.exitcode, out.read_text(), err.read_text())


def _run_as_main(code: str, arguments: tuple[str, ...], out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        with open(path, "wb") as file:
            os.dup2(file.fileno(), number)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), vars(main))


@contextmanager
def forked_workers() -> Iterator[None]:
    """Start the workers of clusters as such processes; environments of workers are ignored."""
    forked()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield
