"""The server's end of a stream from a worker: decodes its items, and grants it further ones."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from executors._wire import pickling
from executors._wire.frames import CREDIT_COUNT, FrameType, frame
from executors._wire.pickling import Buffer
from executors.backends.job import INLINE_LIMIT
from executors.backends.side_thread import SideThread

if TYPE_CHECKING:
    from executors.backends.process.worker_handle import WorkerHandle


class _Item:
    """A pickled item, which is unpickled as the consumer takes it."""

    __slots__ = ("_parts",)

    is_ready = True

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self._parts = parts

    def load(self) -> Any:
        return pickling.loads(self._parts)


class _LargeItem:
    """An item that is unpickled in a thread.

    Args:
        parts: Its payload.
        thread: The thread.
        stream: Its stream, whose consumer is woken then.
    """

    __slots__ = ("_error", "_stream", "_value", "is_ready")

    def __init__(self, parts: Sequence[Buffer], thread: SideThread, stream: Any) -> None:
        self.is_ready = False
        self._stream = stream
        thread.call(lambda: pickling.loads_in_thread(parts), self._loaded)

    def _loaded(self, value: Any, error: BaseException | None) -> None:
        self._value, self._error = value, error
        self.is_ready = True
        self._stream.wake_consumer()

    def load(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


class WorkerGenerator:
    """A generator in a worker, as its stream sees it. On the loop's thread.

    Args:
        number: The number of its task.
        thread: Unpickles large items.
    """

    def __init__(self, number: int, thread: SideThread) -> None:
        self._number = number
        self._thread = thread
        self._worker: WorkerHandle | None = None
        self._received = 0

    def begin(self, worker: WorkerHandle, stream: Any) -> bytes:
        """Return the frame that precedes the job.

        Args:
            worker: The worker that runs the job from now on.
            stream: The job's stream.
        """
        self._worker = worker
        return self._credit(stream.granted)

    def _credit(self, count: int) -> bytes:
        return frame(FrameType.CREDIT, CREDIT_COUNT.pack(count), self._number)

    def receive(self, stream: Any, kind: int, parts: Sequence[Buffer]) -> None:
        """Add items to the stream.

        Args:
            stream: The stream.
            kind: The type of their frame.
            parts: Its payload.

        Raises:
            Exception: A task has written the frame, not its worker.
        """
        items = [parts] if kind == FrameType.ITEM else [[data] for data in pickle.loads(parts[0])]
        self._received += len(items)
        if self._received > stream.granted:
            raise ValueError("the stream has more items than it may")
        for item in items:
            if len(item[0]) <= INLINE_LIMIT:
                stream.put(_Item(item))
            else:
                stream.put(_LargeItem(item, self._thread, stream))

    def grant(self, count: int) -> None:
        """Let it yield up to `count` items in total since its start."""
        self._send(self._credit(count))

    def close(self) -> None:
        """Have the worker close it at its next item."""
        self._send(frame(FrameType.CLOSE, task_id=self._number))

    def _send(self, message: bytes) -> None:
        worker = self._worker
        if worker is None or worker.job is None or worker.job.number != self._number:
            return
        if worker.codec.leased or not worker.channel.try_send(message):
            worker.channel.send([*worker.codec.releases(), message])
