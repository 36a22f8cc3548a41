"""No zombie is left where orphans become the server's children: as process 1 of a container, or as a subreaper.

Each test runs a server of its own.
"""

from __future__ import annotations

import functools
import os
import subprocess

import pytest
from faults import run_script

NEW_PID_NAMESPACE = [
    "unshare",
    *(["--user", "--map-root-user"] if os.getuid() else []),
    "--pid",
    "--fork",
    "--mount-proc",
]

SERVER = """
    import asyncio, ctypes, os, signal, subprocess, sys
    import fault_tasks, worker_tasks
    from executors import Executor, TaskTimeoutError, WorkerLostError
    from executors.backends import ProcessBackend
    from processes import descendants, eventually

    if sys.argv[1] == "subreaper":
        ctypes.CDLL(None).prctl(36, 1)
    else:
        assert os.getpid() == 1

    def zombies():
        return [pid for pid, state in descendants().items() if state == "Z" and pid != own.pid]

    async def serve(test, **options):
        global own
        own = subprocess.Popen(["/bin/sh", "-c", "exit 7"])  # the server's child is the server's to reap
        os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)
        for _ in range(2):
            async with Executor(threads=1, backends={"process": ProcessBackend(2, **options)}) as executor:
                await test(executor.options(tag="cpu"))
            assert descendants() == {own.pid: "Z"}, descendants()
        assert own.wait() == 7
"""


@functools.cache
def namespace_failure() -> str:
    try:
        made = subprocess.run([*NEW_PID_NAMESPACE, "true"], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return made.stderr if made.returncode else ""


@pytest.fixture(params=["process 1", "subreaper"])
def run_server(request):
    """Run a server that adopts orphans, with a test of its workers."""
    if request.param == "process 1" and namespace_failure():
        pytest.skip(f"no PID namespace can be made: {namespace_failure()}")

    def run(test: str) -> None:
        before = NEW_PID_NAMESPACE if request.param == "process 1" else []
        run_script(SERVER + test, request.param, before=before)

    return run


@pytest.mark.parametrize("forked", [True, False])
def test_programs_of_killed_workers(run_server, forked: bool) -> None:
    """Timeouts of tasks that run programs leave no zombie, while the server runs and after."""
    options = "" if forked else ', setup=("launching:keep_thread", ())'
    run_server(f"""
    async def test(cpu):
        for _ in range(3):
            try:
                await cpu.options(timeout=0.15).run(subprocess.call, ["/bin/sh", "-c", "sleep 1000; true"])
            except TaskTimeoutError:
                pass
        await cpu.run(worker_tasks.pid)
        assert eventually(lambda: not zombies(), within=5), zombies()

    asyncio.run(serve(test{options}))
    """)


def test_orphans_that_end_by_themselves(run_server) -> None:
    """A program whose parent has ended is reaped when it ends, while its worker goes on."""
    run_server("""
    async def test(cpu):
        for _ in range(5):
            assert await cpu.run(subprocess.call, ["/bin/sh", "-c", "sleep 0.05 & true"]) == 0
        assert eventually(lambda: not zombies(), within=5), zombies()

    asyncio.run(serve(test))
    """)


@pytest.mark.parametrize("idle", [True, False])
def test_workers_of_a_killed_zygote(run_server, idle: bool) -> None:
    """They are reaped, with the programs of their tasks, and later tasks have new workers."""
    run_server(f"""
    async def test(cpu):
        for _ in range(2):
            zygote = await cpu.run(os.getppid)
            if not {idle}:
                running = [cpu.submit(subprocess.call, ["/bin/sh", "-c", "sleep 1000; true"]) for _ in range(2)]
                while len(descendants()) < 8:  # the zygote, two workers, two shells and what they run; the server's own
                    await asyncio.sleep(0.01)
            os.kill(zygote, signal.SIGKILL)
            for handle in [] if {idle} else running:
                try:
                    await handle
                except WorkerLostError:
                    pass
            parent = zygote
            while parent == zygote:
                try:
                    parent = await cpu.run(os.getppid)
                except WorkerLostError:
                    pass
        if {idle}:
            await asyncio.sleep(0.1)

    asyncio.run(serve(test))
    """)


def test_a_zygote_that_is_killed_while_it_forks() -> None:
    """A fork that the server does not know of is reaped, too."""
    run_script("""
        import ctypes, os, random, signal, threading, time
        from launching import call, config
        from executors.backends.process.launcher import Launcher, StartError
        from processes import descendants

        def launch():
            try:
                return [launcher.launch()]
            except StartError:  # it was killed with the zygote
                return []

        def kill_later(pid):
            time.sleep(random.random() * 0.004)
            os.kill(pid, signal.SIGKILL)

        ctypes.CDLL(None).prctl(36, 1)
        launcher = Launcher(config)
        for _ in range(25):
            workers = launch()
            if workers and workers[0].is_forked:
                killer = threading.Thread(target=kill_later, args=(call(workers[0], os.getppid),))
                killer.start()
                workers += launch()
                killer.join()
            for worker in workers:
                worker.reap()
                worker.close()
        launcher.close()
        assert not descendants(), descendants()
    """)
