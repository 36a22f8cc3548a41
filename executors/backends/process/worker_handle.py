"""`WorkerHandle`: a worker process as the pool sees it, with the job that it runs and those that it has prefetched."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from executors._loops import Cancellable, EventLoop, guarded
from executors._wire import progress
from executors._wire.channel import LoopChannel
from executors._wire.frames import ITEM_TYPES, NOTICES, TYPE_BITS, Frame, FrameType, frame
from executors._wire.payloads import PayloadCodec
from executors._wire.pickling import Buffer
from executors.backends.base import Job
from executors.backends.process import logs
from executors.backends.process.recycling import Recycling
from executors.backends.process.worker_process import ExitWatch, WorkerProcess
from executors.backends.side_thread import SideThread

if TYPE_CHECKING:
    from executors._wire.payloads import Encoded
    from executors._wire.segments import Part
    from executors.backends.process.prefetch import PendingJobs

CHECK_INTERVAL = 1.0
"""Seconds after which it is checked that a worker which has not ended its job has received what it was sent."""

COPY_SIZE = 2 * 1024 * 1024
"""Payloads of up to so many bytes are copied on the loop's thread; larger ones in a thread beside it."""


class Payload(NamedTuple):
    """The pickled call of a stream, or one that is too large for one message: such a job's `token`. Any other job's is
    a frame, which may be prefetched."""

    kind: FrameType
    parts: Sequence[Part]
    size: int


class WorkerHandle:
    """A worker process of the pool. On the loop's thread.

    Args:
        process: The process.
        loop: The running loop.
        copier: Copies large payloads.
        shared: How many bytes of shared memory each side may have.
        recycling: When the worker is to be replaced.
        pending: Takes back the jobs that the process has not begun.
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
        ended_task_id: The id of the last of them; 0 before the first has ended.
        task_limit: After how many jobs it is replaced; None if never.
        is_due: It is to be replaced once it is idle.
        copies: How many large payloads are being copied for it.
        detail: What is known of its end, to follow "the worker process ended". If it is set the current job is lost.
        kill_timer: Kills it if it does not exit in time.
    """

    def __init__(
        self,
        process: WorkerProcess,
        loop: EventLoop,
        copier: SideThread,
        shared: int,
        recycling: Recycling,
        pending: PendingJobs,
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
        self.ended_task_id = 0
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
        self._loop = loop
        self._pending = pending
        self._check: Cancellable | None = None
        self._watch = ExitWatch(process, loop, partial(on_exit, self))
        self.channel = LoopChannel(process.sock, loop, self._on_frame, self._on_garbled)

    # --- jobs -------------------------------------------------------------------------------------------------

    def has(self, job: Job) -> bool:
        """Return whether the worker has been sent this job, and the job has not ended."""
        return job is self.job or job in self.prefetched

    def run(self, job: Job) -> None:
        """Send the worker, which is idle, a job that has started."""
        self.job = job
        if job.number == self.ended_task_id:  # another attempt of its last task: it may have entered this one, too
            self.ended_task_id = 0
        self.began = time.monotonic()
        if self._check is None:
            self._check_later()
        token = job.token
        if type(token) is not bytes:
            self._run_large(job, token)
        elif self.codec.leased or not self.channel.try_send(token):
            self.channel.send([*self.codec.releases(), token])

    def _run_large(self, job: Job, payload: Payload) -> None:
        def encode() -> Encoded:
            return self.codec.encode(payload.kind, payload.parts, job.number)

        releases = self.codec.releases()
        if job.stream is not None:
            releases.append(job.stream.generator.begin(self, job.stream))
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

    def _copied(self, encoded: Encoded | None, error: BaseException | None) -> None:
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
            self._on_notice(kind, task_id, body)
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
        if kind in ITEM_TYPES:
            self._on_items(kind, task_id, parts)
            return False
        if (self.job is None or self.job.number != task_id) and not self._skip_to(task_id):
            return False
        job = self.job
        assert job is not None
        job.handle.cpu_time = cpu_time
        now = time.monotonic()
        self.last_duration = now - self.began
        self.began = now
        self.tasks += 1
        self.ended_task_id = task_id
        self.job = self.prefetched.popleft() if self.prefetched else None
        if self.tasks == self.task_limit or (
            self._memory_at_start and self._recycling.has_grown(self._memory_at_start, self.pid)
        ):
            self.is_due = True
        self._on_outcome(self, job, kind, parts)
        return self.job is not None

    def _on_items(self, kind: int, task_id: int, parts: Sequence[Buffer]) -> None:
        job = self.job
        if job is None or job.number != task_id or job.stream is None:
            self._on_garbled("an item belongs to no stream")
            return
        try:
            job.stream.generator.receive(job.stream, kind, parts)
        except Exception as error:  # noqa: BLE001  (a task has written to the socket)
            self._on_garbled(f"{type(error).__name__}: {error}")

    def _on_notice(self, kind: int, task_id: int, body: bytes | bytearray) -> None:
        if kind == FrameType.LOG:
            guarded(logs.replay, body, self.pid)
            return
        if kind == FrameType.PROGRESS:
            for job in (self.job, *self.prefetched):
                if job is not None and job.number == task_id:
                    job.handle._reported = progress.load(body, task_id) or job.handle._reported
                    _ = job.handle.id  # the task may have read it: from now on it is known
            return
        try:
            self.codec.on_release(kind, body)
        except Exception as error:  # noqa: BLE001  (a task has written to the socket)
            self._on_garbled(f"{type(error).__name__}: {error}")

    # --- a garbled connection ---------------------------------------------------------------------------------

    def _on_garbled(self, detail: str) -> None:
        """A task has written to the connection. It is lost; have the worker end without costing another task."""
        self.detail = f", as its connection was garbled: {detail}"
        self.is_due = True
        self._pending.revoke(self)
        if not self.prefetched:  # otherwise the worker has begun the next job, and the lost one's outcome comes first
            self.process.kill()

    def _check_later(self) -> None:
        if self.process.keeps_messages:
            self._check = self._loop.call_later(CHECK_INTERVAL, self._check_messages)

    def _check_messages(self) -> None:
        """Kill the worker if a task has read one of its messages: the worker would wait for that message forever.

        Then its socket holds no message, although its job has not begun, or jobs are prefetched behind it.
        """
        self._check = None
        job = self.job
        if job is None:
            return
        self._check_later()
        if self.channel.is_sending or self.copies or self.process.has_unread():
            return
        self.channel.receive_all()  # what it had sent before it was seen to have read everything
        if self.job is not job or time.monotonic() - self.began < CHECK_INTERVAL:
            return
        entered_task_id = self.process.entered_task_id()
        if not self._skip_to(entered_task_id) and (self.prefetched or entered_task_id == self.ended_task_id):
            self.detail = ", as its connection was garbled: a task has taken a message"
            self.process.kill()
        elif job.stream is not None:
            job.stream.generator.grant(job.stream.granted)  # again, as a task may have taken that message

    def _skip_to(self, task_id: int) -> bool:
        """Make the prefetched job with this id, which has begun, the current one. The jobs before it are queued again.

        A worker reads its messages in order, so a task has taken those of the skipped jobs.
        """
        if task_id not in [job.number for job in self.prefetched]:
            return False
        self.is_due = True
        skipped = []
        current = self.job
        while self.job is not None and self.job.number != task_id:
            skipped.append(self.job)
            self.job = self.prefetched.popleft()
        assert self.job is not None
        self.job.start()
        self._pending.put_back(skipped, started=current)
        return True

    # --- the end ----------------------------------------------------------------------------------------------

    def trim(self) -> None:
        """Free the shared memory that both sides keep for the next job of the worker, which is idle."""
        if self.codec.in_use and not self.copies:
            releases = self.codec.releases()
            self._copy(lambda: ([*releases, *self.codec.close_free(), frame(FrameType.TRIM)], ()))

    def kill(self) -> None:
        """Kill the process with its group. From here on nobody looks there for what the job has reported."""
        self.keep_progress()
        self.process.kill()

    def keep_progress(self) -> None:
        """Record what the job has reported, as the process ends without an outcome of it."""
        if self.job is not None and (reported := self.process.progress_of(self.job.number)) is not None:
            self.job.handle._reported = reported

    def release(self) -> None:
        """Close everything that is shared with the process, which has ended."""
        self._is_released = True
        for timer in (self.kill_timer, self._check):
            if timer is not None:
                timer.cancel()
        self._watch.close()
        self.channel.close()
        self.process.close()
        if self.copies:
            return  # `_copied` closes the segment that is being written
        if self.codec.in_use:  # which takes a while
            self._copier.call(self.codec.close, lambda *_: None)
        else:
            self.codec.close()
