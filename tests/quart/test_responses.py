"""Answers to requests whose tasks were refused; the app's own handlers take precedence."""

from __future__ import annotations

import threading

import anyio
import pytest
from quart import Blueprint, jsonify, websocket
from quart.testing.connections import WebsocketResponseError
from until import until
from werkzeug.exceptions import HTTPException

from executors import (
    BackendUnavailableError,
    ExecutorClosedError,
    ExecutorError,
    QueueFullError,
    TaskCancelledError,
    TaskTimeoutError,
)
from executors.backends import ThreadBackend
from executors.quart import QuartExecutor, failures

pytestmark = pytest.mark.anyio


class Busy:
    """Makes apps with one thread and room for one task in its queue, where each request adds more than that."""

    def __init__(self, new_app):
        self._new_app = new_app
        self.released = threading.Event()

    def __call__(self, **config):
        self.app = app = self._new_app(EXECUTOR_QUEUE_SIZE=1, **config)
        app.config["EXECUTOR_THREADS"] = 1

        async def route():
            self.add_tasks()
            return "taken"

        def sync_route():
            self.add_tasks()
            return "taken"

        app.add_url_rule("/async", view_func=route)
        app.add_url_rule("/sync", view_func=sync_route)
        return app

    def add_tasks(self):
        for _ in range(3):
            self.app.add_background_task(self.released.wait)


@pytest.fixture
def busy(new_app):
    """Return what makes an app that has too much to do, until it is `released`."""
    busy = Busy(new_app)
    yield busy
    busy.released.set()


def lines_of(caplog):
    """Return the app's log messages about answers with status 503."""
    return [record.getMessage() for record in caplog.records if "answered with status 503" in record.getMessage()]


@pytest.mark.parametrize("config", [{}, {"DEBUG": True}, {"TESTING": True}, {"PROPAGATE_EXCEPTIONS": True}], ids=str)
async def test_a_full_queue(busy, caplog, config):
    """A full queue is an answer of status 503, from sync and async routes, and while testing and debugging."""
    app = busy(**config)
    QuartExecutor(app)
    async with app.test_app() as running:
        for path in ("/async", "/sync"):
            response = await running.test_client().get(path)
            assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
            assert failures.BUSY in await response.get_data(as_text=True)
            assert "thread" not in await response.get_data(as_text=True)
        busy.released.set()
    assert len(lines_of(caplog)) == 1
    assert "the queue of the 'thread' backend is full (limit: 1)" in caplog.text


async def test_a_drained_executor(busy):
    """After the drain tasks are refused with status 503."""
    app = busy()
    QuartExecutor(app)
    async with app.test_app():
        pass
    response = await app.test_client().get("/async")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert failures.STOPPING in await response.get_data(as_text=True)


@pytest.mark.parametrize(("timeout", "seconds"), [(2.5, "4"), (3600, "60")])
async def test_a_draining_executor(busy, timeout, seconds):
    """During the drain `Retry-After` is the time until its deadline, within limits."""
    app = busy(EXECUTOR_SHUTDOWN_TIMEOUT=timeout)
    executor = QuartExecutor(app)
    async with anyio.create_task_group() as group:
        app.nursery = group
        await app.startup()
        app.add_background_task(busy.released.wait)
        group.start_soon(app.shutdown)
        await until(lambda: executor.phase == "draining")
        response = await app.test_client().get("/async")
        busy.released.set()
    assert (response.status_code, response.headers["Retry-After"]) == (503, seconds)
    assert failures.STOPPING in await response.get_data(as_text=True)


async def test_a_backend_that_is_unavailable(busy, caplog):
    """A backend that can't run anything is an answer of status 503, without the reason. The log has its first line."""

    class Unavailable(ThreadBackend):
        def start(self, loop):
            super().start(loop)
            self.unavailable = "the secret database has gone\n\nTraceback"

    app = busy(EXECUTOR_BACKENDS={"thread": Unavailable(1)})
    QuartExecutor(app)
    async with app.test_app() as running:
        response = await running.test_client().get("/async")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "30")
    text = await response.get_data(as_text=True)
    assert failures.BUSY in text
    assert "secret" not in text
    (line,) = lines_of(caplog)
    assert line.endswith("the secret database has gone")


async def test_what_is_a_mistake_stays_one(new_app):
    """A mistake in the program isn't called a shortage: it stays a server error, which Quart logs."""
    app = new_app()
    QuartExecutor(app)

    @app.get("/")
    async def submits_no_function():
        app.add_background_task(5)

    async with app.test_app() as running:
        assert (await running.test_client().get("/")).status_code == 500


@pytest.mark.parametrize("kind", [QueueFullError, ExecutorError])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_the_app_s_handler_goes_first(busy, caplog, kind, when):
    """The app's own handler answers, for the error or a base, registered before the executor was made or after."""
    app = busy()

    async def own(error):
        return f"own: {error.limit}", 429

    if when == "after":
        QuartExecutor(app)
    app.register_error_handler(kind, own)
    if when == "before":
        QuartExecutor(app)
    async with app.test_app() as running:
        response = await running.test_client().get("/async")
        busy.released.set()
    assert (response.status_code, await response.get_data(as_text=True)) == (429, "own: 1")
    assert not lines_of(caplog)


@pytest.mark.parametrize("kind", [ExecutorClosedError, ExecutorError, RuntimeError])
async def test_the_app_s_handler_of_a_closed_executor_goes_first(busy, kind):
    """The same holds for any base of the error that an executor raises which takes nothing."""
    app = busy()
    QuartExecutor(app)
    app.register_error_handler(kind, lambda error: ("own", 500))
    async with app.test_app():
        pass
    assert (await app.test_client().get("/async")).status_code == 500


@pytest.mark.parametrize("kind", [QueueFullError, Exception])
async def test_a_blueprint_s_handler_goes_first(busy, kind):
    """A blueprint's handler answers for its own routes, and not for the app's."""
    app = busy()
    QuartExecutor(app)
    reports = Blueprint("reports", __name__)

    @reports.errorhandler(kind)
    async def own(error):
        return "own", 429

    @reports.get("/reports")
    async def add():
        busy.add_tasks()

    app.register_blueprint(reports)
    async with app.test_app() as running:
        codes = [(await running.test_client().get(path)).status_code for path in ("/reports", "/async")]
        busy.released.set()
    assert codes == [429, 503]


@pytest.mark.parametrize("kind", [503, HTTPException, Exception])
async def test_the_app_s_page_of_its_http_errors(busy, kind):
    """The answer goes the way of the app's other HTTP errors, so that its own pages are used for it."""
    app = busy()
    causes = []

    @app.errorhandler(kind)
    async def page(error):
        causes.append(error.__cause__)
        return jsonify(error=error.description), error.code, {"Retry-After": str(error.retry_after)}

    QuartExecutor(app)
    async with app.test_app() as running:
        response = await running.test_client().get("/async")
        busy.released.set()
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert await response.get_json() == {"error": failures.BUSY}
    assert [type(cause) for cause in causes] == [QueueFullError]


async def test_a_websocket_before_it_is_accepted(busy):
    """A websocket whose handler finds the queue full is answered with status 503 in place of the handshake."""
    app = busy()
    QuartExecutor(app)

    @app.websocket("/ws")
    async def refused():
        busy.add_tasks()

    async with app.test_app() as running:
        with pytest.raises((WebsocketResponseError, ExceptionGroup)) as caught:
            async with running.test_client().websocket("/ws") as connection:
                await connection.receive()
        busy.released.set()
    error = caught.value.exceptions[0] if isinstance(caught.value, ExceptionGroup) else caught.value
    response = error.response
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")


async def test_a_websocket_that_is_open(busy, caplog):
    """One that has been accepted is closed, and the log says why."""
    app = busy()
    QuartExecutor(app)
    closed = anyio.Event()

    @app.websocket("/ws")
    async def refused():
        await websocket.send("open")
        busy.add_tasks()

    @app.after_websocket
    async def after(response):
        closed.set()
        return response

    async with app.test_app() as running, running.test_client().websocket("/ws") as connection:
        assert await connection.receive() == "open"
        await closed.wait()
        busy.released.set()
    assert len(lines_of(caplog)) == 1


async def test_the_log_is_not_flooded(busy, caplog, monkeypatch):
    """Many answers are one line of the log, and the next line counts them."""
    app = busy()
    QuartExecutor(app)
    async with app.test_app() as running:
        client = running.test_client()
        for _ in range(4):
            assert (await client.get("/async")).status_code == 503
        monkeypatch.setattr(failures, "LOG_INTERVAL", 0.0)
        for _ in range(2):
            assert (await client.get("/async")).status_code == 503
        busy.released.set()
    ends = [line.rpartition("the queue size")[2] for line in lines_of(caplog)]
    assert ends == ["", " (3 more such answers since the last line)", ""]


@pytest.mark.parametrize("config", [{}, {"TESTING": True}, {"PROPAGATE_EXCEPTIONS": True}], ids=str)
async def test_a_timeout(new_app, caplog, config):
    """A task that exceeds its timeout is an answer of status 504, and one line in the log."""
    app = new_app(**config)
    executor = QuartExecutor(app)

    @app.get("/slow")
    async def slow():
        await executor.options(timeout=0.01).run(anyio.sleep_forever)

    async with app.test_app() as running:
        response = await running.test_client().get("/slow")
    assert response.status_code == 504
    assert failures.TOO_SLOW in await response.get_data(as_text=True)
    assert "status 504: task 'sleep_forever'" in caplog.text


async def test_the_app_s_handler_of_a_timeout_goes_first(new_app):
    """A handler for `TimeoutError` takes precedence over the answer of status 504."""
    app = new_app()
    executor = QuartExecutor(app)
    app.register_error_handler(TimeoutError, lambda error: ("own", 418))

    @app.get("/slow")
    async def slow():
        await executor.options(timeout=0.01).run(anyio.sleep_forever)

    async with app.test_app() as running:
        assert (await running.test_client().get("/slow")).status_code == 418


async def test_a_task_that_the_drain_ends(new_app):
    """A request whose task a drain has cancelled is answered with status 503; another cancelled task is an error."""
    app = new_app(EXECUTOR_SHUTDOWN_TIMEOUT=0)
    executor = QuartExecutor(app)
    statuses = []

    @app.get("/waiting")
    async def waiting():
        await executor.run(anyio.sleep_forever)

    async def get():
        statuses.append((await app.test_client().get("/waiting")).status_code)

    async with anyio.create_task_group() as group:
        app.nursery = group
        await app.startup()
        for _ in range(2):
            group.start_soon(get)
        await until(lambda: len(executor.tasks) == 2)
        executor.tasks[0].cancel()
        await until(lambda: statuses == [500])
        await app.shutdown()
    assert statuses == [500, 503]


def test_what_is_answered():
    """The errors that are answered are those of refused and of interrupted tasks, and no others."""
    refusals = {kind for kind in failures.Refusal.__subclasses__() if kind.__module__ == "executors.errors"}
    assert refusals == {QueueFullError, ExecutorClosedError, BackendUnavailableError}
    interruptions = {kind for kind in failures.Interruption.__subclasses__() if kind.__module__ == "executors.errors"}
    assert interruptions == {TaskCancelledError, TaskTimeoutError}
