"""An app under real servers, stopped in the midst of work: by either signal, once or twice, to one process or all."""

from __future__ import annotations

import itertools
import os
import signal
import time
from signal import SIGINT, SIGKILL, SIGTERM

import pytest
import quart.utils
from processes import is_alive, wait_for_end
from servers import APPS, PATIENCE, Server, can_be_bound, until

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
IMPATIENT = {"hypercorn, impatient": [*HYPERCORN, "0", "-c", "hypercorn.toml"]}
TASKS = ("on_loop", "in_thread", "in_process")

ONE, ALL = False, True
"""A signal is sent to the process that was started, or to its group, as a terminal and systemd do."""

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
    """Return what is run each time and, on demand, all the other combinations."""
    return [
        pytest.param(
            *cell,
            id=f"{cell[0]}-{cell[1].name}-{'all' if cell[2] else 'one'}",
            marks=() if cell in chosen else pytest.mark.stress,
        )
        for cell in itertools.product(SERVERS, (SIGINT, SIGTERM), (ONE, ALL))
    ]


def is_heard_twice(kind, number, group):
    """Whether the app can receive a second signal.

    Server processes get one only if all do, and can't distinguish a SIGTERM from their parent's.
    """
    return "worker" not in kind or (group and number == SIGINT)


def exit_code(kind, number):
    """Return what the server exits with when it is stopped by a signal: its own choice."""
    if kind == "uvicorn" and number == SIGTERM:
        return -SIGTERM
    return 3 if kind == "app.run" and hasattr(quart.utils, "run_reloader") else 0  # Quart 0.23


@pytest.fixture
def start(free_port, tmp_path):
    """Return what starts a server."""
    servers = []

    def start(kind, **variables):
        on = "trio" if "trio" in kind else "asyncio"
        servers.append(Server((SERVERS | IMPATIENT)[kind], free_port, tmp_path, SERVED_ON=on, **variables))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def stop(server, number, group):
    """Stop a server by a signal, and return how it has exited."""
    server.signal(number, group=group)
    return server.process.wait(PATIENCE)


def check_nothing_left(server):
    """No process of the server's lives, and the port is free."""
    until(lambda: not server.processes(), 2)
    assert can_be_bound(server.port)


def check_stopped(server):
    """What was accepted ran or is reported, `after_serving` ran last in each worker, and nothing is left."""
    for task in TASKS:
        assert task in server.recorded("done") or f"task '{task}'" in server.output, server.output
    ends = server.lines.count("after_serving")
    assert ends == len(server.recorded("server"))
    assert server.lines[-1] == "after_serving"
    assert "Traceback" not in server.output
    check_nothing_left(server)


@pytest.mark.parametrize(("kind", "number", "group"), cells(ONCE))
def test_stopped_in_the_midst_of_work(start, kind, number, group):
    """A server that is stopped waits for what it has accepted, and for no more."""
    server = start(kind, SERVED_TIMEOUT=str(PATIENCE))
    server.work(0.3)
    assert stop(server, number, group) == exit_code(kind, number), server.output
    assert sorted(server.recorded("done")) == sorted(TASKS), server.output
    check_stopped(server)


@pytest.mark.parametrize(("kind", "number", "group"), cells(TWICE))
def test_stopped_twice(start, kind, number, group):
    """A second signal stops the tasks at once if the app can receive it; otherwise they end at the deadline."""
    heard = is_heard_twice(kind, number, group)
    server = start(kind, SERVED_TIMEOUT=str(PATIENCE if heard else 1.0))
    server.work(2 * PATIENCE)
    server.signal(number, group=group)
    until(lambda: server.recorded("draining"))
    began = time.monotonic()
    assert stop(server, number, group) == exit_code(kind, number), server.output
    assert time.monotonic() - began < PATIENCE / 2
    assert ("a second signal" in server.output) == heard
    assert server.recorded("done") == []
    check_stopped(server)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in KILLED else pytest.mark.stress) for kind in SERVERS]
)
def test_killed(start, kind):
    """When a server is killed its workers end by themselves: nothing is left within two seconds."""
    server = start(kind, SERVED_TIMEOUT=str(PATIENCE))
    server.work(2 * PATIENCE)
    assert stop(server, SIGKILL, ONE) == -SIGKILL
    check_nothing_left(server)
    if "worker" in kind:  # which had the time to say what they stopped
        assert server.lines.count("after_serving") == len(server.recorded("server"))
        assert all(f"task '{task}'" in server.output for task in TASKS if task not in server.recorded("done"))


def test_serving_process_killed(start):
    """What Hypercorn's worker has started is gone within two seconds of its end, whoever lives on."""
    server = start("hypercorn, 1 worker")
    server.work(2 * PATIENCE)
    pids = [int(pid) for pid in server.recorded("worker") + server.recorded("server")]
    os.kill(pids[-1], SIGKILL)
    until(lambda: not any(map(is_alive, pids)), 2)
    server.process.wait(PATIENCE)
    check_nothing_left(server)


@pytest.mark.parametrize(
    "kind", ["hypercorn, 1 worker", pytest.param("hypercorn on trio, 1 worker", marks=pytest.mark.stress)]
)
def test_one_worker_of_hypercorn_terminated(start, kind):
    """A SIGTERM to Hypercorn's worker alone, which killed it, has it stop the app before it dies of it."""
    server = start(kind, SERVED_STOP_TIMEOUT="0.1")
    server.work(0.3)
    os.kill(int(server.recorded("server")[0]), SIGTERM)
    server.process.wait(PATIENCE)
    assert "received SIGTERM: draining tasks, then exiting" in server.output
    check_stopped(server)


def test_uvicorn_forced(start):
    """A second Ctrl-C while uvicorn waits for a request has it stop without the app; what was accepted is reported."""
    server = start("uvicorn", SERVED_TIMEOUT=str(PATIENCE))
    server.work(2 * PATIENCE)
    with server.slow_request(2 * PATIENCE):
        server.signal(SIGINT)
        until(lambda: "Waiting for connections to close" in server.output)
        assert stop(server, SIGINT, ONE) == 0
    assert all(f"task '{task}'" in server.output for task in TASKS), server.output
    assert "after_serving" not in server.lines
    check_nothing_left(server)


def test_hypercorn_loses_patience(start, tmp_path):
    """Where the app takes longer to stop than Hypercorn allows, what is cut off is reported, and nothing is left."""
    (tmp_path / "hypercorn.toml").write_text("shutdown_timeout = 0.3\n")
    server = start("hypercorn, impatient", SERVED_TIMEOUT=str(PATIENCE))
    server.work(2 * PATIENCE)
    assert stop(server, SIGTERM, ONE) != 0
    assert "LifespanTimeoutError" in server.output
    assert all(f"task '{task}'" in server.output for task in TASKS), server.output
    check_nothing_left(server)


def test_worker_killed_under_a_server(start):
    """A worker that is killed costs its own task; the server goes on, and stops as ever."""
    server = start("uvicorn")
    server.work(2 * PATIENCE)
    worker = int(server.recorded("worker")[0])
    os.kill(worker, SIGKILL)
    assert wait_for_end(worker)
    until(lambda: "WorkerLostError" in server.output)
    server.work(0.01)
    assert stop(server, signal.SIGTERM, ONE) == -SIGTERM
    assert server.lines[-1] == "after_serving"
