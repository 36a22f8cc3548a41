"""`Quart` as type checkers see an app that has an executor: `add_background_task` checks its arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, ParamSpec, TypeVar, overload

    import quart

    from executors.handle import TaskHandle

    P = ParamSpec("P")
    T = TypeVar("T")

    class Quart(quart.Quart):
        """Quart's own class at run time; type checkers see what a `QuartExecutor` puts in its method's place."""

        @overload  # type: ignore[override]
        def add_background_task(
            self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
        ) -> TaskHandle[T]: ...
        @overload
        def add_background_task(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[T]: ...
        def add_background_task(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskHandle[Any]: ...
else:
    from quart import Quart

__all__ = ["Quart"]
