"""A task has the same access to the request or websocket that submits it as in an app without an executor."""

from __future__ import annotations

import functools

import anyio
import anyio.lowlevel
import pytest
from quart import (
    copy_current_app_context,
    copy_current_request_context,
    copy_current_websocket_context,
    current_app,
    g,
    has_request_context,
    has_websocket_context,
    request,
    websocket,
)

from executors._loops import running_loop

pytestmark = pytest.mark.anyio


def visible():
    """Return what is accessible of the app, `g`, the request and the websocket; None for a path that isn't."""
    found = [current_app.name, g.get("mark"), has_request_context(), has_websocket_context()]
    for proxy in (request, websocket):
        try:
            found.append(proxy.path)
        except RuntimeError:
            found.append(None)
    return found


async def visible_on_loop():
    await anyio.lowlevel.checkpoint()
    return visible()


KINDS = pytest.mark.parametrize("function", [visible, visible_on_loop], ids=["thread", "loop"])


class Handlers:
    """A route and a websocket handler that submit a background task, and the value that the task records."""

    def __init__(self, app, wrap):
        self.app = app
        self.wrap = wrap
        self.recorded = anyio.Event()
        self.found = None
        app.get("/request")(self.submit)
        app.websocket("/websocket")(self.submit_from_websocket)

    def call_on_loop(self, function, *args):
        """Call a function on the loop's thread."""
        self.loop.post(function, *args)

    def record(self, found):
        self.found = found
        self.recorded.set()

    async def submit(self):
        g.mark = "the request's"
        self.loop = running_loop()
        self.app.add_background_task(self.wrap(self))
        await self.recorded.wait()  # Quart guarantees the request's context no longer than the request runs
        return ""

    async def submit_from_websocket(self):
        await websocket.accept()
        await self.submit()

    async def fetch(self, path):
        async with self.app.test_app() as running:
            client = running.test_client()
            if path == "/request":
                await client.get(path)
            else:
                async with client.websocket(path):
                    await self.recorded.wait()
        return self.found


def task_of(function, handlers):
    """Return a task of the function's kind, sync or async, that records the function's result."""

    async def async_task():
        handlers.record(await function())

    def sync_task():
        found = function()
        handlers.call_on_loop(handlers.record, found)

    return async_task if function is visible_on_loop else sync_task


COPIES = {"/request": copy_current_request_context, "/websocket": copy_current_websocket_context}


@pytest.mark.parametrize("path", COPIES)
@KINDS
async def test_same_as_without_an_executor(app, executor, new_app, path, function):
    """A task sees the same as without an executor in the installed Quart, and always has the app's context."""
    found = {}
    for key, one in {"ours": app, "plain": new_app()}.items():
        found[key] = await Handlers(one, functools.partial(task_of, function)).fetch(path)
    assert found["ours"] == found["plain"]
    assert found["ours"][0] == "background"


@pytest.mark.parametrize("path", COPIES)
@pytest.mark.parametrize("wrapped", [visible, visible_on_loop], ids=["plain", "coroutine"])
@pytest.mark.parametrize("copy", ["app", "its own"])
async def test_copied_context(app, executor, new_app, path, wrapped, copy):
    """Functions wrapped by Quart's copying decorators work as tasks, as they do without an executor."""
    decorator = copy_current_app_context if copy == "app" else COPIES[path]
    found = {}
    for key, one in {"ours": app, "plain": new_app()}.items():

        def wrap(handlers):
            task = decorator(wrapped)

            async def record():
                handlers.record(await task())

            return record

        found[key] = await Handlers(one, wrap).fetch(path)
    assert found["ours"] == found["plain"]
    if copy == "its own":
        assert path in found["ours"]


@pytest.mark.parametrize("path", COPIES)
@pytest.mark.parametrize("wrapped", [visible, visible_on_loop], ids=["plain", "coroutine"])
async def test_copied_context_submitted_directly(app, executor, path, wrapped):
    """The wrapper itself can be submitted, or awaited by a task."""
    results = []

    async def submit():
        task = COPIES[path](wrapped)

        async def await_it():
            return await task()

        results.append(await executor.run(task))
        results.append(await executor.run(await_it))
        return ""

    app.get("/request")(submit)
    submitted = anyio.Event()

    async def submit_and_notify():
        await websocket.accept()
        await submit()
        submitted.set()

    app.websocket("/websocket")(submit_and_notify)
    async with app.test_app() as running:
        if path == "/request":
            await running.test_client().get(path)
        else:
            async with running.test_client().websocket(path):
                await submitted.wait()
    assert [path in found for found in results] == [True, True]
