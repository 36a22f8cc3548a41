"""Real servers stopped while tasks run: by SIGINT or SIGTERM, once or twice, sent to one process or to all."""

from __future__ import annotations

import itertools
import os
import signal
import time
from signal import SIGINT, SIGKILL, SIGTERM

import pytest
import quart.utils
from processes import is_alive, wait_for_end
from servers import APPS, TIMEOUT, Server, can_be_bound, check_gone_within, until

HYPERCORN = ["-m", "hypercorn", "-b", "127.0.0.1:{port}", "served:app", "-w"]
UVICORN = ["-m", "uvicorn", "--port", "{port}", "served:app"]
SERVERS = {
    "hypercorn": [*HYPERCORN, "0"],
    "hypercorn on uvloop": [*HYPERCORN, "0", "-k", "uvloop"],
    "hypercorn on trio": [*HYPERCORN, "0", "-k", "trio"],
    "hypercorn, 1 worker": [*HYPERCORN, "1"],
    "hypercorn on uvloop, 1 worker": [*HYPERCORN, "1", "-k", "uvloop"],
    "hypercorn on trio, 1 worker": [*HYPERCORN, "1", "-k", "trio"],
    "hypercorn, 2 workers": [*HYPERCORN, "2"],
    "hypercorn on trio, 2 workers": [*HYPERCORN, "2", "-k", "trio"],
    "uvicorn": UVICORN,
    "uvicorn, 2 workers": [*UVICORN, "--workers", "2"],
    "app.run": [str(APPS / "served.py")],
    "app.run on trio": [str(APPS / "served.py")],
}
SHORT_TIMEOUT = {"hypercorn, short timeout": [*HYPERCORN, "0", "-c", "hypercorn.toml"]}
TASKS = ("on_loop", "in_thread", "in_process")

ONE, ALL = False, True
"""Where a signal is sent: to the process that was started, or to its group, as terminals and systemd do."""

ONCE = [
    ("hypercorn", SIGTERM, ONE),
    ("hypercorn on trio", SIGINT, ALL),
    ("hypercorn on uvloop, 1 worker", SIGTERM, ALL),
    ("hypercorn on trio, 1 worker", SIGTERM, ALL),
    ("hypercorn, 2 workers", SIGTERM, ONE),
    ("uvicorn", SIGTERM, ONE),
    ("uvicorn, 2 workers", SIGTERM, ALL),
    ("app.run", SIGINT, ALL),
    ("app.run on trio", SIGTERM, ONE),
]
TWICE = [
    ("hypercorn on uvloop", SIGTERM, ONE),
    ("hypercorn on trio", SIGINT, ALL),
    ("hypercorn, 1 worker", SIGINT, ALL),
    ("uvicorn", SIGINT, ONE),
    ("uvicorn, 2 workers", SIGINT, ALL),
    ("app.run", SIGTERM, ALL),
]
KILLED = ["hypercorn", "hypercorn on trio, 1 worker", "uvicorn, 2 workers"]


def cells(chosen):
    """Return all combinations; those that aren't chosen run on demand, with `-m stress`."""
    return [
        pytest.param(
            *cell,
            id=f"{cell[0]}-{cell[1].name}-{'all' if cell[2] else 'one'}",
            marks=() if cell in chosen else pytest.mark.stress,
        )
        for cell in itertools.product(SERVERS, (SIGINT, SIGTERM), (ONE, ALL))
    ]


def can_receive_second_signal(kind, number, group):
    """Whether the app can receive a second signal.

    A server process receives one only if the whole group does, and can't distinguish a SIGTERM from its parent's.
    """
    return "worker" not in kind or (group and number == SIGINT)


def exit_code(kind, number):
    """Return the exit code of a server that is stopped by a signal, which differs between servers."""
    if kind == "uvicorn" and number == SIGTERM:
        return -SIGTERM
    return 3 if kind == "app.run" and hasattr(quart.utils, "run_reloader") else 0  # Quart 0.23


def wait_for_processes(server, number):
    """Wait until each server process has answered: one that is stopped as it starts never calls `after_serving`."""
    answered = set()

    def ask():
        answered.add(server.request("/", "GET"))
        return len(answered) == number

    until(ask)


@pytest.fixture
def start(free_port, tmp_path):
    """Return a function that starts a server."""
    servers = []

    def start(kind, **variables):
        on = "trio" if "trio" in kind else "asyncio"
        server = Server((SERVERS | SHORT_TIMEOUT)[kind], free_port, tmp_path, SERVED_ON=on, **variables)
        servers.append(server)
        wait_for_processes(server, 2 if "2 workers" in kind else 1)
        return server

    yield start
    for server in servers:
        server.kill()


def stop(server, number, group):
    """Stop a server with a signal, and return its exit code."""
    server.signal(number, group=group)
    return server.process.wait(TIMEOUT)


def check_nothing_left(server):
    """Assert that no process of the server is left, and that the port is free."""
    check_gone_within(2, server.processes)
    assert can_be_bound(server.port)


def check_stopped(server):
    """Assert that tasks ended or are reported, `after_serving` ran last in each process, and nothing is left."""
    for task in TASKS:
        assert task in server.recorded("done") or f"task '{task}'" in server.output, server.output
    ends = server.lines.count("after_serving")
    assert ends == len(server.recorded("server"))
    assert server.lines[-1] == "after_serving"
    assert "Traceback" not in server.output
    check_nothing_left(server)


@pytest.mark.parametrize(("kind", "number", "group"), cells(ONCE))
def test_server_waits_for_accepted_tasks(start, kind, number, group):
    """A stopped server waits for the tasks that it has accepted."""
    server = start(kind, SERVED_TIMEOUT=str(TIMEOUT))
    server.work(0.3)
    assert stop(server, number, group) == exit_code(kind, number), server.output
    assert sorted(server.recorded("done")) == sorted(TASKS), server.output
    check_stopped(server)


@pytest.mark.parametrize(("kind", "number", "group"), cells(TWICE))
def test_second_signal_stops_tasks(start, kind, number, group):
    """A second signal stops the tasks at once if the app can receive it; otherwise they end at the deadline."""
    is_received = can_receive_second_signal(kind, number, group)
    server = start(kind, SERVED_TIMEOUT=str(TIMEOUT if is_received else 0.5))
    busy = server.work(2 * TIMEOUT)
    pids = server.recorded("server")
    server.signal(number, group=group)
    until(lambda: server.lines.count("draining") == len(pids))  # uvicorn skips the end of one that isn't
    until(lambda: not any(is_alive(int(pid)) for pid in pids if pid != busy))  # a second signal would reach its exit
    began = time.monotonic()
    assert stop(server, number, group) == exit_code(kind, number), server.output
    assert time.monotonic() - began < TIMEOUT / 2
    assert ("a second signal" in server.output) == is_received
    assert server.recorded("done") == []
    check_stopped(server)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in KILLED else pytest.mark.stress) for kind in SERVERS]
)
def test_nothing_is_left_of_a_killed_server(start, kind):
    """When a server is killed, its workers end by themselves within two seconds."""
    server = start(kind, SERVED_TIMEOUT=str(TIMEOUT))
    server.work(2 * TIMEOUT)
    assert stop(server, SIGKILL, ONE) == -SIGKILL
    check_nothing_left(server)
    if "worker" in kind:  # the server processes still report what they stopped
        assert server.lines.count("after_serving") == len(server.recorded("server"))
        assert all(f"task '{task}'" in server.output for task in TASKS if task not in server.recorded("done"))


def test_killed_server_process_of_hypercorn(start):
    """The processes of a killed server process are gone within two seconds, although its parent still runs."""
    server = start("hypercorn, 1 worker")
    server.work(2 * TIMEOUT)
    pids = [int(pid) for pid in server.recorded("worker") + server.recorded("server")]
    os.kill(pids[-1], SIGKILL)
    check_gone_within(2, lambda: any(map(is_alive, pids)))
    server.process.wait(TIMEOUT)
    check_nothing_left(server)


@pytest.mark.parametrize(
    "kind", ["hypercorn, 1 worker", pytest.param("hypercorn on trio, 1 worker", marks=pytest.mark.stress)]
)
def test_terminated_server_process_of_hypercorn(start, kind):
    """A SIGTERM to a server process of Hypercorn alone stops the app, then ends the process."""
    server = start(kind, SERVED_STOP_TIMEOUT="0.1")
    server.work(0.3)
    os.kill(int(server.recorded("server")[0]), SIGTERM)
    server.process.wait(TIMEOUT)
    assert "received SIGTERM: draining tasks, then exiting" in server.output
    check_stopped(server)


def test_forced_exit_of_uvicorn(start):
    """A second Ctrl-C while uvicorn waits for a request skips the app's shutdown; unfinished tasks are reported."""
    server = start("uvicorn", SERVED_TIMEOUT=str(TIMEOUT))
    server.work(2 * TIMEOUT)
    with server.slow_request(2 * TIMEOUT):
        server.signal(SIGINT)
        until(lambda: "Waiting for connections to close" in server.output)
        assert stop(server, SIGINT, ONE) == 0
    assert all(f"task '{task}'" in server.output for task in TASKS), server.output
    assert "after_serving" not in server.lines
    check_nothing_left(server)


def test_shutdown_timeout_of_hypercorn(start, tmp_path):
    """If the app's shutdown takes longer than Hypercorn allows, unfinished tasks are reported and nothing is left."""
    (tmp_path / "hypercorn.toml").write_text("shutdown_timeout = 0.3\n")
    server = start("hypercorn, short timeout", SERVED_TIMEOUT=str(TIMEOUT))
    server.work(2 * TIMEOUT)
    assert stop(server, SIGTERM, ONE) != 0
    assert "LifespanTimeoutError" in server.output
    assert all(f"task '{task}'" in server.output for task in TASKS), server.output
    check_nothing_left(server)


def test_killed_worker_fails_its_own_task(start):
    """A killed worker fails only its own task; the server keeps running, and stops normally."""
    server = start("uvicorn", SERVED_TIMEOUT="0.3")
    server.work(2 * TIMEOUT)
    worker = int(server.recorded("worker")[0])
    os.kill(worker, SIGKILL)
    assert wait_for_end(worker)
    until(lambda: "WorkerLostError" in server.output)
    server.work(0.01)
    assert stop(server, signal.SIGTERM, ONE) == -SIGTERM
    assert server.lines[-1] == "after_serving"
