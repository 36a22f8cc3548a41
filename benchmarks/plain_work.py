"""A task function whose module imports nothing."""


def nothing() -> None:
    """Do nothing."""
