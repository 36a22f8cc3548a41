"""The probe: requests are sent as planned whatever the server does, and latencies are measured from the plan."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from loops import ON_ASYNCIO

from executors.bench.client import Client, Probed, probe

ANSWER = b"HTTP/1.1 200 \r\ncontent-length: 4\r\n\r\npong"
NUMBER = 10

pytestmark = [
    pytest.mark.anyio,
    ON_ASYNCIO,
]


@asynccontextmanager
async def serving(answer: Callable[[], Awaitable[bytes]]) -> AsyncIterator[Client]:
    """Run a server that sends an awaited answer to each request."""
    connections = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(await answer())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        client = Client(server.sockets[0].getsockname()[1])
        yield client
        await client.close()
        await asyncio.gather(*connections)


async def ten_requests(client: Client, bound: float) -> Probed:
    return await probe(client, "/", rate=100, seconds=NUMBER / 100, bound=bound)


async def test_requests_go_out_while_others_wait() -> None:
    """No request waits for the answer to another, and each latency is measured from when the request was planned."""
    all_sent = asyncio.Barrier(NUMBER)

    async def together() -> bytes:
        await all_sent.wait()
        return ANSWER

    async with serving(together) as client:
        probed = await ten_requests(client, bound=20)
    assert probed.failed == 0
    assert len(probed.latencies) == len(probed.lateness) == NUMBER
    assert probed.latencies[0] >= (NUMBER - 1) / 100  # it was planned that long before the last one


async def test_lateness_of_the_client_is_counted() -> None:
    """Latencies include the time in which the client couldn't send, and its lateness is reported."""

    async def immediately() -> bytes:
        return ANSWER

    async with serving(immediately) as client:
        blocking = asyncio.get_running_loop().call_later(0.02, time.sleep, 0.05)
        probed = await ten_requests(client, bound=20)
        blocking.cancel()
    late = [index for index, seconds in enumerate(probed.lateness) if seconds > 0.02]
    assert late
    assert all(probed.latencies[index] > probed.lateness[index] for index in late)


async def test_unanswered_request_counts_as_the_bound() -> None:
    """A request without an answer in time has failed, and its latency is the bound."""
    never = asyncio.Event()

    async def not_in_time() -> bytes:
        await never.wait()
        return b""

    async with serving(not_in_time) as client:
        probed = await ten_requests(client, bound=0.05)
        never.set()
    assert probed.failed == NUMBER
    assert probed.latencies == [0.05] * NUMBER


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 503 \r\ncontent-length: 0\r\n\r\n"], ids=["hung-up", "503"])
async def test_failed_request_counts_as_the_bound(answer: bytes) -> None:
    """The latency of a request with an error, or without a connection, is the bound."""

    async def with_error() -> bytes:
        return answer

    async with serving(with_error) as client:
        if not answer:
            client._port = 1  # on which nothing listens
        probed = await ten_requests(client, bound=5)
    assert (probed.failed, set(probed.latencies)) == (NUMBER, {5})
