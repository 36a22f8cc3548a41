"""Servers of an app with a dashboard, and requests to it as a page of it sends them."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from servers import TIMEOUT, Server, find_port

APPS = Path(__file__).parents[1] / "dashboard" / "apps"
HYPERCORN = ["-m", "hypercorn", "-b", "127.0.0.1:{port}", "watched:app", "-w", "2"]
UVICORN = ["-m", "uvicorn", "--port", "{port}", "watched:app"]


@contextmanager
def serving(command: list[str], folder: Path, control_dir: str, **variables: str) -> Iterator[Server]:
    """Serve the app while the block runs."""
    path = os.pathsep.join([str(APPS), *filter(None, [os.environ.get("PYTHONPATH")])])
    server = Server(command, find_port(), folder, SERVED_CONTROL=control_dir, PYTHONPATH=path, **variables)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def asking(server: Server, path: str, method: str = "GET") -> Iterator[http.client.HTTPResponse]:
    """Send a request as a page of this site does, on a connection of its own, which any server process may accept."""
    origin = f"http://127.0.0.1:{server.port}"
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)) as connection:
        connection.request(method, path, headers={"Origin": origin, "Sec-Fetch-Site": "same-origin"})
        yield connection.getresponse()
