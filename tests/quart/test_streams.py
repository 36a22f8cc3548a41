"""Streams in an app: its context in the generator, and responses that stream what a task yields."""

from __future__ import annotations

import anyio
import in_app
import pytest
from loops import ON_ASYNCIO_AND_TRIO
from quart import current_app, g, request, stream_with_context

from executors._states import CANCELLED, SUCCEEDED
from executors.quart import current_executor

pytestmark = pytest.mark.anyio

TIMEOUT = 20.0


@ON_ASYNCIO_AND_TRIO
@pytest.mark.parametrize("tag", ["io", "cpu"])
@pytest.mark.parametrize("function", [in_app.context_in_items, in_app.context_in_items_later])
@pytest.mark.parametrize("inline", [False, True])
async def test_app_context(app, executor, tag, function, inline):
    """A generator has the app's context, one `g` for all of its items, and the teardown functions run at its end."""
    app.config.update(EXECUTOR_INLINE=inline, EXECUTOR_WORKER_APP="worker_app:app")
    ended = []

    @app.teardown_appcontext
    async def end(_):
        ended.append(g.get("count"))

    async with app.test_app(), app.app_context():
        g.count = "the consumer's"
        async with executor.options(tag=tag).stream(function, 30) as items:
            found = [item async for item in items]
        if tag == "io" or inline:
            assert ended[-1] == 30
            assert ended.count(30) == 1
            assert [name for name, _ in found] == [current_app.name] * 30
        assert [count for _, count in found] == list(range(1, 31))
        assert g.count == "the consumer's"


def in_response(app, executor):
    """Add a route that streams what a generator yields."""
    handles = []

    @app.get("/<tag>/<int:count>")
    async def stream(tag, count):
        @stream_with_context
        async def lines():
            async with current_executor.options(tag=tag, buffersize=4).stream(in_app.lines, count) as items:
                handles.append(items.handle)
                async for line in items:
                    yield f"{request.path} {line}"

        return lines(), {"Content-Type": "text/plain"}

    return handles


@pytest.mark.parametrize("tag", ["io", "cpu"])
async def test_a_response_streams_items(app, executor, tag):
    """A streamed response has every item; its generator has the request's context."""
    handles = in_response(app, executor)
    async with app.test_app() as test_app:
        response = await test_app.test_client().get(f"/{tag}/9")  # Quart-Trio's client takes no more
        text = await response.get_data(as_text=True)
        assert text.splitlines() == [f"/{tag}/9 {number}" for number in range(9)]
        assert handles[0].state is SUCCEEDED


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
@pytest.mark.parametrize("tag", ["io", "cpu"])
async def test_a_client_that_leaves_ends_the_stream(app, executor, tag):
    """When the client disconnects the generator is closed, and its thread or worker is free."""
    handles = in_response(app, executor)
    async with app.test_app() as test_app:
        async with test_app.test_client().request(f"/{tag}/1000000") as connection:
            await connection.send_complete()
            while not (await connection.receive()).count(b"\n"):
                pass
            await connection.disconnect()
        with anyio.fail_after(TIMEOUT):
            await handles[0].wait()
        assert handles[0].state is CANCELLED
        assert await executor.options(tag=tag).run(int) == 0
