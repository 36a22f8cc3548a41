"""`Dashboard`: an ASGI app with a page that shows, live, what the executors of all server processes do."""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableMapping
from typing import TYPE_CHECKING, Any

import anyio

from executors._control import ControlSwitch
from executors._dashboard.messages import Request, Response
from executors._dashboard.security import Authorize, checked_authorize, is_authorized
from executors._dashboard.site import Site, forbidden

if TYPE_CHECKING:
    from executors.asgi.client import Receive
    from executors.asgi.middleware import Send
    from executors.executor import Executor


class Dashboard:
    """Serves the dashboard below a path: ``app.mount("/executors", Dashboard(executor, authorize=is_admin))``.

    It shows the tasks, queues and workers of all server processes of the app, whichever of them answers, and who delays
    the event loop. Arguments and results are never shown; names of functions, progress messages, error messages and
    tracebacks are. Every path is refused unless `authorize` returns True. It turns on the control socket of each server
    process, in a directory of the user's own.

    Args:
        executor: The app's executor, before its start.
        authorize: Called with the ASGI scope of each request, of which ``starlette.requests.Request(scope)`` makes a
            request; returns whether it may see the dashboard. It may be a coroutine function; a plain function runs on
            the event loop, and must not block. What it raises is handled by the framework.
        actions: Whether the dashboard may be used to cancel tasks. Without it, it is read-only.

    Raises:
        ConfigurationError: There is no `authorize`, or it can't be called.
    """

    def __init__(self, executor: Executor, *, authorize: Authorize | None = None, actions: bool = False) -> None:
        self._authorize = checked_authorize(authorize)
        self._site = Site(actions=actions)
        self._executor = executor
        executor.add_hook(ControlSwitch())

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request. Websockets are closed."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":  # a lifespan: a mounted app has none
            raise RuntimeError("the dashboard only answers requests: mount it in an app")
        if not await is_authorized(self._authorize, scope):
            await _send(forbidden(), receive, send)
            return
        path, root = scope["path"], scope.get("root_path", "")
        if path == root:  # relative URLs need the slash
            await _send(_redirect(root), receive, send)
            return
        path = path.removeprefix(root).removeprefix("/")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        await _send(await self._site.respond(Request(scope["method"], path, headers), self._executor), receive, send)


def _redirect(root: str) -> Response:
    return Response(307, "text/plain", b"", {"Location": f"./{root.rpartition('/')[2]}/"})


async def _send(response: Response, receive: Receive, send: Send) -> None:
    headers = {"Content-Type": response.content_type, **response.headers}
    if isinstance(response.body, bytes):
        headers["Content-Length"] = str(len(response.body))
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": encoded})
    if isinstance(response.body, bytes):
        await send({"type": "http.response.body", "body": response.body})
        return
    async with anyio.create_task_group() as group:
        group.start_soon(_until_the_client_leaves, receive, group.cancel_scope)
        await _send_parts(response.body, send)
        group.cancel_scope.cancel()


async def _send_parts(parts: AsyncIterator[bytes], send: Send) -> None:
    try:
        async for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except OSError:  # the client has left
        return


async def _until_the_client_leaves(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
