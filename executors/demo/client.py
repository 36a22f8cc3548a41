"""What uses the demo's app over HTTP: a client, an uploader that keeps it busy, and pings at a fixed rate."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

POLL_TIME = 0.05
PATIENCE = 30
PING_TIMEOUT = 10.0


class Source(NamedTuple):
    """A file to upload."""

    name: str
    content: bytes


class Client:
    """A small HTTP/1.1 client of one server, with kept connections: one for each request under way.

    Args:
        port: The server's port on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Return the body of the answer.

        Raises:
            OSError: The server can't be reached, or answers with an error.
            EOFError: The server ended before it had answered.
        """
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            answer = await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))
        if int(status.split()[1]) >= 400:
            raise OSError(f"the demo's server answers {method} {path} with {status!r}: {answer[:200].decode()}")
        return answer

    async def get(self, path: str) -> Any:
        """Return what the server has at a path, out of JSON."""
        return json.loads(await self.request("GET", path))

    async def upload(self, source: Source) -> None:
        """Upload a file; the server answers before it has been examined."""
        await self.request("POST", f"/files?name={quote(source.name)}", source.content)

    async def close(self) -> None:
        """Close the connections that no request uses."""
        while self._idle:
            _, writer = self._idle.pop()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class Uploader:
    """Uploads files so that always the same number is under way: the server is busy, and its memory bounded.

    Args:
        client: Uploads.
        sources: The files, without end.
        under_way: How many files the server has and hasn't examined.
        warm_up: After how many examined files the server is warm.
    """

    def __init__(self, client: Client, sources: Iterator[Source], under_way: int, warm_up: int) -> None:
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


async def ping(client: Client, rate: float, seconds: float) -> list[float]:
    """Ping at a fixed rate, whether or not the pings before have been answered.

    Returns:
        The seconds from when each ping was due, whenever it could be sent, to its answer. One that isn't answered
        in `PING_TIMEOUT` counts as that.
    """
    loop = asyncio.get_running_loop()
    latencies = []

    async def one(due: float) -> None:
        try:
            async with asyncio.timeout_at(due + PING_TIMEOUT):
                await client.request("GET", "/ping")
        except TimeoutError:
            pass
        latencies.append(loop.time() - due)

    start = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(due - loop.time())
            group.create_task(one(due))
    return latencies
