"""A directory for control sockets, whose paths have to be short."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from executors._control import client


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have clients in this process wait longer: a server may wait for a CPU."""
    monkeypatch.setitem(client.collect.__kwdefaults__, "timeout", 20.0)
    monkeypatch.setattr(client, "STACK_TIMEOUT", 20.0)


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="control-", dir="/tmp"))
    yield path
    shutil.rmtree(path)
