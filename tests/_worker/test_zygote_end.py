"""What ends when the zygote ends, and when the zygote ends. Real processes, without a pool."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import anyio
import launching
import pytest
from launching import call, run, started
from processes import is_alive, wait_for_end

from executors.backends.process import worker_process, zygote_process
from executors.backends.process.launcher import StartError

DEATH_TIME = 2.0
"""Seconds, as a `Stopwatch` measures."""

PR_SET_CHILD_SUBREAPER = 36


def test_workers_end_with_the_zygote(launcher, launch) -> None:
    """When it is killed its workers end, and their groups when reaped; the exit status is unknown."""
    forks = launcher()
    worker = launch(forks)
    grandchild = call(worker, launching.start_grandchild)
    zygote = call(worker, os.getppid)
    os.kill(zygote, signal.SIGKILL)
    assert wait_for_end(worker.pid, DEATH_TIME)
    other = launch(forks)
    assert other.is_forked
    assert worker.reap() in {None, -signal.SIGKILL}
    worker.close()
    assert wait_for_end(grandchild, DEATH_TIME)
    assert call(other, os.getppid) != zygote


def test_the_group_of_a_worker_that_is_gone() -> None:
    """If the system has reaped a worker of a dead zygote, its child programs are killed all the same."""
    run(f"""
        import ctypes, os, signal
        from launching import call, config, start_grandchild
        from executors.backends.process.launcher import Launcher
        from processes import wait_for_end

        ctypes.CDLL(None).prctl({PR_SET_CHILD_SUBREAPER}, 1)  # this process stands for the system's first
        launcher = Launcher(config)
        worker = launcher.launch()
        grandchild = call(worker, start_grandchild)
        os.kill(call(worker, os.getppid), signal.SIGKILL)
        assert wait_for_end(worker.pid, 2)
        launcher.close()
        assert os.waitpid(worker.pid, 0) == (worker.pid, signal.SIGKILL)
        assert worker.reap() is None
        assert wait_for_end(grandchild, 2)
        worker.close()
    """)


def test_what_is_left_ends_with_the_launcher(launcher, launch) -> None:
    """Closing the launcher ends the zygote and running workers, with their child programs."""
    forks = launcher()
    worker = launch(forks)
    grandchild = call(worker, launching.start_grandchild)
    zygote = call(worker, os.getppid)
    forks.close()
    for pid in (zygote, worker.pid, grandchild):
        assert wait_for_end(pid, DEATH_TIME)
    with pytest.raises(StartError, match="closing"):
        forks.launch()


@pytest.mark.parametrize("held", [False, True])
def test_everything_ends_with_a_killed_parent(held: bool) -> None:
    """Two seconds after a SIGKILL to the server nothing of it is left, even if a fork of it has its descriptors."""
    script = f"""
        import os, sys, time
        from launching import call, config, start_grandchild
        from executors.backends.process.launcher import Launcher

        launcher = Launcher(config)
        worker = launcher.launch()
        holder = os.fork() if {held} else 0
        if not holder and {held}:
            time.sleep(1000)
        print(holder, worker.pid, call(worker, os.getppid), call(worker, start_grandchild), flush=True)
        time.sleep(1000)
    """
    with started(script) as parent:
        assert parent.stdout is not None
        holder, *pids = map(int, parent.stdout.readline().split())
        assert all(is_alive(pid) for pid in pids)
        parent.kill()
        try:
            for pid in pids:
                assert wait_for_end(pid, DEATH_TIME)
            assert not held or is_alive(holder)
        finally:
            if held:
                os.kill(holder, signal.SIGKILL)


@pytest.mark.parametrize("hanging", ["setup", "module"])
def test_nothing_is_started_once_stopped(launcher, launch, named_pipe, tmp_path, monkeypatch, hanging: str) -> None:
    """While the zygote is in a long import, `stop` ends each launch at once; no process starts later."""
    started_modules = []
    real_start = zygote_process.start_interpreter

    def start(module: str, fds: Sequence[int], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        started_modules.append(module)
        return real_start(module, fds, env)

    monkeypatch.setattr(zygote_process, "start_interpreter", start)
    monkeypatch.setattr(worker_process, "start_interpreter", start)
    from_worker = named_pipe()
    (tmp_path / "hanging_module.py").write_text(f"import launching\nlaunching.hang(None, {from_worker.path!r})")
    monkeypatch.syspath_prepend(tmp_path)
    forks = launcher(launching.setup(launching.hang, from_worker.path) if hanging == "setup" else None)
    worker = launch(forks) if hanging == "module" else None
    with ThreadPoolExecutor(3) as threads:
        launches = [threads.submit(forks.launch, frozenset(["hanging_module"])) for _ in range(3)]
        zygote = int(anyio.run(from_worker.receive))
        forks.stop()
        number_started = len(started_modules)
        for each in launches:
            with pytest.raises(StartError, match=r"closing|exit code"):
                each.result(timeout=20)
    assert len(started_modules) == number_started == 1
    if worker is not None:
        assert call(worker, os.getppid) == zygote  # it goes on until it is ended
    forks.close()
    assert not is_alive(zygote)


@pytest.mark.parametrize("hanging", ["setup", "module"])
def test_everything_ends_with_a_parent_killed_during_an_import(named_pipe, tmp_path, hanging: str) -> None:
    """The zygote, and a worker that is stuck in C code, with its task's child programs."""
    from_worker = named_pipe()
    (tmp_path / "hanging_module.py").write_text(f"import launching\nlaunching.hang(None, {from_worker.path!r})")
    script = f"""
        import sys, time
        import launching, worker_tasks
        from executors.backends.process.launcher import Launcher

        sys.path.append({str(tmp_path)!r})
        if {hanging!r} == "setup":
            Launcher(lambda: launching.setup(launching.hang, {from_worker.path!r})).launch()
        launcher = Launcher(launching.config)
        worker = launcher.launch()
        print(worker.pid, launching.call(worker, launching.start_grandchild), flush=True)
        launching.send(worker, worker_tasks.power, {from_worker.path!r})
        launcher.launch(frozenset(["hanging_module"]))
    """
    with started(script) as parent:
        assert parent.stdout is not None
        pids = [] if hanging == "setup" else list(map(int, parent.stdout.readline().split()))
        pids += [int(anyio.run(from_worker.receive)) for _ in range(1 if hanging == "setup" else 2)]
        assert all(is_alive(pid) for pid in pids)
        parent.kill()
        for pid in pids:
            assert wait_for_end(pid, DEATH_TIME)
