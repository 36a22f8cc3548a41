"""Where a scheduler is, and whether it may be talked to."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING

from executors.errors import ConfigurationError

if TYPE_CHECKING:
    from distributed import Security

ENCRYPTED = frozenset({"tls", "wss"})


def checked_security(value: object) -> Security | None:
    """Return the certificates, made of a mapping where a configuration has one.

    Raises:
        ConfigurationError: They can't be made of that.
    """
    from distributed import Security  # noqa: PLC0415  (an extra)

    if isinstance(value, Mapping):
        try:
            return Security(**value)
        except TypeError as error:
            raise ConfigurationError(f"security can't be made of {', '.join(map(str, value))}: {error}") from error
    if value is not None and not isinstance(value, Security):
        raise ConfigurationError(
            f"security is a {type(value).__name__}, and must be a distributed.Security, or a mapping of its keywords"
        )
    return value


def checked_address(address: str, security: Security | None, *, insecure: bool) -> str:
    """Return an address with its protocol.

    Raises:
        ConfigurationError: It is none, or one that must not be used: whoever can talk to the scheduler, or change what
            is said to it, can run any code on the workers and here.
    """
    from distributed.comm.registry import get_backend  # noqa: PLC0415  (an extra)

    if not isinstance(insecure, bool):  # a text such as "no" would count as True
        raise ConfigurationError(f"insecure is {insecure!r}, and must be True or False")
    if not isinstance(address, str):
        raise ConfigurationError(f"the scheduler's address is {address!r}, and must be a text as '127.0.0.1:8786'")
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
            f"the scheduler's address is {address!r}, which is on another machine and without TLS: whoever can reach "
            "it or listen in can run code on the workers and here. Hand over a distributed.Security, or, in a network "
            "where nobody can, say insecure=True"
        )
    return f"{protocol}://{place}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
