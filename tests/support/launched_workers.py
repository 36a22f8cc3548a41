"""Fixtures that several folders of tests share: named pipes, launchers, and workers launched without a pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launching import config
from named_pipes import NamedPipe

from executors.backends.process import prefetch
from executors.backends.process.launcher import Launcher
from executors.backends.process.worker_process import WorkerProcess


@pytest.fixture
def named_pipe(tmp_path: Path) -> Callable[[], NamedPipe]:
    """Make named pipes between a test and its tasks, closed when the test ends."""
    made: list[NamedPipe] = []

    def make() -> NamedPipe:
        made.append(NamedPipe(tmp_path / f"pipe-{len(made)}"))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def long_prefetch_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every task count as short, however busy the machine is, so that each worker prefetches."""
    monkeypatch.setattr(prefetch, "PREFETCH_WINDOW", 1000.0)


@pytest.fixture
def launcher() -> Iterator[Callable[..., Launcher]]:
    """Create launchers of workers with some configuration; closed after the test."""
    made: list[Launcher] = []

    def make(settings: dict[str, Any] | None = None, **options: Any) -> Launcher:
        made.append(Launcher(lambda: settings or config(), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def launch(launcher: object) -> Iterator[Callable[..., WorkerProcess]]:
    """Launch a worker with a launcher; killed and reaped after the test, if still running."""
    launched: list[WorkerProcess] = []

    def launch_by(one: Launcher, *modules: str) -> WorkerProcess:
        launched.append(one.launch(frozenset(modules)))
        return launched[-1]

    yield launch_by
    for each in launched:
        if each.pidfd is not None or each.sock.fileno() >= 0:  # it isn't closed
            each.kill()
            each.reap()
            each.close()
