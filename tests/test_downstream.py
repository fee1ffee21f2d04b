"""The example of a package built on this one passes its own tests, as its users would run them."""

import os
import subprocess
import sys
from pathlib import Path

DOWNSTREAM = Path(__file__).parents[1] / "examples" / "downstream"


def test_the_downstream_example_passes_its_own_tests():
    path = os.pathsep.join([str(DOWNSTREAM / "src"), *filter(None, sys.path)])
    # its tests are not those whose coverage may be measured here
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLIPCOVER")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"],
        cwd=DOWNSTREAM,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " skipped" not in done.stdout
