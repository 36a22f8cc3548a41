"""Arguments, results and exceptions that won't travel, or do harm on the way: they fail their own task.

An argument that kills the server while it is pickled there, or a result while it is unpickled there, can't be helped:
the server's own code would die of it as well.
"""

from __future__ import annotations

import itertools
import os
import signal
import traceback
from typing import Any

import anyio
import fault_tasks
import pytest
import worker_tasks as tasks
from faults import TIMEOUT, Fault, under_fault

from executors import SerializationError, TaskExitedError, WorkerLostError
from executors._states import RUNNING

pytestmark = pytest.mark.anyio

MEGABYTE = 1024 * 1024

PLACES = [f"{what} {how}" for what in ("argument", "result", "exception") for how in ("pickled", "unpickled")]
"""Where a trap may act: arguments are unpickled in the worker, results and exceptions in the server."""

ANYWHERE = 0
"""Not a process id: a trap with this home acts wherever it is pickled or unpickled."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Payloads are the same on every loop."""
    return "asyncio", {}


def is_here(place: str) -> bool:
    """Whether a trap at this place acts in the server."""
    return place in {"argument pickled", "result unpickled", "exception unpickled"}


async def sprung(fault: Fault, place: str, act: Any, *args: Any) -> BaseException:
    """Return the outcome of a trap that acts at one of six places."""
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


KINDS = (ValueError, TypeError, MemoryError, RecursionError, SystemExit, KeyboardInterrupt, GeneratorExit)


async def test_errors_of_pickling(named_pipe) -> None:
    """An error of pickling or unpickling, on either side, fails only its task, and is part of the error."""
    async with under_fault(named_pipe, survives=True) as fault:
        for place, kind in itertools.product(PLACES, KINDS):
            error = await sprung(fault, place, fault_tasks.raise_it, kind, "on its way")
            assert isinstance(error, SerializationError), (place, kind)
            assert f"{kind.__name__}: on its way" in str(error)


@pytest.mark.parametrize("act", [tasks.segfault, os._exit], ids=["segfault", "exit"])
@pytest.mark.parametrize(
    "place", ["argument unpickled", "result pickled", "exception pickled", "exception unpickled in the worker"]
)
async def test_workers_killed_by_pickling(named_pipe, place: str, act: Any) -> None:
    """A worker killed by pickling or unpickling fails only its own task, which is not tried again."""
    async with under_fault(named_pipe, survives=False) as fault:
        args = (9,) if act is os._exit else ()
        what, when = place.split()[:2]
        trap = (fault_tasks.Trap, when, os.getpid(), act, *args)  # never acts here
        if what == "argument":
            error = await fault.error_of(tasks.identity, trap[0](*trap[1:]))
        else:
            error = await fault.error_of(tasks.make if what == "result" else fault_tasks.raise_holding, *trap)
        assert isinstance(error, WorkerLostError)
        assert (error.pid, error.exitcode) == (fault.worker, 9 if args else -signal.SIGSEGV)


async def test_unpicklable_values(named_pipe) -> None:
    """A lock fails its task wherever it is; the error names its type."""
    async with under_fault(named_pipe, survives=True) as fault:
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


async def test_payloads_beyond_the_limit(named_pipe) -> None:
    """An argument, result or exception beyond `max_payload` fails its task; the error has the limit."""
    async with under_fault(named_pipe, survives=True, max_payload=MEGABYTE) as fault:
        for error in (
            await fault.error_of(tasks.length, bytes(2 * MEGABYTE)),
            await fault.error_of(fault_tasks.make_bytes, 2 * MEGABYTE),
            await fault.error_of(tasks.raise_it_large, 2 * MEGABYTE),
        ):
            assert isinstance(error, SerializationError)
            assert f"{MEGABYTE} bytes allowed" in str(error)
            assert len(str(error)) < 50_000


async def test_large_payloads(named_pipe) -> None:
    """Thirty megabytes arrive as an argument, a result and an exception."""
    size = 30 * MEGABYTE
    async with under_fault(named_pipe, survives=True) as fault:
        assert await fault.cpu.run(tasks.length, bytes(size)) == size
        assert len(await fault.cpu.run(fault_tasks.make_bytes, size)) == size
        with pytest.raises(ValueError, match="xxx") as caught:
            await fault.cpu.run(tasks.raise_it_large, size)
        assert len(str(caught.value)) == size


@pytest.mark.parametrize("depth", [100, 100_000])
async def test_deeply_nested_values(named_pipe, depth: int) -> None:
    """A value nested a hundred thousand deep fails its task, wherever it is; one a hundred deep arrives."""
    async with under_fault(named_pipe, survives=True) as fault:
        for shape in ("list", "tuple", "dict"):
            handles = [
                fault.cpu.submit(tasks.length, fault_tasks.nested_otherwise(shape, depth)),
                fault.cpu.submit(fault_tasks.nested_otherwise, shape, depth),
                fault.cpu.submit(fault_tasks.raise_holding, fault_tasks.nested_otherwise, shape, depth),
            ]
            with anyio.fail_after(TIMEOUT):
                for handle in handles:
                    await handle.wait()
            if depth > 100:
                assert {type(handle.exception()) for handle in handles} == {SerializationError}
            else:
                assert handles[0].result() == 1
                assert len(handles[1].result()) == 1
                assert type(handles[2].exception()) is fault_tasks.HoldingError


async def test_other_deep_values(named_pipe) -> None:
    """Nested objects, values that become deep when unpickled, and a long chain of causes: none ends a process."""
    async with under_fault(named_pipe, survives=True) as fault:
        deep = await fault.error_of(fault_tasks.nested_otherwise, "object", 100_000)
        assert isinstance(deep, SerializationError)
        assert len(await fault.cpu.run(fault_tasks.unpickles_deep, 100_000)) == 1
        assert await fault.cpu.run(tasks.length, fault_tasks.Shortcut(100_000)) == 1
        error = await fault.error_of(fault_tasks.raise_with_cause, 2_000)
        assert repr(error) == repr(error.__cause__) == "ValueError('next')"


# --- exceptions -------------------------------------------------------------------------------------------


async def test_groups_of_exceptions(named_pipe) -> None:
    """A group arrives with its members, whatever their `__init__` takes, their notes, and the whole traceback."""
    async with under_fault(named_pipe, survives=True) as fault:
        group = await fault.error_of(fault_tasks.raise_group)
        assert type(group) is ExceptionGroup
        one, inner = group.exceptions
        two, three = inner.exceptions
        assert (type(one), one.code, str(one)) == (tasks.TwoArgumentsError, 1, "one (1)")
        assert (type(two), two.code, str(two), repr(three)) == (tasks.TwoArgumentsError, 2, "two (2)", "ValueError(3)")
        assert one.__notes__ == ["a note of a member"]
        assert "in raise_group" in "".join(traceback.format_exception(group))


async def test_an_exception_that_holds_another(named_pipe) -> None:
    """An exception whose attribute is another exception arrives with it."""
    async with under_fault(named_pipe, survives=True) as fault:
        error = await fault.error_of(fault_tasks.raise_holding, tasks.TwoArgumentsError, 4, "held")
        assert (type(error), type(error.held)) == (fault_tasks.HoldingError, tasks.TwoArgumentsError)
        assert (error.held.code, str(error.held)) == (4, "held (4)")


async def test_an_exception_without_a_message(named_pipe) -> None:
    """An exception whose `__str__` raises arrives with its type."""
    async with under_fault(named_pipe, survives=True) as fault:
        assert type(await fault.error_of(tasks.raise_it, fault_tasks.SpeechlessError)) is fault_tasks.SpeechlessError


async def test_errors_of_pickling_without_a_message_or_not_utf_8(named_pipe) -> None:
    """Only that task fails, with the type of the error. It may quote a file name that isn't UTF-8, as Python's do."""
    async with under_fault(named_pipe, survives=True) as fault:
        for place in PLACES:
            error = await sprung(fault, place, fault_tasks.raise_it, fault_tasks.SpeechlessError)
            assert isinstance(error, SerializationError), place
            assert "SpeechlessError" in str(error)
            error = await sprung(fault, place, fault_tasks.raise_it, ValueError, "no such file: \udcff")
            assert isinstance(error, SerializationError), place
            assert "ValueError: no such file" in str(error)


async def test_a_base_exception_without_a_message(named_pipe) -> None:
    """A BaseException without a message fails its task as any other."""
    async with under_fault(named_pipe, survives=True) as fault:
        error = await fault.error_of(tasks.raise_it, fault_tasks.SpeechlessBaseError)
        assert isinstance(error, TaskExitedError)
        assert type(error.__cause__) is fault_tasks.SpeechlessBaseError


async def test_an_exception_that_cannot_be_changed(named_pipe) -> None:
    """An exception that is a frozen dataclass, which accepts no attributes, arrives with its cause and a note."""
    async with under_fault(named_pipe, survives=True) as fault:
        error = await fault.error_of(fault_tasks.raise_frozen, 5)
        assert type(error) is fault_tasks.FrozenError
        assert error.code == 5
        assert repr(error.__cause__) == "KeyError('missing')"
        assert "in raise_frozen" in error.__notes__[-1]


# --- a death in the midst ---------------------------------------------------------------------------------


async def test_a_worker_killed_while_it_is_written_to(named_pipe) -> None:
    """A task whose worker is killed before it has read the whole call has not begun: another worker runs it."""
    size = 100 * MEGABYTE
    async with under_fault(named_pipe, survives=False) as fault:
        os.kill(fault.worker, signal.SIGSTOP)
        handle = fault.cpu.submit(tasks.length, bytes(size))
        with anyio.fail_after(TIMEOUT):
            while handle.state is not RUNNING:
                await anyio.sleep(0.001)
            os.kill(fault.worker, signal.SIGKILL)
            assert await handle == size


async def test_a_worker_killed_while_it_writes(named_pipe) -> None:
    """A result that arrives only in part is dropped; a whole one counts."""
    path = named_pipe().path
    async with under_fault(named_pipe, survives=False) as fault:
        handle = fault.cpu.submit(fault_tasks.die_while_sending, path, 100 * MEGABYTE)
        with open(path) as file:  # it is the loop that mustn't read the result now  # noqa: ASYNC230
            assert file.readline() == "now\n"
        with anyio.fail_after(TIMEOUT):
            await handle.wait()
        assert isinstance(handle.exception(), WorkerLostError | None)
