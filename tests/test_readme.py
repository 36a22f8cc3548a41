"""The README's example under a real server: its commands print what it shows."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import raised_priority, wait_for_end
from servers import TIMEOUT, Server, find_port, until

README = (Path(__file__).parents[1] / "README.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HYPERCORN = ["-m", "hypercorn", "-b", "127.0.0.1:{port}", "app:app"]
SPIN = """

@cpu_bound
def spin(file: str) -> None:
    import os, pathlib
    pathlib.Path(file).write_text(str(os.getpid()))
    while True:
        pass


@app.get("/spin")
async def wait_for_spin():
    await executor.run(spin, "pid")
    return ""
"""


def blocks(language: str) -> list[str]:
    return [body for name, body in FENCE.findall(README) if name == language]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """The example, with another route, under Hypercorn."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "app.py").write_text(blocks("python")[0] + SPIN)
    with raised_priority():  # the job takes seconds of a worker of low priority: on a busy machine, minutes
        server = Server(HYPERCORN, find_port(), folder)
    yield server, folder
    server.kill()


def test_commands_of_the_example(server: tuple[Server, Path]) -> None:
    """The id, the progress and the result are as shown, apart from the job and the moment."""
    commands = next(block for block in blocks("sh") if "curl" in block).replace(":8000", f":{server[0].port}")
    commands = re.sub(r"^sleep \d+; ", "", commands, flags=re.MULTILINE).replace("done\n", "done; ")
    create, *requests = commands.splitlines()
    shown_id, *shown = blocks("text")[0].splitlines()

    def run(command: str) -> str:
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=TIMEOUT, check=True)
        return done.stdout

    job = run(create).strip()
    assert re.fullmatch("[0-9a-f]{32}", job)
    assert re.fullmatch("[0-9a-f]{32}", shown_id)
    for command, line in zip(requests, shown, strict=True):
        expected = json.loads(line)

        def answer(command: str = f"job={job}; {command}", state: str = expected["state"]) -> dict[str, object] | None:
            found: dict[str, object] = json.loads(run(command))
            return found if found["state"] == state else None

        found = until(answer)
        assert found is not None
        assert 0 <= float(found["progress"]) <= 1  # type: ignore[arg-type]
        assert found == {**expected, "progress": found["progress"]}


def test_a_client_that_leaves_ends_its_computation(server: tuple[Server, Path]) -> None:
    """When a client closes its connection, the worker that computes for its request is killed."""
    file = server[1] / "pid"
    with socket.create_connection(("127.0.0.1", server[0].port)) as client:
        client.sendall(b"GET /spin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: file.exists() and file.read_text())
    assert wait_for_end(int(file.read_text()))
