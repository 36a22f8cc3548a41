"""The probe: a small HTTP client that sends requests at a fixed rate, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from typing import Any, NamedTuple

from executors.bench.children import Parent

HOST = "127.0.0.1"


class Client:
    """A small HTTP/1.1 client of one server. It keeps connections: one for each request under way.

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
        """Return the JSON value that the server has at a path."""
        return json.loads(await self.request("GET", path))

    async def close(self) -> None:
        """Close the connections that no request uses."""
        while self._idle:
            _, writer = self._idle.pop()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class Probed(NamedTuple):
    """The result of requests at a fixed rate, in the order of the plan. Times are in seconds.

    Attributes:
        latencies: The time from when each request was planned to its answer; the bound for a request that failed.
        lateness: How much later than planned each request was sent.
        failed: How many requests had no answer in time, or an error.
    """

    latencies: list[float]
    lateness: list[float]
    failed: int


async def probe(client: Client, path: str, rate: float, seconds: float, bound: float) -> Probed:
    """Send requests as planned, whether or not those before have been answered (an open loop).

    A latency counts from when the request was planned. So a server that stalls is charged with every request that it
    kept waiting, including those that the client could not send in time.

    Args:
        client: The client that sends them.
        path: The path that is requested.
        rate: Requests per second.
        seconds: How long to send.
        bound: Seconds after which a request has failed.
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


async def main(parent: Parent) -> None:
    """Entry point of the probe's process, which does nothing else, so that nothing delays its requests.

    It answers two requests: a port, a path and a number of connections to open and use once each; and a rate, seconds
    and a bound, answered with what `probe` returns.
    """
    port, path, connections = await parent.receive()
    client = Client(port)
    await client.connect(connections)
    await asyncio.gather(*(client.request("GET", path) for _ in range(connections)), return_exceptions=True)
    parent.answer(None)
    gc.collect()
    gc.disable()
    rate, seconds, bound = await parent.receive()
    parent.answer((await probe(client, path, rate, seconds, bound))._asdict())
    await parent.receive()  # cancelled when the parent closes the connection
