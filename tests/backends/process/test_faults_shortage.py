"""Workers that don't start, and shortage of resources: typed errors, no late runs, and recovery."""

from __future__ import annotations

import os
from textwrap import dedent

import anyio
import pytest
import worker_tasks as tasks
from faults import TIMEOUT, meet, run_script, under_fault

from executors import Executor, WorkerLostError
from executors.backends import ProcessBackend

pytestmark = pytest.mark.anyio

IS_ROOT = os.geteuid() == 0

AS_NOBODY = (
    "setpriv --reuid 54321 --regid 54321 --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search"
)
"""Processes of the system administrator aren't limited: become another user, who may read the interpreter."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Shortage is the same on every loop."""
    return "asyncio", {}


# --- failing starts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "times"), [("killed", 1), ("killed", 2), ("raises", 1)])
async def test_a_new_worker_that_fails_to_start(named_pipe, tmp_path, how: str, times: int) -> None:
    """While one worker runs, failing starts of the other delay tasks but fail none."""
    marks = tmp_path / "failures"
    backend = ProcessBackend(2, preload=False, setup=("fault_tasks:setup_fails", (str(marks), how)))
    async with under_fault(named_pipe, survives=False, backends={"process": backend}) as fault:
        marks.write_text("x\n" * times)
        handle = fault.cpu.submit(tasks.exit_with, 7)
        behind = [fault.cpu.submit(tasks.identity, number) for number in range(3)]
        with anyio.fail_after(TIMEOUT):
            await handle.wait()
            assert isinstance(handle.exception(), WorkerLostError)
            assert [await follower for follower in behind] == [0, 1, 2]
        assert marks.read_text() == ""


async def test_a_task_is_not_kept_for_a_worker_that_fails_to_start(named_pipe, tmp_path) -> None:
    """A task that was sent ahead to a busy worker, as another was about to start, gets a worker of its own."""
    marks = tmp_path / "failures"
    backend = ProcessBackend(2, preload=False, setup=("fault_tasks:setup_fails", (str(marks), "killed")))
    async with Executor(threads=1, backends={"process": backend}) as executor:
        cpu = executor.options(tag="cpu")
        for number in range(3):  # so short that further tasks are sent ahead
            await cpu.run(tasks.identity, number)
        assert len(backend._pool.workers) == 1
        marks.write_text("x\n")
        with anyio.fail_after(TIMEOUT):
            await meet(cpu, named_pipe)
        assert marks.read_text() == ""


async def test_a_module_that_kills_its_importer(named_pipe, tmp_path, monkeypatch) -> None:
    """A task whose module kills the worker on import is lost; the next one runs once the cause is gone."""
    marker = tmp_path / "imported"
    (tmp_path / "deadly_module.py").write_text(
        dedent(f"""
        import os
        from pathlib import Path

        marker = Path({str(marker)!r})
        if os.getpid() != {os.getpid()} and not marker.exists():
            marker.touch()
            os._exit(9)

        def own():
            return "value"
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    import deadly_module  # noqa: PLC0415

    async with under_fault(named_pipe, survives=False) as fault:
        error = await fault.error_of(deadly_module.own)
        assert isinstance(error, WorkerLostError)
        assert (error.pid, error.exitcode) == (fault.worker, 9)
        assert await fault.cpu.run(deadly_module.own) == "value"


# --- nothing left -----------------------------------------------------------------------------------------

SHORTAGE = """
    import asyncio, os, resource, sys, tempfile
    from contextlib import suppress
    from pathlib import Path

    import fault_tasks, named_pipes, worker_tasks
    from executors import Executor, ExecutorError, WorkerLostError
    from executors.backends.process import starter
    from faults import meet
    from processes import is_alive

    starter._FIRST_PAUSE = 0.1

    what = sys.argv[1]
    kind = getattr(resource, what)

    def family(pid):
        yield pid
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            for path in Path(f"/proc/{pid}/task").glob("*/children"):
                for child in path.read_text().split():
                    yield from family(int(child))

    def run_out(*spared):
        for pid in set(family(os.getpid())) - set(spared):
            most = max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1 if what == "RLIMIT_NOFILE" else 0
            resource.prlimit(pid, kind, (most, resource.prlimit(pid, kind)[1]))

    def have_again():
        unchanged = 0
        while unchanged < 3:  # what is forked meanwhile inherits a limit, and a list of children may have gaps
            unchanged += 1
            for pid in family(os.getpid()):
                with suppress(ProcessLookupError):  # it has ended
                    soft, hard = resource.prlimit(pid, kind)
                    if soft != hard:
                        resource.prlimit(pid, kind, (hard, hard))
                        unchanged = 0

    async def first_start(path):
        async with Executor(threads=1, processes=2) as executor:
            cpu = executor.options(tag="cpu")
            run_out()
            handles = []
            for _ in range(3):
                try:
                    handles.append(cpu.submit(fault_tasks.append_line, path))
                except ExecutorError:
                    continue
            async with asyncio.timeout(15):
                for handle in handles:
                    await handle.wait()
                    assert isinstance(handle.exception(), WorkerLostError), handle.exception()
            assert handles
            have_again()
            async with asyncio.timeout(15):
                while executor.backend("process").unavailable:
                    await asyncio.sleep(0.01)
                await cpu.run(fault_tasks.append_line, path)
                await meet(cpu, new_pipe)
        assert Path(path).read_text() == "run\\n", "a failed task has run later"

    async def next_start(path):
        async with Executor(threads=1, processes=2) as executor:
            cpu = executor.options(tag="cpu")
            from_worker, to_worker = new_pipe(), new_pipe()
            bystander = cpu.submit(worker_tasks.send_pid_and_wait, from_worker.path, to_worker.path)
            pid = int(await from_worker.receive())
            await cpu.run(os.getpid)
            run_out(pid)
            victim = cpu.submit(os._exit, 7)
            behind = [cpu.submit(int, str(number)) for number in range(3)]
            async with asyncio.timeout(15):
                await victim.wait()
                assert isinstance(victim.exception(), WorkerLostError)
                to_worker.send()
                assert await bystander == pid
                assert [await follower for follower in behind] == [0, 1, 2]
                have_again()
                await meet(cpu, new_pipe)

    with tempfile.TemporaryDirectory() as folder:
        made = []
        def new_pipe():
            made.append(named_pipes.NamedPipe(Path(folder) / f"pipe-{len(made)}"))
            return made[-1]
        asyncio.run(first_start(f"{folder}/runs"))
        asyncio.run(next_start(f"{folder}/runs"))
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("FINE")
"""


@pytest.mark.parametrize("what", ["RLIMIT_NOFILE", "RLIMIT_NPROC"])
def test_no_descriptors_or_processes_left(what: str) -> None:
    """Tasks without any worker fail, and never run later; while one worker runs, they wait."""
    before = AS_NOBODY.split() if IS_ROOT and what == "RLIMIT_NPROC" else []
    assert run_script(SHORTAGE, what, before=before) == "FINE\n"


MEMORY = """
    import asyncio, os, resource, sys
    import fault_tasks, worker_tasks
    from executors import Executor, ExecutorError

    size = 60 * 2**20

    async def main(direction, megabytes):
        async with Executor(threads=1, processes=2) as executor:
            cpu = executor.options(tag="cpu")
            await cpu.run(worker_tasks.length, bytes(2**20))  # all threads and workers are there
            value = bytes(size) if direction == "argument" else b""
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + int(megabytes) * 2**20, resource.RLIM_INFINITY))
            if direction == "argument":
                handle = cpu.submit(worker_tasks.length, value)
            else:
                handle = cpu.submit(fault_tasks.make_bytes, size)
            async with asyncio.timeout(10):
                await handle.wait()
            assert isinstance(handle.exception(), ExecutorError | None), repr(handle.exception())
            del value
            async with asyncio.timeout(10):
                assert await cpu.run(int, "5") == 5
        print("FINE")

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("direction", "megabytes"), [("argument", 75), ("argument", 15), ("result", 75), ("result", 15)]
)
def test_short_of_memory(direction: str, megabytes: int) -> None:
    """A server with too little memory for a payload of 60 MB fails its task, and goes on."""
    assert run_script(MEMORY, direction, megabytes) == "FINE\n"


LARGE = """
    import asyncio, resource, sys
    from array import array
    import worker_tasks
    from executors import Executor

    async def main():
        if sys.argv[1:]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        async with Executor(threads=1, processes=2) as executor:
            cpu = executor.options(tag="cpu")
            values = array("d", range(2**19))
            for _ in range(2):
                assert await cpu.run(worker_tasks.identity, values) == values
                assert await cpu.run(worker_tasks.identity, bytearray(2**22)) == bytearray(2**22)
        print("FINE")

    asyncio.run(main())
"""


def test_files_that_cannot_grow() -> None:
    """Megabytes arrive even if no file, and no shared memory, may be as large."""
    assert run_script(LARGE, "limited") == "FINE\n"


SMALL_SHM = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k none /dev/shm && exec "$@"', "sh"]
"""A command prefix that makes /dev/shm tiny. Only the system administrator can do that."""


@pytest.mark.parametrize("before", [SMALL_SHM] if IS_ROOT else [[]])
def test_no_shared_memory_left(before: list[str]) -> None:
    """They arrive even if /dev/shm is nearly full."""
    assert run_script(LARGE, before=before) == "FINE\n"
