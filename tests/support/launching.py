"""Communication with launched workers without a pool, and setups for them."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import named_pipes

kept: list[Any] = []
"""Objects that a setup has opened."""


def config(**changes: Any) -> dict[str, Any]:
    """Return the configuration of a worker."""
    return {
        "authkey": None,
        "id_key": b"key",
        "backend": "process",
        "argv": sys.argv,
        "library": "asyncio",
        "log_levels": {},
        "main": None,
        "max_payload": 1024 * 1024,
        "nice": 0,
        "parent": os.getpid(),
        "path": sys.path,
        "preload": True,
        "env": {},
        "shared": 0,
        "setup": None,
        **changes,
    }


def setup(function: Callable[..., Any], *args: Any, **changes: Any) -> dict[str, Any]:
    """Return the configuration of a worker that has this setup."""
    return config(setup=(f"{function.__module__}:{function.__name__}", args), **changes)


def send(worker: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Send a worker a call of a function; return the channel."""
    from executors._wire import pickling  # noqa: PLC0415  (workers import this module, and need no more)
    from executors._wire.channel import BlockingChannel  # noqa: PLC0415
    from executors._wire.frames import FrameType, frame  # noqa: PLC0415

    channel = BlockingChannel(worker.sock)
    pieces, _ = pickling.dump_call("call", function, args, {}, {}, 1024 * 1024, [], main_is_importable=False)
    channel.send([frame(FrameType.JOB, b"".join(pieces), 1)])
    return channel


def call(worker: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a worker, and wait for its value."""
    from executors._wire import pickling  # noqa: PLC0415
    from executors._wire.frames import FrameType  # noqa: PLC0415

    channel = send(worker, function, *args)
    kind, body = int(FrameType.LOG), b""
    while kind == FrameType.LOG:
        kind, _, _, body = channel.receive()
    assert kind == FrameType.VALUE, body
    return pickling.loads([body])


def started(script: str) -> subprocess.Popen[bytes]:
    """Start a program that can import the tests' modules, with its output in a pipe."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", dedent(script)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})


def run(script: str, timeout: float = 60) -> None:
    """Run such a program, which must succeed."""
    with started(script) as program:
        out, _ = program.communicate(timeout=timeout)
        assert program.returncode == 0, out.decode()


# --- setups -----------------------------------------------------------------------------------------------


def plain(function: Any) -> Any:
    return function


def keep_thread(_worker: Any) -> Any:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    return plain


def use_numpy(_worker: Any) -> Any:
    """Have NumPy start the threads of its BLAS, as many as the environment allows."""
    import numpy as np  # noqa: PLC0415

    np.ones((200, 200)) @ np.ones((200, 200))
    return plain


def keep_socket(_worker: Any) -> Any:
    kept.extend(socket.socketpair())
    return plain


def keep_file(_worker: Any, path: str, mode: str) -> Any:
    kept.append(open(path, mode))  # noqa: SIM115
    return plain


def keep_file_until_fork(worker: Any, path: str) -> Any:
    """Open a file that each fork closes, as Matplotlib does with its fonts."""
    wrap = keep_file(worker, path, "r")
    os.register_at_fork(after_in_child=kept[-1].close)
    return wrap


def keep_terminal(_worker: Any) -> Any:
    kept.append(os.openpty())
    return plain


def fail(_worker: Any) -> Any:
    raise RuntimeError("no such app")


def hang(_worker: Any, path: str | None = None) -> Any:
    if path is not None:
        named_pipes.send(path, os.getpid())
    time.sleep(1000)


def log(_worker: Any, text: str) -> Any:
    logging.getLogger("tests.setup").warning(text)
    return plain


def log_and_keep_thread(worker: Any, text: str) -> Any:
    log(worker, text)
    return keep_thread(worker)


def log_much(_worker: Any, count: int) -> Any:
    for number in range(count):
        logging.getLogger("tests.setup").warning("%d %s", number, "x" * 20_000)
    return plain


def send_setup(_worker: Any, path: str) -> Any:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    return plain


def ignore_children(_worker: Any) -> Any:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return plain


def import_numpy(_worker: Any) -> Any:
    """Simulates an app that imports NumPy, whose generator doesn't notice a fork."""
    module = types.ModuleType("numpy.random")
    module.seed = lambda: kept.append(os.getpid())  # type: ignore[attr-defined]
    sys.modules["numpy.random"] = module
    return plain


def write(_worker: Any, text: str) -> Any:
    sys.stdout.write(text)
    return plain


def send_at_exit(_worker: Any, path: str, is_forked: bool) -> Any:
    atexit.register(lambda: send_setup(None, path))
    return plain if is_forked else keep_socket(_worker)


# --- tasks ------------------------------------------------------------------------------------------------


def leave_thread(path: str) -> None:
    """Leave a thread that works on when the main thread has ended."""

    def work() -> None:
        threading.main_thread().join()
        with open(path, "a") as file:
            file.write("thread\n")

    threading.Thread(target=work).start()


def read_line() -> str:
    return str(kept[0].readline()).strip()


def everything_kept() -> list[Any]:
    return kept


def is_loaded(name: str) -> bool:
    return name in sys.modules


def random_number() -> float:
    import random  # noqa: PLC0415

    return random.random()


def ignores_children() -> bool:
    return signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN


def value_of(module: str, name: str) -> Any:
    return getattr(sys.modules[module], name)


def start_grandchild() -> int:
    return subprocess.Popen(["/bin/sleep", "1000"]).pid


def proportional_memory(pid: int) -> int:
    """Return a process's memory in bytes, shared pages divided among the processes that share them (Linux)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss")
