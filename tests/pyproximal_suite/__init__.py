"""pyproximal's own tests, run on dask arrays: ``nox -s pyproximal-suite``."""
