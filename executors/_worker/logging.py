"""Log records of a worker: sent to the server's logging, marked with task and process."""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections import deque
from contextlib import contextmanager

from executors._wire.channel import BlockingChannel
from executors._wire.frames import FrameType, frame

TYPE_CHECKING = False  # importing `typing` would slow the start of a worker
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from executors._wire.pickling import Buffer
    from executors._worker.runner import RunningJob

_MAX_PENDING = 1000
"""Maximum number of records that wait to be sent."""

_MAX_DIRECT_SIZE = 16 * 1024
"""Maximum characters of a record that is sent by the thread that logs it."""

_MAX_DIRECT_RECORDS = 8
"""Maximum number of records that are sent by the thread that logs the last of them."""


class Outbox(logging.Handler):
    """A log handler through which a worker sends everything: frames, and before each the log records made until then.

    Records do not wait for a frame. While the socket is writable they are sent at once, so that the last records before
    a crash arrive; otherwise a thread sends them. When the server reads too slowly the oldest records are dropped and
    counted: a task never waits for its log.

    Args:
        channel: The worker's end of the connection.
        levels: The server's log levels, by logger name.
    """

    def __init__(self, channel: BlockingChannel, levels: dict[str, int]) -> None:
        super().__init__()
        self._channel = channel
        self._pid = os.getpid()
        self._sending = threading.Lock()
        self._records: deque[dict[str, Any]] = deque(maxlen=_MAX_PENDING)
        self._dropped = 0
        self._unsent = threading.Event()
        self._thread: threading.Thread | None = None
        self.job: RunningJob | None = None
        """The running job. Records are marked with it."""
        for name, level in levels.items():
            logging.getLogger(name or None).setLevel(level)
        logging.getLogger().addHandler(self)
        logging.captureWarnings(True)

    def send(self, frames: Sequence[Buffer] = (), descriptors: Sequence[int] = ()) -> None:
        """Send pending records, then frames. Blocks while the server does not read.

        Args:
            frames: The frames, as parts.
            descriptors: File descriptors, attached to the first message.
        """
        with self._sending:
            self._channel.send([*self._take_records(), *frames] if self._records else frames, descriptors)

    def _take_records(self) -> list[bytes]:
        if not self._records:
            return []
        self.acquire()  # `emit` runs under this lock
        try:
            records, dropped = list(self._records), self._dropped
            self._records.clear()
            self._dropped = 0
        finally:
            self.release()
        return [frame(FrameType.LOG, pickle.dumps((dropped, records)))]

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record, formatted and reduced to values that pickle, and send it if possible."""
        if os.getpid() != self._pid:  # a task has forked: only the parent may write to the socket
            return
        try:
            kept = self._keep(record)
            if not self._send_at_once(len(kept["msg"]) + len(kept["exc_text"] or "")):
                self._send_soon()
        except Exception:  # noqa: BLE001  (as in any handler: a wrong logging call fails no task)
            self.handleError(record)

    def _keep(self, record: logging.LogRecord) -> dict[str, Any]:
        dropped_keys = {"args", "exc_info", "msg"}
        kept = {key: _plain(value) for key, value in record.__dict__.items() if key not in dropped_keys}
        kept["msg"] = record.getMessage()
        if record.exc_info:
            kept["exc_text"] = logging.Formatter().formatException(record.exc_info)
        kept["processName"] = f"worker-{self._pid}"
        if self.job is not None:
            kept["taskName"] = kept["task_name"] = self.job.name
            kept["task_id"], kept["backend"] = self.job.id, self.job.backend
        if len(self._records) == _MAX_PENDING:
            self._dropped += 1
        self._records.append(kept)
        return kept

    def _send_at_once(self, size: int) -> bool:
        """Send pending records, the last of them of about `size`, if that does not block. Returns whether it did."""
        is_direct = size <= _MAX_DIRECT_SIZE and len(self._records) <= _MAX_DIRECT_RECORDS
        if not is_direct or not self._sending.acquire(blocking=False):
            return False
        try:
            if not self._channel.is_writable():
                return False
            self._channel.send(self._take_records())
            return True
        finally:
            self._sending.release()

    def _send_soon(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_records, name="executors-log", daemon=True)
            self._thread.start()
        self._unsent.set()

    def _send_records(self) -> None:
        while True:
            self._unsent.wait()
            self._unsent.clear()
            self.send()


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Restore all log handlers after the block, in which a module may be imported that configures logging.

    All records go to the server, which has configured its logging in the same way. Handlers of the worker's own would
    write each record twice, and a replaced `Outbox` would send none.
    """
    before = {logger: (list(logger.handlers), logger.propagate) for logger in _loggers()}
    try:
        yield
    finally:
        for logger in _loggers():
            kept, logger.propagate = before.get(logger, ([], True))
            for handler in logger.handlers:
                if handler not in kept:
                    handler.close()
            logger.handlers[:] = kept


def _loggers() -> list[logging.Logger]:
    named = list(logging.Logger.manager.loggerDict.values())
    return [logging.getLogger(), *(logger for logger in named if isinstance(logger, logging.Logger))]


def _plain(value: Any) -> Any:
    """Return a value that pickles: a value of a plain type as it is, any other as a string."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None if value is None else str(value)
