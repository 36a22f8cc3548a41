"""Work in small pieces: a thread that computes for long in one go delays the event loop by 5 ms again and again.

A waiting thread gets the GIL only after that time, or at once when the other thread sleeps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

PIECE = 40
"""How many items are seen to in one go: about half a millisecond."""

PAUSE = 0.0001
"""Seconds."""


def pause() -> None:
    """Let other threads have the GIL."""
    time.sleep(PAUSE)


def paced(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return what a function returns for each item, with pauses."""
    found = []
    for at, item in enumerate(items, 1):
        found.append(function(item))
        if not at % PIECE:
            pause()
    return found


def dumped(members: Mapping[str, Any]) -> str:
    """Return an object as JSON, with pauses where its members are long lists."""
    parts = []
    for name, value in members.items():
        if isinstance(value, list):
            pieces = [value[at : at + PIECE] for at in range(0, len(value), PIECE)]
            text = f"[{','.join(paced_dump(piece) for piece in pieces)}]"
        else:
            text = _dump(value)
        parts.append(f"{_dump(name)}:{text}")
    return f"{{{','.join(parts)}}}"


def paced_dump(piece: list[Any]) -> str:
    """Return the items of a list as JSON, without brackets, then pause."""
    text = _dump(piece)[1:-1]
    pause()
    return text


def _dump(value: Any) -> str:
    return json.dumps(value, default=str, separators=(",", ":"))
