"""The Quart extension: `QuartExecutor`, and `current_executor` for code that has only the current app."""

from executors.quart.extension import QuartExecutor, current_executor

__all__ = ["QuartExecutor", "current_executor"]
