"""A real Chromium, driven through its DevTools protocol over a pair of pipes, which need no port and no library."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic", "--remote-debugging-pipe"),
)
CONNECT = """
import os, sys
for fd, passed in enumerate(sys.argv[1:3], 3):
    os.dup2(int(passed), fd)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Replaces the interpreter by the browser, with the pipes as the descriptors that it expects."""

TIMEOUT = 30.0


class Browser:
    """A browser. Created by `browsing`.

    Args:
        profile: The folder of its profile.
    """

    def __init__(self, profile: Path) -> None:
        assert BROWSER is not None
        theirs, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._read, self._number = b"", 0
        self.events: list[dict[str, Any]] = []
        passed = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs, answers)]
        command = [sys.executable, "-c", CONNECT, *map(str, passed), BROWSER, *FLAGS]
        self.process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=passed,
            process_group=0,
        )
        for fd in (theirs, answers, *passed):
            os.close(fd)

    def call(self, method: str, session: str | None = None, /, **params: Any) -> dict[str, Any]:
        """Send a command, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, f"{method}: {found['error']}"
                result: dict[str, Any] = found["result"]
                return result
            self.events.append(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            part = os.read(self._answers, 1 << 16)
            assert part, "the browser has ended"
            self._read += part
        line, _, self._read = self._read.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait(TIMEOUT)
        os.close(self._commands)
        os.close(self._answers)


class Tab:
    """A tab of a browser.

    Args:
        browser: The browser.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session: str = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.look()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command to the tab, and return its result."""
        return self._browser.call(method, self._session, **params)

    def look(self, width: int = 1280, *, dark: bool = False, height: int = 900) -> None:
        """Set the size of the page in pixels, and whether its user prefers dark ones."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def open(self, url: str) -> None:
        """Open a page, and wait until it has been loaded."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, once it is there if it is a promise."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until an expression is true, and return its value."""
        deadline = time.monotonic() + TIMEOUT
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"not within {TIMEOUT} s: {expression}"
            time.sleep(0.02)
        return value

    def text(self, selector: str) -> str:
        """Return the text of the first element that matches."""
        found: str = self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    def problems(self) -> list[str]:
        """Return errors that the page has logged or thrown, and what its policy has refused."""
        self.evaluate("1")  # what has happened before has been received then
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(params["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(params["entry"]["text"])
        return found

    def requested(self) -> list[str]:
        """Return the URLs that the page has requested."""
        events = [event for event in self._browser.events if event.get("sessionId") == self._session]
        return [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """Save what the page looks like."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """Run a browser while the block runs."""
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.close()
