"""The job page that the tutorial ends with, under two server processes: each request may reach either of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest
from servers import TIMEOUT, Server, find_port, until

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorials" / "first-tasks.md"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The tutorial's last `app.py`, served by Hypercorn with two server processes."""
    folder = tmp_path_factory.mktemp("tutorial")
    *_, last = TUTORIAL.read_text().split("```python\n# app.py\n")
    (folder / "app.py").write_text(last.partition("```")[0])
    command = ["-m", "hypercorn", "-b", "127.0.0.1:{port}", "-w", "2", "of_tutorial:app"]
    server = Server(command, find_port(), folder)
    try:
        yield server
    finally:
        server.kill()


class Visitor:
    """Somebody with a session of their own. Each request is on a new connection."""

    def __init__(self, server: Server) -> None:
        self._address = f"http://127.0.0.1:{server.port}"
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def request(self, path: str, method: str = "GET") -> tuple[int, str, str]:
        """Return the status, the body, and which server process responded."""
        try:
            response = self._opener.open(urllib.request.Request(self._address + path, method=method), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return response.status, response.read().decode(), response.headers["Server-Process"]

    def get(self, path: str) -> tuple[str, str]:
        """Return the body of a page that exists, and which server process responded."""
        for _ in range(2):  # the first time, a busy machine may take too long to record the job
            status, body, process = self.request(path)
            if status == 200:
                return body, process
        raise AssertionError(f"{path} has status {status}")


def fractions(stream: str) -> list[float]:
    """Return the progress of a job that has succeeded, from its events."""
    lines = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [event["state"] for event in events][-1] == "succeeded"
    return [event["progress"]["fraction"] for event in events if event["progress"]]


def test_each_request_may_reach_either_process(server: Server) -> None:
    """The page, its progress and the result are those of the job, from its own server process and from the other."""
    seen = set()

    def follow_a_job() -> bool:
        visitor = Visitor(server)
        status, body, owner = visitor.request("/jobs/9000", "POST")
        assert status == 202
        page = f"/jobs/{json.loads(body)['job']}"
        assert "EventSource" in visitor.get(page)[0]
        stream, process = visitor.get(f"{page}/events")
        shown = fractions(stream)
        assert shown == sorted(shown)
        assert shown[-1] == 1
        if any(0 < fraction < 1 for fraction in shown):
            seen.add(("progress", owner == process))
        body, process = visitor.get(f"{page}/result")
        assert json.loads(body) == {"primes": 1117}
        seen.add(("result", owner == process))
        for path in (page, f"{page}/events", f"{page}/result"):
            assert Visitor(server).request(path)[0] == 404
        return len(seen) == 4

    until(follow_a_job)
    assert "Traceback" not in server.output


if BROWSER is not None:  # optional: the suite also runs without a browser

    def test_in_a_browser(server: Server, tmp_path: Path) -> None:
        """The button starts a job, and its page shows a growing bar, and then the result."""
        assert BROWSER is not None
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
        flags += ("--disable-component-update", "--disable-sync", "--disable-quic", "--remote-debugging-port=0")
        command = [BROWSER, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"http://127.0.0.1:{server.port}/watch"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
        try:
            (shown,) = until(lambda: server.recorded("seen"))
        finally:
            browser.terminate()
            browser.wait(TIMEOUT)
        shown = json.loads(shown)
        assert shown[-1] == [1, "2262 primes"]
        bars = [value for value, _ in shown]
        assert bars == sorted(bars)
        assert len({value for value in bars if 0 < value < 1}) >= 3
