"""An app's configuration, as an executor's settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from executors._checks import positive_seconds
from executors._control.directory import usable_default_directory
from executors._core.settings import Settings

EXTENSION = "executor"
"""The key of an app's executor, an `AppExecutor`, in ``app.extensions``."""

PREFIX = "EXECUTOR_"
QUART_TIMEOUT = "BACKGROUND_TASK_SHUTDOWN_TIMEOUT"
QUART_DEFAULT = 5

DEBUG_TIMEOUT = 0.5
"""Seconds that a drain waits for tasks in debug mode, in which a reloader restarts the server at each save."""


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Read and check every ``EXECUTOR_`` key of an app's configuration.

    Without ``EXECUTOR_SHUTDOWN_TIMEOUT``, Quart's own ``BACKGROUND_TASK_SHUTDOWN_TIMEOUT`` applies, in which None
    means no timeout. If neither is set, the timeout is short in debug mode. Without ``EXECUTOR_CONTROL_DIR``, debug
    mode turns the control socket on, in the default directory.

    Args:
        config: The app's configuration.

    Raises:
        ConfigurationError: A key is unknown or a value is invalid; the message names both.
    """
    values = {key.removeprefix(PREFIX).lower(): value for key, value in config.items() if key.startswith(PREFIX)}
    settings = Settings.checked(values, lambda name: PREFIX + name.upper())
    if config.get("DEBUG") and "control_dir" not in values:
        settings = dataclasses.replace(settings, control_dir=usable_default_directory())
    if "shutdown_timeout" in values:
        return settings
    timeout = config.get(QUART_TIMEOUT, QUART_DEFAULT)
    if timeout == QUART_DEFAULT and config.get("DEBUG"):
        timeout = DEBUG_TIMEOUT
    timeout = math.inf if timeout is None else positive_seconds(timeout, QUART_TIMEOUT, zero=True)
    return dataclasses.replace(settings, shutdown_timeout=timeout)
