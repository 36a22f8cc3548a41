"""The app of the guide to jobs in PostgreSQL, which a test extracts, with jobs that fail and shorter intervals."""

from __future__ import annotations

import logging
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

from app import app, database, executor, jobs, retry_stalled_jobs
from procrastinate import JobContext, RetryStrategy

from executors import cpu_bound

FOLDER = Path(os.environ["JOBS_FOLDER"])
OPTIONS = {
    "fetch_job_polling_interval": 0.1,
    "update_heartbeat_interval": 0.3,
    "shutdown_graceful_timeout": float(os.environ["JOBS_GRACE"]),
}

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s:%(name)s:%(message)s")
app.config.from_mapping(EXECUTOR_PROCESSES=3, EXECUTOR_SHUTDOWN_TIMEOUT=8)
run_worker = jobs.run_worker_async
jobs.run_worker_async = lambda **options: run_worker(**{**options, **OPTIONS})
jobs.job_manager.get_stalled_jobs = partial(jobs.job_manager.get_stalled_jobs, seconds_since_heartbeat=3)
jobs.periodic(cron="* * * * * *", periodic_id="each second")(retry_stalled_jobs)

job = partial(jobs.task, pass_context=True, retry=RetryStrategy(max_attempts=3))


def record(*words: object) -> None:
    """Append a line to the record."""
    with (FOLDER / "record").open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


@cpu_bound
def crash(attempt: int) -> None:
    """End the worker process, at the first attempt."""
    record("crash", attempt, os.getpid())
    if attempt == 0:
        os.kill(os.getpid(), signal.SIGKILL)


@cpu_bound(timeout=1)
def hang(attempt: int) -> None:
    """Compute for ever, at the first attempt."""
    record("hang", attempt, os.getpid())
    while attempt == 0:
        pass


@cpu_bound
def wait(attempt: int, name: str) -> None:
    """Wait for a file of that name."""
    record(name, attempt, os.getpid(), os.getppid())
    while not (FOLDER / name).exists():
        time.sleep(0.01)


@job(name="crash")
async def crash_job(context: JobContext) -> None:
    """Run `crash`."""
    await executor.run(crash, context.job.attempts)


@job(name="hang")
async def hang_job(context: JobContext) -> None:
    """Run `hang`."""
    await executor.run(hang, context.job.attempts)


@job(name="wait")
async def wait_job(context: JobContext, name: str) -> None:
    """Run `wait` on behalf of this server process, and count the runs in the database."""
    record("server", name, os.getpid())
    await executor.run(wait, context.job.attempts, name)
    async with database.pool.connection() as connection:
        await connection.execute("insert into reports (title) values (%s)", [name])


@jobs.periodic(cron="* * * * * *")
@jobs.task(name="tick")
async def tick(timestamp: int) -> None:
    """Record the second for which it runs."""
    record("tick", timestamp, os.getpid())


@app.post("/jobs/<task>")
@app.post("/jobs/<task>/<name>")
async def defer(task: str, **arguments: Any) -> str:
    """Defer a job; respond with its id."""
    return str(await jobs.configure_task(task).defer_async(**arguments))


@app.post("/abort/<int:job_id>")
async def abort(job_id: int) -> str:
    """Cancel a job, also if it runs."""
    return str(await jobs.job_manager.cancel_job_by_id_async(job_id, abort=True))


@app.post("/rolled-back")
async def roll_back() -> str:
    """Insert a row and defer a job in one transaction, and fail before its end."""
    async with database.pool.connection() as connection:
        await connection.execute("insert into reports (title) values ('rolled back')")
        await jobs.configure_task("crash", connection=connection).defer_async()
        raise NotImplementedError
