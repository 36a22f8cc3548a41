"""A function to hand over whose module imports numpy."""

from __future__ import annotations

import os

import numpy as np


def nothing() -> None:
    """Be a plain task."""


def who() -> int:
    """Tell which process runs this, once it has used numpy."""
    np.ones(3)
    return os.getpid()
