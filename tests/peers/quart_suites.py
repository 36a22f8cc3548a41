"""The test suites of Quart and Quart-Trio: finding them, and running them with an executor in every app."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

DOWNLOAD_TIMEOUT = 60.0
SUITE_TIMEOUT = 240.0
TEST_TIMEOUT = 20
"""Seconds that one test may take. Tests of a version other than the installed one may hang."""


class NotAvailableError(Exception):
    """The suite isn't available. The message says why."""


@dataclasses.dataclass(frozen=True)
class Suite:
    """The test suite of a project.

    Args:
        distribution: The distribution whose installed version is tested.
        variable: The environment variable that names a checkout of the project.
        plugin: The module of the pytest plugin that the tests need.
        ini: The project's pytest settings.
        others: Names of pytest plugins that would also claim the tests.
    """

    distribution: str
    variable: str
    plugin: str
    ini: str
    others: tuple[str, ...]

    def folder(self, into: Path) -> Path:
        """Return the folder that has the suite in `tests`: a checkout, or else the source distribution.

        Raises:
            NotAvailableError: There is no such folder.
        """
        if importlib.util.find_spec(self.plugin) is None:
            raise NotAvailableError(f"{self.distribution}'s tests need {self.plugin}: install the extra `test`")
        checkout = os.environ.get(self.variable)
        folder = Path(checkout).absolute() if checkout else self._source_distribution(into)
        if not (folder / "tests").is_dir():
            raise NotAvailableError(
                f"{folder.name} holds no tests: set {self.variable} to the folder of a checkout of "
                f"{self.distribution} {importlib.metadata.version(self.distribution)}"
            )
        return folder

    def _source_distribution(self, into: Path) -> Path:
        """Download the source distribution of the installed version with pip, and unpack it."""
        wanted = f"{self.distribution}=={importlib.metadata.version(self.distribution)}"
        options = ["--no-binary", ":all:", "--no-deps", "--retries", "0", "--timeout", "10", "--dest", str(into)]
        command = [sys.executable, "-m", "pip", "download", *options, wanted]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise NotAvailableError(f"pip didn't fetch the sources of {wanted} in {DOWNLOAD_TIMEOUT:g} s") from error
        if ended.returncode != 0:
            raise NotAvailableError(f"pip can't fetch the sources of {wanted}: {ended.stderr.strip()[-300:]}")
        with tarfile.open(next(into.glob("*.tar.gz"))) as archive:
            archive.extractall(into, filter="data")
        return next(path for path in into.iterdir() if path.is_dir())

    def run(self, folder: Path, scratch: Path, *, with_executor: bool) -> Outcome:
        """Run the suite in a process of its own, and return the outcome."""
        ini, record = scratch / "pytest.ini", scratch / f"record-{with_executor}.json"
        ini.write_text(f"[pytest]\n{self.ini}\n")
        here = str(Path(__file__).parent)
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        env |= {
            "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
            "PYTHONDONTWRITEBYTECODE": "1",
            "RECORD": str(record),
            "WITH_EXECUTOR": "1" if with_executor else "0",
        }
        command = [sys.executable, "-m", "pytest", "-c", str(ini), f"--rootdir={folder}", f"--timeout={TEST_TIMEOUT}"]
        command += ["-p", "executor_in_every_app", "--continue-on-collection-errors", "-q", "--tb=short"]
        for plugin in ("cacheprovider", *self.others):
            command += ["-p", f"no:{plugin}"]
        ended = subprocess.run(
            [*command, "tests"], cwd=folder, env=env, capture_output=True, text=True, timeout=SUITE_TIMEOUT
        )
        if not record.exists():
            raise AssertionError(f"the suite ended with {ended.returncode}: {ended.stdout}{ended.stderr}")
        return Outcome(**json.loads(record.read_text()), output=ended.stdout)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a run: the tests that passed, and the numbers of apps and tasks that had an executor."""

    passed: list[str]
    apps: int
    tasks: int
    output: str


SUITES = [
    Suite(
        distribution="quart",
        variable="QUART_CHECKOUT",
        plugin="pytest_asyncio",
        ini="asyncio_mode = auto\nasyncio_default_fixture_loop_scope = session\nfilterwarnings = error",
        others=("trio",),
    ),
    Suite(
        distribution="quart-trio",
        variable="QUART_TRIO_CHECKOUT",
        plugin="pytest_trio",
        ini="",
        others=("asyncio",),
    ),
]
