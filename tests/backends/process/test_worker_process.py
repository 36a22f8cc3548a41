"""What a parent knows and can do of a launched worker, forked or not."""

from __future__ import annotations

import os
import socket
import time

import anyio
import launching
import pytest
from launching import call, config, setup
from loops import ON_ASYNCIO
from processes import ended

from executors._loops import running_loop
from executors.backends.process import worker_process
from executors.backends.process.worker_process import ExitWatch

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["forked", "of its own", "as on macOS"])
def worker(launcher, launch, monkeypatch, request):
    """A worker launched in each way."""
    with monkeypatch.context() as patch:
        if request.param == "as on macOS":
            patch.delattr(os, "pidfd_open")
            patch.setattr(worker_process, "JOB_SOCKET_TYPE", socket.SOCK_STREAM)
        launched = launch(launcher(config() if request.param == "forked" else setup(launching.keep_thread)))
    assert launched.is_forked == (request.param == "forked")
    assert (launched.pidfd is None) == (request.param == "as on macOS")
    return launched


async def test_exit_watch(worker) -> None:
    """It reports the end of the process once, before it is reaped; closing it twice is harmless."""
    exited = anyio.Event()
    watch = ExitWatch(worker, running_loop(), exited.set)
    assert worker.entered_task_id() == 0
    worker.kill()
    await exited.wait()
    assert worker.reap() == -9
    worker.kill()  # harmless: there is nobody left to hit
    watch.close()
    watch.close()
    worker.close()
    worker.close()


@ON_ASYNCIO
async def test_a_worker_ends_with_its_connection(worker) -> None:
    """When the parent closes its end, a worker is killed, whatever it does, with its child programs."""
    exited = anyio.Event()
    watch = ExitWatch(worker, running_loop(), exited.set)
    grandchild = call(worker, launching.start_grandchild)
    launching.send(worker, time.sleep, 1000)
    worker.sock.close()
    await exited.wait()
    await ended(grandchild)
    assert worker.reap() == -9
    watch.close()
    worker.close()


def test_the_entered_task(worker) -> None:
    """The id of the job is known while it runs, and after."""
    assert worker.entered_task_id() == 0
    assert call(worker, os.getpid) == worker.pid
    assert worker.entered_task_id() == 1
