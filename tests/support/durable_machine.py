"""Processes of `executors consume` that share a file, and what their jobs have recorded."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
from durable_jobs import noted
from servers import processes_with, until

from executors import Executor
from executors.durable import DurableQueue

SUPPORT = Path(__file__).parent


class Machine:
    """Consumers, each a process of `executors consume`, that share a file. What they do is in the record.

    Args:
        folder: Where the files are.
        variables: Environment variables of all processes.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        self.file, self.record, self.folder = folder / "tasks.db", folder / "record", folder
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "DURABLE_URL": f"sqlite:///{self.file}",
            "DURABLE_RECORD": str(self.record),
            **variables,
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def consumer(self, loop: str = "asyncio", **variables: str) -> subprocess.Popen[bytes]:
        """Start a consumer."""
        with (self.folder / "output").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "executors", "consume", "durable_jobs:executor", "--loop", loop],
                env={**self.env, **variables},
                cwd=self.folder,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        self._started.append(process)
        return process

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def enqueue(self, *jobs: tuple[Any, ...], **options: Any) -> list[str]:
        """Add jobs: the names of functions with their arguments."""
        executor = Executor(processes=0, threads=1)
        queue = DurableQueue(executor, f"sqlite:///{self.file}", consume=False)
        functions = {}
        for name in {name for name, *_ in jobs}:

            def function(*args: Any) -> None: ...

            functions[name] = queue.task(name=f"durable_jobs:{name}")(function)

        async def add() -> list[str]:
            async with executor:
                return [await queue.enqueue(functions[name], *args, **options) for name, *args in jobs]

        return anyio.run(add)

    def query(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.file, timeout=20)) as connection:
            return connection.execute(query).fetchall()

    def states(self) -> list[tuple[str, int]]:
        """Return the state and the number of attempts of each job."""
        return self.query("SELECT state, attempts FROM executor_jobs ORDER BY number")

    def begun(self, name: str) -> list[tuple[int, float]]:
        """Return the process and the time of each start of a job."""
        return [(pid, at) for job, pid, at in noted(self.record, "begin") if job == name]

    def ended(self, name: str) -> list[tuple[int, float]]:
        return [(pid, at) for job, pid, at in noted(self.record, "end") if job == name]

    def close(self) -> None:
        """Kill what is left."""
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGCONT)
                process.kill()
            process.wait()
        until(lambda: not processes_with(f"DURABLE_RECORD={self.record}"))


@contextmanager
def machine_in(folder: Path, **variables: str) -> Iterator[Machine]:
    machine = Machine(folder, **variables)
    try:
        yield machine
    finally:
        machine.close()


def stop(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    """Have a consumer drain, and return its exit status."""
    process.send_signal(number)
    return process.wait(30)
