"""The screen of `executors top`: what the server processes answered, as tables that fit the terminal. Pure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from executors.top import tables
from executors.top.tables import MEDIUM, WIDE
from executors.top.text import bar, counted, duration, printable, progress, size

MAX_ROWS = 15
"""The maximum number of rows of a table where the height doesn't matter; the table of tasks has twice as many."""

STACK_LINES = 30
"""The same of a stack."""

HEADINGS = 12
"""The number of rows of headings: that of the screen, and two of each table."""

BLOCKED_SHOWN = 20.0
"""Seconds for which the screen shows what has blocked an event loop."""

STYLES = {
    "running": "green",
    "succeeded": "green",
    "open": "green",
    "busy": "green",
    "queued": "cyan",
    "idle": "dim",
    "cancelled": "yellow",
    "draining": "yellow",
    "leaving": "yellow",
    "failed": "red",
    "timed_out": "red",
    "lost": "red",
}

Entry = Mapping[str, Any]


class Rows(NamedTuple):
    """How many rows some tables have."""

    tasks: int = 2 * MAX_ROWS
    workers: int = MAX_ROWS
    functions: int = MAX_ROWS

    @classmethod
    def of(cls, free: int | None) -> Rows:
        """Divide the rows of the terminal that are left for these tables; None if they don't matter."""
        if free is None:
            return cls()
        workers, functions = max(1, free // 5), max(1, free * 3 // 10)
        return cls(max(2, free - workers - functions), workers, functions)


class Screen:
    """Draws one moment after another, and computes rates between them.

    Args:
        title: What stands in the first line, in front of everything.
    """

    def __init__(self, title: str = "executors top") -> None:
        self._title = title
        self._at = 0.0
        self._cpu: dict[tuple[int, str], float] = {}
        self._finished: dict[int, int] = {}

    def draw(self, merged: Entry, width: int, height: int | None = None) -> RenderableType:
        """Return the screen of one moment.

        Args:
            merged: What `merge` has returned.
            width: The width of the terminal in columns.
            height: Its height in rows; None if that doesn't matter.
        """
        now = time.monotonic()
        elapsed, self._at = now - self._at if self._at else None, now
        servers = [server for server in merged["servers"] if "error" not in server]
        failed = [_not_answering(server) for server in merged["servers"] if "error" in server]
        stacks = _blocked(servers, STACK_LINES if height is None else height // 4)
        blame = _blame(servers, MAX_ROWS if height is None else 2 + height // 20, width)
        above = [*failed, *stacks, *blame, *merged["servers"], *merged["backends"]]
        rows = Rows.of(None if height is None else height - HEADINGS - sum(map(tables.height, above)))
        parts = [
            self._heading(merged, servers, elapsed, width),
            *failed,
            *stacks,
            _servers(servers, width),
            _backends(merged["backends"], width),
            _tasks(merged, servers, rows.tasks, width),
            self._workers(merged["backends"], elapsed, rows.workers, width),
            _functions(merged["functions"], rows.functions, width),
            *blame,
            *_drains(servers, MAX_ROWS),
        ]
        return Group(*parts)

    def _heading(self, merged: Entry, servers: Sequence[Entry], elapsed: float | None, width: int) -> Text:
        apps = ", ".join(dict.fromkeys(printable(server["app"]) for server in servers))
        finished = {server["pid"]: sum(server["finished"].values()) for server in servers}
        known = finished.keys() & self._finished.keys()
        rate = sum(max(0, finished[pid] - self._finished[pid]) for pid in known) / elapsed if elapsed else None
        self._finished = finished
        text = Text.assemble((self._title, "bold"), "  ", (apps, "bold cyan"), "  ")
        text.append(counted(len(servers), "server process", "server processes"))
        text.append(f"  {counted(merged['active_count'], 'task')} unfinished")
        if rate is not None:
            text.append(f"  {rate:.0f}/s finished")
        for state, number in sorted(merged["finished"].items()):
            if width >= MEDIUM or state != "succeeded":
                text.append(f"  {number} {state.replace('_', ' ')}", STYLES.get(state, ""))
        for key, what in (("abandoned", "abandoned"), ("lost_workers", "workers lost")):
            if merged[key]:
                text.append(f"  {merged[key]} {what}", "red")
        return text

    def _workers(self, backends: Sequence[Entry], elapsed: float | None, rows: int, width: int) -> RenderableType:
        found: list[tables.Row] = []
        cpu: dict[tuple[int, str], float] = {}
        workers = [(backend["name"], worker) for backend in backends for worker in backend["active_workers"]]
        for backend, worker in sorted(workers, key=lambda each: each[1]["state"] == "idle"):
            key = worker["pid"] or 0, worker["name"]
            used = ""
            if worker["cpu_time"] is not None:
                cpu[key] = worker["cpu_time"]
                used = duration(cpu[key])
                if elapsed and key in self._cpu:
                    used = f"{max(0.0, cpu[key] - self._cpu[key]) / elapsed * 100:.0f} %"
            if len(found) < rows and (worker["pid"] is not None or worker["state"] != "idle"):
                found.append(
                    (
                        printable(worker["pid"] or worker["name"].removeprefix("executors-")),
                        _state(worker["state"]),
                        printable(worker["task"] or ""),
                        used,
                        size(worker["memory"]),
                        printable(backend),
                        "" if worker["tasks"] is None else str(worker["tasks"]),
                    )
                )
        self._cpu = cpu
        return tables.table(
            f"workers {_counts(worker['state'] for _, worker in workers)}",
            tables.WORKERS,
            found,
            width,
        )


def _servers(servers: Sequence[Entry], width: int) -> RenderableType:
    rows: list[tables.Row] = []
    for server in servers:
        loop = server["loop"]
        lag = loop["lag"] if loop else {}
        share = loop["utilisation"] if loop else None
        rows.append(
            (
                str(server["pid"]),
                _state(server["phase"]),
                "" if share is None else f"{bar(share, 10 if width >= MEDIUM else 5)} {share * 100:3.0f} %",
                duration(lag.get("p50")),
                duration(lag.get("p99")),
                duration(lag.get("max")),
                duration(server["now"] - server["started_at"]),
                "" if loop else "loop monitor is off",
            )
        )
    return tables.table(
        "server processes",
        tables.SERVERS,
        rows,
        width,
    )


def _backends(backends: Sequence[Entry], width: int) -> RenderableType:
    rows: list[tables.Row] = []
    length = 20 if width >= WIDE else 10 if width >= MEDIUM else 5
    for backend in backends:
        limit = backend["workers"]
        running = f"{backend['running']}" if limit is None else f"{backend['running']}/{limit}"
        rows.append(
            (
                printable(backend["name"]),
                Text(bar(backend["running"] / limit, length) if limit else "", "green"),
                running,
                Text(bar(backend["queued"] / (limit or 1) / 10, length), "cyan"),
                str(backend["queued"]),
                Text(printable(backend["unavailable"] or ""), "red"),
            )
        )
    return tables.table("backends", tables.BACKENDS, rows, width)


def _tasks(merged: Entry, servers: Sequence[Entry], rows: int, width: int) -> RenderableType:
    clocks = {server["pid"]: server["now"] for server in servers}
    found: list[tables.Row] = []
    active, recent = merged["active"], merged["recent"]
    for task in [*active[: max(rows * 3 // 4, rows - len(recent))], *recent][:rows]:
        now = task.get("finished_at") or clocks.get(task["server"], task["submitted_at"])
        found.append(
            (
                _state(task["state"]),
                printable(task["name"]),
                printable(task["backend"]),
                duration(now - (task["started_at"] or task["submitted_at"])),
                duration((task["started_at"] or now) - task["submitted_at"]),
                Text(printable(task["error"]), "red") if task["error"] else progress(task),
                task["id"],
            )
        )
    count = f"{merged['active_count']} unfinished" if active else ""
    return tables.table(
        f"tasks {count}",
        tables.TASKS,
        found,
        width,
    )


def _functions(functions: Sequence[Entry], rows: int, width: int) -> RenderableType:
    found: list[tables.Row] = [
        (
            printable(function["name"]),
            printable(function["backend"]),
            str(function["running"]),
            str(function["count"]),
            duration(function["p50"]),
            duration(function["p99"]),
            duration(function["queue_p99"]),
            Text(str(function["failed"]), "red" if function["failed"] else "dim"),
        )
        for function in functions[:rows]
    ]
    return tables.table(
        f"functions {_of(len(found), len(functions))}",
        tables.FUNCTIONS,
        found,
        width,
    )


def _blame(servers: Sequence[Entry], rows: int, width: int) -> list[RenderableType]:
    blame = [entry for server in servers if server["loop"] for entry in server["loop"]["blame"]]
    if not blame:
        return []
    found: list[tables.Row] = [
        (
            printable(entry["name"]),
            printable(entry["kind"]),
            duration(entry["total"]),
            duration(entry["worst"]),
            str(entry["count"]),
            printable(entry["where"] or ""),
        )
        for entry in sorted(blame, key=lambda entry: -entry["total"])[:rows]
    ]
    return [tables.table("who delayed the event loop", tables.BLAME, found, width)]


def _blocked(servers: Sequence[Entry], rows: int) -> list[RenderableType]:
    """Return the stacks of what blocks an event loop, or did so a moment ago, the innermost frames of each."""
    parts: list[RenderableType] = []
    for server in servers:
        blocked, last = server["blocked"], server["last_blocked"]
        if blocked:
            heading = f"the event loop of {server['pid']} is blocked for {duration(blocked['seconds'])}"
        elif last and server["now"] - last["at"] - last["seconds"] < BLOCKED_SHOWN:
            blocked = last
            ago = duration(server["now"] - last["at"] - last["seconds"])
            heading = f"the event loop of {server['pid']} was blocked for {duration(last['seconds'])}, {ago} ago"
        else:
            continue
        lines = blocked["stack"].rstrip().splitlines()[-rows:]
        parts += [Rule(Text(heading, "bold red"), style="red", align="left"), _lines(lines)]
    return parts


def _drains(servers: Sequence[Entry], rows: int) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for server in [server for server in servers if server["drain"]][:1]:
        drain = server["drain"]
        heading = f"last drain, of server process {drain['pid']}, {duration(server['now'] - drain['at'])} ago"
        parts += [
            Rule(Text(heading, "bold" if drain["clean"] else "bold red"), align="left", style="dim"),
            _lines(drain["text"].splitlines()[:rows]),
        ]
    return parts


def _not_answering(server: Entry) -> Text:
    return Text(f"server process {server['pid']}: {printable(server['error'])}", "red")


def _state(state: str) -> Text:
    return Text(state.replace("_", " "), STYLES.get(state, ""))


def _counts(states: Iterable[str]) -> str:
    """Count states: ``"2 busy, 5 idle"``."""
    return ", ".join(f"{number} {state}" for state, number in sorted(Counter(states).items()))


def _of(shown: int, all_of_them: int) -> str:
    return f"{shown} of {all_of_them}" if shown < all_of_them else ""


def _lines(lines: Sequence[str]) -> Text:
    return Text("\n".join(map(printable, lines)), no_wrap=True, overflow="ellipsis")
