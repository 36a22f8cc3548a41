"""Runs scripts and test modules of one folder, each in a process forked from one that has imported the libraries.

A hundred code blocks that each import Quart, most of them in two processes, take longer than what they show.
"""

from __future__ import annotations

import builtins
import gc
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

Run = Callable[[str, float], tuple[int, str, str]]
"""Runs a file within a time in seconds, and returns its exit code, its output and its errors."""

IMPORTED = ("anyio._backends._asyncio", "executors.backends.process", "executors.backends.thread", "executors.quart")
"""What most blocks need."""
PYTEST = ["-q", "-p", "anyio", "-p", "no:cacheprovider"]


@contextmanager
def runner(folder: Path) -> Iterator[Run]:
    """Run files of a folder, which is the working directory."""
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",  # the cache of a file that is replaced within a second would be stale
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # only AnyIO's plugin is needed
    }
    output, errors = folder / ".stdout", folder / ".stderr"

    def run(name: str, timeout: float) -> tuple[int, str, str]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{name} {timeout}\n")
        process.stdin.flush()
        exit_code = process.stdout.readline()
        return int(exit_code), output.read_text(), errors.read_text()

    with subprocess.Popen(
        [sys.executable, __file__, output, errors],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield run
        process.stdin.close()  # type: ignore[union-attr]


# --- in the process that forks ---------------------------------------------------------------------------------------


def main(output: str, errors: str) -> None:
    """Run each file that is named on standard input, and print its exit code."""
    while line := sys.stdin.readline():
        name, timeout = line.split()
        if is_test(name):
            import pytest  # noqa: F401, PLC0415  (once for all test modules)
        pid = os.fork()
        if not pid:
            redirect((os.devnull, output, errors))
            be(name)
            return
        sys.stdout.write(f"{exit_code(pid, float(timeout))}\n")
        sys.stdout.flush()


def is_test(name: str) -> bool:
    return name.startswith("test_")


def exit_code(pid: int, timeout: float) -> int:
    """Return the exit code of a process, which is killed after so many seconds."""
    descriptor = os.pidfd_open(pid)
    if not select.select([descriptor], [], [], timeout)[0]:
        os.kill(pid, signal.SIGKILL)
    os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def redirect(paths: tuple[str, str, str]) -> None:
    """Let files be standard input, output and error."""
    for descriptor, path in enumerate(paths):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)


def be(name: str) -> None:
    """Be the process of `python name`, or of `python -m pytest name` for a test module."""
    sys.path[0] = str(Path.cwd())
    sys.argv = [name]
    if is_test(name):
        import pytest  # noqa: PLC0415

        sys.exit(pytest.main([*PYTEST, name]))
    script = Path(name).resolve()
    module = sys.modules["__main__"] = ModuleType("__main__")
    vars(module).update(__file__=str(script), __builtins__=builtins)
    exec(compile(script.read_bytes(), script, "exec"), vars(module))


if __name__ == "__main__":
    for each in IMPORTED:
        import_module(each)
    gc.freeze()  # collections of a fork would copy the memory that it shares
    main(*sys.argv[1:])
