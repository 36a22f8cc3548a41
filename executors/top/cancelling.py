"""The command `executors cancel`. It needs no rich."""

from __future__ import annotations

import argparse
import sys

from executors._control.client import cancel_task, default_directory
from executors.errors import ConfigurationError


def cancel(arguments: argparse.Namespace) -> int:
    """Run `executors cancel`: request the cancellation of a task.

    Args:
        arguments: `id` and `dir`.

    Returns:
        The exit status: 1 if no server process has an unfinished task with this id.
    """
    try:
        requested = cancel_task(arguments.dir or default_directory(), arguments.id)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if requested:
        sys.stdout.write(f"requested the cancellation of {arguments.id}\n")
        return 0
    reason = "it has ended" if requested is not None else "no server process knows it: see `executors top`"
    sys.stderr.write(f"{arguments.id!r} can't be cancelled: {reason}\n")
    return 1
