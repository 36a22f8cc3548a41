"""`executors demo`: start the app, use it, and show what happened."""

from __future__ import annotations

import asyncio
import signal
import sysconfig
import time
from itertools import cycle, islice
from pathlib import Path
from random import Random

from rich.console import Console

from executors._cpus import available_cpus
from executors.bench.client import probe
from executors.demo.client import Source, Uploader
from executors.demo.launch import SHUTDOWN_TIMEOUT, DemoError, Server, serving
from executors.demo.report import Findings, Measured, Watch, show_drain, show_findings, show_measured, watching

PING_RATE = 50
PING_TIMEOUT = 10.0
SIZES = range(2_000, 60_000)

HOW_TO_USE = """\
The app serves on {address} until Ctrl-C. For example:
  curl --data-binary @setup.py '{address}/files?name=setup.py'
  curl {address}/files/ID
  curl {address}/functions
  curl {address}/duplicates
  curl {address}/stats"""


def find_sources(folder: Path | None = None) -> list[Source]:
    """Read Python files, in an order that is mixed and always the same.

    Args:
        folder: Where they are; the standard library if None.

    Raises:
        DemoError: There are none.
    """
    root = folder or Path(sysconfig.get_path("stdlib"))
    found = []
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if {"test", "tests", "site-packages"}.isdisjoint(inside.parts) and path.stat().st_size in SIZES:
            found.append(Source(inside.as_posix(), path.read_bytes()))
    if not found:
        raise DemoError(f"{root} has no Python files of {SIZES.start} to {SIZES.stop} bytes: name another folder")
    Random(1).shuffle(found)  # noqa: S311
    return found


async def measure(server: Server, sources: list[Source], seconds: float, watch: Watch) -> Measured:
    """Upload files and ping for some time, from when the app has warmed up; then wait for what is under way."""
    cpus = available_cpus()
    uploader = Uploader(server.client, cycle(sources), under_way=24 * cpus, warm_up=4 * cpus)
    async with asyncio.TaskGroup() as group:
        group.create_task(uploader.run())
        await uploader.warm_up()
        began, before = time.monotonic(), uploader.examined
        pinging = group.create_task(probe(server.client, "/ping", PING_RATE, seconds, PING_TIMEOUT))
        while (passed := time.monotonic() - began) < seconds:
            watch(passed, uploader.examined - before)
            await asyncio.sleep(min(0.3, seconds - passed))
        await uploader.look()
        files, passed = uploader.examined - before, time.monotonic() - began
        watch(seconds, files)
        await uploader.finish()
    return Measured(files, passed, pinging.result().latencies)


async def ask(server: Server) -> Findings:
    """Ask the app what it has done and found."""
    get = server.client.get
    return Findings(await get("/stats"), await get("/functions?limit=3"), await get("/duplicates?limit=1"))


async def compare(console: Console, seconds: float, folder: Path | None) -> None:
    """Run the app with its executor, stop it with work in flight, run it without, and show all that.

    Args:
        console: Where.
        seconds: How long to measure each.
        folder: Where the files to upload are; the standard library if None.
    """
    sources = find_sources(folder)
    console.print(
        f"Uploading {len(sources)} files of {folder or 'the standard library'} to a Quart app under Hypercorn."
    )
    with watching(console, seconds) as watch:
        async with serving() as server:
            in_workers = await measure(server, sources, seconds, watch("in worker processes"))
            findings = await ask(server)
            burst = int(in_workers.files / in_workers.seconds * SHUTDOWN_TIMEOUT * 1.5) + 20
            async with asyncio.TaskGroup() as group:
                for source in islice(cycle(sources), min(burst, 1000)):
                    group.create_task(server.client.upload(source))
            drained = await server.stop()
        async with serving(plain=True) as server:
            in_threads = await measure(server, sources, seconds, watch("in Quart's threads"))
    show_findings(console, findings)
    show_measured(console, PING_RATE, in_workers, in_threads)
    show_drain(console, drained)


async def serve(console: Console) -> None:
    """Keep the app running until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(quiet=False) as server:
        console.print(HOW_TO_USE.format(address=server.address), highlight=False, soft_wrap=True)
        await stop.wait()
        show_drain(console, await server.stop())


async def _until_sigterm(console: Console, seconds: float, folder: Path | None) -> None:
    task = asyncio.ensure_future(compare(console, seconds, folder))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


def main(seconds: float, folder: Path | None, *, keep_serving: bool) -> int:
    """Run the demo.

    Returns:
        The exit status: 0, 1 if it failed, 130 if it was interrupted.
    """
    console = Console()
    try:
        asyncio.run(serve(console) if keep_serving else _until_sigterm(console, seconds, folder))
    except DemoError as error:
        Console(stderr=True).print(f"executors demo: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Interrupted; everything is stopped.")
        return 130
    return 0
