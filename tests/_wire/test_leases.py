"""What lies in shared memory is handed out where it lies, and never written again while anybody has it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from shared_memory import mapped, output_of

from executors._wire.leases import Leases
from executors._wire.segments import Placed, Segments

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the system has no memfd")

SIZE = 100_000


class Sides:
    """A sender and a receiver in one process."""

    def __init__(self) -> None:
        self.segments = Segments(64 * 1024 * 1024)
        self.leases = Leases()

    def place(self, *parts: bytes) -> tuple[Placed, int | None]:
        """Place parts; return what is told, and the descriptor that arrives."""
        placed = self.segments.place(parts)
        assert placed is not None
        return placed, None if placed.fd is None else os.dup(placed.fd)

    def send(self, *parts: bytes) -> tuple[int, list[memoryview]]:
        """Let parts travel; return the segment's id, and what arrives."""
        self.segments.free(self.leases.released())
        placed, fd = self.place(*parts)
        return placed.segment, self.leases.lease(placed, fd)


@pytest.fixture
def sides() -> Iterator[Sides]:
    """A sender and a receiver, of which nothing may be left mapped."""
    sides = Sides()
    yield sides
    sides.segments.close()
    sides.leases.close()
    assert mapped() == 0


def content(letter: str) -> bytes:
    return letter.encode() * SIZE


def test_a_lease_ends_with_the_last_that_was_made_from_it(sides: Sides) -> None:
    """A slice of a slice of one part keeps the segment, and what it shows; other payloads take another."""
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
    """A segment is leased and let go again and again, and mapped once on each side."""
    ids = set()
    for letter in "abcdef":
        segment, parts = sides.send(content(letter))
        assert parts == [content(letter)]
        ids.add(segment)
        del parts
    assert len(ids) == 1
    assert mapped() == 2


def test_parts_are_writable(sides: Sides) -> None:
    """The receiver may change what it has, as if it were its own; the next payload doesn't show it."""
    first, parts = sides.send(content("a"), content("b"))
    parts[0][:] = content("z")
    assert parts == [content("z"), content("b")]
    del parts
    second, parts = sides.send(content("c"), content("d"))
    assert second == first
    assert parts == [content("c"), content("d")]


def test_empty_parts_hold_nothing(sides: Sides) -> None:
    """What has no bytes needs no segment, nor does a payload without parts."""
    segment, parts = sides.send(b"", content("a"), b"")
    empty = parts[0], parts[2]
    del parts
    assert sides.leases.released() == [segment]
    assert empty == (b"", b"")
    segment, parts = sides.send()
    assert (parts, sides.leases.released()) == ([], [segment])


def test_let_go_in_another_thread(sides: Sides) -> None:
    """It doesn't matter which thread has the last of it."""
    segment, parts = sides.send(content("a"))
    thread = threading.Thread(target=parts.clear)
    thread.start()
    thread.join()
    assert sides.leases.released() == [segment]


# --- the end ----------------------------------------------------------------------------------------------


def test_what_the_sender_closed_is_forgotten(sides: Sides) -> None:
    """A segment that the sender has trimmed is unmapped here, too."""
    segment, parts = sides.send(content("a"))
    del parts
    sides.segments.free(sides.leases.released())
    trimmed = sides.segments.trim()
    assert (trimmed, mapped()) == ([segment], 1)
    sides.leases.forget([*trimmed, 12345])
    assert mapped() == 0


def test_what_is_held_outlives_both_sides(sides: Sides) -> None:
    """When both sides are closed, what is held stays as it is, and is unmapped when it is let go."""
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


def test_a_descriptor_got_lost(sides: Sides) -> None:
    """An error says so, and the sender hears that the segment can't be used."""
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
    """A segment that can't be mapped is an error, not a death; its descriptor is closed, and the sender hears of it."""
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
    """What a child may have is never written again: its segment is retired, while others are used on."""
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
