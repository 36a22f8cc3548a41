"""An app whose module configures logging, as Quart documents; worker processes import the module, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import executors

CONFIGURED = """
import asyncio, logging.config, sys
from quart import Quart
from executors import cpu_bound
from executors.quart import QuartExecutor

logging.config.dictConfig({
    "version": 1,
    "formatters": {"marked": {"format": "%(processName)s: %(message)s"}},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "log", "delay": True, "formatter": "marked"}},
    "root": {"handlers": ["file"]},
    "loggers": {"apart": {"handlers": ["file"], "propagate": False}},
})
app = Quart(__name__)
executor = QuartExecutor(app)

@cpu_bound
def log():
    logging.getLogger("any").warning("from the root")
    logging.getLogger("apart").warning("from apart")

async def main(preload):
    app.config.update(EXECUTOR_PROCESSES=1, EXECUTOR_WORKER_PRELOAD=preload == "True")
    async with app.test_app():
        await executor.run(log)

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
"""
STARTER = """
import asyncio, sys, configured

if __name__ == "__main__":
    asyncio.run(configured.main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(("script", "preload"), [("configured.py", True), ("starter.py", False)])
def test_worker_records_are_written_once(tmp_path, script, preload):
    """The log records of workers are sent to the server's logging, and written once."""
    (tmp_path / "configured.py").write_text(CONFIGURED)
    (tmp_path / "starter.py").write_text(STARTER)
    environment = {**os.environ, "PYTHONPATH": str(Path(executors.__file__).parents[1])}
    subprocess.run([sys.executable, script, str(preload)], cwd=tmp_path, env=environment, check=True, timeout=30)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.partition("-")[0] for line in lines] == ["worker", "worker"]
    assert [line.partition(": ")[2] for line in lines] == ["from the root", "from apart"]
