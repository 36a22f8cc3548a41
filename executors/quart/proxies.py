"""Quart's proxies (`current_app`, `g`, …) in lambdas and closures that go to worker processes: they travel by name."""

from __future__ import annotations

from quart import globals as quart_globals
from werkzeug.local import LocalProxy

from executors._wire.pickling import pickle_by_name
from executors.quart import extension


def name_proxies() -> None:
    """Have each proxy of Quart's, and ours, pickled as its place. By value it would be what it stands for."""
    for module in (quart_globals, extension):
        for attribute, value in vars(module).items():
            if type(value) is LocalProxy:
                pickle_by_name(value, f"{module.__name__}:{attribute}")
