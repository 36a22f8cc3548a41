"""The demo's server: the app under Hypercorn, in a process of its own.

``python -m executors.demo.server FD FOLDER``, with a listening socket at FD and a pipe as stdin. SIGTERM makes it drain
and end, and write the drain report to stdout as JSON. So does the pipe's end: whoever started the server is gone then,
and it removes the folder, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys

from hypercorn.asyncio import serve

from executors.bench.serving import config_for
from executors.demo.app import app


async def run(descriptor: int, folder: str) -> None:
    """Serve the app until it is time to end.

    Args:
        descriptor: The listening socket.
        folder: Is removed if nobody else is there to do it.
    """
    loop = asyncio.get_running_loop()
    stop, orphaned = asyncio.Event(), asyncio.Event()

    def on_stdin() -> None:
        if not os.read(0, 1):
            loop.remove_reader(0)
            orphaned.set()
            stop.set()

    loop.add_reader(0, on_stdin)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await serve(app, config_for(descriptor), shutdown_trigger=stop.wait)
    if orphaned.is_set():
        shutil.rmtree(folder, ignore_errors=True)
    elif "executor" in app.extensions:
        report = app.extensions["executor"].drain_report
        said = {"summary": str(report).splitlines()[0], "unsuccessful": list(map(str, report.unsuccessful))}
        sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), sys.argv[2]))
