"""PyLops's own tests, run on dask arrays: ``nox -s pylops-suite``."""
