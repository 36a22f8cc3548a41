"""The benchmarks' pages: the short one keeps its prose and has a summary, the other one has all tables."""

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


def written(folder: Path, *reports: Report) -> str:
    page.write(folder, RECORD, reports)
    return (folder / "benchmarks.md").read_text()


def test_results_are_written_between_their_marks(tmp_path: Path) -> None:
    """The prose stays; all tables, plots and JSON are beside it; a second time is the same."""
    (tmp_path / "benchmarks.md").write_text(PROSE)
    text = written(tmp_path, report("trips"), report("memory"))
    assert "Prose before." in text
    assert "what was there" not in text
    assert "a|b, 3.13; ? CPUs." in text
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
    assert written(tmp_path, report("trips"), report("memory")) == text


def test_a_new_page_has_the_prose_of_the_documentation(tmp_path: Path) -> None:
    """Its marks are the known ones."""
    text = written(tmp_path, report("trips"))
    assert [mark[2] for mark in page.MARK.finditer(text)] == ["machine", "summary", "losses"]


def test_the_summary_has_the_rows_that_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours beside each peer, or alone; what wasn't measured is left out."""
    rows = {("trips", "trip"): ("peer", "other"), ("trips", "rate"): (OURS,), ("memory", "trip"): ("peer",)}
    monkeypatch.setattr(tables, "SUMMARY", rows)
    assert tables.summary(report("trips").results).rows == [
        ["trip", "4 ms", "peer", "10 ms", "0.4 ×", "≤ 0.5 ×", "yes"],  # noqa: RUF001
        ["rate", "4 /s", "", "", "", "", ""],
    ]


def test_losses_are_against_peers() -> None:
    """More time than a peer is a loss, and so is a lower rate; a twentieth isn't, nor is a floor."""
    rows = tables.losses(report("trips", 10.6).results).rows
    assert rows == [["trips", "trip", "peer", "1.06 ×"]]  # noqa: RUF001
    assert tables.losses(report("trips", 10.4).results).rows == []
    assert tables.losses(report("trips").results).rows == [["trips", "rate", "peer", "0.4 ×"]]  # noqa: RUF001


def test_goals_in_the_terminal() -> None:
    """The title counts them, and a note is printed as it is."""
    output = io.StringIO()
    console = Console(width=150, file=output)
    reports = [report("trips"), report("memory", 6.0)]
    console.print(tables.goals(result for each in reports for result in each.results).in_terminal())
    console.print(tables.results(reports[0]).in_terminal())
    text = output.getvalue()
    assert "goals: 1 of 2 reached" in text
    assert "0.6 ×" in text  # noqa: RUF001
    assert "a [note] | more" in text
