"""Real servers with apps of real frameworks: answers, clients that leave, and signals while tasks run."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.error
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM

import pytest
from processes import wait_for_end
from servers import TIMEOUT, Server, can_be_bound, until

APPS = Path(__file__).parent / "apps"
UVICORN = ["-m", "uvicorn", "--port", "{port}", "asgi_served:app"]
HYPERCORN = ["-m", "hypercorn", "-b", "127.0.0.1:{port}", "asgi_served:app", "-w"]
GUNICORN = ["-m", "gunicorn", "-b", "127.0.0.1:{port}", "-k", "uvicorn_worker.UvicornWorker", "asgi_served:app"]
SERVERS = {
    "uvicorn": UVICORN,
    "uvicorn, 2 workers": [*UVICORN, "--workers", "2"],
    "hypercorn, 1 worker": [*HYPERCORN, "1"],
    "hypercorn on trio": [*HYPERCORN, "0", "-k", "trio"],
    "gunicorn": GUNICORN,
}
TASKS = ("on_loop", "in_thread", "in_process")


@pytest.fixture
def start(free_port, tmp_path):
    """Return a function that starts a server."""
    servers = []

    def start(kind, by="fastapi", *options, **variables):
        path = os.pathsep.join([str(APPS), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [*SERVERS[kind], *options]
        servers.append(Server(command, free_port, tmp_path, SERVED_BY=by, PYTHONPATH=path, **variables))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def answer(server, path, method="GET"):
    """Return the status, the `Retry-After` and the body of an answer that is an error."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.request(path, method)
    with caught.value as error:
        return error.code, error.headers["Retry-After"], error.read().decode()


def check_nothing_left(server):
    """Assert that no process of the server is left, and that the port is free."""
    until(lambda: not server.processes(), 2)
    assert can_be_bound(server.port)


@pytest.mark.parametrize(
    ("kind", "by"),
    [
        ("uvicorn", "fastapi"),
        ("uvicorn, 2 workers", "litestar"),
        ("hypercorn, 1 worker", "starlette"),
        ("hypercorn on trio", "fastapi"),
        ("gunicorn", "starlette"),
    ],
)
def test_served(start, kind, by):
    """Refusals and timeouts are answered, a client that leaves ends its computation, and a stop waits for tasks."""
    server = start(kind, by, SERVED_TIMEOUT=str(TIMEOUT))
    code, retry_after, body = answer(server, "/refused")
    assert (code, retry_after, json.loads(body)) == (503, "5", {"detail": json.loads(body)["detail"]})
    assert "too busy" in body
    code, retry_after, body = answer(server, "/late")
    assert (code, retry_after, "took too long" in body) == (504, None, True)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: server.recorded("computing"))
    assert wait_for_end(int(server.recorded("computing")[0]), TIMEOUT)
    server.work(0.3)
    os.kill(server.process.pid, SIGTERM)
    server.process.wait(TIMEOUT)
    assert sorted(server.recorded("done")) == sorted(TASKS), server.output
    assert server.lines.count("after_serving") == len(server.recorded("server"))
    check_nothing_left(server)
