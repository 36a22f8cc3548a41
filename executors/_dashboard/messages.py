"""Requests and responses, as records that every framework's can be turned into."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the dashboard. Its body is never read.

    Attributes:
        method: The HTTP method.
        path: The path below the dashboard's own, without a slash at the beginning: empty for the first page.
        headers: The headers, with names in lower case.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """A response of the dashboard.

    Attributes:
        status: The HTTP status.
        content_type: The type of the body.
        body: All of the body, or an iterator that yields it in parts and holds nothing that has to be released.
        headers: Further headers.
    """

    status: int
    content_type: str
    body: bytes | AsyncIterator[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)
