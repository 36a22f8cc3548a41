"""What is let in: bounds on what is queued, those who wait for room in turn, limits per function."""

from __future__ import annotations

import enum
import threading
from collections import deque
from collections.abc import Callable, Mapping

from executors._loops import EventLoop, Waiter
from executors.backends.backlog import Backlog
from executors.backends.base import ExecutorBackend, Job
from executors.errors import BackendUnavailableError, ExecutorClosedError, QueueFullError


class Phase(enum.Enum):
    """Whom the executor takes work from."""

    OPEN = "open"
    DRAINING = "draining"
    """Only from its own unfinished tasks."""
    CLOSED = "closed"


class _Place:
    """One who waits for room in a queue."""

    __slots__ = ("granted", "inside", "waiter")

    def __init__(self, waiter: Waiter, inside: bool) -> None:
        self.waiter = waiter
        self.inside = inside
        self.granted = False


class _Queue:
    """How much is queued for one backend, and who waits for room."""

    __slots__ = ("backend", "queued", "waiting")

    def __init__(self, backend: ExecutorBackend) -> None:
        self.backend = backend
        self.queued = 0
        self.waiting: deque[_Place] = deque()


class Admission:
    """Decides whether a task is let in. Counts queued tasks only: running ones take no room.

    Args:
        loop: The executor's loop.
        backends: The backends by name.
        limit: How many tasks each may have queued.
        is_inside: Whether the calling code belongs to an unfinished task of this executor. Asked during a drain.
    """

    def __init__(
        self, loop: EventLoop, backends: Mapping[str, ExecutorBackend], limit: int, is_inside: Callable[[], bool]
    ) -> None:
        self._loop = loop
        self._limit = limit
        self._is_inside = is_inside
        self._lock = threading.RLock()  # a waiting `run` may be collected as garbage by a thread that is in here
        self._queues = {name: _Queue(backend) for name, backend in backends.items()}
        self.phase = Phase.OPEN

    def queued(self, backend: str) -> int:
        """Return how many tasks are queued there. Any thread."""
        return self._queues[backend].queued

    def check(self, backend: ExecutorBackend) -> None:
        """Let a task in that takes no place in a queue, as it starts at once. On the loop's thread: takes no lock.

        Raises:
            ExecutorClosedError: Nothing is taken at present.
            BackendUnavailableError: The backend can't run anything.
        """
        if self.phase is not Phase.OPEN and not (self.phase is Phase.DRAINING and self._is_inside()):
            raise ExecutorClosedError(
                "the executor is draining, and takes work only from its own unfinished tasks"
                if self.phase is Phase.DRAINING
                else "the executor has been drained: start it again with `async with`, or with its app"
            )
        reason = backend.unavailable
        if reason is not None:
            raise BackendUnavailableError(backend.name, reason)

    def admit(self, backend: str) -> None:
        """Take a place in the backend's queue, at once. Any thread; raises as `check`.

        Raises:
            QueueFullError: There is no room.
        """
        if not self.admit_if_room(backend):
            raise QueueFullError(backend, self._limit)

    def admit_if_room(self, backend: str) -> bool:
        """Take a place in the backend's queue if there is room; return whether it did. Else as `admit`."""
        queue = self._queues[backend]
        with self._lock:
            if self.phase is not Phase.OPEN or queue.backend.unavailable is not None:
                self.check(queue.backend)
            if queue.queued >= self._limit:
                return False
            queue.queued += 1
            return True

    async def wait_for_place(self, backend: str) -> None:
        """Take a place in the backend's queue, waiting in turn for room. On the executor's loop.

        Raises:
            ExecutorClosedError: Nothing is taken at present, or a drain began meanwhile.
            BackendUnavailableError: The backend can't run anything.
        """
        queue = self._queues[backend]
        with self._lock:
            if self.admit_if_room(backend):
                return
            place = _Place(self._loop.new_waiter(), self._is_inside())
            queue.waiting.append(place)
        try:
            await place.waiter
        except BaseException:
            with self._lock:
                if place.granted:
                    self._free(queue)
                elif place in queue.waiting:
                    queue.waiting.remove(place)
            raise
        with self._lock:
            try:
                self.check(queue.backend)  # a drain may have begun since it was granted
            except BaseException:
                if place.granted:
                    self._free(queue)
                raise
        if not place.granted:
            raise ExecutorClosedError("the executor was drained while this task waited for room in its queue")

    def left_queue(self, backend: str) -> None:
        """A queued task has started, or ended unstarted. Any thread."""
        queue = self._queues[backend]
        with self._lock:
            if queue.waiting:
                self._free(queue)
            else:
                queue.queued -= 1

    def _free(self, queue: _Queue) -> None:
        """Hand the room to the first who waits, so that no newcomer takes it."""
        if queue.waiting:
            place = queue.waiting.popleft()
            place.granted = True
            self._wake(place)
        else:
            queue.queued -= 1

    def _wake(self, place: _Place) -> None:
        if self._loop.owns_this_thread():
            place.waiter.wake()
        else:
            self._loop.post(place.waiter.wake)

    def enter(self, phase: Phase) -> None:
        """Take work from fewer, and turn away those who waited and may no longer. On the loop's thread."""
        with self._lock:
            self.phase = phase
            for queue in self._queues.values():
                for place in list(queue.waiting):
                    if not (phase is Phase.DRAINING and place.inside):
                        queue.waiting.remove(place)
                        self._wake(place)


class ConcurrencyLimits:
    """Holds back tasks of a function that has as many under way as it may have. On the loop's thread."""

    def __init__(self) -> None:
        self._under_way: dict[int, int] = {}  # by the function's id; its jobs keep it alive
        self._held: dict[int, Backlog] = {}

    def may_go(self, job: Job) -> bool:
        """Count the job as under way and return True, or hold it back."""
        limit = job.options.max_concurrency
        if limit is None:
            return True
        key = id(job.key)
        under_way = self._under_way.get(key, 0)
        if under_way >= limit:
            self._held.setdefault(key, Backlog()).append(job)
            return False
        self._under_way[key] = under_way + 1
        job.counted = True
        return True

    def forget(self, job: Job) -> bool:
        """Drop a job whose handle has become final if it is held back; return whether it was."""
        if job.options.max_concurrency is None or job.counted:
            return False
        self._held[id(job.key)].forget(job)
        return True

    def left(self, job: Job) -> Job | None:
        """A job has ended: return one that was held back and is now to be asked again, if there is one."""
        if not job.counted:
            return None
        job.counted = False
        key = id(job.key)
        self._under_way[key] -= 1
        held = self._held.get(key)
        following = held.popleft() if held is not None else None
        if following is None:
            self._held.pop(key, None)
            if not self._under_way[key]:
                del self._under_way[key]
        return following
