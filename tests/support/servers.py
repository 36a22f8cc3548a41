"""A server process with an app, the app's record, and every process that belongs to the server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from processes import is_alive, seconds_without_cpu

APPS = Path(__file__).parents[1] / "quart" / "apps"
ASGI_APPS = Path(__file__).parents[1] / "asgi" / "apps"
TIMEOUT = 30.0
"""Seconds that a loaded machine may take for what an idle one does in two."""

T = TypeVar("T")


def until(observe: Callable[[], T], timeout: float = TIMEOUT) -> T:
    """Poll the state of another process until it is true, with a timeout; return it."""
    deadline = time.monotonic() + timeout
    while not (value := observe()):
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.01)
    return value


def check_gone_within(seconds: float, is_left: Callable[[], object]) -> None:
    """Assert that something is gone within a time, without the seconds that this thread waits for a CPU meanwhile."""
    began, before = time.monotonic(), seconds_without_cpu()
    until(lambda: not is_left())
    assert time.monotonic() - began < seconds + seconds_without_cpu() - before


def find_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def can_be_bound(port: int) -> bool:
    """Whether no process listens on the port."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def accepts_connections(port: int) -> bool:
    """Whether a process listens on the port."""
    with socket.socket() as sock:
        if sock.connect_ex(("127.0.0.1", port)):
            return False
        return bool(sock.getsockname() != sock.getpeername())  # otherwise the socket is connected to itself


def processes_with(mark: str) -> set[int]:
    """Return the running processes that were started with this string in their environment (Linux)."""
    found = set()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        pid = int(environ.parent.name)
        try:
            if mark.encode() in environ.read_bytes() and is_alive(pid):
                found.add(pid)
        except OSError:
            continue
    return found


class Server:
    """A server that has started, in a process group of its own.

    Args:
        command: The interpreter's arguments; ``{port}`` stands for the port.
        port: The port to listen on, which is free.
        folder: The working directory, for the record and the output.
        variables: Additional environment variables.
    """

    def __init__(self, command: list[str], port: int, folder: Path, **variables: str) -> None:
        self.port = port
        self._record = folder / "record"
        self._output = folder / "output"
        self._record.touch()
        self._mark = f"SERVED_RECORD={self._record}"
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(APPS), str(ASGI_APPS), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "SERVED_RECORD": str(self._record),
            "SERVED_PORT": str(port),
            **variables,
        }
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *(part.format(port=port) for part in command)],
                env=env,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        until(lambda: self.process.poll() is not None or accepts_connections(port))
        assert self.process.poll() is None, self.output

    @property
    def output(self) -> str:
        """The output so far."""
        return self._output.read_text()

    @property
    def lines(self) -> list[str]:
        """The lines that the app has recorded so far."""
        return self._record.read_text().splitlines()

    def recorded(self, what: str) -> list[str]:
        """Return the rest of each recorded line that begins with this word."""
        return [line.partition(" ")[2] for line in self.lines if line.partition(" ")[0] == what]

    def request(self, path: str, method: str = "POST") -> str:
        """Send a request on a connection of its own, and return the answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            text: str = response.read().decode()
            return text

    def work(self, seconds: float) -> str:
        """Start a task of this length on all three backends, and return the answer."""
        before = len(self.recorded("worker"))
        answer = self.request(f"/work/{float(seconds)}")
        until(lambda: len(self.recorded("worker")) > before)
        return answer

    @contextmanager
    def slow_request(self, seconds: float) -> Iterator[socket.socket]:
        """Send a request that takes this long, and keep its connection open."""
        with socket.create_connection(("127.0.0.1", self.port)) as sock:
            sock.sendall(f"GET /slow/{float(seconds)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            until(lambda: self.recorded("slow"))
            yield sock

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the process that was started, or to its whole group."""
        (os.killpg if group else os.kill)(self.process.pid, number)

    def processes(self) -> set[int]:
        """Return all processes that belong to it."""
        return processes_with(self._mark)

    def kill(self) -> None:
        """Kill the server and all of its processes."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in self.processes():
            with suppress(ProcessLookupError):  # it has ended by itself meanwhile
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes())
