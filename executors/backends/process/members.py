"""A worker process as the parent sees it: the job it runs, and the one that it has been sent ahead of time.

While a worker runs a short task it is sent the next one, so that it needn't wait for the parent. The parent keeps a
duplicate of the worker's end of their socket, and can take such a job back as long as the worker hasn't read it: the
kernel hands a message to one reader only.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from executors.backends.base import Job
from executors.backends.process.channel import MESSAGE_SIZE, Buffer, Frame, Kind, LoopChannel, frame
from executors.backends.process.launched import ExitWatch, Launched
from executors.backends.process.parcels import Parcels
from executors.backends.process.recycling import Recycling
from executors.backends.process.side_thread import SideThread
from executors.loops import Cancellable, EventLoop

if TYPE_CHECKING:
    from executors.backends.process.parcels import Wrapped

_DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)

BRISK = 0.005
"""Seconds. A worker whose last task took less is sent its next one ahead of time, and one is taken back from a worker
that has been at a task for longer: handing it over costs a hundredth of that."""

COPY_SIZE = 2 * 1024 * 1024
"""Payloads of up to so many bytes are copied on the loop's thread; larger ones beside it."""


class Payload(NamedTuple):
    """The pickled call of a queued job, its `token`, if it is too large for a message; else that is a frame."""

    kind: Kind
    parts: Sequence[Buffer]
    size: int


class Member:
    """A worker process of the pool. On the loop's thread.

    Args:
        launched: The process.
        loop: The running loop.
        copier: Copies large payloads.
        shared: How many bytes of shared memory each side may have.
        recycling: What ends its service.
        heard: Called with this and each frame.
        exited: Called with this when the process has ended, before it is reaped.
    """

    def __init__(
        self,
        launched: Launched,
        loop: EventLoop,
        copier: SideThread,
        shared: int,
        recycling: Recycling,
        heard: Callable[[Member, Frame], None],
        exited: Callable[[Member], None],
    ) -> None:
        self.launched = launched
        self.pid = launched.pid
        self.job: Job | None = None
        self.ahead: Job | None = None
        self.tasks = 0
        self.is_due = False
        """It has done enough, and is to be replaced once it is idle."""
        self.detail = ""
        """What is known of its end."""
        self.patience: Cancellable | None = None
        self.parcels = Parcels(shared)
        self._recycling = recycling
        self._task_limit = recycling.task_limit()
        self._memory_at_start = recycling.memory_of(launched.pid)
        self._copier = copier
        self._copies = 0  # that the copier has yet to make
        self._is_released = False
        self._began = time.monotonic()  # its job, or to be idle
        self._is_brisk = False
        self._watch = ExitWatch(launched, loop, lambda: exited(self))
        self.channel = LoopChannel(launched.sock, loop, lambda received: heard(self, received), self.garbled)

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

    def may_pull_ahead(self) -> bool:
        """Whether the worker should be sent a further job while it runs one."""
        return (
            self._is_brisk
            and not self.is_due
            and self.job is not None
            and self.ahead is None
            and not self._copies
            and self.launched.keeps_messages
            and (self._task_limit is None or self.tasks + 1 < self._task_limit)
            and not self.is_slow()
        )

    def pull_ahead(self, job: Job) -> bool:
        """Send the worker a job to begin with once it has ended its own; return whether that can be."""
        payload = job.token
        if isinstance(payload, Payload) or not self.channel.try_send(payload):
            return False
        self.ahead = job
        return True

    def is_slow(self) -> bool:
        """Whether the worker has been at its job for long."""
        return time.monotonic() - self._began >= BRISK

    def _has_done_enough(self) -> bool:
        if self._task_limit is not None and self.tasks >= self._task_limit:
            return True
        return self._recycling.has_grown(self._memory_at_start, self.pid)

    def take_back(self) -> Job | None:
        """Take a job back that the worker hasn't read; None if it has read all.

        That is the job sent ahead; or the one before it, where the worker read the other just now: then it runs that.
        """
        if self.job is None or self.ahead is None:
            return None
        if type(self.job.token) is not bytes and self.launched.entered() != self.job.handle.id:
            return None  # parts of that one may be unread
        unread = self._take_unread()
        taken = None
        if self.ahead.token in unread:
            unread.remove(self.ahead.token)
            taken, self.ahead = self.ahead, None
        else:
            for at, message in enumerate(unread):
                if message.endswith(self.job.token):
                    unread[at] = message.removesuffix(self.job.token)  # news come before it
                    taken, self.job, self.ahead = self.job, self.ahead, None
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
                unread.append(self.launched.theirs.recv(MESSAGE_SIZE, _DONTWAIT))
            except BlockingIOError:
                return unread

    @property
    def idle_since(self) -> float:
        """Since when the worker has no job, by the monotonic clock."""
        return self._began

    def ended(self) -> Job | None:
        """The worker has ended its job, and goes on with the one sent ahead, if there is one: return that."""
        now = time.monotonic()
        self._is_brisk = now - self._began < BRISK
        self._began = now
        self.tasks += 1
        self.job, self.ahead = self.ahead, None
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
            self._copy(lambda: ([*news, *self.parcels.close_free(), frame(Kind.TRIM)], ()))

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
