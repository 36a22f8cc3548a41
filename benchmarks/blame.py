"""Whether the monitor blames whom it should: `python -m benchmarks.blame [--runs N] [--loop NAME]`.

Each run plants more than 40 kinds of culprits one after the other, with innocents beside them. Precision is the share
of the blamed that are culprits, recall the share of the culprits that are blamed. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable
from types import FunctionType
from typing import Any

import anyio
import anyio.lowlevel
import trio
from quart import Quart
from quart_trio import QuartTrio

from benchmarks.delays import Work, loop_in_python, works
from executors import Executor, ExecutorWarning
from executors.events import TaskEvent, TaskFinished
from executors.monitor import Blame, LoopMonitor
from executors.quart.monitor import request_handlers

QUIET, PERIOD = 0.05, 0.02
"""Seconds between two culprits, and between two heartbeats."""

GOAL = 0.97

Planted = Callable[["Site"], Awaitable[None]]


def named(function: Any, name: str) -> Any:
    """Return the function under a name of its own, which blame will have."""
    code = function.__code__.replace(co_name=name, co_qualname=name)
    found = FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)
    found.__qualname__ = name
    return found


# --- where it happens -----------------------------------------------------------------------------------------------


HOOKS: list[Callable[[TaskEvent], None]] = []


class Site:
    """One run's executor, event loop and app."""

    def __init__(self, library: str) -> None:
        self.library = library
        self.app: Any = QuartTrio("blame") if library == "trio" else Quart("blame")
        self.executor: Executor

    def call_soon(self, function: Callable[[], object]) -> None:
        if self.library == "trio":
            trio.lowlevel.current_trio_token().run_sync_soon(function)
        else:
            import asyncio

            asyncio.get_running_loop().call_soon(function)


def _call(work: Work) -> Callable[[], None]:
    def culprit() -> None:
        work()

    return culprit


def step(name: str, work: Work) -> Planted:
    async def culprit() -> None:
        work()

    return lambda site: site.executor.run(named(culprit, name))  # type: ignore[return-value]


def generator(name: str, work: Work) -> Planted:
    async def items() -> Any:
        for number in range(2):
            await anyio.lowlevel.checkpoint()
            yield number
        work()

    async def culprit() -> None:
        async for _ in items():
            pass

    return lambda site: site.executor.run(named(culprit, name))  # type: ignore[return-value]


def loop_task(name: str, work: Work) -> Planted:
    async def culprit() -> None:
        work()

    async def plant(site: Site) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(named(culprit, name))

    return plant


def callback(name: str, work: Work) -> Planted:
    async def plant(site: Site) -> None:
        site.call_soon(named(_call(work), name))

    return plant


def hook(name: str, work: Work) -> Planted:
    def culprit(event: TaskEvent) -> None:
        if isinstance(event, TaskFinished) and event.name == f"notified_of_{name}":
            work()

    async def plant(site: Site) -> None:
        await site.executor.run(named(anyio.lowlevel.checkpoint, f"notified_of_{name}"))

    HOOKS.append(named(culprit, name))
    return plant


def route(name: str, work: Work) -> Planted:
    async def culprit() -> str:
        work()
        return ""

    async def plant(site: Site) -> None:
        site.app._got_first_request = False
        site.app.add_url_rule(f"/{name}", name, named(culprit, name))
        await site.app.test_client().get(f"/{name}")

    return plant


def signal_handler(name: str, work: Work) -> Planted:
    """The signal comes while the loop waits for events."""

    async def plant(site: Site) -> None:
        before = signal.signal(signal.SIGUSR1, named(lambda number, frame: work(), name))
        timer = threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        await anyio.sleep(0.1)
        signal.signal(signal.SIGUSR1, before)
        timer.join()

    return plant


def destructor(name: str, work: Work) -> Planted:
    """The argument of a callback is gone once the loop has dropped the callback."""

    class Argument:
        __del__ = named(lambda self: work(), name)

    def use(argument: Argument) -> None:
        pass

    async def plant(site: Site) -> None:
        if site.library == "trio":
            trio.lowlevel.current_trio_token().run_sync_soon(use, Argument())
        else:
            import asyncio

            asyncio.get_running_loop().call_soon(use, Argument())

    return plant


def thread_task(name: str, work: Work) -> Planted:
    def culprit() -> None:
        for _ in range(4):
            work()

    return lambda site: site.executor.run(named(culprit, name))  # type: ignore[return-value]


def thread(name: str, work: Work) -> Planted:
    def culprit() -> None:
        for _ in range(4):
            work()

    async def plant(site: Site) -> None:
        await anyio.to_thread.run_sync(named(culprit, name))

    return plant


SITES: dict[Callable[[str, Work], Planted], tuple[str, str]] = {
    step: ("step", "sleep receive select program event queue lock python recursion generator json sum sort power hash"),
    generator: ("step", "sleep python"),
    loop_task: ("other", "sleep python sum hash compress"),
    callback: ("other", "sleep python sort regex pickle"),
    hook: ("other", "sleep python"),
    route: ("route", "sleep python json sum"),
    signal_handler: ("other", "sleep python sum"),
    destructor: ("other", "sleep python sum"),
    thread_task: ("thread", "python recursion json sum power"),
    thread: ("other", "python generator sum"),
}
"""The kind of blame, and the works that are planted there."""  # fmt: skip


# --- innocents ------------------------------------------------------------------------------------------------------


async def polite_coroutine() -> None:
    while True:
        await anyio.sleep(0.02)
        loop_in_python()


def waiting_thread(stopped: threading.Event) -> None:
    while not stopped.wait(0.02):
        pass


def hashing_thread(stopped: threading.Event) -> None:
    """Computes without the GIL."""
    while not stopped.wait(0.05):
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 20_000)


# --- measurement ----------------------------------------------------------------------------------------------------


async def run(library: str, planted: dict[str, Planted]) -> list[Blame]:
    """Plant all culprits in any order, and return whom the monitor blames."""
    site, stopped = Site(library), threading.Event()
    monitor = LoopMonitor(period=PERIOD, request_handlers=request_handlers(site.app))
    order = list(planted.values())
    random.shuffle(order)
    async with Executor(threads=6, processes=0, hooks=HOOKS) as site.executor, monitor:
        innocents = [site.executor.submit(polite_coroutine)]
        innocents += [site.executor.submit(function, stopped) for function in (waiting_thread, hashing_thread)]
        for plant in order:
            await anyio.sleep(QUIET)
            await plant(site)
        for _ in range(3):  # the first sleep may end together with the last delay, before that is explained
            await anyio.sleep(QUIET)
        stopped.set()
        innocents[0].cancel()
        return monitor.report().blame


def measure(loop: str, runs: int) -> bool:
    """Print precision and recall on a loop, with each mistake, and return whether they are good."""
    work = works()
    kinds = {f"{site.__name__}_{name}": kind for site, (kind, names) in SITES.items() for name in names.split()}
    planted = {
        f"{site.__name__}_{name}": site(f"{site.__name__}_{name}", work[name])
        for site, (_, names) in SITES.items()
        for name in names.split()
    }
    wrong: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    right = 0
    for _ in range(runs):
        blame = anyio.run(
            run,
            "trio" if loop == "trio" else "asyncio",
            planted,
            backend="trio" if loop == "trio" else "asyncio",
            backend_options={"use_uvloop": True} if loop == "uvloop" else {},
        )
        found = {
            entry.name.rpartition(".")[2] for entry in blame if kinds.get(entry.name.rpartition(".")[2]) == entry.kind
        }
        right += len(found)
        wrong.update(
            f"{entry.kind} {entry.name} {entry.worst:.3f}"
            for entry in blame
            if kinds.get(entry.name.rpartition(".")[2]) != entry.kind
        )
        missed.update(kinds.keys() - found)
    precision, recall = right / (right + wrong.total()), right / (runs * len(kinds))
    print(f"{loop}: {len(kinds)} kinds, {runs} runs, precision {precision:.3f}, recall {recall:.3f}", flush=True)  # noqa: T201
    for what, count in (*((f"wrong: {name}", n) for name, n in wrong.most_common()),
                        *((f"missed: {name}", n) for name, n in missed.most_common())):  # fmt: skip
        print(f"  {count} × {what}")  # noqa: T201
    return min(precision, recall) >= GOAL


def main() -> None:
    """Measure on each loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "trio"])
    options = parser.parse_args()
    logging.disable()  # of advice
    warnings.simplefilter("ignore", ExecutorWarning)
    loops = [options.loop] if options.loop else ["asyncio", "uvloop", "trio"]
    raise SystemExit(not all([measure(loop, options.runs) for loop in loops]))  # noqa: C419  (each prints)


if __name__ == "__main__":
    main()
