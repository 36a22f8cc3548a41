"""Durable jobs whose process, file or clock fails: no job is lost, and none runs twice at the same time."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from durable_machine import Machine, machine_in, stop
from processes import wait_for_end
from servers import until

LOOPS = ["asyncio", "uvloop", "trio"]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Return a machine whose leases are short."""
    with machine_in(tmp_path, DURABLE_LEASE="1.5") as machine:
        yield machine


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_a_killed_consumer(tmp_path: Path) -> None:
    """With the leases of production: its job runs again within 30 s, elsewhere, after its workers are gone."""
    with machine_in(tmp_path) as machine:
        machine.enqueue(("compute", "long", 600.0))
        first = machine.consumer()
        until(lambda: machine.begun("long"))
        machine.consumer("trio")
        first.kill()
        killed_at = time.monotonic()
        machine.enqueue(("wait", "other", 0.0))
        until(lambda: machine.ended("other"))
        until(lambda: len(machine.begun("long")) == 2, 60)
        (worker, _), (other, again_at) = machine.begun("long")
        assert again_at - killed_at < 30
        assert wait_for_end(worker, 0), "the worker of the killed process still runs"
        assert worker != other
        assert machine.states() == [("running", 2), ("succeeded", 1)]
        assert "1 jobs are queued again, as their server process has ended" in machine.output


@pytest.mark.timeout(120)
@pytest.mark.parametrize("loop", LOOPS)
def test_the_drain_of_a_consumer(loop: str, tmp_path: Path) -> None:
    """A signal lets jobs end that end in time, puts the others back at once, and the exit status is 0."""
    with machine_in(tmp_path, DURABLE_SHUTDOWN_TIMEOUT="1.5") as machine:
        machine.enqueue(("wait", "short", 0.5), ("compute", "long", 600.0), ("compute", "next", 600.0))
        consumer = machine.consumer(loop)
        until(lambda: machine.begun("short") and machine.begun("long"))
        assert stop(consumer, signal.SIGINT if loop == "uvloop" else signal.SIGTERM) == 0, machine.output
        assert machine.states() == [("succeeded", 1), ("queued", 1), ("queued", 0)]
        assert machine.query("SELECT * FROM executor_consumers") == []
        assert "Traceback" not in machine.output


@pytest.mark.timeout(120)
def test_a_blocked_event_loop_is_no_dead_one(machine: Machine) -> None:
    """A job that blocks the event loop for longer than the lease runs once, and its outcome counts."""
    consumers = [machine.consumer() for _ in range(2)]
    until(lambda: all(f"Process {consumer.pid} runs jobs" in machine.output for consumer in consumers))
    machine.enqueue(("block", "blocking", 3.5))  # longer than a lease and the delay of a take-over
    until(lambda: machine.begun("blocking"))
    machine.enqueue(("wait", "other", 0.0))
    until(lambda: machine.ended("other"))
    until(lambda: machine.states() == [("succeeded", 1), ("succeeded", 1)])
    assert len(machine.begun("blocking")) == 1


@pytest.mark.timeout(120)
def test_a_consumer_that_was_frozen(machine: Machine) -> None:
    """Its job is taken over. When it goes on, its late outcome is refused, and what it still runs is cancelled."""
    machine.enqueue(("wait", "late", 2.0), ("wait", "endless", 600.0))
    frozen = machine.consumer()
    until(lambda: machine.begun("late") and machine.begun("endless"))
    os.killpg(frozen.pid, signal.SIGSTOP)
    machine.consumer()
    until(lambda: len(machine.begun("late")) == 2 and len(machine.begun("endless")) == 2)
    os.killpg(frozen.pid, signal.SIGCONT)
    until(lambda: "had taken it over" in machine.output)
    until(lambda: machine.states()[0] == ("succeeded", 2))
    assert machine.states()[1] == ("running", 2)
    assert stop(frozen) == 0
    assert machine.output.count("had taken it over") == 2
    assert machine.states()[1] == ("running", 2)


# --- the clock --------------------------------------------------------------------------------------------------------

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <sys/time.h>

static long offset(void) {
    FILE *file = fopen(getenv("CLOCK_OFFSET"), "r");
    long seconds = 0;
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(id, at);
    if (id == CLOCK_REALTIME) at->tv_sec += offset();
    return status;
}
time_t time(time_t *out) {
    struct timespec at; clock_gettime(CLOCK_REALTIME, &at);
    if (out) *out = at.tv_sec;
    return at.tv_sec;
}
int gettimeofday(struct timeval *tv, void *zone) {
    struct timespec at; clock_gettime(CLOCK_REALTIME, &at);
    tv->tv_sec = at.tv_sec; tv->tv_usec = at.tv_nsec / 1000;
    return 0;
}
"""


@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("gcc"), reason="needs gcc, for a clock that can be set")
def test_steps_of_the_clock(tmp_path: Path) -> None:
    """The clock is set forth and back by hours while jobs run: each runs once, and due jobs run without delay."""
    source, library, offset = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "offset"
    source.write_text(SHIM)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    offset.write_text("0")
    with machine_in(tmp_path, DURABLE_LEASE="1.5", LD_PRELOAD=str(library), CLOCK_OFFSET=str(offset)) as machine:
        machine.enqueue(("wait", "a", 600.0), ("compute", "b", 600.0))
        machine.enqueue(("wait", "tomorrow", 0.0), delay=20 * 3600)
        machine.consumer()
        until(lambda: machine.begun("a") and machine.begun("b"))
        other = machine.consumer()
        until(lambda: f"Process {other.pid} runs jobs" in machine.output)
        steps = (7200, -7200, 0)
        # There is nothing else to run: the other one has no lease itself, and so time for those of the first one only.
        for step in steps:
            offset.write_text(str(step))
            time.sleep(3)  # longer than a lease and the delay of a take-over
        for index, step in enumerate(steps):
            offset.write_text(str(step))
            machine.enqueue(("wait", f"now-{index}", 0.0))
            until(lambda index=index: machine.ended(f"now-{index}"))  # type: ignore[misc]
        assert [len(machine.begun(name)) for name in "ab"] == [1, 1]
        assert not machine.begun("tomorrow")
        offset.write_text(str(21 * 3600))
        until(lambda: machine.ended("tomorrow"))
        assert machine.query("SELECT DISTINCT attempts, losses FROM executor_jobs") == [(1, 0)]


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_a_locked_file(machine: Machine) -> None:
    """Another program locks the file for longer than the leases: jobs go on, none is taken over, all outcomes count."""
    machine.enqueue(("wait", "short", 1.0), ("wait", "long", 7.0), ("compute", "busy", 7.0))
    for _ in range(2):
        machine.consumer()
    until(lambda: all(map(machine.begun, ("short", "long", "busy"))))
    with closing(sqlite3.connect(machine.file, timeout=20, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(6)  # also longer than a transaction waits
        assert machine.ended("short")
        connection.execute("COMMIT")
    until(lambda: machine.states() == [("succeeded", 1)] * 3)
    assert [len(machine.begun(name)) for name in ("short", "long", "busy")] == [1, 1, 1]
    assert "database is locked" in machine.output
    assert "can be used again" in machine.output


FULL_DISK = """
import asyncio, errno, os, resource, sys
from executors import Executor, StoreUnavailableError
from executors.durable import DurableQueue, consumer

consumer.FAILURE_INTERVAL = 0.1
executor = Executor(processes=0)
queue = DurableQueue(executor, sys.argv[1])
release = asyncio.Event()
ends, kept = [], []

@queue.task
async def wait():
    await release.wait()
    ends.append(1)

@queue.task
async def keep(text):
    kept.append(text)

async def until(job_id, state):
    while (await queue.get(job_id)).state != state:
        await asyncio.sleep(0.01)

def fill():
    if sys.argv[2] == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        return
    with open("filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC

def free():
    if sys.argv[2] == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        os.unlink("filler")

async def main():
    async with executor:
        first = await queue.enqueue(wait)
        await until(first, "running")
        fill()
        for _ in range(3):
            try:
                await queue.enqueue(keep, "refused")
            except StoreUnavailableError:
                pass
            else:
                raise AssertionError("the disk is full")
        release.set()
        while not ends:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # several attempts to write that
        if sys.argv[2] == "disk":
            assert (await queue.get(first)).state == "running", "jobs can be read"
        free()
        while executor.snapshot().backends["durable"].unavailable:
            await asyncio.sleep(0.01)
        await until(first, "succeeded")
        await until(await queue.enqueue(keep, "accepted"), "succeeded")
    assert kept == ["accepted"], kept
    print("done")

asyncio.run(main())
"""


MOUNT = 'mount -t tmpfs -o size=1m none . && cd "$PWD" && exec "$@"'
SMALL_DISK = ["unshare", *(["--map-root-user"] if os.getuid() else []), "--mount", "sh", "-c", MOUNT, "sh"]
"""A command prefix that makes the working directory a disk of one megabyte."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["limit", *(["disk"] if sys.platform == "linux" else [])])
def test_a_full_disk(kind: str, tmp_path: Path) -> None:
    """A job that can't be written is refused with an error; those that run go on, and their ends are written later."""
    before = SMALL_DISK if kind == "disk" else []
    command = [*before, sys.executable, "-c", FULL_DISK, "sqlite:///tasks.db", kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("done"), done.stdout
    assert done.stderr.count("can't be used") == 1, done.stderr
    assert done.stderr.count("can be used again") == 1
    assert ("database or disk is full" in done.stderr) == (kind == "disk")
    assert not list(tmp_path.iterdir()) or kind == "limit", "the disk was not mounted"
