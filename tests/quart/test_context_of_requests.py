"""What a task sees of the request or websocket that submits it: the same as in an app that has no executor."""

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


def seen():
    """Return what can be read of the app, `g`, the request and the websocket, each or None."""
    found = [current_app.name, g.get("mark"), has_request_context(), has_websocket_context()]
    for proxy in (request, websocket):
        try:
            found.append(proxy.path)
        except RuntimeError:
            found.append(None)
    return found


async def seen_on_loop():
    await anyio.lowlevel.checkpoint()
    return seen()


KINDS = pytest.mark.parametrize("function", [seen, seen_on_loop], ids=["thread", "loop"])


class Visits:
    """A route and a websocket that hand a function over as a background task, and what it has seen."""

    def __init__(self, app, wrap):
        self.app = app
        self.wrap = wrap
        self.told = anyio.Event()
        self.found = None
        app.get("/request")(self.submit)
        app.websocket("/websocket")(self.submit_from_websocket)

    def from_thread(self, function, *args):
        """Call a function on the loop's thread."""
        self.loop.post(function, *args)

    def keep(self, found):
        self.found = found
        self.told.set()

    async def submit(self):
        g.mark = "the request's"
        self.loop = running_loop()
        self.app.add_background_task(self.wrap(self))
        await self.told.wait()  # the request is there until the task has ended: Quart promises no more
        return ""

    async def submit_from_websocket(self):
        await websocket.accept()
        await self.submit()

    async def visit(self, path):
        async with self.app.test_app() as running:
            client = running.test_client()
            if path == "/request":
                await client.get(path)
            else:
                async with client.websocket(path):
                    await self.told.wait()
        return self.found


def task_of(function, visits):
    """Return a task of the function's kind that keeps what it returns."""

    async def on_loop():
        visits.keep(await function())

    def in_thread():
        found = function()
        visits.from_thread(visits.keep, found)

    return on_loop if function is seen_on_loop else in_thread


COPIES = {"/request": copy_current_request_context, "/websocket": copy_current_websocket_context}


@pytest.mark.parametrize("path", COPIES)
@KINDS
async def test_as_without_executor(app, executor, new_app, path, function):
    """A task sees what it sees without an executor in this version of Quart, apart from having an app's context."""
    found = {}
    for key, one in {"ours": app, "plain": new_app()}.items():
        found[key] = await Visits(one, functools.partial(task_of, function)).visit(path)
    assert found["ours"] == found["plain"]
    assert found["ours"][0] == "background"


@pytest.mark.parametrize("path", COPIES)
@pytest.mark.parametrize("wrapped", [seen, seen_on_loop], ids=["plain", "coroutine"])
@pytest.mark.parametrize("copy", ["app", "its own"])
async def test_copied_context(app, executor, new_app, path, wrapped, copy):
    """What Quart's copying decorators return works as a task as it does without an executor, for both kinds."""
    decorator = copy_current_app_context if copy == "app" else COPIES[path]
    found = {}
    for key, one in {"ours": app, "plain": new_app()}.items():

        def wrap(visits):
            task = decorator(wrapped)

            async def keep():
                visits.keep(await task())

            return keep

        found[key] = await Visits(one, wrap).visit(path)
    assert found["ours"] == found["plain"]
    if copy == "its own":
        assert path in found["ours"]


@pytest.mark.parametrize("path", COPIES)
@pytest.mark.parametrize("wrapped", [seen, seen_on_loop], ids=["plain", "coroutine"])
async def test_copied_context_handed_over(app, executor, path, wrapped):
    """The wrapper itself may be submitted, and awaited by a task."""
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
