"""What the demo shows in the terminal: a bar while it measures, then tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from executors._cpus import available_cpus
from executors.bench.results import percentile

SHOWN_UNSUCCESSFUL = 3

Watch: TypeAlias = Callable[[float, int], None]
"""Is told from time to time how many seconds have passed, and how many files have been examined."""


@dataclass(frozen=True)
class Measured:
    """What was measured while the app was busy.

    Attributes:
        files: How many files were examined.
        seconds: In which time.
        latencies: Seconds that each ping took.
    """

    files: int
    seconds: float
    latencies: list[float]


@dataclass(frozen=True)
class Findings:
    """What the app tells.

    Attributes:
        stats: Its own figures.
        functions: The most complex functions.
        duplicates: The most similar functions.
    """

    stats: dict[str, Any]
    functions: list[dict[str, Any]]
    duplicates: list[dict[str, Any]]


@contextmanager
def watching(console: Console, seconds: float) -> Iterator[Callable[[str], Watch]]:
    """Show a bar for each measurement while the block runs; nothing where there is no terminal.

    Yields:
        What begins a measurement, and returns what to tell its progress.
    """
    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(30),
        TextColumn("{task.completed:4.1f} s {task.fields[files]:5} files"),
    )
    # Drawn only when told to: a thread of its own would disturb the pings that this process times.
    progress = Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)

    def begin(description: str) -> Watch:
        bar = progress.add_task(description, total=seconds, files=0)
        return lambda passed, files: progress.update(bar, completed=passed, files=files, refresh=True)

    with progress:
        yield begin


def show_measured(console: Console, rate: float, in_workers: Measured, in_threads: Measured) -> None:
    """Show both measurements side by side."""
    table = Table(
        "",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        title="The same app and files",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("QuartExecutor:\nin worker processes", justify="right")
    table.add_column("Quart alone:\nin its own threads", justify="right")
    both = (in_workers, in_threads)
    table.add_row("files examined", *(f"{one.files} in {one.seconds:.1f} s" for one in both))
    table.add_row("files per second", *(f"{one.files / one.seconds:.1f}" for one in both), end_section=True)
    for label, percent in (("p50", 50), ("p99", 99), ("max", 100)):
        table.add_row(f"ping {label}", *(f"{percentile(one.latencies, percent) * 1000:.1f} ms" for one in both))
    console.print(table)
    console.print(
        f"{rate} pings a second, each timed from when it was due; all on the same {available_cpus()} CPUs.",
        style="dim",
        highlight=False,
    )


def show_findings(console: Console, findings: Findings) -> None:
    """Show what the app found in the files, and which tasks did it."""
    console.print("\n[bold]The most complex functions[/]")
    for found in findings.functions:
        console.print(f"  complexity {found['complexity']:3}  {_place(found)}", highlight=False, soft_wrap=True)
    for pair in findings.duplicates:
        one, other = map(_place, pair["functions"])
        console.print("[bold]The most similar functions of different files[/]")
        console.print(f"  {pair['similarity']:.0%} alike  {one} and {other}", highlight=False, soft_wrap=True)
    table = Table(
        "backend", "task", box=box.SIMPLE_HEAD, show_edge=False, title="Tasks", title_justify="left", title_style="bold"
    )
    finished = findings.stats["finished"]
    states = sorted({"succeeded", "failed"} | {state for _, _, state, _ in finished}, reverse=True)
    for state in states:
        table.add_column(state, justify="right")
    for name, backend in sorted({(name, backend) for name, backend, _, _ in finished}, key=lambda row: row[::-1]):
        counts = {state: count for *row, state, count in finished if row == [name, backend]}
        table.add_row(backend, name, *(str(counts.get(state, 0)) for state in states))
    console.print()
    console.print(table)
    console.print()


def _place(function: dict[str, Any]) -> str:
    return f"{function['name']} ({function['file']}:{function['line']})"


def show_drain(console: Console, drained: dict[str, Any] | None) -> None:
    """Show what became of the tasks that were in flight when the server was stopped."""
    console.print("\n[bold]SIGTERM: the drain report[/]")
    if drained is None:
        console.print("  There is none: the server had to be killed.")
        return
    unsuccessful = drained["unsuccessful"]
    lines = [drained["summary"], *unsuccessful[:SHOWN_UNSUCCESSFUL]]
    if len(unsuccessful) > SHOWN_UNSUCCESSFUL:
        lines.append(f"and {len(unsuccessful) - SHOWN_UNSUCCESSFUL} more")
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
