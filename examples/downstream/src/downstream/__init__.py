"""An example of a package built on PyLops: its operators and functions take dask arrays."""

import pylops_dispatch  # noqa: F401  (this is all it takes)
from downstream.operators import Blur, slopes
from downstream.sharpening import sharpen

__all__ = ["Blur", "sharpen", "slopes"]
