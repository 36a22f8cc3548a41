"""The benchmarks' page: the results are written anew, the prose stays, and what is lost is told."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import page, tables
from benchmarks.harness import OURS, Goal, Report

PROSE = """# Title

<!-- results: machine -->
<!-- end -->

Prose before.

<!-- results: trips -->
what was there
<!-- end -->
<!-- results: goals -->
<!-- end -->
<!-- results: losses -->
<!-- end -->
<!-- results: others -->
<!-- end -->
<!-- results: unmeasured -->
<!-- end -->
"""
RECORD: dict[str, Any] = {
    "machine": {"Python": "3.13", "CPU": "a|b"},
    "plan": {"rounds": 7, "scale": 1.0},
    "results": [],
}


def report(name: str, ours: float = 4.0) -> Report:
    found = Report(name, f"What {name} are.")
    found.circumstances = "medians of 1 rounds; 9 s"
    goals = {"peer": Goal(0.5)}
    found.compare("trip", "ms", {OURS: [ours], "peer": [10.0], "floor": [1.0]}, goals, {"peer": "a [note] | more"})
    found.compare("rate", "/s", {OURS: [ours], "peer": [10.0]})
    found.plot("all", "All trips", "<svg/>")
    return found


def written(folder: Path, *reports: Report) -> str:
    page.write(folder, RECORD, reports)
    return (folder / "benchmarks.md").read_text()


def test_results_are_written_between_their_marks(tmp_path: Path) -> None:
    """Each benchmark's at its own mark or with the others, plots and JSON beside it; a second time is the same."""
    (tmp_path / "benchmarks.md").write_text(PROSE)
    text = written(tmp_path, report("trips"), report("memory"))
    assert "Prose before." in text
    assert "what was there" not in text
    assert "| CPU | a\\|b |" in text
    assert "| plan | rounds 7, scale 1.0 |" in text
    trips = text.partition("<!-- results: trips -->")[2].partition("<!-- end -->")[0]
    assert "![All trips](benchmarks-trips-all.svg)" in trips
    assert "| trip | executors | 4 ms |  |  |  |  |  |\n|  | peer | 10 ms | 0.4 × | 0.4 × |" in trips  # noqa: RUF001
    assert "### trips" not in text
    assert "### memory\n\nWhat memory are.\n\n" in text.partition("<!-- results: others -->")[2]
    assert "Not measured." in text.partition("<!-- results: unmeasured -->")[2]
    assert (tmp_path / "benchmarks-memory-all.svg").read_text() == "<svg/>\n"
    assert json.loads((tmp_path / "benchmarks.json").read_text()) == RECORD
    assert written(tmp_path, report("trips"), report("memory")) == text


def test_a_new_page_has_the_prose_of_our_own(tmp_path: Path) -> None:
    """It tells the machine, the goals, and where we lose, for whatever was measured."""
    text = written(tmp_path, report("trips"))
    for mark in ("machine", "responsiveness", "goals", "losses", "others"):
        assert f"<!-- results: {mark} -->" in text


def test_what_is_lost_is_told() -> None:
    """More time than the other is a loss, and so is less done per second; a twentieth isn't."""
    rows = tables.losses(report("trips").results).rows
    assert [row[1:] for row in rows] == [["trip", "floor", "4 ×"], ["rate", "peer", "0.4 ×"]]  # noqa: RUF001
    assert [row[0] for row in rows] == ["trips", ""]
    assert [row[2] for row in tables.losses(report("trips", 10.4).results).rows] == ["floor"]


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
