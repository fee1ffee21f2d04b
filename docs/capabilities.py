"""The capability table in words: ``python docs/capabilities.py [--write]``.

Prints the table of the README, made from the rules; ``--write`` puts it there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pylops_dispatch

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- capabilities:start -->", "<!-- capabilities:end -->"

MEANING = {
    "alone": "each block by itself",
    "halo": "each block with samples of its neighbours, one task for a whole tree of operators",
    "whole_axis": "along an axis that is one block, in parallel over the others",
    "compose": "PyLops's own code on lazy arrays",
    "parallel_sum": "independent terms, added in a tree",
    "whole": "one task with the whole vector",
}


def table() -> str:
    """Return the table in Markdown: how blocks are used, by which operators."""
    groups: dict[str, list[str]] = {kind: [] for kind in MEANING}
    for name, rule in pylops_dispatch.capabilities().items():
        if not name.startswith("pylops."):
            continue  # registered by somebody else
        groups[rule.kind].append(name.rpartition(".")[2])
    rows = ["| how it runs on blocks | operators |", "| --- | --- |"]
    for kind, names in groups.items():
        if names:
            rows.append(f"| **{kind}**: {MEANING[kind]} | {', '.join(sorted(names))} |")
    return "\n".join(rows)


def section(readme: str) -> str:
    """Return the text of a README with a fresh table between its markers."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        README.write_text(section(README.read_text()))
    else:
        print(table())
