"""The pages, from Jinja2 templates that escape everything, and the files that pages load."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from executors.monitor.report import seconds

STATIC: Mapping[str, tuple[str, str]] = {
    "dashboard.css": ("_dashboard/static", "text/css; charset=utf-8"),
    "dashboard.js": ("_dashboard/static", "text/javascript; charset=utf-8"),
    "format.js": ("_dashboard/static", "text/javascript; charset=utf-8"),
    "tables.js": ("_dashboard/static", "text/javascript; charset=utf-8"),
    "sections.js": ("_dashboard/static", "text/javascript; charset=utf-8"),
    "timeline.js": ("_dashboard/static", "text/javascript; charset=utf-8"),
    "lag.js": ("_dashboard/static", "text/javascript; charset=utf-8"),
    "task.js": ("_dashboard/static", "text/javascript; charset=utf-8"),
    "icon.svg": ("_dashboard/static", "image/svg+xml"),
    "uPlot.iife.min.js": ("_static", "text/javascript; charset=utf-8"),
    "uPlot.min.css": ("_static", "text/css; charset=utf-8"),
}
"""The folder and the type of each file. There are no others, so no path can lead anywhere else."""


@cache
def static_file(name: str) -> tuple[bytes, str] | None:
    """Return the content and the type of a file; None if there is no such file."""
    if name not in STATIC:
        return None
    folder, content_type = STATIC[name]
    return files("executors").joinpath(folder, name).read_bytes(), content_type


def render(template: str, root: str, **values: Any) -> bytes:
    """Return a page.

    Args:
        template: The name of the template.
        root: The URL of the dashboard, relative to the page's.
        values: What the template shows.
    """
    text = _environment().get_template(template).render(root=root, **values)
    return text.encode(errors="replace")  # a name may have lone surrogates


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("executors._dashboard"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        auto_reload=False,
    )
    environment.filters["time"] = format_time
    environment.filters["seconds"] = format_seconds
    environment.globals["now"] = time.time
    return environment


def format_time(value: float) -> str:
    """Format a time since the epoch: ``"2026-03-01 14:05:06.250 UTC"``."""
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"


def format_seconds(value: float) -> str:
    """Format a duration: ``"48 ms"``, ``"2.1 s"``, ``"5 min 02 s"``."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if value >= 99.95 else seconds(value)
