"""A function to hand over whose module imports nothing."""


def nothing() -> None:
    """Be a plain task."""
