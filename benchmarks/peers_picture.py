"""Draw the table of ``peers.py``: ``python benchmarks/peers_picture.py TABLE.csv PICTURE``."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PEERS = {
    "numpy": ("NumPy PyLops, 1 thread", "0.75"),
    "numpy-blas": ("NumPy PyLops, BLAS on 2 threads", "0.55"),
    "mpi": ("pylops-mpi, 2 ranks", "tab:orange"),
    "cluster": ("pylops_dispatch, 2 processes", "tab:cyan"),
    "threads": ("pylops_dispatch, 2 threads", "tab:blue"),
}


def draw(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Draw how many times faster than NumPy PyLops on one thread each peer was.

    Parameters
    ----------
    rows : sequence of mapping
        Of the table: ``work``, and ``PEER [s]`` for each peer.
    path : Path
        Of the picture, in any format that Matplotlib knows by its suffix.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.2 + 0.75 * len(rows)), layout="constrained")
    axes = figure.subplots()
    peers = [peer for peer in PEERS if any(row.get(f"{peer} [s]") for row in rows)]
    height = 0.8 / len(peers)
    for number, peer in enumerate(peers):
        label, color = PEERS[peer]
        drawn = [i for i, row in enumerate(rows) if row.get(f"{peer} [s]")]
        speed = [float(rows[i]["numpy [s]"]) / float(rows[i][f"{peer} [s]"]) for i in drawn]
        bars = axes.barh(
            [i + (number - (len(peers) - 1) / 2) * height for i in drawn],
            speed, height, label=label, color=color,
        )  # fmt: skip
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["work"] for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.set_xlabel("times as fast as NumPy PyLops on one thread")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=130)


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table that ``peers.py`` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    draw(read(Path(sys.argv[1])), Path(sys.argv[2]))
