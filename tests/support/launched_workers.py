"""Fixtures that several folders of tests share: lines, launchers, and workers launched without a pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launching import config
from lines import Line

from executors.backends.process import prefetch
from executors.backends.process.launcher import Launcher
from executors.backends.process.worker_process import WorkerProcess


@pytest.fixture
def line(tmp_path: Path) -> Callable[[], Line]:
    """Make lines over which a test and its tasks talk, closed when the test ends."""
    made: list[Line] = []

    def make() -> Line:
        made.append(Line(tmp_path / f"line-{len(made)}"))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every task count as short, however busy the machine is: each worker is sent its next job ahead."""
    monkeypatch.setattr(prefetch, "PREFETCH_WINDOW", 1000.0)


@pytest.fixture
def launcher() -> Iterator[Callable[..., Launcher]]:
    """Makes launchers of workers with some configuration; closed after the test."""
    made: list[Launcher] = []

    def make(settings: dict[str, Any] | None = None, **options: Any) -> Launcher:
        made.append(Launcher(lambda: settings or config(), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def launch(launcher: object) -> Iterator[Callable[..., WorkerProcess]]:
    """Launches a worker by a launcher; killed and reaped after the test, if it isn't then."""
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
