"""Which schedulers may be talked to."""

from __future__ import annotations

import pytest
from distributed import Security

from executors import ConfigurationError
from executors._core.registry import make
from executors.backends import DaskBackend
from executors.backends.dask.addresses import checked_address

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
def test_a_loopback_address_or_tls_will_do(address, security, insecure, checked) -> None:
    """A scheduler of this machine is used as it is, one of another with TLS, or where that is said not to matter."""
    assert checked_address(address, security, insecure=insecure) == checked


@pytest.mark.parametrize("address", ["10.0.0.7:8786", "tcp://scheduler.internal:8786", "ws://10.0.0.7:8786"])
@pytest.mark.parametrize("security", [None, CERTIFICATES])
def test_another_machine_without_tls_is_refused(address, security) -> None:
    """Certificates alone don't help where the address says that they aren't used."""
    if security is not None and "://" not in address:
        return
    with pytest.raises(ConfigurationError, match=r"without TLS.*insecure=True"):
        checked_address(address, security, insecure=False)


@pytest.mark.parametrize("address", ["", "8786", "127.0.0.1", "127.0.0.1:", ":8786", "127.0.0.1:http", "tcp://"])
def test_what_is_no_address_is_refused(address) -> None:
    """The error names it, and says what would do."""
    with pytest.raises(ConfigurationError, match=r"must look like '127\.0\.0\.1:8786'"):
        DaskBackend(address)


@pytest.mark.parametrize("address", ["dask://127.0.0.1:8786", "http://127.0.0.1:8786"])
def test_a_protocol_that_dask_does_not_know_is_refused(address) -> None:
    """What no scheduler can be reached by is told at once, and not as a scheduler that isn't there."""
    with pytest.raises(ConfigurationError, match=r"unknown address scheme '(dask|http)'"):
        DaskBackend(address)


def test_what_is_no_text_is_refused() -> None:
    """A port alone, as a configuration may have it, is an error that names it."""
    with pytest.raises(ConfigurationError, match="address is 8786"):
        DaskBackend(8786)


def test_tls_needs_certificates() -> None:
    """An address that says TLS needs a `Security`."""
    with pytest.raises(ConfigurationError, match="TLS needs certificates"):
        DaskBackend("tls://127.0.0.1:8786")


def test_certificates_of_a_configuration() -> None:
    """A file or the environment can't hold a `Security`, and says of what to make one."""
    spec = {"backend": "dask:tls://10.0.0.7:8786", "security": {"tls_ca_file": "ca.pem", "tls_client_cert": "me.pem"}}
    backend = make("far", spec, {})
    assert isinstance(backend, DaskBackend)
    assert isinstance(backend._security, Security)
    assert backend._security.tls_ca_file == "ca.pem"


def test_a_text_is_an_address() -> None:
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
