"""Framing: whatever the sizes, and however the bytes arrive, frames come out as they went in."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Iterator
from itertools import accumulate

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executors.backends.process.channel import BlockingChannel, Kind, LoopChannel, frame
from executors.loops import running_loop
from executors.loops.on_asyncio import AsyncioLoop

SIZES = st.one_of(st.integers(0, 60), st.integers(65_000, 66_000), st.integers(0, 300_000))
"""Around nothing, around the size of the parent's buffer, and beyond."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The loop makes no difference to framing."""
    return "asyncio", {}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a socketpair."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def body_of(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def chunks_of(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """Cut `data` into pieces of the given sizes, repeated as often as needed."""
    ends = accumulate(cuts)
    at = 0
    for end in ends:
        if at < len(data):
            yield data[at:end]
            at = end
    while at < len(data):
        yield data[at : at + cuts[-1]]
        at += cuts[-1]


@settings(max_examples=150, deadline=None)
@given(sizes=st.lists(SIZES, max_size=8), cuts=st.lists(st.integers(1, 100_000), min_size=1, max_size=30))
def test_the_parent_reads_any_frames_in_any_chunks(sizes: list[int], cuts: list[int]) -> None:
    """Frames of random sizes, written in random chunks and read after each, arrive whole and in order."""
    cuts = [*cuts[:-1], max(cuts[-1], 5_000)]  # the rest in few
    sent = [(int(Kind.VALUE), number, number / 4, body_of(size, number)) for number, size in enumerate(sizes)]
    stream = b"".join(b"".join(frame(Kind.VALUE, body, number, cpu)) for _, number, cpu, body in sent)
    received: list[tuple[int, int, float, bytes]] = []
    loop = asyncio.new_event_loop()
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
    try:
        channel = LoopChannel(ours, AsyncioLoop(loop), lambda *parts: received.append((*parts[:3], bytes(parts[3]))))
        for chunk in chunks_of(stream, cuts):
            theirs.setblocking(False)
            while chunk:
                chunk = chunk[theirs.send(chunk) :]  # noqa: PLW2901
                channel.read()
        channel.close()
    finally:
        theirs.close()
        loop.close()
    assert received == sent


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(SIZES, max_size=6), cuts=st.lists(st.integers(1, 100_000), min_size=1, max_size=10))
def test_the_worker_reads_any_frames_in_any_chunks(sizes: list[int], cuts: list[int]) -> None:
    """The worker's end does, too."""
    cuts = [*cuts[:-1], max(cuts[-1], 5_000)]
    bodies = [body_of(size, number) for number, size in enumerate(sizes)]
    stream = b"".join(b"".join(frame(Kind.JOB, body, number)) for number, body in enumerate(bodies))
    ours, theirs = socket.socketpair()

    def write() -> None:
        for chunk in chunks_of(stream, cuts):
            ours.sendall(chunk)
        ours.shutdown(socket.SHUT_WR)

    with ours, theirs:
        thread = threading.Thread(target=write)
        thread.start()
        channel = BlockingChannel(theirs)
        assert [channel.receive() for _ in bodies] == [(Kind.JOB, *pair) for pair in enumerate(bodies)]
        with pytest.raises(EOFError):
            channel.receive()
        thread.join()


@pytest.mark.anyio
async def test_both_ends_carry_more_than_the_socket_holds(pair: tuple[socket.socket, socket.socket]) -> None:
    """Bodies of megabytes, small ones among them, travel both ways at once without either end losing its place."""
    ours, theirs = pair
    theirs.setblocking(True)
    received: list[bytes] = []
    done = anyio.Event()
    bodies = [body_of(size, size) for size in (3_000_000, 0, 17, 1_000_000, 65_536, 1)]

    def on_frame(_kind: int, task_id: int, _cpu_time: float, body: bytes | bytearray) -> None:
        assert task_id == len(received)
        received.append(bytes(body))
        if len(received) == len(bodies):
            done.set()

    def echo() -> None:
        channel = BlockingChannel(theirs)
        for _ in bodies:
            _, task_id, body = channel.receive()
            channel.send(frame(Kind.VALUE, bytes(body), task_id))

    thread = threading.Thread(target=echo)
    thread.start()
    channel = LoopChannel(ours, running_loop(), on_frame)
    for number, body in enumerate(bodies):
        channel.send(frame(Kind.JOB, body, number))
    await done.wait()
    thread.join()
    channel.close()
    channel.close()
    assert received == bodies


@pytest.mark.anyio
async def test_several_frames_go_out_in_one_write(pair: tuple[socket.socket, socket.socket]) -> None:
    """What the worker sends together arrives in order, the empty ones too."""
    ours, theirs = pair
    kinds = []
    channel = LoopChannel(ours, running_loop(), lambda *parts: kinds.append((parts[0], bytes(parts[3]))))
    BlockingChannel(theirs).send(frame(Kind.LOG, b"one"), frame(Kind.READY), frame(Kind.VALUE, b"two"))
    channel.read()
    channel.close()
    assert kinds == [(Kind.LOG, b"one"), (Kind.READY, b""), (Kind.VALUE, b"two")]


@pytest.mark.anyio
async def test_a_hung_up_worker_is_no_error(pair: tuple[socket.socket, socket.socket]) -> None:
    """Writing to, and reading from, a worker that is gone does nothing: its death is seen elsewhere."""
    ours, theirs = pair
    channel = LoopChannel(ours, running_loop(), lambda *_: None)
    theirs.close()
    channel.send(frame(Kind.JOB, b"x" * 5_000_000))
    channel.read()
    channel.send(frame(Kind.EXIT))
    channel.close()
