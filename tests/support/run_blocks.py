"""Runs scripts and test modules, each in a process forked from one that has imported the libraries.

A hundred code blocks that each import Quart, most of them in two processes, take longer than what they show.
"""

from __future__ import annotations

import builtins
import gc
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

Run = Callable[[Path, float], tuple[int, str, str]]
"""Runs a file in its folder within a time in seconds, and returns its exit code, its output and its errors."""

IMPORTED = (
    "anyio._backends._asyncio",
    "executors.backends.process.backend",
    "executors.backends.thread",
    "executors.quart",
)
"""What most blocks need."""
PYTEST = ["-q", "-p", "anyio", "-p", "no:cacheprovider"]
ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",  # the cache of a file that is replaced within a second would be stale
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # only AnyIO's plugin is needed
}
OUTPUT, ERRORS = ".stdout", ".stderr"


@contextmanager
def runner() -> Iterator[Run]:
    """Run files with the environment that this process has then."""

    def run(file: Path, timeout: float) -> tuple[int, str, str]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{json.dumps([str(file), timeout, os.environ | ENVIRONMENT])}\n")
        process.stdin.flush()
        exit_code = process.stdout.readline()
        return int(exit_code), file.with_name(OUTPUT).read_text(), file.with_name(ERRORS).read_text()

    with subprocess.Popen(
        [sys.executable, __file__],
        env=os.environ | ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield run
        process.stdin.close()  # type: ignore[union-attr]


# --- in the process that forks ---------------------------------------------------------------------------------------


def main() -> None:
    """Run each file that is named on standard input, and print its exit code."""
    with suppress(PermissionError):  # what is documented has limits of a second, and workers of low priority
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    while line := sys.stdin.readline():
        path, timeout, environment = json.loads(line)
        file = Path(path)
        if is_test(file.name):
            import pytest  # noqa: F401, PLC0415  (once for all test modules)
        pid = os.fork()
        if not pid:
            os.chdir(file.parent)
            os.environ.clear()
            os.environ.update(environment)
            redirect((os.devnull, OUTPUT, ERRORS))
            be(file.name)
            return
        sys.stdout.write(f"{exit_code(pid, timeout)}\n")
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
    main()
