"""The Quart extension: `QuartExecutor`, and `current_executor` for code that has only the current app."""

from executors.quart.extension import QuartExecutor, current_executor
from executors.quart.proxies import name_proxies

__all__ = ["QuartExecutor", "current_executor"]

name_proxies()
