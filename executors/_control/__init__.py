"""The control socket of a server process, through which `executors top` and the dashboard see what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from executors.events import TaskEvent

__all__ = ["ControlSwitch"]


class ControlSwitch:
    """A hook that turns the control socket on, in the default directory unless the settings name one.

    Add it before the start. Each run of each executor gets a socket and an `Activity` of its own.
    """

    def __call__(self, event: TaskEvent) -> None:
        """Ignore the event."""
