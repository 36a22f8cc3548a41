"""Two server processes of Hypercorn, seen and controlled from the command line."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import TIMEOUT, Server, find_port, until

from executors._control.client import collect, find_servers, merge

COMMAND = ["-m", "hypercorn", "-b", "127.0.0.1:{port}", "controlled:app", "-w", "2"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the server's processes in /proc")


@pytest.fixture
def served(folder: Path, tmp_path: Path) -> Iterator[Server]:
    server = Server(COMMAND, find_port(), tmp_path, CONTROLLED_DIR=str(folder))
    try:
        until(lambda: len([status for status in collect(folder, "status") if "error" not in status]) == 2)
        yield server
    finally:
        server.kill()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours."""
    command = [sys.executable, "-m", "executors", *arguments, "--dir", str(folder)]
    env = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=env, check=False)


def status(folder: Path) -> dict[str, Any]:
    """Return what the command shows once every server process has answered in time."""

    def complete() -> dict[str, Any] | None:
        done = run(folder, "top", "shop", "--once", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return None if any("error" in server for server in found["servers"]) else found

    found = until(complete)
    assert found is not None
    return found


def test_server_processes_on_the_command_line(served: Server, folder: Path) -> None:
    """Their tasks are listed together, cancelled from there, and a killed or drained process is gone."""
    pids = {server["pid"] for server in status(folder)["servers"]}
    assert len(pids) == 2
    task = json.loads(served.request("/render"))
    until(lambda: [task["state"] for task in merge(collect(folder, "status"))["active"]] == ["running"])
    merged = status(folder)
    assert [(each["id"], each["name"], each["server"]) for each in merged["active"]] == [
        (task["id"], "render", task["pid"])
    ]
    screen = until(lambda: complete_screen(folder))
    assert re.search(rf"running\s+render\s+process .* {task['id']}", screen)
    assert "2 server processes" in screen

    done = run(folder, "cancel", task["id"])
    assert (done.returncode, done.stdout) == (0, f"requested the cancellation of {task['id']}\n")
    until(lambda: merge(collect(folder, "status"))["finished"] == {"cancelled": 1})
    done = run(folder, "cancel", task["id"])
    assert done.returncode == 1
    assert "it has ended" in done.stderr
    done = run(folder, "cancel", "nonsense")
    assert done.returncode == 1
    assert "no server process knows it" in done.stderr

    done = run(folder, "top", "other", "--once")
    assert done.returncode == 1
    assert "but of 'shop'" in done.stderr

    os.kill(task["pid"], signal.SIGKILL)
    until(lambda: task["pid"] not in {server["pid"] for server in collect(folder, "status")})
    served.signal(signal.SIGTERM)
    served.process.wait(TIMEOUT)
    until(lambda: not find_servers(folder))
    done = run(folder, "top", "--once")
    assert done.returncode == 1
    assert "EXECUTOR_CONTROL_DIR" in done.stderr


def test_screen_while_a_loop_is_blocked(served: Server, folder: Path) -> None:
    """In a terminal the screen shows what blocks the loop of one server process. The key q ends it."""
    blocking = threading.Thread(target=served.request, args=["/block"])
    fd, theirs = pty.openpty()
    termios.tcsetwinsize(fd, (40, 100))
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "executors", "top", "--interval", "0.2", "--dir", str(folder)]
    env = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}} | {"TERM": "xterm"}
    try:
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as top:
            output = read_until(fd, "2 server processes")
            blocking.start()
            output += read_until(fd, "time.sleep(3)")
            assert re.search(r"the event loop of \d+ is blocked for", output)
            os.write(fd, b"q")
            assert top.wait(TIMEOUT) == 0
        output += read_until(fd, "\x1b[?25h")
        assert output.count("\x1b[?1049h") == output.count("\x1b[?1049l") == 1
        assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(fd)
        os.close(theirs)
        blocking.join()


def complete_screen(folder: Path) -> str:
    """Return the screen if every server process has answered in time."""
    screen = run(folder, "top", "--once").stdout
    return "" if "doesn't answer" in screen else screen


def read_until(fd: int, text: str) -> str:
    """Read a terminal's output until it has a text."""
    output = b""
    deadline = time.monotonic() + TIMEOUT
    while text not in output.decode(errors="replace"):
        assert time.monotonic() < deadline, output
        if select.select([fd], [], [], 1.0)[0]:
            output += os.read(fd, 65536)
    return output.decode(errors="replace")
