"""A worker process as the parent sees it: the job it runs, and those that it has been sent ahead of time.

While a worker runs a short task it is sent the next ones, so that it needn't wait for the parent. The parent keeps a
duplicate of the worker's end of their socket, and can take such jobs back as long as the worker hasn't read them: the
kernel hands a message to one reader only, and the worker reads one when it has ended the one before.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from executors._loops import Cancellable, EventLoop
from executors._wire.channel import LoopChannel
from executors._wire.frames import MESSAGE_SIZE, Frame, FrameType, frame
from executors._wire.payloads import PayloadCodec
from executors._wire.pickling import Buffer
from executors.backends.base import Job
from executors.backends.process.recycling import Recycling
from executors.backends.process.worker_process import ExitWatch, WorkerProcess
from executors.backends.side_thread import SideThread

if TYPE_CHECKING:
    from executors._wire.payloads import Wrapped

_DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)

BRISK = 0.005
"""Seconds. A worker is sent as many jobs ahead of time as would take so long together, if each took what its last one
did; and they are taken back from one that has been at a task for longer: handing over costs a hundredth of that."""

MAX_AHEAD = 4
"""How many jobs are sent ahead at most. Together they cost one wake-up on either side."""

_INSTANT = 1e-6  # nothing takes less

COPY_SIZE = 2 * 1024 * 1024
"""Payloads of up to so many bytes are copied on the loop's thread; larger ones beside it."""


class Payload(NamedTuple):
    """The pickled call of a queued job, its `token`, if it is too large for a message; else that is a frame."""

    kind: FrameType
    parts: Sequence[Buffer]
    size: int


class WorkerHandle:
    """A worker process of the pool. On the loop's thread.

    Args:
        launched: The process.
        loop: The running loop.
        copier: Copies large payloads.
        shared: How many bytes of shared memory each side may have.
        recycling: What ends its service.
        heard: Called with this and each frame; returns whether there may be another by now.
        exited: Called with this when the process has ended, before it is reaped.
    """

    def __init__(
        self,
        launched: WorkerProcess,
        loop: EventLoop,
        copier: SideThread,
        shared: int,
        recycling: Recycling,
        heard: Callable[[WorkerHandle, Frame], bool],
        exited: Callable[[WorkerHandle], None],
    ) -> None:
        self.launched = launched
        self.pid = launched.pid
        self.job: Job | None = None
        self.ahead: deque[Job] = deque()
        self.tasks = 0
        self.is_due = False
        """It has done enough, and is to be replaced once it is idle."""
        self.detail = ""
        """What is known of its end."""
        self.patience: Cancellable | None = None
        self.parcels = PayloadCodec(shared)
        self._recycling = recycling
        self._task_limit = recycling.task_limit()
        self._memory_at_start = recycling.memory_of(launched.pid)
        self._copier = copier
        self._copies = 0  # that the copier has yet to make
        self._is_released = False
        self._began = time.monotonic()  # its job, or to be idle
        self._pace = 0  # how many jobs like its last one take no longer than `BRISK`
        self._watch = ExitWatch(launched, loop, partial(exited, self))
        self.channel = LoopChannel(launched.sock, loop, partial(heard, self), self.garbled)

    # --- jobs -------------------------------------------------------------------------------------------------

    def run(self, job: Job) -> None:
        """Send the worker, which is idle, a job that has started."""
        self.job = job
        self._began = time.monotonic()
        payload = job.token
        news = self.parcels.news()
        if type(payload) is not bytes:
            self._run_large(job, payload, news)
        elif news or not self.channel.try_send(payload):
            self.channel.send([*news, payload])

    def _run_large(self, job: Job, payload: Payload, news: list[bytes]) -> None:
        def wrap() -> Wrapped:
            return self.parcels.wrap(payload.kind, payload.parts, job.handle.id)

        if payload.size <= COPY_SIZE:
            parts, descriptors = wrap()
            self.channel.send([*news, *parts], descriptors)
        else:
            self.channel.send(news)
            self._copy(wrap)

    def _copy(self, wrap: Callable[[], Wrapped]) -> None:
        """Make frames beside the loop, and send them."""
        self._copies += 1
        self._copier.call(wrap, self._copied)

    def _copied(self, wrapped: Wrapped | None, error: Exception | None) -> None:
        self._copies -= 1
        if self._is_released:
            if not self._copies:
                self.parcels.close()
        elif wrapped is None:  # no thread to be had, or no memory
            self.detail = f", as the call couldn't be sent: {type(error).__name__}: {error}"
            self.launched.kill()
        else:
            self.channel.send(*wrapped)

    def room_ahead(self) -> int:
        """Return how many further jobs the worker should be sent while it runs one. None before those are used up."""
        if (
            not self._pace
            or self.ahead
            or self.job is None
            or self.is_due
            or self._copies
            or not self.launched.keeps_messages
            or self.is_slow()
        ):
            return 0
        return self._pace if self._task_limit is None else min(self._pace, self._task_limit - self.tasks - 1)

    def send_ahead(self, job: Job) -> bool:
        """Send the worker a job to go on with once it has ended those before; return whether that can be."""
        payload = job.token
        if isinstance(payload, Payload) or not self.channel.try_send(payload):
            return False
        self.ahead.append(job)
        return True

    def is_slow(self) -> bool:
        """Whether the worker has been at its job for long."""
        return time.monotonic() - self._began >= BRISK

    def _has_done_enough(self) -> bool:
        if self._task_limit is not None and self.tasks >= self._task_limit:
            return True
        return self._recycling.has_grown(self._memory_at_start, self.pid)

    def take_back(self) -> list[Job]:
        """Take the jobs back that were sent ahead and that the worker hasn't read, in their order.

        With them comes the one before, where the worker has read one behind it just now: then it runs that.
        """
        job = self.job
        if job is None or not self.ahead:
            return []
        if type(job.token) is not bytes and self.launched.entered_task_id() != job.handle.id:
            return []  # parts of that one may be unread
        unread = self._take_unread()
        taken = [each for each in self.ahead if each.token in unread]
        self.ahead = deque(each for each in self.ahead if each not in taken)
        for each in taken:
            unread.remove(each.token)
        if self.ahead and type(job.token) is bytes:
            for at, message in enumerate(unread):
                if message.endswith(job.token):
                    unread[at] = message.removesuffix(job.token)  # news come before it
                    taken.insert(0, job)
                    self.job = self.ahead.popleft()
                    break
        for message in unread:
            if message:
                self.channel.send([message])
        return taken

    def _take_unread(self) -> list[bytes]:
        """Take all messages that the worker hasn't read. While it waits for one it may still get the next."""
        unread: list[bytes] = []
        while True:
            try:
                unread.append(self.launched.worker_sock.recv(MESSAGE_SIZE, _DONTWAIT))
            except BlockingIOError:
                return unread

    @property
    def idle_since(self) -> float:
        """Since when the worker has no job, by the monotonic clock."""
        return self._began

    def ended(self) -> Job | None:
        """The worker has ended its job, and goes on with the next one sent ahead, if there is one: return that."""
        now = time.monotonic()
        self._pace = min(MAX_AHEAD, int(BRISK / (now - self._began + _INSTANT)))
        self._began = now
        self.tasks += 1
        self.job = self.ahead.popleft() if self.ahead else None
        self.is_due = self.is_due or self._has_done_enough()
        return self.job

    def garbled(self, detail: str) -> None:
        """The worker can't be understood any more."""
        self.detail = f", as what it sent couldn't be read: {detail}"
        self.launched.kill()

    def trim(self) -> None:
        """Give back the shared memory that is kept for its next task; it is idle."""
        if self.parcels.in_use and not self._copies:
            news = self.parcels.news()
            self._copy(lambda: ([*news, *self.parcels.close_free(), frame(FrameType.TRIM)], ()))

    # --- the end ----------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Close what is shared with the process, which has ended."""
        self._is_released = True
        if self.patience is not None:
            self.patience.cancel()
        self._watch.close()
        self.channel.close()
        self.launched.close()
        if self._copies:
            return  # `_copied` closes what is being written to
        if self.parcels.in_use:  # which takes a while
            self._copier.call(self.parcels.close, lambda *_: None)
        else:
            self.parcels.close()
