"""Framing: frames arrive as they were sent, whatever their sizes and however the bytes arrive."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import accumulate

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executors._loops import running_loop
from executors._wire.channel import BlockingChannel, LoopChannel
from executors._wire.frames import HEADER, MESSAGE_SIZE, Frame, FrameReader, FrameType, GarbledError, frame, messages
from executors.backends.process.worker_process import JOB_SOCKET_TYPE

SIZES = st.one_of(st.integers(0, 60), st.integers(65_000, 66_000), st.integers(0, 300_000))
"""Around nothing, around the size of a message, and beyond."""

TYPES = st.sampled_from(sorted({socket.SOCK_STREAM, JOB_SOCKET_TYPE}))
CUTS = st.lists(st.integers(1, MESSAGE_SIZE), min_size=1, max_size=30)

KEEPS_MESSAGES = pytest.mark.skipif(JOB_SOCKET_TYPE == socket.SOCK_STREAM, reason="the system's sockets keep none")

AT = [(number, 0.0) for number in range(6)]
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The loop makes no difference to framing."""
    return "asyncio", {}


@contextmanager
def opened(kind: int) -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture(params=sorted({socket.SOCK_STREAM, JOB_SOCKET_TYPE}), ids=lambda kind: kind.name)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two ends of a socketpair, a byte stream or one that keeps messages."""
    with opened(request.param) as ends:
        yield ends


def body_of(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def chunks_of(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """Cut `data` into pieces of the given sizes, the last of them repeated as often as needed."""
    at = 0
    for end in accumulate([*cuts[:-1], max(cuts[-1], 5_000)]):
        if at < len(data):
            yield data[at:end]
            at = end
    for begin in range(at, len(data), max(cuts[-1], 5_000)):
        yield data[begin : begin + max(cuts[-1], 5_000)]


def in_parts(first: bytes, rest: bytes) -> list[bytes]:
    """Make a frame in two parts."""
    return [HEADER.pack(FrameType.VALUE, 0, 0.0, len(first) + len(rest)) + first, rest]


def fail(detail: str) -> None:
    raise AssertionError(detail)


def texts(channel: BlockingChannel, count: int) -> list[bytes]:
    return [bytes(channel.receive()[3]) for _ in range(count)]


# --- reading ----------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(sizes=st.lists(SIZES, max_size=8), cuts=CUTS)
def test_any_frames_are_read_in_any_chunks(sizes: list[int], cuts: list[int]) -> None:
    """Frames of random sizes, written in random chunks and read after each, arrive whole and in order."""
    sent = [(int(FrameType.VALUE), number, number / 4, body_of(size, number)) for number, size in enumerate(sizes)]
    stream = b"".join(frame(FrameType.VALUE, body, number, cpu_time) for _, number, cpu_time, body in sent)
    received: list[tuple[int, int, float, bytes]] = []
    with opened(socket.SOCK_STREAM) as (ours, theirs):
        reader = FrameReader(ours)
        for chunk in chunks_of(stream, cuts):
            theirs.sendall(chunk)
            received += [(*found[:3], bytes(found[3])) for found in reader.receive()]
        theirs.close()
        with pytest.raises(EOFError):
            reader.receive()
    assert received == sent


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(SIZES, max_size=6), cuts=CUTS)
def test_the_worker_reads_any_frames_in_any_chunks(sizes: list[int], cuts: list[int]) -> None:
    """The worker's end waits for the missing bytes, and reports when the parent is gone."""
    bodies = [body_of(size, number) for number, size in enumerate(sizes)]
    stream = b"".join(frame(FrameType.JOB, body, number) for number, body in enumerate(bodies))

    def write(sock: socket.socket) -> None:
        for chunk in chunks_of(stream, cuts):
            sock.sendall(chunk)
        sock.shutdown(socket.SHUT_WR)

    with opened(socket.SOCK_STREAM) as (ours, theirs):
        thread = threading.Thread(target=write, args=(ours,))
        thread.start()
        channel = BlockingChannel(theirs)
        assert [channel.receive() for _ in bodies] == [
            (FrameType.JOB, *at, body) for at, body in zip(AT, bodies, strict=False)
        ]
        with pytest.raises(EOFError):
            channel.receive()
        thread.join()


@settings(max_examples=50, deadline=None)
@given(kind=TYPES, batches=st.lists(st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=4), max_size=4))
def test_any_frames_are_read_as_they_are_sent(kind: int, batches: list[list[tuple[int, int]]]) -> None:
    """Frames of several parts of random sizes, sent together or one after another, arrive whole and in order."""
    sent = [[(body_of(first, 1), body_of(rest, 2)) for first, rest in sizes] for sizes in batches]

    def write(channel: BlockingChannel) -> None:
        for bodies in sent:
            channel.send([part for body in bodies for part in in_parts(*body)])

    with opened(kind) as (ours, theirs):
        thread = threading.Thread(target=write, args=(BlockingChannel(ours),))
        thread.start()
        channel = BlockingChannel(theirs)
        for body in (body for bodies in sent for body in bodies):
            assert channel.receive()[3] == b"".join(body)
        thread.join()


@KEEPS_MESSAGES
@settings(max_examples=50, deadline=None)
@given(groups=st.lists(st.lists(st.integers(0, 3000), min_size=1, max_size=5), min_size=1, max_size=10))
def test_a_message_stays_in_the_socket_until_those_before_are_used_up(groups: list[list[int]]) -> None:
    """While the worker has a frame left of one message, the next can be revoked: it has not been read."""
    sent = [b"".join(frame(FrameType.JOB, body_of(size, size)) for size in sizes) for sizes in groups]
    with opened(socket.SOCK_SEQPACKET) as (ours, theirs):
        for message in sent:
            ours.send(message)
        channel = BlockingChannel(theirs)
        for number, sizes in enumerate(groups):
            for size in sizes:
                assert channel.receive()[3] == body_of(size, size)
                if number + 1 < len(sent):
                    assert theirs.recv(MESSAGE_SIZE, socket.MSG_PEEK | socket.MSG_DONTWAIT) == sent[number + 1]


@KEEPS_MESSAGES
def test_a_large_frame_leaves_the_next_message_in_the_socket() -> None:
    """A frame that takes several messages, the last one not full, is read to its end and no further."""
    with opened(socket.SOCK_SEQPACKET) as (ours, theirs):
        BlockingChannel(ours).send([frame(FrameType.JOB, b"x" * 100_000)])
        ours.send(frame(FrameType.JOB, b"next"))
        BlockingChannel(theirs).receive()
        assert theirs.recv(MESSAGE_SIZE, socket.MSG_DONTWAIT) == frame(FrameType.JOB, b"next")


@KEEPS_MESSAGES
def test_a_revoked_message_is_not_read() -> None:
    """A message taken from a duplicate of the worker's end is received once; the worker reads the next one."""
    with opened(socket.SOCK_SEQPACKET) as (ours, theirs), theirs.dup() as duplicate:
        for body in (b"first", b"second", b"third"):
            ours.send(frame(FrameType.JOB, body))
        channel = BlockingChannel(theirs)
        assert channel.receive()[3] == b"first"
        assert duplicate.recv(MESSAGE_SIZE, socket.MSG_DONTWAIT) == frame(FrameType.JOB, b"second")
        assert channel.receive()[3] == b"third"
        with pytest.raises(BlockingIOError):
            duplicate.recv(MESSAGE_SIZE, socket.MSG_DONTWAIT)


@pytest.mark.parametrize(
    "garbage",
    [b"x" * 1000, frame(FrameType.VALUE, b"")[:-8] + b"\xff" * 8],
    ids=["of no kind", "of an impossible length"],
)
def test_garbage_is_refused(pair: Pair, garbage: bytes) -> None:
    """Bytes that a task has written to the socket are not read as a frame, and allocate no memory."""
    ours, theirs = pair
    theirs.send(garbage)
    with pytest.raises(GarbledError):
        FrameReader(ours).receive()


@pytest.mark.anyio
async def test_garbage_in_a_byte_stream_is_reported_once() -> None:
    """After it nothing more is read."""
    details: list[str] = []
    notified = anyio.Event()

    def on_garbled(detail: str) -> None:
        details.append(detail)
        notified.set()

    with (
        opened(socket.SOCK_STREAM) as (ours, theirs),
        closing(LoopChannel(ours, running_loop(), lambda _: None, on_garbled)),
    ):
        theirs.send(b"x" * 100)
        await notified.wait()
        theirs.send(b"x" * 100)
        await anyio.wait_all_tasks_blocked()
    assert len(details) == 1


LARGE = frame(FrameType.VALUE, b"x" * 100_000, 1)

STRAY = {
    "nothing": b"",
    "a byte": b"x",
    "garbage": b"x" * 100,
    "a part of a header": LARGE[:20],
    "a part of a frame": LARGE[:100],
    "a frame and a part": frame(FrameType.VALUE, b"of the task") + LARGE[:100],
    "a continuation": b"\x10" + LARGE[:100],
    "too much": LARGE,
}


@KEEPS_MESSAGES
@pytest.mark.anyio
@pytest.mark.parametrize("stray", STRAY.values(), ids=STRAY.keys())
async def test_a_stray_message_harms_no_other(stray: bytes) -> None:
    """Where messages are kept, it is distinguished from the channel's own, which all arrive, large ones too."""
    bodies = [b"before", b"", b"after", b"y" * 150_000, b"last"]
    details: list[str] = []
    found: list[bytes] = []
    done = anyio.Event()

    def on_frame(received: Frame) -> bool:
        found.append(bytes(received[3]))
        if found[-1] == b"last":
            done.set()
        return True

    def write() -> None:
        worker = BlockingChannel(theirs)
        for body in bodies:
            worker.send([frame(FrameType.VALUE, body)])
            if body != b"last":
                theirs.send(stray)

    with (
        opened(socket.SOCK_SEQPACKET) as (ours, theirs),
        closing(LoopChannel(ours, running_loop(), on_frame, details.append)),
    ):
        await anyio.to_thread.run_sync(write)
        await done.wait()
    assert [body for body in found if body != b"of the task"] == bodies
    assert len(details) == 4


@KEEPS_MESSAGES
@pytest.mark.parametrize("has_cookies", [True, False])
def test_a_channel_whose_socket_was_replaced_sends_nothing(has_cookies, monkeypatch) -> None:
    """A task has closed the socket, and another has its number now; also where the system has no SO_COOKIE."""
    if not has_cookies:
        monkeypatch.setattr("executors._wire.channel._SO_COOKIE", 9999)
    with opened(socket.SOCK_SEQPACKET) as (ours, theirs), opened(socket.SOCK_SEQPACKET) as (other, their_other):
        channel = BlockingChannel(theirs)
        os.dup2(their_other.fileno(), theirs.fileno())
        with pytest.raises(OSError, match="a task has closed"):
            channel.send([frame(FrameType.VALUE)])
        for sock in (ours, other):
            sock.setblocking(False)
        assert ours.recv(10) == b""
        with pytest.raises(BlockingIOError):
            other.recv(10)


# --- writing ----------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(SIZES | st.just(MESSAGE_SIZE), st.sampled_from([bytes, bytearray, memoryview])), max_size=8))
def test_messages_are_cut_and_joined(shapes: list[tuple[int, type]]) -> None:
    """Joined, the messages are what the parts were; none is empty or too large, and small parts are together.

    Each says whether it begins with a frame.
    """
    parts: list[bytes | bytearray | memoryview] = []
    begins, end = set(), 0
    for number, (size, make) in enumerate(shapes):
        whole = frame(FrameType.VALUE, body_of(size, number))
        at = number * 1000
        parts += [make(whole[: HEADER.size + at]), make(whole[HEADER.size + at :])]  # the second may be empty
        begins.add(end)
        end += len(whole)
    found = messages(parts)
    assert b"".join(message for _, message in found) == b"".join(parts)
    assert all(0 < len(message) <= MESSAGE_SIZE for _, message in found)
    at = 0
    for is_continued, message in found:
        assert is_continued is (at not in begins)
        at += len(message)
    if end <= MESSAGE_SIZE:
        assert len(found) <= 1


@pytest.mark.anyio
async def test_both_ends_carry_more_than_the_socket_holds(pair: Pair) -> None:
    """Large and small bodies travel both ways at once, and neither end loses its place."""
    ours, theirs = pair
    received: list[bytes] = []
    done = anyio.Event()
    bodies = [body_of(size, size) for size in (3_000_000, 0, 17, 1_000_000, 65_536, 1)]

    def on_frame(found: Frame) -> None:
        _, task_id, _, body = found
        assert task_id == len(received)
        received.append(bytes(body))
        if len(received) == len(bodies):
            done.set()

    def echo() -> None:
        channel = BlockingChannel(theirs)
        for _ in bodies:
            _, task_id, _, body = channel.receive()
            channel.send([HEADER.pack(FrameType.VALUE, task_id, 0.0, len(body)), body])

    thread = threading.Thread(target=echo)
    thread.start()
    channel = LoopChannel(ours, running_loop(), on_frame, fail)
    for number, body in enumerate(bodies):
        channel.send([frame(FrameType.JOB, body, number)])
    await done.wait()
    thread.join()
    channel.close()
    channel.close()
    assert received == bodies


@pytest.mark.anyio
async def test_several_frames_go_out_in_one_message(pair: Pair) -> None:
    """Frames that the worker sends together are received at once and in order, the empty ones too."""
    ours, theirs = pair
    kinds = []
    channel = LoopChannel(ours, running_loop(), lambda found: kinds.append((found[0], bytes(found[3]))), fail)
    BlockingChannel(theirs).send([frame(FrameType.LOG, b"one"), frame(FrameType.READY), frame(FrameType.VALUE, b"two")])
    channel.receive_all()
    channel.close()
    assert kinds == [(FrameType.LOG, b"one"), (FrameType.READY, b""), (FrameType.VALUE, b"two")]


@pytest.mark.anyio
async def test_try_send_sends_at_once_or_not_at_all(pair: Pair) -> None:
    """A frame that finds the socket full, or others waiting, is not sent; the sent ones arrive whole and in order."""
    ours, theirs = pair
    with closing(LoopChannel(ours, running_loop(), lambda _: None, fail)) as channel:
        sent = [b"%d" % number + b"x" * 5000 for number in range(1000)]
        count = next(number for number, body in enumerate(sent) if not channel.try_send(frame(FrameType.JOB, body)))
        channel.send([frame(FrameType.JOB, b"waits")])
        worker = BlockingChannel(theirs)
        received = texts(worker, 20)  # writable again, and the loop hasn't noticed yet
        assert not channel.try_send(frame(FrameType.JOB, b"must not pass it"))
        received += await anyio.to_thread.run_sync(texts, worker, count + 1 - len(received))
        assert received == [*sent[:count], b"waits"]
        assert channel.try_send(frame(FrameType.JOB, b"again"))
        assert texts(worker, 1) == [b"again"]


@pytest.mark.anyio
async def test_a_frame_sent_in_part_is_completed() -> None:
    """A frame that is sent in part counts as sent; the rest follows when the socket is writable."""
    with opened(socket.SOCK_STREAM) as (ours, theirs):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the system's least, some kilobytes
        with closing(LoopChannel(ours, running_loop(), lambda _: None, fail)) as channel:
            assert channel.try_send(frame(FrameType.JOB, b"x" * 60_000))
            assert not channel.try_send(frame(FrameType.EXIT))
            assert await anyio.to_thread.run_sync(texts, BlockingChannel(theirs), 1) == [b"x" * 60_000]


@pytest.mark.anyio
async def test_a_closed_connection_is_no_error(pair: Pair) -> None:
    """Writing to and reading from a worker that is gone does nothing: its death is detected elsewhere."""
    ours, theirs = pair
    channel = LoopChannel(ours, running_loop(), lambda _: None, fail)
    theirs.close()
    channel.send([frame(FrameType.JOB, b"x" * 5_000_000)])
    assert not channel.try_send(frame(FrameType.JOB))
    channel.receive_all()
    channel.send([frame(FrameType.EXIT)])
    channel.close()


# --- descriptors ------------------------------------------------------------------------------------------


@contextmanager
def pipes(count: int) -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(count)]
    yield made
    for fd in sum(made, ()):
        os.close(fd)


def answer_to(fd: int, number: int, made: list[tuple[int, int]]) -> bytes:
    """Write through a received descriptor, and return what its pipe contains."""
    assert not os.get_inheritable(fd)
    os.write(fd, b"%d" % number)
    os.close(fd)
    return os.read(made[number][0], 10)


@pytest.mark.anyio
@pytest.mark.parametrize("size", [0, 200_000], ids=["small", "large"])
async def test_descriptors_travel_with_frames(pair: Pair, size: int) -> None:
    """A frame's handler gets its descriptors, in order, also if the frame is cut into many messages; both ways."""
    ours, theirs = pair
    with pipes(6) as made:
        back: list[bytes] = []
        came = anyio.Event()

        def on_frame(found: Frame) -> None:
            task_id = found[1]
            back.append(answer_to(channel.descriptors.popleft(), task_id, made))
            if task_id == 5:
                came.set()

        def work() -> list[bytes]:
            channel, there = BlockingChannel(theirs), []
            for _ in range(3):
                _, number, _, _ = channel.receive()
                there.append(answer_to(channel.descriptors.popleft(), number, made))
            for number in range(3, 6):
                channel.send([frame(FrameType.VALUE, bytes(size), number)], [made[number][1]])
            return there

        channel = LoopChannel(ours, running_loop(), on_frame, fail)
        for number in range(3):
            channel.send([frame(FrameType.JOB, bytes(size), number)], [made[number][1]])
        assert await anyio.to_thread.run_sync(work) == [b"0", b"1", b"2"]
        await came.wait()
        assert back == [b"3", b"4", b"5"]
        assert not channel.descriptors
        channel.close()


@pytest.mark.anyio
async def test_descriptors_wait_with_their_frame(pair: Pair) -> None:
    """Descriptors of a frame that finds the socket full are sent with it later."""
    ours, theirs = pair
    with pipes(1) as made, closing(LoopChannel(ours, running_loop(), lambda _: None, fail)) as channel:
        channel.send([frame(FrameType.JOB, bytes(1_000_000))])
        channel.send([frame(FrameType.JOB)], [made[0][1]])
        worker = BlockingChannel(theirs)
        await anyio.to_thread.run_sync(texts, worker, 2)
        assert answer_to(worker.descriptors.popleft(), 0, made) == b"0"


@pytest.mark.anyio
async def test_descriptors_that_nobody_takes_are_closed(pair: Pair) -> None:
    """Closing a channel closes received descriptors that nobody took: the suite's check finds none left."""
    ours, theirs = pair
    with pipes(1) as made:
        channel = LoopChannel(ours, running_loop(), lambda _: None, fail)
        BlockingChannel(theirs).send([frame(FrameType.VALUE)], made[0])
        channel.receive_all()
        assert len(channel.descriptors) == 2
        channel.close()
        assert not channel.descriptors
