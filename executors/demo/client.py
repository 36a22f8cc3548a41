"""Clients of the demo's app: one for single requests, and an uploader that keeps the server busy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

from executors.bench.client import Client

POLL_INTERVAL = 0.05
TIMEOUT = 30


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
    """Keeps a constant number of files under way, so that the server is busy and its memory bounded.

    Args:
        client: The client that uploads.
        sources: An infinite iterator of files.
        under_way: How many uploaded files are not yet analysed.
        warm_up: How many analysed files make the server warm.
    """

    def __init__(self, client: DemoClient, sources: Iterator[Source], under_way: int, warm_up: int) -> None:
        self._client = client
        self._sources = sources
        self._under_way = under_way
        self._warm_up = warm_up
        self._uploaded = 0
        self._ended = asyncio.Event()
        self._warm = asyncio.Event()
        self.examined = 0
        """How many files the server has analysed."""

    async def run(self) -> None:
        """Upload until `finish` is called."""
        async with asyncio.TaskGroup() as group:
            while not self._ended.is_set():
                await self.update()
                while not self._ended.is_set() and self._uploaded - self.examined < self._under_way:
                    group.create_task(self._client.upload(next(self._sources)))
                    self._uploaded += 1
                await asyncio.sleep(POLL_INTERVAL)

    async def update(self) -> None:
        """Request the number of analysed files from the server."""
        self.examined = (await self._client.get("/stats"))["examined"]
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
