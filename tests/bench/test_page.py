"""The page of a comparison: complete, harmless whatever the user's function says, and readable in a real browser."""

from __future__ import annotations

import html
import json
import math
import random
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from executors.bench import page
from executors.bench.results import Findings, Measurement

ARMS = {
    "idle": (0.002, 0),
    "inline": (0.8, 55),
    "thread": (0.09, 52),
    "process": (0.0022, 98),
    "a cluster of machines": (0.0021, 97),
}
"""The median latency, and how many calls ended in a measurement."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
WIDTHS = (375, 1200)


def measured(arm: str, number: int) -> Measurement:
    chance = random.Random(f"{arm} {number}")
    median, calls = ARMS[arm]
    lags = [(at / 50, chance.lognormvariate(math.log(median / 3), 0.9)) for at in range(250)]
    latencies = [chance.lognormvariate(math.log(median), 0.6) for _ in range(500)]
    lateness = [0.0003] * 500
    figures = {"lag_p50": median / 3, "lag_p99": median, "lag_max": 2 * median, "cpu_seconds": 5.0}
    return Measurement(arm, number, 5.0, latencies, 0, lateness, lags, 0.2, {"0.05": 1.5}, calls=calls, **figures)


def findings(text: str = "render") -> Findings:
    measurements = [measured(arm, number) for number in (1, 2) for arm in ARMS]
    measurements.append(Measurement("dask", 1, error=f"no cluster {text}"))
    machine = {"Python": "3.13.1", text: text}
    return Findings(
        f"package.tasks:{text}", [1, text], {"quality": text}, 4, 100, machine, measurements, f"Mark {text}"
    )


def written(found: Findings, tmp_path: Path) -> str:
    page.write(found, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_tells_everything_and_loads_nothing(tmp_path: Path) -> None:
    """Function, call, machine, advice, each arm's figures, what failed, how late the client was, three plots."""
    text = written(findings(), tmp_path)
    said = " ".join("".join(ET.fromstring(text).itertext()).split())
    for expected in (
        *("package.tasks:render", "render(1, 'render', quality='render')", "4 at a time", "100 requests a second"),
        *("Python3.13.1", "Mark render", "dask failed: no cluster render", "up to 300 µs late", "in turn: 2."),
        *(
            "inline",
            "a cluster of machines",
            "p99.9",
            "calls per second",
            "CPU time per call",
            "percentile of the requests (%)",
        ),
    ):
        assert expected in said
    assert text.count("<svg ") == 3
    assert not re.search(r"(src|href)=|url\(|@import|<script", text)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\"'&amp;<!--", "]]></style>{}", "\x00\x1b[31m\ud800"])
def test_what_the_user_gives_is_only_text(tmp_path: Path, text: str) -> None:
    """Names, arguments, errors and advice can't break the page, whatever characters they have."""
    harmless = written(findings("x"), tmp_path)
    root = ET.fromstring(written(findings(text), tmp_path))
    assert [element.tag for element in root.iter()] == [element.tag for element in ET.fromstring(harmless).iter()]
    if text.isprintable():
        assert f"package.tasks:{text}" in "".join(root.itertext())


LOOK = """
function overlaps(one, other) {
  const across = Math.min(one.right, other.right) - Math.max(one.left, other.left)
  return across > 1 && Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 3
}
function look(frame) {
  const page = frame.contentDocument, found = {overlaps: [], outside: [], small: [], plots: 0}
  found.wider = page.documentElement.scrollWidth - page.documentElement.clientWidth
  for (const plot of page.querySelectorAll("svg")) {
    found.plots += plot.getBoundingClientRect().width > 300
    const box = plot.getBoundingClientRect(), texts = [...plot.querySelectorAll("text")]
    const boxes = texts.map(text => text.getBoundingClientRect())
    boxes.forEach((one, i) => {
      if (one.left < box.left - 1 || one.right > box.right + 1) found.outside.push(texts[i].textContent)
      if (one.height < 11) found.small.push(texts[i].textContent)
      boxes.slice(i + 1).forEach((other, j) => {
        if (overlaps(one, other)) found.overlaps.push([texts[i].textContent, texts[i + 1 + j].textContent])
      })
    })
  }
  return found
}
onload = () => document.body.textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(look))
"""


def looked_at(text: str, tmp_path: Path) -> list[dict[str, object]]:
    """Open the page in a browser, as wide as a phone and as a window, and tell what can't be read there."""
    frames = "".join(f'<iframe style="width: {width}px" srcdoc="{html.escape(text)}"></iframe>' for width in WIDTHS)
    file = tmp_path / "look.html"
    file.write_text(f"<!DOCTYPE html><meta charset=utf-8><script>{LOOK}</script><body>{frames}</body>")
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, check=True)
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body is not None
    return json.loads(html.unescape(body[1]))  # type: ignore[no-any-return]


if BROWSER is not None:  # it is no requirement of the tests, which may run where nothing can be downloaded

    def test_everything_can_be_read_in_a_browser(tmp_path: Path) -> None:
        """On a phone and in a window no label covers another or is cut off, and nothing has to be scrolled sideways."""
        readable = {"overlaps": [], "outside": [], "small": [], "plots": 3, "wider": 0}
        assert looked_at(written(findings(), tmp_path), tmp_path) == [readable] * len(WIDTHS)
