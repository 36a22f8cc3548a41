"""Tests that count what is mapped begin without values in shared memory that other tests have left in cycles."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _collected(no_garbage: None) -> None:
    """Collect garbage first."""
