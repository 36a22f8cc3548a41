"""The results as tables, for the terminal and for a page of the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from benchmarks.harness import Report, Result, number

WORDS = {"what", "against", "arm", "benchmark", "note", "value"}
"""The columns that have no figures."""


@dataclass(frozen=True)
class Sheet:
    """A table of texts. Rows whose first cell is empty go with the one above."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def in_terminal(self) -> Table:
        """Return it for rich to print."""
        table = Table(title=self.title)
        for column in self.columns:
            table.add_column(column, justify="left" if column in WORDS else "right", no_wrap=column != "note")
        for row in self.rows:
            if row[0]:
                table.add_section()
            table.add_row(*({"yes": "[green]yes[/]", "NO": "[red]NO[/]"}.get(cell, escape(cell)) for cell in row))
        return table

    def in_markdown(self) -> str:
        """Return it as Markdown, without the title and the columns that are empty."""
        shown = [place for place, name in enumerate(self.columns) if any(row[place] for row in self.rows)]
        rules = ["---" if self.columns[place] in WORDS else "--:" for place in shown]
        rows = [[row[place].replace("|", "\\|") for place in shown] for row in self.rows]
        lines = [[self.columns[place] for place in shown], rules, *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def results(report: Report) -> Sheet:
    """Tell everything that a benchmark has measured."""
    columns = ("what", "arm", "median", "least to most", "ratio", "of bests", "goal", "reached", "note")
    rows = (
        [
            result.what,
            result.arm,
            f"{number(result.median)} {result.unit}",
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
    """Tell which goals were reached."""
    judged = [result for result in found if result.goal]
    reached = sum(bool(result.reached) for result in judged)
    columns = ("benchmark", "what", "against", "figure", "goal", "reached")
    rows = (
        [result.benchmark, result.what, result.arm, _figure(result), result.goal or "", _yes(result)]
        for result in judged
    )
    return Sheet(f"goals: {reached} of {len(judged)} reached", columns, _grouped(rows))


def losses(found: Iterable[Result]) -> Sheet:
    """Tell where the library is behind what it is compared with."""
    rows = ([each.benchmark, each.what, each.arm, _times(each.ratio)] for each in found if each.is_lost)
    return Sheet("where we lose", ("benchmark", "what", "against", "ratio"), _grouped(rows))


def _grouped(rows: Iterable[list[str]]) -> list[list[str]]:
    """Say what several rows begin with in the first of them only."""
    grouped, said = [], None
    for row in rows:
        grouped.append(["", *row[1:]] if row[0] == said else row)
        said = row[0]
    return grouped


def _figure(result: Result) -> str:
    return f"{number(result.figure)} {result.unit if result.ratio is None else '×'}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{number(ratio)} ×"


def _yes(result: Result) -> str:
    return {None: "", True: "yes", False: "NO"}[result.reached]
