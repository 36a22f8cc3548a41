"""What is logged if workers can't be forked."""

from __future__ import annotations

import logging

import launching
import pytest
from launching import setup


@pytest.mark.parametrize(
    ("left_behind", "name"),
    [
        (launching.keep_thread, "thread 'Thread-1 (sleep)'"),
        (launching.use_numpy, "native thread 'python"),
        (launching.keep_socket, "(socket:["),
        (launching.keep_terminal, "(/dev/ptmx)"),
    ],
)
def test_what_prevents_forks_is_named(launcher, launch, monkeypatch, caplog, left_behind, name: str) -> None:
    """The log names the thread or descriptor, once."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    caplog.set_level(logging.INFO, "executors")
    one = launcher(setup(left_behind))
    assert not any(launch(one).is_forked for _ in range(2))
    (message,) = [record.getMessage() for record in caplog.records if "separate processes" in record.getMessage()]
    assert name in message
