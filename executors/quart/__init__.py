"""The Quart extension: `QuartExecutor`, and `current_executor` for code that knows only the current app.

`Quart` is Quart's own class. Type checkers see it with the `add_background_task` that an executor gives an app.
"""

from quart import globals as quart_globals

from executors.quart import extension
from executors.quart.executor import AppExecutor
from executors.quart.extension import QuartExecutor, current_executor
from executors.quart.sse import task_events
from executors.quart.typed import Quart
from executors.quart.worker import pickle_proxies_by_name

__all__ = ["AppExecutor", "Quart", "QuartExecutor", "current_executor", "task_events"]

pickle_proxies_by_name(quart_globals, extension)
