"""Tables that fit the width of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

WIDE, MEDIUM = 100, 70
"""The widths in columns from which on tables have all columns, or most of them."""

Row = Sequence[str | Text]


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: Its heading.
        least: The width of the terminal from which on it is shown.
        justify: On which side its cells are.
        shrinks: Whether it becomes narrower where a table is too wide.
    """

    name: str
    least: int = 0
    justify: Literal["left", "right"] = "left"
    shrinks: bool = False


def _text(name: str, least: int = 0) -> Column:
    return Column(name, least, shrinks=True)


def _number(name: str, least: int = 0) -> Column:
    return Column(name, least, "right")


WORKERS = (
    Column("worker"),
    Column("state"),
    _text("task"),
    _number("CPU"),
    _number("memory", MEDIUM),
    Column("backend", WIDE),
    _number("tasks", WIDE),
)
SERVERS = (
    Column("pid"),
    Column("phase"),
    Column("loop busy"),
    _number("lag p50", MEDIUM),
    _number("lag p99"),
    _number("max", MEDIUM),
    _number("up"),
    Column("", WIDE),
)
BACKENDS = (
    Column(""),
    Column(""),
    _number("running"),
    Column(""),
    _number("queued"),
    _text(""),
)
TASKS = (
    Column("state"),
    _text("task"),
    Column("backend", MEDIUM),
    _number("age"),
    _number("queued for", MEDIUM),
    _text(""),
    Column("id", WIDE),
)
FUNCTIONS = (
    _text("function"),
    Column("backend", MEDIUM),
    _number("running", MEDIUM),
    _number("count"),
    _number("p50", MEDIUM),
    _number("p99"),
    _number("queue p99", WIDE),
    _number("failed"),
)
BLAME = (
    _text("who"),
    Column("kind", MEDIUM),
    _number("total"),
    _number("worst"),
    _number("times", MEDIUM),
    _text("where", MEDIUM),
)


def table(title: str, columns: Sequence[Column], rows: Sequence[Row], width: int) -> RenderableType:
    """Return a table with a heading, without the columns that are empty or for which the terminal is too narrow.

    Args:
        title: The heading.
        columns: The columns.
        rows: One cell for each column.
        width: The width of the terminal.
    """
    shown = [at for at, each in enumerate(columns) if width >= each.least and any(str(row[at]) for row in rows)]
    found = Table(box=None, pad_edge=False, padding=(0, 2 if width >= MEDIUM else 1, 0, 0), header_style="dim")
    for at in shown:
        column = columns[at]
        found.add_column(column.name, justify=column.justify, no_wrap=not column.shrinks, overflow="ellipsis")
    for row in rows:
        found.add_row(*(_one_line(row[at]) for at in shown))
    heading = Rule(Text(title.strip(), "bold"), align="left", style="dim")
    return Group(heading, found) if rows else heading


def _one_line(cell: str | Text) -> Text:
    text = Text(cell) if isinstance(cell, str) else cell
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def height(part: object) -> int:
    """Return how many rows a part of the screen has."""
    if isinstance(part, Group):
        return sum(map(height, part.renderables))
    if isinstance(part, Table):
        return 1 + part.row_count
    return 1 + part.plain.count("\n") if isinstance(part, Text) else 1
