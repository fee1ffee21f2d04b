"""Run all benchmarks: ``python -m benchmarks [--json FOLDER]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SCRIPTS: dict[str, list[str]] = {
    "overhead": [],
    "operators": [],
    "every_operator": [],
    "solvers": ["--all"],
}


def main() -> int:
    """Run each script in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write NAME.json files here")
    options = parser.parse_args()
    failed = []
    for name, arguments in SCRIPTS.items():
        command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *arguments]
        if options.json is not None:
            options.json.mkdir(parents=True, exist_ok=True)
            command += ["--json", str(options.json / f"{name}.json")]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
