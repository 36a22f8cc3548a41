"""Values in shared memory are handed out in place, and not overwritten while anything refers to them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from shared_memory import mapped, output_of

from executors._wire.leases import Leases
from executors._wire.segments import Placed, Segments

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the system has no memfd"),
    pytest.mark.usefixtures("no_garbage"),  # values that other tests have left in cycles are mapped
]

SIZE = 100_000


class Sides:
    """A sender and a receiver in one process."""

    def __init__(self) -> None:
        self.segments = Segments(64 * 1024 * 1024)
        self.leases = Leases()

    def place(self, *parts: bytes) -> tuple[Placed, int | None]:
        """Place parts; return the references to send, and the descriptor."""
        placed = self.segments.place(parts)
        assert placed is not None
        return placed, None if placed.fd is None else os.dup(placed.fd)

    def send(self, *parts: bytes) -> tuple[int, list[memoryview]]:
        """Send parts; return the segment's id, and the received parts."""
        self.segments.free(self.leases.released())
        placed, fd = self.place(*parts)
        return placed.segment, self.leases.lease(placed, fd)


@pytest.fixture
def sides() -> Iterator[Sides]:
    """A sender and a receiver, which must leave nothing mapped."""
    sides = Sides()
    yield sides
    sides.segments.close()
    sides.leases.close()
    assert mapped() == 0


def content(letter: str) -> bytes:
    return letter.encode() * SIZE


def test_a_lease_ends_with_its_last_slice(sides: Sides) -> None:
    """A slice of a slice of a part keeps the segment and its content; other payloads use another segment."""
    first, parts = sides.send(content("a"), content("b"))
    kept = parts[1][10:1000].toreadonly()[5:15:2]
    del parts
    assert sides.leases.released() == []
    second, others = sides.send(content("c"), content("d"))
    assert second != first
    assert kept == b"b" * 5
    del others
    assert sides.leases.released() == [second]
    del kept
    assert sides.leases.released() == [first]
    assert sides.leases.released() == []


def test_leases_of_one_segment_in_turn(sides: Sides) -> None:
    """A segment is leased and released again and again, and mapped once on each side."""
    ids = set()
    for letter in "abcdef":
        segment, parts = sides.send(content(letter))
        assert parts == [content(letter)]
        ids.add(segment)
        del parts
    assert len(ids) == 1
    assert mapped() == 2


def test_parts_are_writable(sides: Sides) -> None:
    """The receiver may change a received part; the next payload in the segment does not show the change."""
    first, parts = sides.send(content("a"), content("b"))
    parts[0][:] = content("z")
    assert parts == [content("z"), content("b")]
    del parts
    second, parts = sides.send(content("c"), content("d"))
    assert second == first
    assert parts == [content("c"), content("d")]


def test_empty_parts_hold_nothing(sides: Sides) -> None:
    """An empty part, or a payload without parts, needs no segment."""
    segment, parts = sides.send(b"", content("a"), b"")
    empty = parts[0], parts[2]
    del parts
    assert sides.leases.released() == [segment]
    assert empty == (b"", b"")
    segment, parts = sides.send()
    assert (parts, sides.leases.released()) == ([], [segment])


def test_released_in_another_thread(sides: Sides) -> None:
    """Any thread may drop the last reference."""
    segment, parts = sides.send(content("a"))
    thread = threading.Thread(target=parts.clear)
    thread.start()
    thread.join()
    assert sides.leases.released() == [segment]


# --- the end ----------------------------------------------------------------------------------------------


def test_trimmed_segments_are_unmapped(sides: Sides) -> None:
    """A segment that the sender has trimmed is unmapped by the receiver, too."""
    segment, parts = sides.send(content("a"))
    del parts
    sides.segments.free(sides.leases.released())
    trimmed = sides.segments.trim()
    assert (trimmed, mapped()) == ([segment], 1)
    sides.leases.forget([*trimmed, 12345])
    assert mapped() == 0


def test_leased_parts_outlive_both_sides(sides: Sides) -> None:
    """Parts stay valid when both sides are closed, and are unmapped when they are released."""
    _, parts = sides.send(content("a"), content("b"))
    kept = parts[1][1:]
    del parts
    sides.segments.close()
    sides.leases.close()
    sides.leases.close()
    assert kept == content("b")[1:]
    assert mapped() == 1
    del kept
    assert (mapped(), sides.leases.released()) == (0, [])


# --- failures ---------------------------------------------------------------------------------------------


def test_a_lost_descriptor(sides: Sides) -> None:
    """The error names the lost descriptor, and the sender is notified that the segment is unusable."""
    placed, fd = sides.place(content("a"))
    assert fd is not None
    os.close(fd)  # as the system does for a process that may open no more
    with pytest.raises(OSError, match=f"segment {placed.segment} came without its descriptor"):
        sides.leases.lease(placed, None)
    assert sides.leases.released() == []
    retired = sides.leases.retired()
    assert (retired, sides.leases.retired()) == ([placed.segment], [])
    sides.segments.retire(retired)
    _, parts = sides.send(content("b"))
    assert parts == [content("b")]


def test_no_address_space() -> None:
    """A segment that can't be mapped is an error, not a crash; its descriptor is closed, and the sender is notified."""
    output_of("""
        import mmap, os, resource
        from executors._wire.leases import Leases
        from executors._wire.segments import Segments

        segments, leases = Segments(2**30), Leases()
        placed = segments.place([bytes(60 * 2**20)])
        before = os.listdir("/proc/self/fd")
        fd = os.dup(placed.fd)
        used = int(open("/proc/self/statm").read().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (used + 40 * 2**20, resource.RLIM_INFINITY))
        try:
            leases.lease(placed, fd)
        except OSError:
            assert leases.retired() == [placed.segment]
        else:
            raise AssertionError
        assert os.listdir("/proc/self/fd") == before
    """)


def test_a_fork() -> None:
    """A segment that a forked child may use is never written again: it is retired, while others are reused."""
    output_of("""
        import os
        from executors._wire.leases import Leases
        from executors._wire.segments import Segments

        segments, leases = Segments(2**30), Leases()
        first, before = segments.place([bytes(100_000)]), segments.place([b"b" * 100_000])
        parts = leases.lease(before, os.dup(before.fd))
        del parts
        assert leases.released() == [before.segment]
        segments.free([before.segment])
        parts = leases.lease(first, os.dup(first.fd))
        theirs, ours = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(theirs, 1)
            os._exit(0 if parts == [bytes(100_000)] else 1)
        del parts
        segments.free(leases.released())
        retired = leases.retired()
        segments.retire(retired)
        again = [segments.place([b"c" * 100_000]) for _ in range(2)]
        os.write(ours, b"x")
        assert os.waitpid(child, 0)[1] == 0
        assert retired == [first.segment]
        assert again[0].segment == before.segment
        assert again[1].fd is not None

        os.waitpid(os.fork() or os._exit(0), 0)  # nothing is leased
        parts = leases.lease(again[1], os.dup(again[1].fd))
        del parts
        assert (leases.released(), leases.retired()) == ([again[1].segment], [])
        del leases
        os.waitpid(os.fork() or os._exit(0), 0)
    """)
