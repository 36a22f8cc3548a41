"""The results as tables, for the terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from benchmarks import peers
from benchmarks.floor import FLOOR
from benchmarks.harness import OURS, Report, Result, number

TEXT_COLUMNS = {"what", "against", "arm", "benchmark", "note", "value", "measured"}
"""The columns without figures, which are aligned to the left."""

SUMMARY: dict[tuple[str, str], tuple[str, ...]] = {
    ("responsiveness", "4 computing: HTTP p99"): ("idle", "Quart's threads", peers.PROCESS_POOL),
    ("responsiveness", "4 computing: loop lag p99"): ("idle", "Quart's threads"),
    ("responsiveness", "4 computing: calls"): (peers.PROCESS_POOL,),
    ("dispatch", "process, asyncio: round trip p50, CPUs awake"): (peers.PROCESS_POOL, peers.ANYIO, FLOOR),
    ("dispatch", "process, asyncio: 64 in flight"): (peers.PROCESS_POOL, peers.ANYIO),
    ("dispatch", "process, trio: round trip p50, CPUs awake"): (peers.ANYIO,),
    ("dispatch", "thread, asyncio: round trip p50, CPUs awake"): (peers.TO_THREAD,),
    ("dispatch", "thread, asyncio: 64 in flight"): (peers.TO_THREAD,),
    ("dispatch", "coroutine, asyncio: batch"): ("create_task",),
    ("payload", "array of 1 MB and back, CPUs awake"): (peers.PROCESS_POOL,),
    ("cold", "first result: a plain function"): (peers.PROCESS_POOL, peers.ANYIO),
    ("memory", "PSS of an idle worker"): (OURS,),
}
"""The rows of the summary, with the arms that ours is compared with; ours if there is none."""

FLOORS = {FLOOR, "create_task", "one memcpy", "python -c pass", "python -c 'import …'", "idle", "idle, CPUs awake"}
"""Arms that do less than any library could; being slower than these is no loss."""


@dataclass(frozen=True)
class Sheet:
    """A table of strings. A row whose first cell is empty belongs to the one above."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def in_terminal(self) -> Table:
        """Return the table for rich to print."""
        table = Table(title=self.title)
        for column in self.columns:
            table.add_column(column, justify="left" if column in TEXT_COLUMNS else "right", no_wrap=column != "note")
        for row in self.rows:
            if row[0]:
                table.add_section()
            table.add_row(*({"yes": "[green]yes[/]", "NO": "[red]NO[/]"}.get(cell, escape(cell)) for cell in row))
        return table

    def in_markdown(self) -> str:
        """Return the table as Markdown, without the title and without empty columns."""
        shown = [place for place, name in enumerate(self.columns) if any(row[place] for row in self.rows)]
        rules = ["---" if self.columns[place] in TEXT_COLUMNS else "--:" for place in shown]
        rows = [[row[place].replace("|", "\\|") for place in shown] for row in self.rows]
        lines = [[self.columns[place] for place in shown], rules, *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def results(report: Report) -> Sheet:
    """Return all results of a benchmark."""
    columns = ("what", "arm", "median", "min to max", "ratio", "of bests", "goal", "reached", "note")
    rows = (
        [
            result.what,
            result.arm,
            _median(result),
            f"{number(result.least)} to {number(result.most)}" if result.least != result.most else "",
            _times(result.ratio),
            _times(result.ratio_of_bests),
            result.goal or "",
            _yes(result),
            result.note,
        ]
        for result in report.results
    )
    return Sheet(f"{report.benchmark} ({report.circumstances})", columns, _grouped(rows))


def goals(found: Iterable[Result]) -> Sheet:
    """Return the results that have a goal."""
    judged = [result for result in found if result.goal]
    reached = sum(bool(result.reached) for result in judged)
    columns = ("benchmark", "what", "against", "figure", "goal", "reached")
    rows = (
        [result.benchmark, result.what, result.arm, _figure(result), result.goal or "", _yes(result)]
        for result in judged
    )
    return Sheet(f"goals: {reached} of {len(judged)} reached", columns, _grouped(rows))


def summary(found: Iterable[Result]) -> Sheet:
    """Return the results that matter most, in one screen."""
    measured = {(result.benchmark, result.what, result.arm): result for result in found if result.median is not None}
    rows = []
    for (benchmark, what), arms in SUMMARY.items():
        ours = measured.get((benchmark, what, OURS))
        for arm in arms if ours else ():
            if other := measured.get((benchmark, what, arm)):
                compared = ["", "", ""] if arm == OURS else [arm, _median(other), _times(other.ratio)]
                rows.append([what, _median(ours), *compared, other.goal or "", _yes(other)])
    columns = ("measured", OURS, "against", "its figure", "ratio", "goal", "reached")
    return Sheet("summary", columns, _grouped(rows, 2))


def losses(found: Iterable[Result]) -> Sheet:
    """Return the results in which the library is behind a peer."""
    lost = (result for result in found if result.is_lost and result.arm not in FLOORS and "queued" not in result.arm)
    rows = ([each.benchmark, each.what, each.arm, _times(each.ratio)] for each in lost)
    return Sheet("where we lose", ("benchmark", "what", "against", "ratio"), _grouped(rows))


def _grouped(rows: Iterable[list[str]], columns: int = 1) -> list[list[str]]:
    """Leave the first columns empty where they repeat those of the row above."""
    grouped, last = [], None
    for row in rows:
        grouped.append([""] * columns + row[columns:] if row[:columns] == last else row)
        last = row[:columns]
    return grouped


def _median(result: Result) -> str:
    return f"{number(result.median)} {result.unit}"


def _figure(result: Result) -> str:
    return f"{number(result.figure)} {result.unit if result.ratio is None else '×'}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{number(ratio)} ×"


def _yes(result: Result) -> str:
    return {None: "", True: "yes", False: "NO"}[result.reached]
