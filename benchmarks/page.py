"""The results in the documentation: a short page whose prose stays, and a page with all tables that is generated."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.harness import ROOT, Report
from benchmarks.tables import Sheet

NAME, TABLES = "benchmarks", "benchmark-tables"
PROSE = ROOT / "docs" / "discussion" / f"{NAME}.md"
MARK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
"""The places of results in the short page: `machine`, `summary` and `losses`."""


def write(folder: Path, record: Mapping[str, Any], reports: Sequence[Report]) -> None:
    """Write both pages, the plots and the JSON file into a folder.

    Args:
        folder: The folder. Its `benchmarks.md` keeps its prose; if there is none, the documentation's is used.
        record: The content of the JSON file; the pages show its `machine` and `plan`.
        reports: The results.
    """
    page = folder / f"{NAME}.md"
    prose = (page if page.exists() else PROSE).read_text(encoding="utf-8")
    results = [result for report in reports for result in report.results]
    machine = record["machine"]
    parts = {
        "machine": ", ".join(machine[name] for name in ("date", "CPU", "system", "python") if name in machine)
        + f"; {machine.get('CPUs', '?')} CPUs. {_extent(record['plan'])}",
        "summary": tables.summary(results).in_markdown(),
        "losses": tables.losses(results).in_markdown(),
    }
    text = MARK.sub(lambda mark: f"{mark[1]}\n{parts[mark[2]]}\n\n{mark[3]}", prose)
    page.write_text(text, encoding="utf-8")
    (folder / f"{TABLES}.md").write_text(_tables(record, reports), encoding="utf-8")
    (folder / f"{NAME}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for plot in (plot for report in reports for plot in report.plots):
        (folder / _file_of(plot.name)).write_text(plot.svg, encoding="utf-8")


def _extent(plan: Mapping[str, Any]) -> str:
    share = f", at {plan['scale']:g} times the full duration, so the figures are rough" if plan["scale"] < 1 else ""
    return f"Rounds: {plan['rounds']}{share}."


def _tables(record: Mapping[str, Any], reports: Sequence[Report]) -> str:
    plan = ", ".join(f"{name} {value}" for name, value in record["plan"].items())
    machine = Sheet("", ("what", "value"), [*record["machine"].items(), ("plan", plan)])
    goals = tables.goals(result for report in reports for result in report.results)
    return f"""# Benchmark tables

Everything that `python -m benchmarks` measured; it also wrote this page. [Benchmarks]({NAME}.md) has the summary.

{machine.in_markdown()}

## {goals.title.capitalize()}

{goals.in_markdown()}

{"".join(map(_section, reports))}"""


def _section(report: Report) -> str:
    plots = "".join(f"![{plot.title}]({_file_of(plot.name)})\n\n{plot.title}.\n\n" for plot in report.plots)
    return f"""## {report.benchmark}

{report.about}

{plots}Measured: {report.circumstances}.

{tables.results(report).in_markdown()}

"""


def _file_of(plot: str) -> str:
    return f"{NAME}-{plot}.svg"
