"""An app under real servers: stopped in the midst of work, and killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import quart.utils

APPS = Path(__file__).parent / "apps"
PATIENCE = 15.0

SERVERS = {
    "hypercorn": ["-m", "hypercorn", "-w", "1", "-b", "127.0.0.1:{port}", "served:app"],
    "hypercorn on uvloop": ["-m", "hypercorn", "-w", "1", "-k", "uvloop", "-b", "127.0.0.1:{port}", "served:app"],
    "hypercorn on trio": ["-m", "hypercorn", "-w", "1", "-k", "trio", "-b", "127.0.0.1:{port}", "served:app"],
    "uvicorn": ["-m", "uvicorn", "--port", "{port}", "served:app"],
    "app.run": [str(APPS / "served.py")],
}
EXIT_CODES = {"uvicorn": -signal.SIGTERM, "app.run": 3 if hasattr(quart.utils, "run_reloader") else 0}  # Quart 0.23


def until(condition, seconds=PATIENCE):
    """Look at another process's state until a condition holds, with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def is_alive(pid):
    """Whether there is such a process that isn't a zombie (which is its parent's affair)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def can_be_bound(port):
    """Whether nobody listens on the port."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def takes_connections(port):
    """Whether somebody listens on the port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A server process with the app, and what the app has recorded."""

    def __init__(self, kind, port, folder):
        self.port = port
        self.record = folder / "record"
        self.output = folder / "output"
        self.record.touch()
        env = {
            **os.environ,
            "PYTHONPATH": str(APPS),
            "SERVED_RECORD": str(self.record),
            "SERVED_PORT": str(port),
            "SERVED_ON": "trio" if "trio" in kind else "asyncio",
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *(part.format(port=port) for part in SERVERS[kind])],
                env=env,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        until(lambda: self.process.poll() is not None or takes_connections(port))

    def lines(self):
        return self.record.read_text().splitlines()

    def pid_of(self, what):
        return next((int(line.split()[1]) for line in self.lines() if line.startswith(f"{what} ")), None)

    def work(self, seconds):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/work/{seconds}", method="POST")
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            assert response.read() == b"under way"
        until(lambda: self.pid_of("worker"))

    def end(self):
        """Leave nothing behind, whatever has become of the test."""
        for pid in (self.pid_of("worker"), self.pid_of("server")):
            if pid is not None and is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(free_port, tmp_path):
    """Return what starts a server."""
    servers = []

    def start(kind):
        servers.append(Server(kind, free_port, tmp_path))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


@pytest.mark.parametrize("kind", SERVERS)
def test_stopped_in_the_midst_of_work(start, kind):
    """SIGTERM ends a server when its work is done: drained, `after_serving` last, nothing left, the port free."""
    server = start(kind)
    server.work(0.3)
    pids = server.pid_of("server"), server.pid_of("worker")
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == EXIT_CODES.get(kind, 0), server.output.read_text()
    assert time.monotonic() - began < 4
    ended = [line for line in server.lines() if " " not in line]
    assert sorted(ended[:-1]) == ["loop", "process", "thread"], server.output.read_text()
    assert ended[-1] == "after_serving"
    until(lambda: not any(map(is_alive, pids)), 1)
    assert can_be_bound(server.port)
    assert "Traceback" not in server.output.read_text()


@pytest.mark.parametrize("kind", ["hypercorn", "uvicorn"])
def test_killed(start, kind):
    """SIGKILL of a server takes its workers with it within two seconds, and the port is free."""
    server = start(kind)
    server.work(60.0)
    pids = server.pid_of("server"), server.pid_of("worker")
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: not any(map(is_alive, pids)), 2)
    if kind == "hypercorn":  # its parent listens as long as it lives
        server.process.kill()
    server.process.wait(PATIENCE)
    until(lambda: can_be_bound(server.port), 2)


def test_worker_killed_under_a_server(start):
    """A worker that is killed costs its own task; the server goes on, and stops as ever."""
    server = start("uvicorn")
    server.work(60.0)
    os.kill(server.pid_of("worker"), signal.SIGKILL)
    until(lambda: "WorkerLostError" in server.output.read_text())
    server.work(0.01)
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(PATIENCE)
    assert server.lines()[-1] == "after_serving"
