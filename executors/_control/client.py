"""Clients of control sockets: ask all server processes of an app at once, and merge what they answer."""

from __future__ import annotations

import json
import os
import selectors
import socket
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executors._control.directory import Server, default_directory, find_servers, remove
from executors._control.quantiles import added, quantile
from executors.errors import describe

if TYPE_CHECKING:
    from executors._control.server import ControlServer

__all__ = [
    "Server", "cancel_task", "collect", "collect_async", "default_directory", "find_servers", "find_task", "merge",
]  # fmt: skip

TIMEOUT = 1.0
"""Seconds that a server process has to answer."""

STACK_TIMEOUT = 3.0
"""The same where it asks a worker process itself."""

NO_ANSWER = "the server process doesn't answer"
MAX_RESPONSE = 32 * 1024 * 1024
_READ_SIZE = 256 * 1024


def collect(
    directory: Path,
    method: str,
    *,
    app: str | None = None,
    timeout: float = TIMEOUT,
    own: ControlServer | None = None,
    **params: Any,
) -> list[dict[str, Any]]:
    """Send a request to all server processes, and return their results. Blocks for at most `timeout` seconds.

    Sockets of server processes that have been killed are removed.

    Args:
        directory: Where the sockets are.
        method: ``"status"``, ``"task"`` or ``"cancel"``.
        app: The name of the app whose server processes are asked; None for all.
        timeout: Seconds that they have to answer, all together.
        own: The server of this process, which is asked without its socket. Its result may hold other values than JSON.
        params: Further members of the request.

    Returns:
        The result of each server process, by process id, with that as ``server``, and as ``pid`` unless the result has
        one; ``{"server": …, "pid": …, "error": …}`` for one that didn't answer, or answered with an error.

    Raises:
        ConfigurationError: The directory isn't the user's own.
    """
    request = {"method": method, **params}
    line = json.dumps(request).encode() + b"\n"
    deadline = time.monotonic() + timeout
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        calls: list[_Call | _OwnCall] = []
        for server in find_servers(directory, app):
            if own is not None and server.path.name == own.path.name:
                calls.append(_OwnCall(server, own.ask(request), deadline))
                continue
            call = _Call(server)
            calls.append(call)
            if call.begin(line, stack):
                selector.register(call.sock, selectors.EVENT_READ, call)
        while selector.get_map() and (seconds := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(seconds):
                if key.data.receive():
                    selector.unregister(key.fileobj)
    return [{"pid": call.server.pid, "server": call.server.pid, **call.result()} for call in calls if not call.is_stale]


async def collect_async(directory: Path, method: str, **params: Any) -> list[dict[str, Any]]:
    """As `collect`, in a thread."""
    import anyio.to_thread  # noqa: PLC0415  (the command line does without)

    return await anyio.to_thread.run_sync(partial(collect, directory, method, **params))


def find_task(directory: Path, task_id: str, *, app: str | None = None) -> dict[str, Any] | None:
    """Return what the server process of a task knows of it, with its process id as ``server``; None if none knows it.

    Arguments and errors as `collect`.
    """
    answers = collect(directory, "task", app=app, timeout=STACK_TIMEOUT, id=task_id)
    return next((answer for answer in answers if answer.get("id") == task_id), None)


def cancel_task(directory: Path, task_id: str, *, app: str | None = None) -> bool | None:
    """Request a task's cancellation in its server process.

    Arguments and errors as `collect`.

    Returns:
        Whether that can have an effect, as of `TaskHandle.cancel`; None if no server process knows the task.
    """
    answers = collect(directory, "cancel", app=app, id=task_id)
    return next((bool(answer["requested"]) for answer in answers if answer.get("id") == task_id), None)


class _Call:
    """A request to one server process."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_stale = False
        self._error = NO_ANSWER
        self._received: list[bytes] = []
        self._size = 0

    def begin(self, request: bytes, stack: ExitStack) -> bool:
        """Connect and send the request; return whether there may be a response."""
        self.sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        self.sock.setblocking(False)
        try:
            self.sock.connect(os.fspath(self.server.path))
            self.sock.sendall(request)
        except (ConnectionRefusedError, FileNotFoundError):
            self.is_stale = True
            remove(self.server.path)
        except BlockingIOError:  # its queue of connections is full
            pass
        except OSError as error:
            self._error = f"the server process can't be asked: {error}"
        else:
            return True
        return False

    def receive(self) -> bool:
        """Receive a part of the response; return whether it is complete, or none will come."""
        try:
            data = self.sock.recv(_READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self._received.append(data)
        self._size += len(data)
        if not data or self._size > MAX_RESPONSE:
            self._error = "the server process has closed the connection"
            self._received.clear()
            return True
        return data.endswith(b"\n")

    def result(self) -> dict[str, Any]:
        """Return the result, or an error."""
        try:
            response = json.loads(b"".join(self._received))
            return dict(response["result"]) if response["ok"] else {"error": str(response["error"])}
        except (ValueError, TypeError, KeyError):
            return {"error": self._error}


class _OwnCall:
    """A request to this server process."""

    is_stale = False

    def __init__(self, server: Server, answer: Future[dict[str, Any]], deadline: float) -> None:
        self.server = server
        self._answer = answer
        self._deadline = deadline

    def result(self) -> dict[str, Any]:
        """Return the result, or an error. Waits for it."""
        try:
            return self._answer.result(max(0.0, self._deadline - time.monotonic()))
        except (TimeoutError, CancelledError):
            return {"error": NO_ANSWER}
        except Exception as error:  # noqa: BLE001  (as over the socket)
            return {"error": describe(error)}


# --- merging ------------------------------------------------------------------------------------------------------

MAX_LISTED, MAX_FUNCTIONS = 200, 100


def merge(statuses: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the states of several server processes into one.

    Args:
        statuses: What `collect` returns for ``"status"``.

    Returns:
        The ``servers``, as they are given; ``backends``, ``queues``, ``functions`` and ``finished``, added up;
        ``active``, ``recent``, ``failures`` and ``timeline``, each entry with the ``server`` that it comes from.
    """
    servers = list(statuses)
    answered = [status for status in servers if "error" not in status]
    return {
        "servers": servers,
        "backends": _added(answered, "backends", ("name",), ("queued", "running", "workers")),
        "queues": _added(answered, "queues", ("backend", "function"), ("queued", "size")),
        "functions": _functions(answered),
        "finished": _finished(answered),
        "abandoned": sum(status["abandoned"] for status in answered),
        "lost_workers": sum(status["lost_workers"] for status in answered),
        "active": sorted(
            _with_server(answered, "active"),
            key=lambda task: (task["state"] != "running", task["started_at"] or task["submitted_at"]),
        )[:MAX_LISTED],
        "active_count": sum(status["active_count"] for status in answered),
        "recent": sorted(_with_server(answered, "recent"), key=lambda task: -task["finished_at"])[:MAX_LISTED],
        "failures": sorted(_with_server(answered, "failures"), key=lambda task: -task["finished_at"])[:MAX_LISTED],
        "timeline": sorted(_with_server(answered, "timeline"), key=lambda span: span["start"]),
        "services": _with_server(answered, "services"),
    }


def _with_server(statuses: Iterable[Mapping[str, Any]], key: str) -> list[dict[str, Any]]:
    return [{**entry, "server": status["pid"]} for status in statuses for entry in status.get(key, ())]


def _added(
    statuses: Iterable[Mapping[str, Any]], key: str, names: tuple[str, ...], numbers: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Add up entries that have the same names. None, which means without a limit, stays None."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in _with_server(statuses, key):
        same = found.setdefault(tuple(entry[name] for name in names), entry)
        if same is not entry:
            for number in numbers:
                same[number] = None if None in {same[number], entry[number]} else same[number] + entry[number]
            same["active_workers"] = [*same.get("active_workers", ()), *entry.get("active_workers", ())]
            same["unavailable"] = same.get("unavailable") or entry.get("unavailable")
    return list(found.values())


def _finished(statuses: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for status in statuses:
        for state, number in status["finished"].items():
            total[state] = total.get(state, 0) + number
    return total


def _functions(statuses: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add up the counts of each function, and compute its quantiles over all server processes."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for entry in _with_server(statuses, "functions"):
        groups.setdefault((entry["name"], entry["backend"], entry["tag"]), []).append(entry)
    found = []
    for (name, backend, tag), entries in groups.items():
        run_times, wait_times = (
            added({int(bucket): number for bucket, number in entry[key].items()} for entry in entries)
            for key in ("run_times", "wait_times")
        )
        found.append({
            "name": name,
            "backend": backend,
            "tag": tag,
            **{key: sum(entry[key] for entry in entries) for key in ("count", "failed", "running", "seconds")},
            "p50": quantile(run_times, 0.5),
            "p99": quantile(run_times, 0.99),
            "queue_p50": quantile(wait_times, 0.5),
            "queue_p99": quantile(wait_times, 0.99),
        })  # fmt: skip
    return sorted(found, key=lambda function: -function["seconds"])[:MAX_FUNCTIONS]
