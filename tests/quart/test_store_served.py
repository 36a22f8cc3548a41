"""Jobs under two Hypercorn workers: each finds and cancels the other's, and survives its death."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import TIMEOUT, Server, find_port, until

COMMAND = ["-m", "hypercorn", "-b", "127.0.0.1:{port}", "recorded:app", "-w", "2", "-k"]


@contextmanager
def served(loop: str, folder: Path) -> Iterator[Server]:
    server = Server([*COMMAND, loop], find_port(), folder, SERVED_ON=loop)
    try:
        yield server
    finally:
        server.kill()


def show(server: Server, job: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(server.request(f"/jobs/{job}", "GET"))
    return answer


def jobs_of_both(server: Server, seconds: float) -> dict[int, str]:
    """Start jobs until both server processes have one; return one of each, by its process id."""
    jobs: dict[int, str] = {}

    def start() -> bool:
        job, pid = server.request(f"/jobs/{float(seconds)}").split()
        jobs[int(pid)] = job
        return len(jobs) == 2

    until(start)
    return jobs


def answers_of_both(server: Server, job: str, *, wanted: dict[str, Any]) -> None:
    """Ask until both server processes, the job's own and the other, have given the answer."""
    answered = set()

    def ask() -> bool:
        answer = show(server, job)
        is_here = answer.pop("is_here", None)
        if answer == wanted:
            answered.add(is_here)
        return answered == {True, False}

    until(ask)


def events_from_the_other(server: Server, job: str, release: Path) -> list[dict[str, Any]]:
    """Follow a job by Server-Sent Events of the server process that does not run it; return the data of the events.

    The first of them lets the job end.
    """
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
        with closing(connection):
            connection.request("GET", f"/jobs/{job}/events")
            response = connection.getresponse()
            if response.headers["Is-Here"] == "False":
                events = []
                for line in response:
                    if line.startswith(b"data: "):
                        events.append(json.loads(line.removeprefix(b"data: ")))
                        release.touch()
                release.unlink()
                return events


@pytest.mark.timeout(200)
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_two_server_processes_and_the_death_of_one(loop: str, tmp_path: Path) -> None:
    """Each shows and cancels all jobs. After the death of one, which ends Hypercorn, the next start has all records."""
    with served(loop, tmp_path) as server:
        short = jobs_of_both(server, 0.2)
        for pid, job in short.items():
            answers_of_both(server, job, wanted={"state": "succeeded", "result": {"pid": pid}})
        followed = events_from_the_other(server, jobs_of_both(server, 600).popitem()[1], tmp_path / "release")
        assert [event["state"] for event in followed][-2:] == ["running", "succeeded"]
        assert all(event["progress"]["message"] == "half" for event in followed)
        for job in jobs_of_both(server, 600).values():
            answers_of_both(server, job, wanted={"state": "running", "result": None})
            assert json.loads(server.request(f"/jobs/{job}/cancel"))["cancelled"]
            answers_of_both(server, job, wanted={"state": "cancelled", "result": None})
        (killed, lost), (_, drained) = jobs_of_both(server, 600).items()
        answers_of_both(server, lost, wanted={"state": "running", "result": None})
        os.kill(killed, signal.SIGKILL)
        server.process.wait(30)
    with served(loop, tmp_path) as server:
        until(lambda: show(server, lost)["state"] == "lost", 10)
        assert show(server, drained)["state"] == "cancelled"
        for pid, job in short.items():
            assert show(server, job) == {"state": "succeeded", "result": {"pid": pid}, "is_here": False}
        server.signal(signal.SIGTERM)
        server.process.wait(30)
        assert "Traceback" not in server.output
