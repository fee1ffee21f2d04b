"""Clients of clusters: what is started, what is taken as it is, and what errors say."""

import asyncio
import multiprocessing
import os
import sys
import time
from typing import ClassVar

import dask
import dask.array as da
import distributed
import numpy as np
import psutil
import pylops
import pytest

import pylops_dispatch
from pylops_dispatch import client
from pylops_dispatch.cluster import KINDS

from .helpers import assert_close, rand
from .interpreters import forked_workers


def laplacian_is_right():
    x0 = rand((12, 9))
    op = pylops.Laplacian((12, 9))
    assert_close((op @ da.from_array(x0, chunks=(5, 9))).compute(), op @ x0)


@pytest.fixture
def running():
    with client(processes=False, n_workers=1, threads_per_worker=1) as c:
        yield c


class Recorded(distributed.LocalCluster):
    """Stands for a cluster of other machines; remembers what it was asked for."""

    asked: ClassVar[dict] = {}

    def __init__(self, **options):
        type(self).asked = options
        super().__init__(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None)


class Never(distributed.LocalCluster):
    """Stands for a cluster that must not be started."""

    def __init__(self, **options):
        raise AssertionError(options)


# ---- on this machine -----------------------------------------------------------------------


def test_threads_of_this_process():
    with client(processes=False, n_workers=1, threads_per_worker=2) as c:
        assert distributed.default_client() is c
        laplacian_is_right()
    assert c.status == "closed"


def test_processes_listen_on_the_loopback_address_without_a_dashboard():
    with client("local", n_workers=1, threads_per_worker=1) as c:
        assert c.cluster.scheduler_address.startswith("tcp://127.0.0.1:")
        assert not c.cluster.dashboard_link or "127.0.0.1" in c.cluster.dashboard_link
        assert all(address.startswith("tcp://127.0.0.1:") for address in c.nthreads())
        (pid,) = c.run(os.getpid).values()
        assert pid != os.getpid()
        laplacian_is_right()
    assert c.status == "closed"


def listening():
    """Where this process and those that it started listen."""
    own = psutil.Process()
    found = [p.net_connections(kind="inet") for p in (own, *own.children(recursive=True))]
    return {tuple(c.laddr) for each in found for c in each if c.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dashboard_address": None, "host": None},
        {"dashboard_address": ":0"},
        {"dashboard_address": 0},
        {"dashboard_address": ":0,:0"},
        {"worker_dashboard_address": [":0"]},
        {"scheduler_kwargs": None},
        {"scheduler_kwargs": {"dashboard_address": None, "host": None}},
        {"scheduler_kwargs": {"dashboard_address": ":0"}},
        {"protocol": "tcp"},
    ],
)
def test_nothing_but_an_address_opens_more_than_the_loopback_address(options, processes):
    before = listening()
    with (
        forked_workers(),
        client("local", processes=processes, n_workers=1, threads_per_worker=1, **options),
    ):
        assert {host for host, _ in listening() - before} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (None, None),
        (8787, "127.0.0.1:8787"),
        (":8787", "127.0.0.1:8787"),
        ("host:8787", "host:8787"),
        ("host", "host"),
    ],
)
def test_the_dashboard_is_where_its_address_says(monkeypatch, given, asked):
    monkeypatch.setattr(distributed, "LocalCluster", Recorded)
    with client("local", dashboard_address=given):
        pass
    assert Recorded.asked["dashboard_address"] == asked


def test_an_address_that_is_given_is_listened_on():
    before = listening()
    options = {"processes": False, "n_workers": 1, "threads_per_worker": 1}
    with client("local", dashboard_address="0.0.0.0:0", **options):
        assert "0.0.0.0" in {host for host, _ in listening() - before}


def test_options_are_those_of_the_cluster(monkeypatch):
    monkeypatch.setattr(distributed, "LocalCluster", Recorded)
    with client("local", n_workers=3, host="0.0.0.0", dashboard_address="10.0.0.1:0"):
        pass
    assert Recorded.asked["n_workers"] == 3
    assert Recorded.asked["host"] == "0.0.0.0"
    assert Recorded.asked["dashboard_address"] == "10.0.0.1:0"


def test_security_is_for_the_cluster_and_for_the_client(monkeypatch):
    seen = []
    monkeypatch.setattr(distributed, "LocalCluster", Recorded)
    original = distributed.Client.__init__

    def noting(self, *args, security=None, **kwargs):
        seen.append(security)
        original(self, *args, **kwargs)

    monkeypatch.setattr(distributed.Client, "__init__", noting)
    security = distributed.Security(require_encryption=False)
    with client("local", security=security):
        pass
    assert Recorded.asked["security"] is security
    assert seen == [security]


# ---- what is running already ---------------------------------------------------------------


def test_a_running_client_is_taken_as_it_is(running):
    with client(running) as c:
        assert c is running
        laplacian_is_right()
    assert running.status == "running"


def test_a_running_cluster_is_not_stopped(running):
    with client(running.cluster) as c:
        assert c.cluster is running.cluster
        laplacian_is_right()
    assert c.status == "closed"
    assert running.cluster.status == distributed.Status.running


def test_the_address_of_a_scheduler(running):
    with client(running.scheduler.address) as c:
        assert c.scheduler.address == running.scheduler.address
        laplacian_is_right()
    assert running.submit(abs, -1).result() == 1


def test_options_for_what_is_running_are_an_error(running):
    message = "a running client takes no options, got n_workers"
    with pytest.raises(ValueError, match=message), client(running, n_workers=2):
        pass


# ---- other machines ------------------------------------------------------------------------


def test_ssh(monkeypatch):
    monkeypatch.setattr(distributed, "SSHCluster", Recorded)
    monkeypatch.setitem(sys.modules, "asyncssh", object())
    hosts = ["head", "first", "second"]
    with client("ssh", hosts=hosts, connect_options={"known_hosts": None}) as c:
        assert c.submit(abs, -1).result() == 1
    assert Recorded.asked == {
        "hosts": hosts,
        "connect_options": {"known_hosts": None},
        "scheduler_options": {"dashboard": False},
    }


@pytest.mark.parametrize("hosts", [None, [], "head", ["head"]])
def test_ssh_needs_a_list_of_hosts(hosts):
    message = r"kind='ssh' needs hosts=\[...\]"
    with pytest.raises(ValueError, match=message), client("ssh", hosts=hosts):
        pass


@pytest.mark.parametrize(("kind", "name"), [("pbs", "PBSCluster"), ("SLURM", "SLURMCluster")])
def test_batch_queues(monkeypatch, kind, name):
    jobqueue = type(sys)("dask_jobqueue")
    setattr(jobqueue, name, Recorded)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", jobqueue)
    with client(kind, jobs=4, cores=8, memory="32GB", walltime="01:00:00"):
        pass
    assert Recorded.asked == {
        "cores": 8,
        "memory": "32GB",
        "walltime": "01:00:00",
        "n_workers": 4,
        "scheduler_options": {"dashboard_address": ":0"},
    }


@pytest.mark.parametrize(
    ("kind", "line"), [("pbs", "#PBS -l select=1:ncpus=2"), ("slurm", "#SBATCH")]
)
def test_the_script_of_a_job(kind, line):
    pytest.importorskip("dask_jobqueue")
    options = {"host": "127.0.0.1", "dashboard_address": ":0"}
    with client(kind, jobs=0, cores=2, memory="4GB", scheduler_options=options) as c:
        script = c.cluster.job_script()
    assert line in script
    assert "tcp://127.0.0.1:" in script


# ---- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cloud", 3, None])
def test_an_unknown_kind_lists_the_known_ones(kind):
    with pytest.raises(ValueError, match="kind must be one of") as caught, client(kind):
        pass
    assert all(repr(name) in str(caught.value) for name in KINDS)
    assert repr(kind) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "module", "options"),
    [("ssh", "asyncssh", {"hosts": ["a", "b"]}), ("slurm", "dask_jobqueue", {"cores": 1})],
)
def test_a_missing_package_is_named_with_what_to_install(monkeypatch, kind, module, options):
    monkeypatch.setitem(sys.modules, module, None)
    package = module.replace("_", "-")
    with pytest.raises(ImportError, match=package) as caught, client(kind, **options):
        pass
    assert "pylops-dispatch[cluster]" in str(caught.value)


@pytest.mark.parametrize(("kind", "command"), [("pbs", "qsub"), ("slurm", "sbatch")])
def test_jobs_are_submitted_where_there_is_the_command_for_it(monkeypatch, kind, command):
    """``SLURMCluster`` would start without, and wait for ever."""
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setenv("PATH", "")
    message = f"'{kind}'.*{command}.*not on this machine"
    options = {"jobs": 2, "cores": 1, "memory": "1GB"}
    with pytest.raises(FileNotFoundError, match=message), client(kind, **options):
        pass


def test_jobs_are_workers_of_batch_queues():
    message = "jobs=2 or n_workers=3, not both"
    with pytest.raises(ValueError, match=message), client("slurm", jobs=2, n_workers=3):
        pass
    with pytest.raises(ValueError, match="n_workers must be"), client("slurm", n_workers=-1):
        pass


def test_an_asynchronous_client_is_refused():
    message = r"asyncio\.to_thread"
    with pytest.raises(ValueError, match=message), client("local", asynchronous=True):
        pass

    async def asked():
        async with distributed.Client(
            n_workers=1, processes=False, asynchronous=True, dashboard_address=None
        ) as running:
            with pytest.raises(ValueError, match=message), client(running):
                pass
            with pytest.raises(RuntimeError, match="asynchronous") as caught:
                pylops.cgls(pylops.Identity(6), da.ones(6, chunks=3), niter=1)
            return caught.value.__notes__

    assert any("asyncio.to_thread" in note for note in asyncio.run(asked()))


def test_jobs_are_for_batch_queues():
    with pytest.raises(ValueError, match=r"batch queue.*takes n_workers"), client("local", jobs=2):
        pass
    with pytest.raises(ValueError, match=r"batch queue.*takes hosts"), client("ssh", jobs=2):
        pass
    with pytest.raises(TypeError, match="jobs must be an integer"), client("slurm", jobs="two"):
        pass
    with pytest.raises(ValueError, match="jobs must be at least 0"), client("slurm", jobs=-1):
        pass


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("nworkers", "use n_workers"),
        ("cores", "use n_workers and threads_per_worker"),
        ("memory", "use memory_limit"),
        ("workers", "use n_workers"),
        ("queue_of_jobs", "has no option 'queue_of_jobs'$"),
    ],
)
def test_an_unknown_option_is_named_before_anything_starts(monkeypatch, option, instead):
    monkeypatch.setattr(distributed, "LocalCluster", Never)
    with pytest.raises(ValueError, match=instead), client("local", **{option: 2}):
        pass


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("n_workers", -1, ValueError),
        ("n_workers", 1.5, TypeError),
        ("threads_per_worker", 0, ValueError),
    ],
)
def test_fewer_than_no_workers_are_refused(monkeypatch, option, value, error):
    monkeypatch.setattr(distributed, "LocalCluster", Never)
    with pytest.raises(error, match=option), client("local", **{option: value}):
        pass


def test_options_of_workers_are_known():
    options = {"memory_limit": "1 GB", "lifetime": "1 hour", "death_timeout": 60}
    with client("local", processes=False, n_workers=1, threads_per_worker=1, **options) as c:
        assert c.submit(sum, [1, 2]).result() == 3


def test_numpy_arrays_need_no_cluster(running):
    op = pylops.Diagonal(np.arange(3.0))
    assert type(op @ np.ones(3)) is np.ndarray


def test_workers_keep_the_memory_of_their_temporaries():
    name = "distributed.nanny.pre-spawn-environ"
    given = dask.config.get(name)
    with pylops_dispatch.client(n_workers=1, threads_per_worker=1) as client:
        found = client.run(lambda: dict(os.environ))
    (environment,) = found.values()
    # what is kept has no room for a block that is mapped by itself; distributed keeps 64 kB
    kept = environment["MALLOC_TRIM_THRESHOLD_"]
    assert kept == environment["MALLOC_MMAP_THRESHOLD_"] == str(6 << 20)
    assert dask.config.get(name) == given


def test_memory_that_malloc_keeps_does_not_stop_a_worker():
    def fill_and_free():
        blocks = [np.ones(1 << 17) for _ in range(310)]  # 310 MiB
        # above all others, which malloc cannot give back from the end then
        distributed.get_worker().kept = blocks[-1]

    with pylops_dispatch.client(
        n_workers=1, threads_per_worker=1, memory_limit="800MiB", silence_logs=60
    ) as client:
        client.submit(fill_and_free).result()
        for _ in range(100):
            (used,) = client.run(lambda: psutil.Process().memory_info().rss).values()
            if used < 0.6 * (800 << 20):
                break
            time.sleep(0.1)
        assert used < 0.6 * (800 << 20)


def test_what_a_user_set_of_the_memory_of_workers_stays():
    names = ["MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_"]
    with (
        dask.config.set({f"distributed.nanny.pre-spawn-environ.{name}": 1 << 20 for name in names}),
        pylops_dispatch.client(n_workers=1, threads_per_worker=1) as client,
    ):
        (environment,) = client.run(lambda: dict(os.environ)).values()
    assert [environment[name] for name in names] == [str(1 << 20)] * 2


def test_a_script_that_workers_import_starts_no_workers_again(monkeypatch):
    """What multiprocessing sets in a process that imports the script that has spawned it."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RuntimeError, match="__main__"), pylops_dispatch.client(n_workers=1):
        pass


def test_a_client_that_is_not_started_says_how_to_start_it():
    client = pylops_dispatch.client(processes=False, n_workers=1)
    assert "with pylops_dispatch.client(...) as client" in repr(client)
    with pytest.raises(AttributeError, match=r"no 'submit' before it is started: .*with pylops"):
        client.submit(sum, [1, 2])
