"""The guide to jobs in PostgreSQL: its own app, run under Hypercorn, with what can fail."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from postgresql import PostgreSQL
from processes import wait_for_end
from procrastinate.schema import SchemaManager
from servers import TIMEOUT, Server, find_port, until

GUIDE = Path(__file__).parents[2] / "docs" / "how_to_guides" / "jobs-in-postgresql.md"
COMMAND = ["-m", "hypercorn", "-b", "127.0.0.1:{port}", "postgresql_jobs:app", "-k"]

pytestmark = pytest.mark.timeout(120)


class Jobs:
    """The app's database, and the servers that run its jobs.

    Attributes:
        postgresql: The server of the database.
        folder: The working directory of the servers.
    """

    def __init__(self, postgresql: PostgreSQL, folder: Path, exits: ExitStack) -> None:
        self.postgresql = postgresql
        self.folder = folder
        self._exits = exits

    def serve(self, loop: str, grace: float = 10) -> Server:
        """Start a server, whose running jobs may take so many seconds when the job worker stops."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copy(self.folder / "app.py", folder)
        server = Server([*COMMAND, loop], find_port(), folder, JOBS_FOLDER=str(self.folder), JOBS_GRACE=str(grace))
        self._exits.callback(server.kill)
        return server

    def query(self, text: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.postgresql.connect(os.environ["PGDATABASE"]) as connection:
            cursor = connection.execute(text, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def state(self, job: object) -> tuple[str, int]:
        """Return a job's status and the number of its attempts that have ended."""
        ((status, attempts),) = self.query("select status, attempts from procrastinate_jobs where id = %s", job)
        return status, attempts

    def wait_until(self, job: str, *state: object) -> None:
        """Wait until a job has this status and number of attempts."""
        until(lambda: self.state(job) == state)

    def recorded(self, what: str) -> list[list[str]]:
        """Return the rest of each recorded line that begins with this word, in words."""
        lines = [line.split() for line in (self.folder / "record").read_text().splitlines()]
        return [words for word, *words in lines if word == what]

    def release(self, name: str) -> None:
        """Let a job end that waits."""
        (self.folder / name).touch()


@pytest.fixture
def guide(empty_database: PostgreSQL, tmp_path: Path) -> Iterator[Jobs]:
    """Create the tables, and copy the app out of the guide."""
    found = re.search(r"^```python\n(# app\.py\n.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    assert found[1].count("\n") < 80
    (tmp_path / "app.py").write_text(found[1])
    with ExitStack() as exits:
        jobs = Jobs(empty_database, tmp_path, exits)
        jobs.query(SchemaManager.get_schema())
        jobs.query("create table reports (id bigserial primary key, title text not null, text text)")
        (tmp_path / "record").touch()
        yield jobs


def test_jobs_that_crash_hang_and_are_aborted_or_rolled_back(guide: Jobs) -> None:
    """A crash and a timeout end the worker process, and the job runs again; an enqueue is part of its transaction."""
    server = guide.serve("asyncio")
    with pytest.raises(HTTPError):
        server.request("/rolled-back")
    assert guide.query("select * from procrastinate_jobs where task_name = 'crash'") == []
    assert guide.query("select * from reports") == []
    for name in ("crash", "hang"):
        guide.wait_until(server.request(f"/jobs/{name}"), "succeeded", 2)
        (first, worker), (second, _) = guide.recorded(name)
        assert (first, second) == ("0", "1")
        assert wait_for_end(int(worker))
    aborted = server.request("/jobs/wait/aborted")
    until(lambda: guide.recorded("aborted"))
    assert server.request(f"/abort/{aborted}") == "True"
    guide.wait_until(aborted, "failed", 0)
    assert wait_for_end(int(guide.recorded("aborted")[0][1]))


def test_another_server_runs_the_jobs_of_a_killed_one(guide: Jobs) -> None:
    """But not those that have stalled too often. A periodic job runs once, not once per server."""
    first = guide.serve("asyncio")
    job, fatal = first.request("/jobs/wait/released"), first.request("/jobs/wait/fatal")
    until(lambda: guide.recorded("released") and guide.recorded("fatal"))
    guide.query("update procrastinate_jobs set attempts = 10 where id = %s", fatal)
    guide.serve("uvloop")
    until(lambda: len({server for _, server in guide.recorded("tick")}) == 2)
    ticks = guide.recorded("tick")
    first.signal(signal.SIGKILL, group=True)  # at once: a server whose parent has ended would drain
    first.process.wait()
    until(lambda: not first.processes())
    guide.release("released")
    guide.wait_until(job, "succeeded", 2)
    guide.wait_until(fatal, "failed", 11)
    assert len({server for name, server in guide.recorded("server") if name == "released"}) == 2
    assert len(guide.recorded("fatal")) == 1
    assert guide.query("select title from reports") == [("released",)]
    assert set(Counter(second for second, _ in ticks).values()) == {1}


def test_drain(guide: Jobs) -> None:
    """Running jobs may end, and are stored; those that take too long are given back, and no others are started."""
    server = guide.serve("uvloop", grace=3)
    short, long = server.request("/jobs/wait/short"), server.request("/jobs/wait/long")
    until(lambda: guide.recorded("short") and guide.recorded("long"))
    server.signal(signal.SIGTERM)
    until(lambda: "Stop requested" in server.output)
    new = "insert into procrastinate_jobs (queue_name, task_name) values ('default', 'crash') returning id"
    ((new_job,),) = guide.query(new)
    guide.release("short")
    guide.wait_until(short, "succeeded", 1)
    assert server.process.wait(TIMEOUT) == 0, server.output
    assert guide.state(long) == ("todo", 1)
    assert guide.state(new_job) == ("todo", 0)
    assert guide.query("select title from reports") == [("short",)]
    assert not server.processes()


def test_postgresql_is_restarted(guide: Jobs) -> None:
    """Jobs outlive the database; the job worker is restarted, and goes on."""
    server = guide.serve("asyncio")
    names = ("one", "two", "three")  # each takes a broken connection: a single one would try them in turn, with pauses
    jobs = [server.request(f"/jobs/wait/{name}") for name in names]
    until(lambda: all(guide.recorded(name) for name in names))
    with guide.postgresql.stopped():
        until(lambda: "Waiting for job to finish" in server.output)
        for name in names:
            guide.release(name)
    for job in jobs:
        guide.wait_until(job, "succeeded", 1)
    guide.wait_until(server.request("/jobs/crash"), "succeeded", 2)
    assert "the service 'run_jobs' has failed" in server.output
