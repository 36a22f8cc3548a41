"""What a worker process does with tasks' functions, whichever backend it belongs to: it calls them, and makes bytes of
what comes of it."""

from __future__ import annotations

import contextvars
import logging
import os

from executors import context
from executors._wire import exceptions, pickling
from executors._wire.frames import Outcome
from executors.errors import SerializationError

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from typing import Any

    from executors._wire.pickling import Buffer

    Answer = tuple["Outcome", Sequence[Buffer]]

_OURS = os.path.dirname(__file__) + os.sep

_MAX_TEXT = 10_000
"""How many characters are told of an exception that is too large to be sent."""

_TOKEN = os.urandom(8)
"""Differs between interpreters, which may share a process, and between machines, where processes share a number."""


def here() -> tuple[int, bytes]:
    """Return what tells this process, and this interpreter in it, from every other."""
    return os.getpid(), _TOKEN


class RunningJob:
    """What `current_task` sees in a worker."""

    cancel_requested = False

    def __init__(self, task_id: int, name: str) -> None:
        self.id = task_id
        self.name = name


class TaskRunner:
    """Calls tasks' functions.

    Args:
        max_payload: How many bytes an answer may have.
    """

    on_trio = False
    """Coroutine functions run on trio's loop, not on asyncio's."""

    def __init__(self, max_payload: int) -> None:
        self._max_payload = max_payload
        self._runner: asyncio.Runner | None = None
        self._dress: Callable[[Any], Any] = lambda function: function
        self.at_start: list[Callable[[], Any]] = []
        """What the setup has called in each worker, in order, before its first job, and after the fork if it is one.
        What such a call returns to be awaited is, on the loop of the jobs. One that raises keeps it from starting."""
        self.at_end: list[Callable[[], Any]] = []
        """The like, called in reverse order when the worker is told to exit. What one raises is logged."""

    def set_up(self, setup: tuple[str, tuple[Any, ...]] | None) -> None:
        """Call the setup, which imports the app: see `ExecutorBackend.setup`. Raises whatever that does."""
        if setup is not None:
            path, args = setup
            self._dress = context.resolve(path, "the worker's setup")(self, *args)

    def begin(self) -> None:
        """Call what the setup has left for the process that is the worker. Raises whatever that does."""
        for function in self.at_start:
            self._call_and_await(function)

    def end(self) -> None:
        """Call what the setup has left for the worker's end, and close the loop of coroutine functions."""
        for function in reversed(self.at_end):
            try:
                self._call_and_await(function)
            except BaseException:  # the others have something to close, too
                logging.getLogger("executors").exception("a function that ends a worker process failed")
        if self._runner is not None:
            self._runner.close()

    def _call_and_await(self, function: Callable[[], Any]) -> None:
        def call() -> None:
            value = function()
            if context.is_awaitable(value):
                self.run_awaitable(value)

        contextvars.copy_context().run(call)

    def import_main(self) -> None:
        """Import the parent's main script, once, under another name. Raises whatever the script does."""
        raise NotImplementedError

    def run(
        self, job: RunningJob, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], variables: dict[str, Any]
    ) -> Answer:
        """Call a task's function, in a context of its own, and return what came of it. Lets nothing out."""
        try:
            value = contextvars.copy_context().run(self._call, job, function, args, kwargs, variables)
        except BaseException as error:  # noqa: BLE001  (nothing that a task raises ends the worker)
            return self.error(error)
        return self._value(value)

    def _call(
        self, job: RunningJob, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], variables: dict[str, Any]
    ) -> Any:
        context.running.set(job)
        context.restore(variables)
        value = self._dress(function)(*args, **kwargs)
        return self.run_awaitable(value) if context.is_awaitable(value) else value

    def run_awaitable(self, awaitable: Any, in_context: contextvars.Context | None = None) -> Any:
        """Await something on an event loop of the kind that the executor has. asyncio's lasts from job to job; on trio
        each is a run of its own: what is bound to one can't be kept for the next."""
        in_context = in_context or contextvars.copy_context()

        async def outcome() -> tuple[Any, BaseException | None]:
            try:
                return await awaitable, None
            except BaseException as error:  # noqa: BLE001  (SystemExit would leave the loop in the lurch)
                return None, error

        value, error = (self._run_on_trio if self.on_trio else self._run_on_asyncio)(outcome, in_context)
        if error is not None:
            raise error
        return value

    def _run_on_asyncio(self, function: Callable[[], Any], in_context: contextvars.Context) -> Any:
        import asyncio  # noqa: PLC0415  (slow to import, and needed for coroutine functions only)

        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(function(), context=in_context)

    def _run_on_trio(self, function: Callable[[], Any], in_context: contextvars.Context) -> Any:
        import trio  # noqa: PLC0415  (an extra, and needed for coroutine functions only)

        outcome: list[Any] = []

        async def main() -> None:
            ended = trio.Event()

            async def run() -> None:
                outcome.append(await function())
                ended.set()

            trio.lowlevel.spawn_system_task(run, context=in_context)  # the main task takes no context
            await ended.wait()

        trio.run(main)
        return outcome[0]

    def _value(self, value: Any) -> Answer:
        buffers: list[memoryview] = []
        try:
            data = pickling.dump_value(value, self._max_payload, buffers)
        except SerializationError as error:
            return unsendable(f"the result can't be sent back: {error}")
        except pickling.TooLargeError:
            size = None
        else:
            size = len(data) + sum(map(len, buffers))
        if size is None or size > self._max_payload:
            return unsendable(f"the result takes more than the {self._max_payload} bytes allowed")
        return Outcome.VALUE, [data, *buffers]

    def error(self, error: BaseException) -> Answer:
        """Make an answer of what was raised."""
        import traceback  # noqa: PLC0415  (slow to import, and needed for failures only)

        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
            trace = trace.tb_next  # our own frames tell nobody anything
        error = error.with_traceback(trace)  # set by name, it would go through the class's `__setattr__`
        text = "".join(traceback.format_exception(error))
        try:
            return Outcome.ERROR, [exceptions.dump_error(error, text, self._max_payload)]
        except SerializationError as failure:
            problem = str(failure)
        except pickling.TooLargeError:
            problem = f"it takes more than the {self._max_payload} bytes allowed"
            text = text if len(text) < _MAX_TEXT else f"{text[:_MAX_TEXT]} […]"
        return unsendable(f"it raised an exception that can't be sent back ({problem}):\n{text}")


def unready(error: BaseException, max_payload: int) -> Answer:
    """Return an answer that the worker's setup has failed, and how."""
    outcome, parts = TaskRunner(max_payload).error(error)
    return Outcome.UNREADY if outcome == Outcome.ERROR else outcome, parts


def unsendable(reason: str) -> Answer:
    """Return an answer that there is none, and why."""
    return Outcome.UNSENDABLE, [reason.encode(errors="replace")]
