"""The Quart extension: `QuartExecutor`, and `current_executor` for code that has only the current app.

`Quart` is Quart's own class. Type checkers see it with the `add_background_task` that an executor gives an app.
"""

from executors.quart.extension import QuartExecutor, current_executor
from executors.quart.proxies import name_proxies
from executors.quart.typed import Quart

__all__ = ["Quart", "QuartExecutor", "current_executor"]

name_proxies()
