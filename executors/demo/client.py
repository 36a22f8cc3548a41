"""What uses the demo's app over HTTP: a client, and an uploader that keeps it busy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

from executors.bench.client import Client

POLL_TIME = 0.05
PATIENCE = 30


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
    """Uploads files so that always the same number is under way: the server is busy, and its memory bounded.

    Args:
        client: Uploads.
        sources: The files, without end.
        under_way: How many files the server has and hasn't examined.
        warm_up: After how many examined files the server is warm.
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
        """How many files the server has examined."""

    async def run(self) -> None:
        """Upload until `finish` is called."""
        async with asyncio.TaskGroup() as group:
            while not self._ended.is_set():
                await self.look()
                while not self._ended.is_set() and self._uploaded - self.examined < self._under_way:
                    group.create_task(self._client.upload(next(self._sources)))
                    self._uploaded += 1
                await asyncio.sleep(POLL_TIME)

    async def look(self) -> None:
        """Ask the server how many files it has examined."""
        self.examined = (await self._client.get("/stats"))["examined"]
        if self.examined >= self._warm_up:
            self._warm.set()

    async def warm_up(self) -> None:
        """Wait until the server is warm, while `run` runs.

        Raises:
            OSError: That takes too long.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self._warm.wait()
        except TimeoutError:
            raise OSError(f"it examined {self.examined} files in {PATIENCE} s") from None

    async def finish(self) -> None:
        """Let `run` end, and wait until what has been uploaded is examined.

        Raises:
            OSError: That takes too long.
        """
        self._ended.set()
        try:
            async with asyncio.timeout(PATIENCE):
                while self.examined < self._uploaded:
                    await asyncio.sleep(POLL_TIME)
                    await self.look()
        except TimeoutError:
            raise OSError(f"{self._uploaded - self.examined} files weren't examined within {PATIENCE} s") from None
