"""`WorkerHandle`: a worker process as the pool sees it, with the job that it runs and those that it has prefetched."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from executors._loops import Cancellable, EventLoop, guarded
from executors._wire.channel import LoopChannel
from executors._wire.frames import NOTICES, TYPE_BITS, Frame, FrameType, frame
from executors._wire.payloads import PayloadCodec
from executors._wire.pickling import Buffer
from executors.backends.base import Job
from executors.backends.process import logs
from executors.backends.process.recycling import Recycling
from executors.backends.process.worker_process import ExitWatch, WorkerProcess
from executors.backends.side_thread import SideThread

if TYPE_CHECKING:
    from executors._wire.payloads import Encoded

COPY_SIZE = 2 * 1024 * 1024
"""Payloads of up to so many bytes are copied on the loop's thread; larger ones in a thread beside it."""


class Payload(NamedTuple):
    """The pickled call of a job that is too large for one message: such a job's `token`. Any other job's is a frame."""

    kind: FrameType
    parts: Sequence[Buffer]
    size: int


class WorkerHandle:
    """A worker process of the pool. On the loop's thread.

    Args:
        process: The process.
        loop: The running loop.
        copier: Copies large payloads.
        shared: How many bytes of shared memory each side may have.
        recycling: When the worker is to be replaced.
        on_outcome: Called with this, a job that has ended, the kind of its outcome and the parts of that. The worker is
            at its next prefetched job by then, or idle.
        on_exit: Called with this when the process has ended, before it is reaped.

    Attributes:
        name: What messages call it.
        job: The job that the worker runs, or has been sent and is about to run; None while it is idle.
        prefetched: The jobs that it has been sent to run after that one.
        began: When it began its job, or became idle, by the monotonic clock.
        last_duration: How many seconds its last job took; None before the first has ended.
        tasks: How many jobs it has ended.
        task_limit: After how many jobs it is replaced; None if never.
        is_due: It is to be replaced once it is idle.
        copies: How many large payloads are being copied for it.
        detail: What is known of its end, to follow "the worker process ended".
        kill_timer: Kills it if it does not exit in time.
    """

    def __init__(
        self,
        process: WorkerProcess,
        loop: EventLoop,
        copier: SideThread,
        shared: int,
        recycling: Recycling,
        on_outcome: Callable[[WorkerHandle, Job, int, Sequence[Buffer]], None],
        on_exit: Callable[[WorkerHandle], None],
    ) -> None:
        self.process = process
        self.pid = process.pid
        self.name = f"worker process {process.pid}"
        self.job: Job | None = None
        self.prefetched: deque[Job] = deque()
        self.began = time.monotonic()
        self.last_duration: float | None = None
        self.tasks = 0
        self.task_limit = recycling.task_limit()
        self.is_due = False
        self.copies = 0
        self.detail = ""
        self.kill_timer: Cancellable | None = None
        self.codec = PayloadCodec(shared)
        self._copier = copier
        self._recycling = recycling
        self._memory_at_start = recycling.memory_of(process.pid)
        self._is_released = False
        self._on_outcome = on_outcome
        self._watch = ExitWatch(process, loop, partial(on_exit, self))
        self.channel = LoopChannel(process.sock, loop, self._on_frame, self._on_garbled)

    # --- jobs -------------------------------------------------------------------------------------------------

    def has(self, job: Job) -> bool:
        """Return whether the worker has been sent this job, and the job has not ended."""
        return job is self.job or job in self.prefetched

    def run(self, job: Job) -> None:
        """Send the worker, which is idle, a job that has started."""
        self.job = job
        self.began = time.monotonic()
        token = job.token
        if type(token) is not bytes:
            self._run_large(job, token)
        elif self.codec.leased or not self.channel.try_send(token):
            self.channel.send([*self.codec.releases(), token])

    def _run_large(self, job: Job, payload: Payload) -> None:
        def encode() -> Encoded:
            return self.codec.encode(payload.kind, payload.parts, job.handle.id)

        releases = self.codec.releases()
        if payload.size <= COPY_SIZE:
            parts, descriptors = encode()
            self.channel.send([*releases, *parts], descriptors)
        else:
            self.channel.send(releases)
            self._copy(encode)

    def _copy(self, encode: Callable[[], Encoded]) -> None:
        """Make frames in the copier's thread, and send them."""
        self.copies += 1
        self._copier.call(encode, self._copied)

    def _copied(self, encoded: Encoded | None, error: Exception | None) -> None:
        self.copies -= 1
        if self._is_released:
            if not self.copies:
                self.codec.close()
        elif encoded is None:  # the system has no thread or no memory left
            self.detail = f", as the call couldn't be sent: {type(error).__name__}: {error}"
            self.process.kill()
        else:
            self.channel.send(*encoded)

    def _on_frame(self, received: Frame) -> bool:
        """Handle a frame; return whether another may have come by now."""
        kind, task_id, cpu_time, body = received
        if kind in NOTICES:
            self._on_notice(kind, body)
            return False
        parts: Sequence[Buffer] = (body,)
        if kind > TYPE_BITS:
            try:
                kind, parts = self.codec.decode(kind, body, self.channel.descriptors)
            except OSError as error:
                kind, parts = FrameType.UNSENDABLE, [f"its outcome can't be received: {error}".encode()]
            except Exception as error:  # noqa: BLE001  (a task has written to the socket)
                self._on_garbled(f"{type(error).__name__}: {error}")
                return False
        job = self.job
        if job is None or job.handle.id != task_id:
            return False
        job.handle.cpu_time = cpu_time
        now = time.monotonic()
        self.last_duration = now - self.began
        self.began = now
        self.tasks += 1
        self.job = self.prefetched.popleft() if self.prefetched else None
        if self.tasks == self.task_limit or (
            self._memory_at_start and self._recycling.has_grown(self._memory_at_start, self.pid)
        ):
            self.is_due = True
        self._on_outcome(self, job, kind, parts)
        return self.job is not None

    def _on_notice(self, kind: int, body: bytes | bytearray) -> None:
        if kind == FrameType.LOG:
            guarded(logs.replay, body, self.pid)
        else:
            self.codec.on_release(kind, body)

    def _on_garbled(self, detail: str) -> None:
        """Kill the worker: what follows in its socket can't be read."""
        self.detail = f", as what it sent couldn't be read: {detail}"
        self.process.kill()

    # --- the end ----------------------------------------------------------------------------------------------

    def trim(self) -> None:
        """Free the shared memory that both sides keep for the next job of the worker, which is idle."""
        if self.codec.in_use and not self.copies:
            releases = self.codec.releases()
            self._copy(lambda: ([*releases, *self.codec.close_free(), frame(FrameType.TRIM)], ()))

    def release(self) -> None:
        """Close everything that is shared with the process, which has ended."""
        self._is_released = True
        if self.kill_timer is not None:
            self.kill_timer.cancel()
        self._watch.close()
        self.channel.close()
        self.process.close()
        if self.copies:
            return  # `_copied` closes the segment that is being written
        if self.codec.in_use:  # which takes a while
            self._copier.call(self.codec.close, lambda *_: None)
        else:
            self.codec.close()
