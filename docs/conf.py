"""Sphinx configuration."""

from importlib.metadata import version as _version

project = "pylops_dispatch"
author = "The pylops_dispatch developers"
copyright = f"2026, {author}"
release = _version("pylops-dispatch")
version = ".".join(release.split(".")[:2])

extensions = ["sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build"]
autodoc_typehints = "none"
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = project
