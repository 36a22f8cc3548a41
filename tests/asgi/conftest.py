"""Fixtures for tests of ASGI apps: the folder of apps that workers and servers import."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from servers import find_port

APPS = Path(__file__).parent / "apps"
sys.path.append(str(APPS))


@pytest.fixture
def free_port() -> int:
    """Return a free port of the loopback interface."""
    return find_port()
