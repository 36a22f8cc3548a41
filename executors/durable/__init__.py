"""Jobs that survive a crash: a queue in a SQLite file, for all server processes of a machine."""

from executors.durable.queue import DurableQueue

__all__ = ["DurableQueue"]
