"""Run a benchmark by its name, or all: `python -m benchmarks dispatch [--quick] [--rounds N] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import page, tables
from benchmarks.harness import Plan, Report
from benchmarks.machine import CpuOfOthers, compile_sources, facts

BENCHMARKS = {
    "calls": "calls",
    "dispatch": "dispatch",
    "map": "mapping",
    "payload": "payload",
    "cold": "cold_start",
    "replacement": "replacement",
    "memory": "memory",
    "lag": "lag",
    "queue": "long_queue",
    "responsiveness": "responsiveness",
    "dashboard": "dashboard",
    "cluster": "cluster",
}
"""The module of each benchmark. It has a function `measure(plan, report)` and a docstring that describes it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables and goals, and write the files that were requested."""
    options = _parser().parse_args(arguments)
    rounds = options.rounds or (3 if options.quick else 7)
    scale = options.scale or (0.25 if options.quick else 1.0)
    plan = Plan(
        rounds, scale, options.spinners, options.size or (100_000 if options.quick else 1_000_000), options.worker_nice
    )
    console = Console()
    if not console.is_terminal:
        console = Console(width=170)  # rich would wrap the lines of a file at 80
    reports = []
    compile_sources()
    names = list(BENCHMARKS) if options.benchmark == "all" else [options.benchmark]
    with _progress(console, names) as begin:
        for name in names:
            reports.append(_measured(name, plan, begin(name)))
            console.print(tables.results(reports[-1]).in_terminal())
            record = _record(plan, reports)
            if options.json:  # after each benchmark, so that an interrupted run leaves results
                options.json.write_text(json.dumps(record, indent=2) + "\n")
            if options.report:
                page.write(options.report, record, reports)
    console.print(tables.goals(result for report in reports for result in report.results).in_terminal())


def _measured(name: str, plan: Plan, on_progress: Callable[[str], None]) -> Report:
    module = import_module(f"benchmarks.{BENCHMARKS[name]}")
    report = Report(name, module.__doc__ or "", on_progress)
    began, others = time.monotonic(), CpuOfOthers()
    module.measure(plan, report)
    report.others = others.share()
    report.circumstances = f"medians of {plan.rounds} rounds; {time.monotonic() - began:.0f} s"
    if report.others is not None:
        report.circumstances += f"; other processes used {report.others:.0%} of the CPUs"
    return report


@contextmanager
def _progress(console: Console, names: Sequence[str]) -> Iterator[Callable[[str], Callable[[str], None]]]:
    """Show a progress bar while the block runs, if the console is a terminal.

    Yields:
        A function to be called with the name of a benchmark that begins. It returns one that shows what is measured.
    """
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    # No automatic refresh: its thread would disturb the measurements in this process.
    progress = Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)
    bar = progress.add_task("", total=len(names))

    def begin(name: str) -> Callable[[str], None]:
        def on_progress(what: str) -> None:
            progress.update(bar, completed=names.index(name), description=f"{name}: {what}", refresh=True)

        on_progress("begins")
        return on_progress

    with progress:
        yield begin


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmark", choices=["all", *BENCHMARKS])
    parser.add_argument("--rounds", type=int, help="how often each arm is measured, in turn (7; with --quick 3)")
    parser.add_argument("--quick", action="store_true", help="measure less, for rough figures")
    parser.add_argument("--scale", type=float, help="multiply seconds and numbers of calls (1; with --quick 0.25)")
    parser.add_argument(
        "--spinners",
        choices=["both", "on", "off"],
        default="both",
        help="measure latencies with the CPUs kept awake, without, or both, each labelled (both)",
    )
    parser.add_argument("--size", type=int, help="how many tasks `queue` has (1,000,000; with --quick 100,000)")
    parser.add_argument(
        "--worker-nice",
        type=_niceness,
        default=10,
        metavar="NICE",
        help="the niceness of our workers (10), 0 to 19; 'idle' runs them under SCHED_IDLE",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file, too")
    parser.add_argument(
        "--report", type=Path, metavar="FOLDER", help=f"write {page.NAME}.md into it, with plots and JSON, too"
    )
    return parser


def _niceness(text: str) -> int | str:
    return text if text == "idle" else int(text)


def _record(plan: Plan, reports: list[Report]) -> dict[str, Any]:
    return {
        "machine": facts(),
        "others": {report.benchmark: report.others for report in reports},
        "plan": vars(plan),
        "results": [record for report in reports for record in report.as_records()],
    }


if __name__ == "__main__":
    main()
