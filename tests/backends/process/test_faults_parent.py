"""The end of the server: when it is killed its workers end; on a signal it drains first. Each test starts a program."""

from __future__ import annotations

import os
import signal
import socket

import anyio
import pytest
from faults import TIMEOUT, start_script
from processes import Stopwatch, is_alive, wait_for_end

pytestmark = pytest.mark.anyio

DEATH_TIME = 2.0
"""Seconds, as a `Stopwatch` measures."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The programs have loops of their own."""
    return "asyncio", {}


SERVER = """
    import asyncio, socket, sys
    import fault_tasks, named_pipes, worker_tasks
    from executors import Executor

    async def main(path, *names):
        with socket.create_server(("127.0.0.1", 0)) as server_socket:
            async with Executor(threads=1, processes=len(names) + 1) as executor:
                cpu = executor.options(tag="cpu")
                for name in names:
                    module = worker_tasks if hasattr(worker_tasks, name) else fault_tasks
                    cpu.submit(getattr(module, name), path)
                await cpu.run(worker_tasks.send_pid, path)
                named_pipes.send(path, f"port {server_socket.getsockname()[1]}")
                await asyncio.Event().wait()

    asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_server_leaves_no_worker(named_pipe) -> None:
    """Two seconds after a SIGKILL no worker is left, idle or busy in any way, and the port can be bound again."""
    from_worker = named_pipe()
    busy = ["stay", "spin", "digest", "sleep_in_c", "catch_everything", "ignore_termination"]
    with start_script(SERVER, from_worker.path, *busy) as server:
        try:
            with anyio.fail_after(TIMEOUT):
                messages = [await from_worker.receive() for _ in range(len(busy) + 2)]
        finally:
            server.kill()
        death = Stopwatch()
    (port,) = (int(message.split()[1]) for message in messages if message.startswith("port"))
    workers = [int(message) for message in messages if not message.startswith("port")]
    assert [pid for pid in workers if not wait_for_end(pid, max(0, DEATH_TIME - death.seconds()))] == []
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))


async def test_a_killed_server_leaves_nothing_of_its_tasks(named_pipe) -> None:
    """Programs started by running and earlier tasks are gone two seconds after the server."""
    from_worker = named_pipe()
    with start_script(SERVER, from_worker.path, "stay_with_grandchild", "send_child") as server:
        try:
            with anyio.fail_after(TIMEOUT):
                messages = [await from_worker.receive() for _ in range(4)]
        finally:
            server.kill()
        death = Stopwatch()
    pids = {int(number) for message in messages if not message.startswith("port") for number in message.split()}
    assert len(pids) >= 4  # two workers or three, and two programs
    left = [pid for pid in pids if not wait_for_end(pid, max(0, DEATH_TIME - death.seconds()))]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


async def test_a_killed_server_leaves_no_program_in_another_group(named_pipe) -> None:
    """Programs outside their worker's group are gone, too, except those with a session of their own."""
    from_worker = named_pipe()
    with start_script(SERVER, from_worker.path, "leave_other_groups", "leave_session", "stay") as server:
        try:
            with anyio.fail_after(TIMEOUT):
                messages = [await from_worker.receive() for _ in range(5)]
        finally:
            server.kill()
        death = Stopwatch()
    pids = {int(number) for message in messages if not message.startswith("port") for number in message.split()}
    assert len(pids) >= 6  # two workers or more, and four programs
    left = [pid for pid in pids if not wait_for_end(pid, max(0, DEATH_TIME - death.seconds()))]
    sessions = [os.getsid(pid) for pid in left]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert sessions == left
    assert len(left) == 1


STOPPING = """
    import asyncio, signal, sys
    import named_pipes, worker_tasks
    from executors import Executor

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it

    async def main(path, from_worker, to_worker, how):
        stopping = asyncio.Event()
        if how == "handler":
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        executor = Executor(threads=1, processes=1)
        try:
            async with executor:
                handle = executor.options(tag="cpu").submit(worker_tasks.send_pid_and_wait, from_worker, to_worker)
                try:
                    await stopping.wait()
                finally:
                    named_pipes.send(path, "draining")
        finally:
            print(handle.result() if handle.done() else "not done", flush=True)

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGINT, "handler"), (signal.SIGTERM, "handler"), (signal.SIGINT, "default")]
)
async def test_a_signal_to_the_whole_group(named_pipe, number: int, how: str) -> None:
    """A Ctrl-C or a SIGTERM to server and workers alike: a server that drains has the task's value."""
    path, from_worker, to_worker = named_pipe(), named_pipe(), named_pipe()
    with start_script(STOPPING, path.path, from_worker.path, to_worker.path, how, start_new_session=True) as server:
        try:
            with anyio.fail_after(TIMEOUT):
                worker = int(await from_worker.receive())
                os.killpg(server.pid, number)
                os.kill(worker, number)  # it is in a group of its own
                assert await path.receive() == "draining"
            to_worker.send()
            out, err = server.communicate(timeout=TIMEOUT)
        finally:
            server.kill()
    assert out == f"{worker}\n", err
    assert server.returncode == (0 if how == "handler" else -signal.SIGINT), err
    assert not is_alive(worker)
