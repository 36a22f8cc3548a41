"""What the page shows of the merged state: pure functions over JSON."""

from __future__ import annotations

from typing import Any

import pytest

from executors._dashboard import view
from executors._dashboard.pages import format_seconds, format_time, static_file

NOW = 1_000_000.0


def span(start: float, end: float | None, worker: str | None = None, backend: str = "thread", **more: Any) -> Any:
    end = None if end is None else NOW - end
    return {"worker": worker, "backend": backend, "name": "f", "state": "s", "start": NOW - start, "end": end, **more}


def server(pid: int = 1, **values: Any) -> dict[str, Any]:
    return {"pid": pid, "timeline": [], "loop": None, **values}


def loop(**values: Any) -> dict[str, Any]:
    return {"recent": [], "blame": [], "advice": [], **values}


def test_lanes_of_the_timeline() -> None:
    """Each worker has a lane, in natural order; tasks that overlap on one get further lanes, up to a limit."""
    threads = [span(9, 8, f"thread {number}") for number in (10, 2)]
    found = view.timeline([server(2, timeline=threads), server(1, timeline=threads[:1])], NOW)
    assert [(lane["server"], lane["worker"]) for lane in found["lanes"]] == [
        (1, "thread 10"),
        (2, "thread 2"),
        (2, "thread 10"),
    ]
    tasks = [span(10, 5, backend="loop"), span(9, 8, backend="loop"), span(7, None, backend="loop"), span(4, 3)]
    found = view.timeline([server(timeline=tasks)], NOW)
    assert [(lane["backend"], lane["row"]) for lane in found["lanes"]] == [("loop", 0), ("loop", 1), ("thread", 0)]
    assert [block[0] for block in found["blocks"]] == [1, 0, 2, 1]
    many = [span(10, 5, backend="loop") for _ in range(100)]
    assert len(view.timeline([server(timeline=many)], NOW)["lanes"]) == view.MAX_ROWS
    workers = [span(10, 5, f"worker process {number}") for number in range(100)]
    found = view.timeline([server(timeline=workers)], NOW)
    assert (len(found["lanes"]), found["hidden"]) == (view.MAX_LANES, 100 - view.MAX_LANES)
    assert {block[0] for block in found["blocks"]} == set(range(view.MAX_LANES))


def test_blocks_of_the_timeline() -> None:
    """Blocks are relative to now; those that ended too long ago are left out, and running ones never are."""
    tasks = [span(4000, None), span(90, 70), span(70, 50.5, count=7)]
    found = view.timeline([server(timeline=tasks)], NOW)
    assert found["names"] == ["f"]
    assert [block[1:] for block in found["blocks"]] == [[0, "s", 60.0, 50.5, 7], [0, "s", 60.0, None, 1]]
    tasks = [span(4000, None), *(span(50, 50 - number / 100) for number in range(3000))]
    blocks = view.timeline([server(timeline=tasks)], NOW)["blocks"]
    assert (len(blocks), blocks[-1][4]) == (view.MAX_BLOCKS, None)
    assert view.timeline([], NOW) == {"names": [], "lanes": [], "hidden": 0, "blocks": []}


def test_lags_are_the_worst_of_each_interval() -> None:
    """The chart has the worst lag of each interval of the last minute, on a grid that does not move."""
    recent = [[NOW - 100, 9.0], [NOW - 1, 0.1], [NOW - 0.9, 0.3], [NOW, 0.2], [NOW + 3, 9.0]]
    found = view.lag([server(7, loop=loop(recent=recent)), server(8)], NOW)
    assert (found["pids"], len(found["times"]), found["times"][-1]) == ([7], 120, NOW)
    assert found["worst"][0][-4:] == [None, 0.3, None, 0.2]
    assert sum(value is not None for value in found["worst"][0]) == 2
    assert view.lag([server(7, loop=loop())], NOW + 0.4)["times"] == found["times"]


def test_blame_and_advice_are_merged() -> None:
    """The same code in two server processes is one entry, and the same advice one sentence."""
    one = {"name": "f", "kind": "route", "count": 1, "total": 1.0, "worst": 0.5, "cpu": 0.1, "where": "here"}
    other = {**one, "count": 2, "total": 3.0, "worst": 0.7, "where": "there"}
    small = {**one, "name": "g", "total": 0.1}
    advice = ["`f` blocked the loop for 62 ms", "`f` blocked the loop for 1.5 s", "`g` blocked the loop for 62 ms"]
    servers = [
        server(loop=loop(blame=[small, one], advice=advice[:1])),
        server(loop=loop(blame=[other], advice=advice[1:])),
        server(),
    ]
    found = view.blame(servers)
    assert [entry["name"] for entry in found] == ["f", "g"]
    assert found[0] == {**other, "count": 3, "total": 4.0, "cpu": 0.2}
    assert one["total"] == 1.0
    assert view.advice(servers) == advice[1:]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0482, "48 ms"), (2.14, "2.1 s"), (99.96, "1 min 40 s"), (302, "5 min 02 s"), (11220, "3 h 07 min")],
)
def test_durations(value: float, text: str) -> None:
    """Durations on a task's page."""
    assert format_seconds(value) == text


def test_times() -> None:
    """Times on a task's page are in UTC."""
    assert format_time(1_000_000.25) == "1970-01-12 13:46:40.250 UTC"


def test_static_files() -> None:
    """Files are found by their names only."""
    content, content_type = static_file("uPlot.iife.min.js") or (b"", "")
    assert b"uPlot" in content
    assert content_type.startswith("text/javascript")
    assert static_file("__init__.py") is None
