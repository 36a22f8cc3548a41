"""What a thread was seen doing: whose code, where, and on whose behalf."""

from __future__ import annotations

import linecache
import math
import os
import sys
import sysconfig
from collections.abc import Collection
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

from executors.backends.base import Job
from executors.backends.inline import InlineBackend
from executors.backends.loop import LoopBackend
from executors.monitor.report import BlameKind

TASK_ENTRIES = {LoopBackend._run.__code__: "job", Job.run.__code__: "self"}
"""What calls a task's function, and the local variable that has its job. In threads what their CPU clock showed then is
in `cpu_began`."""

IN_PLACE = InlineBackend.submit.__code__
"""What runs plain functions on the loop's thread because a test wants them there: nobody is to be told."""

MACHINERY = frozenset({"asyncio", "anyio", "concurrent", "executors", "selectors", "threading", "trio", "uvloop"})
"""Packages that run others' code, and are nobody's reason for it."""

FRAMEWORKS = ("quart", "flask", "werkzeug", "hypercorn", "uvicorn")
"""What the names of packages begin with that call an app's code, or wrap it: of installed code that is named last."""

MAX_SOURCE = 60
"""Characters of a line of source that are shown."""

_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"
_STANDARD_LIBRARY = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib"))
_INSTALLED = (f"site-packages{os.sep}", f"dist-packages{os.sep}")


class Place(NamedTuple):
    """Where code was seen.

    Attributes:
        what: What was called there.
        file: The file of the line where the author's own code stood.
        line: The line's number.
    """

    what: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.what} ({Path(self.file).name}:{self.line})"


class Sighting(NamedTuple):
    """What a thread was doing at one moment.

    Attributes:
        kind: On whose behalf, as `Blame.kind`.
        name: The task's, or of what is no task its module and function.
        place: Where.
        position: The same for as long as the thread hasn't moved on.
        began: What the thread's CPU clock showed when the task's function was called there.
    """

    kind: BlameKind
    name: str
    place: Place
    position: tuple[int, int]
    began: float = math.inf


class Spot(NamedTuple):
    """One frame of a stack, as it was."""

    code: CodeType
    instruction: int
    module: str
    job: Job | None
    began: float

    @property
    def name(self) -> str:
        """The function's name, with its module's."""
        return f"{self.module}.{self.code.co_qualname}"

    @property
    def line(self) -> int:
        """The number of the line where it stood."""
        for begin, end, line in self.code.co_lines():
            if line is not None and begin <= self.instruction < end:
                return line
        return self.code.co_firstlineno

    @property
    def package(self) -> str:
        """The outermost package that it belongs to."""
        return self.module.partition(".")[0]

    @property
    def is_machinery(self) -> bool:
        """Whether it only runs what others have written."""
        return self.package in MACHINERY

    @property
    def is_authors(self) -> bool:
        """Whether it is neither the standard library's nor that of an installed package."""
        file = self.code.co_filename
        return not self._is_installed and not file.startswith((*_STANDARD_LIBRARY, _PACKAGE, "<frozen"))

    @property
    def _is_installed(self) -> bool:
        return any(folder in self.code.co_filename for folder in _INSTALLED)

    @property
    def distance(self) -> int:
        """How far from the author it is: his own, an installed package's, which may be his app's, or anything else."""
        if self.is_authors:
            return 0
        return 1 if self._is_installed and not self.package.startswith(FRAMEWORKS) else 2


class Stack(NamedTuple):
    """The frames of a thread, innermost first, and what tells this moment from the next."""

    spots: list[Spot]
    position: tuple[int, int]


def stack_of(frame: FrameType) -> Stack:
    """Note a thread's stack. Quick, as the thread moves on when the calling one lets go of the interpreter's lock."""
    position = id(frame), frame.f_lasti
    spots: list[Spot] = []
    inner: FrameType | None = frame
    while inner is not None:
        code = inner.f_code
        job, began = None, math.inf
        if code in TASK_ENTRIES:
            known = inner.f_locals
            job, began = known.get(TASK_ENTRIES[code]), known.get("cpu_began", math.inf)
        spots.append(Spot(code, inner.f_lasti, inner.f_globals.get("__name__", "?"), job, began))
        inner = inner.f_back
    return Stack(spots, position)


def code_of_loop() -> CodeType:
    """Return the code that has called this library here: the event loop's, or what runs one that has no frames."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code


def look_at_loop(stack: Stack, loop: CodeType, handlers: Collection[CodeType]) -> Sighting | None:
    """Tell what the loop's thread is doing; None where that is nobody's code, as while it waits for events.

    Args:
        stack: Its stack.
        loop: What calls everything that runs on the loop, from `code_of_loop`. It isn't there between two runs.
        handlers: What calls the handler of a request.
    """
    outermost = max((index for index, spot in enumerate(stack.spots) if spot.code is loop), default=0)
    inside = stack.spots[:outermost]
    for index, entry in enumerate(inside):
        if entry.job is not None:
            return _sighting("step", inside[: index or 1], stack.position, entry.job)
        if entry.code is IN_PLACE:
            return None
        if entry.code in handlers:
            return _sighting("route", inside[:index], stack.position)
    return _sighting("other", inside, stack.position)


def look_at_thread(stack: Stack) -> Sighting | None:
    """Tell what another thread is doing; None where that is nobody's code."""
    for index, entry in enumerate(stack.spots):
        if entry.job is not None:
            seen = _sighting("thread", stack.spots[: index or 1], stack.position, entry.job)
            return seen and seen._replace(began=entry.began)
    return _sighting("other", stack.spots, stack.position)


def _sighting(kind: BlameKind, spots: list[Spot], position: tuple[int, int], job: Job | None = None) -> Sighting | None:
    """Make one of frames, innermost first: the author's innermost is where, and the one inside of it what."""
    caller = _outermost(spots)
    name = job.handle.name if job is not None else caller and caller.name
    if name is None:
        return None
    package = caller and caller.package
    index = next((index for index, spot in enumerate(spots) if spot.is_authors or spot.package == package), 0)
    file, line = spots[index].code.co_filename, spots[index].line
    what = spots[index - 1].name if index else _source(file, line)  # what is written in C has no frame
    return Sighting(kind, name, Place(what or spots[index].name, file, line), position)


def _source(file: str, line: int) -> str:
    source = linecache.getline(file, line).partition("  # ")[0].strip()
    return source if len(source) <= MAX_SOURCE else f"{source[: MAX_SOURCE - 1]}…"


def _outermost(spots: list[Spot]) -> Spot | None:
    """Return what has called all the rest, as near to the author as there is; None if that is machinery alone."""
    named = (spot for spot in reversed(spots) if not spot.is_machinery)
    return min(named, key=lambda spot: spot.distance, default=None)
