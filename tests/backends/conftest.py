"""Processes that pools of other libraries keep beside their workers."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker

import loky.backend.resource_tracker
import pytest


@pytest.fixture(scope="package")
def process_pools() -> Iterator[None]:
    """Start the helper processes of multiprocessing and loky, and stop them in the end.

    While this process has a child, it takes longer to see that a test leaves none behind.
    """
    trackers = (resource_tracker._resource_tracker, loky.backend.resource_tracker._resource_tracker)
    for tracker in trackers:
        tracker.ensure_running()
    multiprocessing.set_forkserver_preload(["executors.testing.tasks"])
    forkserver.ensure_running()
    yield
    forkserver._forkserver._stop()
    for tracker in trackers:
        tracker._stop()


@pytest.fixture
def forgotten_processes() -> Iterator[None]:
    """Have multiprocessing forget processes that have ended, as it does itself when it starts the next one."""
    yield
    multiprocessing.active_children()
