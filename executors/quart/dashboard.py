"""`Dashboard`: a blueprint with a page that shows, live, what the executors of all server processes do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Self

from quart import Blueprint, Response, current_app, request
from quart.wrappers.response import ResponseBody

from executors._control import ControlSwitch
from executors._dashboard.messages import Request
from executors._dashboard.security import Authorize, checked_authorize, is_authorized
from executors._dashboard.site import Site, forbidden
from executors.executor import Executor
from executors.quart.extension import QuartExecutor


class Dashboard(Blueprint):
    """Serves the dashboard: ``app.register_blueprint(Dashboard(executor, authorize=…), url_prefix="/executors")``.

    It shows the tasks, queues and workers of all server processes of the app, whichever of them answers, and who delays
    the event loop. Arguments and results are never shown; names of functions, progress messages, error messages and
    tracebacks are. Every path is refused unless `authorize` returns True. It turns on the control socket of each server
    process, in a directory of the user's own.

    Args:
        executor: The app's executor, before its start.
        authorize: Called with Quart's request for each request; returns whether it may see the dashboard. It may be a
            coroutine function; a plain function runs on the event loop, and must not block. What it raises is handled
            as in a route: ``abort(401)`` works, any other error is answered with status 500.
        actions: Whether the dashboard may be used to cancel tasks. Without it, it is read-only.
        name: The name of the blueprint.

    Raises:
        ConfigurationError: There is no `authorize`, or it can't be called.
    """

    def __init__(
        self,
        executor: QuartExecutor | Executor,
        *,
        authorize: Authorize | None = None,
        actions: bool = False,
        name: str = "executors_dashboard",
    ) -> None:
        super().__init__(name, __name__)
        self._authorize = checked_authorize(authorize)
        self._site = Site(actions=actions)
        self._executor = executor
        executor.add_hook(ControlSwitch())
        self._add_rule("/", "index", defaults={"path": ""})
        self._add_rule("/<path:path>", "page")

    def _add_rule(self, rule: str, endpoint: str, **options: Any) -> None:
        self.add_url_rule(
            rule, endpoint, self._respond, provide_automatic_options=False, methods=["GET", "POST"], **options
        )

    async def _respond(self, path: str) -> Response:
        if not await is_authorized(self._authorize, request):
            found = forbidden()
        else:
            headers = {name.lower(): value for name, value in request.headers.items()}
            found = await self._site.respond(Request(request.method, path, headers), self._executor._executor)
        body = found.body if isinstance(found.body, bytes) else _Stream(found.body)
        response = current_app.response_class(body, status=found.status, content_type=found.content_type)
        response.headers.update(found.headers)
        if not isinstance(found.body, bytes):
            response.timeout = None
        return response


class _Stream(ResponseBody):
    """A body that comes in parts. It holds nothing that has to be released."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts
