"""The seam to the event loop: posting, waiting, spawning, timers and watching descriptors, alike on all loops."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from executors import ExecutorClosedError
from executors._loops import EventLoop, guarded, running_loop

pytestmark = pytest.mark.anyio

TIMEOUT = 10.0

colour: ContextVar[str] = ContextVar("colour", default="none")


async def seen(event: anyio.Event) -> None:
    with anyio.fail_after(TIMEOUT):
        await event.wait()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


async def test_a_loop_knows_itself() -> None:
    """A wrapped loop knows whether the calling code runs in it, and that it goes on."""
    loop = running_loop()
    assert loop.is_current()
    assert not loop.has_ended()
    assert loop.thread_id == threading.get_ident()
    assert not await anyio.to_thread.run_sync(loop.is_current)

    async def other() -> bool:
        return loop.is_current()

    assert not await anyio.to_thread.run_sync(anyio.run, other)
    assert issubclass(loop.cancelled_error, anyio.get_cancelled_exc_class())


def test_no_loop() -> None:
    """Without a running loop there is nothing to wrap, and the error says where to start."""
    with pytest.raises(ExecutorClosedError, match="none runs in this thread"):
        running_loop()


def test_post_without_a_loop_is_harmless() -> None:
    """Posting to a loop that has ended does nothing, keeps nothing, and raises nothing."""
    loops: list[EventLoop] = []

    async def main() -> None:
        loops.append(running_loop())

    asyncio.run(main())
    trio.run(main)
    for loop in loops:
        assert loop.has_ended()
        for _ in range(3):
            loop.post(print, "never")
        assert not loop._inbox


async def test_posts_keep_their_order() -> None:
    """What a thread posts arrives on the loop's thread, all of it, in order."""
    loop, got, done = running_loop(), [], anyio.Event()
    threads = set()

    def take(thread: int, number: int) -> None:
        got.append((thread, number))
        threads.add(threading.get_ident())
        if len(got) == 4000:
            done.set()

    def post_all(thread: int) -> None:
        for number in range(1000):
            loop.post(take, thread, number)

    senders = [threading.Thread(target=post_all, args=(thread,)) for thread in range(4)]
    for sender in senders:
        sender.start()
    await seen(done)
    for sender in senders:
        sender.join()
    for thread in range(4):
        assert [number for who, number in got if who == thread] == list(range(1000))
    assert threads == {loop.thread_id}


async def test_post_from_a_post() -> None:
    """What is posted while posts are worked off isn't lost."""
    loop, done = running_loop(), anyio.Event()

    def again(left: int) -> None:
        loop.post(again, left - 1) if left else done.set()

    loop.post(again, 50)
    await seen(done)


async def test_failing_post_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A posted call that raises is logged, and those after it are made."""
    loop, done = running_loop(), anyio.Event()
    loop.post(int, "no number")
    loop.post(done.set)
    await seen(done)
    assert "no number" in caplog.text


def test_guarded_logs(caplog: pytest.LogCaptureFixture) -> None:
    """A guarded call raises nothing but a KeyboardInterrupt: a SystemExit of a user's object ends no server."""

    def leave(error: type[BaseException]) -> None:
        raise error

    guarded(int, "no number")
    assert "no number" in caplog.text
    guarded(leave, SystemExit)
    assert "SystemExit" in caplog.text
    with pytest.raises(KeyboardInterrupt):
        guarded(leave, KeyboardInterrupt)


async def test_waiter() -> None:
    """A waiter wakes once it is told, also if that came first, or twice, or after it was cancelled."""
    loop = running_loop()
    early = loop.new_waiter()
    loop.wake(early)
    loop.wake(early)
    await early
    late, woken = loop.new_waiter(), []

    async def wait() -> None:
        await late
        woken.append(True)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert woken == []
        loop.wake(late)
        loop.wake(late)
    assert woken == [True]
    given_up = loop.new_waiter()
    with anyio.move_on_after(0) as scope:
        await given_up
    assert scope.cancelled_caught
    loop.wake(given_up)


async def test_spawn_runs_in_its_context() -> None:
    """What is spawned runs on the loop, with its arguments, in the given context."""
    loop, done, got = running_loop(), anyio.Event(), []
    context = copy_context()
    context.run(colour.set, "red")

    async def work(x: int) -> None:
        await anyio.lowlevel.checkpoint()
        got.append((x, colour.get()))
        done.set()

    keep = loop.spawn(work, 5, context=context, name="a name")
    await seen(done)
    assert got == [(5, "red")]
    assert colour.get() == "none"
    assert keep


async def test_spawned_can_be_cancelled() -> None:
    """A cancellation reaches what is spawned; one before the first step may keep it from running at all."""
    loop, ended, entered = running_loop(), anyio.Event(), anyio.Event()

    async def work() -> None:
        entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    spawned = loop.spawn(work)
    await seen(entered)
    spawned.cancel()
    await seen(ended)
    ran: list[int] = []

    async def never() -> None:
        ran.append(1)

    loop.spawn(never).cancel()
    await anyio.wait_all_tasks_blocked()
    assert ran == []


async def test_timers() -> None:
    """A timer calls with its arguments after its delay, unless it is cancelled."""
    loop, done, got = running_loop(), anyio.Event(), []
    began = time.monotonic()

    def take(x: int) -> None:
        got.append(x)
        if x == 2:
            done.set()
        else:
            loop.call_later(0.02, take, x + 1)

    cancelled = loop.call_later(0.01, take, 4)
    loop.call_later(0, take, 1)
    cancelled.cancel()
    await seen(done)
    assert got == [1, 2]
    assert time.monotonic() - began >= 0.019


async def test_beats() -> None:
    """What is called every so often is told when it was due and when it was called, until it is cancelled."""
    loop = running_loop()
    beats: list[tuple[float, float]] = []
    enough = anyio.Event()

    def beat(due: float, now: float) -> None:
        beats.append((due, now))
        if len(beats) == 5:
            heart.cancel()
            enough.set()

    began = time.monotonic()
    heart = loop.call_every(0.01, beat)
    with anyio.fail_after(5):
        await enough.wait()
    await anyio.sleep(0.03)
    assert len(beats) == 5
    dues = [due for due, _ in beats]
    assert dues == sorted(dues)
    assert dues[0] >= began + 0.01
    assert all(due <= now + 0.002 and now <= time.monotonic() for due, now in beats)
    assert all(later - earlier >= 0.009 for earlier, later in pairwise(dues))


async def test_the_first_beat_is_due_from_the_call_on() -> None:
    """What keeps the loop from its first beat is seen, also where nothing has run since the beats were asked for."""
    loop = running_loop()
    beats: list[float] = []
    done = anyio.Event()

    def beat(due: float, now: float) -> None:
        beats.append(now - due)
        done.set()

    heart = loop.call_every(0.01, beat)
    time.sleep(0.1)  # noqa: ASYNC251
    with anyio.fail_after(5):
        await done.wait()
    heart.cancel()
    assert beats[0] >= 0.08


async def test_idle_clock(anyio_backend: tuple[str, dict[str, object]]) -> None:
    """What a loop waits counts as idle, what it computes doesn't; only asyncio's own loop tells."""
    clock = running_loop().idle_clock()
    if anyio_backend != ("asyncio", {}):
        assert clock is None
        return
    assert clock is not None
    try:
        await anyio.sleep(0.05)
        waited = clock.seconds()
        assert 0.03 < waited < 5
        time.sleep(0.05)  # noqa: ASYNC251
        assert clock.seconds() < waited + 0.03
    finally:
        clock.stop()
    before = clock.seconds()
    await anyio.sleep(0.05)
    assert clock.seconds() == before


async def test_failing_timer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A timer that raises doesn't take the loop down."""
    loop, done = running_loop(), anyio.Event()
    timers = [loop.call_later(0, guarded, int, "no number"), loop.call_later(0.01, done.set)]
    await seen(done)
    assert "no number" in caplog.text
    assert timers


async def test_readers_and_writers(pair: tuple[socket.socket, socket.socket]) -> None:
    """A watched descriptor is reported as long as it is ready, and not after the watch has ended."""
    loop, (one, other) = running_loop(), pair
    got: list[bytes] = []
    done, writable = anyio.Event(), anyio.Event()

    def read() -> None:
        got.append(one.recv(1))
        if len(got) == 3:
            done.set()

    loop.add_reader(one.fileno(), read)
    loop.add_writer(other.fileno(), writable.set)
    await seen(writable)
    loop.remove_writer(other.fileno())
    other.send(b"abc")
    await seen(done)
    assert got == [b"a", b"b", b"c"]
    loop.remove_reader(one.fileno())
    other.send(b"d")
    await anyio.wait_all_tasks_blocked()
    assert got == [b"a", b"b", b"c"]
    assert one.recv(10) == b"d"
    loop.remove_reader(one.fileno())
    loop.remove_writer(other.fileno())


async def test_reader_may_remove_itself(pair: tuple[socket.socket, socket.socket]) -> None:
    """A callback may end its own watch and close the descriptor, as at the end of a stream."""
    loop, (one, other) = running_loop(), pair
    done = anyio.Event()

    def read() -> None:
        assert one.recv(10) == b""
        loop.remove_reader(one.fileno())
        one.close()
        done.set()

    loop.add_reader(one.fileno(), read)
    other.close()
    await seen(done)
    await anyio.wait_all_tasks_blocked()


async def test_failing_reader_is_logged(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    """A watcher's callback that raises is logged, and goes on being called."""
    loop, (one, other) = running_loop(), pair
    calls, done = [], anyio.Event()

    def read() -> None:
        calls.append(os.read(one.fileno(), 1))
        if len(calls) == 2:
            done.set()
        raise LookupError("in the reader")

    loop.add_reader(one.fileno(), read)
    other.send(b"ab")
    await seen(done)
    loop.remove_reader(one.fileno())
    await anyio.wait_all_tasks_blocked()
    assert caplog.text.count("LookupError: in the reader") == 2


CALLS: list[Callable[[EventLoop], Any]] = [
    lambda loop: loop.call_later(3600, print),
    lambda loop: loop.spawn(anyio.sleep_forever),
]


@pytest.mark.parametrize("call", CALLS)
async def test_what_is_cancelled_leaves_no_task(call: Callable[[EventLoop], Any]) -> None:
    """A cancelled timer or task is gone from the loop (the suite's guard looks)."""
    call(running_loop()).cancel()
    await anyio.wait_all_tasks_blocked()
