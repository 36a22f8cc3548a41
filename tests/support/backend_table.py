"""Generate the table of capabilities from the backend classes. As a script, write it to the documentation."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "backends.md"
HEADING = "| Attribute |"
NOT_CAPABILITIES = {"carried", "close_timeout", "lost_workers", "name", "setup", "unavailable"}


def descriptions() -> dict[str, str]:
    """Return the first sentence of the docstring of each capability in the interface."""
    from executors.backends import ExecutorBackend  # noqa: PLC0415  (as a script, this needs `sys.path` first)

    (body,) = ast.parse(inspect.getsource(ExecutorBackend)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for attribute, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name):
            assert isinstance(text, ast.Expr), f"{attribute.target.id} has no docstring"
            assert isinstance(text.value, ast.Constant)
            name = attribute.target.id
            found[name] = inspect.cleandoc(text.value.value).replace("\n", " ").split(". ")[0].removesuffix(".")
    return {name: text for name, text in found.items() if name not in NOT_CAPABILITIES}


def cell(backend: type, attribute: str) -> str:
    """Return the value of a capability of a backend class."""
    value = getattr(backend, attribute)
    if attribute == "workers" and value is None:
        return f"`{next(iter(inspect.signature(backend).parameters))}`"
    if isinstance(value, property) or f"self.{attribute} = " in inspect.getsource(backend.__init__):
        return "varies"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def table() -> str:
    """Return the table in Markdown."""
    from executors import backends  # noqa: PLC0415  (the same)

    names = [name for name in backends.__all__ if name not in {"ExecutorBackend", "Job"}]
    rows = [
        ["Attribute", "Meaning", *(name.removesuffix("Backend") for name in names)],
        ["---"] * (len(names) + 2),
        *(
            [f"`{attribute}`", text, *(cell(getattr(backends, name), attribute) for name in names)]
            for attribute, text in descriptions().items()
        ),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows).replace("| --- ", "|---").replace("--- |", "---|")


def with_table(page: str) -> str:
    """Return the page with its table replaced."""
    start = page.index(HEADING)
    return page[:start] + table() + page[page.index("\n\n", start) + 1 :]


if __name__ == "__main__":
    sys.path.insert(0, str(PAGE.parents[2]))
    PAGE.write_text(with_table(PAGE.read_text()))
