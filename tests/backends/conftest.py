"""What the tests of backends share: lines over which a test and its tasks talk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
