"""What the tests of backends share: lines over which a test and its tasks talk."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import loky.backend.resource_tracker
import pytest
from lines import Line


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


@pytest.fixture(scope="package")
def process_pools() -> Iterator[None]:
    """Have what multiprocessing and loky keep beside their workers started, and the forkserver stopped in the end."""
    resource_tracker.ensure_running()
    loky.backend.resource_tracker.ensure_running()
    multiprocessing.set_forkserver_preload(["executors.testing.tasks"])
    forkserver.ensure_running()
    yield
    forkserver._forkserver._stop()
