"""`ControlHook`: gives a run of an executor its control socket."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executors._control import drains
from executors._control.activity import Activity
from executors._control.blocking import LoopProbe
from executors._control.directory import default_directory, prepared, remove_stale
from executors._control.server import ControlServer, RequestError
from executors._control.status import Status
from executors.context import WorkerState
from executors.events import Observer

if TYPE_CHECKING:
    from executors.executor import Executor

logger = logging.getLogger("executors")


class ControlHook(Observer):
    """Observes a run of an executor, and answers requests about it on a socket until its drain has ended.

    Args:
        folder: The directory for the socket, which has been checked.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server: ControlServer | None = None
        """The server of the socket; None before the start, after the drain, and if it can't be opened."""
        self.activity = Activity()
        self.ended = self.activity.add

    @classmethod
    def in_directory(cls, folder: str | None) -> ControlHook:
        """Create one for a directory; None for the default one.

        Raises:
            ConfigurationError: The directory can't be used.
        """
        return cls(prepared(default_directory() if folder is None else Path(folder)))

    def started(self, executor: Executor) -> None:
        """Open the socket. A failure is logged: the app does without it."""
        if WorkerState.active:
            return
        try:
            remove_stale(self._folder)
            app = app_name(executor)
            self.server = ControlServer(self._folder, app, _Responder(executor, app, self.activity, self._folder))
        except OSError as error:
            logger.warning("there is no control socket in %s: %s", self._folder, error)

    def drained(self, executor: Executor) -> None:
        """Remove the socket, and keep the report of the drain for the next server processes of the app."""
        if self.server is None:
            return
        self.server.stop()
        self.server = None
        if executor.drain_report is not None:
            try:
                drains.keep(self._folder, app_name(executor), executor.drain_report)
            except OSError as error:
                logger.warning("the report of the drain can't be kept in %s: %s", self._folder, error)


class _Responder:
    """Answers the requests on the socket of one run."""

    def __init__(self, executor: Executor, app: str, activity: Activity, folder: Path) -> None:
        dispatcher = executor._started()
        self._loop = dispatcher.loop
        self._probe = LoopProbe(self._loop, lambda: executor.monitor)
        self._status = Status(executor, app, activity, self._probe, folder)
        self.timeout = self._probe.timeout
        self.woken = self._probe.look
        self.has_ended = self._loop.has_ended

    def respond(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a request. Raises RequestError."""
        method, task_id = request.get("method"), request.get("id")
        if method == "status":
            return self._status.status()
        if method not in ("task", "cancel"):
            raise RequestError("there are the methods status, task and cancel")
        if not isinstance(task_id, str):
            raise RequestError(f"the method {method} needs the id of a task")
        if method == "task":
            found = self._status.task(task_id)
        else:
            requested = self._status.cancel(task_id)
            found = None if requested is None else {"id": task_id, "requested": requested}
        if found is None:
            raise RequestError(NO_TASK)
        return found


NO_TASK = "there is no task with this id"


def app_name(executor: Executor) -> str:
    """Return the name of an executor's app: that of the Quart app, or else of the executor's module and variable."""
    from executors._core.worker_hooks import find_variable  # noqa: PLC0415  (a cycle otherwise)

    app = getattr(executor, "app", None)
    name = getattr(app, "name", None)
    if isinstance(name, str):
        return name
    return find_variable(executor) or Path(sys.argv[0]).stem or "python"
