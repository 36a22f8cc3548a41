"""`executors bench`: check the arguments, run the bench, and show the findings in the terminal."""

from __future__ import annotations

import asyncio
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from executors._callables import is_coroutine_function
from executors.bench.arms import arms_for
from executors.bench.results import Findings, Summary
from executors.bench.run import BenchError, OnProgress, Plan, run
from executors.bench.target import TargetError, check_arguments, find_app, find_function
from executors.errors import ExecutorError

COLUMNS = (
    *("HTTP ms\np50", "\np99", "\np99.9", "\nmax"),
    *("lag ms\np50", "\np99", "\nmax", ">50 ms\ns/min"),
    *("calls\n/s", "CPU\ns/s", "CPU ms\n/call"),
)

MIN_PADDED_WIDTH = 100
"""Terminals with fewer columns show the table without padding."""


def main(arguments: Namespace) -> int:
    """Run the bench.

    Returns:
        The exit status: 0, 1 if it failed, 130 if it was interrupted.
    """
    console = Console()
    try:
        plan = plan_of(arguments)
        show_plan(console, plan)
        findings = asyncio.run(_run(console, plan))
        show_findings(console, findings)
        write_files(findings, arguments.json, arguments.html)
    except (TargetError, BenchError, ExecutorError, OSError) as error:
        sys.stderr.write(f"executors bench: {error}\n")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Interrupted; everything is stopped.")
        return 130
    return 0


def plan_of(arguments: Namespace) -> Plan:
    """Return the plan that the command line describes, after checking function and arguments.

    Raises:
        TargetError: Something that is named doesn't exist or can't be used.
    """
    function = find_function(arguments.target)
    check_arguments(function, arguments.args, arguments.kwargs)
    is_coroutine = is_coroutine_function(function)
    names = ("target", "args", "kwargs", "app", "concurrency", "rate", "seconds", "rounds")
    app = find_app(arguments.app) if arguments.app else None
    return Plan(
        **{name: getattr(arguments, name) for name in names},
        arms=arms_for(arguments.backends, app, is_coroutine=is_coroutine),
        is_coroutine=is_coroutine,
    )


async def _run(console: Console, plan: Plan) -> Findings:
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):  # on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with progress_bar(console, plan) as on_progress:
        return await run(plan, on_progress)


def write_files(findings: Findings, json: Path | None, html: Path | None) -> None:
    """Write the files that were requested."""
    if json is not None:
        json.write_text(findings.to_json() + "\n")
    if html is not None:
        from executors.bench.page import write  # noqa: PLC0415  (rarely needed, and imports Jinja2)

        write(findings, html)


# --- in the terminal --------------------------------------------------------------------------------------------------


@contextmanager
def progress_bar(console: Console, plan: Plan) -> Iterator[OnProgress]:
    """Show a progress bar while the block runs, if the console is a terminal; yield what updates it."""
    columns = (SpinnerColumn(), TextColumn("{task.description:<24}"), BarColumn(30))
    more = (MofNCompleteColumn(), TextColumn("measured,"), TimeElapsedColumn())
    progress = Progress(
        *columns, *more, console=console, refresh_per_second=4, transient=True, disable=not console.is_terminal
    )
    bar = progress.add_task("", total=plan.rounds * len(plan.arms))
    measured = count()

    def on_progress(arm: str, number: int) -> None:
        progress.update(bar, completed=next(measured), description=f"{arm}, round {number} of {plan.rounds}")

    with progress:
        yield on_progress


def show_plan(console: Console, plan: Plan) -> None:
    """Print what is going to be measured."""
    _print(
        console,
        f"{plan.target}, {plan.concurrency} calls at a time; {plan.rate:g} requests a second to a Quart app. "
        f"Arms: {', '.join(plan.arms)}. Rounds: {plan.rounds} of {plan.seconds:g} s.",
    )


def show_findings(console: Console, findings: Findings) -> None:
    """Print the table, the failures, the doubts and the advice."""
    padding = (0, 1, 0, 0) if console.width >= MIN_PADDED_WIDTH else 0
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=padding)
    table.add_column("", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for arm in findings.arms:
        table.add_row(arm.arm, *_cells(arm))
    console.print()
    console.print(table)
    worst = max(arm.client_lateness_p99 for arm in findings.arms)
    _print(console, f"The probe itself was late by up to {_ms(worst)} ms (99th percentile).", style="dim")
    for arm in findings.arms:
        if arm.failed:
            _print(console, f"{arm.arm}: {arm.failed} requests had no good answer in time.", style="yellow")
    for failure in findings.failures:
        _print(console, failure, style="red")
    for doubt in findings.doubts:
        _print(console, f"Doubtful: {doubt}.", style="yellow")
    _print(console, f"\nAdvice: {findings.advice}.", style="bold")


def _cells(arm: Summary) -> list[str]:
    times = (arm.http_p50, arm.http_p99, arm.http_p999, arm.http_max, arm.lag_p50, arm.lag_p99, arm.lag_max)
    per_call = "-" if arm.cpu_per_call is None else _ms(arm.cpu_per_call)
    return [*map(_ms, times), *map(_number, (arm.over_50ms, arm.throughput, arm.cpu_per_second)), per_call]


def _ms(seconds: float) -> str:
    return _number(seconds * 1000)


def _number(value: float) -> str:
    """Format a number with three significant digits, at most two of them decimals."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, highlight=False)
