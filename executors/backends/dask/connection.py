"""The connection to a Dask scheduler: checked addresses, and a client that connects again whenever it is lost."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from itertools import chain

import dask.config
from distributed import Client, Security
from distributed.comm.registry import get_backend

from executors.errors import ConfigurationError, describe

logger = logging.getLogger("executors")

RETRY_INTERVAL = 1.0
"""Seconds from a failed attempt to connect to the next."""

ENCRYPTED = frozenset({"tls", "wss"})


def checked_security(value: object) -> Security | None:
    """Return the certificates, created from keywords if `value` is a mapping.

    Raises:
        ConfigurationError: `value` is neither a ``Security``, nor its keywords, nor None.
    """
    if isinstance(value, Mapping):
        try:
            return Security(**value)
        except TypeError as error:
            raise ConfigurationError(f"security can't be created from {', '.join(map(str, value))}: {error}") from error
    if value is not None and not isinstance(value, Security):
        raise ConfigurationError(
            f"security is a {type(value).__name__}, and must be a distributed.Security, or a mapping of its keywords"
        )
    return value


def checked_address(address: str, security: Security | None, *, insecure: bool) -> str:
    """Return an address with its protocol.

    Raises:
        ConfigurationError: It is not an address, or it is on another machine and not encrypted: whoever can connect to
            the scheduler, or alter its messages, can run any code on the workers and in this process.
    """
    if not isinstance(insecure, bool):  # a string such as "no" would count as True
        raise ConfigurationError(f"insecure is {insecure!r}, and must be True or False")
    if not isinstance(address, str):
        raise ConfigurationError(
            f"the scheduler's address is {address!r}, and must be a string such as '127.0.0.1:8786'"
        )
    protocol, separator, place = address.rpartition("://")
    if not separator:
        protocol = "tls" if security is not None else "tcp"
    host, colon, port = place.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ConfigurationError(f"the scheduler's address is {address!r}, and must look like '127.0.0.1:8786'")
    try:
        get_backend(protocol)
    except ValueError as error:
        raise ConfigurationError(f"the scheduler's address is {address!r}: {error}") from error
    if protocol in ENCRYPTED and security is None:
        raise ConfigurationError(
            f"the scheduler's address is {address!r}, and TLS needs certificates: "
            "DaskBackend(address, security=distributed.Security(…))"
        )
    if protocol not in ENCRYPTED and not insecure and not _is_loopback(host.strip("[]")):
        raise ConfigurationError(
            f"the scheduler's address is {address!r}, which is on another machine and without TLS: whoever can connect "
            "to it, or read the traffic, can run code on the workers and here. Pass a distributed.Security, or "
            "insecure=True in a network that you trust"
        )
    return f"{protocol}://{place}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Connection:
    """Keeps a Dask client connected. On asyncio's event loop.

    Args:
        address: The scheduler's address.
        security: The certificates, if any.
        timeout: Seconds that connecting may take.
        on_change: Called when the client is connected, when the connection is lost, and when connecting has timed out.
    """

    def __init__(self, address: str, security: Security | None, timeout: float, on_change: Callable[[], None]) -> None:
        self._address = address
        self._security = security
        self._timeout = timeout
        self._on_change = on_change
        self.client: Client | None = None
        """The connected client."""
        self.unavailable: str | None = None
        """Why there is no client, once connecting has failed or the connection is lost. Any thread."""
        self._was_lost = False
        self._task = asyncio.create_task(self._keep_connected(), name="executors.dask")

    async def close(self) -> None:
        """Disconnect. The scheduler then drops the tasks of this client."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def kill(self) -> None:
        """Close the connections after the event loop has ended. Any thread."""
        client, self.client = self.client, None
        if client is not None:
            client.status = "closed"  # or it would send a farewell
            comms = [*chain(*client.rpc.available.values(), *client.rpc.occupied.values())]
            for comm in (client.scheduler_comm.comm, *comms):
                with suppress(RuntimeError):  # it notifies the loop, once it is closed
                    comm.abort()

    async def _keep_connected(self) -> None:
        try:
            while True:
                await self._connect_and_watch()
                await asyncio.sleep(RETRY_INTERVAL)
        finally:
            self.client = None

    async def _connect_and_watch(self) -> None:
        """Connect; return when that has failed or the connection is lost."""
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
                stack.push_async_exit(client)  # closes it also if connecting fails
                await client
                await self._watch(client)
        except Exception as error:  # noqa: BLE001  (the next attempt may succeed)
            if self._was_lost:
                self._was_lost = False
            else:
                within = f"within {self._timeout:g} s ({describe(error)})"
                self._set(None, f"no Dask scheduler was found at {self._address} {within}")

    async def _watch(self, client: Client) -> None:
        self._set(client, None)
        checking = asyncio.create_task(_check_scheduler(client))
        try:
            comm = await client.rpc.connect(client.scheduler.address)
            while True:  # nothing comes: it fails when the scheduler has ended, and leaves nothing there
                await comm.read()
        except OSError:
            self._was_lost = True
            self._set(None, f"the connection to the Dask scheduler at {self._address} was lost")
            raise
        finally:
            checking.cancel()

    def _set(self, client: Client | None, unavailable: str | None) -> None:
        if unavailable is not None and self.unavailable is None:
            logger.warning("%s; retrying until it is available", unavailable)
        elif unavailable is None and self.unavailable is not None:
            logger.info("connected to the Dask scheduler at %s", self._address)
        self.client, self.unavailable = client, unavailable
        self._on_change()


async def _check_scheduler(client: Client) -> None:
    """Warn of a scheduler that reruns tasks."""
    address = client.scheduler.address
    try:
        allowed = await client.run_on_scheduler(dask.config.get, "distributed.scheduler.allowed-failures")
    except Exception as error:  # noqa: BLE001  (only advice: a lost connection is reported elsewhere)
        logger.debug("the settings of the Dask scheduler at %s are unknown: %s", address, describe(error))
    else:
        if allowed != 0:
            logger.warning(
                "the Dask scheduler at %s reruns a task whose worker died, up to %s times. The other worker refuses "
                "it, as the task may have run in part, and it is reported as lost only then: start the scheduler with "
                "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=0",
                address,
                allowed,
            )
