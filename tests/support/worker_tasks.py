"""Task functions that worker processes import, many times in a test run: slow imports are inside functions."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from contextvars import ContextVar
from typing import Any

from named_pipes import receive, send

from executors import cpu_bound, current_task

variable: ContextVar[str] = ContextVar("variable", default="unset")
other_variable: ContextVar[str] = ContextVar("other_variable", default="unset")


class TwoArgumentsError(Exception):
    """Its `__init__` takes other arguments than `Exception` keeps."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


class PrefixingError(Exception):
    """Created from one argument, with another as its `args`: calling it again with those changes its message."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no {name}")


class LockedError(Exception):
    """Holds an object that can't be pickled."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class Explosive:
    """Pickles, and raises when it is unpickled in a process other than its maker's."""

    def __init__(self, kind: type[BaseException] = ValueError) -> None:
        self.kind = kind
        self.pid = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["pid"] != os.getpid():
            raise state["kind"]("unpickled elsewhere")
        self.__dict__.update(state)


class ExplosiveError(Exception):
    """As `Explosive`, for an exception."""

    def __init__(self) -> None:
        super().__init__("explosive")
        self.load = Explosive()


class Stubborn:
    """Raises when it is pickled."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        raise self.kind("won't be pickled")


def identity(value: Any = None) -> Any:
    return value


def length(value: Any) -> int:
    return len(value)


def pid(*_: Any) -> int:
    return os.getpid()


def send_pid(path: str) -> int:
    send(path, os.getpid())
    return os.getpid()


def send_pid_and_wait(from_worker: str, to_worker: str) -> int:
    """Send the process id, then wait for a message."""
    send(from_worker, os.getpid())
    receive(to_worker)
    return os.getpid()


def make(factory: Any, *args: Any) -> Any:
    """Return an object that only the worker has: `factory(*args)`."""
    return factory(*args)


def make_text(size: int) -> str:
    return "x" * size


def make_numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


beats = 0
"""The number of iterations of the loop; for `Witness`."""

witnessed: list[tuple[str, int, int]] = []
"""What happened to each `Witness` in this process: the operation, its thread, the loop's iteration."""


class Witness:
    """Records when and where it is pickled and unpickled."""

    def __reduce__(self) -> Any:
        witnessed.append(("pickled", threading.get_ident(), beats))
        return unpickle_witness, ()


def unpickle_witness() -> Witness:
    witnessed.append(("unpickled", threading.get_ident(), beats))
    return Witness()


def make_numbers_between_witnesses(count: int) -> list[Any]:
    return [Witness(), make_numbers(count), Witness()]


def make_lock() -> Any:
    return threading.Lock()


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def raise_it(factory: Any, *args: Any) -> None:
    raise factory(*args)


def raise_richly() -> None:
    try:
        {}["missing"]
    except KeyError as error:
        failure = TwoArgumentsError(7, "no luck")
        failure.add_note("a note of the task")
        raise failure from error


def raise_while_handling() -> None:
    try:
        {}["missing"]
    except KeyError:
        raise ValueError("second")  # noqa: B904  (its context is what is tested)


def raise_it_large(size: int) -> None:
    raise ValueError("x" * size)


def raise_chain(length: int) -> None:
    error = ValueError("0")
    for number in range(1, length):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    raise error


def raise_tangle(count: int) -> None:
    """Raise an error in a cycle of causes and contexts."""
    errors = [ValueError(str(number)) for number in range(count)]
    for number, error in enumerate(errors):
        error.__cause__ = errors[number - 1]
        error.__context__ = errors[number - 2]
    raise errors[-1]


def call(function: Any) -> Any:
    return function()


def make_adder(offset: int) -> Any:
    return lambda value: value + offset


# --- ways to die ------------------------------------------------------------------------------------------


def segfault() -> None:
    import ctypes  # noqa: PLC0415

    ctypes.string_at(0)


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)


def exit_with(code: int) -> None:
    os._exit(code)


def log_and_exit(code: int = 7) -> None:
    logging.getLogger("tests.crash").warning("last words")
    os._exit(code)


def log_and_segfault() -> None:
    import ctypes  # noqa: PLC0415

    logging.getLogger("tests.crash").warning("last words")
    ctypes.string_at(0)


def close_every_descriptor() -> None:
    os.closerange(3, 256)


def leave_child_behind(path: str) -> None:
    """Send the ids of this process and of a child that holds all its descriptors, then die."""
    import subprocess  # noqa: PLC0415

    child = subprocess.Popen(["/bin/sleep", "1000"], close_fds=False, start_new_session=True)
    send(path, f"{os.getpid()} {child.pid}")
    os._exit(3)


# --- ways to stay -----------------------------------------------------------------------------------------


def stay(path: str | None = None) -> None:
    if path:
        send(path, os.getpid())
    while True:
        time.sleep(1000)


async def stay_later(path: str) -> None:
    import asyncio  # noqa: PLC0415

    send(path, os.getpid())
    await asyncio.Event().wait()


def stop_self(path: str) -> None:
    send(path, os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)


def spin(path: str) -> None:
    send(path, os.getpid())
    while True:
        pass


def power(path: str) -> None:
    """Keep the GIL in C code for minutes."""
    send(path, os.getpid())
    pow(3, 10**8)


def digest(path: str) -> None:
    """Compute in C code for minutes."""
    import hashlib  # noqa: PLC0415

    send(path, os.getpid())
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def sleep_in_c(path: str) -> None:
    """Keep the GIL in C code, which also sends the process id."""
    import ctypes  # noqa: PLC0415

    library = ctypes.PyDLL(None)
    library.system(f"echo $PPID > '{path}'; exec sleep 4".encode())
    library.sleep(1000)


def stay_with_grandchild(path: str) -> None:
    import subprocess  # noqa: PLC0415

    child = subprocess.Popen(["/bin/sleep", "1000"])
    send(path, f"{os.getpid()} {child.pid}")
    child.wait()


def ignore_signals(from_worker: str, to_worker: str) -> str:
    send(from_worker, os.getpid())
    return receive(to_worker)


# --- what else tasks do -----------------------------------------------------------------------------------


def fork() -> int:
    """Return in both processes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        os.waitpid(child, 0)
    return os.getpid()


def terminate_child() -> int:
    """Run a program, terminate it with SIGTERM, and return its exit code."""
    import subprocess  # noqa: PLC0415

    with subprocess.Popen(["/bin/sleep", "1000"]) as child:
        child.terminate()
        return child.wait()


def terminate_fork(path: str) -> int:
    """Fork, terminate the child with SIGTERM, and return the signal that ended it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        send(path, "forked")
        time.sleep(1000)
        os._exit(0)
    receive(path)
    os.kill(child, signal.SIGTERM)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def leave_thread() -> int:
    """Leave a thread behind that would keep the process from ending."""
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return os.getpid()


def use_cpu(seconds: float) -> None:
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass


def nested_pool() -> list[int]:
    import multiprocessing  # noqa: PLC0415

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map(square, range(3))


def square(number: int) -> int:
    return number * number


def task_identity() -> tuple[str | None, str]:
    return current_task().id, current_task().name


def describe_process() -> dict[str, Any]:
    return {
        "nice": os.nice(0),
        "pid": os.getpid(),
        "group": os.getpgid(0),
        "session": os.getsid(0),
        "stdin": sys.stdin.read(),
    }


def scheduling_policy() -> int:
    return os.sched_getscheduler(0)


def print_both(text: str) -> None:
    import subprocess  # noqa: PLC0415

    print(f"printed {text}", flush=True)  # noqa: T201
    os.write(1, f"written {text}\n".encode())
    subprocess.run(["/bin/echo", f"echoed {text}"], check=True)


def read_variables() -> tuple[str, str]:
    return variable.get(), other_variable.get()


async def read_variables_later() -> tuple[str, str]:
    import asyncio  # noqa: PLC0415

    await asyncio.sleep(0)
    return read_variables()


def set_variables(value: str) -> None:
    variable.set(value)
    other_variable.set(value)


async def set_variables_later(value: str) -> None:
    set_variables(value)


def append_line(path: str, text: object) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def append_and_return_pid(path: str, text: object) -> int:
    append_line(path, text)
    return os.getpid()


def allocate(size: int) -> int:
    """Keep memory for as long as the worker lives."""
    _kept.append(b"x" * size)
    return os.getpid()


_kept: list[bytes] = []


def return_awaitable(value: int) -> Any:
    return add_later(value, 1)


async def add_later(a: int, b: int) -> int:
    import asyncio  # noqa: PLC0415

    await asyncio.sleep(0)
    return a + b


async def library_of_loop() -> str:
    import anyio  # noqa: PLC0415
    import trio  # noqa: PLC0415

    await anyio.sleep(0)
    return "trio" if trio.lowlevel.in_trio_run() else "asyncio"


async def loop_identity() -> int:
    import asyncio  # noqa: PLC0415

    return id(asyncio.get_running_loop())


@cpu_bound
async def marked_later(value: int) -> tuple[int, int]:
    import asyncio  # noqa: PLC0415

    await asyncio.sleep(0)
    return value, os.getpid()


async def raise_in_subtask() -> None:
    import asyncio  # noqa: PLC0415

    async def leave() -> None:
        raise SystemExit(3)

    await asyncio.create_task(leave())


async def raise_later(kind: Any) -> None:
    import asyncio  # noqa: PLC0415

    await asyncio.sleep(0)
    raise asyncio.CancelledError if kind == "asyncio.CancelledError" else kind


def nested_executor() -> list[int]:
    """Use an executor created by this task, with its own worker."""
    import asyncio  # noqa: PLC0415

    from executors import Executor  # noqa: PLC0415

    async def main() -> list[int]:
        async with Executor(threads=1, processes=1) as executor:
            there = await executor.options(tag="cpu").run(os.getpid)
            return [os.getpid(), there, await executor.run(os.getpid)]

    return asyncio.run(main())


def log(name: str, level: int, text: str, *args: Any, **extra: Any) -> None:
    logging.getLogger(name).log(level, text, *args, extra=extra or None)


def log_exception(name: str) -> None:
    try:
        raise_it(ValueError, "logged")
    except ValueError:
        logging.getLogger(name).exception("it failed")


def log_local_text(name: str) -> int:
    """Log an object whose type no other process can import."""

    class Text(str):
        __slots__ = ()

    logging.getLogger(name).warning("with an extra", extra={"text": Text("local")})
    return os.getpid()


def log_lock(name: str) -> None:
    logging.getLogger(name).warning("with a lock", extra={"lock": threading.Lock()})


def level_of(name: str) -> int:
    return logging.getLogger(name).level


def fork_and_log(name: str) -> None:
    parent = os.getpid()
    fork()
    logging.getLogger(name).warning("parent" if os.getpid() == parent else "child")


def warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=1)


def log_many(name: str, count: int) -> None:
    for number in range(count):
        logging.getLogger(name).warning("record %d", number)


def log_then_wait(name: str, from_worker: str, to_worker: str) -> None:
    logging.getLogger(name).warning("under way")
    send(from_worker, os.getpid())
    receive(to_worker)


# --- setups of workers ------------------------------------------------------------------------------------


def setup_fails(_worker: Any, text: str) -> Any:
    raise RuntimeError(text)


def setup_exits(_worker: Any, code: int) -> Any:
    os._exit(code)


def setup_unless(_worker: Any, path: str) -> Any:
    """Fail while there is a file at `path`."""
    if os.path.exists(path):
        raise RuntimeError("not yet")
    return identity


def setup_stays(_worker: Any, path: str) -> Any:
    stay(path)


def setup_counts_and_fails(_worker: Any, path: str) -> Any:
    append_line(path, os.getpid())
    raise RuntimeError("not to be started")


def setup_fails_once(_worker: Any, path: str) -> Any:
    fails = not os.path.exists(path)
    append_line(path, os.getpid())
    if fails:
        os._exit(7)
    return identity


def setup_counts(_worker: Any, path: str) -> Any:
    append_line(path, os.getpid())
    return identity


def setup_doubles(_worker: Any) -> Any:
    """Wrap each task's function in one that doubles."""

    def wrap(function: Any) -> Any:
        def doubled(*args: Any, **kwargs: Any) -> Any:
            return 2 * function(*args, **kwargs)

        return doubled

    return wrap


def append_locked(values: Any, lock: Any, value: Any) -> list[Any]:
    with lock:
        values.append(value)
    return list(values)
