"""The demo's server as its clients see it: its process, single requests, and an uploader that keeps it busy."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from executors.bench.children import Child, ChildError, started
from executors.bench.client import HOST, Client

SHUTDOWN_TIMEOUT = 2
"""Seconds that tasks have to finish when the server is stopped."""
START_TIMEOUT = 20
STOP_TIMEOUT = SHUTDOWN_TIMEOUT + 5

POLL_INTERVAL = 0.05
TIMEOUT = 30


class DemoError(Exception):
    """The demo failed. The message says why, and what to do."""


class Source(NamedTuple):
    """A file to upload."""

    name: str
    content: bytes


class DemoClient(Client):
    """The client of the demo's app."""

    async def upload(self, source: Source) -> None:
        """Upload a file; the server answers before it has been examined."""
        await self.request("POST", f"/files?name={quote(source.name)}", source.content)


class Uploader:
    """Keeps a constant number of files in progress, so that the server is busy and its memory bounded.

    Args:
        client: The client that uploads.
        sources: An infinite iterator of files.
        in_progress: How many uploaded files are not yet analysed.
        warm_up: How many analysed files make the server warm.
    """

    def __init__(self, client: DemoClient, sources: Iterator[Source], in_progress: int, warm_up: int) -> None:
        self._client = client
        self._sources = sources
        self._in_progress = in_progress
        self._warm_up = warm_up
        self._uploaded = 0
        self._ended = asyncio.Event()
        self._warm = asyncio.Event()
        self.examined = 0
        """How many files the server has analysed."""
        self.progress: list[dict[str, Any]] = []
        """The progress of those that it is analysing."""

    async def run(self) -> None:
        """Upload until `finish` is called."""
        async with asyncio.TaskGroup() as group:
            while not self._ended.is_set():
                await self.update()
                while not self._ended.is_set() and self._uploaded - self.examined < self._in_progress:
                    group.create_task(self._client.upload(next(self._sources)))
                    self._uploaded += 1
                await asyncio.sleep(POLL_INTERVAL)

    async def update(self) -> None:
        """Request from the server how far it is."""
        stats = await self._client.get("/stats")
        self.examined, self.progress = stats["examined"], stats.get("progress", [])
        if self.examined >= self._warm_up:
            self._warm.set()

    async def warm_up(self) -> None:
        """Wait until the server is warm, while `run` runs.

        Raises:
            OSError: It takes too long.
        """
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._warm.wait()
        except TimeoutError:
            raise OSError(f"it analysed {self.examined} files in {TIMEOUT} s") from None

    async def finish(self) -> None:
        """End `run`, and wait until every uploaded file is analysed.

        Raises:
            OSError: It takes too long.
        """
        self._ended.set()
        try:
            async with asyncio.timeout(TIMEOUT):
                while self.examined < self._uploaded:
                    await asyncio.sleep(POLL_INTERVAL)
                    await self.update()
        except TimeoutError:
            raise OSError(f"{self._uploaded - self.examined} files weren't analysed within {TIMEOUT} s") from None


class Server:
    """The server's process. Created by `serving`.

    Attributes:
        client: A client of its app.
        address: The app's URL.
    """

    def __init__(self, child: Child, port: int) -> None:
        self._child = child
        self.client = DemoClient(port)
        self.address = f"http://{HOST}:{port}"

    async def stop(self) -> dict[str, Any] | None:
        """Stop serving, and return the drain report; None if there is none."""
        await self.client.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                report: dict[str, Any] | None = await self._child.request("stop")
        except TimeoutError:
            return None
        return report


@asynccontextmanager
async def serving(*, plain: bool = False, dashboard: bool = False, quiet: bool = True) -> AsyncIterator[Server]:
    """Run the app in a process of its own while the block runs. It ends with this process, however that ends.

    Args:
        plain: Whether the app runs without an executor.
        dashboard: Whether the app has a dashboard, and its event loop is measured.
        quiet: Whether the server's log is shown only if the server fails.

    Raises:
        DemoError: The server doesn't start, or ends too early.
    """
    with tempfile.TemporaryDirectory(prefix="executors-demo-", ignore_cleanup_errors=True) as folder:
        environment = {
            "QUART_DATABASE": str(Path(folder, "files.sqlite3")),
            "QUART_PLAIN": str(int(plain)),
            "QUART_DASHBOARD": str(int(dashboard)),
            "QUART_BACKGROUND_TASK_SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT),
        }
        if dashboard:
            environment["QUART_EXECUTOR_MONITOR"] = "true"
        async with started("executors.demo.server:main", environment, quiet=quiet) as child:
            try:
                async with asyncio.timeout(START_TIMEOUT):
                    port = await child.request(folder)
            except ChildError as error:
                raise DemoError(f"the server doesn't start: {error}") from error
            except TimeoutError as error:
                raise DemoError(
                    f"the server didn't start within {START_TIMEOUT} s; try again when the machine is less busy"
                ) from error
            server = Server(child, port)
            try:
                yield server
            except ChildError as error:
                raise DemoError(f"the server failed: {error}") from error
            except (OSError, EOFError, ExceptionGroup) as error:
                raise DemoError(f"the server failed: {error!r}{child.logged()}") from error
            finally:
                await server.client.close()
