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
    "cluster": "cluster",
}
"""Each benchmark's module, which has a function `measure(plan, report)`, and whose docstring says what it measures."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and the verdicts, and write JSON and a page where asked to."""
    said = _parser().parse_args(arguments)
    rounds = said.rounds or (3 if said.quick else 7)
    scale = said.scale or (0.25 if said.quick else 1.0)
    plan = Plan(rounds, scale, said.spinners, said.size or (100_000 if said.quick else 1_000_000), said.worker_nice)
    console = Console()
    if not console.is_terminal:
        console = Console(width=170)  # a file has no width, and rich would wrap at 80
    reports = []
    compile_sources()
    names = list(BENCHMARKS) if said.benchmark == "all" else [said.benchmark]
    with _progress(console, names) as begin:
        for name in names:
            reports.append(_measured(name, plan, begin(name)))
            console.print(tables.results(reports[-1]).in_terminal())
            record = _record(plan, reports)
            if said.json:  # after each, so that an interrupted run leaves what it has
                said.json.write_text(json.dumps(record, indent=2) + "\n")
            if said.report:
                page.write(said.report, record, reports)
    console.print(tables.goals(result for report in reports for result in report.results).in_terminal())


def _measured(name: str, plan: Plan, watch: Callable[[str], None]) -> Report:
    module = import_module(f"benchmarks.{BENCHMARKS[name]}")
    report = Report(name, module.__doc__ or "", watch)
    began, others = time.monotonic(), CpuOfOthers()
    module.measure(plan, report)
    report.others = others.share()
    report.circumstances = f"medians of {plan.rounds} rounds; {time.monotonic() - began:.0f} s"
    if report.others is not None:
        report.circumstances += f"; other processes had {report.others:.0%} of the CPUs meanwhile"
    return report


@contextmanager
def _progress(console: Console, names: Sequence[str]) -> Iterator[Callable[[str], Callable[[str], None]]]:
    """Show how far the run is; nothing where there is no terminal.

    Yields:
        What is told each benchmark when it begins, and returns what is told what it is about.
    """
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    # Drawn only when told to: a thread of its own would disturb what this process measures.
    progress = Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)
    bar = progress.add_task("", total=len(names))

    def begin(name: str) -> Callable[[str], None]:
        def watch(what: str) -> None:
            progress.update(bar, completed=names.index(name), description=f"{name}: {what}", refresh=True)

        watch("begins")
        return watch

    with progress:
        yield begin


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmark", choices=["all", *BENCHMARKS])
    parser.add_argument("--rounds", type=int, help="how often each arm is measured, in turn (7; with --quick 3)")
    parser.add_argument("--quick", action="store_true", help="measure less: to see that it works, and rough figures")
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
