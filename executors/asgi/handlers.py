"""Which code of Starlette, FastAPI and Litestar calls request handlers, for the monitor of the event loop."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import reduce
from types import CodeType

CALLERS = {
    "starlette.routing": ("request_response", "websocket_session"),
    "starlette.endpoints": ("HTTPEndpoint.dispatch", "WebSocketEndpoint.dispatch"),
    "fastapi.routing": ("request_response", "websocket_session"),
    "litestar.routes.http": ("HTTPRoute.handle",),
    "litestar.routes.websocket": ("WebSocketRoute.handle",),
}
"""Functions that call request handlers, or create those that do, by module."""


def request_handlers() -> frozenset[CodeType]:
    """Return the code that calls request handlers, of the frameworks that have been imported."""
    return frozenset(
        code
        for module, names in CALLERS.items()
        for name in names
        for code in _codes(getattr(_find(module, name), "__code__", None))
    )


def _find(module: str, name: str) -> object:
    """Return a function; None if the module hasn't been imported, or no longer has it."""
    return reduce(lambda found, part: getattr(found, part, None), name.split("."), sys.modules.get(module))


def _codes(code: CodeType | None) -> Iterator[CodeType]:
    """Yield the code of a function, and of those inside it."""
    if isinstance(code, CodeType):
        yield code
        for constant in code.co_consts:
            yield from _codes(constant)
