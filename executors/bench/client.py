"""HTTP as a user of the server has it: a small client, and requests at a fixed rate."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, NamedTuple

HOST = "127.0.0.1"


class Client:
    """A small HTTP/1.1 client of one server, with kept connections: one for each request under way.

    Args:
        port: The server's port on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect(self, number: int) -> None:
        """Open connections before there is a request for them."""
        for _ in range(number):
            self._idle.append(await asyncio.open_connection(HOST, self._port))

    async def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Return the body of the answer.

        Raises:
            OSError: The server can't be reached, or answers with an error.
            EOFError: The server ended before it had answered.
        """
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(HOST, self._port)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            answer = await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))
        if int(status.split()[1]) >= 400:
            raise OSError(f"the server answers {method} {path} with {status!r}: {answer[:200].decode()}")
        return answer

    async def get(self, path: str) -> Any:
        """Return what the server has at a path, out of JSON."""
        return json.loads(await self.request("GET", path))

    async def close(self) -> None:
        """Close the connections that no request uses."""
        while self._idle:
            _, writer = self._idle.pop()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class Probed(NamedTuple):
    """What requests at a fixed rate have shown, in seconds and in the order of the plan.

    Attributes:
        latencies: From when each request was planned to its answer; the bound where there was no good one in time.
        lateness: How much later than planned each was sent.
        failed: How many had no good answer in time.
    """

    latencies: list[float]
    lateness: list[float]
    failed: int


async def probe(client: Client, path: str, rate: float, seconds: float, bound: float) -> Probed:
    """Send requests as planned, whether or not those before have been answered (an open loop).

    A latency is counted from when the request was planned, so that a server that stalls is charged with what it kept
    waiting, also where the client could not send in time.

    Args:
        client: Sends them.
        path: Is asked for.
        rate: Requests per second.
        seconds: For how long.
        bound: Seconds after which there will be no good answer.
    """
    loop = asyncio.get_running_loop()
    number = max(1, round(rate * seconds))
    latencies, lateness = [bound] * number, [0.0] * number
    failed = 0

    async def one(index: int, planned: float) -> None:
        nonlocal failed
        lateness[index] = loop.time() - planned
        try:
            async with asyncio.timeout_at(planned + bound):
                await client.request("GET", path)
        except (OSError, EOFError):  # a TimeoutError is one
            failed += 1
        else:
            latencies[index] = loop.time() - planned

    began = loop.time()
    async with asyncio.TaskGroup() as group:
        for index in range(number):
            planned = began + index / rate
            await asyncio.sleep(planned - loop.time())
            group.create_task(one(index, planned))
    return Probed(latencies, lateness, failed)
