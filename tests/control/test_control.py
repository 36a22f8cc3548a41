"""The control socket of an executor: what it answers, also while the event loop is blocked, and to whom."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest
from processes import is_alive, within
from servers import until
from stack_tasks import nap

from executors import Executor, TaskCancelledError, cpu_bound, current_task
from executors._control import ControlSwitch, blocking, server
from executors._control.client import cancel_task, collect, find_servers, find_task, merge
from executors._control.hook import ControlHook

T = TypeVar("T")

on_one_loop = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], indirect=True, ids=["asyncio"])


async def ask(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Ask from another thread, while the event loop runs."""
    return await anyio.to_thread.run_sync(partial(function, *args, **kwargs))


def wait(event: threading.Event) -> None:
    current_task().progress(1, 4, "waiting")
    event.wait()


async def wait_on_loop(event: anyio.Event) -> None:
    await event.wait()


def fail() -> None:
    raise ValueError("no such order")


def connected(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(find_servers(folder)[0].path))
    return sock


def exchange(sock: socket.socket, request: bytes) -> Any:
    """Send a line, and return the response; None if the connection is closed."""
    sock.sendall(request + b"\n")
    received = b""
    while not received.endswith(b"\n"):
        data = sock.recv(65536)
        if not data:
            return None
        received += data
    return json.loads(received)


@pytest.mark.anyio
async def test_what_it_answers(folder: Path) -> None:
    """The state of the executor, each task with its stack or its traceback, and cancellation, on every loop."""
    event, on_loop = threading.Event(), anyio.Event()
    async with Executor(threads=2, processes=1, control_dir=str(folder)) as executor:
        handles = [executor.submit(wait, event), executor.submit(wait_on_loop, on_loop)]
        process = executor.submit(cpu_bound(nap), 60)
        failed = executor.submit(fail)
        await failed.wait()
        assert failed.exception() is not None
        while process.state == "queued" or handles[0].progress is None:
            await anyio.sleep(0.01)
        (name,) = os.listdir(folder)
        assert os.stat(folder / name).st_mode & 0o777 == 0o600
        (status,) = await ask(collect, folder, "status")
        assert status["pid"] == os.getpid()
        assert status["phase"] == "open"
        assert {task["name"]: task["worker"] is None for task in status["active"]} == {
            "wait": False, "wait_on_loop": True, "nap": False,
        }  # fmt: skip
        thread = next(task for task in status["active"] if task["name"] == "wait")
        assert thread["progress"] == {"done": 1, "total": 4, "message": "waiting", "fraction": 0.25}
        assert [task["error"] for task in status["recent"]] == ["ValueError: no such order"]
        assert {span["name"] for span in status["timeline"]} == {"fail", "wait", "wait_on_loop", "nap"}
        lines = "event.wait()", "await event.wait()", "time.sleep(seconds)"
        for handle, line in zip([*handles, process], lines, strict=True):
            found = await ask(find_task, folder, handle.id)
            while found is not None and line not in (found["stack"] or ""):  # it may still be importing the function
                found = await ask(find_task, folder, handle.id)
            assert found is not None
        assert found["pid"] != found["server"] == os.getpid()
        queued = executor.submit(cpu_bound(nap), 60)
        for handle, pid in (queued, None), (handles[0], os.getpid()):
            found = await ask(find_task, folder, handle.id)
            assert found is not None
            assert found["pid"] == pid
        queued.cancel()
        found = await ask(find_task, folder, failed.id)
        assert found is not None
        assert found["traceback"].endswith("ValueError: no such order")
        assert await ask(find_task, folder, "0" * 32) is None
        assert await ask(cancel_task, folder, process.id) is True
        assert await ask(cancel_task, folder, failed.id) is False
        assert await ask(cancel_task, folder, "no id") is None
        with pytest.raises(TaskCancelledError):
            await process
        event.set()
        on_loop.set()
        for handle in handles:
            await handle
    assert find_servers(folder) == []
    assert [name.rpartition(".")[2] for name in os.listdir(folder)] == ["drain"]


@on_one_loop
@pytest.mark.anyio
async def test_a_server_process_asks_itself_without_json(folder: Path) -> None:
    """The answer has the same members, and the same errors. None comes from a socket that has been removed."""
    async with Executor(threads=1, processes=0, control_dir=str(folder)) as executor:
        await executor.run(abs, -1)
        (own,) = [hook.server for hook in executor._run_hooks if isinstance(hook, ControlHook)]
        (status,) = await ask(collect, folder, "status", own=own)
        (through_socket,) = await ask(collect, folder, "status")
        assert status.keys() == through_socket.keys()
        assert {type(bucket) for bucket in status["functions"][0]["run_times"]} == {int}
        assert json.loads(json.dumps(status["recent"])) == through_socket["recent"]
        (refused,) = await ask(collect, folder, "shutdown", own=own)
        assert "there are the methods" in refused["error"]
    assert await ask(collect, folder, "status", own=own) == []
    assert own.ask({"method": "status"}).cancelled()  # the thread has ended


@pytest.mark.anyio
async def test_a_blocked_loop(folder: Path) -> None:
    """It answers while a call that releases the GIL blocks the loop, and shows the call, with or without a monitor."""
    async with Executor(threads=1, processes=0, control_dir=str(folder)):
        (status,) = await ask(collect, folder, "status")
        assert status["blocked"] is None
        (status,) = blocked_status(folder)
        assert "in blocked_status\n    thread.join()\n" in status["blocked"]["stack"]
        assert status["blocked"]["seconds"] >= blocking.MIN_BLOCKED


def blocked_status(folder: Path) -> list[dict[str, Any]]:
    """Block the event loop until the server process has answered."""
    found: list[dict[str, Any]] = []
    has_started = threading.Event()

    def watch() -> None:
        has_started.wait()  # until this one no longer waits for the thread's start
        found.extend(collect(folder, "status", timeout=20))

    thread = threading.Thread(target=watch)
    thread.start()
    has_started.set()
    thread.join()
    return found


def keep_the_gil() -> None:
    """Keep the GIL for about half a second: for longer than the control thread waits between two looks."""
    sum(range(40_000_000))


@on_one_loop
@pytest.mark.parametrize("with_monitor", [False, True])
@pytest.mark.anyio
async def test_a_loop_that_keeps_the_gil(folder: Path, with_monitor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers as soon as the call ends, and shows the call."""
    monkeypatch.setattr(blocking, "WATCH_INTERVAL", 0.05)
    async with Executor(threads=1, processes=0, control_dir=str(folder), monitor=with_monitor):
        await ask(collect, folder, "status")
        await anyio.sleep(0.3)  # the control thread waits for a short time only: somebody watches
        keep_the_gil()
        await anyio.sleep(0)
        (status,) = await ask(collect, folder, "status", timeout=20)
        if status["last_blocked"] is None and with_monitor:  # its thread got the GIL first, and names the call
            with anyio.fail_after(20):
                while not any("sum(range(40_000_000))" in str(blame["where"]) for blame in status["loop"]["blame"]):
                    await anyio.sleep(0.05)
                    (status,) = await ask(collect, folder, "status", timeout=20)
            return
        assert "in keep_the_gil" in status["last_blocked"]["stack"]
        assert status["last_blocked"]["seconds"] >= blocking.MIN_BLOCKED
        assert (status["loop"] is not None) is with_monitor


@pytest.mark.anyio
@on_one_loop
async def test_hostile_clients(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage is answered with a sentence, and nobody keeps others from being answered."""
    async with Executor(threads=1, processes=0, control_dir=str(folder)):
        with connected(folder) as sock:
            for request, answer in {
                b"GET / HTTP/1.1": "the request isn't JSON",
                b"[" * 10_000: "the request isn't JSON",
                b"\xff": "the request isn't JSON",
                b"[1]": "the request isn't a JSON object",
                b'{"method": "eval"}': "there are the methods status, task and cancel",
                b'{"method": ["task"], "id": 5}': "there are the methods status, task and cancel",
                b'{"method": "task", "id": 5}': "the method task needs the id of a task",
                b'{"method": "cancel", "id": "../../etc/passwd"}': "there is no task with this id",
            }.items():
                assert await ask(exchange, sock, request) == {"ok": False, "error": answer}
            assert (await ask(exchange, sock, b'{"method": "status"}'))["ok"]
        with connected(folder) as sock, pytest.raises(ConnectionError):
            while await ask(exchange, sock, b"x" * (server.MAX_REQUEST + 1)) is not None:
                pass
            raise ConnectionResetError
        monkeypatch.setattr(server, "EXCHANGE_TIMEOUT", 0.5)
        many = [connected(folder) for _ in range(server.MAX_CONNECTIONS + 5)]
        many[-1].sendall(b'{"method": ')  # and no more
        many[-2].sendall(b'{"method": "status"}\n' * 3000)  # and reads nothing
        (status,) = await ask(collect, folder, "status", timeout=10)
        assert status["phase"] == "open"
        assert await ask(many[0].recv, 1) == b""  # it was idle for the longest time
        assert await ask(many[-1].recv, 1) == b""  # after the timeout
        for sock in many:
            sock.close()


@pytest.mark.anyio
@on_one_loop
async def test_each_executor_and_run_has_a_socket(folder: Path) -> None:
    """Two executors of a process are told apart, a second run starts anew, and two switches make one socket."""
    first, second = (Executor(threads=1, processes=0, control_dir=str(folder)) for _ in range(2))
    second.add_hook(ControlSwitch())
    second.add_hook(ControlSwitch())
    async with first, second:
        assert len(find_servers(folder)) == 2
        with pytest.raises(ValueError, match="no such order"):
            await first.run(fail)
        counts = sorted(status["finished"].get("failed", 0) for status in await ask(collect, folder, "status"))
        assert counts == [0, 1]
        assert merge(await ask(collect, folder, "status"))["finished"] == {"failed": 1}
    async with first:
        (status,) = await ask(collect, folder, "status")
        assert status["finished"] == {}
        assert status["drain"]["clean"] is True


@pytest.mark.anyio
@on_one_loop
async def test_a_loop_that_ends_without_a_drain(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is removed soon."""
    monkeypatch.setattr(server, "CHECK_INTERVAL", 0.05)

    async def start_only() -> None:
        Executor(threads=1, processes=0, control_dir=str(folder)).start()

    await anyio.to_thread.run_sync(anyio.run, start_only)
    until(lambda: not find_servers(folder))
    gc.collect()


FORKING = """
    import anyio, os, sys, warnings
    from executors import Executor
    warnings.simplefilter("ignore")

    async def main():
        async with Executor(threads=1, processes=0, control_dir=sys.argv[1]):
            if os.fork():
                print("ready", flush=True)
                await anyio.sleep(60)
            else:
                sys.stdin.read()
                os._exit(0)

    anyio.run(main)
"""


def test_a_killed_process_whose_fork_lives_on(folder: Path) -> None:
    """The fork doesn't listen: clients find out at once, and remove the socket."""
    command = [sys.executable, "-c", dedent(FORKING), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (status,) = collect(folder, "status", timeout=20)
        assert status["pid"] == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(find_servers(folder)) == 1
        with within(10):
            assert collect(folder, "status", timeout=20) == []
        assert find_servers(folder) == []
        assert not is_alive(process.pid)
