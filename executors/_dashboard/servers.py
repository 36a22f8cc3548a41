"""The server processes of an app, as the dashboard asks them: over their control sockets, in any thread."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from executors._control.client import collect, merge
from executors._dashboard.view import view


class Servers:
    """Asks the server processes of an app. Any thread; each method blocks for at most a second.

    Args:
        directory: Where their control sockets are.
        app: The app's name.
    """

    def __init__(self, directory: Path, app: str) -> None:
        self._directory = directory
        self._app = app

    def state(self) -> bytes:
        """Return what the page shows, as JSON."""
        found = view(merge(collect(self._directory, "status", app=self._app)))
        return json.dumps(found, separators=(",", ":")).encode()

    def ask_about(self, method: str, task_id: str) -> dict[str, Any] | None:
        """Return what the server process that has a task answers; None if none has it.

        Args:
            method: ``"task"`` or ``"cancel"``.
            task_id: The task's id.
        """
        found = collect(self._directory, method, app=self._app, id=task_id)
        return next((answer for answer in found if "error" not in answer or "id" in answer), None)
