"""Quart's and Quart-Trio's own tests pass with an executor in every app as they pass without."""

from __future__ import annotations

from pathlib import Path

import pytest
from quart_suites import SUITES, NotAvailableError, Suite


@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.distribution)
def test_no_test_passes_only_without_the_executor(suite: Suite, tmp_path: Path) -> None:
    """What passes for the installed version passes with the extension, too; the run says where it can't be seen."""
    try:
        folder = suite.folder(tmp_path)
    except NotAvailableError as error:
        pytest.skip(f"not run: {error}")
    without = suite.run(folder, tmp_path, with_executor=False)
    within = suite.run(folder, tmp_path, with_executor=True)
    lost = sorted({*without.passed} - {*within.passed})
    assert not lost, f"{lost} pass without the executor alone:\n{within.output}"
    assert without.passed
    assert (without.apps, without.tasks) == (0, 0)
    assert within.apps > 0
