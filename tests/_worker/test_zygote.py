"""Workers forked from a zygote, and what prevents forking. Real processes, without a pool."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path

import launching
import pytest
from launching import call, config, send, setup
from processes import wait_for_end

from executors._worker import fork_safety
from executors.backends.process.launcher import StartError

DEATH_TIME = 2.0
"""Seconds, as a `Stopwatch` measures."""
MODULE = "launching_module_of_a_test"


def named(caplog, name: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == name]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that workers can import."""

    def write(text: str) -> str:
        (tmp_path / f"{MODULE}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return MODULE

    return write


# --- forks ------------------------------------------------------------------------------------------------


def test_forks_are_processes_of_their_own(launcher, launch) -> None:
    """Each has its own process id, group and random numbers; their parent is the zygote."""
    forks = launcher()
    workers = [launch(forks, "random") for _ in range(3)]
    assert all(worker.is_forked for worker in workers)
    pids = [call(worker, os.getpid) for worker in workers]
    assert len({os.getpid(), *pids}) == 4
    assert pids == [worker.pid for worker in workers] == [call(worker, os.getpgrp) for worker in workers]
    (zygote,) = {call(worker, os.getppid) for worker in workers}
    assert zygote not in {os.getpid(), *pids}
    assert len({call(worker, launching.random_number) for worker in workers}) == 3


def test_numpys_numbers_differ(launcher, launch) -> None:
    """Each fork reseeds NumPy's generator, once; the zygote doesn't."""
    forks = launcher(setup(launching.import_numpy))
    for worker in [launch(forks) for _ in range(2)]:
        assert call(worker, launching.everything_kept) == [worker.pid]


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGSEGV, 0, 7])
def test_the_end_of_a_fork(launcher, launch, code: int) -> None:
    """Its exit status is known; the other worker goes on; once reaped nothing is left of it."""
    forks = launcher()
    one, other = launch(forks), launch(forks)
    if code < 0:
        os.kill(one.pid, -code)
    else:
        send(one, os._exit, code)
    assert wait_for_end(one.pid, DEATH_TIME)
    assert one.reap() == code
    one.kill()  # harmless
    one.close()
    assert call(other, os.getpid) == other.pid
    launch(forks)  # orders are done in turn, so that the dead one is reaped by now
    assert not Path(f"/proc/{one.pid}").exists()


def test_a_running_fork_is_killed_to_be_reaped(launcher, launch) -> None:
    """Reaping a running worker kills it first, with its child programs."""
    forks = launcher()
    worker = launch(forks)
    grandchild = call(worker, launching.start_grandchild)
    assert worker.reap() == -signal.SIGKILL
    assert wait_for_end(grandchild, DEATH_TIME)
    worker.close()


def test_the_app_is_imported_once(launcher, launch, tmp_path) -> None:
    """The setup is called once, in the zygote."""
    path = tmp_path / "setups"
    forks = launcher(setup(launching.send_setup, str(path)))
    workers = [launch(forks) for _ in range(2)]
    (zygote,) = {call(worker, os.getppid) for worker in workers}
    assert path.read_text() == f"{zygote}\n"


def test_without_preload_each_fork_imports_the_app(launcher, launch, tmp_path) -> None:
    """The setup is called in each worker, and in no other process."""
    path = tmp_path / "setups"
    forks = launcher(setup(launching.send_setup, str(path), preload=False))
    workers = [launch(forks) for _ in range(2)]
    assert all(worker.is_forked for worker in workers)
    assert path.read_text().split() == [str(worker.pid) for worker in workers]


def test_an_idle_fork_takes_little_memory(launcher, launch) -> None:
    """Most of its memory is shared with the others."""
    forks = launcher()
    workers = [launch(forks) for _ in range(2)]
    assert max(launching.proportional_memory(worker.pid) for worker in workers) < 6e6


@pytest.mark.parametrize("is_forked", [True, False])
def test_the_exit_of_a_worker(launcher, launch, tmp_path, is_forked: bool) -> None:
    """A worker that is asked to exit joins its threads, then runs the app's `atexit` functions."""
    from executors._wire.channel import BlockingChannel  # noqa: PLC0415
    from executors._wire.frames import FrameType, frame  # noqa: PLC0415

    path = tmp_path / "exits"
    worker = launch(launcher(setup(launching.send_at_exit, str(path), is_forked)))
    assert worker.is_forked == is_forked
    call(worker, launching.leave_thread, str(path))
    BlockingChannel(worker.sock).send([frame(FrameType.EXIT)])
    assert wait_for_end(worker.pid, DEATH_TIME)
    assert worker.reap() == 0
    worker.close()
    assert path.read_text().splitlines()[-2:] == ["thread", str(worker.pid)]  # after those of a zygote that has ended


def test_what_an_import_prints_is_printed_once(launcher, launch, capfd, monkeypatch) -> None:
    """A fork doesn't inherit unwritten output."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    from executors._wire.channel import BlockingChannel  # noqa: PLC0415
    from executors._wire.frames import FrameType, frame  # noqa: PLC0415

    forks = launcher(setup(launching.write, "imported"))
    workers = [launch(forks) for _ in range(2)]
    for worker in workers:
        BlockingChannel(worker.sock).send([frame(FrameType.EXIT)])
        assert wait_for_end(worker.pid, DEATH_TIME)
    forks.close()
    assert capfd.readouterr().err == "imported"


def test_the_apps_handler_of_sigchld(launcher, launch) -> None:
    """Its workers have it; the zygote, the parent of these workers, does not."""
    forks = launcher(setup(launching.ignore_children))
    one, other = launch(forks), launch(forks)
    assert call(one, launching.ignores_children)
    os.kill(other.pid, signal.SIGKILL)
    assert other.reap() == -signal.SIGKILL
    other.close()
    assert call(one, launching.ignores_children)


def test_signals_to_the_zygote_are_ignored(launcher, launch) -> None:
    """A Ctrl-C or a service manager's SIGTERM ends neither the zygote nor its workers."""
    forks = launcher()
    worker = launch(forks)
    zygote = call(worker, os.getppid)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(zygote, number)
    other = launch(forks)
    assert call(other, os.getppid) == call(worker, os.getppid) == zygote


@pytest.mark.parametrize("how", ["preload", "in the fork", "of its own"])
def test_idle_workers(launcher, launch, how: str) -> None:
    """With the niceness "idle" a worker has the SCHED_IDLE policy, however it is started."""
    function = launching.keep_thread if how == "of its own" else launching.log
    arguments = () if how == "of its own" else ("imported",)
    worker = launch(launcher(setup(function, *arguments, nice="idle", preload=how != "in the fork")))
    assert worker.is_forked == (how != "of its own")
    assert call(worker, os.sched_getscheduler, 0) == os.SCHED_IDLE


# --- what is imported before a fork -----------------------------------------------------------------------


def test_modules_are_imported_before_a_fork(launcher, launch, module) -> None:
    """The next workers have them; a module that raises, or doesn't exist, is ignored."""
    name = module("raised = 1")
    forks = launcher()
    assert not call(launch(forks, "no_such_module"), launching.is_loaded, name)
    later = launch(forks, name, "this")
    assert call(later, launching.is_loaded, name)
    assert later.is_forked


def test_the_main_script_is_imported_before_a_fork(launcher, launch, tmp_path) -> None:
    """`__main__` among the modules is the parent's main script."""
    script = tmp_path / "script.py"
    script.write_text("import os\nassert __name__ != '__main__'\nmaker = os.getpid()\n")
    forks = launcher(config(main={"path": str(script)}))
    worker = launch(forks, "__main__")
    assert call(worker, launching.value_of, "__mp_main__", "maker") == call(worker, os.getppid)


def test_a_module_that_prevents_forks(launcher, launch, module) -> None:
    """After a module that starts a thread, workers are launched without forking; existing ones go on."""
    name = module("import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()")
    forks = launcher()
    before = launch(forks)
    for _ in range(2):
        after = launch(forks, name)
        assert not after.is_forked
        assert call(after, os.getppid) == os.getpid()
    assert call(before, os.getpid) == before.pid
    os.kill(before.pid, signal.SIGKILL)
    assert before.reap() == -signal.SIGKILL
    before.close()


def test_a_module_that_ends_the_zygote(launcher, launch, module) -> None:
    """The requested worker is launched all the same, and the next one has a new zygote."""
    name = module("import os; os._exit(3)")
    forks = launcher()
    before = launch(forks)
    assert call(launch(forks, name), os.getppid) == os.getpid()
    assert wait_for_end(before.pid, DEATH_TIME)
    assert launch(forks).is_forked


# --- apps that can't be forked ----------------------------------------------------------------------------


def children() -> set[int]:
    """Return the children that this thread has started. Other tests may have left some that are kept."""
    return set(map(int, Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()))


@pytest.mark.parametrize("opened", ["thread", "socket", "terminal", "r+", "w"])
def test_what_keeps_an_app_from_being_forked(launcher, launch, tmp_path, opened: str) -> None:
    """If its import starts a thread, or opens what forks can't share, each worker is launched without forking."""
    path = tmp_path / "file"
    path.write_text("text")
    setups = {"thread": launching.keep_thread, "socket": launching.keep_socket, "terminal": launching.keep_terminal}
    unclean = setup(setups[opened]) if opened in setups else setup(launching.keep_file, str(path), opened)
    single, before = launcher(unclean), children()
    workers = [launch(single) for _ in range(2)]
    assert not any(worker.is_forked for worker in workers)
    assert {worker.pid for worker in workers} == children() - before  # there is no zygote any more
    assert [call(worker, os.getpid) for worker in workers] == [worker.pid for worker in workers]
    assert {call(worker, os.getppid) for worker in workers} == {os.getpid()}
    os.kill(workers[0].pid, signal.SIGKILL)
    assert workers[0].reap() == -signal.SIGKILL
    workers[0].close()


@pytest.mark.parametrize(("threads", "is_forked"), [(None, True), ("4", False)], ids=["limited", "as the user wants"])
def test_threads_of_native_libraries(launcher, launch, monkeypatch, threads: str | None, is_forked: bool) -> None:
    """A library's native threads would prevent forking, so they are limited to one unless the user sets more."""
    for name in fork_safety.THREAD_LIMITS:
        monkeypatch.delenv(name, raising=False)
    if threads is not None:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
    worker = launch(launcher(setup(launching.use_numpy)))
    assert worker.is_forked is is_forked
    assert call(worker, os.getenv, "OPENBLAS_NUM_THREADS") == (threads or "1")
    assert call(worker, os.getenv, "OMP_NUM_THREADS") == "1"


@pytest.mark.parametrize("mode", ["a", "r"])
def test_files_that_forks_can_share(launcher, launch, tmp_path, mode: str) -> None:
    """A file open for reading or appending, such as a log, doesn't prevent forking; each fork reads independently."""
    path = tmp_path / "file"
    path.write_text("first\nsecond\n")
    forks = launcher(setup(launching.keep_file, str(path), mode))
    workers = [launch(forks) for _ in range(2)]
    assert all(worker.is_forked for worker in workers)
    if mode == "r":
        assert [call(worker, launching.read_line) for worker in workers] == ["first", "first"]


def test_a_file_that_forks_close(launcher, launch, tmp_path) -> None:
    """A function that the app has registered for forks may close a file that the import has opened."""
    path = tmp_path / "file"
    path.write_text("text")
    worker = launch(launcher(setup(launching.keep_file_until_fork, str(path))))
    assert worker.is_forked
    assert call(worker, os.getpid) == worker.pid


# --- failures and logs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("preload", [True, False])
def test_a_setup_that_fails_is_reported(launcher, preload: bool) -> None:
    """The launcher gets the error and its traceback."""
    with pytest.raises(StartError, match="RuntimeError: no such app") as caught:
        launcher(setup(launching.fail, preload=preload)).launch()
    assert caught.value.reported
    assert "in fail" in str(caught.value)


@pytest.mark.parametrize("preload", [True, False])
def test_a_setup_that_hangs(launcher, preload: bool) -> None:
    """It is killed after the start timeout, and the error says so."""
    with pytest.raises(StartError, match=r"within 0\.5 s") as caught:
        launcher(setup(launching.hang, preload=preload), start_timeout=0.5).launch()
    assert caught.value.reported


@pytest.mark.parametrize("preload", [True, False])
def test_a_setup_that_exits(launcher, preload: bool) -> None:
    """The launcher gets the exit status of the process."""
    with pytest.raises(StartError, match="exit code 7") as caught:
        launcher(config(setup=("worker_tasks:setup_exits", (7,)), preload=preload)).launch()
    assert not caught.value.reported


@pytest.mark.parametrize("how", ["preload", "in the fork", "of its own"])
def test_the_log_of_a_setup(launcher, launch, caplog, how: str) -> None:
    """What the app logs as it is imported is in this process's log when the worker is ready, once for each import.

    An app that cannot be forked is imported twice at first: in the zygote, and in the worker.
    """
    function = launching.log_and_keep_thread if how == "of its own" else launching.log
    worker = launch(launcher(setup(function, "imported", preload=how != "in the fork")))
    assert worker.is_forked == (how != "of its own")
    imports = 2 if how == "of its own" else 1
    assert [record.getMessage() for record in named(caplog, "tests.setup")] == ["imported"] * imports


def test_a_long_log_of_a_setup_keeps_no_app_from_being_forked(launcher, launch, caplog) -> None:
    """It needs no thread to be forwarded: records wait until the setup has ended."""
    assert launch(launcher(setup(launching.log_much, 50))).is_forked
    assert [record.getMessage().split()[0] for record in named(caplog, "tests.setup")] == list(map(str, range(50)))
