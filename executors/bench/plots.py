"""Plots as SVG text: curves, panels over time and labelled points, for a page or as files of their own.

Each carries its own style, is readable on a light and on a dark screen, and tells its series apart by dashes as well as
by colours that the colour-blind can distinguish (Okabe and Ito's).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from executors.bench.axes import Axis

WIDTH = 480
"""Small, so that on a phone, where a plot is shrunk to the screen, its text can still be read."""
HEIGHT = 230
PANEL, PITCH = 54, 78
LEFT, RIGHT, TOP = 64, WIDTH - 16, 34
BELOW = 46
"""What the horizontal axis takes: its numbers and its label."""
ROW = 20
LETTER = 8.0
"""About the width of a letter, to lay out labels by."""

STYLE = """
.plot { --ink: #1a1c20; --paper: #ffffff; --grid: #d9dce1; --c0: #6b7078; --c1: #0072b2; --c2: #d55e00; --c3: #009e73;
 --c4: #cc79a7; --c5: #e69f00; --c6: #56b4e9; font: 14px system-ui, 'DejaVu Sans', sans-serif }
@media (prefers-color-scheme: dark) { .plot { --ink: #e8eaed; --paper: #17191d; --grid: #3a3f47; --c0: #a0a6af;
 --c1: #3b9fdb } }
.plot .paper { fill: var(--paper) }
.plot text { fill: var(--ink) }
.plot .halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round }
.plot .grid { stroke: var(--grid); fill: none }
.plot .curve { fill: none; stroke-width: 2.5; stroke-linejoin: round }
.plot .area { stroke-width: 1; stroke-linejoin: round; fill-opacity: 0.35 }
"""
"""The first colour is for what the others are compared with."""
DASHES = ("none", "none", "8 3", "2 3", "9 3 2 3", "14 4", "5 2 1 2")

Point: TypeAlias = tuple[float, float]


class Area(NamedTuple):
    """The part of a picture that the axes enclose."""

    top: float = TOP
    bottom: float = TOP + HEIGHT
    right: float = RIGHT

    def across(self, x: Axis, value: float) -> float:
        """Return where a value stands horizontally."""
        return LEFT + x.share(value) * (self.right - LEFT)

    def down(self, y: Axis, value: float) -> float:
        """Return where a value stands vertically."""
        return self.bottom - y.share(value) * (self.bottom - self.top)

    def path(self, x: Axis, y: Axis, found: Iterable[Point]) -> str:
        """Return the line through these points."""
        return "M" + "L".join(f"{self.across(x, one):.1f} {self.down(y, other):.1f}" for one, other in found)


class Series(NamedTuple):
    """What is drawn in one colour.

    Attributes:
        name: What the legend or the label says.
        points: In the units of the axes, in order.
    """

    name: str
    points: Sequence[Point]


def curves(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """Draw one line for each series, and a legend.

    Args:
        title: What the plot shows, for those who can't see it.
        x: The horizontal axis.
        y: The vertical axis.
        series: What to draw; its place decides on colour and dashes.
    """
    legend = _legend_rows([each.name for each in series])
    area = Area()
    svg = _canvas(title, area.bottom + BELOW + ROW * len(legend), y)
    _horizontal(svg, area, x)
    _vertical(svg, area, y)
    for number, each in enumerate(series):
        if each.points:
            _curve(svg, number, area.path(x, y, each.points))
    _draw_legend(svg, legend, area.bottom + BELOW)
    return _written(svg)


def panels(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """Draw each series as an area in a panel of its own, one below the other, on the same axes.

    Args:
        title: What the plot shows, for those who can't see it.
        x: The horizontal axis.
        y: The vertical axis.
        series: What to draw; its place decides on the colour.
    """
    bottoms = [TOP + PITCH * number for number in range(1, len(series) + 1)]
    areas = [Area(bottom - PANEL, bottom) for bottom in bottoms]
    svg = _canvas(title, areas[-1].bottom + BELOW, y)
    for number, (area, each) in enumerate(zip(areas, series, strict=True)):
        _horizontal(svg, area, x, labelled=area is areas[-1])
        _vertical(svg, area, y)
        _text(svg, LEFT, area.top - 6, each.name)
        if each.points:
            closed = [(each.points[0][0], y.low), *each.points, (each.points[-1][0], y.low)]
            path = area.path(x, y, closed) + "Z"
            _add(svg, "path", d=path, style=f"{_stroke(number)}; {_fill(number)}", **{"class": "area"})
    return _written(svg)


def points(title: str, x: Axis, y: Axis, named: Mapping[str, Point]) -> str:
    """Draw one point for each name, with the name beside it.

    Args:
        title: What the plot shows, for those who can't see it.
        x: The horizontal axis.
        y: The vertical axis.
        named: The points; a name's place decides on the colour.
    """
    longest = LETTER * max(map(len, named), default=0)
    area = Area(right=RIGHT - min(longest + 12, (RIGHT - LEFT) / 2))
    svg = _canvas(title, area.bottom + BELOW, y)
    _horizontal(svg, area, x)
    _vertical(svg, area, y)
    places = [(area.across(x, one), area.down(y, other)) for one, other in named.values()]
    labels = _beside(places, list(named), area)
    for number, ((across, down), (start, height)) in enumerate(zip(places, labels, strict=True)):
        _add(svg, "path", d=f"M{across:.1f} {down:.1f}L{start:.1f} {height:.1f}", style=_stroke(number))
    for number, (across, down) in enumerate(places):
        _add(svg, "circle", cx=f"{across:.1f}", cy=f"{down:.1f}", r="6", style=_fill(number))
    for name, (start, height) in zip(named, labels, strict=True):
        _text(svg, start + 3, height + 5, name, halo=True)
    return _written(svg)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions as far apart as `gap` and into a range, and keep their order, so that labels don't overlap."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = list(wanted)
    reached = low - gap
    for index in order:
        reached = placed[index] = max(placed[index], reached + gap)
    reached = high + gap
    for index in reversed(order):
        reached = placed[index] = min(placed[index], reached - gap)
    return placed


# --- parts of a plot ------------------------------------------------------------------------------------------------


def _canvas(title: str, height: float, y: Axis) -> ET.Element:
    box = {"viewBox": f"0 0 {WIDTH} {height:g}", "width": f"{WIDTH}", "height": f"{height:g}"}
    svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "class": "plot", "role": "img", **box})
    _add(svg, "title").text = title
    _add(svg, "style").text = STYLE
    _add(svg, "rect", **{"class": "paper"}, width=f"{WIDTH}", height=f"{height:g}")
    _text(svg, 4, 16, y.label)
    return svg


def _horizontal(svg: ET.Element, area: Area, x: Axis, labelled: bool = True) -> None:
    for value, text in x.ticks:
        at = area.across(x, value)
        _add(svg, "path", d=f"M{at:.1f} {area.top:.1f}V{area.bottom:.1f}", **{"class": "grid"})
        if labelled:
            _text(svg, at, area.bottom + 17, text, "middle")
    if labelled:
        _text(svg, (LEFT + area.right) / 2, area.bottom + 37, x.label, "middle")


def _vertical(svg: ET.Element, area: Area, y: Axis) -> None:
    free = area.bottom + ROW
    for value, text in y.ticks:
        at = area.down(y, value)
        _add(svg, "path", d=f"M{LEFT} {at:.1f}H{RIGHT}", **{"class": "grid"})
        if at <= free:
            _text(svg, LEFT - 6, at + 5, text, "end")
            free = at - ROW


def _beside(places: Sequence[Point], names: Sequence[str], area: Area) -> list[Point]:
    """Return where the labels of points begin: to the right of them and of the others at their height."""
    heights = spread([down for _, down in places], ROW - 3, area.top + 8, area.bottom - 8)
    labels = []
    for (across, _), height, name in zip(places, heights, names, strict=True):
        end = across + LETTER * len(name)
        passed = [other for other, down in places if across <= other < end and abs(down - height) < ROW / 2 + 4]
        labels.append((max(passed, default=across) + 12, height))
    return labels


def _legend_rows(names: Iterable[str]) -> list[list[tuple[float, str]]]:
    """Put names into rows, each with where it begins."""
    rows: list[list[tuple[float, str]]] = [[]]
    at = 8.0
    for name in names:
        width = 40 + LETTER * len(name) + 14
        if rows[-1] and at + width > WIDTH:
            rows.append([])
            at = 8.0
        rows[-1].append((at, name))
        at += width
    return rows


def _draw_legend(svg: ET.Element, rows: Sequence[Sequence[tuple[float, str]]], top: float) -> None:
    number = 0
    for row, names in enumerate(rows):
        for at, name in names:
            middle = top + row * ROW + 8
            _curve(svg, number, f"M{at:.1f} {middle:.1f}h32")
            _text(svg, at + 39, middle + 5, name)
            number += 1


def _curve(svg: ET.Element, number: int, path: str) -> None:
    dashes = {"stroke-dasharray": DASHES[number % len(DASHES)]}
    _add(svg, "path", d=path, style=_stroke(number), **{"class": "curve"}, **dashes)


def _stroke(number: int) -> str:
    return f"stroke: var(--c{number % len(DASHES)})"


def _fill(number: int) -> str:
    return f"fill: var(--c{number % len(DASHES)})"


def _text(parent: ET.Element, x: float, y: float, text: str, anchor: str = "start", *, halo: bool = False) -> None:
    kind = {"class": "halo"} if halo else {}
    _add(parent, "text", x=f"{x:.1f}", y=f"{y:.1f}", **{"text-anchor": anchor}, **kind).text = text


def _add(parent: ET.Element, tag: str, **attributes: str) -> ET.Element:
    return ET.SubElement(parent, tag, attributes)


def _written(svg: ET.Element) -> str:
    return ET.tostring(svg, encoding="unicode")
