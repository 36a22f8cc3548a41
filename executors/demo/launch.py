"""The demo's server as seen from outside: started, waited for, stopped, and never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from executors.demo.client import DemoClient

SHUTDOWN_TIMEOUT = 2
START_TIMEOUT = 20
END_TIMEOUT = 5


class DemoError(Exception):
    """The demo can't go on. The message says why, and what to do."""


class Server:
    """The server's process. Made by `serving`.

    Attributes:
        client: For its app.
        address: Where the app is.
    """

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.client = DemoClient(port)
        self.address = f"http://127.0.0.1:{port}"

    async def wait_until_ready(self) -> None:
        """Wait until the app answers.

        Raises:
            DemoError: It doesn't.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while self._process.returncode is None:
                    try:
                        await self.client.request("GET", "/ping")
                    except (OSError, EOFError):
                        await asyncio.sleep(0.02)
                    else:
                        return
        except TimeoutError:
            raise DemoError(f"it didn't answer within {START_TIMEOUT} s; try again when less runs here") from None
        raise DemoError("it ended before it answered")

    async def stop(self) -> dict[str, Any] | None:
        """Send SIGTERM, and wait until the server has ended, which is killed if it doesn't. May be called again.

        Returns:
            The drain report, if there is one.
        """
        await self.client.close()
        assert self._process.stdout is not None
        said = b""
        try:
            if self._process.returncode is None:
                self._process.terminate()
            async with asyncio.timeout(SHUTDOWN_TIMEOUT + END_TIMEOUT):
                said = await self._process.stdout.read()
                await self._process.wait()
        except TimeoutError:
            self._process.kill()  # its workers end with it
            await self._process.wait()
        return json.loads(said) if said else None


@asynccontextmanager
async def serving(*, plain: bool = False, quiet: bool = True) -> AsyncIterator[Server]:
    """Start the server, and stop it in the end. Should this process be killed, the server ends by itself.

    Args:
        plain: Whether the app is to do without an executor.
        quiet: Whether what the server logs is only shown if it fails.

    Raises:
        DemoError: It doesn't start, or ends too early.
    """
    with (
        tempfile.TemporaryDirectory(prefix="executors-demo-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as log,
    ):
        environment = {
            "QUART_DATABASE": str(Path(folder, "files.sqlite3")),
            "QUART_PLAIN": str(int(plain)),
            "QUART_BACKGROUND_TASK_SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT),
        }
        # The socket is inherited, so that nobody can take the port before the server has it.
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "executors.demo.server", str(sock.fileno()), folder),
                env=os.environ | environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log if quiet else None,
                pass_fds=[sock.fileno()],
                process_group=0,  # a terminal's Ctrl-C is for this process, which then stops the server
            )
        server = Server(process, port)
        try:
            await server.wait_until_ready()
            yield server
        except (DemoError, OSError, EOFError, ExceptionGroup) as error:
            log.seek(0)
            said = log.read().decode(errors="replace")[-3000:]
            raise DemoError(f"the server failed: {error!r}" + (f". It logged: {said}" if said else "")) from error
        finally:
            await server.stop()
