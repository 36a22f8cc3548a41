"""What the tests of backends share: a place from which worker processes import, and lines to talk over."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SUPPORT = str(Path(__file__).parents[1] / "support")
if SUPPORT not in sys.path:
    sys.path.insert(0, SUPPORT)

from lines import Line  # noqa: E402  (from the folder above)


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
