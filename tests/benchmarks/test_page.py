"""The pages of the benchmarks: the short one keeps its prose and has a summary, the other has all tables."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import page, tables
from benchmarks.harness import OURS, Goal, Report

PROSE = """# Title

<!-- results: machine -->
<!-- end -->

Prose before.

<!-- results: summary -->
what was there
<!-- end -->
<!-- results: losses -->
<!-- end -->
"""
RECORD: dict[str, Any] = {
    "machine": {"python": "3.13", "CPU": "a|b"},
    "plan": {"rounds": 7, "scale": 1.0},
    "results": [],
}


def report(name: str, ours: float = 4.0) -> Report:
    found = Report(name, f"What {name} are.")
    found.circumstances = "medians of 1 rounds; 9 s"
    goals = {"peer": Goal(0.5)}
    arms = {OURS: [ours], "peer": [10.0], "create_task": [1.0]}
    found.compare("trip", "ms", arms, goals, {"peer": "a [note] | more"})
    found.compare("rate", "/s", {OURS: [ours], "peer": [10.0]})
    found.plot("all", "All trips", "<svg/>")
    return found


def write_page(folder: Path, *reports: Report) -> str:
    page.write(folder, RECORD, reports)
    return (folder / "benchmarks.md").read_text()


def test_results_are_written_between_the_marks(tmp_path: Path) -> None:
    """The prose is kept, tables, plots and JSON are written beside it, and writing again changes nothing."""
    (tmp_path / "benchmarks.md").write_text(PROSE)
    text = write_page(tmp_path, report("trips"), report("memory"))
    assert "Prose before." in text
    assert "what was there" not in text
    assert "a|b, 3.13; ? CPUs. Rounds: 7.\n" in text
    assert "| trips | rate | peer | 0.4 × |" in text  # noqa: RUF001
    all_tables = (tmp_path / "benchmark-tables.md").read_text()
    assert "| CPU | a\\|b |" in all_tables
    assert "| plan | rounds 7, scale 1.0 |" in all_tables
    trips = all_tables.partition("## trips\n\nWhat trips are.\n\n")[2].partition("## memory\n\nWhat memory are.\n\n")[0]
    assert "![All trips](benchmarks-trips-all.svg)" in trips
    row = "| trip | executors | 4 ms |  |  |  |  |  |\n|  | peer | 10 ms | 0.4 × | 0.4 × |"  # noqa: RUF001
    assert row in trips
    assert (tmp_path / "benchmarks-memory-all.svg").read_text() == "<svg/>"
    assert json.loads((tmp_path / "benchmarks.json").read_text()) == RECORD
    assert write_page(tmp_path, report("trips"), report("memory")) == text


def test_a_rough_run_says_so(tmp_path: Path) -> None:
    """The short page has the number of rounds, and names a run that measured for less than the full time."""
    page.write(tmp_path, {**RECORD, "plan": {"rounds": 3, "scale": 0.25}}, [report("trips")])
    text = (tmp_path / "benchmarks.md").read_text()
    assert "Rounds: 3, at 0.25 times the full duration, so the figures are rough." in text


def test_new_page_has_the_prose_of_the_documentation(tmp_path: Path) -> None:
    """A new page has the documentation's prose, with all known marks."""
    text = write_page(tmp_path, report("trips"))
    assert [mark[2] for mark in page.MARK.finditer(text)] == ["machine", "summary", "losses"]


def test_summary_has_the_measured_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the summary compares ours with a peer, or stands alone; what wasn't measured is left out."""
    rows = {("trips", "trip"): ("peer", "other"), ("trips", "rate"): (OURS,), ("memory", "trip"): ("peer",)}
    monkeypatch.setattr(tables, "SUMMARY", rows)
    assert tables.summary(report("trips").results).rows == [
        ["trip", "4 ms", "peer", "10 ms", "0.4 ×", "≤ 0.5 ×", "yes"],  # noqa: RUF001
        ["rate", "4 /s", "", "", "", "", ""],
    ]


def test_losses() -> None:
    """More time or a lower rate than a peer's is a loss; a difference below 5% or to a floor isn't."""
    rows = tables.losses(report("trips", 10.6).results).rows
    assert rows == [["trips", "trip", "peer", "1.06 ×"]]  # noqa: RUF001
    assert tables.losses(report("trips", 10.4).results).rows == []
    assert tables.losses(report("trips").results).rows == [["trips", "rate", "peer", "0.4 ×"]]  # noqa: RUF001


def test_tables_in_the_terminal() -> None:
    """The title counts the goals, and notes are printed verbatim."""
    output = io.StringIO()
    console = Console(width=150, file=output)
    reports = [report("trips"), report("memory", 6.0)]
    console.print(tables.goals(result for each in reports for result in each.results).in_terminal())
    console.print(tables.results(reports[0]).in_terminal())
    text = output.getvalue()
    assert "goals: 1 of 2 reached" in text
    assert "0.6 ×" in text  # noqa: RUF001
    assert "a [note] | more" in text
