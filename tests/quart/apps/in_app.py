"""Functions for background tasks that use the current app. A module of its own: worker processes import it."""

from __future__ import annotations

from quart import current_app, g

from executors import cpu_bound


@cpu_bound
def app_name() -> str:
    return current_app.name


@cpu_bound
async def app_name_async() -> str:
    return current_app.name


@cpu_bound
def mark_g(mark: str) -> str:
    before: str = g.get("mark", "nothing")
    g.mark = mark
    return before
