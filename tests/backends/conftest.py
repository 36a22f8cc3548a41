"""Processes that pools of other libraries keep beside their workers."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker

import loky.backend.resource_tracker
import pytest


@pytest.fixture(scope="package")
def process_pools() -> Iterator[None]:
    """Start the helper processes of multiprocessing and loky, and stop the forkserver in the end."""
    resource_tracker.ensure_running()
    loky.backend.resource_tracker.ensure_running()
    multiprocessing.set_forkserver_preload(["executors.testing.tasks"])
    forkserver.ensure_running()
    yield
    forkserver._forkserver._stop()


@pytest.fixture
def forgotten_processes() -> Iterator[None]:
    """Have multiprocessing forget processes that have ended, as it does itself when it starts the next one."""
    yield
    multiprocessing.active_children()
