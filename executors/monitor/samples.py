"""Samples of what the threads of this process are doing: captured quickly, analysed only to explain a delay."""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import NamedTuple, TypeAlias

from executors.backends.base import Job
from executors.backends.loop import LoopBackend
from executors.events import Hooks
from executors.monitor.alarm import RING
from executors.monitor.clocks import CpuTimes
from executors.monitor.report import BlameKind
from executors.options import MARK

TASK_ENTRIES = {LoopBackend._run.__code__: "job", Job.run.__code__: "self"}
"""The functions that call a task's function, and which of their local variables has the job."""

HOOK_CALLER = Hooks.call.__code__
"""The code that calls hooks, also amid the end of a task."""

MACHINERY = frozenset(
    {"asyncio", "anyio", "concurrent", "executors", "outcome", "queue", "selectors", "threading", "trio", "uvloop"}
)
"""Packages that only run other code, and are never to blame."""

FRAMEWORKS = ("quart", "flask", "werkzeug", "starlette", "fastapi", "litestar", "hypercorn", "uvicorn")
"""Prefixes of packages that call or wrap an app's code. Of installed packages these are named last."""

Responders: TypeAlias = Mapping[CodeType, Callable[[FrameType], FunctionType | None]]
"""The code objects of functions that make responses of what request handlers return, each with a function that finds
this handler by a frame of the code."""

NO_RESPONDERS: Responders = {}

MAX_SOURCE_LENGTH = 60
"""Characters of a source line that are shown."""

_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"
_STANDARD_LIBRARY = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib"))
_INSTALLED = (f"site-packages{os.sep}", f"dist-packages{os.sep}")


class CodeLocation(NamedTuple):
    """A line of the user's code, and the call made there.

    Attributes:
        call: The function called there, or the source of the line.
        file: The file.
        line: The line's number.
        marked: As `Blame.marked`.
    """

    call: str
    file: str
    line: int
    marked: str | None = None

    def __str__(self) -> str:
        return f"{self.call} ({Path(self.file).name}:{self.line})"


class Activity(NamedTuple):
    """What a thread was doing at one moment.

    Attributes:
        kind: As `Blame.kind`.
        name: The task's name; outside of tasks the module and function.
        location: The innermost line of the user's code.
        position: Equal in two samples while the thread stays at one instruction.
    """

    kind: BlameKind
    name: str
    location: CodeLocation
    position: tuple[int, int]


class Sample(NamedTuple):
    """An analysed sample.

    Attributes:
        at: When it was taken, in seconds of `time.monotonic`.
        late: By how many seconds it was taken later than planned.
        cpu: The CPU clocks.
        loop: What the event loop's thread was doing.
        threads: What the other threads were doing, by native id.
    """

    at: float
    late: float
    cpu: CpuTimes
    loop: Activity | None = None
    threads: Mapping[int, Activity] = {}


class CapturedFrame(NamedTuple):
    """One frame of a stack.

    Attributes:
        code: The function's code.
        instruction: The offset of the current instruction.
        module: The name of the function's module.
        job: The task whose function is called by the frame, if any.
        handler: The request handler whose result the frame turns into a response, if any.
    """

    code: CodeType
    instruction: int
    module: str
    job: Job | None = None
    handler: FunctionType | None = None

    @property
    def name(self) -> str:
        """The qualified name of the function, with its module."""
        return f"{self.module}.{self.code.co_qualname}"

    @property
    def line(self) -> int:
        """The number of the current line."""
        for begin, end, line in self.code.co_lines():
            if line is not None and begin <= self.instruction < end:
                return line
        return self.code.co_firstlineno

    @property
    def package(self) -> str:
        """The top-level package."""
        return self.module.partition(".")[0]

    @property
    def is_marked(self) -> bool:
        """Whether an executor would run the function elsewhere than on the loop. Not known of nested functions."""
        found: object = sys.modules.get(self.module)
        for name in self.code.co_qualname.split("."):
            found = getattr(found, "__dict__", {}).get(name)
        options, is_async = getattr(found, "__dict__", {}).get(MARK, (None, True))
        return not is_async or (options is not None and options.tag == "cpu")

    @property
    def is_users(self) -> bool:
        """Whether it belongs neither to the standard library nor to an installed package."""
        file = self.code.co_filename
        return not self._is_installed and not file.startswith((*_STANDARD_LIBRARY, _PACKAGE, "<frozen"))

    @property
    def _is_installed(self) -> bool:
        return any(folder in self.code.co_filename for folder in _INSTALLED)

    @property
    def distance(self) -> int:
        """0 for the user's own code, 1 for an installed package, which may be their app's, 2 for everything else."""
        if self.is_users:
            return 0
        return 1 if self._is_installed and not self.package.startswith(FRAMEWORKS) else 2


class Stack(NamedTuple):
    """The frames of a thread, innermost first, and its position (see `Activity`)."""

    frames: list[CapturedFrame]
    position: tuple[int, int]


class RawSample(NamedTuple):
    """A sample before its analysis: clocks and stacks."""

    at: float
    late: float
    cpu: CpuTimes
    loop: Stack | None = None
    threads: Mapping[int, Stack] = {}

    def analyse(self, loop: CodeType, handlers: Collection[CodeType]) -> Sample:
        """Find out what the threads were doing.

        Args:
            loop: The code that runs the event loop, from `code_of_loop`.
            handlers: The code objects that call request handlers.
        """
        found = {number: activity_of_thread(stack) for number, stack in self.threads.items()}
        threads = {number: activity for number, activity in found.items() if activity is not None}
        on_loop = activity_of_loop(self.loop, loop, handlers) if self.loop is not None else None
        return Sample(self.at, self.late, self.cpu, on_loop, threads)


def capture(frame: FrameType, responders: Responders = NO_RESPONDERS) -> Stack:
    """Capture a stack from its innermost frame. Quick: the thread moves on once the caller releases the GIL."""
    position = id(frame), frame.f_lasti
    frames: list[CapturedFrame] = []
    next_frame: FrameType | None = frame
    while next_frame is not None:
        code = next_frame.f_code
        if code is RING and next_frame.f_back is not None:  # what the alarm has interrupted is of interest
            next_frame = next_frame.f_back
            position = id(next_frame), next_frame.f_lasti
            frames.clear()
            continue
        job = next_frame.f_locals.get(TASK_ENTRIES[code]) if code in TASK_ENTRIES else None
        handler = responders[code](next_frame) if code in responders else None
        module = next_frame.f_globals.get("__name__", "?")
        frames.append(CapturedFrame(code, next_frame.f_lasti, module, job, handler))
        next_frame = next_frame.f_back
    return Stack(frames, position)


def code_of_loop() -> CodeType:
    """Return the code of the event loop that called this library, or what runs a loop that has no frames.

    asyncio and trio have one function for each callback or step. Its caller also runs signal handlers and destructors.
    """
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        frame = frame.f_back
    caller = frame.f_back
    return caller.f_code if caller is not None and _package(caller) == _package(frame) else frame.f_code


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "?")).partition(".")[0]


def activity_of_loop(stack: Stack, loop: CodeType, handlers: Collection[CodeType]) -> Activity | None:
    """Return what the event loop's thread is doing; None if nobody is to blame, as while it waits for events.

    Args:
        stack: Its stack.
        loop: The code that runs the event loop, from `code_of_loop`. Between two runs of the loop no frame has it.
        handlers: The code objects that call request handlers.
    """
    outermost = max((index for index, frame in enumerate(stack.frames) if frame.code is loop), default=0)
    inside = stack.frames[:outermost]
    for index, entry in enumerate(inside):
        if entry.handler is not None:  # as if it had made the response itself
            handler = CapturedFrame(entry.handler.__code__, -1, entry.handler.__module__)
            return _activity("route", [*inside[: index + 1], handler], stack.position)
        if entry.job is not None:
            if entry.job.backend.runs_sync_on_loop:  # a test wants it there
                return None
            return _activity("step", inside[: index or 1], stack.position, entry.job)
        if entry.code in handlers:
            return _activity("route", inside[:index], stack.position)
        if entry.code is HOOK_CALLER:
            return _activity("other", inside[:index], stack.position)
    return _activity("other", inside, stack.position)


def activity_of_thread(stack: Stack) -> Activity | None:
    """Return what another thread is doing; None if it runs nobody's code."""
    for index, entry in enumerate(stack.frames):
        if entry.job is not None:
            return _activity("thread", stack.frames[: index or 1], stack.position, entry.job)
    return _activity("other", stack.frames, stack.position)


def _activity(
    kind: BlameKind, frames: list[CapturedFrame], position: tuple[int, int], job: Job | None = None
) -> Activity | None:
    """Return the activity of frames, innermost first: its location is the user's innermost frame."""
    caller = _outermost(frames)
    name = job.handle.name if job is not None else caller and caller.name
    if name is None:
        return None
    package = caller and caller.package
    index = next((index for index, frame in enumerate(frames) if frame.is_users or frame.package == package), 0)
    file, line = frames[index].code.co_filename, frames[index].line
    call = frames[index - 1].name if index else _source(file, line)  # functions written in C have no frame
    called = (frame for frame in reversed(frames) if kind == "other" or frame is not caller)
    marked = next((frame.code.co_qualname for frame in called if frame.is_users and frame.is_marked), None)
    return Activity(kind, name, CodeLocation(call or frames[index].name, file, line, marked), position)


def _source(file: str, line: int) -> str:
    source = linecache.getline(file, line).partition("  # ")[0].strip()
    return source if len(source) <= MAX_SOURCE_LENGTH else f"{source[: MAX_SOURCE_LENGTH - 1]}…"


def _outermost(frames: list[CapturedFrame]) -> CapturedFrame | None:
    """Return the outermost of the frames closest to the user; None if all are machinery."""
    named = (frame for frame in reversed(frames) if frame.package not in MACHINERY)
    return min(named, key=lambda frame: frame.distance, default=None)
