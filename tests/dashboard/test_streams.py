"""The stream of states: who asks the server processes, how often, and when a stream ends. On each event loop."""

from __future__ import annotations

import math
import threading
from typing import Any

import anyio
import pytest
from asgi_requests import requesting, status_of, text_of
from until import until

from executors import Executor
from executors._dashboard import feed
from executors._dashboard.feed import Feed

pytestmark = pytest.mark.anyio


class Asked:
    """Counts how often it is asked, and how many ask at the same time."""

    def __init__(self) -> None:
        self.number = self.running = self.most = 0
        self._lock = threading.Lock()

    def __call__(self) -> bytes:
        assert threading.current_thread() is not threading.main_thread()
        with self._lock:
            self.number += 1
            self.running += 1
            self.most = max(self.most, self.running)
        with self._lock:
            self.running -= 1
        return str(self.number).encode()


async def test_one_question_for_all(monkeypatch) -> None:
    """However many wait, the server processes are asked once in an interval, one question at a time, in a thread."""
    monkeypatch.setattr(feed, "INTERVAL", 0.05)
    monkeypatch.setattr(feed, "MAX_INTERVAL", 0.05)
    asked = Asked()
    states = Feed(asked)
    began = anyio.current_time()
    seen: list[list[bytes]] = [[] for _ in range(50)]

    async def watch(mine: list[bytes]) -> None:
        number = 0
        for _ in range(4):
            number, state = await states.after(number)
            mine.append(state)

    async with anyio.create_task_group() as group:
        for mine in seen:
            group.start_soon(watch, mine)
    assert anyio.current_time() - began >= 0.15
    assert seen == [[b"1", b"2", b"3", b"4"]] * 50
    assert (asked.number, asked.most) == (4, 1)
    with anyio.fail_after(5):
        assert (await states.after(0))[1] in {b"4", b"5"}  # the current one, as long as it is young
    number = asked.number
    await anyio.sleep(0.2)
    assert asked.number == number, "nobody watches"


async def test_a_viewer_that_leaves_or_fails(monkeypatch) -> None:
    """If the one that asks leaves, or its question fails, another one asks."""
    monkeypatch.setattr(feed, "INTERVAL", 0.05)
    failures = [OSError("once")]

    def ask() -> bytes:
        if failures:
            raise failures.pop()
        return b"state"

    states = Feed(ask)
    with pytest.raises(OSError, match="once"):
        await states.after(0)
    assert await states.after(0) == (1, b"state")
    states._asked_at = math.inf  # waits for ever
    with anyio.move_on_after(0.01):
        await states.after(1)
    states._asked_at = -math.inf
    assert await states.after(1) == (2, b"state")


async def test_events(new_shop, monkeypatch) -> None:
    """A stream has the state at once, another one each interval, and ends after a while; browsers reconnect."""
    monkeypatch.setattr(feed, "INTERVAL", 0.1)
    monkeypatch.setattr(feed, "MAX_INTERVAL", 0.1)
    monkeypatch.setattr(feed, "STREAM_DURATION", 0.8)
    async with new_shop(authorize=lambda request: True) as shop:
        task = shop.executor.submit(anyio.sleep, 600)
        async with requesting(shop.app, "/executors/events") as answer:
            assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            states: list[Any] = []
            while (state := await answer.event()) is not None:
                states.append(state)
        assert 2 <= len(states) <= 9
        assert states[0]["now"] < states[-1]["now"]
        (server,) = states[-1]["servers"]
        assert server["phase"] == "open"
        assert [one["id"] for one in states[-1]["active"]] == [task.id]
        assert [one["name"] for one in states[-1]["backends"]] == ["thread", "loop"]
        page = await text_of(shop.app, "/executors/")
        assert 'src="./static/dashboard.js"' in page
        assert await status_of(shop.app, "/executors/static/dashboard.js") == 200
        async with requesting(shop.app, "/executors/events", "HEAD") as answer:
            assert (answer.status, await answer.body()) == (200, b"")
        task.cancel()


async def test_a_drain_ends_the_stream(new_shop, monkeypatch) -> None:
    """As a drain begins, the stream ends, and another one has one event."""
    monkeypatch.setattr(feed, "INTERVAL", 600.0)
    monkeypatch.setattr(feed, "STREAM_DURATION", 600.0)
    async with new_shop(authorize=lambda request: True) as shop:
        release = threading.Event()
        task = shop.executor.submit(release.wait)
        await until(lambda: task.started_at)
        async with anyio.create_task_group() as group:
            async with requesting(shop.app, "/executors/events") as answer:
                assert (await answer.event())["servers"][0]["phase"] == "open"
                group.start_soon(shop.executor.drain)
                while await answer.event() is not None:
                    pass
            async with requesting(shop.app, "/executors/events") as answer:
                state = await answer.event()
                assert await answer.event() is None
                assert [one["id"] for one in state["active"]] == [task.id]
            release.set()


async def test_before_the_start() -> None:
    """An executor that has not been started has nothing to show."""
    from executors.asgi.dashboard import Dashboard  # noqa: PLC0415

    app = Dashboard(Executor(), authorize=lambda scope: True)
    for path in ("/", "/events"):
        async with requesting(app, path) as answer:
            assert answer.status == 503
            assert b"has not been started" in await answer.body()
