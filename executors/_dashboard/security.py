"""Who may see the dashboard, which requests may change something, and what browsers may do with its pages."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from executors.errors import ConfigurationError, shown

Authorize: TypeAlias = Callable[[Any], bool | Awaitable[bool]]
"""Returns whether whoever sent the request may see the dashboard. It may be a coroutine function."""

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx passes each event on at once
}
"""Headers of every response: nothing inline, nothing from or for another site, and no copy is kept."""


def checked_authorize(authorize: object) -> Authorize:
    """Return the function, checked.

    Raises:
        ConfigurationError: It is missing, or can't be called.
    """
    if not callable(authorize):
        what = "has no `authorize`" if authorize is None else f"has {shown(authorize)} as `authorize`"
        raise ConfigurationError(
            f"the dashboard {what}: pass a function that returns whether a request may see it, as in "
            "Dashboard(executor, authorize=is_admin)"
        )
    return authorize


async def is_authorized(authorize: Authorize, request: object) -> bool:
    """Return whether a request may see the dashboard.

    Args:
        authorize: The app's function.
        request: What the function gets.

    Raises:
        ConfigurationError: The function returned something that is neither true nor false in any reader's eyes, such
            as a response.
        Exception: What the function raised, which its framework handles.
    """
    allowed: Any = authorize(request)
    if inspect.isawaitable(allowed):
        allowed = await allowed
    if allowed and allowed is not True:
        raise ConfigurationError(f"`authorize` returned {shown(allowed)}, and must return True or False")
    return allowed is True


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Return whether a browser sent the request for a page of this very site. Without proof the answer is no.

    https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site

    Args:
        headers: The request's headers, with names in lower case.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None and origin is None:
        return False
    # Of the origin only the host counts: behind a proxy that ends TLS the scheme is another one.
    return site in {None, "same-origin"} and (origin is None or _host_of(origin) == headers.get("host", "").lower())


def _host_of(origin: str) -> str | None:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in {"http", "https"} and parts.netloc else None
