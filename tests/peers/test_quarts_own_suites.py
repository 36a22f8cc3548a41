"""The test suites of Quart and Quart-Trio pass with an executor in every app."""

from __future__ import annotations

from pathlib import Path

import pytest
from quart_suites import SUITES, NotAvailableError, Suite


@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.distribution)
def test_no_test_passes_only_without_the_executor(suite: Suite, tmp_path: Path) -> None:
    """Every test that passes without the extension passes with it. Skipped if a suite isn't available."""
    try:
        folder = suite.folder(tmp_path)
    except NotAvailableError as error:
        pytest.skip(f"not run: {error}")
    without_executor = suite.run(folder, tmp_path, with_executor=False)
    with_executor = suite.run(folder, tmp_path, with_executor=True)
    lost = sorted({*without_executor.passed} - {*with_executor.passed})
    assert not lost, f"{lost} pass only without the executor:\n{with_executor.output}"
    assert without_executor.passed
    assert (without_executor.apps, without_executor.tasks) == (0, 0)
    assert with_executor.apps > 0
