"""The plots of the documentation, as SVG drawn by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from executors.bench.page import format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#6b7078", "#d55e00", "#e69f00", "#56b4e9", "#0072b2")
"""Distinguishable for the colour-blind (Okabe and Ito's); the first is for the idle server, the last for ours."""
STYLES = ("-", "--", ":", "-.", "-")
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "executors", "font.size": 11, "font.family": "sans-serif"}


def lines(x: str, y: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], **ticks: Any) -> str:
    """Draw a line for each arm, with times in seconds on a logarithmic axis.

    Args:
        x: The label of the horizontal axis.
        y: The label of the vertical axis.
        series: The arms' positions on both axes.
        ticks: The ticks of the horizontal axis, and their labels, as `Axes.set_xticks` takes them.
    """

    def draw(axes: Axes) -> None:
        for (name, points), color, style in zip(series.items(), COLORS, STYLES, strict=False):
            axes.plot(*points, style, color=color, label=name, linewidth=2, marker="o" if len(points[0]) < 10 else "")
        axes.set_xticks(**ticks)
        times = [time for _, values in series.values() for time in values]
        decades = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
        axes.set(xlabel=x, ylabel=y, yscale="log", ylim=[10.0**decade for decade in decades])
        axes.yaxis.set_major_formatter(lambda value, _: format_seconds(value))
        axes.yaxis.set_minor_formatter("")

    return _drawn(draw)


def _drawn(draw: Callable[[Axes], None]) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):  # type: ignore[arg-type]
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.grid(color="#d9dce1")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()
