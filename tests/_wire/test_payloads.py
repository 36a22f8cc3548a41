"""PayloadCodec: a payload arrives whichever way it travels; what one side releases is free on the other."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_tasks import segments
from shared_memory import mapped, output_of

from executors._wire.channel import BlockingChannel
from executors._wire.frames import HEADER, SEGMENT_NOTICES, FrameType
from executors._wire.payloads import PayloadCodec
from executors._wire.segments import MIN_SIZE, Pieces
from executors.backends.process.worker_process import JOB_SOCKET_TYPE

MEGABYTE = 1024 * 1024
PLENTY = 64 * MEGABYTE
SIZES = st.one_of(st.sampled_from([0, 1, 16 * 1024, MIN_SIZE - 1, MIN_SIZE, MEGABYTE]), st.integers(0, 2 * MEGABYTE))

pytestmark = pytest.mark.usefixtures("no_garbage")  # values that other tests have left in cycles are mapped

HAS_SEGMENTS = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the system has no memfd")


class Side:
    """One of two sides that send each other payloads."""

    def __init__(self, sock: socket.socket, limit: int) -> None:
        self.channel = BlockingChannel(sock)
        self.codec = PayloadCodec(limit)
        self.received: list[int] = []

    def send(self, *parts: Any, task_id: int = 7) -> list[int]:
        """Send a payload with the releases; return the descriptors sent with it."""
        frames, descriptors = self.codec.encode(FrameType.VALUE, parts, task_id, 0.5)
        # In a thread, as the other side reads in this one.
        thread = threading.Thread(target=self.channel.send, args=([*self.codec.releases(), *frames], descriptors))
        thread.start()
        self.sending = thread
        return list(descriptors)

    def receive(self, sender: Side) -> tuple[int, Sequence[Any]]:
        """Wait for the payload sent by `sender`, and handle its releases."""
        while True:
            kind, task_id, _, body = self.channel.receive()
            if kind not in SEGMENT_NOTICES:
                break
            self.on_release(kind, body)
        sender.sending.join()
        assert task_id == 7
        decoded = self.codec.decode(kind, body, self.channel.descriptors)
        assert not self.channel.descriptors
        return decoded

    def on_release(self, kind: int, body: Any) -> None:
        self.received.append(kind)
        self.codec.on_release(kind, body)

    def notify(self, frames: list[bytes], other: Side) -> None:
        """Send the other side frames about segments."""
        self.channel.send(frames)
        for _ in frames:
            kind, _, _, body = other.channel.receive()
            other.on_release(kind, body)


@contextmanager
def sides(limit: int = PLENTY, kind: int = JOB_SOCKET_TYPE) -> Iterator[tuple[Side, Side]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours, theirs:
        pair = Side(ours, limit), Side(theirs, limit)
        yield pair
        for side in pair:
            side.codec.close()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=6),
    limit=st.sampled_from([0, MEGABYTE, PLENTY]),
    kind=st.sampled_from(sorted({socket.SOCK_STREAM, JOB_SOCKET_TYPE})),
)
def test_whatever_is_wrapped_is_decoded(sizes: list[int], limit: int, kind: int) -> None:
    """Parts of any sizes arrive unchanged, both ways, however much shared memory is available."""
    contents = [random.Random(size).randbytes(size) for size in sizes]
    with sides(limit, kind) as (here, there):
        here.send(*contents)
        kind_there, parts = there.receive(here)
        there.send(*parts)
        kind_back, parts_back = here.receive(there)
        assert kind_there == kind_back == FrameType.VALUE
        assert [bytes(part) for part in parts_back] == [bytes(part) for part in parts] == contents
        del parts, parts_back


@pytest.mark.parametrize("limit", [0, PLENTY], ids=["socket", "shared"])
@pytest.mark.parametrize("size", [20_000, 40_000, MIN_SIZE, MEGABYTE])
def test_parts_are_writable_after_the_first(limit: int, size: int) -> None:
    """The buffers of a received payload are writable."""
    with sides(limit) as (here, there):
        here.send(b"pickle", bytearray(size))
        _, (_, buffer) = there.receive(here)
        assert not memoryview(buffer).readonly
        buffer[0] = buffer[-1] = 1
        assert bytes(buffer) == b"\1" + bytes(size - 2) + b"\1"
        del buffer


def test_without_shared_memory_large_payloads_go_by_the_socket() -> None:
    """Nothing is mapped and no descriptor travels."""
    with sides(limit=0) as (here, there):
        assert here.send(b"pickle", bytes(MEGABYTE)) == []
        assert there.receive(here)[1] == [b"pickle", bytes(MEGABYTE)]
        assert not here.codec.in_use
        assert not there.codec.in_use
        assert mapped() == 0


@HAS_SEGMENTS
def test_a_payload_beyond_the_limit_goes_by_the_socket() -> None:
    """While the only available segment is leased, the next payload uses the socket; later payloads use it again."""
    with sides(limit=MEGABYTE) as (here, there):
        content = bytes(range(256)) * 4096
        assert len(here.send(content)) == 1
        _, leased = there.receive(here)
        assert here.send(content) == []
        assert bytes(there.receive(here)[1][0]) == content
        assert mapped() == 2  # the first alone, on both sides
        assert leased[0] == content
        del leased
        there.notify(there.codec.releases(), here)
        assert here.send(content) == []
        assert bytes(there.receive(here)[1][0]) == content
        assert mapped() == 2


@HAS_SEGMENTS
def test_a_segment_is_used_again_without_its_descriptor() -> None:
    """Once the receiver's releases mark a segment as free, the next payload reuses it without a descriptor."""
    with sides() as (here, there):
        for number in range(5):
            content = random.Random(number).randbytes(MEGABYTE)
            assert len(here.send(content)) == (number == 0)
            _, parts = there.receive(here)
            assert parts == [content]
            del parts
            there.notify(there.codec.releases(), here)
        assert here.received == [FrameType.FREED] * 5
        assert mapped() == 2


@HAS_SEGMENTS
def test_a_leased_segment_is_not_released() -> None:
    """A segment that is still leased is neither released nor overwritten."""
    with sides() as (here, there):
        here.send(b"1" * MEGABYTE)
        _, held = there.receive(here)
        assert there.codec.releases() == []
        here.send(b"2" * MEGABYTE)
        _, others = there.receive(here)
        assert (held, others) == ([b"1" * MEGABYTE], [b"2" * MEGABYTE])
        del held
        assert len(there.codec.releases()) == 1
        assert there.codec.releases() == []
        del others


@HAS_SEGMENTS
def test_trimming_releases_everything() -> None:
    """When both sides have trimmed and been notified, free segments, their descriptors and mappings are gone."""
    with sides() as (here, there):
        here.send(bytes(MEGABYTE))
        there.send(there.receive(here)[1][0])
        here.receive(there)
        assert mapped() == 4
        there.notify(there.codec.releases(), here)
        here.notify(here.codec.trim(), there)
        there.notify(there.codec.trim(), here)
        assert there.received == [FrameType.FREED, FrameType.CLOSED]
        assert here.received == [FrameType.FREED, FrameType.CLOSED]
        assert not here.codec.in_use
        assert not there.codec.in_use
        assert mapped() == segments() == 0


@HAS_SEGMENTS
def test_trimming_keeps_leased_segments() -> None:
    """Received values stay valid, and their segment stays in use until they are released and it is trimmed again."""
    with sides() as (here, there):
        here.send(b"x" * MEGABYTE)
        _, parts = there.receive(here)
        assert here.codec.trim() == []
        assert here.codec.in_use
        assert there.codec.in_use
        assert parts == [b"x" * MEGABYTE]
        del parts
        there.notify(there.codec.trim(), here)
        here.notify(here.codec.trim(), there)
        assert not here.codec.in_use
        assert not there.codec.in_use


@HAS_SEGMENTS
def test_received_values_outlive_both_sides() -> None:
    """A payload stays valid when sender and receiver are closed."""
    with sides() as (here, there):
        here.send(b"x" * MEGABYTE)
        _, parts = there.receive(here)
    assert parts == [b"x" * MEGABYTE]
    del parts
    assert mapped() == 0


@HAS_SEGMENTS
def test_a_segment_whose_descriptor_is_lost_is_retired() -> None:
    """A receiver that runs out of descriptors reports it; the sender closes the segment, and the next one works."""
    program = f"""
    import os, resource, socket, sys
    from executors._wire.channel import BlockingChannel
    from executors._wire.frames import FrameType
    from executors._wire.payloads import PayloadCodec

    ours, theirs = map(BlockingChannel, socket.socketpair(type=socket.SOCK_SEQPACKET))
    here, there = PayloadCodec({PLENTY}), PayloadCodec({PLENTY})

    def send():
        frames, descriptors = here.encode(FrameType.JOB, [bytes({MEGABYTE})], 1)
        ours.send(frames, descriptors)

    def receive():
        kind, _, _, body = theirs.receive()
        return there.decode(kind, body, theirs.descriptors)

    send()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, limits[1]), limits[1]))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    try:
        receive()
    except OSError as error:
        print("came without its descriptor" in str(error))
    for fd in taken:
        os.close(fd)
    theirs.send(there.releases())
    kind, _, _, body = ours.receive()
    print(kind == FrameType.RETIRED)
    here.on_release(kind, body)
    print(not here.in_use and not there.in_use)
    send()
    print(receive()[1] == [bytes({MEGABYTE})])
    """
    assert output_of(program) == ["True"] * 4


@pytest.mark.parametrize("limit", [0, 10**9], ids=["socket", "segment"])
def test_a_part_in_pieces(limit: int) -> None:
    """A part passed in pieces arrives as one, through a segment and through the socket."""
    ours, theirs = PayloadCodec(limit), PayloadCodec(limit)
    pieces = [bytes([number]) * 100_000 for number in range(5)]
    for parts in ([Pieces(list(pieces))], [Pieces(list(pieces)), b"b" * 50_000]):
        encoded, descriptors = ours.encode(FrameType.JOB, parts, 1)
        kind, _, _, length = HEADER.unpack_from(data := b"".join(encoded))
        assert len(data) == HEADER.size + length
        received = deque(map(os.dup, descriptors))
        decoded_kind, found = theirs.decode(kind, data[HEADER.size :], received)
        assert decoded_kind == FrameType.JOB
        assert [bytes(part) for part in found] == [b"".join(pieces), *parts[1:]]
        del found
    part = Pieces(list(pieces))
    part.free()
    assert part.pieces == []
    ours.close()
    theirs.close()
