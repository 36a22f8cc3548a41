"""A Dask cluster of OS processes on the loopback interface, for tests to use, kill and start again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from servers import find_port

TESTS = Path(__file__).parents[1]
IMPORTED_BY_WORKERS = [TESTS.parent, TESTS / "support", TESTS / "quart" / "apps"]

BLIND = "import sys; sys.modules['executors'] = None; from distributed.cli.dask_{0} import main; main()"
"""Runs a part of Dask that can't import this library."""


ENDS_WITH_US = (
    "import os, sys, threading; "
    "threading.Thread(target=lambda: (sys.stdin.read(), os.killpg(0, 9)), daemon=True).start(); "
)
"""Has a process and its children end with this process, which keeps the other end of its stdin."""


class Cluster:
    """A scheduler, which can't import this library, and the workers that a test starts.

    Args:
        path: A folder for what Dask writes.
        allowed_failures: The scheduler's setting.
        certificates: Options for TLS that scheduler and workers take.
        port: Where the scheduler listens; one that is free if None.
    """

    def __init__(
        self, path: Path, allowed_failures: int = 0, certificates: tuple[str, ...] = (), port: int | None = None
    ) -> None:
        self._port = port or find_port()
        self._path = path
        protocol = "tls" if certificates else "tcp"
        self._everywhere = ("--host", f"{protocol}://127.0.0.1", "--no-dashboard", *certificates)
        self._environment = {
            **os.environ,
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(allowed_failures),
            "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",  # it samples each worker's stack all the time
            "DASK_TEMPORARY_DIRECTORY": str(path),
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self.address = f"{protocol}://127.0.0.1:{self._port}"
        self.start_scheduler()

    def start_scheduler(self) -> None:
        """Start the scheduler, at the same address each time."""
        self._scheduler = self._start("scheduler", BLIND.format("scheduler"), "--port", str(self._port))

    def kill_scheduler(self) -> None:
        """Kill the scheduler."""
        _kill(self._scheduler)

    def stop_scheduler(self) -> None:
        """Stop the scheduler gracefully, and wait for its end."""
        self._scheduler.terminate()
        self._scheduler.wait(30)
        assert self._scheduler.stdin is not None
        self._scheduler.stdin.close()

    def freeze_scheduler(self) -> None:
        """Stop the scheduler from responding; its connections stay open."""
        os.kill(self._scheduler.pid, signal.SIGSTOP)

    def start_workers(self, *options: str, path: Path | None = None, blind: bool = False) -> None:
        """Start workers of one thread each, unless overridden by the options of ``dask worker``.

        Args:
            options: They come last.
            path: A folder from which they import before others.
            blind: Whether they can't import this library.
        """
        code = BLIND.format("worker") if blind else "from distributed.cli.dask_worker import main; main()"
        folders = [*([path] if path else []), *IMPORTED_BY_WORKERS]
        self._start("worker", code, self.address, "--nthreads", "1", *options, folders=folders)

    def _start(self, name: str, code: str, *options: str, folders: Sequence[Path] = ()) -> subprocess.Popen[bytes]:
        with (self._path / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", ENDS_WITH_US + code, *options, *self._everywhere],
                env={**self._environment, "PYTHONPATH": os.pathsep.join(map(str, folders))},
                cwd=self._path,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Kill everything, nannies with their workers."""
        for process in self._processes:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
