"""The tables of the SQLite file. The records of tasks and durable jobs share a file, and the version of its schema."""

from __future__ import annotations

MAJOR, MINOR = 1, 1
"""The version of the schema. Releases with the same major version share a file: a minor version adds columns or
tables."""

TASK_COLUMNS = {
    "id": "TEXT PRIMARY KEY",
    "owner": "TEXT",
    "name": "TEXT",
    "tag": "TEXT",
    "backend": "TEXT",
    "state": "TEXT",
    "submitted_at": "REAL",
    "started_at": "REAL",
    "finished_at": "REAL",
    "progress_done": "REAL",
    "progress_total": "REAL",
    "progress_message": "TEXT",
    "error": "TEXT",
    "result": "TEXT",
    "result_until": "REAL",
    "attempts": "INTEGER",
}

SERVER_COLUMNS = {
    "owner": "TEXT PRIMARY KEY",
    "pid": "INTEGER",
    "lease": "REAL",
    "id_key": "BLOB",
}

JOB_COLUMNS = {
    "number": "INTEGER PRIMARY KEY",
    "id": "TEXT",
    "name": "TEXT",
    "arguments": "TEXT",
    "state": "TEXT DEFAULT 'queued'",
    "priority": "INTEGER",
    "run_at": "REAL",
    "idempotency_key": "TEXT",
    "attempts": "INTEGER DEFAULT 0",
    "failures": "INTEGER DEFAULT 0",
    "losses": "INTEGER DEFAULT 0",
    "consumer": "TEXT",
    "token": "INTEGER DEFAULT 0",
    "cancel_requested": "INTEGER DEFAULT 0",
    "created_at": "REAL",
    "started_at": "REAL",
    "finished_at": "REAL",
    "progress_done": "REAL",
    "progress_total": "REAL",
    "progress_message": "TEXT",
    "error": "TEXT",
    "result": "TEXT",
    "result_until": "REAL",
}


def _defined(columns: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns.items())


TABLES = f"""
CREATE TABLE IF NOT EXISTS executor_schema (major INTEGER, minor INTEGER);
CREATE TABLE IF NOT EXISTS executor_tasks ({_defined(TASK_COLUMNS)}) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS executor_servers ({_defined(SERVER_COLUMNS)});
CREATE TABLE IF NOT EXISTS executor_cancellations (id TEXT PRIMARY KEY, requested_at REAL);
CREATE TABLE IF NOT EXISTS executor_jobs ({_defined(JOB_COLUMNS)});
CREATE TABLE IF NOT EXISTS executor_consumers (id TEXT PRIMARY KEY, pid INTEGER, lease REAL);
"""

EXTENSIBLE = {"executor_tasks": TASK_COLUMNS, "executor_servers": SERVER_COLUMNS, "executor_jobs": JOB_COLUMNS}
"""The tables to which a minor version may have added columns."""

INDEXES = """
CREATE INDEX IF NOT EXISTS executor_unfinished ON executor_tasks (owner) WHERE finished_at IS NULL;
CREATE INDEX IF NOT EXISTS executor_finished ON executor_tasks (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS executor_results ON executor_tasks (result_until) WHERE result_until IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS executor_job_ids ON executor_jobs (id);
CREATE UNIQUE INDEX IF NOT EXISTS executor_job_keys ON executor_jobs (idempotency_key)
    WHERE idempotency_key IS NOT NULL AND state <> 'failed';
CREATE INDEX IF NOT EXISTS executor_due_jobs ON executor_jobs (name, priority DESC, number)
    WHERE state = 'queued' AND run_at IS NULL;
CREATE INDEX IF NOT EXISTS executor_later_jobs ON executor_jobs (run_at) WHERE run_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS executor_running_jobs ON executor_jobs (consumer) WHERE state = 'running';
CREATE INDEX IF NOT EXISTS executor_finished_jobs ON executor_jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS executor_job_results ON executor_jobs (result_until) WHERE result_until IS NOT NULL;
"""
