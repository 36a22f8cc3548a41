"""Arguments, results and exceptions that won't travel, or do harm on the way: they fail their own task.

An argument that kills the server while it is pickled there, or a result while it is unpickled there, can't be helped:
the server's own code would die of it as well.
"""

from __future__ import annotations

import os
import signal
import traceback
from typing import Any

import anyio
import fault_tasks
import pytest
import worker_tasks as tasks
from faults import PATIENCE, Fault, under_fault

from executors import SerializationError, TaskExitedError, WorkerLostError
from executors._states import RUNNING

pytestmark = pytest.mark.anyio

MEGABYTE = 1024 * 1024

PLACES = [f"{what} {how}" for what in ("argument", "result", "exception") for how in ("pickled", "unpickled")]
"""Where a trap may act: arguments are unpickled in the worker, results and exceptions here."""

ANYWHERE = 0
"""No process's id: a trap whose home it is acts wherever it is pickled or unpickled."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """What travels is the same on every loop."""
    return "asyncio", {}


def is_here(place: str) -> bool:
    """Whether a trap at this place acts in the server."""
    return place in {"argument pickled", "result unpickled", "exception unpickled"}


async def sprung(fault: Fault, place: str, act: Any, *args: Any) -> BaseException:
    """Return what comes of a trap that acts at one of six places."""
    what, when = place.split()
    home = ANYWHERE if place == "argument pickled" else os.getpid()
    if what == "argument":
        return await fault.error_of(tasks.identity, fault_tasks.Trap(when, home, act, *args))
    if what == "result":
        if is_here(place):
            return await fault.error_of(fault_tasks.make_trap, when, act, *args)
        return await fault.error_of(tasks.make, fault_tasks.Trap, when, home, act, *args)
    if is_here(place):
        return await fault.error_of(fault_tasks.raise_holding, fault_tasks.make_trap, when, act, *args)
    return await fault.error_of(fault_tasks.raise_holding, fault_tasks.Trap, when, home, act, *args)


@pytest.mark.parametrize("place", PLACES)
async def test_what_raises_on_its_way(line, place: str) -> None:
    """Whatever pickling or unpickling raises, on either side, fails the task alone, and the error tells of it."""
    async with under_fault(line, survives=True) as fault:
        for kind in (ValueError, TypeError, MemoryError, RecursionError, SystemExit, KeyboardInterrupt, GeneratorExit):
            error = await sprung(fault, place, fault_tasks.raise_it, kind, "on its way")
            assert isinstance(error, SerializationError), kind
            assert f"{kind.__name__}: on its way" in str(error)


@pytest.mark.parametrize("act", [tasks.segfault, os._exit], ids=["segfault", "exit"])
@pytest.mark.parametrize(
    "place", ["argument unpickled", "result pickled", "exception pickled", "exception unpickled in the worker"]
)
async def test_what_kills_the_worker_on_its_way(line, place: str, act: Any) -> None:
    """What kills the worker while it is pickled or unpickled there costs its own task, and is not tried again."""
    async with under_fault(line, survives=False) as fault:
        args = (9,) if act is os._exit else ()
        what, when = place.split()[:2]
        trap = (fault_tasks.Trap, when, os.getpid(), act, *args)  # never acts here
        if what == "argument":
            error = await fault.error_of(tasks.identity, trap[0](*trap[1:]))
        else:
            error = await fault.error_of(tasks.make if what == "result" else fault_tasks.raise_holding, *trap)
        assert isinstance(error, WorkerLostError)
        assert (error.pid, error.exitcode) == (fault.worker, 9 if args else -signal.SIGSEGV)


async def test_what_cannot_be_pickled(line) -> None:
    """A lock fails its task wherever it is; the error names its type."""
    async with under_fault(line, survives=True) as fault:
        here = tasks.LockedError()
        for error in (
            await fault.error_of(tasks.identity, here.lock),
            await fault.error_of(tasks.identity, [{"in": here}]),
            await fault.error_of(tasks.make_lock),
            await fault.error_of(tasks.raise_it, tasks.LockedError),
        ):
            assert isinstance(error, SerializationError)
            assert "lock" in str(error)


# --- sizes ------------------------------------------------------------------------------------------------


async def test_what_is_too_large(line) -> None:
    """Beyond `max_payload` an argument, a result and an exception fail their tasks, with the bound."""
    async with under_fault(line, survives=True, max_payload=MEGABYTE) as fault:
        for error in (
            await fault.error_of(tasks.length, bytes(2 * MEGABYTE)),
            await fault.error_of(fault_tasks.make_bytes, 2 * MEGABYTE),
            await fault.error_of(tasks.raise_it_large, 2 * MEGABYTE),
        ):
            assert isinstance(error, SerializationError)
            assert f"{MEGABYTE} bytes allowed" in str(error)
            assert len(str(error)) < 50_000


async def test_what_is_large(line) -> None:
    """Thirty megabytes travel, as an argument, a result and an exception."""
    size = 30 * MEGABYTE
    async with under_fault(line, survives=True) as fault:
        assert await fault.cpu.run(tasks.length, bytes(size)) == size
        assert len(await fault.cpu.run(fault_tasks.make_bytes, size)) == size
        with pytest.raises(ValueError, match="xxx") as caught:
            await fault.cpu.run(tasks.raise_it_large, size)
        assert len(str(caught.value)) == size


@pytest.mark.parametrize("depth", [100, 100_000])
async def test_what_is_nested_deep(line, depth: int) -> None:
    """What is nested a hundred thousand deep fails its task, wherever it is; a hundred deep it travels."""
    async with under_fault(line, survives=True) as fault:
        for shape in ("list", "tuple", "dict"):
            handles = [
                fault.cpu.submit(tasks.length, fault_tasks.nested_otherwise(shape, depth)),
                fault.cpu.submit(fault_tasks.nested_otherwise, shape, depth),
                fault.cpu.submit(fault_tasks.raise_holding, fault_tasks.nested_otherwise, shape, depth),
            ]
            with anyio.fail_after(PATIENCE):
                for handle in handles:
                    await handle.wait()
            if depth > 100:
                assert {type(handle.exception()) for handle in handles} == {SerializationError}
            else:
                assert handles[0].result() == 1
                assert len(handles[1].result()) == 1
                assert type(handles[2].exception()) is fault_tasks.HoldingError


async def test_what_is_deep_in_other_ways(line) -> None:
    """Objects in objects, what becomes deep when it is unpickled, and a long chain of causes: none ends a process."""
    async with under_fault(line, survives=True) as fault:
        deep = await fault.error_of(fault_tasks.nested_otherwise, "object", 100_000)
        assert isinstance(deep, SerializationError)
        assert len(await fault.cpu.run(fault_tasks.unpickles_deep, 100_000)) == 1
        assert await fault.cpu.run(tasks.length, fault_tasks.Shortcut(100_000)) == 1
        error = await fault.error_of(fault_tasks.raise_with_cause, 2_000)
        assert repr(error) == repr(error.__cause__) == "ValueError('next')"


# --- exceptions -------------------------------------------------------------------------------------------


async def test_groups_of_exceptions(line) -> None:
    """A group arrives with its members, whatever their `__init__` takes, their notes, and the whole traceback."""
    async with under_fault(line, survives=True) as fault:
        group = await fault.error_of(fault_tasks.raise_group)
        assert type(group) is ExceptionGroup
        one, inner = group.exceptions
        two, three = inner.exceptions
        assert (type(one), one.code, str(one)) == (tasks.TwoArgumentsError, 1, "one (1)")
        assert (type(two), two.code, str(two), repr(three)) == (tasks.TwoArgumentsError, 2, "two (2)", "ValueError(3)")
        assert one.__notes__ == ["a note of a member"]
        assert "in raise_group" in "".join(traceback.format_exception(group))


async def test_an_exception_that_holds_another(line) -> None:
    """An exception with an attribute that takes two arguments to make arrives, with what it holds."""
    async with under_fault(line, survives=True) as fault:
        error = await fault.error_of(fault_tasks.raise_holding, tasks.TwoArgumentsError, 4, "held")
        assert (type(error), type(error.held)) == (fault_tasks.HoldingError, tasks.TwoArgumentsError)
        assert (error.held.code, str(error.held)) == (4, "held (4)")


async def test_an_exception_without_text(line) -> None:
    """An exception whose text can't be made arrives as what it is."""
    async with under_fault(line, survives=True) as fault:
        assert type(await fault.error_of(tasks.raise_it, fault_tasks.SpeechlessError)) is fault_tasks.SpeechlessError


@pytest.mark.parametrize("place", PLACES)
async def test_an_error_without_text_on_the_way(line, place: str) -> None:
    """What pickling or unpickling raises may have no text: the task fails alone, with the type of what was raised."""
    async with under_fault(line, survives=True) as fault:
        error = await sprung(fault, place, fault_tasks.raise_it, fault_tasks.SpeechlessError)
        assert isinstance(error, SerializationError)
        assert "SpeechlessError" in str(error)


@pytest.mark.parametrize("place", PLACES)
async def test_an_error_with_half_a_character_on_the_way(line, place: str) -> None:
    """What it raises may quote a file's name that isn't UTF-8, as Python's own errors do."""
    async with under_fault(line, survives=True) as fault:
        error = await sprung(fault, place, fault_tasks.raise_it, ValueError, "no such file: \udcff")
        assert isinstance(error, SerializationError)
        assert "ValueError: no such file" in str(error)


async def test_a_base_exception_without_text(line) -> None:
    """What may not leave a task fails it, text or not."""
    async with under_fault(line, survives=True) as fault:
        error = await fault.error_of(tasks.raise_it, fault_tasks.SpeechlessBaseError)
        assert isinstance(error, TaskExitedError)
        assert type(error.__cause__) is fault_tasks.SpeechlessBaseError


async def test_an_exception_that_cannot_be_changed(line) -> None:
    """An exception that is a frozen dataclass, which takes no attribute any more, arrives with its cause and a note."""
    async with under_fault(line, survives=True) as fault:
        error = await fault.error_of(fault_tasks.raise_frozen, 5)
        assert type(error) is fault_tasks.FrozenError
        assert error.code == 5
        assert repr(error.__cause__) == "KeyError('missing')"
        assert "in raise_frozen" in error.__notes__[-1]


# --- a death in the midst ---------------------------------------------------------------------------------


async def test_a_worker_killed_while_it_is_written_to(line) -> None:
    """A task whose worker is killed before it has read the whole call has not begun: another worker runs it."""
    size = 100 * MEGABYTE
    async with under_fault(line, survives=False) as fault:
        os.kill(fault.worker, signal.SIGSTOP)
        handle = fault.cpu.submit(tasks.length, bytes(size))
        with anyio.fail_after(PATIENCE):
            while handle.state is not RUNNING:
                await anyio.sleep(0.001)
            os.kill(fault.worker, signal.SIGKILL)
            assert await handle == size


async def test_a_worker_killed_while_it_writes(line) -> None:
    """A result of which only a part arrives is no result; a whole one is."""
    path = line().path
    async with under_fault(line, survives=False) as fault:
        handle = fault.cpu.submit(fault_tasks.die_while_sending, path, 100 * MEGABYTE)
        with open(path) as file:  # it is the loop that mustn't read the result now  # noqa: ASYNC230
            assert file.readline() == "now\n"
        with anyio.fail_after(PATIENCE):
            await handle.wait()
        assert isinstance(handle.exception(), WorkerLostError | None)
