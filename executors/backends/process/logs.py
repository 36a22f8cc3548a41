"""Replay of workers' log records in the server, and the log levels that workers start with."""

from __future__ import annotations

import logging
import pickle


def levels_of_loggers() -> dict[str, int]:
    """Return every level that is set in this process, by logger's name; the root's is ''."""
    levels = {"": logging.getLogger().level}
    for name, found in list(logging.Logger.manager.loggerDict.items()):
        if isinstance(found, logging.Logger) and found.level:
            levels[name] = found.level
    return levels


def replay(data: bytes | bytearray, pid: int) -> None:
    """Hand a worker's records to this process's logging."""
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
