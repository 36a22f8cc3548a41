"""Responses to requests whose tasks were refused or ended; the app's own handlers take precedence."""

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
    StoreUnavailableError,
    TaskCancelledError,
    TaskTimeoutError,
)
from executors._serving import responses
from executors.backends import ThreadBackend
from executors.errors import Interruption, Refusal
from executors.quart import QuartExecutor

pytestmark = pytest.mark.anyio


class Busy:
    """Creates apps with one thread and a queue of one task. Each request submits more tasks than that."""

    def __init__(self, new_app):
        self._new_app = new_app
        self.released = threading.Event()

    def __call__(self, **config):
        self.app = app = self._new_app(EXECUTOR_QUEUE_SIZE=1, **config)
        app.config["EXECUTOR_THREADS"] = 1

        async def route():
            self.add_tasks()
            return "accepted"

        def sync_route():
            self.add_tasks()
            return "accepted"

        app.add_url_rule("/async", view_func=route)
        app.add_url_rule("/sync", view_func=sync_route)
        return app

    def add_tasks(self):
        for _ in range(3):
            self.app.add_background_task(self.released.wait)


@pytest.fixture
def busy(new_app):
    """Return a factory of apps whose queue is full until `released` is set."""
    busy = Busy(new_app)
    yield busy
    busy.released.set()


def log_messages(caplog):
    """Return the app's log messages about responses with status 503."""
    return [record.getMessage() for record in caplog.records if "answered with status 503" in record.getMessage()]


@pytest.mark.parametrize("config", [{}, {"DEBUG": True}, {"TESTING": True}, {"PROPAGATE_EXCEPTIONS": True}], ids=str)
async def test_full_queue_answers_503(busy, caplog, config):
    """A full queue results in status 503, in sync and async routes, also while testing or debugging."""
    app = busy(**config)
    QuartExecutor(app)
    async with app.test_app() as running:
        for path in ("/async", "/sync"):
            response = await running.test_client().get(path)
            assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
            assert responses.BUSY in await response.get_data(as_text=True)
            assert "thread" not in await response.get_data(as_text=True)
        busy.released.set()
    assert len(log_messages(caplog)) == 1
    assert "the queue of the 'thread' backend is full (limit: 1)" in caplog.text


async def test_drained_executor_answers_503(busy):
    """After the drain, a request that submits a task gets status 503."""
    app = busy()
    QuartExecutor(app)
    async with app.test_app():
        pass
    response = await app.test_client().get("/async")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert responses.STOPPING in await response.get_data(as_text=True)


@pytest.mark.parametrize(("timeout", "seconds"), [(2.99, "4"), (3600, "60")])
async def test_retry_after_during_a_drain(busy, timeout, seconds):
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
    assert responses.STOPPING in await response.get_data(as_text=True)


async def test_unavailable_backend_answers_503(busy, caplog):
    """An unavailable backend results in status 503, without the reason. The log has the reason's first line."""

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
    assert responses.BUSY in text
    assert "secret" not in text
    (line,) = log_messages(caplog)
    assert line.endswith("the secret database has gone")


async def test_invalid_task_answers_500(new_app):
    """A programming error stays a server error, which Quart logs."""
    app = new_app()
    QuartExecutor(app)

    @app.get("/")
    async def submits_no_function():
        app.add_background_task(5)

    async with app.test_app() as running:
        assert (await running.test_client().get("/")).status_code == 500


@pytest.mark.parametrize("kind", [QueueFullError, ExecutorError])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_app_handlers_take_precedence(busy, caplog, kind, when):
    """The app's handler for the error or a base class takes precedence, registered before or after the executor."""
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
    assert not log_messages(caplog)


@pytest.mark.parametrize("kind", [ExecutorClosedError, ExecutorError, RuntimeError])
async def test_app_handlers_for_a_closed_executor_take_precedence(busy, kind):
    """The same applies to `ExecutorClosedError` and each of its base classes."""
    app = busy()
    QuartExecutor(app)
    app.register_error_handler(kind, lambda error: ("own", 500))
    async with app.test_app():
        pass
    assert (await app.test_client().get("/async")).status_code == 500


@pytest.mark.parametrize("kind", [QueueFullError, Exception])
async def test_blueprint_handlers_take_precedence(busy, kind):
    """A blueprint's handler applies to the blueprint's own routes, and not to the app's."""
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
async def test_http_error_handlers_apply(busy, kind):
    """The response is handled like the app's other HTTP errors, so that its own error pages apply."""
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
    assert await response.get_json() == {"error": responses.BUSY}
    assert [type(cause) for cause in causes] == [QueueFullError]


async def test_websocket_before_accept_answers_503(busy):
    """A websocket whose handler finds the queue full gets status 503 in place of the handshake."""
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


async def test_open_websocket_is_closed(busy, caplog):
    """An accepted websocket is closed, and the reason is logged."""
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
    assert len(log_messages(caplog)) == 1


async def test_log_is_rate_limited(busy, caplog, monkeypatch):
    """Many such responses are logged as one line, and the next line counts them."""
    app = busy()
    QuartExecutor(app)
    async with app.test_app() as running:
        client = running.test_client()
        for _ in range(4):
            assert (await client.get("/async")).status_code == 503
        monkeypatch.setattr(responses, "LOG_INTERVAL", 0.0)
        for _ in range(2):
            assert (await client.get("/async")).status_code == 503
        busy.released.set()
    ends = [line.rpartition("the queue size")[2] for line in log_messages(caplog)]
    assert ends == ["", " (3 more such responses since the last line)", ""]


@pytest.mark.parametrize("config", [{}, {"TESTING": True}, {"PROPAGATE_EXCEPTIONS": True}], ids=str)
async def test_task_timeout_answers_504(new_app, caplog, config):
    """A task that exceeds its timeout results in status 504 and one log line."""
    app = new_app(**config)
    executor = QuartExecutor(app)

    @app.get("/slow")
    async def slow():
        await executor.options(timeout=0.01).run(anyio.sleep_forever)

    async with app.test_app() as running:
        response = await running.test_client().get("/slow")
    assert response.status_code == 504
    assert responses.TOO_SLOW in await response.get_data(as_text=True)
    assert "status 504: task 'sleep_forever'" in caplog.text


async def test_app_handler_for_timeouts_takes_precedence(new_app):
    """A handler for `TimeoutError` takes precedence over the response with status 504."""
    app = new_app()
    executor = QuartExecutor(app)
    app.register_error_handler(TimeoutError, lambda error: ("own", 418))

    @app.get("/slow")
    async def slow():
        await executor.options(timeout=0.01).run(anyio.sleep_forever)

    async with app.test_app() as running:
        assert (await running.test_client().get("/slow")).status_code == 418


async def test_task_cancelled_by_a_drain_answers_503(new_app):
    """A request whose task a drain cancels gets status 503; any other cancelled task is a server error."""
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


def test_errors_that_have_responses():
    """Only the errors of refused and of interrupted tasks have responses."""
    refusals = {kind for kind in Refusal.__subclasses__() if kind.__module__ == "executors.errors"}
    assert refusals == {QueueFullError, ExecutorClosedError, BackendUnavailableError, StoreUnavailableError}
    interruptions = {kind for kind in Interruption.__subclasses__() if kind.__module__ == "executors.errors"}
    assert interruptions == {TaskCancelledError, TaskTimeoutError}
