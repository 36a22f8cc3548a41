"""A function to hand over whose module imports numpy."""

import numpy as np

ONES = np.ones(3)


def nothing() -> None:
    """Be a plain task."""
