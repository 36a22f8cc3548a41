"""Log records of a worker on their way to the parent's logging, marked with task and process."""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections import deque
from contextlib import contextmanager

from executors._wire.channel import BlockingChannel
from executors._wire.frames import FrameType, frame

TYPE_CHECKING = False  # `typing` is slow to import, and a worker may do without
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from executors._wire.pickling import Buffer
    from executors._worker.runner import RunningJob

_MAX_PENDING = 1000

_SMALL = 16 * 1024
_FEW = 8
"""Up to so many records, the last with a text of up to so many characters, are sent without waiting for a thread."""


class Outbox(logging.Handler):
    """All that a worker sends: frames as they come, and before each the log records made until then.

    Records don't wait for a frame. Where the socket has room they are sent as they are made, so that a task's last
    words before a crash arrive; else a thread sends them. What the parent doesn't take in time is dropped, oldest
    first, and counted: a task never waits for its log.

    Args:
        channel: The worker's end.
        levels: The parent's levels, by logger's name.
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
        """The job under way: records are marked with it."""
        for name, level in levels.items():
            logging.getLogger(name or None).setLevel(level)
        logging.getLogger().addHandler(self)
        logging.captureWarnings(True)

    def send(self, frames: Sequence[Buffer] = (), descriptors: Sequence[int] = ()) -> None:
        """Send the records there are, then the frames. Blocks while the parent doesn't read.

        The descriptors go along with what is sent first.
        """
        with self._sending:
            self._channel.send([*self._take_records(), *frames] if self._records else frames, descriptors)

    def _take_records(self) -> list[bytes]:
        if not self._records:
            return []
        self.acquire()  # `emit` is called under it
        try:
            records, dropped = list(self._records), self._dropped
            self._records.clear()
            self._dropped = 0
        finally:
            self.release()
        return [frame(FrameType.LOG, pickle.dumps((dropped, records)))]

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, with its text made and nothing in it that might not pickle, and have it sent."""
        if os.getpid() != self._pid:  # a task has forked: the socket isn't the child's to write to
            return
        try:
            kept = self._keep(record)
            if not self._send_at_once(len(kept["msg"]) + len(kept["exc_text"] or "")):
                self._send_soon()
        except Exception:  # noqa: BLE001  (logging's own way: a bad call to it fails no task)
            self.handleError(record)

    def _keep(self, record: logging.LogRecord) -> dict[str, Any]:
        dropped_keys = {"args", "exc_info", "msg"}
        kept = {key: _plain(value) for key, value in record.__dict__.items() if key not in dropped_keys}
        kept["msg"] = record.getMessage()
        if record.exc_info:
            kept["exc_text"] = logging.Formatter().formatException(record.exc_info)
        kept["processName"] = f"worker-{self._pid}"
        if self.job is not None:
            kept["taskName"], kept["task_id"] = self.job.name, self.job.id
        if len(self._records) == _MAX_PENDING:
            self._dropped += 1
        self._records.append(kept)
        return kept

    def _send_at_once(self, size: int) -> bool:
        """Send the records, the last of them of about `size`, if that takes no waiting; return whether it does."""
        if size > _SMALL or len(self._records) > _FEW or not self._sending.acquire(blocking=False):
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
    """Undo what is done to handlers meanwhile, as where a module is imported that configures logging.

    All records go to the parent, which has configured its logging in the same way: handlers of the worker's own would
    write each a second time, and an outbox that was replaced would send none.
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
    """Return a value that pickles, whatever class it has: one of the plain types, or its text."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None if value is None else str(value)
