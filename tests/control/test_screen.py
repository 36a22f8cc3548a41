"""The screen of `executors top`, drawn as text at several sizes."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from executors._control.client import merge
from executors.top.screen import Screen
from executors.top.text import bar, duration, printable

HOSTILE = "render\x1b[2J\r\n\u202e[red]x[/red]"


def task(**changes: Any) -> dict[str, Any]:
    return {
        "id": "ab" * 16, "name": "render", "tag": "cpu", "backend": "process", "state": "running", "submitted_at": 90.0,
        "started_at": 95.0, "finished_at": None, "error": None, "attempts": 1, "worker": "worker process 77",
        "progress": {"done": 42, "total": 100, "message": "rows", "fraction": 0.42}, **changes,
    }  # fmt: skip


def worker(pid: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": f"worker process {pid}", "pid": pid, "state": "busy", "task": "render", "task_id": "ab" * 16,
        "tasks": 3, "cpu_time": 1.5, "memory": 33_000_000, **changes,
    }  # fmt: skip


def server(pid: int, **changes: Any) -> dict[str, Any]:
    """Return the state of a server process that has everything."""
    function = {
        "name": "render", "backend": "process", "tag": "cpu", "count": 100, "failed": 2, "running": 1, "seconds": 70.0,
        "run_times": {"150": 100}, "wait_times": {"100": 100},
    }  # fmt: skip
    loop = {
        "seconds": 60.0, "lag": {"p50": 0.001, "p99": 0.02, "p999": 0.1, "max": 1.4, "count": 1200}, "utilisation": 0.4,
        "blame": [{"name": "shop.gil", "kind": "route", "count": 1, "total": 1.4, "worst": 1.4, "cpu": 1.4,
                   "where": "sum(range(n)) (shop.py:31)", "marked": None}],
        "advice": [], "recent": [], "blocked": None,
    }  # fmt: skip
    return {
        "version": 1, "pid": pid, "server": pid, "app": "shop", "phase": "open", "started_at": 40.0, "now": 100.0,
        "backends": [
            {"name": "process", "queued": 7, "running": 2, "workers": 2, "unavailable": None,
             "active_workers": [worker(pid + at) for at in (1, 2)]},
            {"name": "loop", "queued": 0, "running": 1, "workers": None, "unavailable": None, "active_workers": []},
        ],
        "queues": [], "services": [], "finished": {"succeeded": 98, "failed": 2}, "abandoned": 1, "lost_workers": 1,
        "functions": [function], "active": [task(), task(state="queued", started_at=None, progress=None)],
        "active_count": 12_345,
        "recent": [task(state="failed", finished_at=99.0, progress=None, error=f"ValueError: {HOSTILE}")],
        "timeline": [], "loop": loop, "blocked": None, "last_blocked": None,
        "drain": {"pid": 5, "at": 30.0, "clean": False, "text": "drained in 5 s: 1 cancelled\ntask 'render' (7)"},
        **changes,
    }  # fmt: skip


BLOCKED = {"seconds": 1.25, "stack": '  File "shop.py", line 28, in block\n    time.sleep(s)\n'}


def drawn(merged: dict[str, Any], width: int, height: int | None = None) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(Screen().draw(merged, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [50, 80, 120])
def test_screen_at_a_width(width: int) -> None:
    """Every part is there, no line is too long, and numbers aren't cut."""
    merged = merge([server(10, blocked=BLOCKED), server(20), {"pid": 30, "server": 30, "error": "doesn't answer"}])
    text = drawn(merged, width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    for part in (
        "server process 30: doesn't answer", "2 server", "the event loop of 10 is blocked for 1.2 s", "time.sleep(s)",
        "40 %", "20 ms", "4/4", "14", "running", "queued", "42 %", "33 MB" if width > 50 else "", "200", "shop.gil",
        "1.4 s", "drained in 5 s: 1 cancelled", "2 abandoned",
    ):  # fmt: skip
        assert part in " ".join(text.split()), part
    assert ("ab" * 16 in text) is (width >= 100)


@pytest.mark.parametrize("height", [24, 40])
def test_screen_fits_the_height(height: int) -> None:
    """The lists are cut, so that the list of who delayed the event loop is still there."""
    many = [task(id=f"{at:032}") for at in range(200)]
    text = drawn(merge([server(10, active=many, blocked=BLOCKED), server(20)]), 80, height)
    lines = text.splitlines()
    assert any("shop.gil" in line for line in lines[: height + 3])
    assert any("render" in line and "42 %" in line for line in lines[:height])


def test_names_cannot_drive_the_terminal() -> None:
    """Control characters are replaced, and brackets are no markup."""
    name = {"name": HOSTILE, "app": HOSTILE, "error": HOSTILE, "state": "running"}
    merged = merge([server(10, app=HOSTILE, active=[task(**name)], functions=[{**server(1)["functions"][0], **name}])])
    text = drawn(merged, 120)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\u202e" not in text
    assert "[red]x[/red]" in text


def test_rates_are_computed_between_two_moments() -> None:
    """The second screen has tasks a second and the CPU of workers in per cent."""
    screen = Screen()
    screen.draw(merge([server(10)]), 120)
    screen._at -= 2.0
    later = server(10, finished={"succeeded": 200})
    later["backends"][0]["active_workers"] = [worker(11, cpu_time=3.0)]
    console = Console(file=io.StringIO(), width=120)
    console.print(screen.draw(merge([later]), 120))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    rate, share = (int(re.search(pattern, text)[1]) for pattern in (r"(\d+)/s finished", r"busy\s+render\s+(\d+) %"))  # type: ignore[index]
    assert 20 < rate <= 50  # a little less on a loaded machine
    assert 30 < share <= 75


def test_an_empty_screen() -> None:
    """There may be nothing to show, in a terminal of any size."""
    for width, height in ((1, 1), (50, 5), (80, None)):
        assert drawn(merge([]), width, height)


def test_texts() -> None:
    """Durations, bars and names as short strings."""
    found = [duration(seconds) for seconds in (0, 0.000_012, 0.048, 2.14, 61, 3900, 90_000, None, -1)]
    assert found == ["0 µs", "12 µs", "48 ms", "2.1 s", "1 min 1 s", "1 h 5 min", "1 d 1 h", "", "0 µs"]
    assert [bar(share, 4) for share in (0, 0.01, 0.5, 1, 7)] == ["░░░░", "█░░░", "██░░", "████", "████"]
    assert printable("a\x1b\u202eb") == "a··b"
