"""The SQLite file: its schema and its statements. All of it blocks, and runs in the store's thread."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from executors._states import LOST, TaskState
from executors._wire.task_ids import IdKey, task_number
from executors.reports import TaskProgress, TaskRecord
from executors.store.schema import EXTENSIBLE, INDEXES, MAJOR, MINOR, TABLES, TASK_COLUMNS

BUSY_TIMEOUT = 0.05
"""Seconds that SQLite waits for a lock, during which nothing can interrupt it."""

LEASE = 6.0
"""Seconds after which a server process that has not renewed its lease is gone, and its unfinished tasks lost."""

LOST_ERROR = "its server process has ended"

_UPSERT = (
    f"INSERT INTO executor_tasks ({', '.join(TASK_COLUMNS)}) VALUES ({', '.join('?' * len(TASK_COLUMNS))}) "  # noqa: S608
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in TASK_COLUMNS if name != 'id')}"
)
_SELECT = f"SELECT {', '.join(TASK_COLUMNS)} FROM executor_tasks WHERE id = ?"  # noqa: S608
_ORPHANS = "finished_at IS NULL AND owner NOT IN (SELECT owner FROM executor_servers WHERE lease >= ?)"

MAX_EXPIRED = 1000
"""How many records one transaction deletes: others wait for it."""


class NewerSchemaError(Exception):
    """The file belongs to a release with another major version of the schema."""


def create_file(path: Path) -> None:
    """Create the file and its directory if they don't exist, for this user only.

    Raises:
        OSError: They can't be created, or the file can't be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


class Database:
    """A connection to the file.

    Args:
        path: The file.
        owner: The key of this run of an executor.
        may_wait: Waits a little, and returns whether to try a locked file again.
        synchronous: SQLite's setting: with ``"NORMAL"`` a power failure may undo the latest transactions.

    Raises:
        sqlite3.Error: The file can't be opened, is no database, or is locked.
        NewerSchemaError: Its schema has another major version.
    """

    def __init__(self, path: Path, owner: str, may_wait: Callable[[], bool], synchronous: str = "NORMAL") -> None:
        self.owner = owner
        self._may_wait = may_wait
        create_file(path)
        self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
        try:
            self._when_unlocked("PRAGMA journal_mode = WAL")
            self._connection.execute(f"PRAGMA synchronous = {synchronous}")
            self._create_tables()
        except BaseException:
            self._connection.close()
            raise

    def _create_tables(self) -> None:
        if self._has_schema():
            return
        with self.transaction():
            self._execute_all(TABLES)
            for table, columns in EXTENSIBLE.items():
                existing = {row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")}
                for name, kind in columns.items():
                    if name not in existing:  # an earlier minor version created the table
                        self._connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
            self._execute_all(INDEXES)
            self._connection.execute("INSERT INTO executor_schema (major, minor) VALUES (?, ?)", (MAJOR, MINOR))

    def _execute_all(self, statements: str) -> None:  # `executescript` would end the transaction
        for statement in filter(str.strip, statements.split(";")):
            self._connection.execute(statement)

    def _has_schema(self) -> bool:
        """Return whether the tables exist, in this version or a later minor one."""
        if not self._exists("SELECT 1 FROM sqlite_master WHERE name = ?", "executor_schema"):
            return False
        major, minor = self._connection.execute("SELECT max(major), max(minor) FROM executor_schema").fetchone()
        if major != MAJOR:
            raise NewerSchemaError(
                f"its schema has version {major}.{minor}, and this release needs {MAJOR}.x: use another file"
            )
        return bool(minor >= MINOR)

    @property
    def execute(self) -> Callable[..., sqlite3.Cursor]:
        """Execute a statement."""
        return self._connection.execute

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Lock the file for writing, for the statements of the block.

        Raises:
            sqlite3.OperationalError: The file stays locked, the disk is full, …
        """
        self._when_unlocked("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # some errors have rolled back already
                self._connection.execute("ROLLBACK")
            raise

    def _when_unlocked(self, statement: str) -> None:
        while True:
            try:
                self._connection.execute(statement)
            except sqlite3.OperationalError as error:
                if not is_locked(error) or not self._may_wait():
                    raise
            else:
                return

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    # --- records ------------------------------------------------------------------------------------------

    def write(self, rows: Iterable[tuple[TaskRecord, float | None]]) -> None:
        """Insert or replace records, each with the time until which its result is valid. In a transaction."""
        self._connection.executemany(_UPSERT, (self._row(record, until) for record, until in rows))

    def _row(self, record: TaskRecord, result_until: float | None) -> tuple[Any, ...]:
        return (
            record.id, self.owner, plain(record.name), record.tag and plain(record.tag), record.backend,
            str(record.state), record.submitted_at, record.started_at, record.finished_at,
            *_progress(record.progress),
            record.error and plain(record.error), record.result, result_until, record.attempts,
        )  # fmt: skip

    def read(self, task_id: str, now: float) -> TaskRecord | None:
        """Return a task's record; None if there is none."""
        row = self._connection.execute(_SELECT, (plain(task_id),)).fetchone()
        if row is None:
            return None
        found = dict(zip(TASK_COLUMNS, row, strict=True))
        done = found["progress_done"]
        return TaskRecord(
            found["id"], found["name"], found["tag"], found["backend"], TaskState(found["state"]),
            found["submitted_at"], found["started_at"], found["finished_at"],
            None if done is None else TaskProgress(done, found["progress_total"], found["progress_message"]),
            found["error"], found["attempts"] or 0,
            found["result"] if (found["result_until"] or 0.0) >= now else None,
        )  # fmt: skip

    def is_expected(self, task_id: str, now: float) -> bool:
        """Return whether a missing record may be about to be written: another server process has made its id."""
        if self._exists("SELECT 1 FROM executor_tasks WHERE id = ?", plain(task_id)):
            return False
        query = "SELECT id_key FROM executor_servers WHERE owner <> ? AND lease >= ?"
        keys = self._connection.execute(query, (self.owner, now)).fetchall()
        # An earlier minor version has recorded no key.
        return any(key is None or task_number(key, task_id) is not None for (key,) in keys)

    # --- server processes ---------------------------------------------------------------------------------

    def renew_lease(self, now: float) -> bool:
        """Record that this server process lives. In a transaction.

        Returns:
            Whether it was recorded before; if not, others may have declared its tasks lost.
        """
        renewed = self._connection.execute(
            "UPDATE executor_servers SET lease = ? WHERE owner = ?", (now + LEASE, self.owner)
        ).rowcount
        if not renewed:
            self._connection.execute(
                "INSERT INTO executor_servers (owner, pid, lease, id_key) VALUES (?, ?, ?, ?)",
                (self.owner, os.getpid(), now + LEASE, IdKey.value),
            )
        return bool(renewed)

    def leave(self) -> None:
        """Remove this server process: what it has not finished is lost. In a transaction."""
        self._connection.execute("DELETE FROM executor_servers WHERE owner = ?", (self.owner,))

    def has_orphans(self, now: float) -> bool:
        """Return whether there are unfinished tasks of server processes that are gone."""
        return self._exists(f"SELECT 1 FROM executor_tasks WHERE {_ORPHANS} LIMIT 1", now)  # noqa: S608

    def end_orphans(self, now: float) -> None:
        """Record that they are lost. In a transaction."""
        self._connection.execute(
            f"UPDATE executor_tasks SET state = ?, finished_at = ?, error = ? WHERE {_ORPHANS}",  # noqa: S608
            (str(LOST), now, LOST_ERROR, now),
        )
        self._connection.execute("DELETE FROM executor_servers WHERE lease < ?", (now,))

    # --- cancellations ------------------------------------------------------------------------------------

    def request_cancel(self, task_id: str, now: float) -> bool:
        """Ask the task's server process to cancel it; return whether the task is unfinished."""
        task_id = plain(task_id)
        if not self._exists("SELECT 1 FROM executor_tasks WHERE id = ? AND finished_at IS NULL", task_id):
            return False
        with self.transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO executor_cancellations (id, requested_at) VALUES (?, ?)", (task_id, now)
            )
        return True

    def cancellations(self) -> list[str]:
        """Return the ids of this process's tasks whose cancellation was requested."""
        rows = self._connection.execute(
            "SELECT id FROM executor_cancellations JOIN executor_tasks USING (id) WHERE owner = ?", (self.owner,)
        )
        return [task_id for (task_id,) in rows]

    def end_cancellations(self, task_ids: Iterable[str]) -> None:
        """Remove requests that have been fulfilled. In a transaction."""
        self._connection.executemany("DELETE FROM executor_cancellations WHERE id = ?", [(each,) for each in task_ids])

    # --- expiry -------------------------------------------------------------------------------------------

    def expire(self, now: float, expiry: float) -> bool:
        """Delete records that finished too long ago, and results that are no longer kept. In a transaction.

        Returns:
            Whether there may be more.
        """
        execute = self._connection.execute
        execute("UPDATE executor_tasks SET result = NULL, result_until = NULL WHERE result_until < ?", (now,))
        execute("DELETE FROM executor_cancellations WHERE requested_at < ?", (now - 60,))
        deleted = execute(
            "DELETE FROM executor_tasks WHERE id IN (SELECT id FROM executor_tasks WHERE finished_at < ? LIMIT ?)",
            (now - expiry, MAX_EXPIRED),
        ).rowcount
        return deleted == MAX_EXPIRED

    def _exists(self, query: str, value: object) -> bool:
        return self._connection.execute(query, (value,)).fetchone() is not None


def is_locked(error: sqlite3.Error) -> bool:
    """Return whether another connection holds a lock."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _progress(progress: TaskProgress | None) -> tuple[float | None, float | None, str | None]:
    if progress is None:
        return None, None, None
    return progress.done, progress.total, progress.message and plain(progress.message)


def plain(text: str) -> str:
    """Return a string that SQLite can store: lone surrogates are escaped."""
    return str(text).encode("utf-8", "backslashreplace").decode()
