"""Which addresses of schedulers are accepted."""

from __future__ import annotations

import pytest
from distributed import Security

from executors import ConfigurationError
from executors._core.registry import make
from executors.backends import DaskBackend
from executors.backends.dask.connection import checked_address

CERTIFICATES = Security()


@pytest.mark.parametrize(
    ("address", "security", "insecure", "checked"),
    [
        ("127.0.0.1:8786", None, False, "tcp://127.0.0.1:8786"),
        ("localhost:8786", None, False, "tcp://localhost:8786"),
        ("LocalHost:8786", None, False, "tcp://LocalHost:8786"),
        ("tcp://[::1]:8786", None, False, "tcp://[::1]:8786"),
        ("10.0.0.7:8786", None, True, "tcp://10.0.0.7:8786"),
        ("10.0.0.7:8786", CERTIFICATES, False, "tls://10.0.0.7:8786"),
        ("tls://scheduler.internal:8786", CERTIFICATES, False, "tls://scheduler.internal:8786"),
    ],
)
def test_a_loopback_address_or_tls_is_accepted(address, security, insecure, checked) -> None:
    """A scheduler on this machine is accepted; one on another needs TLS or `insecure=True`."""
    assert checked_address(address, security, insecure=insecure) == checked


@pytest.mark.parametrize("address", ["10.0.0.7:8786", "tcp://scheduler.internal:8786", "ws://10.0.0.7:8786"])
@pytest.mark.parametrize("security", [None, CERTIFICATES])
def test_another_machine_without_tls_is_refused(address, security) -> None:
    """Certificates do not help if the protocol of the address does not use them."""
    if security is not None and "://" not in address:
        return
    with pytest.raises(ConfigurationError, match=r"without TLS.*insecure=True"):
        checked_address(address, security, insecure=False)


@pytest.mark.parametrize("address", ["", "8786", "127.0.0.1", "127.0.0.1:", ":8786", "127.0.0.1:http", "tcp://"])
def test_bad_addresses_are_refused(address) -> None:
    """The error has the address, and an example."""
    with pytest.raises(ConfigurationError, match=r"must look like '127\.0\.0\.1:8786'"):
        DaskBackend(address)


@pytest.mark.parametrize("address", ["dask://127.0.0.1:8786", "http://127.0.0.1:8786"])
def test_a_protocol_that_dask_does_not_know_is_refused(address) -> None:
    """An unknown protocol is an error at once, not a scheduler that can't be found."""
    with pytest.raises(ConfigurationError, match=r"unknown address scheme '(dask|http)'"):
        DaskBackend(address)


def test_a_port_alone_is_refused() -> None:
    """A number, as a configuration may have it, is an error that has the value."""
    with pytest.raises(ConfigurationError, match="address is 8786"):
        DaskBackend(8786)


def test_tls_needs_certificates() -> None:
    """An address with the protocol TLS needs a `Security`."""
    with pytest.raises(ConfigurationError, match="TLS needs certificates"):
        DaskBackend("tls://127.0.0.1:8786")


def test_certificates_of_a_configuration() -> None:
    """A configuration file or the environment has the keywords of a `Security`."""
    spec = {"backend": "dask:tls://10.0.0.7:8786", "security": {"tls_ca_file": "ca.pem", "tls_client_cert": "me.pem"}}
    backend = make("far", spec, {})
    assert isinstance(backend, DaskBackend)
    assert isinstance(backend._security, Security)
    assert backend._security.tls_ca_file == "ca.pem"


def test_a_url_has_the_address() -> None:
    """What follows ``dask:`` is the scheduler's address, with or without a protocol."""
    assert DaskBackend.from_url("127.0.0.1:8786", in_flight=3).workers == 3
    with pytest.raises(ConfigurationError, match="TLS needs certificates"):
        DaskBackend.from_url("tls://127.0.0.1:8786")


@pytest.mark.parametrize(
    "argument",
    [
        {"insecure": "no"},
        {"security": True},
        {"security": {"tls_key": "key.pem"}},
        {"in_flight": 0},
        {"connect_timeout": 0},
        {"worker_timeout": "1"},
        {"max_payload": 0.5},
    ],
)
def test_bad_arguments_are_refused(argument) -> None:
    """The error names the argument."""
    with pytest.raises(ConfigurationError, match=next(iter(argument))):
        DaskBackend("127.0.0.1:8786", **argument)
