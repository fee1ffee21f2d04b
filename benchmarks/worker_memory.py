"""Memory of the workers of a cluster while one of PyLops's solvers runs on it.

Run ``python benchmarks/worker_memory.py [--only NAME ...] [--persisted] [--size 256]``. On Linux.
The share of a worker is a vector's bytes divided by the number of workers; the store is what a
worker holds in blocks, the rest of its memory are libraries and temporaries. Its own memory is
the peak without pages of the files of libraries, which all processes of a machine share. Data are
lazy, or persisted before: these are the user's own, and come on top of what the solver holds.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import dask.array as da
import distributed

import pylops_dispatch
from side_by_side import argument_parser, print_table, write_json
from solvers import CASES, laplacian


def resident(name: str) -> int:
    """Return bytes from the status of this process.

    ``VmRSS`` is what it has in memory now, ``VmHWM`` at most, ``RssAnon`` now and to itself.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024


def watch(dask_worker: Any) -> int:
    """Start to note the largest store of a worker; return its memory before."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    dask_worker.largest_store, dask_worker.largest_own = 0, 0
    dask_worker.watched = threading.Event()

    def look() -> None:
        while not dask_worker.watched.wait(0.02):
            held = int(dask_worker.data.fast.total_weight)
            dask_worker.largest_store = max(dask_worker.largest_store, held)
            dask_worker.largest_own = max(dask_worker.largest_own, resident("RssAnon"))

    threading.Thread(target=look, daemon=True).start()
    return before


def stop(dask_worker: Any) -> tuple[int, int, int]:
    """Return the largest store, the largest memory, and the largest of its own, of a worker."""
    dask_worker.watched.set()
    return dask_worker.largest_store, resident("VmHWM"), dask_worker.largest_own


def measure(
    name: str, size: int, chunk: int, steps: int, workers: int, persisted: bool
) -> dict[str, Any]:
    """Run one solver on processes, and return what its workers held at most."""
    dims = (size,) * 3
    case, op = CASES[name], laplacian(dims)
    if case.normal:
        op = op.H @ op
    with pylops_dispatch.client(n_workers=workers, threads_per_worker=1) as client:
        numbers = da.random.default_rng(0)
        y = numbers.standard_normal(dims, chunks=(chunk, chunk, size))
        data = y.ravel() if case.flat else y
        if persisted:
            data = data.persist()
            distributed.wait(data)
        before = max(client.run(watch).values())
        x = case.solve(op, data, steps, None).persist()
        distributed.wait(x)
        stores, peaks, own = zip(*client.run(stop).values(), strict=True)
    share = 8 * size**3 // workers
    return {
        "solver": name,
        "data": "persisted" if persisted else "lazy",
        "share": share,
        "before": before,
        "store": max(stores),
        "peak": max(peaks),
        "own": max(own),
        "4 shares + 200 MB": 4 * share + 200_000_000,
    }


def main() -> int:
    """Run the solvers that the command line asks for."""
    parser = argument_parser(__doc__)
    parser.add_argument("--size", type=int, default=256, help="of each axis (%(default)s)")
    parser.add_argument("--chunk", type=int, default=64, help="along axes 0 and 1 (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="of each solver (%(default)s)")
    parser.add_argument("--persisted", action="store_true", help="have the data in memory before")
    parser.add_argument("--only", nargs="+", choices=CASES, default=["cgls"], metavar="NAME")
    options = parser.parse_args()
    found = [
        measure(
            name, options.size, options.chunk, options.steps, options.workers, options.persisted
        )
        for name in options.only
    ]
    print(f"\nMemory of each of {options.workers} workers [MB], {options.steps} steps")
    print_table(
        [
            {
                **{k: v if isinstance(v, str) else f"{v / 1e6:.0f}" for k, v in row.items()},
                "shares in store": f"{row['store'] / row['share']:.2f}",
            }
            for row in found
        ]
    )
    write_json(options, found, size=options.size, chunk=options.chunk, steps=options.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
