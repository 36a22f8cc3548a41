"""An app's executor with options bound, whose background tasks report their failures to the app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from executors._core.bound import BoundExecutor
from executors.options import TaskOptions

if TYPE_CHECKING:
    from typing import Unpack

    from executors.handle import TaskHandle
    from executors.options import CallKeywords
    from executors.quart.executor import AppExecutor

P = ParamSpec("P")
T = TypeVar("T")


class BoundAppExecutor(BoundExecutor):
    """An app's executor with options bound to it. Created by its `options`."""

    _executor: AppExecutor

    def options(self, **options: Unpack[CallKeywords]) -> BoundAppExecutor:
        """Bind options as `Executor.options` does. The result has `add_background_task`, too."""
        return BoundAppExecutor(self._executor, TaskOptions(**options).over(self._overrides))

    @overload
    def add_background_task(
        self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[T]: ...
    @overload
    def add_background_task(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[T]: ...
    def add_background_task(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        """Replace Quart's method: submit a function, and report its failure as Quart does. Any thread, never blocks.

        An error goes to `app.handle_background_exception`, which sends `got_background_exception` and logs it.

        Args:
            func: The function to run.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            The task's handle.

        Raises:
            ExecutorError: As `submit`.
        """
        handle = self.submit(func, *args, **kwargs)
        self._executor._report_failure(handle)
        return handle
