"""Values as short strings for the screen. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def printable(value: object) -> str:
    """Return a string without control characters, with which a task's name could drive the terminal."""
    return "".join(char if char.isprintable() else "·" for char in str(value))


def duration(seconds: float | None) -> str:
    """Format a duration: ``"12 µs"``, ``"48 ms"``, ``"2.1 s"``, ``"1 h 5 min"``."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    for (size, unit), (smaller, smaller_unit) in zip(_UNITS, (*_UNITS[1:], (1, "s")), strict=True):
        if seconds >= size:
            rest = int(seconds % size // smaller)
            return f"{int(seconds // size)} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    raise AssertionError


def size(number: int | None) -> str:
    """Format a number of bytes: ``"17 MB"``."""
    if number is None:
        return ""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def bar(share: float, width: int) -> str:
    """Draw a share from 0 to 1."""
    filled = round(min(1.0, max(0.0, share)) * width)
    if share > 0:
        filled = max(1, filled)
    return "█" * filled + "░" * (width - filled)


def progress(task: Mapping[str, Any]) -> str:
    """Format the progress of a task: ``"42 % rows"``."""
    found = task.get("progress")
    if not found:
        return ""
    message = f" {printable(found['message'])}" if found["message"] else ""
    if found["fraction"] is not None:
        return f"{found['fraction'] * 100:.0f} %{message}"
    return f"{found['done']:g}{message}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: ``"1 task"``, ``"2 tasks"``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
