"""Large payloads through shared memory: they arrive, segments are reused, and shortage is handled."""

from __future__ import annotations

import ctypes
import os
import random
import threading
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_memory import Echo, mapped, output_of

from executors._wire import memory
from executors._wire import segments as module
from executors._wire.leases import Leases
from executors._wire.memory import shared_limit
from executors._wire.segments import MIN_SIZE, Placed, Segments

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the system has no memfd"),
    pytest.mark.usefixtures("no_garbage"),  # values that other tests have left in cycles are mapped
]

MEGABYTE = 1024 * 1024
SIZES = st.one_of(
    st.sampled_from([0, 1, 63, 64, 65, MIN_SIZE, MEGABYTE - 1, MEGABYTE, MEGABYTE + 1]), st.integers(0, 3 * MEGABYTE)
)
KINDS = {
    "bytes": bytes,
    "bytearray": bytearray,
    "part of bytes": lambda data: memoryview(b"head" + data)[4:],
    "part of bytearray": lambda data: memoryview(bytearray(data + b"tail"))[: len(data)],
    "all of bytes": memoryview,
}


@pytest.fixture
def peer() -> Iterator[Echo]:
    """Another process, which must exit cleanly."""
    peer = Echo()
    yield peer
    peer.close()
    assert peer.process.returncode == 0


@pytest.fixture
def sender() -> Iterator[Segments]:
    """A sender with a limit of 64 MB."""
    sender = Segments(64 * MEGABYTE)
    yield sender
    sender.close()
    assert mapped() == sender.held == 0


def place(sender: Segments, size: int) -> Placed:
    placed = sender.place([bytes(size)])
    assert placed is not None
    return placed


# --- there and back ---------------------------------------------------------------------------------------


def test_whatever_is_sent_comes_back(peer: Echo) -> None:
    """Parts of any size and kind arrive in another process and return unchanged."""

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.tuples(SIZES, st.sampled_from(sorted(KINDS))), max_size=5))
    def check(shapes: list[tuple[int, str]]) -> None:
        contents = [random.Random(size).randbytes(size) for size, _ in shapes]
        peer.send([KINDS[kind](content) for content, (_, kind) in zip(contents, shapes, strict=True)])
        _, parts = peer.receive()
        assert [bytes(part) for part in parts] == contents

    check()


def test_segments_are_used_again(peer: Echo) -> None:
    """The second payload of a size reuses the segments of the first, both ways, without descriptors."""
    first = peer.send([bytes(5_000_000)])
    first_back = peer.receive()[0]
    second = peer.send([b"x" * 4_900_000, b"y"])
    second_back, parts = peer.receive()
    assert first.fd is not None
    assert (second.segment, second.fd, second_back.segment) == (first.segment, None, first_back.segment)
    assert parts == [b"x" * 4_900_000, b"y"]
    assert peer.segments.held == first.size


def test_payloads_of_a_dead_process() -> None:
    """When the other side is killed, received values stay until they are released; nothing else is left."""
    peer = Echo()
    peer.send([b"x" * MIN_SIZE])
    _, parts = peer.receive()
    peer.send([b"y" * MEGABYTE])
    peer.process.kill()
    peer.close()
    assert parts == [b"x" * MIN_SIZE]
    assert mapped() == 1
    del parts
    assert mapped() == 0


def test_parts_of_other_formats(sender: Segments) -> None:
    """Arrays of numbers, several dimensions, and empty ones are sent as their bytes."""
    numbers = array("d", range(200_000))
    table = memoryview(bytes(range(12))).cast("B", (3, 4))
    empty = memoryview(((ctypes.c_int * 3) * 0)())
    placed = sender.place([memoryview(numbers), table, empty, memoryview(numbers).toreadonly()])
    assert placed is not None
    parts = Leases().lease(placed, os.dup(placed.fd or -1))
    assert parts == [numbers.tobytes(), table.tobytes(), b"", numbers.tobytes()]
    addresses = [offset % 64 for offset in module.offsets_of(placed.lengths)]
    assert addresses == [0] * 5


def test_a_segment_keeps_its_size(sender: Segments) -> None:
    """Nobody can truncate a segment in use, and all its memory is allocated before it is written."""
    placed = place(sender, MEGABYTE - 100_000)
    assert placed.fd is not None
    for size in (0, 2 * placed.size):
        with pytest.raises(PermissionError):
            os.ftruncate(placed.fd, size)
    assert os.fstat(placed.fd).st_blocks * 512 >= placed.size == MEGABYTE


# --- which segment ----------------------------------------------------------------------------------------


def test_the_smallest_that_fits_is_taken(sender: Segments) -> None:
    """Of the free ones; a small payload does not take a large segment, as it may be held for long."""
    sizes = [4 * MEGABYTE, MEGABYTE, 2 * MEGABYTE]
    ids = [place(sender, size).segment for size in sizes]
    sender.free(ids)
    assert place(sender, 900_000).segment == ids[1]
    assert place(sender, 900_000).segment == ids[2]
    assert place(sender, 900_000).segment not in ids
    assert place(sender, 1_100_000).segment == ids[0]
    assert place(sender, 100).size == MIN_SIZE


@settings(max_examples=200)
@given(st.integers(0, 2**40))
def test_few_sizes(needed: int) -> None:
    """A new segment is at most a quarter larger than needed, with a minimum; sizes recur."""
    size = module._rounded(needed)
    assert max(needed, MIN_SIZE) <= size <= max(needed * 1.25, needed + MIN_SIZE)
    assert module._rounded(size) == size


def test_the_limit(sender: Segments) -> None:
    """Beyond the limit there is no segment until free ones are closed or the other side releases some."""
    large, small = place(sender, 48 * MEGABYTE), place(sender, MEGABYTE)
    assert sender.held == large.size + small.size
    assert sender.place([bytes(32 * MEGABYTE)]) is None
    assert sender.trim() == []
    sender.free([large.segment, 12345])
    assert sender.place([bytes(56 * MEGABYTE)]) is None
    assert sender.trim() == [large.segment]
    assert (sender.held, mapped()) == (small.size, 1)
    assert place(sender, 56 * MEGABYTE).fd is not None


def test_the_number_is_limited() -> None:
    """Even small segments do not use up the descriptors."""
    sender = Segments(1024 * MEGABYTE)
    placed = [sender.place([bytes(100)]) for _ in range(100)]
    assert len([each for each in placed if each]) == mapped() == 16
    sender.close()


def test_a_payload_that_was_not_sent(sender: Segments) -> None:
    """Its segment, which the other side doesn't know, is closed: the next payload travels with a descriptor."""
    unsent = place(sender, MEGABYTE)
    sender.retire([unsent.segment])
    assert sender.held == 0
    again = place(sender, MEGABYTE)
    assert again.segment != unsent.segment
    assert again.fd is not None


# --- none can be had --------------------------------------------------------------------------------------


def test_closed() -> None:
    """A closed sender places nothing more, and may be closed again."""
    sender = Segments(64 * MEGABYTE)
    sender.free([place(sender, MEGABYTE).segment])
    place(sender, MEGABYTE)
    sender.close()
    sender.close()
    assert (sender.held, mapped(), sender.place([b"x"])) == (0, 0, None)


def test_closed_while_placing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part being written when the sender is closed is closed afterwards, and is not sent."""
    sender, writing, closed, outcome = Segments(64 * MEGABYTE), threading.Event(), threading.Event(), []
    write = module._Segment.write

    def slowly(*args: Any) -> None:
        writing.set()
        closed.wait()
        write(*args)

    monkeypatch.setattr(module._Segment, "write", slowly)
    thread = threading.Thread(target=lambda: outcome.append(sender.place([bytes(MEGABYTE)])))
    thread.start()
    writing.wait()
    sender.close()
    closed.set()
    thread.join()
    assert (outcome, mapped()) == ([None], 0)


def test_a_part_that_is_not_contiguous(sender: Segments) -> None:
    """Such a part is refused before a segment is taken."""
    with pytest.raises(TypeError):
        sender.place([bytes(10), memoryview(bytes(10))[::2]])
    assert sender.held == 0


@pytest.mark.parametrize(
    ("resource", "limit"),
    [("RLIMIT_AS", "used + 40 * 2**20"), ("RLIMIT_FSIZE", "2**20"), ("RLIMIT_NOFILE", "free_fd")],
)
def test_shortage_of_resources(resource: str, limit: str) -> None:
    """Without address space, memory for the pages, or a descriptor, there is no segment, and nothing is left."""
    output = output_of(f"""
        import ctypes, fcntl, mmap, os, resource
        from executors._wire.segments import Segments

        sender = Segments(2**30)
        first = sender.place([bytes(2**20)])
        part = bytes(60 * 2**20)
        used = int(open("/proc/self/statm").read().split()[0]) * mmap.PAGESIZE
        free_fd = os.dup(0)
        os.close(free_fd)
        before = os.listdir("/proc/self/fd")
        allowed = resource.getrlimit(resource.{resource})
        resource.setrlimit(resource.{resource}, ({limit}, allowed[1]))
        print(sender.place([part]), sender.held == first.size)
        resource.setrlimit(resource.{resource}, allowed)
        print(os.listdir("/proc/self/fd") == before, sender.place([part]) is not None)
    """)
    assert output == ["None", "True", "True", "True"]


def test_files_have_become_too_large() -> None:
    """An old segment that can't be written to its end any more is kept for a payload that fits."""
    output = output_of("""
        import resource
        from executors._wire.segments import Segments

        sender, part = Segments(2**30), memoryview(bytes(3 * 2**20))[1:]
        old = sender.place([part])
        sender.free([old.segment])
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))
        print(sender.place([part]), sender.held == old.size, sender.place([bytes(2**20)]).segment == old.segment)
    """)
    assert output == ["None", "True", "True"]


def test_memory_is_short(sender: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new segment must leave as much memory available as it takes; an existing one can be used anyway."""
    first = place(sender, MEGABYTE)
    sender.free([first.segment])
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * MEGABYTE - 1)
    assert place(sender, MEGABYTE).segment == first.segment
    assert sender.place([bytes(MEGABYTE)]) is None
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * MEGABYTE)
    assert place(sender, MEGABYTE).fd is not None


def test_a_system_without_memfd(sender: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every payload uses the socket."""
    assert shared_limit(1) > 0
    monkeypatch.delattr(os, "memfd_create")
    assert sender.place([bytes(MEGABYTE)]) is None
    assert shared_limit(1) == 0


def test_what_each_side_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sides together use at most a quarter of the memory available, and each at most 1 GiB."""
    monkeypatch.setattr(memory, "available_memory", lambda: 8 * 1024 * MEGABYTE)
    assert [shared_limit(workers) // MEGABYTE for workers in (0, 1, 2, 8)] == [1024, 1024, 512, 128]
    monkeypatch.setattr(memory, "available_memory", lambda: 100 * 1024 * MEGABYTE)
    assert shared_limit(1) == 1024 * MEGABYTE


def test_importing_loads_nothing_large() -> None:
    """A worker without large payloads does not import the modules that map and copy them."""
    output = output_of("""
        import sys, executors._wire.leases
        print(*{"ctypes", "fcntl", "mmap"} & {*sys.modules}, "end")
    """)
    assert output == ["end"]
