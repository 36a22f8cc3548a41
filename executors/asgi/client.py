"""The client of an HTTP request: notices that it leaves, and cancels the tasks that the request waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from executors._loops import Cancellable, EventLoop, log_exception

if TYPE_CHECKING:
    from executors.handle import TaskHandle

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]

DISCONNECT = "http.disconnect"


class Client:
    """Reads the messages of the server for the app. On the loop's thread.

    A server reports that the client has left as the next message after the request's body. So once the request waits
    for a task in `run`, this reads ahead: at most one part of the body that the app hasn't asked for. Requests without
    tasks pass through.

    Args:
        loop: The executor's loop.
        receive: The server's function.

    Attributes:
        is_answered: Set by the middleware as it sends the end of the response: whoever disconnects now has not left.
        has_left: Whether it disconnected before it was answered.
    """

    def __init__(self, loop: EventLoop, receive: Receive) -> None:
        self.is_answered = False
        self.has_left = False
        self._has_ended = False
        self._loop = loop
        self._receive = receive
        self._handles: set[TaskHandle[Any]] = set()
        self._messages: deque[Message] = deque()  # read ahead
        self._changed = anyio.Event()
        self._reader: Cancellable | None = None
        self._is_receiving = False

    # --- for `Executor.run` ---------------------------------------------------------------------------------------

    def add(self, handle: TaskHandle[Any]) -> None:
        """Have a task cancelled when the client leaves: at once if it has left already."""
        if self.is_answered:
            return
        self._handles.add(handle)
        if self.has_left:
            handle.cancel()
        else:
            self._begin_reading()

    def discard(self, handle: TaskHandle[Any]) -> None:
        """Forget a task, which has ended."""
        self._handles.discard(handle)

    # --- for the app ----------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """Return the next message."""
        if self._reader is None:
            self._is_receiving = True
            try:
                return self._seen(await self._receive())
            finally:
                self._is_receiving = False
                self._begin_reading()
        while not self._messages:
            if self._has_ended:
                return {"type": DISCONNECT}
            await self._changed.wait()
        message = self._messages[0]
        if message["type"] != DISCONNECT:  # which stays
            self._messages.popleft()
            self._change()
        return message

    def end(self) -> None:
        """Stop reading: the response has been sent."""
        self.is_answered = self._has_ended = True
        if self._reader is not None:
            self._reader.cancel()
            self._change()

    def _begin_reading(self) -> None:
        if self._reader is None and self._handles and not (self._is_receiving or self.is_answered):
            self._reader = self._loop.spawn(self._read_ahead, name="executors.client")

    def _seen(self, message: Message) -> Message:
        if message["type"] == DISCONNECT and not self.is_answered:
            self.has_left = True
            for handle in list(self._handles):
                handle.cancel()
        return message

    async def _read_ahead(self) -> None:
        try:
            message: Message = {}
            while message.get("type") != DISCONNECT:  # which a server may repeat without end
                while self._messages and self._messages[-1].get("more_body"):  # the rest may be long
                    await self._changed.wait()
                message = self._seen(await self._receive())
                self._messages.append(message)
                self._change()
        except Exception as error:  # noqa: BLE001  (of the server, or of a middleware)
            log_exception(error, "the server's messages can't be read")
            self._messages.append(self._seen({"type": DISCONNECT}))
            self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
