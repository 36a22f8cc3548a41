"""The thread that answers on a control socket. It waits for no client, and trusts none."""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakSet

from executors._control import directory
from executors._control.pacing import dumped
from executors.errors import describe

logger = logging.getLogger("executors")

MAX_CONNECTIONS = 32
"""How many clients may be connected. One more, and the one that has been idle for the longest time is disconnected."""

MAX_REQUEST = 64 * 1024
"""The maximum size of a request in bytes."""

EXCHANGE_TIMEOUT = 30.0
"""Seconds that a client has to send a request, and to receive the response."""

CHECK_INTERVAL = 1.0
"""Seconds after which the thread looks whether the event loop has ended without a drain."""

_ASK, _STOP = b"?", b"-"
_BACKLOG = 64
_READ_SIZE = 64 * 1024
_STOP_TIMEOUT = 1.0


class RequestError(Exception):
    """A request can't be answered, for the reason in its message."""


class Responder(Protocol):
    """What a control socket answers with. On the control thread."""

    def timeout(self, longest: float) -> float:
        """Return for how many seconds the thread may wait for its next event."""

    def woken(self, *, is_request: bool) -> None:
        """Called whenever the thread wakes, before it reads any request."""

    def respond(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a request.

        Raises:
            RequestError: It can't be answered.
        """

    def has_ended(self) -> bool:
        """Return whether there will be nothing to answer about any more."""


class ControlServer:
    """Answers on a Unix socket, from a thread of its own.

    Args:
        folder: The directory for the socket, which has been checked.
        app: The name of the app.
        responder: What it answers with.

    Raises:
        OSError: The socket can't be created.
    """

    def __init__(self, folder: Path, app: str, responder: Responder) -> None:
        self._responder = responder
        self._pid = os.getpid()
        self._next_check = 0.0
        self._wake, self._woken = socket.socketpair()
        self._asked: deque[tuple[dict[str, Any], Future[dict[str, Any]]]] = deque()
        self._has_ended = False
        self._connections: dict[int, _Connection] = {}
        self.path = _free_path(folder, app)
        try:
            self._listener = _listening(self.path)
        except BaseException:
            self._wake.close()
            self._woken.close()
            raise
        _servers.add(self)
        self._thread = threading.Thread(target=self._run, name="executors-control", daemon=True)
        self._thread.start()

    def ask(self, request: dict[str, Any]) -> Future[dict[str, Any]]:
        """Send a request from this process, which costs neither side any JSON. Any other thread.

        Returns:
            The result, or what `respond` raises; cancelled when the thread ends.
        """
        answer: Future[dict[str, Any]] = Future()
        self._asked.append((request, answer))
        with suppress(OSError):  # the thread has ended
            self._wake.send(_ASK)
        if self._has_ended:  # perhaps before it saw this request
            answer.cancel()
        return answer

    def stop(self) -> None:
        """Remove the socket and end the thread. Any other thread; may be called again."""
        if os.getpid() == self._pid and self._thread.is_alive():
            with suppress(OSError):  # it has just ended
                self._wake.send(_STOP)
            self._thread.join(_STOP_TIMEOUT)

    def close_in_fork(self) -> None:
        """Close the socket in a fork of this process, where no thread answers: a client would wait in vain."""
        for sock in (self._listener, self._wake, self._woken, *(each.sock for each in self._connections.values())):
            with suppress(OSError):
                sock.close()

    # --- on the control thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                self._selector = selector
                selector.register(self._listener, selectors.EVENT_READ)
                selector.register(self._woken, selectors.EVENT_READ)
                while self._serve_once():
                    pass
        except Exception:
            logger.exception("the control socket failed, and is closed")
        finally:
            directory.remove(self.path)
            self._has_ended = True
            while self._asked:
                self._asked.popleft()[1].cancel()
            for connection in list(self._connections.values()):
                connection.sock.close()
            for sock in (self._listener, self._wake, self._woken):
                sock.close()

    def _serve_once(self) -> bool:
        """Wait for events and see to them. Returns False at the end."""
        events = self._selector.select(self._responder.timeout(CHECK_INTERVAL))
        is_woken = any(key.fileobj is self._woken for key, _ in events)
        if is_woken and _STOP in self._woken.recv(_READ_SIZE):
            return False
        self._prepare(is_request=bool(events))
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + CHECK_INTERVAL
            if self._responder.has_ended():
                return False
        if is_woken:
            self._answer()
        for key, mask in events:
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.data, _Connection):
                self._serve(key.data, mask)
        for connection in [each for each in self._connections.values() if each.deadline <= now]:
            self._close(connection)
        return True

    def _answer(self) -> None:
        """Answer the requests of this process."""
        while self._asked:
            request, answer = self._asked.popleft()
            try:
                answer.set_result(self._responder.respond(request))
            except Exception as error:  # noqa: BLE001  (raised where the answer is awaited)
                answer.set_exception(error)

    def _prepare(self, *, is_request: bool) -> None:
        try:
            self._responder.woken(is_request=is_request)
        except Exception:
            logger.exception("what blocks the event loop could not be found out")

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # the client has left, or there is no descriptor left
            return
        sock.setblocking(False)
        if len(self._connections) >= MAX_CONNECTIONS:
            self._close(min(self._connections.values(), key=lambda connection: connection.deadline))
        connection = _Connection(sock)
        self._connections[sock.fileno()] = connection
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _serve(self, connection: _Connection, mask: int) -> None:
        if self._connections.get(connection.fd) is not connection:  # closed a moment ago
            return
        try:
            if mask & selectors.EVENT_READ:
                connection.receive()
            while connection.can_send() and (line := connection.next_line()) is not None:
                connection.to_send = self._response(line)
        except (OSError, EOFError):
            self._close(connection)
            return
        self._selector.modify(
            connection.sock, selectors.EVENT_WRITE if connection.to_send else selectors.EVENT_READ, connection
        )

    def _close(self, connection: _Connection) -> None:
        del self._connections[connection.fd]
        self._selector.unregister(connection.sock)
        connection.sock.close()

    def _response(self, line: bytes) -> bytes:
        """Return the response to a request, as a line. Raises nothing."""
        try:
            answer = f'{{"ok":true,"result":{dumped(self._responder.respond(_request(line)))}}}'
        except RequestError as error:
            answer = dumped({"ok": False, "error": str(error.args[0])})
        except Exception as error:
            logger.debug("a request on the control socket failed", exc_info=True)
            answer = dumped({"ok": False, "error": f"the request failed: {describe(error)}"})
        return answer.encode() + b"\n"


class _Connection:
    """A connected client."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.to_send = b""
        self.deadline = time.monotonic() + EXCHANGE_TIMEOUT
        self._received = bytearray()

    def receive(self) -> None:
        """Receive a part of a request. Raises EOFError or OSError at the end of the connection."""
        with suppress(BlockingIOError):
            data = self.sock.recv(_READ_SIZE)
            if not data:
                raise EOFError
            self._received += data

    def next_line(self) -> bytes | None:
        """Take the next request; None if it isn't complete.

        Raises:
            EOFError: It is too long.
        """
        line, newline, rest = self._received.partition(b"\n")
        if len(line) > MAX_REQUEST:
            raise EOFError
        if not newline:
            return None
        self._received = rest
        self.deadline = time.monotonic() + EXCHANGE_TIMEOUT
        return bytes(line)

    def can_send(self) -> bool:
        """Send what the client takes of the last response, and return whether it has all of it."""
        with suppress(BlockingIOError):
            while self.to_send:
                self.to_send = self.to_send[self.sock.send(self.to_send) :]
        return not self.to_send


def _request(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise RequestError("the request isn't JSON") from None
    if not isinstance(request, dict):
        raise RequestError("the request isn't a JSON object")
    return request


def _free_path(folder: Path, app: str) -> Path:
    """Return a path in the folder that no socket of this process has."""
    number = 0
    while (path := folder / f"{directory.app_key(app)}.{os.getpid()}.{number}").exists():
        if not directory.is_live(path):
            break
        number += 1
    return path


def _listening(path: Path) -> socket.socket:
    """Return a socket that listens at a path. Clients never see one that doesn't listen yet: they would remove it."""
    listener = socket.socket(socket.AF_UNIX)
    temporary = path.with_name(f"{path.name}.new")
    try:
        directory.remove(temporary)
        listener.bind(os.fspath(temporary))
        temporary.chmod(0o600)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        temporary.rename(path)
    except BaseException:
        listener.close()
        directory.remove(temporary)
        raise
    return listener


_servers: WeakSet[ControlServer] = WeakSet()


def _close_in_fork() -> None:
    for server in list(_servers):
        server.close_in_fork()
    _servers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_fork)
