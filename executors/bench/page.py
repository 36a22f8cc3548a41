"""What was measured as one HTML page that needs neither a network nor scripts."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from executors.bench import figures
from executors.bench.axes import seconds
from executors.bench.results import Findings, Summary

ROWS: dict[str, dict[str, Callable[[Summary], str]]] = {
    "HTTP latency": {
        "p50": lambda arm: seconds(arm.http_p50),
        "p99": lambda arm: seconds(arm.http_p99),
        "p99.9": lambda arm: seconds(arm.http_p999),
        "max": lambda arm: seconds(arm.http_max),
        "failed requests": lambda arm: f"{arm.failed:,}",
    },
    "Event loop": {
        "lag p50": lambda arm: seconds(arm.lag_p50),
        "lag p99": lambda arm: seconds(arm.lag_p99),
        "lag max": lambda arm: seconds(arm.lag_max),
        "over 50 ms, per minute": lambda arm: f"{arm.over_50ms:.3g} s",
        "busy": lambda arm: f"{arm.utilisation:.0%}",
    },
    "The work": {
        "calls per second": lambda arm: f"{arm.throughput:.3g}",
        "CPU time per call": lambda arm: "" if arm.cpu_per_call is None else seconds(arm.cpu_per_call),
    },
}
"""What the table tells of each arm, in groups."""

FIGURES = (
    (
        "HTTP latency",
        "How long requests waited. The further right, the rarer: at 99, one in a hundred waited longer.",
        figures.latency,
    ),
    (
        "Harm against throughput",
        "The best place is at the bottom right: much work done, and the server answers fast.",
        figures.harm,
    ),
    (
        "Loop lag over time",
        "How late the event loop ran: the worst of each moment, the rounds one after another.",
        figures.lag,
    ),
)

STYLE = """
:root { color-scheme: light dark; --ink: #1a1c20; --paper: #ffffff; --soft: #5a606a; --line: #d9dce1; --note: #eef3f8 }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e8eaed; --paper: #17191d; --soft: #a0a6af; --line: #3a3f47; --note: #222a33 } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, 'DejaVu Sans', sans-serif }
main { max-width: 66rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.4rem; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 2rem 0 0.5rem }
p, dl { max-width: 44rem; overflow-wrap: anywhere }
.advice { background: var(--note); border-left: 4px solid #0072b2; padding: 0.7rem 1rem }
.soft, dt, figcaption { color: var(--soft) }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 0.2rem 0.6rem; text-align: right; white-space: nowrap }
th:first-child { text-align: left; padding-left: 0; font-weight: normal; white-space: normal;
  position: sticky; left: 0; background: var(--paper) }
tbody th[colspan] { font-weight: bold; padding-top: 0.7rem }
thead th, tbody th[colspan] { border-bottom: 1px solid var(--line) }
@media (max-width: 40rem) { table { font-size: 0.85rem } th, td { padding: 0.2rem 0.3rem } }
.plots { columns: 2 26rem; column-gap: 2rem; margin-top: 2rem }
figure { margin: 0; break-inside: avoid }
figure h2 { margin-top: 0 }
figure svg { width: 100%; height: auto; margin-bottom: 1rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem }
dd { margin: 0 }
"""


def write(findings: Findings, path: Path) -> None:
    """Write the page.

    Args:
        findings: What was measured.
        path: The file, which is replaced if it's there.
    """
    path.write_text(render(findings), encoding="utf-8")


def render(findings: Findings) -> str:
    """Return the page."""
    called = _escaped(_call(findings))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>executors bench: {_escaped(findings.target)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Where should <code>{_escaped(findings.target)}</code> run?</h1>
<p class="advice"><b>Advice:</b> {_escaped(findings.advice)}.</p>
<p>A Quart app ran <code>{called}</code> {_how_many(findings)}, each time in another place, while another process
sent it {findings.rate:g} requests a second that have nothing to do with the work. Latency is counted from when a
request was due to be sent, so that none is left out because the one before it was slow.</p>
{_table(findings.arms)}
<div class="plots">
{_lines(_figure(title, explanation, draw(findings)) for title, explanation, draw in FIGURES)}
</div>
<h2>How far to trust this</h2>
{_trust(findings)}
<h2>Machine and versions</h2>
<dl class="soft">
{_lines(f"<dt>{_escaped(str(name))}</dt><dd>{_escaped(str(value))}</dd>" for name, value in findings.machine.items())}
</dl>
</main>
</body>
</html>
"""


def _call(findings: Findings) -> str:
    function = findings.target.rpartition(":")[2]
    given = [repr(value) for value in findings.args]
    given += [f"{name}={value!r}" for name, value in findings.kwargs.items()]
    return f"{function}({', '.join(given)})"


def _how_many(findings: Findings) -> str:
    if findings.concurrency == 1:
        return "again and again, one at a time"
    return f"again and again, {findings.concurrency} at a time"


def _table(arms: Sequence[Summary]) -> str:
    names = "".join(f'<th scope="col">{_escaped(arm.arm)}</th>' for arm in arms)
    rows = []
    for group, figures_of in ROWS.items():
        rows.append(f'<tr><th scope="rowgroup" colspan="{len(arms) + 1}">{group}</th></tr>')
        for name, tell in figures_of.items():
            rows.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{tell(arm)}</td>" for arm in arms)}</tr>')
    return f"""<div class="wide" role="region" aria-label="The figures" tabindex="0">
<table>
<thead><tr><td></td>{names}</tr></thead>
<tbody>
{_lines(rows)}
</tbody>
</table>
</div>"""


def _figure(title: str, explanation: str, plot: str) -> str:
    return f"<figure>\n<h2>{title}</h2>\n<figcaption>{explanation}</figcaption>\n{plot}\n</figure>"


def _trust(findings: Findings) -> str:
    latest = max(arm.client_lateness_p99 for arm in findings.arms)
    rounds = max(one.round for one in findings.measurements)
    said = [
        f"The client was itself up to {seconds(latest)} late in sending requests (99th percentile in the worst place).",
        f"Rounds, with each place in turn: {rounds}. The figures are medians, each maximum is the most of all.",
        *(f"Doubtful: {doubt}." for doubt in findings.doubts),
        *findings.failures,
    ]
    return _lines(f"<p>{_escaped(sentence)}</p>" for sentence in said)


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Make a text of the user's harmless in HTML, also one with characters that no page may have."""
    return html.escape(
        "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)
    )
