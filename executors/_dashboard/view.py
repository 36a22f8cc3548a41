"""What the page shows of the merged state of all server processes: less than they answer, and ready to be drawn.

Pure functions over the JSON values of `_control`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from executors._control.pacing import pause

T = TypeVar("T")
Json: TypeAlias = dict[str, Any]

PIECE = 150
"""How many entries of the timeline are seen to in one go: about half a millisecond."""

MAX_TASKS = 50
"""How many tasks a table has."""

MAX_LANES = 48
"""How many lanes the timeline has."""

MAX_BLOCKS = 1500
"""How many blocks the timeline has: more than a screen has pixels for."""

MAX_ROWS, MAX_OVERLAP = 6, 0.02
"""How many lanes a backend without workers has, and how many seconds two of its tasks in one lane may overlap."""

HISTORY = 60.0
"""Seconds that the timeline and the chart of lags show."""

LAG_STEP = 0.5
"""Seconds of each point in the chart of lags, which is the worst lag in them."""


def view(merged: Mapping[str, Any], servers: Sequence[Mapping[str, Any]]) -> Json:
    """Return what the page shows.

    Args:
        merged: The state of all server processes, merged by `_control.client.merge`; it needs no timeline.
        servers: The states of the server processes.
    """
    answered = [server for server in servers if "error" not in server]
    now = max((server["now"] for server in answered), default=0.0)
    same = ("finished", "abandoned", "lost_workers", "services", "functions", "active_count")
    return {
        "now": now,
        "app": next((server["app"] for server in answered), ""),
        "servers": [_server(server) for server in servers],
        **{name: merged[name] for name in same},
        "backends": backends(merged),
        "limits": [queue for queue in merged["queues"] if queue["function"] is not None],
        "workers": [
            {"server": server["pid"], "backend": backend["name"], **worker}
            for server in answered
            for backend in server["backends"]
            for worker in backend["active_workers"]
        ],
        "active": merged["active"][:MAX_TASKS],
        "failures": merged["failures"][:MAX_TASKS],
        "recent": merged["recent"][:MAX_TASKS],
        "timeline": timeline(answered, now),
        "lag": lag(answered, now),
        "blame": blame(answered),
        "advice": advice(answered),
        "drain": next((server["drain"] for server in answered if server["drain"]), None),
    }


def _server(server: Mapping[str, Any]) -> Json:
    if "error" in server:
        return {"pid": server["pid"], "error": server["error"]}
    loop = server["loop"]
    shown = {name: server[name] for name in ("pid", "phase", "started_at", "blocked", "last_blocked")}
    shown["loop"] = loop and {name: loop[name] for name in ("lag", "utilisation")}
    return shown


def _loops(servers: Iterable[Mapping[str, Any]]) -> list[Json]:
    return [server["loop"] for server in servers if server["loop"] is not None]


def backends(merged: Mapping[str, Any]) -> list[Json]:
    """Return the figures of each backend, with the size of its queue: 0 if it has none."""
    sizes = {queue["backend"]: queue["size"] for queue in merged["queues"] if queue["function"] is None}
    names = ("name", "queued", "running", "workers", "unavailable")
    return [
        {**{name: backend[name] for name in names}, "size": sizes.get(backend["name"], 0)}
        for backend in merged["backends"]
    ]


def timeline(servers: Iterable[Mapping[str, Any]], now: float) -> Json:
    """Return what each worker did in the last minute.

    Returns:
        The `names` of the functions; the `lanes`, one for each worker, or several where tasks share one, as on the
        event loop; the number of lanes that are left out (`hidden`); and the `blocks`: lane, index of the name, state,
        start and end (in seconds before now; the end is None while the task runs), and the number of tasks.
    """
    lanes = _lanes((server["pid"], entry) for server in servers for entry in server["timeline"])
    order = sorted(lanes, key=_natural)
    shown = [(place, entry) for place, lane in enumerate(order[:MAX_LANES]) for entry in lanes[lane]]
    shown.sort(key=lambda one: math.inf if one[1]["end"] is None else one[1]["end"])
    names: dict[str, int] = {}
    blocks = []
    for lane, entry in _in_pieces(shown[-MAX_BLOCKS:]):
        end = None if entry["end"] is None else round(max(0.0, now - entry["end"]), 3)
        if end is None or end < HISTORY:
            name = names.setdefault(entry["name"], len(names))
            start = round(min(HISTORY, now - entry["start"]), 3)
            blocks.append([lane, name, entry["state"], start, end, entry.get("count", 1)])
    return {
        "names": list(names),
        "lanes": [lane._asdict() for lane in order[:MAX_LANES]],
        "hidden": max(0, len(order) - MAX_LANES),
        "blocks": blocks,
    }


def _in_pieces(items: Sequence[T]) -> Iterator[T]:
    """Yield the items, with pauses in which the event loop has its turns."""
    for at, item in enumerate(items, 1):
        yield item
        if not at % PIECE:
            pause()


class _Lane(NamedTuple):
    server: int
    backend: str
    worker: str
    row: int


def _lanes(entries: Iterable[tuple[int, Json]]) -> dict[_Lane, list[Json]]:
    """Return the entries of each lane. Without a worker, as on the event loop, those that overlap get other rows."""
    found: dict[tuple[int, str, str | None], list[list[Json]]] = {}
    for pid, entry in _in_pieces(sorted(entries, key=lambda one: one[1]["start"])):
        rows = found.setdefault((pid, entry["backend"], entry["worker"]), [[]])
        row = rows[-1]
        if entry["worker"] is None:
            begin = entry["start"] + MAX_OVERLAP
            free = next((one for one in rows if not one or (one[-1]["end"] or math.inf) <= begin), None)
            if free is None and len(rows) < MAX_ROWS:
                rows.append(free := [])
            row = row if free is None else free
        row.append(entry)
    return {
        _Lane(pid, backend, worker or backend, place): row
        for (pid, backend, worker), rows in found.items()
        for place, row in enumerate(rows)
    }


def _natural(lane: _Lane) -> tuple[str, int, int, str, int]:
    """Sort by backend, server process, and worker, with "thread 2" before "thread 10"."""
    return lane.backend, lane.server, len(lane.worker), lane.worker, lane.row


def lag(servers: Iterable[Mapping[str, Any]], now: float) -> Json:
    """Return the worst lag in each interval of the last minute, for each server process that measures it.

    Returns:
        The `pids`, the `times` of the intervals' ends in epoch seconds, and the `worst` lag of each pid in them; None
        where none was measured.
    """
    number = int(HISTORY / LAG_STEP)
    last = int(now / LAG_STEP)  # on a grid, so that a point stays the same from one state to the next
    measured = [server for server in servers if server["loop"] is not None]
    worst: list[list[float | None]] = []
    for server in measured:
        points: list[float | None] = [None] * number
        for at, value in server["loop"]["recent"]:
            place = number - 1 - (last - int(at / LAG_STEP))
            if 0 <= place < number:
                points[place] = max(round(value, 5), points[place] or 0.0)
        worst.append(points)
    return {
        "pids": [server["pid"] for server in measured],
        "times": [(last - number + 1 + place) * LAG_STEP for place in range(number)],
        "worst": worst,
    }


def blame(servers: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Return who delayed the event loops, worst first, the same function of all server processes as one entry."""
    found: dict[tuple[str, str], Json] = {}
    for loop in _loops(servers):
        for entry in loop["blame"]:
            key = entry["kind"], entry["name"]
            if (total := found.get(key)) is None:
                found[key] = dict(entry)
                continue
            for name in ("count", "total", "cpu"):
                total[name] += entry[name]
            if entry["worst"] > total["worst"]:
                total["worst"], total["where"] = entry["worst"], entry["where"]
    return sorted(found.values(), key=lambda entry: -entry["total"])[:MAX_TASKS]


def advice(servers: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the advice, once where that of several server processes is the same but for a duration."""
    found = [sentence for loop in _loops(servers) for sentence in loop["advice"]]
    return list({_DURATION.sub("", sentence): sentence for sentence in found}.values())


_DURATION = re.compile(r"[0-9.]+ m?s\b")
