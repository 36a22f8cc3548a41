"""Requests to an ASGI app in this process, with any path and headers, and answers without an end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio

TIMEOUT = 30.0


class Answer:
    """An answer that has begun.

    Attributes:
        status: Its status.
        headers: Its headers.
    """

    def __init__(self, start: dict[str, Any], parts: Any) -> None:
        self.status: int = start["status"]
        self.headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        self._parts = parts

    async def part(self) -> bytes:
        """Return the next part of the body; an empty one at the end."""
        with anyio.fail_after(TIMEOUT):
            async for message in self._parts:
                if message.get("body"):
                    body: bytes = message["body"]
                    return body
                if not message.get("more_body"):
                    break
        return b""

    async def body(self) -> bytes:
        """Return all of the body."""
        found = b""
        while part := await self.part():
            found += part
        return found

    async def event(self) -> Any:
        """Return the data of the next Server-Sent Event; None at the end."""
        fields = dict(line.split(": ", 1) for line in (await self.part()).decode().splitlines() if line)
        return json.loads(fields["data"]) if fields else None


@asynccontextmanager
async def requesting(app: Any, path: str, method: str = "GET", **headers: str) -> AsyncIterator[Answer]:
    """Send a request, and yield the answer. The client leaves at the end of the block."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"shop.test"),
            *((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "extensions": {},
        "state": {},
    }
    messages = [{"type": "http.request", "body": b"", "more_body": False}]
    left = anyio.Event()
    send, received = anyio.create_memory_object_stream[Any](10_000)

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def call() -> None:
        async with send:
            await app(scope, receive, send_as_long_as_possible)

    async def send_as_long_as_possible(message: Any) -> None:
        with suppress(anyio.BrokenResourceError):  # as a server does
            await send.send(message)

    try:
        async with anyio.create_task_group() as group, received:
            group.start_soon(call)
            try:
                with anyio.fail_after(TIMEOUT):
                    start = await received.receive()
                yield Answer(start, received)
            finally:
                left.set()
    except ExceptionGroup as group_of_one:  # of the app, or of the block
        error: BaseException = group_of_one
        while isinstance(error, ExceptionGroup):
            error = next(
                (each for each in error.exceptions if not isinstance(each, anyio.EndOfStream)), error.exceptions[0]
            )
        raise error from None


async def status_of(app: Any, path: str, method: str = "GET", **headers: str) -> int:
    """Return only the status."""
    async with requesting(app, path, method, **headers) as answer:
        return answer.status


async def text_of(app: Any, path: str) -> str:
    """Return the text of a page, which is there."""
    async with requesting(app, path) as answer:
        assert answer.status == 200
        return (await answer.body()).decode()
