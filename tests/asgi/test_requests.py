"""What the middleware does for requests: a client that leaves, answers, the current executor. On each event loop."""

from __future__ import annotations

import json
import pickle
from collections import deque

import anyio
import pytest
from loops import ON_ASYNCIO

from executors import (
    ConfigurationError,
    Executor,
    ExecutorClosedError,
    QueueFullError,
    TaskCancelledError,
    TaskState,
    TaskTimeoutError,
)
from executors._serving import responses
from executors.asgi import ExecutorMiddleware, current_executor, lifespan

pytestmark = pytest.mark.anyio

LAST = {"type": "http.request", "body": b"", "more_body": False}


class Request:
    """One request to an app, as a server has it: messages for the app, and those that it sent."""

    def __init__(self, *messages):
        self.messages = deque(messages or (LAST,))
        self.sent = []
        self.received = 0
        self.left = anyio.Event()

    async def receive(self):
        if self.messages:
            self.received += 1
            return self.messages.popleft()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    async def of(self, app, kind="http"):
        await app({"type": kind, "path": "/"}, self.receive, self.send)

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def headers(self):
        return dict(self.sent[0]["headers"])


async def respond(send, status=200):
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


@pytest.fixture
async def executor():
    """Return an executor that is being served."""
    executor = Executor(threads=1, processes=0, queue_size=1)
    async with lifespan(executor):
        yield executor


async def started(executor):
    """Return the handle of the only task, once it runs."""
    with anyio.fail_after(20):
        while not (executor.tasks and executor.tasks[0].started_at):
            await anyio.sleep(0.001)
    return executor.tasks[0]


# --- clients that leave -------------------------------------------------------------------------------------------


async def test_run_is_cancelled_when_the_client_leaves(executor):
    """Only what the request awaits with `run` is cancelled: a submitted task goes on, with the tasks that it awaits."""
    release, seen = anyio.Event(), []

    async def submitted():
        await executor.run(release.wait)
        return "done"

    async def app(scope, receive, send):
        seen.append(executor.submit(submitted))
        try:
            await executor.run(anyio.sleep_forever)
        except TaskCancelledError:
            seen.append("cleaned up")
            raise

    request = Request()
    async with anyio.create_task_group() as group:
        group.start_soon(request.of, ExecutorMiddleware(app, executor))
        with anyio.fail_after(20):
            while len([handle for handle in executor.tasks if handle.started_at]) < 3:
                await anyio.sleep(0.001)
        request.left.set()
    assert seen[1] == "cleaned up"
    assert request.sent == []
    release.set()
    assert await seen[0] == "done"


async def test_client_has_left_before_the_task(executor):
    """A task of a request whose client has left is cancelled at once, and the app still learns that it has left."""
    request, errors = Request(), []

    async def app(scope, receive, send):
        assert await receive() == LAST
        for _ in range(2):
            try:
                await executor.run(anyio.sleep_forever)
            except TaskCancelledError as error:
                errors.append(error)
        assert await receive() == await receive() == {"type": "http.disconnect"}

    request.left.set()
    with anyio.fail_after(20):
        await request.of(ExecutorMiddleware(app, executor))
    assert len(errors) == 2


async def test_other_errors_are_raised_although_the_client_has_left(executor):
    """What else an app raises goes to the server."""

    async def app(scope, receive, send):
        try:
            await executor.run(anyio.sleep_forever)
        except TaskCancelledError:
            raise LookupError from None

    request = Request()
    request.left.set()
    with pytest.raises(LookupError):
        await request.of(ExecutorMiddleware(app, executor))


async def test_reads_no_further_than_one_part_of_the_body(executor):
    """While a task runs, one part of the body is read ahead; the app gets all parts in order."""
    parts = [{"type": "http.request", "body": b"%d" % number, "more_body": True} for number in range(3)]
    request = Request(*parts, LAST)

    async def app(scope, receive, send):
        await executor.run(anyio.sleep, 0.05)
        assert request.received <= 1
        assert [await receive() for _ in range(4)] == [*parts, LAST]
        await executor.run(anyio.sleep, 0)
        await respond(send)
        assert await receive() == {"type": "http.disconnect"}  # as from a server, once the answer is complete

    with anyio.fail_after(20):
        await request.of(ExecutorMiddleware(app, executor))
    assert request.status == 200


async def test_app_that_waits_for_the_disconnect_itself(executor):
    """If the app is waiting for a message when the task begins, the disconnect cancels the task all the same."""
    request, seen = Request(), []

    async def app(scope, receive, send):
        await receive()
        async with anyio.create_task_group() as group:

            async def listen():
                seen.append(await receive())

            group.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(TaskCancelledError):
                await executor.run(anyio.sleep_forever)

    async with anyio.create_task_group() as group:
        group.start_soon(request.of, ExecutorMiddleware(app, executor))
        await started(executor)
        request.left.set()
    assert seen == [{"type": "http.disconnect"}]


async def test_end_of_the_answer_is_no_disconnect(executor):
    """What an app runs after its answer is not cancelled, although the server reports a disconnect then."""
    request = Request()

    async def app(scope, receive, send):
        await executor.run(anyio.sleep, 0)
        await respond(send)
        request.left.set()
        await executor.run(anyio.sleep, 0.01)

    await request.of(ExecutorMiddleware(app, executor))


async def test_end_of_the_answer_is_reported_once_it_is_sent(executor):
    """An app that listens while it answers, as a streaming response does, isn't told to stop before the end is sent."""
    request, ends = Request(), []

    async def send(message):
        await anyio.wait_all_tasks_blocked()  # a slow client
        ends.append(message["type"])

    async def app(scope, receive, send):
        await receive()
        await executor.run(anyio.sleep, 0)
        async with anyio.create_task_group() as group:
            group.start_soon(respond, send)
            ends.append((await receive())["type"])
            group.cancel_scope.cancel()

    with anyio.fail_after(20):
        await ExecutorMiddleware(app, executor)({"type": "http"}, request.receive, send)
    assert ends == ["http.response.start", "http.response.body", "http.disconnect"]


# --- answers ------------------------------------------------------------------------------------------------------


def refusing(error):
    async def app(scope, receive, send):
        raise error

    return app


def refusing_as_frameworks_do(error):
    async def app(scope, receive, send):
        try:
            await refusing(error)(scope, receive, send)
        except Exception:
            await respond(send, 500)
            raise

    return app


@ON_ASYNCIO
@pytest.mark.parametrize("refuse", [refusing, refusing_as_frameworks_do])
async def test_answers(executor, refuse, caplog):
    """Refusals are answered with 503, timeouts with 504, even if the app answers them with 500 and raises again."""
    for error, status, retry_after, text in (
        (QueueFullError("thread", 1), 503, b"5", responses.BUSY),
        (ExecutorClosedError("closed"), 503, b"5", responses.STOPPING),
        (TaskTimeoutError("task", "", 1.0), 504, None, responses.TOO_SLOW),
    ):
        request = Request()
        await request.of(ExecutorMiddleware(refuse(error), executor))
        assert (request.status, request.headers.get(b"retry-after")) == (status, retry_after)
        assert len(request.sent) == 2
        assert json.loads(request.sent[1]["body"]) == {"detail": text}
    assert caplog.text.count("a request was answered with status") == 3


@ON_ASYNCIO
async def test_the_apps_own_answer_takes_precedence(executor):
    """An app that answers a refusal itself is not overruled, nor one that has begun to answer."""

    async def app(scope, receive, send):
        try:
            await refusing(QueueFullError("thread", 1))(scope, receive, send)
        except QueueFullError:
            await respond(send, 429)

    request = Request()
    await request.of(ExecutorMiddleware(app, executor))
    assert (request.status, len(request.sent)) == (429, 2)

    async def late(scope, receive, send):
        await respond(send)
        raise QueueFullError("thread", 1)

    request = Request()
    with pytest.raises(QueueFullError):
        await request.of(ExecutorMiddleware(late, executor))
    assert (request.status, len(request.sent)) == (200, 2)


@ON_ASYNCIO
async def test_other_scopes_pass_through():
    """Lifespans and websockets reach the app with the server's own functions; so do requests before the start."""
    seen = []

    async def app(*args):
        seen.append(args[1:])

    for kind in ("lifespan", "websocket", "http"):
        request = Request()
        await request.of(ExecutorMiddleware(app, Executor()), kind)
        assert seen.pop() == (request.receive, request.send)


# --- the current executor -----------------------------------------------------------------------------------------


async def test_current_executor(executor):
    """It is that of the request and its tasks, or else the only one that is served."""
    other, seen = Executor(threads=1, processes=0), []

    async def app(scope, receive, send):
        seen.append(await current_executor.run(lambda: current_executor.phase))
        seen.append(current_executor.tasks == other.tasks)
        await respond(send)

    assert current_executor.phase == "open"
    async with lifespan(other):
        with pytest.raises(ConfigurationError, match="several apps"):
            current_executor.phase  # noqa: B018
        await Request().of(ExecutorMiddleware(app, other), "http")
        await Request().of(ExecutorMiddleware(app, other), "websocket")
    assert seen == ["open", True] * 2
    assert current_executor.submit(anyio.sleep, 0).state is not TaskState.FAILED


@ON_ASYNCIO
async def test_no_current_executor():
    """Without an app that is served there is none. The proxy travels to workers by its name."""
    assert pickle.loads(pickle.dumps(current_executor)) is current_executor
    with pytest.raises(ConfigurationError, match=r"no app with `lifespan\(executor\)` has started"):
        current_executor.phase  # noqa: B018
