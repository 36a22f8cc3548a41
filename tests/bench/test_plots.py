"""Axes put values where they belong and number them readably; labels don't overlap; what is drawn is well-formed."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest

from executors.bench.axes import Axis, linear, log_seconds, nines, seconds
from executors.bench.figures import worst
from executors.bench.plots import Series, curves, panels, points, spread

SVG = "{http://www.w3.org/2000/svg}"
X, Y = linear("calls", [3.0]), log_seconds("time", [0.001, 1.0])


def numbers_of(axis: Axis) -> list[str]:
    return [text for _, text in axis.ticks]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00012, "120 µs"), (0.0123, "12.3 ms"), (0.9, "900 ms"), (0.99961, "1000 ms"), (1.0, "1 s"), (12.34, "12.3 s")],
)
def test_times_have_the_unit_that_suits_them(value: float, text: str) -> None:
    """Three digits that count, and no exponents."""
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ([], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([3.0, 19.5], ["0", "5", "10", "15", "20"]),
        ([0.07], ["0", "0.02", "0.04", "0.06", "0.08"]),
    ],
)
def test_a_linear_axis_has_round_numbers_from_zero_to_beyond_the_most(values: list[float], numbers: list[str]) -> None:
    """There are few of them, also where nothing was counted."""
    assert numbers_of(linear("", values)) == numbers


def test_a_log_axis_shows_powers_of_ten_where_it_is_long() -> None:
    """It begins and ends at a 1, 2 or 5, takes in all values, and a decade is as long as any other."""
    assert numbers_of(log_seconds("", [0.0013, 0.0041])) == ["1 ms", "2 ms", "5 ms"]
    assert numbers_of(log_seconds("", [0.003])) == ["2 ms", "5 ms"]
    axis = log_seconds("", [0.001, 10.0, math.inf])
    assert numbers_of(axis) == ["1 ms", "10 ms", "100 ms", "1 s", "10 s"]
    assert [axis.share(value) for value, _ in axis.ticks] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert axis.share(0.0) == 0
    assert axis.share(99.0) == 1


def test_an_axis_of_nines_ends_where_there_are_no_more_values() -> None:
    """Ninety-nine is twice as far as ninety; of a thousand values there is no fifth nine to tell."""
    axis = nines("", 1000)
    assert numbers_of(axis) == ["0", "50", "90", "99", "99.9"]
    assert [axis.share(value) for value in (0.9, 0.99, 0.999)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_labels_are_moved_apart_in_order_and_stay_inside() -> None:
    """What is far enough from the others isn't moved."""
    assert spread([50, 10, 52], 10, 0, 100) == [50, 10, 60]
    assert spread([99, 98], 10, 0, 100) == [100, 90]
    assert spread([], 10, 0, 100) == []


def test_a_short_stall_is_seen_at_any_scale() -> None:
    """Of each stretch of time the worst is kept, not the mean."""
    assert worst([(0.1, 1.0), (0.2, 9.0), (0.3, 3.0), (1.9, 2.0)], 1.0) == [(0.5, 9.0), (1.5, 2.0)]


def test_every_plot_is_well_formed_and_says_what_it_shows() -> None:
    """A name of any kind is only text, as large a number of series as there may be; one may have nothing to draw."""
    names = ["idle", "</svg><script>", *(f"a backend with a long name {number}" for number in range(8))]
    series = [Series(name, [(1.0, 0.002), (2.0, 0.5)]) for name in names] + [Series("nothing", [])]
    drawn = (
        curves("curves & more", X, Y, series),
        panels("panels", X, Y, series),
        points("points", X, Y, dict.fromkeys(names, (3.0, 0.01))),
    )
    for plot in drawn:
        root = ET.fromstring(plot)
        assert (root.tag, root.get("role"), root.find(f"{SVG}title") is not None) == (f"{SVG}svg", "img", True)
        texts = {text.text for text in root.iter(f"{SVG}text")}
        assert {"calls", "time (log scale)", *names} <= texts
        assert "nan" not in plot
