"""Ten reloads of an app with busy workers leave one set of workers, and no zombie."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from servers import APPS, PATIENCE, Server, until

RELOADERS = {
    "app.run": ["reloaded.py"],
    "uvicorn": ["-m", "uvicorn", "--reload", "--reload-delay", "0.05", "--port", "{port}", "reloaded:app"],
}
RELOADS = 10


def zombies_of(pids: set[int]) -> set[int]:
    """Return the processes that have ended, and that none of these, which are their parents, has waited for."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] == "Z" and int(fields[1]) in pids:
            found.add(int(stat.parent.name))
    return found


@pytest.mark.timeout(180)  # app.run looks at its files once a second
@pytest.mark.parametrize("kind", RELOADERS)
def test_ten_reloads(kind, free_port, tmp_path):
    """What an earlier run of the app has started is gone as soon as the next one serves; Ctrl-C ends all."""
    source = tmp_path / "reloaded.py"
    shutil.copy(APPS / "reloaded.py", source)
    server = Server(RELOADERS[kind], free_port, tmp_path, PYTHONDONTWRITEBYTECODE="1")
    try:
        count = None
        for number in range(RELOADS + 1):
            until(lambda number=number: len(server.recorded("worker")) == 2 * (number + 1))
            workers = {int(line.split()[1]) for line in server.recorded("worker")[-2:]}
            assert len(server.recorded("serving")) == number + 1
            assert workers <= server.processes()
            count = count or len(server.processes())
            until(lambda count=count: len(server.processes()) == count)
            assert not zombies_of(server.processes())
            if number < RELOADS:
                os.utime(source, (stamp := source.stat().st_mtime + 10, stamp))
        server.signal(signal.SIGINT, group=True)
        server.process.wait(PATIENCE)
        until(lambda: not server.processes())
    finally:
        server.kill()
