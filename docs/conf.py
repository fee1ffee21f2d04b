"""Sphinx configuration."""

from importlib.metadata import version as _version
from pathlib import Path
from typing import Any

import pylops_dispatch

project = "pylops_dispatch"
author = "The pylops_dispatch developers"
copyright = f"2026, {author}"
release = _version("pylops-dispatch")
version = ".".join(release.split(".")[:2])

extensions = ["sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build"]


def write_capabilities(app: Any) -> None:
    """Write the capability table, made from the rules, for ``capabilities.rst``."""
    rows = [".. list-table::", "   :header-rows: 1", ""]
    found = sorted(pylops_dispatch.capabilities().items(), key=lambda item: item[0].lower())
    for name, kind, note in [
        ("operator", "on blocks", "remarks"),
        *((f"``{name}``", rule.kind, rule.note) for name, rule in found),
    ]:
        rows += [f"   * - {name}", f"     - {kind}", f"     - {note}".rstrip()]
    Path(app.srcdir, "_capabilities.inc").write_text("\n".join(rows) + "\n")


def setup(app: Any) -> None:
    """Let the table be written before the sources are read."""
    app.connect("builder-inited", write_capabilities)


autodoc_typehints = "none"
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = project
