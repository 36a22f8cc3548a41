"""Routes that are marked as if they were tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from quart import Quart

from executors._core.router import mark_on

logger = logging.getLogger("executors")


def warn_of_marked_routes(app: Quart) -> None:
    """Log a warning for each route with a mark that sends tasks elsewhere: Quart calls it as any other route."""
    for endpoint, view in app.view_functions.items():
        tag = _tag_of(view)
        if tag is not None and tag != "io":
            logger.warning(
                "the route %r is marked with the tag %r, which has no effect on a route: mark a function that computes "
                "what the route answers, and call it with `await executor.run(…)`",
                endpoint,
                tag,
            )


def _tag_of(view: Callable[..., Any]) -> str | None:
    """Return the tag of a view's mark; also of one that was marked after Quart had wrapped it to run in a thread."""
    for function in (view, getattr(view, "__wrapped__", None)):
        mark = None if function is None else mark_on(function)
        if mark is not None:
            return mark[0].tag  # type: ignore[no-any-return]
    return None
