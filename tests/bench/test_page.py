"""The HTML page: complete, safe against any user input, and readable in a real browser."""

from __future__ import annotations

import html
import json
import math
import random
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
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
"""The median latency and the number of calls of each arm."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
WIDTHS = (375, 1200)


def make_measurement(arm: str, number: int) -> Measurement:
    rng = random.Random(f"{arm} {number}")
    median, calls = ARMS[arm]
    lags = [(at / 50, rng.lognormvariate(math.log(median / 3), 0.9)) for at in range(250)]
    latencies = [rng.lognormvariate(math.log(median), 0.6) for _ in range(500)]
    lateness = [0.0003] * 500
    figures = {"lag_p50": median / 3, "lag_p99": median, "lag_max": 2 * median, "cpu_seconds": 5.0}
    return Measurement(arm, number, 5.0, latencies, 0, lateness, lags, 0.2, {"0.05": 1.5}, calls=calls, **figures)


def findings(text: str = "render") -> Findings:
    measurements = [make_measurement(arm, number) for number in (1, 2) for arm in ARMS]
    measurements.append(Measurement("dask", 1, error=f"no cluster {text}"))
    machine = {"Python": "3.13.1", text: text}
    return Findings(
        f"package.tasks:{text}", [1, text], {"quality": text}, 4, 100, machine, measurements, f"Mark {text}"
    )


class Parsed(HTMLParser):
    """A parsed page: its elements, and its text without scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:  # neither script nor style
            self.text += data


def write_page(found: Findings, tmp_path: Path) -> str:
    page.write(found, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_page_is_complete_and_loads_nothing(tmp_path: Path) -> None:
    """The page has function, call, machine, advice, figures, failures and charts, and makes no requests."""
    page = write_page(findings(), tmp_path)
    text = " ".join(Parsed(page).text.split())
    for expected in (
        *("package.tasks:render", "render(1, 'render', quality='render')", "4 at a time", "100 requests a second"),
        *("Python3.13.1", "Mark render", "dask failed: no cluster render", "probe late p99300 µs", "in turn: 2."),
        *("inline", "a cluster of machines", "p99.9", "calls per second", "CPU time per call"),
    ):
        assert expected in text
    assert page.count('role="img"') == 3
    assert not re.search(r"(src|href)=|url\(|@import|fetch\(|XMLHttpRequest", page)


def test_summary_comes_first(tmp_path: Path) -> None:
    """All other figures are in collapsed sections."""
    summary = Parsed(write_page(findings(), tmp_path).partition("<details>")[0]).text
    assert [name in summary for name in ("Mark render", "HTTP p99", "process", "p99.9", "3.13.1")] == [
        *(True, True, True),
        *(False, False),
    ]


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\"'&amp;<!--", "]]></style>{}", "\x00\x1b[31m\ud800"])
def test_user_input_is_escaped(tmp_path: Path, text: str) -> None:
    """Names, arguments, errors and advice can't break the page, whatever characters they contain."""
    harmless, found = findings("x"), findings(text)
    found.measurements[0] = replace(found.measurements[0], arm=text)
    parsed = Parsed(write_page(found, tmp_path))
    harmless.measurements[0] = replace(harmless.measurements[0], arm="x")
    assert parsed.tags == Parsed(write_page(harmless, tmp_path)).tags
    if text.isprintable():
        assert f"package.tasks:{text}" in parsed.text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00012, "120 µs"), (0.0123, "12.3 ms"), (0.9, "900 ms"), (0.99961, "1000 ms"), (1.0, "1 s"), (12.34, "12.3 s")],
)
def test_times_are_formatted_with_a_suitable_unit(value: float, text: str) -> None:
    """Times have three significant digits and no exponent."""
    assert page.format_seconds(value) == text


def test_chart_of_lags_keeps_maxima() -> None:
    """The chart of lags has the maximum of each interval, so a short stall is visible at any scale."""
    lags = page.worst([(0.1, 1.0), (0.2, 9.0), (0.3, 3.0), (1.9, 2.0)], 1.0)
    assert (lags[:3], len(lags)) == ([9.0, 2.0, None], page.MAX_POINTS)


def test_chart_of_latencies_by_nines() -> None:
    """The chart has the latency at each percentile, on an axis of nines: 0%, 90%, 99%."""
    latencies = [float(number) for number in range(1, 101)]
    found = Findings("t:f", [], {}, 1, 1, {}, [Measurement("idle", 1, 1.0, latencies, 0, [0.0])])
    data = page.charts(found)
    at = dict(zip(data["nines"], data["latency"][0], strict=True))
    assert (at[0.0], at[1.0], at[2.0]) == (1.0, 91.0, 100.0)


LOOK = """
function overlaps(one, other) {
  const across = Math.min(one.right, other.right) - Math.max(one.left, other.left)
  return across > 1 && Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 3
}
function look(frame) {
  const page = frame.contentDocument, found = {overlaps: [], small: [], charts: 0, blank: 0}
  found.wider = page.documentElement.scrollWidth - page.documentElement.clientWidth
  for (const canvas of page.querySelectorAll("canvas")) {
    found.charts += canvas.getBoundingClientRect().width > 300
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
    found.blank += !pixels.some(value => value)
  }
  const texts = [...page.querySelectorAll("h1, h2, p, td, th, figcaption, .u-label")]
  const shown = texts.filter(each => each.textContent.trim() && !each.closest("details"))
  const boxes = shown.map(each => [each.textContent, each.getBoundingClientRect()])
  boxes.forEach(([text, one], i) => {
    if (one.height < 11) found.small.push(text)
    boxes.slice(i + 1).forEach(([other_text, other]) => {
      if (overlaps(one, other) && !text.includes(other_text)) found.overlaps.push([text, other_text])
    })
  })
  const summary = page.querySelector("tbody").getBoundingClientRect()
  found.summary_ends_by_800 = summary.bottom < 800
  return found
}
onload = () => document.body.textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(look))
"""


def unreadable_parts(text: str, tmp_path: Path) -> list[dict[str, object]]:
    """Open the page in a browser at the width of a phone and of a window; return what is unreadable in each."""
    frames = "".join(f'<iframe style="width: {width}px" srcdoc="{html.escape(text)}"></iframe>' for width in WIDTHS)
    file = tmp_path / "look.html"
    file.write_text(f"<!DOCTYPE html><meta charset=utf-8><script>{LOOK}</script><body>{frames}</body>")
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, check=True)
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body is not None
    return json.loads(html.unescape(body[1]))  # type: ignore[no-any-return]


if BROWSER is not None:  # optional: the suite also runs without a browser

    def test_page_is_readable_in_a_browser(tmp_path: Path) -> None:
        """At both widths every chart is drawn, no texts overlap, and nothing scrolls horizontally."""
        charts = 2 + len(ARMS)
        readable = {"overlaps": [], "small": [], "charts": charts, "blank": 0, "wider": 0, "summary_ends_by_800": True}
        assert unreadable_parts(write_page(findings(), tmp_path), tmp_path) == [readable] * len(WIDTHS)
