"""A server process with an app, what the app has recorded, and every process that belongs to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from processes import is_alive

APPS = Path(__file__).parents[1] / "quart" / "apps"
PATIENCE = 30.0
"""Seconds that a busy machine may take for what an idle one does within two."""

T = TypeVar("T")


def until(look: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Look at another process's state until there is something to see, with a deadline; return it."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
    return seen


def find_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def can_be_bound(port: int) -> bool:
    """Whether nobody listens on the port."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def takes_connections(port: int) -> bool:
    """Whether somebody listens on the port."""
    with socket.socket() as sock:
        if sock.connect_ex(("127.0.0.1", port)):
            return False
        return bool(sock.getsockname() != sock.getpeername())  # else the system let it connect to itself


def processes_with(mark: str) -> set[int]:
    """Return all processes that live and have this text in the environment they were started with (Linux)."""
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
    """A server that has started, with a group of processes of its own.

    Args:
        command: The interpreter's arguments; ``{port}`` stands for the port.
        port: A free port.
        folder: For its files.
        variables: Of its environment.
    """

    def __init__(self, command: list[str], port: int, folder: Path, **variables: str) -> None:
        self.port = port
        self._record = folder / "record"
        self._output = folder / "output"
        self._record.touch()
        self._mark = f"SERVED_RECORD={self._record}"
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(APPS), *filter(None, [os.environ.get("PYTHONPATH")])]),
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
        until(lambda: self.process.poll() is not None or takes_connections(port))
        assert self.process.poll() is None, self.output

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self._output.read_text()

    @property
    def lines(self) -> list[str]:
        """What the app has recorded so far."""
        return self._record.read_text().splitlines()

    def recorded(self, what: str) -> list[str]:
        """Return the rest of each recorded line that begins with this word."""
        return [line.partition(" ")[2] for line in self.lines if line.partition(" ")[0] == what]

    def request(self, path: str, method: str = "POST") -> str:
        """Send a request on a connection of its own, and return the answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            text: str = response.read().decode()
            return text

    def work(self, seconds: float) -> None:
        """Have something of this length under way on all three backends."""
        before = len(self.recorded("worker"))
        self.request(f"/work/{float(seconds)}")
        until(lambda: len(self.recorded("worker")) > before)

    @contextmanager
    def slow_request(self, seconds: float) -> Iterator[socket.socket]:
        """Have a request under way that takes so long."""
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
        """Leave nothing behind, whatever has become of the test."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes())
