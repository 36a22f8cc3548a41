"""`Site`: the dashboard's routes. Everything here is behind the app's `authorize`, which the adapters call first."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread

from executors._dashboard.feed import Events, Feed
from executors._dashboard.messages import Request, Response
from executors._dashboard.pages import render, static_file
from executors._dashboard.security import HEADERS, is_same_origin
from executors._dashboard.servers import Servers

if TYPE_CHECKING:
    from executors._core.dispatcher import Dispatcher
    from executors.executor import Executor

HTML = "text/html; charset=utf-8"
TASK = re.compile(r"tasks/([0-9a-f]{32})(/cancel)?")

MAX_THREADS = 4
"""How many threads render pages and ask about single tasks, at the same time."""

T = TypeVar("T")


class Site:
    """Answers the requests to a dashboard. On the event loop's thread.

    Args:
        actions: Whether tasks can be cancelled.
    """

    def __init__(self, *, actions: bool) -> None:
        self._actions = actions
        self._runs: WeakKeyDictionary[Dispatcher, _Run] = WeakKeyDictionary()

    async def respond(self, request: Request, executor: Executor) -> Response:
        """Return the response to a request, which is authorized.

        Args:
            request: The request.
            executor: The executor of the request's app.
        """
        try:
            respond = self._handler(request)
            response = await respond(self._run(executor))
        except _RefusedError as refusal:
            root = "../" * request.path.count("/") or "./"
            page = render("message.html", root, title=HTTPStatus(refusal.status).phrase, text=refusal.text)
            response = Response(refusal.status, HTML, page, refusal.headers)
        body = b"" if request.method == "HEAD" else response.body
        return Response(response.status, response.content_type, body, {**HEADERS, **response.headers})

    def _handler(self, request: Request) -> Callable[[_Run], Awaitable[Response]]:
        """Return the function that answers the request."""
        path, task = request.path, TASK.fullmatch(request.path)
        is_cancellation = task is not None and task[2] is not None
        methods = ("POST",) if is_cancellation else ("GET", "HEAD")
        if request.method not in methods:
            raise _RefusedError(405, "This page can't do that.", {"Allow": ", ".join(methods)})
        if task is not None:
            return partial(self._cancel, request.headers, task[1]) if is_cancellation else partial(self._task, task[1])
        if path.startswith("static/") and (found := static_file(path.removeprefix("static/"))) is not None:
            return partial(_file, *found)
        if path not in PAGES:
            raise _RefusedError(404, "There is no such page.")
        return PAGES[path]

    def _run(self, executor: Executor) -> _Run:
        dispatcher = executor._dispatcher
        if dispatcher is None:
            raise _RefusedError(503, "The executor has not been started.")
        run = self._runs.get(dispatcher)
        if run is None:
            run = self._runs[dispatcher] = _Run(Servers(executor), dispatcher)
        return run

    async def _task(self, task_id: str, run: _Run) -> Response:
        task = await run.ask_about("task", task_id)
        if task is None:
            raise _RefusedError(404, "There is no such task, or it ended a while ago and is no longer known.")
        started_at, finished_at, now = task["started_at"], task["finished_at"], time.time()
        page = await run.in_thread(
            render,
            "task.html",
            "../",
            task={"progress": None, **task},
            queue_time=max(0.0, (started_at or finished_at or now) - task["submitted_at"]),
            run_time=None if started_at is None else max(0.0, (finished_at or now) - started_at),
            is_final=finished_at is not None,
            is_cancellable=self._actions and finished_at is None,
        )
        return Response(200, HTML, page)

    async def _cancel(self, headers: Mapping[str, str], task_id: str, run: _Run) -> Response:
        if not self._actions:
            raise _RefusedError(403, "This dashboard is read-only.")
        if not is_same_origin(headers):
            raise _RefusedError(403, "The request comes from another site.")
        if await run.ask_about("cancel", task_id) is None:
            raise _RefusedError(404, "There is no such task, or it has ended.")
        return Response(204, HTML, b"")


async def _page(run: _Run) -> Response:
    return Response(200, HTML, await run.in_thread(render, "index.html", "./"))


async def _events(run: _Run) -> Response:
    return Response(200, "text/event-stream; charset=utf-8", Events(run.feed, run.dispatcher))


async def _file(content: bytes, content_type: str, _: _Run) -> Response:
    return Response(200, content_type, content)


PAGES: dict[str, Callable[[_Run], Awaitable[Response]]] = {"": _page, "events": _events}


class _RefusedError(Exception):
    """A request is answered with a message."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or {}


class _Run:
    """What belongs to one run of an executor."""

    def __init__(self, servers: Servers, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.feed = Feed(servers.state)
        self._servers = servers
        self._limiter = anyio.CapacityLimiter(MAX_THREADS)  # of our own: the app's threads may all be busy

    async def in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return what the function returns in a thread."""
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._limiter)

    async def ask_about(self, method: str, task_id: str) -> dict[str, Any] | None:
        """Return what the server process that has a task answers; None if none has it."""
        return await self.in_thread(self._servers.ask_about, method, task_id)


def forbidden() -> Response:
    """Return the response to a request that isn't authorized. It has no link to a file, which would be refused, too."""
    return Response(403, "text/plain; charset=utf-8", b"You may not see this dashboard.\n", dict(HEADERS))
