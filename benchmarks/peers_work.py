"""One work item, run once: ``python benchmarks/peers_work.py PEER WORK [--scale 1.0]``.

What ``peers.py`` starts for NumPy PyLops and for pylops_dispatch. Each function below sets up
one work item, on whatever arrays the peer has, and returns what is to be timed: the code is the
same for all of them.
"""

from __future__ import annotations

import gc
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import dask
import distributed
import numpy as np
import pylops

import peer_process as common
import pylops_dispatch
from side_by_side import in_memory

Chunks = tuple[int, ...]
Run = Callable[[], Any]


class Peer(NamedTuple):
    """How arrays are made, kept in memory and read, and what memory they take."""

    array: Callable[[np.ndarray, Chunks], Any]
    hold: Callable[[Any], Any]
    everywhere: Callable[[Callable[[], Any]], list[Any]]


def forward_and_adjoint(peer: Peer, op: Any, x: Any) -> Run:
    """Return what applies an operator and its adjoint, and holds both results."""

    def run() -> Any:
        y = peer.hold(op @ x)
        return peer.hold(op.H @ y)

    return run


def on_cube(peer: Peer, n: int, scale: float, make: Callable[[Chunks], Any]) -> Run:
    """Return forward and adjoint on a cube that is cut into 16 bars."""
    dims = common.cube(n, scale)
    x = peer.array(common.numbers(*dims), (dims[0] // 4, dims[1] // 4, dims[2]))
    return forward_and_adjoint(peer, make(dims), x)


def laplacian_of(dims: Chunks) -> Any:
    """Return second derivatives along all axes, added up."""
    ones = (1,) * len(dims)
    return pylops.Laplacian(dims, axes=tuple(range(len(dims))), weights=ones, sampling=ones)


def derivative(peer: Peer, scale: float) -> Run:
    """FirstDerivative on axis 0."""
    return on_cube(peer, 400, scale, lambda dims: pylops.FirstDerivative(dims, axis=0))


def laplacian(peer: Peer, scale: float) -> Run:
    """Laplacian in three dimensions."""
    return on_cube(peer, 320, scale, laplacian_of)


def gradient(peer: Peer, scale: float) -> Run:
    """Gradient in three dimensions."""
    return on_cube(peer, 320, scale, pylops.Gradient)


def poststack(peer: Peer, scale: float) -> Run:
    """Post-stack inversion with a Laplacian."""
    dims = nt, ny, nx = common.section_dims(scale)
    modelling = pylops.avo.poststack.PoststackLinearModelling(
        common.wavelet(), nt0=nt, spatdims=(ny, nx)
    )
    system = pylops.VStack([modelling, common.SMOOTHNESS * laplacian_of(dims)])
    # the zeros below the data come from an operator too, so that the data keep their chunks
    extend = pylops.VStack([pylops.Identity(dims), pylops.Zero(dims)])
    chunks = dims
    if pylops_dispatch.is_enabled():  # NumPy PyLops has no chunks
        chunks = tuple(sizes[0] for sizes in pylops_dispatch.suggest_chunks(system, dims))
    data = peer.array(common.numbers(*dims), chunks)

    def run() -> Any:
        steps = common.STEPS["poststack"]
        return peer.hold(pylops.cgls(system, extend @ data, niter=steps, tol=0)[0])

    return run


def convolution(peer: Peer, scale: float, sources: int) -> tuple[Callable[[], Any], Any]:
    """Return what makes the operator of MDC, and data.

    MDC scales its kernel: NumPy arrays when it is made, dask arrays when it is first applied.
    """
    nt, nf, ns, nr = common.kernel_dims(scale)
    kernel = peer.array(common.numbers(nf, ns, nr, dtype="complex128"), (nf // 8, ns, nr))
    shape = (nt, ns) if sources == 1 else (nt, ns, sources)
    # transforms in time run in parallel over sources, or over the receivers of one
    chunks = (nt, ns // 2) if sources == 1 else (nt, ns, sources // 4)

    def make() -> Any:
        return pylops.waveeqprocessing.MDC(kernel, nt=nt, nv=sources, dt=0.004, dr=1.0)

    return make, peer.array(common.numbers(*shape, seed=2), chunks)


def mdc(peer: Peer, scale: float) -> Run:
    """Multi-dimensional convolution of 32 sources, with making the operator."""
    make, data = convolution(peer, scale, 32)
    return lambda: forward_and_adjoint(peer, make(), data)()


def deconvolution(sources: int) -> Callable[[Peer, float], Run]:
    """Return the work of MDD for some sources, with making the operator."""

    def mdd(peer: Peer, scale: float) -> Run:
        make, data = convolution(peer, scale, sources)
        steps = common.STEPS[f"mdd-{sources}"]
        return lambda: peer.hold(pylops.cgls(make(), data, niter=steps, tol=0)[0])

    return mdd


def vstack(peer: Peer, scale: float) -> Run:
    """VStack of dense matrices."""
    n, m = common.matrix_dims(scale)
    matrices = [
        peer.array(common.numbers(n, m, seed=seed), (n, m)) for seed in range(common.MATRICES)
    ]
    op = pylops.VStack([pylops.MatrixMult(matrix) for matrix in matrices])
    data = peer.array(common.numbers(common.MATRICES * n, seed=100), (n,))

    def run() -> Any:
        return peer.hold(pylops.cgls(op, data, niter=common.STEPS["vstack"], tol=0)[0])

    return run


def fista(peer: Peer, scale: float) -> Run:
    """FISTA over BlockDiag of Convolve1D."""
    dims = common.filter_dims(scale)
    h = common.wavelet()
    op = pylops.BlockDiag(
        [pylops.signalprocessing.Convolve1D(dims, h, offset=h.size // 2)] * common.FILTERS
    )
    n = dims[0] * dims[1]
    data = peer.array(common.numbers(common.FILTERS * n), (n,))

    def run() -> Any:
        x = pylops.fista(op, data, niter=common.STEPS["fista"], alpha=1.0, eps=0.1, tol=0)[0]
        return peer.hold(x)

    return run


WORK: dict[str, Callable[[Peer, float], Run]] = {
    "derivative": derivative,
    "laplacian": laplacian,
    "gradient": gradient,
    "poststack": poststack,
    "mdc": mdc,
    "mdd-1": deconvolution(1),
    "mdd-32": deconvolution(32),
    "vstack": vstack,
    "fista": fista,
}


@contextmanager
def numpy(workers: int) -> Iterator[Peer]:
    """Run on NumPy arrays, with the dispatch disabled."""
    with pylops_dispatch.disabled():
        yield Peer(lambda x, _: x, lambda x: x, lambda function: [function()])


@contextmanager
def threads(workers: int) -> Iterator[Peer]:
    """Run on dask arrays in this process."""
    with dask.config.set(scheduler="threads", num_workers=workers):
        yield Peer(in_memory, lambda x: x.persist(), lambda function: [function()])


@contextmanager
def cluster(workers: int) -> Iterator[Peer]:
    """Run on processes with one thread each; memory is that of all of them, and of this one."""
    with pylops_dispatch.client("local", n_workers=workers, threads_per_worker=1) as client:

        def hold(x: Any) -> Any:
            x = x.persist()
            distributed.wait(x)
            return x

        # the scheduler puts arrays of one block, one after another, on the same worker
        turns = itertools.cycle(client.scheduler_info()["workers"])

        def array(x: np.ndarray, chunks: Chunks) -> Any:
            one_block = x.shape == chunks
            with dask.annotate(workers=[next(turns)]) if one_block else nullcontext():
                return hold(in_memory(x, chunks))

        def everywhere(function: Callable[[], Any]) -> list[Any]:
            return [function(), *client.run(function).values()]

        # by value: workers do not have this folder on their path
        distributed.protocol.pickle.cloudpickle.register_pickle_by_value(common)
        yield Peer(array, hold, everywhere)


PEERS = {"numpy": numpy, "numpy-blas": numpy, "threads": threads, "cluster": cluster}


def main() -> int:
    """Set up, warm up on a small problem, run once, and tell."""
    options = common.arguments(__doc__, list(WORK))
    set_up = WORK[options.work]
    with PEERS[options.peer](options.workers) as peer:
        # imports, threads and plans, which a user pays for once, are not what is compared
        set_up(peer, options.scale / 1000)()
        run = set_up(peer, options.scale)
        gc.collect()  # what imports left
        peer.everywhere(common.reset_peak)
        start = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - start
        memory = sum(peer.everywhere(common.peak))

        def values() -> Any:
            return result.compute() if dask.is_dask_collection(result) else result

        common.tell(seconds, memory, values, options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
