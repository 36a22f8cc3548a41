"""The results as a page of the documentation: tables, plots and JSON are written anew, the prose around them stays."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.harness import ROOT, Report
from benchmarks.tables import Sheet

NAME = "benchmarks"
PROSE = ROOT / "docs" / "discussion" / f"{NAME}.md"
MARK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
"""Where results stand on the page. Its word is `machine`, `goals`, `losses`, a benchmark's name, or `others`."""


def write(folder: Path, record: Mapping[str, Any], reports: Sequence[Report]) -> None:
    """Write the page, its plots and its JSON into a folder; the prose is that of the page there, else of our own.

    Args:
        folder: Where they belong.
        record: What is written as JSON; its `machine` and `plan` are told on the page.
        reports: What was measured.
    """
    page = folder / f"{NAME}.md"
    prose = (page if page.exists() else PROSE).read_text(encoding="utf-8")
    parts = _parts(record, reports, {mark[2] for mark in MARK.finditer(prose)})
    text = MARK.sub(lambda mark: f"{mark[1]}\n{parts.get(mark[2], 'Not measured.')}\n\n{mark[3]}", prose)
    page.write_text(text, encoding="utf-8")
    (folder / f"{NAME}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for plot in (plot for report in reports for plot in report.plots):
        (folder / _file_of(plot.name)).write_text(plot.svg + "\n", encoding="utf-8")


def _parts(record: Mapping[str, Any], reports: Sequence[Report], marks: set[str]) -> dict[str, str]:
    """Return what stands at each mark."""
    plan = ", ".join(f"{name} {value}" for name, value in record["plan"].items())
    results = [result for report in reports for result in report.results]
    parts = {
        "machine": Sheet("", ("what", "value"), [*record["machine"].items(), ("plan", plan)]).in_markdown(),
        "goals": tables.goals(results).in_markdown(),
        "losses": tables.losses(results).in_markdown(),
        "others": "\n\n".join(_section(report) for report in reports if report.benchmark not in marks),
    }
    return parts | {report.benchmark: _body(report) for report in reports}


def _section(report: Report) -> str:
    return f"### {report.benchmark}\n\n{report.about}\n\n{_body(report)}"


def _body(report: Report) -> str:
    plots = [f"![{plot.title}]({_file_of(plot.name)})\n\n{plot.title}." for plot in report.plots]
    return "\n\n".join([*plots, f"Measured: {report.circumstances}.", tables.results(report).in_markdown()])


def _file_of(plot: str) -> str:
    return f"{NAME}-{plot}.svg"
