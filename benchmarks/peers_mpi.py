"""One work item by pylops-mpi: ``mpiexec -n 2 python benchmarks/peers_mpi.py mpi WORK``.

What ``peers.py`` starts for pylops-mpi, written as its own tutorials are. Each function sets up
the work item of the same name in ``peers_work.py`` and returns what is to be timed.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pylops
import pylops_mpi
from mpi4py import MPI

import peer_process as common

Run = Callable[[], Any]

WORLD = MPI.COMM_WORLD
RANK, RANKS = WORLD.Get_rank(), WORLD.Get_size()


def share(n: int) -> slice:
    """Return the part of an axis that this rank has."""
    lengths = [n // RANKS + (rank < n % RANKS) for rank in range(RANKS)]
    start = sum(lengths[:RANK])
    return slice(start, start + lengths[RANK])


def vector(local: np.ndarray) -> Any:
    """Return a distributed vector, of which this rank has `local`."""
    sizes = WORLD.allgather(local.size)
    y = pylops_mpi.DistributedArray(
        global_shape=sum(sizes), local_shapes=[(size,) for size in sizes], dtype=local.dtype
    )
    y[:] = local.ravel()
    return y


def everywhere(x: np.ndarray, partition: Any = pylops_mpi.Partition.UNSAFE_BROADCAST) -> Any:
    """Return a vector that all ranks have."""
    y = pylops_mpi.DistributedArray(global_shape=x.size, partition=partition, dtype=x.dtype)
    y[:] = x.ravel()
    return y


def forward_and_adjoint(op: Any, x: Any) -> Run:
    """Return what applies an operator and its adjoint."""

    def run() -> Any:
        y = op @ x
        return op.H @ y

    return run


def on_cube(n: int, scale: float, make: Callable[[tuple[int, ...]], Any]) -> Run:
    """Return forward and adjoint on a cube that is cut along its first axis."""
    dims = common.cube(n, scale)
    x = vector(common.numbers(*dims)[share(dims[0])].copy())
    return forward_and_adjoint(make(dims), x)


def laplacian_of(dims: tuple[int, ...]) -> Any:
    """Return second derivatives along all axes, added up."""
    ones = (1,) * len(dims)
    return pylops_mpi.MPILaplacian(dims, axes=tuple(range(len(dims))), weights=ones, sampling=ones)


def derivative(scale: float) -> Run:
    """FirstDerivative on axis 0."""
    return on_cube(400, scale, pylops_mpi.MPIFirstDerivative)


def laplacian(scale: float) -> Run:
    """Laplacian in three dimensions."""
    return on_cube(320, scale, laplacian_of)


def gradient(scale: float) -> Run:
    """Gradient in three dimensions."""
    return on_cube(320, scale, pylops_mpi.MPIGradient)


def poststack(scale: float) -> Run:
    """Post-stack inversion with a Laplacian; space comes first, as it is what is cut."""
    nt, ny, nx = common.section_dims(scale)
    part = share(ny)
    local = part.stop - part.start
    turn = pylops.Transpose((local, nx, nt), (2, 0, 1))
    trace = pylops.avo.poststack.PoststackLinearModelling(
        common.wavelet(), nt0=nt, spatdims=(local, nx)
    )
    modelling = pylops_mpi.MPIBlockDiag(ops=[turn.H @ trace @ turn])
    smooth = common.SMOOTHNESS * laplacian_of((ny, nx, nt))
    op = pylops_mpi.MPIStackedVStack([modelling, smooth])
    values = common.numbers(nt, ny, nx).transpose(1, 2, 0)[part]
    data = vector(np.ascontiguousarray(values))

    def run() -> Any:
        rest = data.zeros_like()
        return pylops_mpi.cgls(
            op, pylops_mpi.StackedDistributedArray([data, rest]), x0=data.zeros_like(),
            niter=common.STEPS["poststack"], tol=0,
        )[0]  # fmt: skip

    return run


def convolution(scale: float, sources: int) -> tuple[Callable[[], Any], Any]:
    """Return what makes the operator of MDC, whose frequencies are shared out, and data."""
    nt, nf, ns, nr = common.kernel_dims(scale)
    kernel = common.numbers(nf, ns, nr, dtype="complex128")[share(nf)].copy()

    def make() -> Any:
        return pylops_mpi.waveeqprocessing.MPIMDC(kernel, nt, sources, nf, dt=0.004, dr=1.0)

    return make, everywhere(common.numbers(nt, ns, sources, seed=2))


def mdc(scale: float) -> Run:
    """Multi-dimensional convolution of 32 sources, with making the operator."""
    make, data = convolution(scale, 32)
    return lambda: forward_and_adjoint(make(), data)()


def deconvolution(sources: int) -> Callable[[float], Run]:
    """Return the work of MDD for some sources, with making the operator."""

    def mdd(scale: float) -> Run:
        make, data = convolution(scale, sources)
        steps = common.STEPS[f"mdd-{sources}"]

        def run() -> Any:
            op = make()
            start = everywhere(np.zeros(op.shape[1]))
            return pylops_mpi.cgls(op, data, x0=start, niter=steps, tol=0)[0]

        return run

    return mdd


def vstack(scale: float) -> Run:
    """VStack of dense matrices."""
    n, m = common.matrix_dims(scale)
    mine = range(common.MATRICES)[share(common.MATRICES)]
    op = pylops_mpi.MPIVStack([pylops.MatrixMult(common.numbers(n, m, seed=seed)) for seed in mine])
    values = common.numbers(common.MATRICES * n, seed=100)
    data = vector(values[mine.start * n : mine.stop * n].copy())

    def run() -> Any:
        start = everywhere(np.zeros(m), pylops_mpi.Partition.BROADCAST)
        return pylops_mpi.cgls(op, data, x0=start, niter=common.STEPS["vstack"], tol=0)[0]

    return run


def fista(scale: float) -> Run:
    """FISTA over BlockDiag of Convolve1D."""
    dims = common.filter_dims(scale)
    n = dims[0] * dims[1]
    h = common.wavelet()
    mine = range(common.FILTERS)[share(common.FILTERS)]
    filters = [pylops.signalprocessing.Convolve1D(dims, h, offset=h.size // 2)] * len(mine)
    op = pylops_mpi.MPIBlockDiag(filters)
    data = vector(common.numbers(common.FILTERS * n)[mine.start * n : mine.stop * n].copy())

    def run() -> Any:
        return pylops_mpi.fista(
            op, data, x0=data.zeros_like(), niter=common.STEPS["fista"], alpha=1.0, eps=0.1, tol=0
        )[0]

    return run


WORK: dict[str, Callable[[float], Run]] = {
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


def main() -> int:
    """Set up, warm up on a small problem, run once, and tell."""
    options = common.arguments(__doc__, list(WORK))
    set_up = WORK[options.work]
    set_up(options.scale / 1000)()
    run = set_up(options.scale)
    gc.collect()  # what imports left
    common.reset_peak()
    WORLD.Barrier()
    start = time.perf_counter()
    result = run()
    WORLD.Barrier()
    seconds = time.perf_counter() - start
    memory = WORLD.allreduce(common.peak())
    values = result.asarray()
    if options.work == "poststack":
        nt, ny, nx = common.section_dims(options.scale)
        values = values.reshape(ny, nx, nt).transpose(2, 0, 1)
    if RANK == 0:
        common.tell(seconds, memory, lambda: values, options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
