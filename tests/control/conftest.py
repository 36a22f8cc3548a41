"""A directory for control sockets, whose paths have to be short."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="control-", dir="/tmp"))
    yield path
    shutil.rmtree(path)
