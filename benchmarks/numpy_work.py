"""A task function whose module imports numpy."""

import numpy as np

ONES = np.ones(3)


def nothing() -> None:
    """Do nothing."""
