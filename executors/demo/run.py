"""`executors demo`: start the app, put load on it, and show in the terminal what happened."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from executors._cpus import available_cpus
from executors.bench.client import probe
from executors.bench.results import percentile
from executors.demo.client import SHUTDOWN_TIMEOUT, DemoError, Server, Source, Uploader, serving

PING_RATE = 50
PING_TIMEOUT = 10.0
FILE_SIZES = range(2_000, 60_000)
MAX_BURST = 1000
MAX_UNSUCCESSFUL_SHOWN = 3
MAX_RUNNING_SHOWN = 4

HOW_TO_USE = """\
The app serves on {address} until Ctrl-C. For example:
  curl --data-binary @setup.py '{address}/files?name=setup.py'
  curl {address}/files/ID
  curl {address}/tasks/TASK
  curl -N {address}/tasks/TASK/events
  curl {address}/functions
  curl {address}/duplicates
  curl {address}/stats"""

HOW_TO_WATCH = """\
The app serves under load until Ctrl-C. Its dashboard: {address}/executors/"""

OnProgress: TypeAlias = Callable[[float, int, list[dict[str, Any]]], None]
"""Called with the seconds that have passed, the number of files analysed, and the progress of those that are not."""


@dataclass(frozen=True)
class Measured:
    """The figures of one server under load.

    Attributes:
        files: How many files were analysed.
        seconds: How long that took.
        latencies: The seconds that each ping took.
    """

    files: int
    seconds: float
    latencies: list[float]


def main(seconds: float, folder: Path | None, *, keep_serving: bool, dashboard: bool = False) -> int:
    """Run the demo.

    Args:
        seconds: How long to measure each of the two servers.
        folder: The folder of the files to upload; the standard library if None.
        keep_serving: Whether to only run the app, until SIGINT or SIGTERM.
        dashboard: Whether to run the app under load until then, with its dashboard.

    Returns:
        The exit status: 0, 1 if it failed, 130 if it was interrupted.
    """
    console = Console()
    try:
        if keep_serving or dashboard:
            asyncio.run(serve(console, find_sources(folder) if dashboard else []))
        else:
            asyncio.run(_until_sigterm(console, seconds, folder))
    except DemoError as error:
        Console(stderr=True).print(f"executors demo: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Interrupted; everything is stopped.")
        return 130
    return 0


async def _until_sigterm(console: Console, seconds: float, folder: Path | None) -> None:
    task = asyncio.ensure_future(compare(console, seconds, folder))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


async def serve(console: Console, watched: list[Source]) -> None:
    """Run the app until SIGINT or SIGTERM, then show its drain report.

    Args:
        console: The console.
        watched: Files that are uploaded all the time, to an app with a dashboard; empty for an app without.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(quiet=False, dashboard=bool(watched)) as server:
        text = HOW_TO_WATCH if watched else HOW_TO_USE
        console.print(text.format(address=server.address), highlight=False, soft_wrap=True)
        uploading = asyncio.ensure_future(_upload(server, watched))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({stopping, uploading} if watched else {stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        uploading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await uploading  # raises why it has ended
        show_drain(console, await server.stop())


async def _upload(server: Server, sources: list[Source]) -> None:
    """Keep the server busy."""
    if sources:
        await Uploader(server.client, cycle(sources), in_progress=4 * available_cpus(), warm_up=1).run()


async def compare(console: Console, seconds: float, folder: Path | None) -> None:
    """Run the app with its executor, stop it with tasks in flight, run it without, and show the results."""
    sources = find_sources(folder)
    console.print(
        f"Uploading {len(sources)} files of {folder or 'the standard library'} to a Quart app under Hypercorn."
    )
    with progress_bars(console, seconds) as begin:
        async with serving() as server:
            in_workers = await measure(server, sources, seconds, begin("in worker processes"))
            get = server.client.get
            found = await get("/functions?limit=3"), await get("/duplicates?limit=1"), (await get("/stats"))["finished"]
            burst = int(in_workers.files / in_workers.seconds * SHUTDOWN_TIMEOUT * 1.5) + 20
            async with asyncio.TaskGroup() as group:
                for source in islice(cycle(sources), min(burst, MAX_BURST)):
                    group.create_task(server.client.upload(source))
            drained = await server.stop()
        async with serving(plain=True) as server:
            in_threads = await measure(server, sources, seconds, begin("in Quart's threads"))
    show_functions(console, *found)
    show_measured(console, in_workers, in_threads)
    show_drain(console, drained)


def find_sources(folder: Path | None = None) -> list[Source]:
    """Read Python files, in a shuffled order that is always the same.

    Args:
        folder: The folder to search; the standard library if None.

    Raises:
        DemoError: There are none.
    """
    root = folder or Path(sysconfig.get_path("stdlib"))
    found = []
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if {"test", "tests", "site-packages"}.isdisjoint(inside.parts) and path.stat().st_size in FILE_SIZES:
            found.append(Source(inside.as_posix(), path.read_bytes()))
    if not found:
        raise DemoError(
            f"{root} has no Python files of {FILE_SIZES.start} to {FILE_SIZES.stop} bytes: name another folder"
        )
    Random(1).shuffle(found)  # noqa: S311
    return found


async def measure(server: Server, sources: list[Source], seconds: float, on_progress: OnProgress) -> Measured:
    """Upload files and ping once the app has warmed up; then wait until all files are analysed."""
    cpus = available_cpus()
    uploader = Uploader(server.client, cycle(sources), in_progress=24 * cpus, warm_up=4 * cpus)
    async with asyncio.TaskGroup() as group:
        group.create_task(uploader.run())
        await uploader.warm_up()
        began, before = time.monotonic(), uploader.examined
        pinging = group.create_task(probe(server.client, "/ping", PING_RATE, seconds, PING_TIMEOUT))
        while (passed := time.monotonic() - began) < seconds:
            on_progress(passed, uploader.examined - before, uploader.progress)
            await asyncio.sleep(min(0.3, seconds - passed))
        await uploader.update()
        files, passed = uploader.examined - before, time.monotonic() - began
        on_progress(seconds, files, [])
        await uploader.finish()
    return Measured(files, passed, pinging.result().latencies)


# --- in the terminal --------------------------------------------------------------------------------------------------


@contextmanager
def progress_bars(console: Console, seconds: float) -> Iterator[Callable[[str], OnProgress]]:
    """Show bars for each measurement while the block runs, if the console is a terminal; yield what adds them.

    Below the bar of a measurement are those of the files that workers analyse at the moment, as the tasks report.
    """
    columns = (TextColumn("{task.description:<20}", markup=False), BarColumn(30), TextColumn("{task.fields[text]}"))
    # No automatic refresh: its thread would disturb the pings that this process times.
    progress = Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)

    def begin(description: str) -> OnProgress:
        bar = progress.add_task(description, total=seconds, text="")
        rows = [progress.add_task("", visible=False, text="") for _ in range(MAX_RUNNING_SHOWN)]

        def show(passed: float, files: int, running: list[dict[str, Any]]) -> None:
            progress.update(bar, completed=passed, text=f"{passed:4.1f} s {files:5} files")
            for row in () if running else rows:  # otherwise those that are not needed stay, as lines would jump
                progress.update(row, visible=False)
            for row, one in zip(rows, running, strict=False):
                text = f"{one['done']:g} of {one['total']:g} functions of {one['message']}"
                progress.update(row, completed=one["done"], total=one["total"], text=text, visible=True)
            progress.refresh()

        return show

    with progress:
        yield begin


def show_functions(
    console: Console, functions: list[dict[str, Any]], duplicates: list[dict[str, Any]], finished: list[list[Any]]
) -> None:
    """Show what the app found in the files, and how many tasks of each kind did it."""
    console.print("\n[bold]The most complex functions[/]")
    for function in functions:
        console.print(f"  complexity {function['complexity']:3}  {_place(function)}", highlight=False, soft_wrap=True)
    for pair in duplicates:
        one, other = map(_place, pair["functions"])
        console.print("[bold]The most similar functions of different files[/]")
        console.print(f"  {pair['similarity']:.0%} alike  {one} and {other}", highlight=False, soft_wrap=True)
    table = _table("Tasks", "backend", "task")
    states = sorted({"succeeded", "failed"} | {state for _, _, state, _ in finished}, reverse=True)
    for state in states:
        table.add_column(state, justify="right")
    for name, backend in sorted({(name, backend) for name, backend, _, _ in finished}, key=lambda row: row[::-1]):
        counts = {state: count for *row, state, count in finished if row == [name, backend]}
        table.add_row(backend, name, *(str(counts.get(state, 0)) for state in states))
    console.print()
    console.print(table)
    console.print()


def _place(function: dict[str, Any]) -> str:
    return f"{function['name']} ({function['file']}:{function['line']})"


def _table(title: str, *columns: str) -> Table:
    style = {"title_justify": "left", "title_style": "bold"}
    return Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, title=title, **style)  # type: ignore[arg-type]


def show_measured(console: Console, in_workers: Measured, in_threads: Measured) -> None:
    """Show both measurements side by side."""
    table = _table("The same app and files", "")
    table.add_column("QuartExecutor:\nin worker processes", justify="right")
    table.add_column("Quart alone:\nin its own threads", justify="right")
    both = (in_workers, in_threads)
    table.add_row("files examined", *(f"{one.files} in {one.seconds:.1f} s" for one in both))
    table.add_row("files per second", *(f"{one.files / one.seconds:.1f}" for one in both), end_section=True)
    for label, percent in (("p50", 50), ("p99", 99), ("max", 100)):
        table.add_row(f"ping {label}", *(f"{percentile(one.latencies, percent) * 1000:.1f} ms" for one in both))
    console.print(table)
    console.print(
        f"{PING_RATE} pings a second, each timed from when it was due; all on the same {available_cpus()} CPUs.",
        style="dim",
        highlight=False,
    )


def show_drain(console: Console, drained: dict[str, Any] | None) -> None:
    """Show what happened to the tasks that were in flight when the server was stopped."""
    console.print("\n[bold]The server stops: its drain report[/]")
    if drained is None:
        console.print("  There is none: the server had to be killed.")
        return
    unsuccessful = drained["unsuccessful"]
    lines = [drained["summary"], *unsuccessful[:MAX_UNSUCCESSFUL_SHOWN]]
    if len(unsuccessful) > MAX_UNSUCCESSFUL_SHOWN:
        lines.append(f"and {len(unsuccessful) - MAX_UNSUCCESSFUL_SHOWN} more")
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
