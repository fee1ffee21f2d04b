"""Run pyproximal's own tests on dask arrays.

``python -m tests.pyproximal_suite [--source FOLDER] [test_file ...]``
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.pylops_suite.__main__ import source_of

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "tests.pyproximal_suite.pyproximal_on_dask"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="test files, such as test_solver")
    parser.add_argument("--source", type=Path, help="folder with pyproximal's sdist, unpacked")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = options.source or source_of("pyproximal", Path(folder))
        files = [f"pytests/{Path(name).stem}.py" for name in options.files] or ["pytests"]
        command = [sys.executable, "-m", "pytest", *files, "-q", "-o", "addopts="]
        # its tests seed NumPy's generator when they are imported: their order counts
        command += ["-p", PLUGIN, "-p", "no:cacheprovider", "-p", "no:randomly"]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=source, env=env, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
