"""Clients of clusters: on this machine, over SSH, and in the queues of batch systems."""

from __future__ import annotations

import difflib
import importlib
import inspect
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import dask

from pylops_dispatch.arguments import require_count

# classes of dask-jobqueue, by the names of the batch systems
_QUEUES = {
    "htcondor": "HTCondorCluster",
    "lsf": "LSFCluster",
    "moab": "MoabCluster",
    "oar": "OARCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "slurm": "SLURMCluster",
}
KINDS = ("local", "ssh", *_QUEUES)

_LOOPBACK = "127.0.0.1"
_ADDRESSES = ("dashboard_address", "host", "worker_dashboard_address")


def client(
    kind: Any = "local", *, jobs: int | None = None, **options: Any
) -> AbstractContextManager[Any]:
    """Start a cluster, connect to it, and stop both at the end; or use one that is running.

    Inside the ``with`` block the client is dask's scheduler, and code that runs on threads
    runs on the cluster as it is. A script that starts processes of this machine has its own work
    under ``if __name__ == "__main__":``, because these processes import it.

    Parameters
    ----------
    kind : str, distributed.Client or cluster, optional
        ``"local"`` for processes on this machine, ``"ssh"`` for a list of hosts, ``"slurm"``,
        ``"pbs"``, ``"sge"``, ``"lsf"``, ``"oar"``, ``"moab"`` or ``"htcondor"`` for a batch
        queue. A client, a cluster object, or the address of a scheduler
        (``"tcp://host:8786"``) is taken as it is, and not stopped at the end.
    jobs : int, optional
        Number of jobs to submit to a batch queue. Default 1; 0 for none yet, where
        ``client.cluster.adapt`` asks for them.
    **options
        For ``distributed.LocalCluster``, ``distributed.SSHCluster``, the class of
        dask-jobqueue, or, with an address, ``distributed.Client``. ``security`` is for the
        client too. ``"local"`` listens on 127.0.0.1 only, unless an address is given, and there
        is no dashboard unless ``dashboard_address`` is; a port alone is one of 127.0.0.1.

    Yields
    ------
    distributed.Client
        Connected.

    Raises
    ------
    ValueError
        If `kind` is none of these, options are given for what is running, or a local cluster has
        no such option.
    ImportError
        If a package is missing, with what to install.
    RuntimeError
        If the script starts processes while they import it.

    Examples
    --------
    >>> import pylops_dispatch
    >>> with pylops_dispatch.client(processes=False, n_workers=1) as c:
    ...     c.submit(sum, [1, 2]).result()
    3
    """
    return _Client(_connected(kind, jobs, options))


class _Client(AbstractContextManager[Any]):
    """What :func:`client` returns: nothing is started before the ``with`` block begins."""

    def __init__(self, context: AbstractContextManager[Any]) -> None:
        self._context = context

    def __enter__(self) -> Any:
        return self._context.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._context.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no {name!r} before it is started: {self!r}")

    def __repr__(self) -> str:
        return "<a client to be started: with pylops_dispatch.client(...) as client: ...>"


@contextmanager
def _connected(kind: Any, jobs: int | None, options: dict[str, Any]) -> Iterator[Any]:
    import distributed

    if options.get("asynchronous") or getattr(kind, "asynchronous", False):
        raise ValueError(
            "solvers read numbers, which an asynchronous client cannot wait for: take a client "
            "that is not, in a thread of its own (asyncio.to_thread)"
        )
    with ExitStack() as stack:
        if isinstance(kind, distributed.Client):
            _refuse(options, jobs, "a running client")
            stack.enter_context(kind.as_current())
            yield kind
            return
        if isinstance(kind, str) and "://" in kind:
            _refuse({}, jobs, "a scheduler")
            yield stack.enter_context(distributed.Client(kind, **options))
            return
        security = options.get("security")
        if isinstance(kind, str):
            if kind.lower() == "local":
                stack.enter_context(_memory_of_workers())
                stack.enter_context(_time_of_tasks())
            cluster = stack.enter_context(_start(kind.lower(), jobs, options))
        elif hasattr(kind, "scheduler_address"):
            _refuse({k: v for k, v in options.items() if k != "security"}, jobs, "a cluster")
            cluster = kind
        else:
            raise ValueError(_unknown(kind))
        known = {} if security is None else {"security": security}
        connected = stack.enter_context(distributed.Client(cluster, **known))
        if isinstance(kind, str):
            from pylops_dispatch.trimming import Trim

            connected.register_plugin(Trim())
        yield connected


# glibc's malloc in workers: distributed sets its trim threshold to 64 kB, and with it switches off
# that the others adapt; each temporary would then be given to the system, and zeroed by it anew.
# Blocks as large as what malloc keeps at most never lie between temporaries, which would leave
# holes that the next block does not fit in
_KEPT = 6 << 20
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": _KEPT,
    "MALLOC_TRIM_THRESHOLD_": _KEPT,
    "MALLOC_ARENA_MAX": 2,
}
_TRIM_OF_DISTRIBUTED = 1 << 16  # distributed.yaml


@contextmanager
def _memory_of_workers() -> Iterator[None]:
    """Set how workers that are started in this context allocate memory; what is set, stays."""
    name = "distributed.nanny.pre-spawn-environ"
    new = {key for key in _MALLOC if key not in os.environ}
    given = dict(dask.config.get(name, None) or {})
    if given.get("MALLOC_TRIM_THRESHOLD_") == _TRIM_OF_DISTRIBUTED:
        del given["MALLOC_TRIM_THRESHOLD_"]
    with dask.config.set({name: {**_MALLOC, **given}}):
        try:
            yield
        finally:
            for key in new:  # nannies leave them in this process (nanny.py, os.environ.update)
                os.environ.pop(key, None)


_UNKNOWN = "distributed.scheduler.unknown-task-duration"


@contextmanager
def _time_of_tasks() -> Iterator[None]:
    """Let the scheduler take a task that it does not know for as long as one on a block takes.

    With half a second, which distributed takes, it sends blocks of some megabytes to another
    worker for the first tasks of a kind rather than let them wait. What the user has set, stays.
    """
    unset = dask.config.get(_UNKNOWN, None) in (None, "500ms")  # distributed.yaml
    with dask.config.set({_UNKNOWN: "20ms"}) if unset else nullcontext():
        yield


def _start(kind: str, jobs: int | None, options: dict[str, Any]) -> Any:
    if kind not in KINDS:
        raise ValueError(_unknown(kind))
    if kind not in _QUEUES and jobs is not None:
        instead = "n_workers=..." if kind == "local" else "hosts=[...]"
        raise ValueError(f"jobs are those of a batch queue; kind={kind!r} takes {instead}")
    if kind == "local":
        return _local(options)
    if kind == "ssh":
        return _ssh(options)
    workers = options.pop("n_workers", None)
    if workers is not None and jobs is not None:
        raise ValueError(f"give jobs={jobs!r} or n_workers={workers!r}, not both")
    given, name = (workers, "n_workers") if jobs is None else (jobs, "jobs")
    return _queue(kind, 1 if given is None else require_count(given, name, 0), options)


def _local(options: dict[str, Any]) -> Any:
    import distributed

    _require_known(options)
    for name in ("n_workers", "threads_per_worker"):
        if options.get(name) is not None:
            require_count(options[name], name, 0 if name == "n_workers" else 1)
    given = {k: v for k, v in options.items() if v is not None or k not in _ADDRESSES}
    scheduler = given.pop("scheduler_kwargs", None) or {}
    scheduler = {k: v for k, v in scheduler.items() if v is not None or k not in _ADDRESSES}
    dashboard = given.get("dashboard_address")
    # without a dashboard there is still a page on the health of the scheduler
    scheduler["dashboard_address"] = _here(scheduler.get("dashboard_address", dashboard))
    own = {"dashboard_address": None, "scheduler_kwargs": scheduler}
    if dashboard is not None:
        own["dashboard_address"] = scheduler["dashboard_address"]
    if "worker_dashboard_address" in given:
        own["worker_dashboard_address"] = _here(given["worker_dashboard_address"])
    elif given.get("processes") is False:
        given.setdefault("worker_class", _worker_of_this_process())
    if given.get("processes") is not False:
        given.setdefault("host", _LOOPBACK)
        _check_imported_main()
    return distributed.LocalCluster(**{**given, **own})


def _check_imported_main() -> None:
    """Refuse to start workers from a script that a worker is just importing.

    Processes that are spawned import the script that started them (multiprocessing/spawn.py).
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a worker imports the script that started it, which would start workers again: put "
            'what the script does under `if __name__ == "__main__":`, or use processes=False'
        )


_OF_OTHERS = {
    "cores": "n_workers and threads_per_worker", "memory": "memory_limit", "workers": "n_workers",
}  # fmt: skip
# parameters of the classes that a local cluster is made of, which it sets itself
_OWN = {"self", "args", "kwargs", "workers", "worker", "scheduler"}


def _require_known(options: dict[str, Any]) -> None:
    """Raise for what neither a local cluster nor its workers take, before any is started."""
    import distributed

    worker = options.get("worker_class") or distributed.Worker
    if not isinstance(worker, type):
        return  # a name that workers import
    known: set[str] = set()
    for top in (distributed.LocalCluster, distributed.Nanny, worker):
        for cls in top.__mro__:
            known.update(inspect.signature(vars(cls).get("__init__", object)).parameters)
    for name in sorted(options.keys() - (known - _OWN)):
        close = difflib.get_close_matches(name, known, 1)
        instead = _OF_OTHERS.get(name) or (close[0] if close else "")
        raise ValueError(
            f"kind='local' has no option {name!r}" + (f": use {instead}" if instead else "")
        )


def _here(address: Any) -> Any:
    """Return an address of a page, on this machine only where it names no machine."""
    if address is None or address == "":
        return f"{_LOOPBACK}:0"
    if isinstance(address, (list, tuple)):
        return [_here(each) for each in address]
    text = str(address)
    if "," in text:
        return ",".join(_here(each) for each in text.split(","))
    host, _, port = text.rpartition(":")
    # as distributed reads it: a number is a port, and other text without one a host
    return f"{_LOOPBACK}:{port}" if not host and port.isdigit() else address


def _worker_of_this_process() -> type:
    import distributed

    class Worker(distributed.Worker):
        """Has no address of its own, so that its page on its health would be open to all."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "dashboard_address": _here(None)})

    return Worker


def _ssh(options: dict[str, Any]) -> Any:
    import distributed

    hosts = options.get("hosts")
    if not hosts or isinstance(hosts, str) or len(hosts) < 2:
        raise ValueError(
            "kind='ssh' needs hosts=[...]: the machine of the scheduler first, then one for "
            f"each worker; got {hosts!r}"
        )
    scheduler = {"dashboard": False, **(options.pop("scheduler_options", None) or {})}
    _needed("asyncssh", "asyncssh", "kind='ssh'")
    return distributed.SSHCluster(scheduler_options=scheduler, **options)


def _queue(kind: str, jobs: int, options: dict[str, Any]) -> Any:
    jobqueue = _needed("dask_jobqueue", "dask-jobqueue", f"kind={kind!r}")
    scheduler = {"dashboard_address": ":0", **(options.pop("scheduler_options", None) or {})}
    cluster = getattr(jobqueue, _QUEUES[kind])
    job = options.get("job_cls") or getattr(cluster, "job_cls", None)
    command = getattr(job, "submit_command", None)
    if jobs and command and shutil.which(command) is None:
        raise FileNotFoundError(
            f"kind={kind!r} submits its jobs by {command}, which is not on this machine's PATH: "
            "start this where jobs are submitted"
        )
    return cluster(scheduler_options=scheduler, n_workers=jobs, **options)


def _needed(module: str, package: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{what} needs the package {package}: install 'pylops-dispatch[cluster]'"
        ) from error


def _refuse(options: dict[str, Any], jobs: int | None, what: str) -> None:
    given = [*options, *(() if jobs is None else ("jobs",))]
    if given:
        raise ValueError(f"{what} takes no options, got {', '.join(given)}")


def _unknown(kind: Any) -> str:
    known = ", ".join(repr(name) for name in KINDS)
    return (
        f"kind must be one of {known}, a distributed.Client, a cluster, or an address such as "
        f"'tcp://host:8786'; got {kind!r}"
    )
