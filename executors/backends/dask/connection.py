"""The connection to a scheduler: made in the background, watched, and made again after it was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from itertools import chain

import dask.config
from distributed import Client, Event, Security

from executors._loops import Cancellable, EventLoop
from executors.errors import describe

logger = logging.getLogger("executors")

RETRY_TIME = 1.0
"""Seconds after a failed attempt to connect before the next."""


class Connection:
    """Keeps a client of Dask's that is connected.

    Args:
        loop: The running loop, which is asyncio's.
        address: Where the scheduler is.
        security: The certificates, if any.
        timeout: Seconds that connecting may take.
        changed: Called when there is a client, when it is lost, and when there was none to be had in time.
    """

    def __init__(
        self, loop: EventLoop, address: str, security: Security | None, timeout: float, changed: Callable[[], None]
    ) -> None:
        self._address = address
        self._security = security
        self._timeout = timeout
        self._changed = changed
        self._loop = loop
        self._ended = loop.new_waiter()
        self.client: Client | None = None
        """The connected client."""
        self.unavailable: str | None = None
        """Why there is none, once that is more than a matter of waiting. Any thread."""
        self._was_lost = False
        self._task: Cancellable = loop.spawn(self._keep, name="executors.dask")

    async def close(self) -> None:
        """Let go of the scheduler, which then forgets what it was handed."""
        self._task.cancel()
        await self._ended

    def kill(self) -> None:
        """Close the connections, without a loop: it has ended. Any thread."""
        client, self.client = self.client, None
        if client is not None:
            client.status = "closed"  # so that it says no goodbye
            comms = [*chain(*client.rpc.available.values(), *client.rpc.occupied.values())]
            for comm in (client.scheduler_comm.comm, *comms):
                with suppress(RuntimeError):  # it tells the loop, once it is closed
                    comm.abort()

    async def _keep(self) -> None:
        try:
            while True:
                await self._connect_and_watch()
                await asyncio.sleep(RETRY_TIME)
        finally:
            self.client = None
            self._loop.wake(self._ended)

    async def _connect_and_watch(self) -> None:
        """Connect, and return when that has failed or the connection is lost."""
        try:
            async with AsyncExitStack() as stack:
                client = Client(
                    self._address,
                    security=self._security,
                    timeout=self._timeout,
                    asynchronous=True,
                    set_as_default=False,
                    name="executors",
                )
                stack.push_async_exit(client)  # it is closed also where it hasn't come to be connected
                await client
                await self._watch(client)
        except Exception as error:  # noqa: BLE001  (whatever keeps it from being used)
            if self._was_lost:
                self._was_lost = False
            else:
                within = f"within {self._timeout:g} s ({describe(error)})"
                self._tell(None, f"no Dask scheduler was found at {self._address} {within}")

    async def _watch(self, client: Client) -> None:
        self._tell(client, None)
        looking = asyncio.create_task(_look_over(client))
        try:
            await Event(f"{client.id} is connected", client=client).wait()  # nobody sets it
        except OSError:
            self._was_lost = True
            self._tell(None, f"the connection to the Dask scheduler at {self._address} was lost")
            raise
        finally:
            looking.cancel()

    def _tell(self, client: Client | None, unavailable: str | None) -> None:
        if unavailable is not None and self.unavailable is None:
            logger.warning("%s; it is tried again until it is there", unavailable)
        elif unavailable is None and self.unavailable is not None:
            logger.info("the Dask scheduler at %s is there", self._address)
        self.client, self.unavailable = client, unavailable
        self._changed()


async def _look_over(client: Client) -> None:
    """Warn of a scheduler that runs tasks again."""
    address = client.scheduler.address
    try:
        allowed = await client.run_on_scheduler(dask.config.get, "distributed.scheduler.allowed-failures")
    except Exception as error:  # noqa: BLE001  (it is advice only: a scheduler that is lost is told of elsewhere)
        logger.debug("the settings of the Dask scheduler at %s are unknown: %s", address, describe(error))
    else:
        if allowed != 0:
            logger.warning(
                "the Dask scheduler at %s hands a task whose worker died to another, up to %s times. It is refused "
                "there, as it may have been begun, and told as lost no sooner: start the scheduler with "
                "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=0",
                address,
                allowed,
            )
