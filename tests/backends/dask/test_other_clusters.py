"""Special clusters: with TLS, with several threads per worker and no nanny, or without this library."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import cloud_tasks
import pytest
import worker_tasks as tasks
from clusters import Cluster
from distributed import Client, Security

from executors import BackendUnavailableError
from executors._states import CANCELLED, LOST
from executors.backends import DaskBackend
from executors.backends.dask import remote_task

pytestmark = pytest.mark.anyio


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A certificate that both sides use and trust, and its key."""
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=dask"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def encrypted(tmp_path: Path, certificate: tuple[str, str]) -> Iterator[Cluster]:
    """A cluster with TLS, with one worker that has three threads and no nanny."""
    file, key = certificate
    cluster = Cluster(tmp_path, certificates=("--tls-ca-file", file, "--tls-cert", file, "--tls-key", key))
    cluster.start_workers("--nthreads", "3", "--no-nanny")
    yield cluster
    cluster.close()


async def test_tls_and_threads(encrypted: Cluster, certificate: tuple[str, str], new_cloud, named_pipe, caplog) -> None:
    """A client can use the cluster only with the certificate. Where other tasks run in the same process, a task that
    does not respond is abandoned, and the report has the worker. The log has warned of such workers, once."""
    file, key = certificate
    security = Security(tls_ca_file=file, tls_client_cert=file, tls_client_key=key, require_encryption=True)
    from_worker, to_worker = named_pipe(), named_pipe()
    async with new_cloud(DaskBackend(encrypted.address, security=security), {"cancel_grace": 0.3}) as cloud:
        neighbour = await cloud.begin(cloud_tasks.send_pid_and_wait, from_worker.path, to_worker.path)
        stuck = await cloud.begin(cloud_tasks.send_pid_and_wait, from_worker.path, named_pipe().path)
        stuck.cancel()
        await stuck.wait()
        assert (stuck.state, stuck.abandoned) == (CANCELLED, True)
        to_worker.send("still here")
        assert await neighbour == "still here"
        report = await cloud.executor.drain(1)
        (kept,) = report.abandoned
        assert encrypted.address.rpartition(":")[0] in kept.stack
        assert "single thread" in kept.stack
    (doubt,) = [record.getMessage() for record in caplog.records if "can't be stopped" in record.getMessage()]
    assert "has no nanny" in doubt
    stranger = DaskBackend(encrypted.address.replace("tls", "tcp"), connect_timeout=0.5)
    async with new_cloud(stranger) as cloud:
        assert isinstance(await cloud.error_of(tasks.identity, 1), BackendUnavailableError)


async def test_a_worker_without_the_library(tmp_path: Path, new_cloud) -> None:
    """The error says what to install."""
    cluster = Cluster(tmp_path)
    cluster.start_workers("--no-nanny", blind=True)
    try:
        async with new_cloud(DaskBackend(cluster.address)) as cloud:
            error = await cloud.error_of(tasks.identity, 1)
    finally:
        cluster.close()
    assert "install quart-executors on the workers" in str(error)


async def test_a_worker_that_dies_before_it_begins(tmp_path: Path, new_cloud, monkeypatch) -> None:
    """A task whose workers die before they start it fails after a few attempts."""
    monkeypatch.setattr(remote_task, "MAX_WORKER_DEATHS", 1)
    (tmp_path / "executors.py").write_text("import os\nos._exit(3)\n")
    cluster = Cluster(tmp_path)
    cluster.start_workers("--no-nanny", path=tmp_path)
    try:
        async with new_cloud(DaskBackend(cluster.address)) as cloud:
            handle = cloud.submit(tasks.identity, 1)
            await handle.wait()
    finally:
        cluster.close()
    assert "1 workers died before they started it" in str(handle.exception())
    assert handle.state is LOST


async def test_a_worker_that_is_retired(tmp_path: Path, new_cloud, named_pipe) -> None:
    """Dask reruns the tasks of a retired worker on another, whatever its settings. The other one refuses them, so that
    no task runs twice, and they are reported as lost."""
    cluster = Cluster(tmp_path)
    cluster.start_workers("--no-nanny")
    cluster.start_workers("--no-nanny")
    runs, to_worker = tmp_path / "runs", named_pipe()
    try:
        async with new_cloud(DaskBackend(cluster.address)) as cloud:
            handle = await cloud.begin(cloud_tasks.append_and_wait, str(runs), to_worker.path)
            while not runs.exists():
                await anyio.sleep(0.001)
            async with Client(cluster.address, asynchronous=True, set_as_default=False) as client:
                (worker,) = [worker for worker, keys in (await client.processing()).items() if keys]
                await client.wait_for_workers(2)
                await client.retire_workers([worker])
            await handle.wait()
            assert "Dask tried to rerun it" in str(handle.exception())
            assert await cloud.run(tasks.identity, 1) == 1
    finally:
        cluster.close()
    assert handle.state is LOST
    assert runs.read_text() == "run\n"


IN_THIS_PROCESS = """
import asyncio
from distributed import LocalCluster
from executors import Executor
from executors.backends import DaskBackend
from executors.context import WorkerState

async def main(address):
    backends = {"dask": DaskBackend(address)}
    async with Executor(threads=1, processes=0, backends=backends, tags={"far": "dask"}) as executor:
        print(await executor.options(tag="far").run(abs, -3), WorkerState.active)

with LocalCluster(n_workers=1, processes=False, protocol="tcp", dashboard_address=None) as cluster:
    asyncio.run(main(cluster.scheduler_address))
"""


def test_a_worker_in_the_server_s_own_process() -> None:
    """With a cluster of threads in the server's process, the server's executors do not become inert."""
    ended = subprocess.run(
        [sys.executable, "-c", IN_THIS_PROCESS], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout == "3 False\n", ended.stderr
