"""The demo: its computations, its measurements, and that it leaves nothing behind, however it ends."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from processes import check_it_ends_by, eventually, in_session, shown_on_a_terminal

from executors.demo import analysis, client, store

LONG = """
def {name}(rows, limit):
    found = {{}}
    for row in rows:
        if row.kind == "a" and row.size > limit:
            found.setdefault(row.key, []).append(row.size * 2)
        elif row.kind == "b" or row.size < 0:
            found.pop(row.key, None)
        else:
            try:
                found[row.key] = [int(part) for part in row.text.split(",") if part.strip()]
            except ValueError as error:
                raise RuntimeError("a row that is no list of numbers: " + row.text) from error
    total = sum(len(values) for values in found.values())
    while total > limit:
        key, values = found.popitem()
        total -= len(values)
        print("dropped", key, "with", len(values), "values of", total)
    return sorted(found.items(), key=lambda item: (len(item[1]), item[0])), total
"""


@pytest.mark.parametrize(
    ("body", "complexity"),
    [
        ("return 1", 1),
        ("if a: return 1", 2),
        ("if a and b or c: return 1\nelif d: return 2", 5),
        ("return [x for x in a if x]", 2),
        ("try: a()\nexcept ValueError: b()\nexcept TypeError: c()", 3),
        ("while a: pass\nfor x in b: assert x", 4),
        ("match a:\n  case 1: pass\n  case 2: pass", 3),
        ("return 1 if a else 2", 2),
    ],
)
def test_complexity_counts_branches(body: str, complexity: int) -> None:
    """Cyclomatic complexity is one plus the number of branches."""
    source = "def f():\n" + "\n".join(f"    {line}" for line in body.splitlines())
    (function,) = analysis.analyse(source.encode())
    assert function.complexity == complexity


def test_nested_functions_are_found() -> None:
    """Methods and nested functions have qualified names; their branches don't count for the outer function."""
    source = """
    class Outer:
        class Inner:
            async def method(self):
                def nested():
                    if a: pass
    if flag:
        def conditional(): pass
    """
    found = analysis.analyse(dedent(source).encode())
    assert [(one.name, one.line, one.complexity) for one in found] == [
        ("Outer.Inner.method", 4, 1),
        ("Outer.Inner.method.nested", 5, 2),
        ("conditional", 8, 1),
    ]


def signature(source: str) -> bytes:
    (function,) = analysis.analyse(source.encode())
    return function.signature


def test_signature_depends_only_on_code() -> None:
    """Layout, comments, docstring and name don't change a signature; a small function has none."""
    other = ast.unparse(ast.parse(LONG.format(name="other"))).replace(":\n", ':\n    """Doc."""  # why\n', 1)
    assert signature(LONG.format(name="one")) == signature(other) != b""
    assert signature("def f(): return 1") == b""


def test_similarity() -> None:
    """A changed function is less similar than an identical one, and more similar than an unrelated one."""
    one = signature(LONG.format(name="one"))
    changed = signature(LONG.format(name="one").replace("row.size * 2", "row.size + len(found)"))
    unrelated = signature("def f(a):\n" + "\n".join(f"    a.x{i} = call_{i}(a, {i})" for i in range(60)))
    assert analysis.similarity(one, one) == 1
    assert 0.6 < analysis.similarity(one, changed) < 1
    assert analysis.similarity(one, unrelated) < 0.2
    assert [pair[1:] for pair in analysis.alike([unrelated, one, changed])] == [(1, 2)]


def test_store_finds_duplicates_between_files(tmp_path: Path) -> None:
    """Pairs are from different files, however often one was uploaded. Facts are stored before the analysis."""
    path = tmp_path / "files.sqlite3"
    store.create(path)
    source = LONG.format(name="one").encode()
    store.add_file(path, "1", "a.py", source)
    facts = store.file(path, "1")
    assert facts is not None
    assert (facts["name"], facts["size"], facts["functions"]) == ("a.py", len(source), None)
    store.add_analysis(path, "1", analysis.analyse(source))
    for file_id, name in (("2", "a.py"), ("3", "b.py")):
        store.add_file(path, file_id, name, source)
        store.add_analysis(path, file_id, analysis.analyse(source))
    (pair,) = store.duplicates(path, 10)
    assert pair["similarity"] == 1
    assert {one["file"] for one in pair["functions"]} == {"a.py", "b.py"}
    assert len(store.most_complex(path, 10)) == 2
    assert store.examined(path) == 3
    assert store.file(path, "4") is None


# --- the command ------------------------------------------------------------------------------------------------------


SMALL = LONG.format(name="function") * 3
"""A file of the smallest size that the demo uploads."""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Return a folder of small files: those of the standard library take seconds to analyse."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.py").write_text(SMALL.replace("function", f"function_{number}"))
    return folder


SHORT = 0.6
SHORT_DRAIN = (
    "-c",
    f"""
import sys
from executors import cli
from executors.demo import client, run
client.SHUTDOWN_TIMEOUT = run.SHUTDOWN_TIMEOUT = {SHORT}
sys.exit(cli.main(sys.argv[1:]))
""",
)
"""The program with a short shutdown timeout, in which the demo keeps all CPUs busy."""


@contextmanager
def demo(tmp_path: Path, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run the demo in a session of its own, and assert that it leaves no process and no file behind."""
    program = options.pop("program", ("-m", "executors"))
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen(
        [sys.executable, *program, "demo", *arguments],
        env={**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "90"},
        text=True,
        start_new_session=True,
        **options,
    ) as process:
        try:
            yield process
            process.wait(30)
            assert eventually(lambda: in_session(process.pid) == [], within=10), in_session(process.pid)
            assert list(tmp_path.glob("executors-demo-*")) == []
        finally:
            for pid in in_session(process.pid):
                with suppress(ProcessLookupError):  # it has ended by itself meanwhile
                    os.kill(pid, signal.SIGKILL)


def check_report(text: str) -> None:
    assert "The most complex functions" in text
    assert re.search(r"process +examine +\d+", text)
    assert re.search(r"thread +store_facts +\d+", text)
    assert re.search(r"loop +announce +\d+", text)
    for row in (r"files per second( +[\d.]+){2}", r"ping p50( +[\d.]+ ms){2}", r"ping p99( +[\d.]+ ms){2}"):
        assert re.search(row, text), text
    assert re.search(rf"drained in [\d.]+ s of {SHORT:g} s: \d+ succeeded", text), text[-1000:]


def test_demo_succeeds(tmp_path: Path, sources: Path) -> None:
    """The demo prints all results, as plain text without a terminal, and its exit status is 0."""
    with demo(tmp_path, "--seconds=0.5", f"--folder={sources}", program=SHORT_DRAIN) as process:
        out, err = process.communicate(timeout=50)
        assert (process.returncode, err) == (0, "")
        assert "\x1b" not in out
        assert "━" not in out.partition("The most complex")[0]
        check_report(out)


def test_progress_bar_on_a_terminal(tmp_path: Path, sources: Path) -> None:
    """On a terminal, the demo shows progress bars while it measures: of the measurement, and of tasks that run."""
    arguments = ("--seconds=1.5", f"--folder={sources}")  # five looks at what runs
    text = shown_on_a_terminal(partial(demo, tmp_path, *arguments, program=SHORT_DRAIN))
    assert "━" in text
    assert "in worker processes" in text
    assert re.search(r"\d+ of \d+ functions of \S+\.py", text)
    check_report(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signal_ends_all_processes(tmp_path: Path, number: signal.Signals) -> None:
    """A signal also ends the busy server and its workers, and the files are removed."""
    with demo(tmp_path, "--seconds=30") as process:
        check_it_ends_by(number, process)


def fetch(url: str, data: bytes | None = None) -> Any:
    with urllib.request.urlopen(url, data, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_runs_the_app_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """`--serve` prints the address; the app works until a signal arrives, and the exit status is 0."""
    with demo(tmp_path, "--serve") as process:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found is not None
        address = found[0]
        source = LONG.format(name="one").encode()
        accepted = [
            fetch(f"{address}/files?name={name}.py", data)
            for name, data in (("a", source), ("b", source), ("broken", b"def"))
        ]
        first, _, broken = (each["id"] for each in accepted)
        assert eventually(lambda: fetch(f"{address}/stats")["examined"] == 3, within=20)
        assert fetch(f"{address}/files?after=1") == ["b.py", "broken.py"]
        assert [one["name"] for one in fetch(f"{address}/files/{first}")["functions"]] == ["one"]
        assert eventually(lambda: fetch(f"{address}/tasks/{accepted[0]['task']}")["state"] == "succeeded", within=20)
        task = fetch(f"{address}/tasks/{accepted[0]['task']}")
        assert task["progress"] == {"done": 1.0, "total": 1.0, "message": "a.py"}
        with urllib.request.urlopen(f"{address}/tasks/{task['id']}/events", timeout=30) as events:
            assert '"state": "succeeded", "progress": {"done": 1.0' in events.read().decode()
        assert fetch(f"{address}/files/{broken}")["error"].startswith("invalid syntax")
        assert [one["file"] for one in fetch(f"{address}/functions")] == ["a.py", "b.py"]
        assert fetch(f"{address}/duplicates")[0]["similarity"] == 1
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(f"{address}/files/none")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(f"{address}/tasks/none")
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
        assert f"of {client.SHUTDOWN_TIMEOUT} s: " in out
        assert "drained in" in out


def test_dashboard_of_a_busy_app(tmp_path: Path, sources: Path) -> None:
    """`--dashboard` prints the URL of a page that shows the tasks of an app under load, only to this machine."""
    with demo(tmp_path, "--dashboard", f"--folder={sources}") as process:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/executors/", process.stdout.readline())
        assert found is not None

        def functions() -> set[str]:
            with urllib.request.urlopen(f"{found[0]}events", timeout=30) as events:
                data = next(line for line in events if line.startswith(b"data: "))
            return {function["name"] for function in json.loads(data[6:])["functions"]}

        assert eventually(lambda: functions() == {"examine", "store_facts", "announce"}, within=20)
        by_name = urllib.request.Request(found[0], headers={"Host": "evil.test"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(by_name, timeout=10)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
        assert "drained in" in out
