"""Pickling across the process boundary: what fails, fails alone, with an error that names it."""

from __future__ import annotations

import marshal
import math
import pickle
import random
import sys
import threading
import traceback
from typing import Any

import anyio
import pytest
import worker_tasks as tasks
from loops import ON_ASYNCIO
from pool_tasks import Block

from executors import Executor, SerializationError
from executors._wire import exceptions, pickling

pytestmark = pytest.mark.anyio

MEGABYTE = 1024 * 1024


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Pickling is the same on every loop."""
    return "asyncio", {}


@pytest.fixture
async def cpu():
    """One worker, which must still be the same one in the end: no failure here may cost it."""
    async with Executor(threads=1, processes=1) as executor:
        bound = executor.options(tag="cpu")
        worker = await bound.run(tasks.pid)
        yield bound
        assert await bound.run(tasks.pid) == worker


async def error_of(bound, *call) -> BaseException:
    handle = bound.submit(*call)
    await handle.wait()
    error = handle.exception()
    assert error is not None
    return error


# --- errors of tasks --------------------------------------------------------------------------------------


async def test_an_error_keeps_its_attributes(cpu) -> None:
    """Type, attributes, message, notes, cause and the worker's traceback arrive."""
    error = await error_of(cpu, tasks.raise_richly)
    assert type(error) is tasks.TwoArgumentsError
    assert (error.code, str(error)) == (7, "no luck (7)")
    assert type(error.__cause__) is KeyError
    assert error.__notes__[0] == "a note of the task"
    text = "".join(traceback.format_exception(error))
    assert "Traceback in worker process" in text
    assert "in raise_richly\n    raise failure from error" in text
    assert '{}["missing"]' in text
    assert "backends/process/worker.py" not in text


async def test_an_error_keeps_its_context(cpu) -> None:
    """The error's context arrives as well."""
    error = await error_of(cpu, tasks.raise_while_handling)
    assert repr(error) == "ValueError('second')"
    assert repr(error.__context__) == "KeyError('missing')"
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("factory", "args", "text"),
    [
        (tasks.TwoArgumentsError, (1, "two"), "two (1)"),
        (tasks.PrefixingError, ("thing",), "no thing"),
        (FileNotFoundError, (2, "No such file", "name"), "[Errno 2] No such file: 'name'"),
        (
            UnicodeDecodeError,
            ("utf-8", b"\xff", 0, 1, "bad"),
            "'utf-8' codec can't decode byte 0xff in position 0: bad",
        ),
        (ExceptionGroup, ("group", [ValueError(1), TypeError(2)]), "group (2 sub-exceptions)"),
    ],
)
async def test_errors_of_all_kinds_come_back_unchanged(cpu, factory, args, text) -> None:
    """Whatever its `__init__` does, an exception has the same message in both processes."""
    error = await error_of(cpu, tasks.raise_it, factory, *args)
    assert type(error) is factory
    assert str(error) == text


async def test_an_error_that_cannot_be_pickled(cpu) -> None:
    """It fails its task with an error that shows the original and its traceback."""
    error = await error_of(cpu, tasks.raise_it, tasks.LockedError)
    assert isinstance(error, SerializationError)
    assert "worker_tasks.LockedError: locked" in str(error)
    assert "in raise_it" in str(error)


async def test_an_error_that_cannot_be_unpickled(cpu) -> None:
    """It fails its task with an error that has the error of unpickling."""
    error = await error_of(cpu, tasks.raise_it, tasks.ExplosiveError)
    assert isinstance(error, SerializationError)
    assert "unpickled elsewhere" in str(error)


async def test_a_long_chain_of_errors(cpu) -> None:
    """A chain of hundreds of causes arrives shortened, and quickly."""
    error = await error_of(cpu, tasks.raise_chain, 300)
    assert str(error) == "299"
    assert str(error.__cause__) == "298"


async def test_tangled_chains_of_errors(cpu) -> None:
    """Causes and contexts that refer to each other neither hang nor crash the worker."""
    with anyio.fail_after(20):
        error = await error_of(cpu, tasks.raise_tangle, 100)
    assert str(error) == "99"


# --- arguments and results --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TypeError, ValueError, SystemExit, KeyboardInterrupt, RecursionError])
async def test_an_argument_that_refuses_to_be_pickled(cpu, kind) -> None:
    """Whatever its `__reduce__` raises, the task fails alone, and the error names the argument and its type."""
    error = await error_of(cpu, tasks.identity, tasks.Stubborn(kind))
    assert isinstance(error, SerializationError)
    assert "argument 1" in str(error)
    assert "Stubborn" in str(error)
    assert kind.__name__ in str(error)


async def test_the_unpicklable_argument_is_named(cpu) -> None:
    """Of several arguments the error names the one that fails, by position or keyword."""
    handle = cpu.submit(tasks.identity, 1, threading.Lock())
    await handle.wait()
    assert "argument 2: a lock can't be pickled" in str(handle.exception())
    handle = cpu.submit(tasks.identity, value=threading.Lock())
    await handle.wait()
    assert "argument 'value'" in str(handle.exception())
    handle = cpu.submit(threading.Lock().acquire)
    await handle.wait()
    assert "the function: a " in str(handle.exception())


@pytest.mark.parametrize("kind", [TypeError, ValueError, SystemExit, KeyboardInterrupt])
async def test_a_result_that_refuses_to_be_pickled(cpu, kind) -> None:
    """The same for a result, whose type the error names."""
    error = await error_of(cpu, tasks.make, tasks.Stubborn, kind)
    assert isinstance(error, SerializationError)
    assert "the result can't be sent back: a Stubborn" in str(error)
    assert kind.__name__ in str(error)


async def test_lambdas_and_closures(cpu) -> None:
    """They travel by value, as functions, arguments and results."""
    offset = 10
    assert await cpu.run(lambda x: x + offset, 5) == 15
    assert await cpu.run(tasks.call, lambda: offset) == 10
    function = await cpu.run(tasks.make_adder, 3)
    assert function(4) == 7


# --- sizes ------------------------------------------------------------------------------------------------


async def test_too_large_payloads() -> None:
    """More than `max_payload` bytes fail the task with a clear error, both ways; a little less is accepted."""
    async with Executor(threads=1, processes=1, max_payload=MEGABYTE) as executor:
        cpu = executor.options(tag="cpu")
        worker = await cpu.run(tasks.pid)
        there = await error_of(cpu, tasks.length, "x" * MEGABYTE)
        back = await error_of(cpu, tasks.make_text, MEGABYTE)
        assert isinstance(there, SerializationError)
        assert isinstance(back, SerializationError)
        assert f"{MEGABYTE} bytes allowed" in str(there)
        assert "EXECUTOR_MAX_PAYLOAD" in str(there)
        assert f"{MEGABYTE} bytes allowed" in str(back)
        assert await cpu.run(tasks.length, "x" * (MEGABYTE - 1000)) == MEGABYTE - 1000
        assert len(await cpu.run(tasks.make_text, MEGABYTE - 1000)) == MEGABYTE - 1000
        assert await cpu.run(tasks.pid) == worker


async def test_a_payload_limit_below_what_goes_inline() -> None:
    """A limit below the size that is pickled on the loop is enforced too."""
    async with Executor(threads=1, processes=1, max_payload=1000) as executor:
        cpu = executor.options(tag="cpu")
        assert isinstance(await error_of(cpu, tasks.length, "x" * 1000), SerializationError)
        assert await cpu.run(tasks.length, "x" * 500) == 500


async def test_an_error_too_large_to_send(cpu) -> None:
    """An exception with a huge message fails its task, with only a part of the message."""
    async with Executor(threads=1, processes=1, max_payload=10_000) as executor:
        error = await error_of(executor.options(tag="cpu"), tasks.raise_it_large, 5 * MEGABYTE)
    assert isinstance(error, SerializationError)
    assert len(str(error)) < 50_000


async def count_beats() -> None:
    """Count the loop's iterations."""
    while True:
        await anyio.sleep(0.001)
        tasks.beats += 1


async def test_large_payloads_beside_the_loop(cpu) -> None:
    """A million strings travel both ways off the loop, which keeps running meanwhile."""
    tasks.witnessed.clear()
    async with anyio.create_task_group() as group:
        group.start_soon(count_beats)
        assert await cpu.run(tasks.length, tasks.make_numbers_between_witnesses(1_000_000)) == 3
        _, numbers, _ = await cpu.run(tasks.make_numbers_between_witnesses, 1_000_000)
        group.cancel_scope.cancel()
    assert numbers == tasks.make_numbers(1_000_000)
    for event in ("pickled", "unpickled"):
        first, last = [seen for seen in tasks.witnessed if seen[0] == event][-2:]  # before: the attempt on the loop
        assert threading.get_ident() not in {first[1], last[1]}
        assert last[2] - first[2] >= 3


async def test_small_tasks_pass_large_ones(cpu) -> None:
    """A small task submitted after a large one does not wait for that one's pickling."""
    large = cpu.submit(tasks.length, b"x" * (40 * MEGABYTE))
    small = cpu.submit(tasks.identity, 1)
    assert await small == 1
    assert await large == 40 * MEGABYTE


async def test_a_large_task_is_cancelled_while_it_is_pickled(cpu) -> None:
    """It ends at once and never starts."""
    large = cpu.submit(tasks.length, b"x" * (20 * MEGABYTE))
    assert large.cancel()
    await large.wait()
    assert large.started_at is None
    assert await cpu.run(tasks.identity, 1) == 1


# --- without workers --------------------------------------------------------------------------------------


def test_pickling_stops_at_the_limit() -> None:
    """Pickling stops at the limit."""
    with pytest.raises(pickling.TooLargeError):
        pickling.dumps([str(number) * 100 for number in range(1000)], 10_000)


@pytest.mark.parametrize(
    "value", [b"x" * MEGABYTE, bytearray(MEGABYTE), ["x" * 1000] * 1000, tasks.nested(50), list(range(300_000))]
)
def test_large_values_are_unpickled_in_turns(value) -> None:
    """Loading a pickle piece by piece gives the same value; a broken pickle raises."""
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    assert pickling.loads_in_thread([data]) == pickling.loads([data]) == value
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        pickling.loads_in_thread([data[: len(data) // 2]])


PLAIN = [None, True, False, 0, -1, 2**31, 7**99_999, -0.0, math.nan, 1j, "", "\ud800 \0 \U0001f600", b"", b"\0\xff"]


@pytest.mark.parametrize("load", [pickling.loads, pickling.loads_in_thread])
def test_small_values_are_marshalled(load) -> None:
    """Each value that is small is what it was."""
    assert all(map(pickling.is_small, PLAIN))
    found = [load([bytearray(marshal.dumps(value, pickling.MARSHAL_VERSION))]) for value in PLAIN]
    assert marshal.dumps(found, 2) == marshal.dumps(PLAIN, 2)  # which tells -0.0 from 0 and True from 1


@pytest.mark.parametrize("value", [(), [1], {1: 2}, compile("1", "code", "eval"), ...])
@pytest.mark.parametrize("load", [pickling.loads, pickling.loads_in_thread])
def test_other_values_are_not_unmarshalled(load, value) -> None:
    """A task may have written them to its worker's socket, and code of another version would crash the server."""
    for version in (2, marshal.version):
        with pytest.raises((pickle.UnpicklingError, EOFError, ValueError, IndexError)):
            load([marshal.dumps(value, version)])


@pytest.mark.anyio
@ON_ASYNCIO
async def test_small_values_travel_as_they_are(anyio_backend) -> None:
    """As arguments and as results, between a server and a worker process."""
    async with Executor(threads=1, processes=1) as executor:
        cpu = executor.options(tag="cpu")
        found = [await cpu.run(tasks.identity, value) for value in PLAIN]
    assert marshal.dumps(found, 2) == marshal.dumps(PLAIN, 2)


def test_whether_a_call_needs_the_main_script(monkeypatch) -> None:
    """A reference to an importable `__main__` needs the script; other objects of `__main__` go by value."""

    def dump(function: object, *args: object, importable: bool = True) -> tuple[bytes, bool]:
        pieces, needs_main = pickling.dump_call(
            "task", function, args, {}, {}, MEGABYTE, [], main_is_importable=importable
        )
        return b"".join(pieces), needs_main

    def of_main() -> str:
        return "done"

    main = sys.modules["__main__"]
    of_main.__module__, of_main.__qualname__ = "__main__", "of_main"
    monkeypatch.setattr(main, "of_main", of_main, raising=False)
    assert not dump(tasks.identity)[1]
    assert not dump(len)[1]
    assert dump(of_main)[1]
    assert dump(tasks.identity, [of_main])[1]
    by_value, needs_main = dump(of_main, importable=False)
    assert not needs_main
    monkeypatch.delattr(main, "of_main")
    assert pickling.load_call([by_value])[1]() == "done"


def test_large_buffers_are_left_out_of_a_pickle() -> None:
    """Buffers of 16 KB and more stay outside the pickle, and `load` puts them back; smaller ones are in it."""
    blocks = [Block(bytes(size)) for size in (pickling.BUFFER_SIZE - 1, pickling.BUFFER_SIZE, MEGABYTE)]
    buffers: list[memoryview] = []
    data = pickling.dumps(blocks, MEGABYTE, buffers=buffers)
    assert [len(buffer) for buffer in buffers] == [pickling.BUFFER_SIZE, MEGABYTE]
    assert len(data) < 2 * pickling.BUFFER_SIZE
    assert buffers[1].obj is blocks[2].data
    assert pickling.loads([data, *buffers]) == pickling.loads_in_thread([data, *buffers]) == blocks


def test_an_error_is_dumped_and_loaded_in_one_process() -> None:
    """`load_error` restores the result of `dump_error`, with a note of its origin."""
    data = exceptions.dump_error(tasks.TwoArgumentsError(3, "x"), "trace", MEGABYTE)
    error = exceptions.load_error(data, "somewhere")
    assert (type(error), error.code, error.__notes__) == (
        tasks.TwoArgumentsError,
        3,
        ["\nTraceback in somewhere:\ntrace"],
    )


class RecordedBuffer(bytearray):
    """A buffer that records how many bytes are written to it at a time."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.sizes: list[int] = []

    def __setitem__(self, at: Any, data: Any) -> None:
        self.sizes.append(len(data))
        super().__setitem__(at, data)


def test_large_bytes_are_read_in_slices() -> None:
    """No step of unpickling copies more than a slice while it holds the GIL, and all bytes arrive."""
    data = random.Random(1).randbytes(2 * pickling.SLICE_SIZE + 1000)
    buffer = RecordedBuffer(len(data))
    assert pickling._Reader(data).readinto(buffer) == len(data)
    assert buffer == data
    assert buffer.sizes == [pickling.SLICE_SIZE, pickling.SLICE_SIZE, 1000]
    for value in (data, bytearray(data)):
        assert pickling.loads_in_thread([pickle.dumps(value, pickle.HIGHEST_PROTOCOL)]) == value


def test_large_calls_are_pickled_in_pieces() -> None:
    """A bytearray is copied in slices, bytes are not copied, and together the pieces are the pickle."""
    data = random.Random(1).randbytes(2 * pickling.SLICE_SIZE + 1000)
    call = ("name", len, (data, bytearray(data)), {}, {})
    pieces, needs_main = pickling.dump_call(*call, 10**9, None, main_is_importable=True)
    assert not needs_main
    assert any(piece is data for piece in pieces)
    assert all(len(piece) <= pickling.SLICE_SIZE for piece in pieces if piece is not data)
    assert pickle.loads(b"".join(pieces)) == call
