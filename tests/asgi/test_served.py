"""Real servers with apps of real frameworks: answers, clients that leave, and signals while tasks run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import urllib.error
from signal import SIGINT, SIGKILL, SIGTERM, SIGTTIN, SIGTTOU

import pytest
from processes import wait_for_end
from servers import ASGI_APPS, TIMEOUT, Server, can_be_bound, check_gone_within, until

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
        servers.append(Server([*SERVERS[kind], *options], free_port, tmp_path, SERVED_BY=by, **variables))
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
    check_gone_within(2, server.processes)
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
    assert set(server.recorded("worker_exit")) <= set(server.recorded("worker_init"))
    assert set(server.recorded("worker")) <= set(server.recorded("worker_exit"))
    check_nothing_left(server)


def test_second_signal_stops_tasks(start):
    """A second signal ends the drain at once; the stopped tasks are reported, and the app's own lifespan goes on."""
    server = start("uvicorn", SERVED_TIMEOUT=str(TIMEOUT))
    server.work(2 * TIMEOUT)
    os.kill(server.process.pid, SIGINT)
    until(lambda: server.recorded("draining"))
    os.kill(server.process.pid, SIGINT)
    server.process.wait(TIMEOUT / 2)
    assert "a second signal, SIGINT" in server.output
    assert all(f"task '{task}'" in server.output for task in TASKS), server.output
    assert server.recorded("done") == []
    assert server.lines[-1] == "after_serving"
    check_nothing_left(server)


def test_forced_exit_of_uvicorn(start):
    """A second Ctrl-C while uvicorn waits for a request stops the tasks at once, and reports them."""
    server = start("uvicorn", SERVED_TIMEOUT=str(TIMEOUT))
    server.work(2 * TIMEOUT)
    with server.slow_request(2 * TIMEOUT):
        os.kill(server.process.pid, SIGINT)
        until(lambda: "Waiting for connections to close" in server.output)
        os.kill(server.process.pid, SIGINT)
        server.process.wait(TIMEOUT / 2)
    assert all(f"task '{task}'" in server.output for task in TASKS), server.output
    check_nothing_left(server)


def test_killed_server(start):
    """When the parent of server processes is killed, they stop their tasks and end, with their workers."""
    server = start("uvicorn, 2 workers", SERVED_TIMEOUT=str(TIMEOUT))
    server.work(2 * TIMEOUT)
    os.kill(server.process.pid, SIGKILL)
    server.process.wait(TIMEOUT)
    check_nothing_left(server)
    assert all(f"task '{task}'" in server.output for task in TASKS), server.output


def test_terminated_server_process_of_hypercorn(start):
    """A SIGTERM to a server process of Hypercorn alone drains the tasks, then ends the process."""
    server = start("hypercorn, 1 worker", SERVED_STOP_TIMEOUT="0.1")
    server.work(0.3)
    os.kill(int(server.recorded("server")[0]), SIGTERM)
    server.process.wait(TIMEOUT)
    assert "received SIGTERM: draining tasks, then exiting" in server.output
    assert sorted(server.recorded("done")) == sorted(TASKS), server.output
    check_nothing_left(server)


def test_repeated_signals_of_gunicorn(start):
    """Gunicorn sends SIGTERM every second to a server process that it has too many of, which doesn't end its drain."""
    server = start("gunicorn", SERVED_TIMEOUT=str(TIMEOUT))
    server.work(2.5)
    os.kill(server.process.pid, SIGTTIN)
    until(lambda: server.lines.count("open") == 2)
    os.kill(server.process.pid, SIGTTOU)  # the oldest ends
    until(lambda: server.recorded("after_serving") or "received a second" in server.output)
    assert "received a second" not in server.output
    assert server.recorded("done").count("on_loop") == 1
    os.kill(server.process.pid, SIGTERM)
    server.process.wait(TIMEOUT)
    assert server.lines.count("after_serving") == 2
    check_nothing_left(server)


def test_reload_leaves_no_workers(start, tmp_path):
    """A reload stops the tasks, and leaves no process of the previous run."""
    source = shutil.copy(ASGI_APPS / "asgi_served.py", tmp_path)
    server = start("uvicorn", "fastapi", "--reload", "--reload-delay", "0.05", SERVED_TIMEOUT="0.1")
    sizes: list[int] = []
    for run in (1, 2):
        until(lambda run=run: server.lines.count("open") == run)
        server.work(2 * TIMEOUT)
        sizes.append(len(server.processes()))
        until(lambda: len(server.processes()) == sizes[0])
        later = os.stat(source).st_mtime + 10
        os.utime(source, (later, later))
    until(lambda: server.lines.count("open") == 3)
    server.signal(SIGINT, group=True)
    server.process.wait(TIMEOUT)
    check_nothing_left(server)


def test_without_lifespan(start):
    """Without a lifespan, a request that needs the executor fails with an error that says so; others work."""
    server = start("uvicorn", "fastapi", "--lifespan", "off")
    assert server.request("/slow/0", "GET") == '"late"'
    assert answer(server, "/wait")[0] == 500
    until(lambda: "the executor hasn't been started" in server.output)
    assert "have the server run lifespans" in server.output
