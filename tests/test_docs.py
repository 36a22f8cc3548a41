"""The documentation: its Python runs and prints the documented output, and its tables match the code.

How blocks are tested: the first line of each ```python block of README.md and docs/**/*.md names a file. ``# app.py``
begins (or replaces) that file, ``# app.py, continued`` adds to it. The blocks of one page are written, in order, into
one temporary folder. Each is run as soon as it is written, as a reader would run it: ``python app.py`` in a process of
its own, or ``python -m pytest test_app.py`` for a test module. (The processes are forked from one that has imported the
libraries: `run_blocks`.) The exit code must be 0. If a ```text block follows,
with only blank lines between, it is the output of the script, word for word, except that ``...`` stands for anything
within its line. A block without a file name fails the test, so that none is skipped; code that isn't meant to be run
is fenced as another language than ``python``. A ```py block is an extract: its first line names a file of the
repository, which contains the rest verbatim.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import backend_table
import pytest
import run_blocks

import executors
import executors.asgi
import executors.backends
import executors.monitor
import executors.quart
import executors.testing
from executors import errors, events
from executors._core.settings import Settings
from executors._wire import memory, pickling, segments
from executors.backends import ProcessBackend, job
from executors.backends.process import launcher, pool, prefetch, starter, worker_handle
from executors.errors import ConfigurationError, ExecutorError
from executors.events import TaskEvent
from executors.quart.config import settings_of

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TIME_LIMIT = 30

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.py)(, continued)?\n")


@dataclass
class Block:
    """A block of Python, and its output if the page has it."""

    line: int
    code: str
    output: str | None


def python_blocks(text: str) -> list[Block]:
    blocks: list[Block] = []
    end_of_last_python = None
    for fence in FENCE.finditer(text):
        language, body = fence.groups()
        if language == "python":
            blocks.append(Block(text.count("\n", 0, fence.start()) + 1, body, None))
            end_of_last_python = fence.end()
        elif language == "text" and end_of_last_python and not text[end_of_last_python : fence.start()].strip():
            blocks[-1].output = body
    assert len(blocks) == text.count("```python"), "a block of Python is indented or not closed, and would not run"
    return blocks


def matches(expected: str, printed: str) -> bool:
    """Whether the output is as documented, where ``...`` stands for anything within its line."""
    pattern = re.escape(expected.strip()).replace(re.escape("..."), "[^\n]*")
    return re.fullmatch(pattern, printed.strip()) is not None


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def run() -> Iterator[run_blocks.Run]:
    """Return a function that runs a file."""
    with run_blocks.runner() as run:
        yield run


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page.read_text())], ids=page_id)
@pytest.mark.timeout(120)
def test_code_blocks_run(page: Path, run: run_blocks.Run, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Every block runs, after those above it, and prints the documented output."""
    if "PGDATABASE" in page.read_text():
        request.getfixturevalue("empty_database")
    for block in python_blocks(page.read_text()):
        where = f"{page_id(page)}:{block.line}"
        named = FILE_NAME.match(block.code)
        assert named, f"{where}: the block's first line must name its file, as in `# app.py`"
        file = tmp_path / named[1]
        with file.open("a" if named[2] else "w") as script:
            script.write(block.code)
        exit_code, printed, errors = run(file, TIME_LIMIT)
        assert exit_code == 0, f"{where}: exit code {exit_code}\n{printed}{errors}"
        if block.output is not None:
            assert matches(block.output, printed), f"{where}: it prints\n{printed}{errors}"


@pytest.mark.parametrize("page", [page for page in PAGES if "```py\n" in page.read_text()], ids=page_id)
def test_extracts_match_their_files(page: Path) -> None:
    """An extract is in its file, word for word."""
    for language, body in FENCE.findall(page.read_text()):
        if language == "py":
            first, _, extract = body.partition("\n")
            assert extract.strip("\n") in (ROOT / first.removeprefix("# ")).read_text(), f"{page_id(page)}: {extract}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts and Sphinx make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages() -> None:
    """Every relative link has a target, its anchor too, and every page but the README is linked from another."""
    linked = set()
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", FENCE.sub("", page.read_text())):
            if "://" not in target:
                file = page.parent / target if target else page
                assert file.exists(), f"{page_id(page)} links to {target}"
                assert not anchor or anchor in anchors(file), f"{page_id(page)} links to {target}#{anchor}"
                linked.add(file.resolve())
    assert {page for page in PAGES if page.name != "README.md"} - linked == set()


# --- tables -----------------------------------------------------------------------------------------------------------


def table(page: Path, first_column: str) -> dict[str, dict[str, str]]:
    """Return the page's table whose first column has this heading: cells by heading, by the row's first cell."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in page.read_text().splitlines()
        if line.startswith("|")
    ]
    start = next(number for number, row in enumerate(rows) if row[0] == first_column)
    heading = rows[start]
    found = {}
    for row in rows[start + 2 :]:
        if len(row) != len(heading):
            break
        found[row[0].strip("`")] = dict(zip(heading, row, strict=True))
    return found


DEFAULTS_IN_WORDS = {
    "monitor": "off; with Quart on in debug mode",
    "threads": "min(32, CPUs + 4)",
    "processes": "number of usable CPUs",
    "worker_app": "found automatically",
    "contextvars": "none",
    "backends": "none",
    "tags": '`{"cpu": "process"}`',
    "max_tasks_per_worker": "none",
    "worker_max_memory_growth": "none",
    "worker_env": "none",
    "durable_url": "none",
    "store": "none",
    "control_dir": "none; on in debug mode",
}


def test_every_setting_is_documented() -> None:
    """The table of keys has each setting, with its keyword and its default."""
    rows = table(REFERENCE / "configuration.md", "Key")
    fields = Settings.__dataclass_fields__
    assert list(rows) == [f"EXECUTOR_{name.upper()}" for name in fields]
    keywords = inspect.signature(executors.Executor).parameters
    for name, field in fields.items():
        row = rows[f"EXECUTOR_{name.upper()}"]
        assert row["Keyword"] == (f"`{name}`" if name in keywords else "-")
        if name == "shutdown_timeout":
            expected = f"`BACKGROUND_TASK_SHUTDOWN_TIMEOUT`, else {settings_of({}).shutdown_timeout:g}; "
            expected += f"keyword: {field.default:g}"
        else:
            expected = DEFAULTS_IN_WORDS.get(name, str(field.default))
        assert row["Default"] == expected, name
        assert not row["Default"].startswith("none") or not field.default
        if name in keywords:
            assert keywords[name].default == field.default


def test_documented_bad_values_are_refused() -> None:
    """Each value that the table lists as refused is refused, with an error that names the key."""
    for key, row in table(REFERENCE / "configuration.md", "Key").items():
        bad = re.findall(r"`([^`]+)`", row["Refused"])
        assert bad, key
        for value in bad:
            with pytest.raises(ConfigurationError, match=key):
                settings_of({key: eval(value)})


def test_every_error_is_documented() -> None:
    """The table of errors has each error, with its bases and attributes, and no other."""
    rows = table(REFERENCE / "errors.md", "Error")
    classes = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, ExecutorError)
    }
    assert set(rows) == set(classes)
    for name, row in rows.items():
        bases = [
            f"`{base.__name__}`"
            for base in classes[name].__bases__
            if base not in (errors.Refusal, errors.Interruption)
        ]
        assert row["Bases"] == ", ".join(bases).replace("`Exception`", "-")
        own = set(inspect.signature(classes[name].__init__).parameters) - {"self", "args", "kwargs", "details"}
        own |= {key for key, value in vars(classes[name]).items() if isinstance(value, property)}
        assert set(re.findall(r"`(\w+)`", row["Attributes"])) == own, name


def test_table_of_backends_is_generated() -> None:
    """The table of capabilities is the one that `backend_table` generates from the classes."""
    page = (REFERENCE / "backends.md").read_text()
    assert page == backend_table.with_table(page), "write it with `python tests/support/backend_table.py`"


def test_every_backend_has_a_section() -> None:
    """Each backend has a section with its signature as the heading."""
    for name in executors.backends.__all__:
        if name in {"ExecutorBackend", "Job"}:
            continue
        signature = inspect.signature(getattr(executors.backends, name))
        parameters = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
        assert f"\n## `{name}{inspect.Signature(parameters)}`\n" in (REFERENCE / "backends.md").read_text()


def test_every_argument_of_the_process_backend_is_documented() -> None:
    """The table has each argument, with the executor setting for it."""
    rows = table(REFERENCE / "backends.md", "Argument")
    assert list(rows) == list(inspect.signature(ProcessBackend).parameters)
    settings = {name: row["Executor setting"] for name, row in rows.items()}
    assert settings.pop("setup") == "made by `QuartExecutor`"
    assert {setting.strip("`") for setting in settings.values()} <= set(Settings.__dataclass_fields__)


def test_constants_of_the_process_backend_are_documented() -> None:
    """The table of constants has the values of the code."""
    starts = starter.StartCircuit()
    pauses = [starts.failed(100.0 * number, "") for number in range(20)]
    sizes = [pickling.BUFFER_SIZE, segments.MIN_SIZE, job.INLINE_LIMIT]
    assert list(table(REFERENCE / "backends.md", "Constant")) == [
        f"{1000 * prefetch.PREFETCH_WINDOW:g} ms",
        f"{prefetch.MAX_PREFETCHED} tasks",
        *(f"{size // 1024} KiB" for size in sizes),
        f"{worker_handle.COPY_SIZE // 1024**2} MiB",
        "a quarter of the memory",
        f"{memory._MAX_SHARED // 1024**3} GiB, {segments._MAX_SEGMENTS} segments",
        f"{pool.TRIM_INTERVAL:g} s",
        f"{launcher.START_TIMEOUT:g} s",
        f"{1000 * pauses[0]:g} ms, {1000 * pauses[1]:g} ms, {pauses[2]:g} s, {pauses[3]:g} s, … {pauses[-1]:g} s",
        f"{prefetch.MAX_DISPATCHES} workers",
        f"{pool.RETIRE_TIMEOUT:g} s",
    ]


def test_every_public_name_is_documented() -> None:
    """The reference has every public name of `executors`."""
    text = "".join(page.read_text() for page in REFERENCE.glob("*.md"))
    assert [name for name in executors.__all__ if f"`{name}" not in text] == []


@pytest.mark.parametrize(
    "module",
    [executors, executors.asgi, executors.backends, executors.monitor, executors.quart, executors.testing],
    ids=lambda m: m.__name__,
)
def test_every_docstring_is_on_the_site(module: ModuleType) -> None:
    """The page of modules names each public name, and no other, so that Sphinx shows its docstring there."""
    page = (REFERENCE / "modules.md").read_text()
    prose = {"executors.quart": {"Quart"}, "executors.testing": {"unseen_failures"}}.get(module.__name__, set())
    shown = re.findall(rf"^\.\. (?!automodule).*:: {re.escape(module.__name__)}\.(\w+)(?![\w.])", page, re.MULTILINE)
    assert sorted({*shown, *prose}) == sorted(module.__all__)


def test_the_design_page_names_existing_modules() -> None:
    """Each file and folder in the table of the layout exists."""
    rows = table(ROOT / "docs" / "discussion" / "design.md", "Where")
    named = [name for row in rows.values() for name in re.findall(r"`([\w./]+)`", row["Where"])]
    assert [name for name in named if not (ROOT / "executors" / name).exists()] == []


def test_every_event_is_on_the_site() -> None:
    """The page of modules names each event, so that Sphinx shows its docstring there."""
    shown = re.findall(r":: executors\.events\.(\w+)\(\)$", (REFERENCE / "modules.md").read_text(), re.MULTILINE)
    kinds = [name for name, value in vars(events).items() if inspect.isclass(value) and issubclass(value, TaskEvent)]
    assert {"Hook", *kinds} == set(shown)


def messages_of_the_code() -> str:
    """Return every string of the package, with … for what is formatted into it."""
    found = []
    for source in (ROOT / "executors").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[a-z.0-9]+", "…", node.value))
    return "\n".join(found)


def test_messages_of_troubleshooting() -> None:
    """The messages in the headings of the troubleshooting page, and those it quotes with …, are those of the code."""
    code = messages_of_the_code()
    page = (ROOT / "docs" / "how_to_guides" / "troubleshooting.md").read_text().partition("## Messages of Python")[0]
    shown = [line for line in page.splitlines() if line.startswith("### ")]
    quoted = re.findall("`([^`]*…[^`]*)`", " ".join([*shown, page.replace("\n", " ")]))
    fragments = {part.strip() for text in quoted for part in text.split("…") if len(part.strip()) > 3}
    assert len(fragments) > 50
    assert sorted(fragment for fragment in fragments if re.sub(r"\s+", " ", fragment) not in code) == []
