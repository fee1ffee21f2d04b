"""
Disk to disk
============

A volume lies in a Zarr store on disk. Operators read it block by block, and their result goes
to another store the same way: never is more than a few blocks in memory.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import dask
import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import pylops
from dask.utils import format_bytes

import pylops_dispatch

# %%
# A volume of ridges and noise, made and written block by block. The size here is small, so that
# this page is built in no time; nothing below depends on it.

folder = tempfile.TemporaryDirectory()
volume_path, result_path = Path(folder.name, "volume.zarr"), Path(folder.name, "result.zarr")

dims, chunks = (128, 192, 192), (32, 96, 192)
i, j, k = (da.arange(n, chunks=c) for n, c in zip(dims, chunks, strict=True))
ridges = da.sin(i[:, None, None] / 6 + da.sin(j[:, None] / 25) + k / 40)
noise = da.random.default_rng(1).standard_normal(dims, chunks=chunks)
(ridges + 0.5 * noise).to_zarr(volume_path)

# %%
# The operator is PyLops's own: a smoothing over space, and the slope along the first axis of
# what is left.

smooth = pylops.SmoothingND((5, 5, 5), dims, axes=(0, 1, 2))
slope = pylops.FirstDerivative(dims, axis=0)
op = slope @ smooth

volume = da.from_zarr(volume_path)
pylops_dispatch.plan(op, volume, threads=2)

# %%
# The whole volume is one run from disk to disk. Only what is on the way is in memory.

with pylops_dispatch.ledger() as log, dask.config.set(num_workers=2):
    (op @ volume).to_zarr(result_path)
print(f"{format_bytes(volume.nbytes)} read, {format_bytes(log.brought)} came to this process")
log

# %%
# The part of the result that a picture shows is read back, and is what NumPy gives.

result = da.from_zarr(result_path)
expected = op @ volume.compute()
assert np.allclose(result.compute(), expected, rtol=0, atol=1e-12)

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, section, title in zip(
    axes, (volume[:, :, 96], result[:, :, 96]), ("Volume", "Smooth slope"), strict=True
):
    ax.imshow(section.compute(), cmap="RdBu", aspect="auto")
    ax.set_title(title)
    ax.set_xticks([])
    ax.set_yticks([])
folder.cleanup()
