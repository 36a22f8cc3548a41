"""A real server sends the response to a request whose task was refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from executors._serving import responses

APPS = Path(__file__).parent / "apps"
HANDSHAKE = (
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


def request(port: int, until: str, *lines: str) -> str:
    """Send a request, and return the response, headers and body, in lower case, once it contains `until`."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, f"Host: 127.0.0.1:{port}", "", ""]).encode())
        answer = ""
        while until not in answer:
            part = connection.recv(4096)
            assert part, answer
            answer += part.decode()
    return answer.lower()


@contextmanager
def hypercorn(app: str, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run Hypercorn with an app from `apps`, and kill it in the end."""
    command = [sys.executable, "-m", "hypercorn", "-w", "0", "-b", f"127.0.0.1:{port}", app]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(APPS), os.environ.get("PYTHONPATH", "")])}
    server = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output = [""]
        while "Running on" not in output[-1]:
            output.append(server.stdout.readline())  # type: ignore[union-attr]
            assert output[-1], output
        yield server
    finally:
        server.kill()
        server.communicate()


def test_under_hypercorn(free_port: int) -> None:
    """Hypercorn sends the whole response, also in place of a websocket handshake, and stops normally."""
    with hypercorn("refusing:app", free_port) as server:
        for lines in (("GET / HTTP/1.1",), ("GET /ws HTTP/1.1", *HANDSHAKE)):
            answer = request(free_port, responses.BUSY, *lines)
            assert answer.startswith("http/1.1 503")
            assert "retry-after: 5" in answer
        request(free_port, "released", "POST /release HTTP/1.1", "Content-Length: 0")
        server.terminate()
        rest, _ = server.communicate(timeout=30)
    assert server.returncode == 0, rest
    assert "after_serving" in rest
    assert rest.count("answered with status 503") == 1
    assert "Traceback" not in rest


def test_a_drain_under_hypercorn(free_port: int) -> None:
    """Requests whose task a drain has ended get status 503, also after the drain; other cancellations are errors."""
    with hypercorn("drained:app", free_port) as server, ThreadPoolExecutor() as clients:
        assert request(free_port, "Internal Server Error", "GET /cancelled HTTP/1.1").startswith("http/1.1 500")
        waiting = [
            clients.submit(request, free_port, responses.STOPPING, f"GET {path} HTTP/1.1")
            for path in ("/wait", "/late")
        ]
        request(free_port, "drained", "POST /drain HTTP/1.1", "Content-Length: 0")
        for answer in waiting:
            assert answer.result().startswith("http/1.1 503")
            assert "retry-after: " in answer.result()
        server.terminate()
        rest, _ = server.communicate(timeout=30)
    assert server.returncode == 0, rest
    assert rest.count("Traceback") == 1  # of the first request
