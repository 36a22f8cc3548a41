"""Streams in a worker: sends the items that a generator yields, as many as the server has granted.

Items that follow each other quickly are sent together, and none waits for longer than `SEND_INTERVAL`, also while the
generator computes the next one.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from contextlib import aclosing, closing, suppress

from executors._wire import pickling
from executors._wire.frames import CREDIT_COUNT, SEGMENT_NOTICES, FrameType, frame
from executors.errors import SerializationError, TaskCancelledError

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from typing import Any

    from executors._wire.channel import BlockingChannel
    from executors._wire.payloads import PayloadCodec
    from executors._worker.logging import Outbox
    from executors._worker.runner import RunningJob

SEND_INTERVAL = 0.001
"""Seconds. An item that comes so long after the last frame is sent at once."""

MAX_SMALL = 16 * 1024
"""The largest pickle, in bytes, of an item that is sent together with others."""

MAX_BATCH = 32 * 1024
"""From how many bytes on items are sent without waiting for others."""


class ItemSender:
    """Sends the items of one stream. In the main thread, unless a method says otherwise.

    Args:
        channel: The worker's end of the connection. Here it is read between items: no job comes during a stream.
        outbox: Sends frames over it.
        codec: Encodes large items.
        job: The stream's task.
        granted: Its task id, and the body of the first `CREDIT`.
        max_payload: How many bytes an item may have.
    """

    def __init__(
        self,
        channel: BlockingChannel,
        outbox: Outbox,
        codec: PayloadCodec,
        job: RunningJob,
        granted: tuple[int, bytes | bytearray],
        max_payload: int,
    ) -> None:
        self._channel = channel
        self._outbox = outbox
        self._codec = codec
        self._job = job
        self._task_id = granted[0]
        (self._granted,) = CREDIT_COUNT.unpack(granted[1])
        self._max_payload = max_payload
        self._pid = os.getpid()
        self._yielded = 0
        self._read_at = self._sent_at = 0.0
        self._batch: list[bytes] = []
        self._batch_size = 0
        self._sending = threading.Lock()  # guards the batch, and the order of frames
        self._has_batch = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_ended = False

    def iterate(self, function: Callable[..., Generator[Any]], /, *args: Any, **kwargs: Any) -> None:
        """Call a generator function, and send its items. Runs as the function of the task.

        Raises:
            TaskCancelledError: The consumer has left.
            SerializationError: An item cannot be sent.
        """
        with closing(function(*args, **kwargs)) as generator:
            try:
                for item in generator:
                    self._add(item)
                    while self._yielded >= self._granted:
                        self._read()
            finally:
                self._flush()

    async def iterate_async(self, function: Callable[..., AsyncGenerator[Any]], /, *args: Any, **kwargs: Any) -> None:
        """Call an async generator function, and send its items. Otherwise as `iterate`.

        While it waits for the consumer, the other tasks of the event loop go on.
        """
        async with aclosing(function(*args, **kwargs)) as generator:
            try:
                async for item in generator:
                    self._add(item)
                    while self._yielded >= self._granted:
                        if not self._channel.has_frame():
                            await _readable(self._channel.fileno())
                        self._read()
            finally:
                self._flush()

    def end(self) -> None:
        """End the thread that sends items."""
        self._has_ended = True
        self._has_batch.set()

    # --- reading ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Wait for a frame, and handle it."""
        kind, task_id, _, body = self._channel.receive()
        if kind in SEGMENT_NOTICES:
            self._codec.on_release(kind, body)
        elif task_id != self._task_id:
            pass  # for a stream that has ended
        elif kind == FrameType.CREDIT:
            (count,) = CREDIT_COUNT.unpack(body)
            self._granted = max(self._granted, count)
        elif kind == FrameType.CLOSE:
            self._job.cancel_requested = True
            raise TaskCancelledError(self._job.name, self._job.id)

    # --- sending ----------------------------------------------------------------------------------------------

    def _add(self, item: Any) -> None:
        if os.getpid() != self._pid:  # the generator has forked, and this is the child
            os._exit(0)
        data, buffers = self._pickled(item)
        self._yielded += 1
        now = time.monotonic()
        if buffers or len(data) > MAX_SMALL:
            with self._sending:
                self._send_batch()
                self._outbox.send(*self._codec.encode(FrameType.ITEM, [data, *buffers], self._task_id))
        else:
            with self._sending:
                self._batch.append(data)
                self._batch_size += len(data)
                is_due = (
                    self._yielded >= self._granted
                    or now - self._sent_at >= SEND_INTERVAL
                    or self._batch_size >= MAX_BATCH
                )
                if is_due:
                    self._send_batch()
                elif len(self._batch) == 1:
                    self._send_soon()
        if now - self._read_at >= SEND_INTERVAL:
            self._read_at = now
            while self._channel.has_frame():
                self._read()

    def _pickled(self, item: Any) -> tuple[bytes, list[memoryview]]:
        buffers: list[memoryview] = []
        if pickling.is_small(item):
            return pickle.dumps(item, pickle.HIGHEST_PROTOCOL), buffers
        try:
            data = pickling.dumps(item, self._max_payload, buffers=buffers)
        except SerializationError as error:
            raise SerializationError(f"item {self._yielded} of the stream can't be sent: {error}") from error
        except pickling.TooLargeError:
            size = self._max_payload + 1
        else:
            size = len(data) + sum(map(len, buffers))
        if size > self._max_payload:
            raise SerializationError(
                f"item {self._yielded} of the stream takes more than the {self._max_payload} bytes allowed"
            )
        return data, buffers

    def _send_batch(self) -> None:
        """Send the items that wait. With the lock held."""
        if self._batch:
            body = pickle.dumps(self._batch, pickle.HIGHEST_PROTOCOL)
            self._batch.clear()
            self._batch_size = 0
            self._outbox.send([frame(FrameType.ITEMS, body, self._task_id)])
            self._sent_at = time.monotonic()

    def _flush(self) -> None:
        if os.getpid() == self._pid:
            with self._sending:
                self._send_batch()

    def _send_soon(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_late, name="executors-items", daemon=True)
            self._thread.start()
        self._has_batch.set()

    def _send_late(self) -> None:
        """Send what the main thread has not sent for a while. In a thread."""
        while self._has_batch.wait() and not self._has_ended:
            self._has_batch.clear()
            time.sleep(SEND_INTERVAL)
            with suppress(OSError):  # which the main thread will see, too
                self._flush()


async def _readable(fd: int) -> None:
    """Wait until there is something to read, on the event loop that runs here."""
    if "trio" in sys.modules:
        import trio  # noqa: PLC0415

        if trio.lowlevel.in_trio_run():
            await trio.lowlevel.wait_readable(fd)
            return
    import asyncio  # noqa: PLC0415  (the loop runs, so it is imported already)

    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
