"""Run PyLops's tests on NumPy and on dask arrays, and compare.

``python -m tests.pylops_suite [--on vectors] [--source FOLDER] [-k WORDS] [test_file ...]``
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from .exceptions import EXCEPTIONS

HERE = Path(__file__).resolve().parent


def source_of(package: str, folder: Path) -> Path:
    """Download the source of an installed package and unpack its tests, but not itself."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary"]
    command += [":all:", f"{package}=={version(package)}", "-d", str(folder)]
    if not list(folder.glob(f"{package}-*.tar.gz")):
        subprocess.run(command, check=True)
    (archive,) = folder.glob(f"{package}-*.tar.gz")
    with tarfile.open(archive) as tar:
        wanted = [
            m for m in tar.getmembers() if m.name.split("/")[1:2] in (["pytests"], ["testdata"])
        ]
        tar.extractall(folder, members=wanted, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def run(source: Path, name: str, on: str, options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The outcome of each test of one file; a test that is not there was not reached in time."""
    timeout = options.timeout
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes"
        outcomes.touch()
        command = [sys.executable, "-m", "pytest", f"pytests/{name}.py", "-q", "--no-header"]
        command += ["-p", "pylops_on_dask", "-p", "no:cacheprovider", "-o", "addopts="]
        # in the order of the file, with the plugin's seed: both runs see the same numbers
        command += ["-p", "no:randomly", "-n", str(options.workers)]
        command += ["--tb", "no", "--on", on, "--outcomes", str(outcomes)]
        command += ["--limit", str(options.limit), "-k", options.k]
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), "OMP_NUM_THREADS": "1"}
        output = ""
        try:
            done = subprocess.run(
                command, cwd=source, env=env, timeout=timeout, capture_output=True, text=True
            )
            output = done.stdout[-2000:] + done.stderr[-2000:] if done.returncode > 1 else ""
        except subprocess.TimeoutExpired:
            output = f"stopped after {timeout:.0f} s"
        found = [json.loads(line) for line in outcomes.read_text().splitlines()]
        results = {line["test"].rpartition("pytests/")[2]: line for line in found}
        if output:
            results[""] = {"test": name, "outcome": "error", "error": output, "place": ""}
        return results


def reason_for(test: str, on: str) -> str | None:
    return next((why for start, why in EXCEPTIONS[on].items() if test.startswith(start)), None)


def compare(
    source: Path, name: str, ways: list[str], options: argparse.Namespace
) -> tuple[dict, list[str]]:
    """The numbers of passed tests of one file, and what fails though it passes on NumPy."""
    start = time.perf_counter()
    plain = run(source, name, "numpy", options)
    passing = [test for test, line in plain.items() if line["outcome"] == "passed"]
    row = {"file": name, "numpy": len(passing)}
    problems = []
    for on in ways:
        results = run(source, name, on, options)
        if "" in results and (passing or "" not in plain):  # else its engine is not installed
            problems.append(f"{name} [{on}]: {results['']['error']}")
        outcomes = {test: results.get(test, {"outcome": "not run"}) for test in passing}
        failed = {t: line for t, line in outcomes.items() if line["outcome"] != "passed"}
        row[on] = len(passing) - len(failed)
        row[f"{on} excepted"] = sum(reason_for(test, on) is not None for test in failed)
        missing = [test for test, line in failed.items() if line["outcome"] == "not run"]
        if missing:
            names = ", ".join(test.rpartition("::")[2] for test in missing)
            problems.append(f"{name} [{on}]: {len(missing)} tests did not end in time: {names}")
        for test, line in failed.items():
            if reason_for(test, on) is None and line["outcome"] != "not run":
                what = line.get("error", "").replace("\n", " ")[:300] or line["outcome"]
                problems.append(f"{test} [{on}]: {what} {line.get('place', '').strip()[:200]}")
    row["seconds"] = round(time.perf_counter() - start)
    return row, problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="test files; all of them by default")
    parser.add_argument("--on", action="append", choices=["vectors", "arrays"], default=None)
    parser.add_argument("-k", default="", help="of the tests only those with these words")
    parser.add_argument("--source", type=Path, help="folder with PyLops's sdist, unpacked")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for one file")
    parser.add_argument("--limit", type=int, default=0, help="seconds for one test; 0: no limit")
    parser.add_argument("--workers", type=int, default=0, help="processes for one file")
    options = parser.parse_args()
    ways = options.on or ["vectors", "arrays"]
    with tempfile.TemporaryDirectory() as folder:
        source = options.source or source_of("pylops", Path(folder))
        names = [Path(f).stem for f in options.files]
        names = names or sorted(path.stem for path in (source / "pytests").glob("test_*.py"))
        total: Counter[str] = Counter()
        problems: list[str] = []
        for name in names:
            row, found = compare(source, name, ways, options)
            problems += found
            total.update({k: v for k, v in row.items() if k != "file"})
            print(f"{row.pop('file'):32s}", *(f"{k} {v:5d} " for k, v in row.items()), flush=True)
            for problem in found:
                print("   ", problem, flush=True)
    print(f"{'all files':32s}", *(f"{k} {v:5d} " for k, v in total.items()))
    print(f"{len(problems)} unexpected failures")
    return bool(problems)


if __name__ == "__main__":
    raise SystemExit(main())
