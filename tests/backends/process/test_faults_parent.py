"""The server's own end: killed, its workers end; told to stop, it drains first. Each test runs a program of its own."""

from __future__ import annotations

import os
import signal
import socket
import time

import anyio
import pytest
from faults import PATIENCE, start_script
from processes import is_alive, wait_for_end

pytestmark = pytest.mark.anyio

DEATH_TIME = 2.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The programs have loops of their own."""
    return "asyncio", {}


SERVER = """
    import asyncio, socket, sys
    import fault_tasks, lines, worker_tasks
    from executors import Executor

    async def main(path, *names):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            async with Executor(threads=1, processes=len(names) + 1) as executor:
                cpu = executor.options(tag="cpu")
                for name in names:
                    module = worker_tasks if hasattr(worker_tasks, name) else fault_tasks
                    cpu.submit(getattr(module, name), path)
                await cpu.run(worker_tasks.say_pid, path)
                lines.say(path, f"port {listening.getsockname()[1]}")
                await asyncio.Event().wait()

    asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_server_leaves_no_worker(line) -> None:
    """Two seconds after a SIGKILL no worker is left, idle or busy in any way, and the port can be bound again."""
    says = line()
    busy = ["stay", "spin", "digest", "sleep_in_c", "catch_everything", "ignore_termination"]
    with start_script(SERVER, says.path, *busy) as server:
        try:
            with anyio.fail_after(PATIENCE):
                said = [await says.hear() for _ in range(len(busy) + 2)]
        finally:
            server.kill()
        deadline = time.monotonic() + DEATH_TIME
    (port,) = (int(text.split()[1]) for text in said if text.startswith("port"))
    workers = [int(text) for text in said if not text.startswith("port")]
    assert [pid for pid in workers if not wait_for_end(pid, max(0, deadline - time.monotonic()))] == []
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))


async def test_a_killed_server_leaves_nothing_of_its_tasks(line) -> None:
    """What tasks have started, and what earlier ones have left behind, is gone two seconds after the server."""
    says = line()
    with start_script(SERVER, says.path, "stay_with_grandchild", "say_child") as server:
        try:
            with anyio.fail_after(PATIENCE):
                said = [await says.hear() for _ in range(4)]
        finally:
            server.kill()
        deadline = time.monotonic() + DEATH_TIME
    pids = {int(number) for text in said if not text.startswith("port") for number in text.split()}
    assert len(pids) >= 4  # two workers or three, and two programs
    left = [pid for pid in pids if not wait_for_end(pid, max(0, deadline - time.monotonic()))]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


async def test_a_killed_server_leaves_no_program_in_another_group(line) -> None:
    """Programs that have left their worker's group are gone, too, except those with a session of their own."""
    says = line()
    with start_script(SERVER, says.path, "leave_other_groups", "leave_session", "stay") as server:
        try:
            with anyio.fail_after(PATIENCE):
                said = [await says.hear() for _ in range(5)]
        finally:
            server.kill()
        deadline = time.monotonic() + DEATH_TIME
    pids = {int(number) for text in said if not text.startswith("port") for number in text.split()}
    assert len(pids) >= 6  # two workers or more, and four programs
    left = [pid for pid in pids if not wait_for_end(pid, max(0, deadline - time.monotonic()))]
    sessions = [os.getsid(pid) for pid in left]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert sessions == left
    assert len(left) == 1


STOPPING = """
    import asyncio, signal, sys
    import lines, worker_tasks
    from executors import Executor

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it

    async def main(path, says, hears, how):
        stopping = asyncio.Event()
        if how == "handler":
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        executor = Executor(threads=1, processes=1)
        try:
            async with executor:
                handle = executor.options(tag="cpu").submit(worker_tasks.talk, says, hears)
                try:
                    await stopping.wait()
                finally:
                    lines.say(path, "draining")
        finally:
            print(handle.result() if handle.done() else "not done", flush=True)

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGINT, "handler"), (signal.SIGTERM, "handler"), (signal.SIGINT, "default")]
)
async def test_a_signal_to_the_whole_group(line, number: int, how: str) -> None:
    """A Ctrl-C or a SIGTERM to server and workers alike: a server that drains has the task's value."""
    path, says, hears = line(), line(), line()
    with start_script(STOPPING, path.path, says.path, hears.path, how, start_new_session=True) as server:
        try:
            with anyio.fail_after(PATIENCE):
                worker = int(await says.hear())
                os.killpg(server.pid, number)
                os.kill(worker, number)  # it is in a group of its own
                assert await path.hear() == "draining"
            hears.tell()
            out, err = server.communicate(timeout=PATIENCE)
        finally:
            server.kill()
    assert out == f"{worker}\n", err
    assert server.returncode == (0 if how == "handler" else -signal.SIGINT), err
    assert not is_alive(worker)
