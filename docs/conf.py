"""Sphinx configuration."""

import runpy
import shutil
from importlib.metadata import version as _version
from pathlib import Path
from typing import Any

from sphinx_gallery.scrapers import figure_rst, matplotlib_scraper

import pylops_dispatch

ROOT = Path(__file__).parents[1]

project = "pylops_dispatch"
author = "The pylops_dispatch developers"
copyright = f"2026, {author}"
release = _version("pylops-dispatch")
version = ".".join(release.split(".")[:2])

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "_build",
    "_templates",
    "gallery/**/*.ipynb",
    "gallery/**/*.py",
    "gallery/**/*.json",
]
templates_path = ["_templates"]
suppress_warnings = ["config.cache"]  # functions among the settings of the gallery
nitpicky = True  # every reference to a name must lead somewhere
nitpick_ignore_regex = [("py:(class|obj|func|mod)", r"(?!pylops_dispatch).*")]  # other projects'


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


def draw_peers(app: Any) -> None:
    """Draw the table of the comparison with the peers, for ``performance.rst``."""
    picture = runpy.run_path(str(ROOT / "benchmarks" / "peers_picture.py"))
    picture["draw"](picture["read"](Path(app.srcdir, "peers.csv")), Path(app.srcdir, "_peers.png"))


def picture_name(gallery_conf: Any, script_vars: Any) -> list[str]:
    """Return the arguments of an example: those that are whole scripts save their picture."""
    return [f"{Path(script_vars['src_file']).stem}.png"]


def saved_pictures(block: Any, block_vars: Any, gallery_conf: Any) -> str:
    """Take the pictures that an example has saved into the gallery."""
    taken = []
    for picture in Path(block_vars["src_file"]).parent.glob("*.png"):
        shutil.move(picture, target := next(block_vars["image_path_iterator"]))
        taken.append(target)
    return str(figure_rst(taken, gallery_conf["src_dir"]))


def setup(app: Any) -> None:
    """Let table and picture be made before the sources are read."""
    app.connect("builder-inited", write_capabilities)
    app.connect("builder-inited", draw_peers)


sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "gallery",
    # the solve that is larger than memory takes minutes, and workers that import it as a script
    "filename_pattern": r"/(?!out_of_core)\w+\.py",
    "ignore_pattern": "downstream",
    "nested_sections": False,
    "reset_argv": picture_name,
    "image_scrapers": (matplotlib_scraper, saved_pictures),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "within_subsection_order": "ExampleTitleSortKey",
}


autodoc_typehints = "none"
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = project
