"""`ExecutorMiddleware`: what requests to an app with an executor need."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from executors._serving.responses import ErrorResponse, ErrorResponses
from executors.asgi.client import Client, Message, Receive
from executors.asgi.current import of_request
from executors.context import waiting_client
from executors.errors import TaskCancelledError
from executors.executor import Executor

Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""Called with a scope, a `Receive` and a `Send`, whose types differ between frameworks."""

logger = logging.getLogger("executors")


class ExecutorMiddleware:
    """ASGI middleware for an app with an executor. It does not start the executor: see `lifespan`.

    ``app.add_middleware(ExecutorMiddleware, executor=executor)`` in FastAPI and Starlette;
    ``Litestar(middleware=[DefineMiddleware(ExecutorMiddleware, executor=executor)])``; ``ExecutorMiddleware(app,
    executor)`` around any other app.

    - A request whose task is refused, or ended by a drain, is answered with status 503 and ``Retry-After``; one whose
      task exceeds its timeout or deadline with 504. The app's own exception handlers for these errors take precedence.
    - When the client of a request disconnects, what the request awaits with `run` is cancelled.
    - `current_executor` is the executor, in requests, websockets, and the tasks that they submit.

    Websockets and lifespans pass through.

    Args:
        app: The app.
        executor: Its executor.
    """

    def __init__(self, app: ASGIApp, executor: Executor) -> None:
        self._app = app
        self._executor = executor
        self._responses = ErrorResponses(self._drain_timeout)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        token = of_request.set(self._executor)
        try:
            if scope["type"] == "http" and self._executor._dispatcher is not None:
                await _Request(self._app, self._executor, self._responses).handle(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            of_request.reset(token)

    def _drain_timeout(self) -> float | None:
        executor = self._executor
        return executor._settings.shutdown_timeout if executor.phase == "draining" else None


class _Request:
    """One HTTP request."""

    def __init__(self, app: ASGIApp, executor: Executor, responses: ErrorResponses) -> None:
        self._app = app
        self._executor = executor
        self._responses = responses
        self._has_begun = False  # to respond
        self._is_ours = False  # the response

    async def handle(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self._client = Client(self._executor._started().loop, receive)
        self._send = send
        token = waiting_client.set(self._client)
        try:
            await self._app(scope, self._client.receive, self.send)
        except Exception as error:
            if self._is_ours:  # the app may raise an error again that it has responded to
                return
            if self._client.has_left and isinstance(error, TaskCancelledError):
                return
            response = None if self._has_begun else self._responses.response_to(error, logger)
            if response is None:
                raise
            await self._respond(response)
        finally:
            self._client.end()
            waiting_client.reset(token)

    async def send(self, message: Message) -> None:
        """Pass a message of the app on, unless it begins to respond to one of our errors as an internal error.

        Litestar and mounted apps do that themselves, while they handle the error.
        """
        if self._is_ours:
            return
        kind = message["type"]
        if kind == "http.response.start":
            error = sys.exception() if message["status"] == 500 else None
            response = None if error is None else self._responses.response_to(error, logger)
            if response is not None:
                await self._respond(response)
                return
            self._has_begun = True
        elif kind == "http.response.pathsend" or (kind == "http.response.body" and not message.get("more_body")):
            await self._send_end(message)
            return
        await self._send(message)

    async def _send_end(self, message: Message) -> None:
        self._client.is_answered = True
        await self._send(message)
        self._client.end()

    async def _respond(self, response: ErrorResponse) -> None:
        self._is_ours = True
        body = json.dumps({"detail": response.description}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if response.retry_after is not None:
            headers.append((b"retry-after", str(response.retry_after).encode()))
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})
        await self._send_end({"type": "http.response.body", "body": body})
