"""`executors bench`: check what was asked for, run it, and show what was found."""

from __future__ import annotations

import asyncio
import signal
import sys
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from executors._callables import is_coroutine_function
from executors.bench.arms import arms_for
from executors.bench.children import BenchError
from executors.bench.results import Findings
from executors.bench.run import Plan, run
from executors.bench.show import show_findings, show_plan, watching
from executors.bench.target import TargetError, check_arguments, find_app, find_function
from executors.errors import ExecutorError


def plan_of(said: Namespace) -> Plan:
    """Make a plan of the command line's arguments, which names a function and arguments that fit it.

    Raises:
        TargetError: Something that is named isn't there, or can't be used.
    """
    function = find_function(said.target)
    check_arguments(function, said.args, said.kwargs)
    is_coroutine = is_coroutine_function(function)
    names = ("target", "args", "kwargs", "app", "concurrency", "rate", "seconds", "rounds")
    return Plan(
        **{name: getattr(said, name) for name in names},
        arms=arms_for(said.backends, find_app(said.app) if said.app else None, is_coroutine=is_coroutine),
        is_coroutine=is_coroutine,
    )


async def _until_sigterm(console: Console, plan: Plan) -> Findings:
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):  # Windows knows none
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with watching(console, plan) as watch:
        return await run(plan, watch)


def write(findings: Findings, json: Path | None, html: Path | None) -> None:
    """Write the files that were asked for."""
    if json is not None:
        json.write_text(findings.to_json() + "\n")
    if html is not None:
        from executors.bench.page import write as write_page  # noqa: PLC0415  (few ask for it)

        write_page(findings, html)


def main(said: Namespace) -> int:
    """Run the bench.

    Returns:
        The exit status: 0, 1 if it failed, 130 if it was interrupted.
    """
    console = Console()
    try:
        plan = plan_of(said)
        show_plan(console, plan)
        findings = asyncio.run(_until_sigterm(console, plan))
        show_findings(console, findings)
        write(findings, said.json, said.html)
    except (TargetError, BenchError, ExecutorError, OSError) as error:
        sys.stderr.write(f"executors bench: {error}\n")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Interrupted; everything is stopped.")
        return 130
    return 0
