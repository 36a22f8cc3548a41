"""`Site`: the dashboard's routes. Everything here is behind the app's `authorize`, which the adapters call first."""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
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
READ = ("GET", "HEAD")

MAX_QUESTIONS = 4
"""How many requests about single tasks are passed on to the server processes at the same time."""


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
        response = await self._respond(request, executor)
        body = b"" if request.method == "HEAD" else response.body
        return Response(response.status, response.content_type, body, {**HEADERS, **response.headers})

    async def _respond(self, request: Request, executor: Executor) -> Response:
        path = request.path
        task = TASK.fullmatch(path)
        is_cancel = task is not None and task[2] is not None
        methods = ("POST",) if is_cancel else READ
        root = "../" * path.count("/")
        if request.method not in methods:
            allowed = {"Allow": ", ".join(methods)}
            return _message(405, root, "This page can't do that.", allowed)
        if path == "":
            return Response(200, HTML, render("index.html", "./"))
        if path.startswith("static/") and (found := static_file(path.removeprefix("static/"))) is not None:
            return Response(200, found[1], found[0])
        if path != "events" and task is None:
            return _message(404, root, "There is no such page.")
        if executor._dispatcher is None:
            return _message(503, root, "The executor has not been started.")
        run = self._run(executor)
        if task is None:
            return Response(200, "text/event-stream; charset=utf-8", Events(run.feed, executor._started()))
        if is_cancel:
            return await self._cancel(request, run, task[1])
        return await self._task(run, task[1])

    def _run(self, executor: Executor) -> _Run:
        dispatcher = executor._started()
        run = self._runs.get(dispatcher)
        if run is None:
            run = self._runs[dispatcher] = _Run(Servers(executor))
        return run

    async def _task(self, run: _Run, task_id: str) -> Response:
        task = await run.ask_about("task", task_id)
        if task is None:
            return _message(404, "../", "There is no such task, or it ended a while ago and is no longer known.")
        finished_at, started_at, now = task.get("finished_at"), task["started_at"], time.time()
        is_final = finished_at is not None
        page = render(
            "task.html",
            "../",
            task=task,
            progress=task.get("progress"),
            error=task.get("error"),
            finished_at=finished_at,
            queue_time=max(0.0, (started_at or finished_at or now) - task["submitted_at"]),
            run_time=None if started_at is None else max(0.0, (finished_at or now) - started_at),
            is_final=is_final,
            is_cancellable=self._actions and not is_final,
        )
        return Response(200, HTML, page)

    async def _cancel(self, request: Request, run: _Run, task_id: str) -> Response:
        if not self._actions:
            return _message(403, "../../", "This dashboard is read-only.")
        if not is_same_origin(request.headers):
            return _message(403, "../../", "The request comes from another site.")
        if await run.ask_about("cancel", task_id) is None:
            return _message(404, "../../", "There is no such task, or it has ended.")
        return Response(204, HTML, b"")


class _Run:
    """What belongs to one run of an executor."""

    def __init__(self, servers: Servers) -> None:
        self.feed = Feed(servers.state)
        self._servers = servers
        self._limiter = anyio.CapacityLimiter(MAX_QUESTIONS)

    async def ask_about(self, method: str, task_id: str) -> dict[str, Any] | None:
        """Return what the server process that has the task answers; None if none has it."""
        return await anyio.to_thread.run_sync(self._servers.ask_about, method, task_id, limiter=self._limiter)


def _message(status: int, root: str, text: str, headers: dict[str, str] | None = None) -> Response:
    page = render("message.html", root or "./", title=HTTPStatus(status).phrase, text=text)
    return Response(status, HTML, page, headers or {})


def forbidden() -> Response:
    """Return the response to a request that is not authorized. It has no link to a file, which would be refused, too."""
    return Response(403, "text/plain; charset=utf-8", b"You may not see this dashboard.\n", dict(HEADERS))
