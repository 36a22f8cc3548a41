"""The demo's SQLite database. Each call opens its own connection, so any thread or process can call. All block."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from executors.demo.analysis import Function, alike

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS files (id TEXT PRIMARY KEY, name TEXT, size INTEGER, lines INTEGER, sha256 TEXT);
CREATE TABLE IF NOT EXISTS analyses (id TEXT PRIMARY KEY, error TEXT);
CREATE TABLE IF NOT EXISTS functions (
    file TEXT, name TEXT, line INTEGER, lines INTEGER, complexity INTEGER, signature BLOB
);
CREATE INDEX IF NOT EXISTS functions_of_file ON functions (file);
"""


@contextmanager
def connect(path: str | Path) -> Iterator[sqlite3.Connection]:
    """Open the database for one transaction; wait up to 30 s for other writers."""
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA synchronous = NORMAL")
        yield database


def create(path: str | Path) -> None:
    """Create the missing tables."""
    with connect(path) as database:
        database.executescript(SCHEMA)


def add_file(path: str | Path, file_id: str, name: str, source: bytes) -> None:
    """Store a file's size, lines and checksum."""
    facts = (file_id, name, len(source), source.count(b"\n"), hashlib.sha256(source).hexdigest())
    with connect(path) as database:
        database.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?)", facts)


def add_analysis(path: str | Path, file_id: str, functions: Iterable[Function], error: str | None = None) -> None:
    """Store the functions that the analysis of a file found, or its error."""
    with connect(path) as database:
        database.execute("INSERT INTO analyses VALUES (?, ?)", (file_id, error))
        rows = [(file_id, *function) for function in functions]
        database.executemany("INSERT INTO functions VALUES (?, ?, ?, ?, ?, ?)", rows)


def file(path: str | Path, file_id: str) -> dict[str, Any] | None:
    """Return a file with its functions, which are None until it is analysed; None for an unknown file."""
    with connect(path) as database:
        facts = database.execute("SELECT * FROM files WHERE id = ?", (file_id,)).fetchone()
        analysis = database.execute("SELECT error FROM analyses WHERE id = ?", (file_id,)).fetchone()
        query = "SELECT name, line, lines, complexity FROM functions WHERE file = ? ORDER BY line"
        functions = [dict(row) for row in database.execute(query, (file_id,))]
    if facts is None:
        return None
    return {**facts, "functions": functions if analysis else None, "error": analysis["error"] if analysis else None}


def examined(path: str | Path) -> int:
    """Return how many files have been analysed."""
    with connect(path) as database:
        return int(database.execute("SELECT count(*) FROM analyses").fetchone()[0])


def most_complex(path: str | Path, limit: int) -> list[dict[str, Any]]:
    """Return the most complex functions; those of a file count once, however often it was uploaded."""
    query = """SELECT files.name AS file, functions.name, line, complexity FROM functions JOIN files ON files.id = file
        GROUP BY files.name, functions.name, line ORDER BY complexity DESC LIMIT ?"""
    with connect(path) as database:
        return [dict(row) for row in database.execute(query, (limit,))]


def duplicates(path: str | Path, limit: int) -> list[dict[str, Any]]:
    """Return the most similar pairs of functions in different files, longer functions first."""
    query = """SELECT files.name AS file, functions.name, line, functions.lines, signature
        FROM functions JOIN files ON files.id = file WHERE signature != x'' GROUP BY files.name, functions.name, line"""
    with connect(path) as database:
        rows = [dict(row) for row in database.execute(query)]
    pairs = [
        (found, rows[one], rows[other])
        for found, one, other in alike(row.pop("signature") for row in rows)
        if rows[one]["file"] != rows[other]["file"]
    ]
    pairs.sort(key=lambda pair: (pair[0], pair[1]["lines"]), reverse=True)
    return [{"similarity": found, "functions": [one, other]} for found, one, other in pairs[:limit]]
