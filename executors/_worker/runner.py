"""`TaskRunner`: calls the functions of tasks in a worker process of any backend, and pickles their outcomes."""

from __future__ import annotations

import contextvars
import logging
import marshal
import os
import sys
import time

from executors import context
from executors._callables import is_coroutine_function, refuse_awaitable
from executors._wire import exceptions, pickling, progress, task_ids
from executors._wire.entered_task import PROGRESS
from executors._wire.frames import Outcome
from executors.errors import SerializationError

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from mmap import mmap
    from typing import Any

    from executors._wire.pickling import Buffer

    Answer = tuple["Outcome", Sequence[Buffer]]

_OURS = os.path.dirname(__file__) + os.sep

_MAX_TRACEBACK = 10_000
"""How many characters are sent of the traceback of an exception that is too large to be sent."""

_TOKEN = os.urandom(8)
"""Differs between interpreters, which may share a process, and between machines, where process ids repeat."""


def here() -> tuple[int, bytes]:
    """Return what identifies this process, and this interpreter in it."""
    return os.getpid(), _TOKEN


class RunningJob:
    """A task as `current_task` sees it in a worker.

    Args:
        task_id: The task's id, or its number, from which the id is computed if it is read.
        name: The task's name.
    """

    id_key = b""
    """The key with which ids are computed; see `task_ids`."""

    backend = ""
    """The name of the backend that the worker belongs to, for log records."""

    cancel_requested = False
    """Stays False where a running task is stopped by killing its worker."""

    memory: mmap | None = None
    """The memory that the worker shares with the server, for what the task reports; None where there is none."""

    reported: bytes | None = None
    """The record of what the task has reported last; empty if it has only read its id; None if it has done neither."""

    def __init__(self, task_id: int | str, name: str) -> None:
        self._id = self._number = task_id
        self.name = name

    def _report(self, done: float, total: float | None, message: str | None) -> None:
        """Publish the task's progress. Any thread. Has no effect where there is no memory for it."""
        memory = self.memory
        if memory is not None:
            record = self.reported = progress.dump(self._number, time.monotonic(), done, total, message)  # type: ignore[arg-type]
            memory[PROGRESS : PROGRESS + len(record)] = record

    @property
    def id(self) -> str:
        """The task's id, as in `TaskHandle.id`."""
        if isinstance(self._id, int):
            self._id = task_ids.task_id(self.id_key, self._id)
            self.reported = self.reported or b""  # the server has to know that somebody may ask for the task
        return self._id


class TaskRunner:
    """Calls the functions of tasks.

    Args:
        max_payload: How many bytes an answer may have.

    Attributes:
        at_start: Functions without arguments, which the setup adds. `begin` calls them in order, in each worker, before
            its first job and after the fork, if it is a fork. One that raises keeps the worker from starting. Coroutine
            functions run on the event loop of coroutine tasks.
        at_end: The same for the end of the worker: `end` calls them in reverse order, and logs what they raise.
    """

    on_trio = False
    """Coroutine functions run on trio's loop, not on asyncio's."""

    def __init__(self, max_payload: int) -> None:
        self._max_payload = max_payload
        self._runner: asyncio.Runner | None = None
        self._wrap: Callable[[Any], Any] | None = None
        self.at_start: list[Callable[[], Any]] = []
        self.at_end: list[Callable[[], Any]] = []

    def set_up(self, setup: tuple[str, tuple[Any, ...]] | None) -> None:
        """Call the setup, which imports the app, and returns what wraps each task's function.

        Args:
            setup: See `ExecutorBackend.setup`.

        Raises:
            BaseException: Whatever the setup raises.
        """
        if setup is not None:
            path, args = setup
            self._wrap = context.resolve(path, "the worker's setup")(self, *args)

    def begin(self) -> None:
        """Call the functions of `at_start`, in the process that is the worker.

        Raises:
            BaseException: Whatever they raise.
        """
        for function in self.at_start:
            self._call_and_await(function)

    def end(self) -> None:
        """Call the functions of `at_end`, export the rest of telemetry, and close the loop of coroutine functions."""
        for function in reversed(self.at_end):
            try:
                self._call_and_await(function)
            except BaseException:  # the others have something to close, too
                logging.getLogger("executors").exception("a function that ends a worker process failed")
        flush_telemetry()
        if self._runner is not None:
            self._runner.close()

    def _call_and_await(self, function: Callable[[], Any]) -> None:
        def call() -> None:
            value = function()
            if context.is_awaitable(value):
                self.run_awaitable(value)

        contextvars.copy_context().run(call)

    def import_main(self) -> None:
        """Import the server's main script, once, under another name.

        Raises:
            BaseException: Whatever the script raises.
        """
        raise NotImplementedError

    def run(
        self,
        job: RunningJob,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        variables: dict[str, Any],
        is_coroutine: bool | None = None,
    ) -> Answer:
        """Call a task's function in a context of its own. Raises nothing.

        Args:
            job: The task.
            function: The function, with `args` and `kwargs`.
            variables: The context variables that came along.
            is_coroutine: Whether it is a coroutine function, where that is known already.

        Returns:
            The task's outcome.
        """
        try:
            if is_coroutine is None:
                is_coroutine = is_coroutine_function(function)
            value = contextvars.copy_context().run(self._call, job, function, args, kwargs, variables, is_coroutine)
        except BaseException as error:  # noqa: BLE001  (nothing that a task raises ends the worker)
            return self.error(error)
        return self._answer(value)

    def _call(
        self,
        job: RunningJob,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        variables: dict[str, Any],
        is_coroutine: bool,
    ) -> Any:
        context.running.set(job)
        if variables:
            context.restore(variables)
        if self._wrap is not None:
            function = self._wrap(function)
        value = function(*args, **kwargs)
        if is_coroutine:
            return self.run_awaitable(value)
        if context.is_awaitable(value):
            raise refuse_awaitable(job.name, value)
        return value

    def run_awaitable(self, awaitable: Any, in_context: contextvars.Context | None = None) -> Any:
        """Await something on an event loop of the kind that the executor has, and return its value.

        asyncio's loop lasts from job to job. On trio each call is a run of its own, so that what is bound to one run
        cannot be kept for the next job.
        """
        in_context = in_context or contextvars.copy_context()

        async def outcome() -> tuple[Any, BaseException | None]:
            try:
                return await awaitable, None
            except BaseException as error:  # noqa: BLE001  (SystemExit would end the loop in mid-run)
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

    def _answer(self, value: Any) -> Answer:
        buffers: list[memoryview] = []
        try:
            if pickling.is_small(value):
                data = marshal.dumps(value, pickling.MARSHAL_VERSION)
            else:
                data = pickling.dumps(value, self._max_payload, buffers=buffers)
        except SerializationError as error:
            return unsendable(f"the result can't be sent back: {error}")
        except pickling.TooLargeError:
            size = None
        else:
            size = len(data) + sum(map(len, buffers)) if buffers else len(data)
        if size is None or size > self._max_payload:
            return unsendable(f"the result takes more than the {self._max_payload} bytes allowed")
        return Outcome.VALUE, [data, *buffers]

    def error(self, error: BaseException) -> Answer:
        """Return the outcome of a task that raised an exception."""
        trace = exceptions.own(error, "__traceback__")
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
            trace = trace.tb_next  # frames of this package help nobody
        BaseException.with_traceback(error, trace)  # its own method, and an assignment, may be the user's
        text = exceptions.format_error(error)
        try:
            return Outcome.ERROR, [exceptions.dump_error(error, text, self._max_payload)]
        except SerializationError as failure:
            problem = str(failure)
        except pickling.TooLargeError:
            problem = f"it takes more than the {self._max_payload} bytes allowed"
            text = text if len(text) < _MAX_TRACEBACK else f"{text[:_MAX_TRACEBACK]} […]"
        return unsendable(f"it raised an exception that can't be sent back ({problem}):\n{text}")


def flush_telemetry() -> None:
    """Export what tasks have recorded with OpenTelemetry's SDK, if this process has loaded it. Blocks meanwhile."""
    if "opentelemetry.sdk" not in sys.modules:
        return
    for signal, get_provider in (
        ("trace", "get_tracer_provider"),
        ("metrics", "get_meter_provider"),
        ("_logs", "get_logger_provider"),
    ):
        api = sys.modules.get(f"opentelemetry.{signal}")
        try:
            provider = getattr(api, get_provider)() if api is not None else None
            if (flush := getattr(provider, "force_flush", None)) is not None:  # the API's own providers have none
                flush()
        except BaseException:  # the others have something to export, too
            logging.getLogger("executors").exception("a worker process failed to export its telemetry")


def unready(error: BaseException, max_payload: int) -> Answer:
    """Return the outcome of a task that has not begun, because the worker's setup raised an exception."""
    outcome, parts = TaskRunner(max_payload).error(error)
    return Outcome.UNREADY if outcome == Outcome.ERROR else outcome, parts


def unsendable(reason: str) -> Answer:
    """Return the outcome of a task whose own outcome cannot be sent, with the reason."""
    return Outcome.UNSENDABLE, [reason.encode(errors="replace")]
