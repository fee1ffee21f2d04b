"""The function that solves, and the package in the hands of a user who imports nothing else."""

import subprocess
import sys
import textwrap

import dask.array as da
import numpy as np

from downstream import Blur, sharpen
from pylops_dispatch.testing import assert_close, assert_lazy


def image_of(shape):
    return np.random.default_rng(0).normal(size=shape)


def test_sharpening_a_dask_array_is_what_it_is_for_numpy():
    blurred = Blur((12, 10), axis=0) @ image_of((12, 10))
    expected = sharpen(blurred, axis=0)
    with assert_lazy(budget=15) as executions:
        found = sharpen(da.from_array(blurred, chunks=(5, 4)), axis=0)
    assert type(found) is da.Array
    assert executions.count >= 10  # about one for each iteration
    assert_close(found.compute(), expected, rtol=1e-9)


def test_sharpening_takes_the_blur_away():
    image = image_of((30, 4))
    blurred = Blur(image.shape, (0.2, 1.0, 0.2), axis=0) @ image
    sharp = sharpen(da.from_array(blurred, 7), (0.2, 1.0, 0.2), axis=0, damp=1e-3, niter=50)
    assert_close(sharp.compute(), image, rtol=1e-2)


def test_a_user_imports_neither_pylops_nor_pylops_dispatch():
    code = """
    import dask.array as da
    from downstream import Blur, sharpen

    image = da.ones((8, 6), chunks=3)
    assert type(Blur((8, 6)) @ image) is da.Array
    assert type(sharpen(image, niter=2)) is da.Array
    print("ok")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "ok", done.stderr
