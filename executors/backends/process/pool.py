"""The pool of worker processes: which job goes to which worker, when one starts and when one ends.

All state is here, and changes on the loop's thread alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from executors._loops import Cancellable, EventLoop, Waiter, guarded
from executors._wire.frames import ABOUT_SEGMENTS, Frame, FrameType, frame
from executors._wire.pickling import Buffer
from executors.backends.backlog import Backlog
from executors.backends.base import Job
from executors.backends.process import logs
from executors.backends.process.launcher import Launcher
from executors.backends.process.recycling import Recycling
from executors.backends.process.starter import Starter
from executors.backends.process.worker_handle import BRISK, WorkerHandle
from executors.backends.process.worker_process import WorkerProcess
from executors.backends.side_thread import SideThread
from executors.errors import WorkerLostError

RETIRE_TIME = 5.0
"""Seconds that a worker has to exit when it is replaced: a task may have left a thread that doesn't end."""

EXIT_TIME = 0.25
"""Seconds that idle workers have to exit when the backend closes."""

TRIM_TIME = 10.0
"""Seconds after which an idle worker and the parent give back the shared memory that they keep for its next task."""

_MAX_HANDOVERS = 3


class Pool:
    """The workers of one run of the backend, and the jobs that wait for them.

    Args:
        loop: The running loop.
        size: How many workers there may be.
        launcher: Starts them.
        shared: How many bytes of shared memory each side of each worker may have.
        recycling: What ends a worker's service.
        answered: Called with a job, the kind and parts of its worker's answer, and the worker's process id.
    """

    def __init__(
        self,
        loop: EventLoop,
        size: int,
        launcher: Launcher,
        shared: int,
        recycling: Recycling,
        answered: Callable[[Job, int, Sequence[Buffer], int], None],
    ) -> None:
        self._loop = loop
        self._size = size
        self._starter = Starter(loop, launcher, self._started, self._stuck)
        self._shared = shared
        self._recycling = recycling
        self._answered = answered
        self._backlog = Backlog()
        self._members: list[WorkerHandle] = []
        self._idle: list[WorkerHandle] = []
        self._leaving: set[WorkerHandle] = set()  # told to exit, or killed
        self._redispatches: dict[int, int] = {}  # of jobs whose workers died before they had begun
        self._modules: set[str] = set()  # whose functions have run in a worker
        self._copier = SideThread("executors-copier", loop)
        self._rounds: Cancellable | None = None
        self._look_again: Cancellable | None = None
        self._closing = False
        self._spares = 1  # how many workers are started for one that is killed, whether a job waits or not
        self._all_gone: Waiter | None = None

    @property
    def unavailable(self) -> str | None:
        """Why no job is taken, if so: no worker is up, and those that were started have failed. Any thread."""
        return None if self._members else self._starter.reason

    # --- jobs -------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queue a job, whose `token` is its pickled call, for the next worker."""
        if self._idle and not len(self._backlog):
            self._assign(job)
        else:
            self._backlog.append(job)
            waiting = len(self._backlog)
            if waiting == 1:  # with others before it there is nobody to take it
                self._schedule()
            elif len(self._members) + self._starter.starting < self._size:
                self._start(waiting - self._starter.starting)

    def cancel(self, job: Job) -> None:
        """Forget a queued job; kill the worker of a running one, with its process group."""
        for member in self._members:
            if job is member.job or job in member.ahead:
                self._stop(member, job)
                self._schedule()
                return
        self._forget(job)

    def _forget(self, job: Job) -> None:
        self._backlog.forget(job)
        if self._redispatches.pop(job.handle.id, None) is not None:
            job.cancelled()  # it had been started, but no worker had begun it

    def _stop(self, member: WorkerHandle, job: Job) -> None:
        """Have a worker never begin a job, or kill it."""
        self._take_back(member)
        if job is member.job and not member.ahead:  # it is what the worker is at
            self._kill(member)
        elif job is member.job or job in member.ahead:  # it has ended, or those before have: that is about to be heard
            member.channel.receive_all()
            if (job is member.job or job in member.ahead) and member in self._members:
                self._loop.call_later(BRISK, self.cancel, job)
        else:
            self._forget(job)

    def _take_back(self, member: WorkerHandle) -> None:
        """Put the jobs back in line that a worker has been sent ahead of time, and hasn't read."""
        first = member.job
        taken = member.take_back()
        for job in reversed(taken):
            if not job.handle.done():
                self._backlog.put_back(job)
                if job is first:
                    self._redispatches.setdefault(job.handle.id, 0)  # it has been started
        if member.job is not None and member.job is not first:
            member.job.start()

    def _schedule(self) -> None:
        """Give queued jobs to workers, and start workers for those that remain."""
        while self._idle and (job := self._next_job()) is not None:
            self._assign(job)
        if self._backlog:
            if len(self._members) < self._size:
                self._start(len(self._backlog) - self._starter.starting)
            if len(self._members) + self._starter.starting >= self._size:
                for member in self._members:
                    if not member.ahead:
                        self._send_ahead(member)
        elif self._idle and self._look_again is None and any(member.ahead for member in self._members):
            self._look_again = self._loop.call_later(BRISK, self._take_another_look)

    def _take_another_look(self) -> None:
        """See to jobs that were sent ahead, and couldn't be taken back when there was an idle worker."""
        self._look_again = None
        self._schedule()

    def _assign(self, job: Job) -> None:
        member = self._idle.pop()  # before the job starts: hooks hear of that, and may submit another
        if job.handle.id in self._redispatches or job.start():
            member.run(job)
        else:
            self._idle.append(member)

    def _next_job(self) -> Job | None:
        """Return the job that is first in line: one sent ahead to a worker that turned out to be slow, or queued."""
        for member in [*self._members]:
            if member.ahead and (not self._backlog or member.is_slow()):
                self._take_back(member)
        return self._backlog.popleft()

    def _send_ahead(self, member: WorkerHandle) -> None:
        """Send a worker its share of what is queued, as far as that would take it next to no time."""
        share = -(-len(self._backlog) // len(self._members))
        for _ in range(min(share, member.room_ahead())):
            job = self._backlog.popleft()
            if job is None:
                return
            if job.handle.id in self._redispatches or not member.send_ahead(job):
                self._backlog.put_back(job)
                return

    def _heard(self, member: WorkerHandle, received: Frame) -> bool:
        """Take in a frame; return whether there may be another by now."""
        kind, task_id, cpu_time, body = received
        if kind == FrameType.LOG:
            guarded(logs.replay, body, member.pid)
        elif kind in ABOUT_SEGMENTS:
            member.parcels.hear(kind, body)
        else:
            parts: Sequence[Buffer]
            try:
                kind, parts = member.parcels.unwrap(kind, body, member.channel.descriptors)
            except OSError as error:
                kind, parts = FrameType.UNSENDABLE, [f"what came of it can't be received: {error}".encode()]
            except Exception as error:  # noqa: BLE001  (a task has written what looks like a frame, and isn't one)
                member.garbled(f"{type(error).__name__}: {error}")
                return False
            job = member.job
            if job is not None and job.handle.id == task_id:
                job.handle.cpu_time = cpu_time
                if kind == FrameType.VALUE:
                    self._modules.add(getattr(job.function, "__module__", None) or "")
                if self._redispatches:
                    self._redispatches.pop(task_id, None)
                self._went_on(member)
                guarded(self._answered, job, kind, parts, member.pid)
                return member.job is not None
        return False

    def _went_on(self, member: WorkerHandle) -> None:
        if not member.tasks:
            self._starter.succeeded()
        following = member.ended()
        is_wanted = following is None or following.start()
        if member in self._leaving:
            return
        if self._closing or len(self._members) > self._size:
            member.is_due = True
        if following is None:
            self._free(member)
        elif not is_wanted:  # it was cancelled, and couldn't be taken back
            self._stop(member, following)
        self._schedule()

    def _free(self, member: WorkerHandle) -> None:
        """A worker has nothing to do."""
        if member.is_due:
            self._retire(member)
        else:
            self._rest(member)

    # --- workers ------------------------------------------------------------------------------------------

    def _start(self, count: int) -> None:
        """Start so many workers, as far as there may be more."""
        room = self._size - len(self._members) - self._starter.starting
        if room > 0 and not self._closing and self._starter.may_start():
            for _ in range(min(count, room)):
                self._starter.start(frozenset(self._modules))

    def _kill(self, member: WorkerHandle) -> None:
        """Kill a worker with its process group, and have another take its place at once."""
        self._leave(member)
        member.launched.kill()
        self._start(self._spares)

    def _retire(self, member: WorkerHandle) -> None:
        """Have an idle worker exit."""
        self._leave(member)
        member.channel.send([frame(FrameType.EXIT)])
        member.patience = self._loop.call_later(RETIRE_TIME, member.launched.kill)

    def _leave(self, member: WorkerHandle) -> None:
        self._members.remove(member)
        self._leaving.add(member)

    def resize(self, size: int) -> None:
        """Have so many workers at most. Those that are too many end once they are idle."""
        self._size = size
        while self._idle and len(self._members) > size:
            self._retire(self._idle.pop(0))
        self._schedule()

    def _started(self, launched: WorkerProcess) -> None:
        member = WorkerHandle(
            launched, self._loop, self._copier, self._shared, self._recycling, self._heard, self._exited
        )
        self._members.append(member)
        if self._closing:
            self._kill(member)
        elif len(self._members) > self._size:  # since fewer are wanted
            self._retire(member)
        else:
            self._rest(member)
            self._schedule()

    def _stuck(self) -> None:
        """A start has failed, or may be tried again."""
        if self.unavailable:
            reason = f": {self.unavailable}"
            while (job := self._backlog.popleft()) is not None:
                self._redispatches.pop(job.handle.id, None)
                job.lost(WorkerLostError(job.handle.name, job.handle.id, None, None, reason))
        self._schedule()
        self._check_gone()

    def _rest(self, member: WorkerHandle) -> None:
        self._idle.append(member)
        if self._rounds is None:
            self._rounds = self._loop.call_later(self._recycling.round_time(TRIM_TIME), self._make_rounds)

    def _make_rounds(self) -> None:
        """Look after workers that have been idle for a while."""
        self._rounds = None
        now = time.monotonic()
        resting, self._idle = self._idle, []
        for member in resting:
            if self._recycling.is_idle_for_long(now - member.idle_since):
                self._retire(member)
            else:
                member.trim()
                self._idle.append(member)
        if self._idle:
            self._rounds = self._loop.call_later(self._recycling.round_time(TRIM_TIME), self._make_rounds)

    def _exited(self, member: WorkerHandle) -> None:
        is_unexpected = member in self._members
        is_unused = is_unexpected and not member.tasks and member.job is None
        if is_unexpected:
            self._leave(member)
            if not is_unused:
                self._start(self._spares)  # first, as it takes a while
        if member in self._idle:
            self._idle.remove(member)
        member.channel.receive_all()  # it may have answered before it ended
        entered = member.launched.entered()
        exitcode = member.launched.reap()
        self._leaving.remove(member)
        if member.job is not None:
            jobs = [member.job, *member.ahead]
            begun = next((at + 1 for at, job in enumerate(jobs) if job.handle.id == entered), 0)
            for job in reversed(jobs[max(begun, 1) :]):
                self._backlog.put_back(job)
            for job in jobs[1:begun]:  # and the word of what came before it is lost
                if job.start():
                    self._lost(member, job, exitcode, begun=True)
            self._lost(member, member.job, exitcode, begun=begun > 0)
        member.release()
        if is_unused and not self._closing:
            self._starter.failed(f"the process ended with exit code {exitcode} before it had a task")
        self._schedule()
        self._check_gone()

    def _lost(self, member: WorkerHandle, job: Job, exitcode: int | None, *, begun: bool) -> None:
        task_id = job.handle.id
        redispatches = self._redispatches.pop(task_id, 0) + 1
        if job.stop is not None or job.handle.done():
            job.cancelled()
        elif begun or redispatches == _MAX_HANDOVERS:
            job.lost(WorkerLostError(job.handle.name, task_id, member.pid, exitcode, member.detail))
        else:
            self._redispatches[task_id] = redispatches
            self._backlog.put_back(job)

    # --- the end ------------------------------------------------------------------------------------------

    def expect_no_more(self) -> None:
        """Start no worker that no queued job needs."""
        self._spares = 0

    async def close(self, patience: float = 0.0) -> None:
        """End every worker: have idle ones exit, kill the others, and wait until all are reaped.

        Args:
            patience: How many seconds longer than usual idle workers have.
        """
        self._closing = True
        self._starter.stop()
        self._all_gone = self._loop.new_waiter()
        for timer in (self._rounds, self._look_again):
            if timer is not None:
                timer.cancel()
        for member in list(self._members):
            if member in self._idle:
                self._retire(member)
            else:
                self._kill(member)
        self._idle.clear()
        impatience = self._loop.call_later(EXIT_TIME + patience, self._kill_all)
        self._check_gone()
        await self._all_gone
        impatience.cancel()
        await self._copier.wait_closed()
        await self._starter.close()

    def _kill_all(self) -> None:
        for member in self._leaving:
            member.launched.kill()

    def _check_gone(self) -> None:
        if self._all_gone is not None and not (self._members or self._leaving or self._starter.starting):
            self._loop.wake(self._all_gone)

    def kill(self) -> None:
        """Kill and reap every worker, now. Any thread."""
        self._closing = True
        members = [*self._members, *self._leaving]
        self._members, self._leaving = [], set()
        for member in members:
            member.launched.kill()
            member.launched.reap()
            member.release()
        self._idle.clear()
        self._starter.kill()
        self._copier.close(wait=False)
