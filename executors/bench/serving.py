"""How Hypercorn serves what is measured."""

from __future__ import annotations

from hypercorn.config import Config


def config_for(descriptor: int) -> Config:
    """Return a configuration for a listening socket, that keeps connections open for as long as a measurement lasts."""
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.loglevel = "WARNING"
    config.keep_alive_timeout = 3600
    config.keep_alive_max_requests = 10**9
    config.graceful_timeout = 1
    return config
