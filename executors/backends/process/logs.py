"""Replay of workers' log records in the server, and the log levels that workers start with."""

from __future__ import annotations

import logging
import pickle


def levels_of_loggers() -> dict[str, int]:
    """Return the levels that are set in this process, by the logger's name; the root logger's name is ''."""
    levels = {"": logging.getLogger().level}
    for name, found in list(logging.Logger.manager.loggerDict.items()):
        if isinstance(found, logging.Logger) and found.level:
            levels[name] = found.level
    return levels


def replay(data: bytes | bytearray, pid: int) -> None:
    """Pass a worker's log records to this process's logging.

    Args:
        data: The body of a frame of type LOG.
        pid: The worker's process id.
    """
    dropped, records = pickle.loads(data)
    if dropped:
        logging.getLogger("executors").warning("worker process %d dropped %d log records", pid, dropped)
    for attributes in records:
        target = logging.getLogger(attributes["name"])
        if target.isEnabledFor(attributes["levelno"]):
            try:
                target.handle(logging.makeLogRecord(attributes))
            except Exception:
                logging.getLogger("executors").exception("a log record of worker process %d got lost", pid)
