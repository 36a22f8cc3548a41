"""An app with a command that adds tasks, for `quart --app commanded work`."""

from __future__ import annotations

import asyncio

import background
import click
from quart import Quart, current_app

from executors.quart import QuartExecutor

app = Quart(__name__)
app.config.update(EXECUTOR_THREADS=1, EXECUTOR_PROCESSES=1, EXECUTOR_SHUTDOWN_TIMEOUT=30)
executor = QuartExecutor(app)


async def coroutine() -> None:
    await asyncio.sleep(0.01)
    click.echo(f"coroutine of {current_app.name}")


def function() -> None:
    click.echo(f"function of {current_app.name}")


@app.cli.command("work", with_appcontext=True)
def work() -> None:
    app.add_background_task(coroutine)
    app.add_background_task(function)
    handle = app.add_background_task(background.double, 2)
    handle.add_done_callback(lambda handle: click.echo(f"doubled {handle.result()}"))
    click.echo("all added")
