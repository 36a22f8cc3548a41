"""The pages in a real browser: live, harmless, accessible, at the width of a window and of a phone, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from browser import BROWSER, Browser, Tab, browsing
from servers import Server
from watching import HYPERCORN, asking, serving

LOOKS = [(1280, False), (375, True)]
ALL_LOOKS = [*LOOKS, (1280, True), (375, False)]

AXE = """axe.run({resultTypes: ["violations"]}).then(found => found.violations
  .filter(one => one.impact === "serious" || one.impact === "critical")
  .map(one => [one.id, one.nodes.map(node => [node.target.join(" "), node.failureSummary])]))"""

BLANK = """(() => {
  const canvas = document.getElementById("timeline"), pen = canvas.getContext("2d")
  const colors = new Set(new Uint32Array(pen.getImageData(0, 0, canvas.width, canvas.height).data.buffer))
  return colors.size < 4
})()"""

IS_LIVE = "document.getElementById('connection').dataset.state === 'live'"


@pytest.fixture
def server(tmp_path: Path, control_dir: str) -> Iterator[Server]:
    with serving(HYPERCORN, tmp_path, control_dir) as server:
        yield server


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with browsing(tmp_path / "profile") as browser:
        yield browser


def check_looks(browser: Browser, url: str, ready: str, looks: list[tuple[int, bool]]) -> None:
    """Assert that a page causes no errors, and that axe-core finds no serious faults in it, at any width."""
    tab = Tab(browser)
    tab.open(url)
    tab.until(ready)
    tab.evaluate((files("axe_core_python") / "axe.min.js").read_text() + ";0")
    for width, dark in looks:
        tab.look(width, dark=dark)
        assert tab.evaluate(AXE) == [], (width, dark)
        assert tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0, width
    assert tab.problems() == []
    tab.close()


if BROWSER is not None:  # optional: the suite also runs without a browser

    @pytest.mark.timeout(180)
    def test_pages(server: Server, browser: Browser) -> None:
        """Empty and busy pages and those of tasks are accessible; the busy one is live; a task can be cancelled."""
        home = f"http://127.0.0.1:{server.port}/executors/"
        check_looks(browser, home, IS_LIVE, LOOKS)
        task_ids = [server.request("/start").split()[0] for _ in range(6)]
        rows = "document.querySelectorAll('#{} tbody tr').length"
        busy = f"{rows.format('active')} > 5 && {rows.format('functions')} > 0"
        check_looks(browser, home, f"{IS_LIVE} && {busy}", ALL_LOOKS)
        failed = "document.querySelector('[data-state=failed]')?.closest('tr').querySelector('a').href"
        tab = Tab(browser)
        tab.open(home)
        tab.until(f"{IS_LIVE} && {busy}")
        for url in (f"{home}tasks/{task_ids[0]}", tab.until(failed)):
            check_looks(browser, url, "document.querySelector('.state') !== null", LOOKS)
        check_live(tab)
        check_task(tab, server, home, task_ids)
        assert tab.problems() == []
        assert all(url.startswith(home) for url in tab.requested() if not url.startswith("about:"))

    def check_live(tab: Tab) -> None:
        """Assert that the page shows what happens, as text, and that a hidden tab has no stream."""
        assert tab.text("#app") == "shop"
        assert "2 server processes" in tab.text("#processes")
        assert {"loop", "running", "queued"} <= set(tab.text("#backends").split())
        assert tab.evaluate("document.querySelectorAll('#loops tbody tr').length") == 2
        assert not tab.evaluate(BLANK)
        assert "<img src=x onerror=window.hacked=1>" in tab.text("#active")
        assert tab.evaluate("window.hacked === undefined && !document.querySelector('img')")
        assert "ValueError: <b>could not</b> convert" in tab.text("main")
        before = tab.until("document.querySelector('#active progress')?.value")
        tab.until(f"document.querySelector('#active progress').value > {before}")
        assert "secret" not in tab.evaluate("document.documentElement.outerHTML")
        hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true})"
        tab.evaluate(f"{hide % 'true'}; document.dispatchEvent(new Event('visibilitychange'))")
        assert tab.text("#connection") == "Paused"
        number = tab.requested().count
        streams = number(tab.evaluate("new URL('events', location).href"))
        tab.evaluate("new Promise(resolve => setTimeout(resolve, 2500))")
        assert tab.text("#connection") == "Paused"
        assert number(tab.evaluate("new URL('events', location).href")) == streams
        tab.evaluate(f"{hide % 'false'}; document.dispatchEvent(new Event('visibilitychange'))")
        tab.until(IS_LIVE)

    def check_task(tab: Tab, server: Server, home: str, task_ids: list[str]) -> None:
        """Assert that a task's page has its stack, and a button that cancels the task."""
        tab.open(f"{home}tasks/{task_ids[0]}")
        assert tab.text("h1") == "<img src=x onerror=window.hacked=1>"
        assert "watched.py" in tab.text("#stack pre")
        tab.evaluate("window.confirm = () => true; document.getElementById('cancel').click()")
        tab.until("document.getElementById('state').innerText === 'cancelled'")
        assert tab.evaluate("document.getElementById('cancel') === null && window.hacked === undefined")
        assert tab.evaluate("document.title").endswith(": cancelled")
        with asking(server, f"/executors/tasks/{task_ids[1]}") as response:
            assert b"running" in response.read()
