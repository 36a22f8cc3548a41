"""What the bench shows in the terminal: a bar while it measures, then a table and the advice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from executors.bench.results import Findings, Summary
from executors.bench.run import Plan, Watch

COLUMNS = (
    *("HTTP ms\np50", "\np99", "\np99.9", "\nmax"),
    *("lag ms\np50", "\np99", "\nmax", ">50 ms\ns/min"),
    *("calls\n/s", "CPU\ns/s", "CPU ms\n/call"),
)

WIDE = 100
"""From so many columns on the table is given room."""


@contextmanager
def watching(console: Console, plan: Plan) -> Iterator[Watch]:
    """Show how far the run is while the block runs; nothing where there is no terminal.

    Yields:
        What is told which arm is measured next.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description:<24}"), BarColumn(30))
    more = (MofNCompleteColumn(), TextColumn("measured,"), TimeElapsedColumn())
    total = plan.rounds * len(plan.arms)
    progress = Progress(
        *columns, *more, console=console, refresh_per_second=4, transient=True, disable=not console.is_terminal
    )
    bar = progress.add_task("", total=total)
    measured = count()

    def watch(arm: str, number: int) -> None:
        progress.update(bar, completed=next(measured), description=f"{arm}, round {number} of {plan.rounds}")

    with progress:
        yield watch


def show_plan(console: Console, plan: Plan) -> None:
    """Say what is going to be measured."""
    said = f"{plan.target}, {plan.concurrency} calls at a time; {plan.rate:g} requests a second to a Quart app. "
    said += f"Arms: {', '.join(plan.arms)}. Rounds: {plan.rounds} of {plan.seconds:g} s."
    _say(console, said)


def show_findings(console: Console, findings: Findings) -> None:
    """Show the table, what failed, what is doubtful, and the advice."""
    padding = (0, 1, 0, 0) if console.width >= WIDE else 0
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=padding)
    table.add_column("", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for arm in findings.arms:
        table.add_row(arm.arm, *_cells(arm))
    console.print()
    console.print(table)
    worst = max(arm.client_lateness_p99 for arm in findings.arms)
    _say(console, f"The probe itself was late by up to {_ms(worst)} ms (99th percentile).", style="dim")
    for arm in findings.arms:
        if arm.failed:
            _say(console, f"{arm.arm}: {arm.failed} requests had no good answer in time.", style="yellow")
    for failure in findings.failures:
        _say(console, failure, style="red")
    for doubt in findings.doubts:
        _say(console, f"Doubtful: {doubt}.", style="yellow")
    _say(console, f"\nAdvice: {findings.advice}.", style="bold")


def _cells(arm: Summary) -> list[str]:
    times = (arm.http_p50, arm.http_p99, arm.http_p999, arm.http_max, arm.lag_p50, arm.lag_p99, arm.lag_max)
    per_call = "-" if arm.cpu_per_call is None else _ms(arm.cpu_per_call)
    return [*map(_ms, times), number(arm.over_50ms), number(arm.throughput), number(arm.cpu_per_second), per_call]


def _ms(seconds: float) -> str:
    return number(seconds * 1000)


def number(value: float) -> str:
    """Write a number with three digits that count, and none smaller than a hundredth."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, highlight=False)
