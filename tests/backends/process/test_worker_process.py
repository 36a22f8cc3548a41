"""What a parent sees and has of a worker that was launched, whichever way."""

from __future__ import annotations

import os
import time

import anyio
import launching
import pytest
from launching import call, config, setup
from processes import ended

from executors._loops import running_loop
from executors.backends.process.worker_process import ExitWatch

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["forked", "of its own"])
def worker(launcher, launch, request):
    """A worker that was launched in either way."""
    launched = launch(launcher(setup(launching.keep_thread) if request.param == "of its own" else config()))
    assert launched.is_forked == (request.param == "forked")
    return launched


async def test_exit_watch(worker) -> None:
    """It tells once when the process ends, which is still to be reaped then; closing it twice is harmless."""
    told = anyio.Event()
    watch = ExitWatch(worker, running_loop(), told.set)
    assert worker.entered_task_id() == 0
    worker.kill()
    await told.wait()
    assert worker.reap() == -9
    worker.kill()  # harmless: there is nobody left to hit
    watch.close()
    watch.close()
    worker.close()
    worker.close()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_a_worker_ends_with_its_connection(worker) -> None:
    """When the parent closes its end a worker is killed, whatever it does, with what it has started."""
    told = anyio.Event()
    watch = ExitWatch(worker, running_loop(), told.set)
    grandchild = call(worker, launching.start_grandchild)
    launching.send(worker, time.sleep, 1000)
    worker.sock.close()
    await told.wait()
    await ended(grandchild)
    assert worker.reap() == -9
    watch.close()
    worker.close()


def test_what_it_has_entered(worker) -> None:
    """The id of the job is known while it runs, and after."""
    assert worker.entered_task_id() == 0
    assert call(worker, os.getpid) == worker.pid
    assert worker.entered_task_id() == 1
