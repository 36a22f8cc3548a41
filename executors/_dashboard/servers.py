"""The server processes of an app, as the dashboard asks them: over their control sockets, in any thread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from executors._control.client import collect, default_directory, merge
from executors._control.hook import ControlHook, app_name
from executors._control.pacing import dumped, pause
from executors._dashboard.view import view

if TYPE_CHECKING:
    from executors.executor import Executor


TIMEOUT = 2.0
"""Seconds that the server processes have to answer, all together. On a busy machine they are slow."""


class Servers:
    """Asks the server processes of an app. Any thread; each method blocks for as long as they take, within limits.

    Args:
        executor: The executor of the app in this server process, which has been started.
    """

    def __init__(self, executor: Executor) -> None:
        configured = executor._settings.control_dir
        self._directory = default_directory() if configured is None else Path(configured)
        self._app = app_name(executor)
        self._own = next((hook.server for hook in executor._run_hooks if isinstance(hook, ControlHook)), None)

    def state(self) -> bytes:
        """Return what the page shows, as JSON."""
        answers = collect(self._directory, "status", app=self._app, timeout=TIMEOUT, own=self._own)
        pause()  # between the steps, so that the event loop need not wait for all of them
        merged = merge([{**answer, "timeline": ()} for answer in answers])
        pause()
        return dumped(view(merged, answers)).encode()

    def ask_about(self, method: str, task_id: str) -> dict[str, Any] | None:
        """Return what the server process that has a task answers; None if none has it.

        Args:
            method: ``"task"`` or ``"cancel"``.
            task_id: The task's id.
        """
        found = collect(self._directory, method, app=self._app, timeout=TIMEOUT, id=task_id)
        return next((answer for answer in found if "id" in answer), None)
