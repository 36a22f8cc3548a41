"""Run a benchmark by its name, or all: `python -m benchmarks dispatch [--quick] [--rounds N] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Plan, Report, Result, number
from benchmarks.machine import CpuOfOthers, compile_sources

BENCHMARKS = ("dispatch", "map", "payload", "cold", "replacement", "memory", "lag", "queue", "cluster")
MODULES = {"map": "mapping", "cold": "cold_start", "queue": "long_queue"}
"""Modules that aren't named as their benchmark."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and the verdicts, and write JSON where asked to."""
    said = _parser().parse_args(arguments)
    rounds = said.rounds or (3 if said.quick else 7)
    scale = said.scale or (0.25 if said.quick else 1.0)
    plan = Plan(rounds, scale, said.spinners, said.size or (100_000 if said.quick else 1_000_000), said.worker_nice)
    console = Console()
    if not console.is_terminal:
        console = Console(width=170)  # a file has no width, and rich would wrap at 80
    reports = []
    compile_sources()
    for name in BENCHMARKS if said.benchmark == "all" else [said.benchmark]:
        report = Report(name)
        began, others = time.monotonic(), CpuOfOthers()
        import_module(f"benchmarks.{MODULES.get(name, name)}").measure(plan, report)
        report.others = others.share()
        console.print(_table(report, rounds, time.monotonic() - began))
        reports.append(report)
        if said.json:  # after each, so that an interrupted run leaves what it has
            said.json.write_text(json.dumps(_record(plan, reports), indent=2) + "\n")
    console.print(_verdicts([result for report in reports for result in report.results]))


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
        type=int,
        default=10,
        help="the niceness of our workers (10): 0, as the peers' have, where the machine can't be had alone",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file, too")
    return parser


def _machine() -> str:
    return f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}"


def _record(plan: Plan, reports: list[Report]) -> dict[str, Any]:
    return {
        "machine": _machine(),
        "others": {report.benchmark: report.others for report in reports},
        "plan": vars(plan),
        "results": [record for report in reports for record in report.as_records()],
    }


def _table(report: Report, rounds: int, seconds: float) -> Table:
    title = f"{report.benchmark} ({_machine()}; medians of {rounds} rounds; {seconds:.0f} s)"
    if report.others is not None:
        title += f"\nother processes had {report.others:.0%} of the CPUs meanwhile"
    table = Table(title=title)
    for column in ("what", "arm", "median", "least to most", "ratio", "of bests", "goal", "reached", "note"):
        table.add_column(
            column, justify="left" if column in {"what", "arm", "note"} else "right", no_wrap=column != "note"
        )
    what = None
    for result in report.results:
        if what not in {None, result.what}:
            table.add_section()
        table.add_row(
            "" if result.what == what else result.what,
            result.arm,
            f"{number(result.median)} {result.unit}",
            f"{number(result.least)} to {number(result.most)}" if result.least != result.most else "",
            f"{number(result.ratio)} ×" if result.ratio is not None else "",
            f"{number(result.ratio_of_bests)} ×" if result.ratio_of_bests is not None else "",
            result.goal or "",
            _yes(result),
            result.note,
        )
        what = result.what
    return table


def _verdicts(results: list[Result]) -> Table:
    judged = [result for result in results if result.goal]
    reached = sum(bool(result.reached) for result in judged)
    table = Table(title=f"goals: {reached} of {len(judged)} reached")
    for column in ("benchmark", "what", "against", "figure", "goal", "reached"):
        table.add_column(column, justify="right" if column in {"figure", "goal", "reached"} else "left")
    for result in judged:
        unit = "×" if result.ratio is not None else result.unit
        figure = f"{number(result.figure)} {unit}"
        table.add_row(result.benchmark, result.what, result.arm, figure, result.goal, _yes(result))
    return table


def _yes(result: Result) -> str:
    return {None: "", True: "[green]yes[/]", False: "[red]NO[/]"}[result.reached]


if __name__ == "__main__":
    main()
