"""An app behaves the same with and without an executor: each scenario runs both ways, and the records are compared."""

from __future__ import annotations

import re

import anyio
import anyio.lowlevel
import pytest
from quart import abort, current_app, g, request, session, signals, websocket
from quart.testing.connections import WebsocketResponseError

from executors.quart import QuartExecutor

pytestmark = pytest.mark.anyio

SIGNALS = [
    *("appcontext_pushed", "appcontext_popped", "appcontext_tearing_down", "before_render_template"),
    *("got_background_exception", "got_request_exception", "got_serving_exception", "got_websocket_exception"),
    *("request_started", "request_finished", "request_tearing_down"),
    *("websocket_started", "websocket_finished", "websocket_tearing_down"),
]


async def requests(app, record):
    """Handlers, hooks, errors, sessions and streams, sync and async."""
    app.secret_key = "key"

    def hook(name):
        async def async_function(*args):
            record(name, request.path, type(args[0]).__name__ if args else None)
            return args[0] if name == "after_request" else None

        return async_function

    app.before_request(hook("before_request"))
    app.after_request(hook("after_request"))
    app.teardown_request(hook("teardown_request"))
    app.before_request(lambda: record("sync before_request"))
    app.teardown_appcontext(lambda error: record("sync teardown_appcontext", type(error).__name__))

    @app.route("/sync", methods=["GET", "POST"])
    def sync_route():
        session["seen"] = session.get("seen", 0) + 1
        return {"seen": session["seen"], "app": current_app.name, "method": request.method}

    @app.get("/stream")
    async def stream():
        async def body():
            for number in range(3):
                await anyio.lowlevel.checkpoint()
                yield b"%d" % number

        return body(), {"X-Kind": "stream"}

    @app.get("/sync-stream")
    def sync_stream():
        return (b"%d" % number for number in range(3))

    @app.get("/fail")
    def fail():
        raise LookupError("failed")

    @app.get("/abort")
    async def stop():
        abort(418)

    @app.errorhandler(404)
    def missing(error):
        return "missing", 404

    client = app.test_client()
    for path in ("/sync", "/sync", "/stream", "/sync-stream", "/fail", "/abort", "/nowhere"):
        response = await client.get(path)
        record(path, response.status_code, await response.get_data(), response.headers.get("X-Kind"))
    record(await (await client.post("/sync")).get_json())


async def serving(app, record):
    """Startup and shutdown functions, their order and their app context."""
    for kind in ("before", "after"):
        hook = getattr(app, f"{kind}_serving")
        hook(lambda kind=kind: record(f"sync {kind}_serving", current_app.name))

        async def async_function(kind=kind):
            record(f"{kind}_serving", current_app.name)

        hook(async_function)

    @app.while_serving
    async def around():
        record("while_serving begins")
        yield
        record("while_serving ends")

    async with app.test_app() as running:
        record((await running.test_client().get("/")).status_code)


async def failing_startup(app, record):
    """A startup that fails raises its own error."""

    @app.before_serving
    async def fail():
        raise LookupError("no database")

    with pytest.raises(LookupError) as caught:
        await app.startup()
    record(str(caught.value))


async def websockets(app, record):
    """Websockets that echo, and that are refused."""

    @app.websocket("/echo")
    async def echo():
        while True:
            await websocket.send(f"{websocket.path} {await websocket.receive()}")

    @app.websocket("/refused")
    async def refused():
        abort(403)

    client = app.test_client()
    async with client.websocket("/echo") as connection:
        for text in ("one", "two"):
            await connection.send(text)
            record(await connection.receive())
    try:
        async with client.websocket("/refused") as connection:
            await connection.receive()
    except* WebsocketResponseError as group:  # trio's nursery makes a group
        record([error.response.status_code for error in group.exceptions])


async def contexts(app, record):
    """Contexts that are pushed explicitly, and functions that run in Quart's threads."""
    async with app.app_context():
        g.mark = "app"
        record(current_app.name, g.mark, await app.sync_to_async(lambda: g.mark)())
    async with app.test_request_context("/path?x=1"):
        record(request.path, request.args["x"], await app.ensure_async(lambda: request.path)())


async def background_tasks(app, record):
    """Background tasks that succeed and that fail, sync and async."""

    async def async_function(number, *, name):
        await anyio.sleep(0.001)
        record("task", number, name, current_app.name)

    async def fail():
        raise LookupError("task failed")

    def report(sender, exception):
        record("reported", sender.name, str(exception))

    signals.got_background_exception.connect(report, app)
    async with app.test_app():
        app.add_background_task(async_function, 1, name="one")
    for task in (lambda: record("sync task", current_app.name), fail, lambda: {}["missing"]):
        async with app.test_app():
            app.add_background_task(task)


SCENARIOS = [requests, serving, failing_startup, websockets, contexts, background_tasks]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_same_with_and_without_an_executor(scenario, new_app, caplog):
    """Calls of handlers, hooks and receivers, responses and log records are the same, in the same order.

    The exception is the name of a failed task, which Quart doesn't log.
    """
    recorded = []
    for install in (False, True):
        app, seen = new_app(), []

        def receiver_for(name, seen=seen):
            async def receive(sender, **values):  # Quart 0.23 fails with a sync one for some signals
                seen.append((name, sorted({*values} - {"_sync_wrapper", "_async_wrapper"})))

            return receive

        receivers = {name: receiver_for(name) for name in SIGNALS} if scenario is not background_tasks else {}
        for name, receiver in receivers.items():
            getattr(signals, name).connect(receiver, app)
        if install:
            QuartExecutor(app)
        caplog.clear()
        await scenario(app, lambda *what, seen=seen: seen.append(what))
        logged = [
            (each.name, each.levelname, re.sub(r" in task '.*", "", each.getMessage()), str(each.exc_info[1]))
            for each in caplog.records
            if each.name == app.logger.name
        ]
        recorded.append((seen, logged))
    without_executor, with_executor = recorded
    assert without_executor[0]
    assert with_executor == without_executor
