"""Starting workers and detecting their end: when the parent is killed, and when they fail to start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import anyio
import launching
import pytest
import worker_tasks as tasks
from launching import call, config, setup
from loops import ON_ASYNCIO
from processes import is_alive, wait_for_end, within

from executors import BackendUnavailableError, Executor, WorkerLostError
from executors._states import LOST
from executors._wire.channel import BlockingChannel
from executors._wire.frames import FrameType, frame
from executors.backends import ProcessBackend
from executors.backends.process import starter
from executors.backends.process.launcher import StartError

pytestmark = pytest.mark.anyio

SUPPORT = Path(tasks.__file__).parent
DEATH_TIME = 2.0

"""Where the loop makes no difference: processes are started in threads."""


def program(*command: object, **options) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *map(str, command)], env={**os.environ, "PYTHONPATH": SUPPORT}, **options)


def with_setup(name: str, *args: object, size: int = 1) -> Executor:
    backend = ProcessBackend(size, setup=(f"worker_tasks:{name}", args))
    return Executor(threads=1, backends={"process": backend})


# --- the parent's death -----------------------------------------------------------------------------------


@ON_ASYNCIO
@pytest.mark.parametrize(
    "task", ["idle", "starting", "stay", "spin", "power", "digest", "sleep_in_c", "stop_self", "stay_later"]
)
async def test_workers_end_with_a_killed_parent(named_pipe, task: str) -> None:
    """Two seconds after a SIGKILL to the server its worker is gone, whatever it is doing."""
    from_worker = named_pipe()
    with program(SUPPORT / "parent.py", task, from_worker.path) as parent:
        worker = int(await from_worker.receive())
        assert is_alive(worker)
        parent.kill()
    assert wait_for_end(worker, DEATH_TIME)


def test_workers_end_with_a_program_that_does_not_drain(tmp_path) -> None:
    """A program whose event loop ends without a drain exits, and so does its worker."""
    script = tmp_path / "script.py"
    script.write_text(
        dedent("""
        import asyncio, os, time
        from executors import Executor

        async def main():
            executor = Executor(threads=1, processes=1)
            executor.start()
            cpu = executor.options(tag="cpu")
            print(await cpu.run(os.getpid), flush=True)
            cpu.submit(time.sleep, 1000)
            return executor

        executor = asyncio.run(main())
        """)
    )
    with program(script, stdout=subprocess.PIPE) as parent:
        out, _ = parent.communicate(timeout=30)
    assert parent.returncode == 0
    assert wait_for_end(int(out), DEATH_TIME)


# --- failures to start ------------------------------------------------------------------------------------


@ON_ASYNCIO
@pytest.mark.parametrize(
    ("setup", "argument", "sign"),
    [("setup_fails", "no such app", "RuntimeError: no such app"), ("setup_exits", 7, "exit code 7")],
)
async def test_workers_that_die_at_start(monkeypatch, setup: str, argument: object, sign: str) -> None:
    """Tasks fail soon, with the reason for the workers' deaths; further ones are refused with the same reason."""
    monkeypatch.setattr(starter, "_FIRST_PAUSE", 1000.0)  # in which they are refused
    async with with_setup(setup, argument, size=2) as executor:
        cpu = executor.options(tag="cpu")
        with within(10):
            handles = [cpu.submit(tasks.identity, number) for number in range(5)]
            for handle in handles:
                with pytest.raises(WorkerLostError, match="start") as caught:
                    await handle
                assert handle.state is LOST
                assert sign in str(caught.value)
                assert (caught.value.pid, caught.value.exitcode, caught.value.signal) == (None, None, None)
        with pytest.raises(BackendUnavailableError, match="start") as refused:
            cpu.submit(tasks.identity, 1)
        assert sign in str(refused.value)
        assert sign in (executor.snapshot().backends["process"].unavailable or "")
        assert await executor.run(tasks.identity, "in a thread") == "in a thread"


@ON_ASYNCIO
async def test_no_fork_storm(tmp_path) -> None:
    """However many tasks wait, few starts are tried."""
    path = tmp_path / "starts"
    async with with_setup("setup_counts_and_fails", str(path), size=2) as executor:
        handles = [executor.options(tag="cpu").submit(tasks.identity, number) for number in range(500)]
        for handle in handles:
            await handle.wait()
            assert isinstance(handle.exception(), WorkerLostError)
    assert 1 <= len(path.read_text().split()) <= 4


@ON_ASYNCIO
async def test_the_circuit_closes_again(tmp_path, monkeypatch) -> None:
    """When workers can start again, tasks run again after the pause."""
    monkeypatch.setattr(starter, "_FIRST_PAUSE", 0.3)
    path = tmp_path / "failing"
    path.touch()
    async with with_setup("setup_unless", str(path)) as executor:
        cpu = executor.options(tag="cpu")
        with pytest.raises(WorkerLostError):
            await cpu.run(tasks.identity, 1)
        path.unlink()
        with anyio.fail_after(20):
            while executor.backend("process").unavailable:
                await anyio.sleep(0.05)
        assert await cpu.run(tasks.identity, 2) == 2
        assert executor.snapshot().backends["process"].unavailable is None


@ON_ASYNCIO
async def test_one_failed_start_costs_no_task(tmp_path) -> None:
    """A worker that dies once at start without an error is replaced, and the waiting task runs."""
    path = tmp_path / "starts"
    async with with_setup("setup_fails_once", str(path)) as executor:
        assert await executor.options(tag="cpu").run(tasks.identity, 5) == 5
    assert len(path.read_text().split()) == 2


@ON_ASYNCIO
async def test_a_missing_interpreter(monkeypatch) -> None:
    """A worker that can't be launched is a failed start, too."""
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    async with Executor(threads=1, processes=1) as executor:
        with pytest.raises(WorkerLostError, match="FileNotFoundError"):
            await executor.options(tag="cpu").run(tasks.identity, 1)


@ON_ASYNCIO
@pytest.mark.parametrize("end", ["drain", "cancel"])
async def test_a_worker_that_never_gets_ready(named_pipe, end: str) -> None:
    """A drain ends a worker that hangs in its setup; the waiting task is cancelled."""
    from_worker = named_pipe()
    async with with_setup("setup_stays", from_worker.path) as executor:
        handle = executor.options(tag="cpu").submit(tasks.identity, 1)
        worker = int(await from_worker.receive())
        if end == "cancel":
            assert handle.cancel()
            await handle.wait()
        with within(1.1):
            await executor.drain(0.1)
        assert handle.started_at is None
        assert not is_alive(worker)


@pytest.mark.timeout(120)
def test_too_few_descriptors(tmp_path) -> None:
    """Wherever a start runs out of descriptors, every task ends, no worker is left, and more descriptors help."""
    script = tmp_path / "script.py"
    script.write_text(
        dedent("""
        import asyncio, os, resource
        from executors import Executor, ExecutorError
        from executors.backends.process import starter

        starter._FIRST_PAUSE = 0.1

        async def main():
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            for spare in range(1, 14):
                async with Executor(threads=1, processes=1) as executor:
                    cpu = executor.options(tag="cpu")
                    most = max(map(int, os.listdir("/proc/self/fd")))
                    resource.setrlimit(resource.RLIMIT_NOFILE, (most + spare, hard))
                    try:
                        await asyncio.wait_for(cpu.run(int, "4"), 20)
                        fine = True
                    except ExecutorError:
                        fine = False
                    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                    while executor.backend("process").unavailable:
                        await asyncio.sleep(0.05)
                    assert await cpu.run(int, "5") == 5
                print(spare, fine, flush=True)
                try:
                    os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    continue
                raise AssertionError(f"a process is left with {spare}")

        asyncio.run(main())
        """)
    )
    with program(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        out, err = parent.communicate(timeout=110)
    assert parent.returncode == 0, err.decode()
    assert b"1 False" in out
    assert b"13 True" in out


@ON_ASYNCIO
async def test_failing_starts_cost_nothing_while_a_worker_is_up(tmp_path) -> None:
    """Tasks run in the only worker, and further ones are accepted, while no second one can be started."""
    path = tmp_path / "failing"
    async with with_setup("setup_unless", str(path), size=2) as executor:
        cpu = executor.options(tag="cpu")
        assert await cpu.run(tasks.identity, 0) == 0
        path.touch()
        handles = [cpu.submit(time.sleep, 0.3), *(cpu.submit(tasks.identity, number) for number in range(5))]
        with anyio.fail_after(20):
            for handle in handles:
                await handle
        assert await cpu.run(tasks.identity, 6) == 6
        assert executor.snapshot().backends["process"].unavailable is None


# --- without a pool ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["forked", "of its own"])
def test_launches_side_by_side(launcher, way: str) -> None:
    """Several threads may launch at once: each gets a worker, and the app is imported as few times as possible."""
    one = launcher(setup(launching.keep_thread) if way == "of its own" else config())
    threads = ThreadPoolExecutor(4)  # they outlive the workers
    workers = list(threads.map(lambda _: one.launch(), range(4)))
    try:
        assert [worker.is_forked for worker in workers] == [way == "forked"] * 4
        assert len({call(worker, os.getppid) for worker in workers}) == 1
        assert len({call(worker, os.getpid) for worker in workers}) == 4
    finally:
        for worker in workers:
            worker.reap()
            worker.close()
        threads.shutdown()


@pytest.mark.parametrize("preload", [True, False])
def test_a_launch_that_is_stopped(launcher, named_pipe, preload: bool) -> None:
    """It fails at once, though the app's import hangs, and no process is left."""
    from_worker = named_pipe()
    one = launcher(setup(launching.hang, from_worker.path, preload=preload))
    with ThreadPoolExecutor(1) as threads:
        launching_one = threads.submit(one.launch)
        pid = int(anyio.run(from_worker.receive))
        one.stop()
        with pytest.raises(StartError):
            launching_one.result(timeout=20)
    assert not is_alive(pid)


@pytest.mark.parametrize("way", ["in the fork", "of its own", "unclean"])
def test_a_launch_without_descriptors(way: str) -> None:
    """Wherever it runs out of descriptors, a launch leaves none open and no process; with more of them it works."""
    launching.run(f"""
        import os, resource, warnings
        import launching
        from executors.backends.process.launcher import Launcher, StartError

        def leaked(message, *_):
            print("leaked", message, flush=True)
            os._exit(1)

        warnings.simplefilter("always", ResourceWarning)
        warnings.showwarning = leaked
        settings = launching.setup(launching.keep_thread) if {way!r} == "unclean" else launching.config()
        settings["preload"] = {way!r} != "in the fork"
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        outcomes = []
        for spare in range(1, 14):
            launcher = Launcher(lambda: settings)
            launcher._can_fork = {way!r} != "of its own"
            before = os.listdir("/proc/self/fd")
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)) + spare, hard))
            try:
                worker = launcher.launch()
            except (OSError, StartError) as error:
                outcomes.append(False)
                print(spare, repr(error))
            else:
                outcomes.append(True)
                worker.reap()
                worker.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            worker = launcher.launch()
            assert launching.call(worker, os.getpid) == worker.pid
            if launcher._zygote is not None:
                zygote = launcher._zygote.popen.pid
                with open(f"/proc/{{zygote}}/task/{{zygote}}/children") as children:
                    assert children.read().split() == [str(worker.pid)]
            worker.reap()
            worker.close()
            launcher.close()
            after = os.listdir("/proc/self/fd")
            assert after == before, (spare, before, after)
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                continue
            raise AssertionError(f"a process is left with {{spare}}")
        assert outcomes[0] is False and outcomes[-1] is True, outcomes
    """)


def test_a_byte_stream_is_received_up_to_the_answer(launcher) -> None:
    """Frames that a worker sends after its answer, over a byte stream, are left for the pool."""
    sock, worker_sock = socket.socketpair()
    with sock, worker_sock:
        BlockingChannel(worker_sock).send([frame(FrameType.READY), frame(FrameType.LOG, b"later")])
        worker = SimpleNamespace(sock=sock, pidfd=None, pid=0, keeps_messages=False)
        launcher()._receive_ready(worker)
        assert BlockingChannel(sock).receive()[0] == FrameType.LOG
