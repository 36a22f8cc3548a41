"""Task functions for the tests of faults. Worker processes import this, so slow imports are inside functions."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from named_pipes import receive, send
from worker_tasks import TwoArgumentsError, identity, kill_self, nested, pid, raise_it, stay

__all__ = ["TwoArgumentsError", "kill_self", "nested", "pid", "raise_it", "stay"]


def meet(from_worker: str, to_worker: str) -> int:
    """Send a message, wait for the same from another task, and return this worker's process id."""
    send(from_worker, "here")
    receive(to_worker)
    return os.getpid()


# --- what is raised ---------------------------------------------------------------------------------------


class OwnBaseError(BaseException):
    """Not an `Exception`."""


class SpeechlessError(Exception):
    """Has no message: `str` raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class SpeechlessBaseError(BaseException):
    """The same, and not an `Exception`."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@dataclass(frozen=True)
class FrozenError(Exception):
    """Accepts no attributes."""

    code: int


class HoldingError(Exception):
    """Holds a value that is set later."""

    held: Any = None


async def raise_later(factory: Any, *args: Any) -> None:
    raise factory(*args)


def cancelled_error(text: str) -> BaseException:
    import asyncio  # noqa: PLC0415

    return asyncio.CancelledError(text)


def raise_holding(make: Callable[..., Any], *args: Any) -> None:
    error = HoldingError("holding")
    error.held = make(*args)
    raise error


def raise_frozen(code: int) -> None:
    try:
        {}["missing"]
    except KeyError as error:
        raise FrozenError(code) from error


def raise_group() -> None:
    """Raise a group in a group, of errors that take two arguments."""
    inner = ExceptionGroup("inner", [TwoArgumentsError(2, "two"), ValueError(3)])
    failure = TwoArgumentsError(1, "one")
    failure.add_note("a note of a member")
    raise ExceptionGroup("outer", [failure, inner])


def raise_with_cause(depth: int) -> None:
    """Raise an error at the end of a long chain of causes."""
    error = ValueError("first")
    for _ in range(depth):
        following = ValueError("next")
        following.__cause__ = error
        error = following
    raise error


# --- what travels -----------------------------------------------------------------------------------------


class Trap:
    """Acts when it is pickled, or unpickled, in another process than its home."""

    def __init__(self, when: str, home: int, act: Callable[..., Any], *args: Any) -> None:
        self.state = when, home, act, args

    def __reduce__(self) -> Any:
        _spring("pickled", *self.state)
        return unpickle_trap, self.state


def _spring(now: str, when: str, home: int, act: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if now == when and os.getpid() != home:
        act(*args)


def unpickle_trap(when: str, home: int, act: Callable[..., Any], args: tuple[Any, ...]) -> Trap:
    _spring("unpickled", when, home, act, args)
    return Trap(when, home, act, *args)


def make_trap(when: str, act: Callable[..., Any], *args: Any) -> Trap:
    """Create a trap whose home is this process."""
    return Trap(when, os.getpid(), act, *args)


def make_bytes(size: int) -> bytes:
    return bytes(size)


def nested_otherwise(shape: str, depth: int) -> Any:
    """Nest lists, tuples, dictionaries or objects."""
    value: Any = None
    for _ in range(depth):
        if shape == "list":
            value = [value]
        elif shape == "tuple":
            value = (value,)
        elif shape == "dict":
            value = {0: value}
        else:
            value = Holder(value)
    return value


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


def unpickles_deep(depth: int) -> Any:
    """Return an object with a small pickle that is deep once unpickled."""
    return Shortcut(depth)


class Shortcut:
    """Unpickles as lists in lists."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __reduce__(self) -> Any:
        return nested, (self.depth,)


def die_while_sending(path: str, size: int) -> bytes:
    """Return a large value, and have this process killed while it is being sent."""

    def kill() -> None:
        time.sleep(0.3)  # the parent reads nothing before this message
        send(path, "now")
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    return bytes(size)


# --- bad manners ------------------------------------------------------------------------------------------


def write_to(fd: int, text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, f"{text}\n".encode())


def close_from(first: int, last: int) -> int:
    os.closerange(first, last)
    return os.getpid()


def write_everywhere() -> None:
    """Write garbage to every writable descriptor, then wait for the consequences."""
    for fd in range(3, 256):
        with contextlib.suppress(OSError):
            os.set_blocking(fd, False)
            os.write(fd, b"\xff" * 100)
    stay()


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def fork(how: str) -> int:
    """Fork; the child ends in some way, and this process then returns its own id."""
    if child := _fork():
        os.waitpid(child, 0)
        return os.getpid()
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        sys.exit(0)
    elif how == "_exit":
        os._exit(5)
    elif how == "raise":
        raise ValueError("of the child")
    return -1


def fork_for_later(from_worker: str, to_worker: str) -> int:
    """Fork, and return; the child returns when it gets a message."""
    if child := _fork():
        send(from_worker, child)
        return os.getpid()
    receive(to_worker)
    return -1


def leave_busy_thread() -> int:
    """Leave a thread behind that prints and computes for ever, and would keep the process from ending."""

    def work() -> None:
        while True:
            sum(range(1000))
            time.sleep(0.001)

    threading.Thread(target=work).start()
    return os.getpid()


def leave_child() -> int:
    """Leave a program behind; return its process id."""
    import subprocess  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        return subprocess.Popen(["/bin/sleep", "1000"], close_fds=False).pid


def send_child(path: str) -> None:
    send(path, leave_child())


def leave_other_groups(path: str) -> None:
    """Leave a program, a child of it and an orphan behind, none in the worker's process group."""
    import subprocess  # noqa: PLC0415

    options = {"process_group": 0, "stdout": subprocess.PIPE, "text": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        family = subprocess.Popen(["/bin/sh", "-c", "sleep 1000 & echo $$ $!; wait"], **options)
        line = family.stdout.readline().strip()
        with subprocess.Popen(["/bin/sh", "-c", "sleep 1000 >/dev/null & echo $!"], **options) as shell:
            line += f" {shell.stdout.read().strip()}"
        send(path, line)
        del family


def leave_session(path: str) -> None:
    """Leave a program behind that has a session of its own."""
    import subprocess  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        send(path, subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True).pid)


def leave_child_and_exit(path: str, code: int) -> None:
    send(path, leave_child())
    os._exit(code)


def move_into(path: str) -> str:
    """Make a directory, change into it, and remove it."""
    os.mkdir(path)
    os.chdir(path)
    os.rmdir(path)
    return path


def set_alarm(seconds: float, *, handled: bool) -> int:
    """Set an alarm that ends the process, or whose handler raises."""
    if handled:
        signal.signal(signal.SIGALRM, raise_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return os.getpid()


def raise_alarm(*_: object) -> None:
    raise TimeoutError("the alarm")


def reset_signals() -> None:
    """Reset every signal to the default action."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)


def exhaust_memory() -> None:
    """Allocate more memory than this process may have."""
    import resource  # noqa: PLC0415

    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, limits[1]))
    try:
        bytes(2**30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def ignore_termination(path: str) -> None:
    """Ignore every signal that can be ignored, and stay."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        if number < signal.SIGRTMIN:
            signal.signal(number, signal.SIG_IGN)
    stay(path)


def join_other_group(path: str) -> None:
    """Leave the worker's process group for that of a child, and stay."""
    import subprocess  # noqa: PLC0415

    child = subprocess.Popen(["/bin/sleep", "1000"], process_group=0)
    os.setpgid(0, child.pid)
    send(path, f"{os.getpid()} {child.pid}")
    child.wait()


def lead_session(path: str) -> None:
    """Try to start a session, and stay."""
    try:
        os.setsid()
    except PermissionError:  # it leads a process group already
        send(path, "refused")
    stay(path)


def add_up(path: str) -> None:
    """Keep the GIL in one call for minutes."""
    send(path, os.getpid())
    sum(range(10**11))


def match(path: str) -> None:
    """The same by a regular expression that backtracks."""
    import re  # noqa: PLC0415

    send(path, os.getpid())
    re.match(r"(a+)+$", "a" * 60 + "b")


def catch_everything(path: str) -> None:
    """Ignore every exception."""
    send(path, os.getpid())
    while True:
        try:
            time.sleep(1000)
        except BaseException:  # noqa: BLE001
            continue


def stay_with_executor(path: str) -> None:
    """Stay in a task of an executor created by this task."""
    import asyncio  # noqa: PLC0415

    from executors import Executor  # noqa: PLC0415

    async def main() -> None:
        async with Executor(threads=1, processes=1) as executor:
            cpu = executor.options(tag="cpu")
            send(path, f"{os.getpid()} {await cpu.run(pid)}")
            await cpu.run(stay)

    asyncio.run(main())


def append_line(path: str) -> str:
    with open(path, "a") as file:
        file.write("run\n")
    return path


# --- setups of workers ------------------------------------------------------------------------------------


def setup_fails(_worker: Any, path: str, how: str) -> Any:
    """Fail as many times as the file at `path` has lines, if there is one."""
    try:
        with open(path) as file:
            _, *left = file.readlines()
    except (FileNotFoundError, ValueError):
        return identity
    with open(path, "w") as file:
        file.writelines(left)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError("not yet")
