"""The demo's server process. Not part of `app`, which the worker processes import as well."""

from __future__ import annotations

from shutil import rmtree

from executors.bench.children import Parent
from executors.bench.server import serving
from executors.demo.app import app


async def main(parent: Parent) -> None:
    """Entry point, which answers two requests.

    1. The folder of the database, which is removed in the end: the port.
    2. To stop: the drain report; None if the app has no executor.
    """
    folder = await parent.receive()
    try:
        async with serving(app) as port:
            parent.answer(port)
            await parent.receive()  # cancelled when the parent is gone
    finally:
        rmtree(folder, ignore_errors=True)
    if "executor" not in app.extensions:
        parent.answer(None)
        return
    report = app.extensions["executor"].drain_report
    parent.answer({"summary": str(report).splitlines()[0], "unsuccessful": list(map(str, report.unsuccessful))})
