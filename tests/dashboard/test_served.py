"""The dashboard of real servers: the same whichever server process answers, and mounted in FastAPI under uvicorn."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from servers import TIMEOUT, Server, until
from watching import HYPERCORN, UVICORN, asking, serving


def state_of(server: Server) -> tuple[str | None, Any]:
    """Return which server process has answered, and the first state of its stream."""
    with asking(server, "/executors/events") as response:
        assert response.status == 200
        lines = iter(response.readline, b"")
        data = next(line for line in lines if line.startswith(b"data: "))
        return response.headers["X-Process"], json.loads(data[6:])


def test_two_server_processes(tmp_path: Path, control_dir: str) -> None:
    """Each server process shows the tasks of both, their pages, and cancels them."""
    with serving(HYPERCORN, tmp_path, control_dir) as server:
        started: dict[str, str] = {}  # the id of a task of each server process

        def both_have_tasks() -> bool:
            task_id, process = server.request("/start").split()
            started[process] = task_id
            return len(started) == 2

        until(both_have_tasks)
        answered = set()

        def both_have_answered() -> bool:
            process, state = state_of(server)
            assert {str(one["pid"]) for one in state["servers"]} == set(started)
            active = {task["id"]: str(task["server"]) for task in state["active"]}
            assert all(active[task_id] == process for process, task_id in started.items())
            assert "secret" not in json.dumps(state)
            answered.add(process)
            return answered == set(started)

        until(both_have_answered)
        for process, task_id in started.items():

            def is_shown_by_the_other(process: str = process, task_id: str = task_id) -> bool:
                with asking(server, f"/executors/tasks/{task_id}") as response:
                    assert (response.status, b"running" in response.read()) == (200, True)
                    return response.headers["X-Process"] != process

            until(is_shown_by_the_other)
        (_, task_id), (process, other_id) = started.items()

        def is_cancelled_by_another() -> bool:
            with asking(server, f"/executors/tasks/{task_id}/cancel", "POST") as response:
                return response.status == 204

        def states() -> dict[str, str]:
            return {task["id"]: task["state"] for task in state_of(server)[1]["recent"]}

        until(is_cancelled_by_another)
        until(lambda: states().get(task_id) == "cancelled")
        assert other_id not in states()
        server.signal(signal.SIGTERM)
        assert server.process.wait(TIMEOUT) in {0, -signal.SIGTERM}


def test_in_fastapi(tmp_path: Path, control_dir: str) -> None:
    """The mounted app serves the same pages; the URL without the slash leads to it; a stop ends its streams."""
    with serving(UVICORN, tmp_path, control_dir, SERVED_BY="fastapi", SERVED_STREAM_DURATION="1.5") as server:
        task_id, process = server.request("/start").split()
        with asking(server, "/executors") as response:
            assert response.status == 307
            assert response.headers["Location"].endswith("/executors/")
        with asking(server, "/executors/") as response:
            assert response.headers["Content-Security-Policy"] == (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            )
            assert b"static/dashboard.js" in response.read()
        with asking(server, "/executors/static/uPlot.iife.min.js") as response:
            assert len(response.read()) > 10_000
        _, state = state_of(server)
        assert [str(one["pid"]) for one in state["servers"]] == [process]
        assert task_id in {task["id"] for task in state["active"]}
        with asking(server, f"/executors/tasks/{task_id}/cancel", "POST") as response:
            assert response.status == 204
        until(lambda: b"cancelled" in page_of(server, task_id))
        with asking(server, "/executors/events") as response:
            assert response.readline()
            server.signal(signal.SIGTERM)
            assert response.read().endswith(b"\n\n")
        assert server.process.wait(TIMEOUT) in {0, -signal.SIGTERM}
        assert "Traceback" not in server.output


def page_of(server: Server, task_id: str) -> bytes:
    with asking(server, f"/executors/tasks/{task_id}") as response:
        return response.read()
