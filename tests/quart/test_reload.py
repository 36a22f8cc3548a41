"""Reloads of an app with busy workers leave one set of workers, and no zombie."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from servers import APPS, TIMEOUT, Server, find_port, until

RELOADERS = {
    "app.run": ["reloaded.py"],
    "uvicorn": ["-m", "uvicorn", "--reload", "--reload-delay", "0.05", "--port", "{port}", "reloaded:app"],
}
RELOADS = 2


def zombies_of(pids: set[int]) -> set[int]:
    """Return the zombies among the children of these processes."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] == "Z" and int(fields[1]) in pids:
            found.add(int(stat.parent.name))
    return found


class Reloaded:
    """A server of a copy of the app, whose source can be changed."""

    def __init__(self, kind: str, folder: Path) -> None:
        folder.mkdir()
        self._source = shutil.copy(APPS / "reloaded.py", folder)
        self.server = Server(RELOADERS[kind], find_port(), folder, PYTHONDONTWRITEBYTECODE="1")
        self._runs = 0
        self._size = 0

    def change(self) -> None:
        """Touch the app's source, which triggers a reload."""
        later = os.stat(self._source).st_mtime + 10
        os.utime(self._source, (later, later))

    def check(self) -> None:
        """Assert that the next run has begun, and that nothing is left of the previous one."""
        self._runs += 1
        until(lambda: len(self.server.recorded("worker")) == 2 * self._runs)
        workers = {int(pid) for pid in self.server.recorded("worker")[-2:]}
        self._size = self._size or len(self.server.processes())
        until(lambda: len(self.server.processes()) == self._size)
        assert workers <= self.server.processes()
        until(lambda: not zombies_of(self.server.processes()))
        until(lambda: len(self.server.recorded("serving")) >= self._runs)
        assert len(self.server.recorded("serving")) == self._runs


def test_reload_leaves_one_set_of_workers(tmp_path):
    """The processes of the previous run are gone after a reload; Ctrl-C ends all."""
    reloaded = []
    try:
        for kind in RELOADERS:  # concurrently, to save time
            reloaded.append(Reloaded(kind, tmp_path / kind))
        for _ in range(RELOADS):
            for each in reloaded:
                each.check()
            for each in reloaded:
                each.change()
        for each in reloaded:
            each.check()
            each.server.signal(signal.SIGINT, group=True)
        for each in reloaded:
            each.server.process.wait(TIMEOUT)
            until(lambda server=each.server: not server.processes())
    finally:
        for each in reloaded:
            each.server.kill()
