"""Records of progress: what is written is read, and what a task may write instead is ignored."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from mmap import mmap

import pytest

from executors._wire import entered_task, progress

NOW = time.monotonic()
REPORTS = [(0.0, None, None), (3.0, 10.0, "rows"), (-1.5, 0.0, ""), (1e300, None, "Zeile 7: äöü 🎉" * 13)]


@pytest.mark.parametrize(("done", "total", "message"), REPORTS)
def test_record(done: float, total: float | None, message: str | None) -> None:
    """A report comes back from its record, with anything behind it."""
    record = progress.dump(7, NOW, done, total, message and message[: progress.MAX_MESSAGE])
    expected = (NOW, done, total, message and message[: progress.MAX_MESSAGE])
    assert progress.load(record, 7) == expected
    assert progress.load(record + b"the rest of a longer one", 7) == expected
    assert len(record) <= progress.SIZE


def test_message_without_utf8() -> None:
    """A lone surrogate, which UTF-8 does not have, is replaced."""
    assert progress.load(progress.dump(7, NOW, 1, None, "a\ud800b"), 7) == (NOW, 1.0, None, "a?b")


def test_what_is_ignored() -> None:
    """The record of another task, half a record, and values that no task can report are ignored."""
    record = progress.dump(7, NOW, 3.0, 10.0, "rows")
    assert progress.load(record, 8) is None
    assert progress.load(b"", 7) is None
    for size in range(len(record)):
        assert progress.load(record[:size], 7) is None
    other = progress.dump(7, NOW, 4.0, 11.0, "cols")
    for size in range(1, len(record)):
        torn = record[:size] + other[size:]
        assert torn in (record, other) or progress.load(torn, 7) is None
    for number in (math.nan, math.inf, -math.inf):
        assert progress.load(progress.dump(7, NOW, number, None, None), 7) is None
        assert progress.load(progress.dump(7, number, 1.0, None, None), 7) is None
        assert progress.load(progress.dump(7, NOW, 1.0, number, None), 7) == (NOW, 1.0, None, None)


class Undecodable(str):
    def encode(self, *_: object) -> bytes:
        """Return what is not UTF-8."""
        return b"\xff\xfe"


def test_message_is_checked() -> None:
    """A message that is not UTF-8 is ignored with its record; one that is too long is cut."""
    assert progress.load(progress.dump(7, NOW, 1, None, Undecodable()), 7) is None
    reported = progress.load(progress.dump(7, NOW, 1, None, "x" * 1000), 7)
    assert reported is not None
    assert reported[3] == "x" * progress.MAX_MESSAGE


def test_report_from_the_future() -> None:
    """The time of a report can't be later than now: it would keep a task alive that reports nothing more."""
    reported = progress.load(progress.dump(7, NOW + 1e6, 1, None, None), 7)
    assert reported is not None
    assert NOW <= reported[0] <= time.monotonic()


WRITER = """
import sys, time
from mmap import mmap
from executors._wire import progress
with open(sys.argv[1], "r+b") as file:
    mapping = mmap(file.fileno(), progress.SIZE)
number = 0
end = time.monotonic() + 1.0
while time.monotonic() < end:
    number += 1
    message = str(number) * (1 + number % 12)
    record = progress.dump(7, 1.0, float(number), float(number), message)
    mapping[: len(record)] = record
"""


def test_reader_beside_a_writer() -> None:
    """While another process writes as fast as it can, each report that is read is one that it has written."""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(progress.SIZE)
        with subprocess.Popen([sys.executable, "-c", WRITER, file.name]) as writer:
            reports, last = 0, 0.0
            while writer.poll() is None:
                reported = progress.read(file.fileno(), 0, 7)
                if reported is not None:
                    _, done, total, message = reported
                    assert done == total
                    assert message == str(int(done)) * int(1 + done % 12)
                    assert done >= last
                    reports, last = reports + (done > last), done
        assert writer.returncode == 0
        assert reports > 10


def test_memory_of_a_worker() -> None:
    """Id and progress share one memory, to which only the worker's mapping can write."""
    with entered_task.memory_file() as file:
        mapping: mmap = entered_task.map_to_write(file.fileno())
        assert entered_task.read_progress(file.fileno(), 7) is None
        record = progress.dump(7, NOW, 3.0, None, "x" * progress.MAX_MESSAGE)
        mapping[:8] = (7).to_bytes(8, "little")
        mapping[entered_task.PROGRESS : entered_task.PROGRESS + len(record)] = record
        assert entered_task.read_id(file.fileno()) == 7
        assert entered_task.read_progress(file.fileno(), 7) == (NOW, 3.0, None, "x" * progress.MAX_MESSAGE)
        if hasattr(os, "memfd_create"):
            with pytest.raises(PermissionError):
                os.pwrite(file.fileno(), b"x", entered_task.PROGRESS)
        mapping.close()
