"""Server-Sent Events about a task: what they say, when they end, and a page in a real browser that follows a task."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from servers import TIMEOUT, Server, find_port, until
from until import until as until_on_loop

from executors import _progress, current_task
from executors.quart import sse, task_events

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def parsed(text: str) -> list[tuple[str, Any]]:
    """Return the events of a stream: their ids and their data."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            assert fields.keys() == {"id", "retry", "data"}
            events.append((fields["id"], json.loads(fields["data"])))
    return events


class Work:
    """A thread task that reports, and waits in between."""

    def __init__(self, error: Exception | None = None) -> None:
        self.release = threading.Event()
        self.error = error

    def __call__(self) -> str:
        current_task().progress(1, 2, "half")
        assert self.release.wait(TIMEOUT)
        current_task().progress(2, 2)
        if self.error is not None:
            raise self.error
        return "a secret"


@pytest.fixture
def work(app, executor):
    """An app that follows this task, by its handle or by its id."""
    work = Work()

    @app.post("/")
    async def start():
        app.handle = executor.submit(work)
        return app.handle.id

    @app.get("/handle")
    async def by_handle():
        return await task_events(app.handle)

    @app.get("/<task_id>")
    async def by_id(task_id):
        return await task_events(task_id)

    yield work
    work.release.set()


async def next_event(connection) -> tuple[str, Any]:
    """Return the next event of a stream, past comments."""
    with anyio.fail_after(TIMEOUT):
        while True:
            text = (await connection.receive()).decode()
            if events := parsed(text):
                (event,) = events
                return event


@pytest.mark.anyio
async def test_events(app, work, monkeypatch) -> None:
    """The current record at once, then updates, the last with the final state; never the result. Then the end."""
    monkeypatch.setattr(_progress, "UPDATE_INTERVAL", 1000.0)  # no update between the last report and the end
    async with app.test_app() as test_app:
        client = test_app.test_client()
        task_id = await (await client.post("/")).get_data(as_text=True)
        await until_on_loop(lambda: app.handle.progress is not None)
        async with client.request(f"/{task_id}") as connection:
            await connection.send_complete()
            event_id, data = await next_event(connection)
            progress = {"done": 1, "total": 2, "message": "half", "fraction": 0.5}
            assert (event_id, data) == ("1", {"state": "running", "progress": progress, "error": None})
            work.release.set()
            progress = {"done": 2, "total": 2, "message": None, "fraction": 1}
            event_id, data = await next_event(connection)
            assert (event_id, data) == (f"end-{task_id}", {"state": "succeeded", "progress": progress, "error": None})
            assert await connection.receive() == b""
        response = await client.get("/handle")
        assert response.content_type == "text/event-stream; charset=utf-8"
        assert (response.headers["Cache-Control"], response.headers["X-Accel-Buffering"]) == ("no-store", "no")
        assert parsed(await response.get_data(as_text=True)) == [(event_id, data)]


@pytest.mark.anyio
async def test_an_error(app, work) -> None:
    """The final event of a task that failed has the type and the message of its error."""
    work.error = LookupError("no such\ncolumn")
    work.release.set()
    async with app.test_app() as test_app:
        client = test_app.test_client()
        await client.post("/")
        with pytest.raises(LookupError):
            await app.handle
        ((_, data),) = parsed(await (await client.get("/handle")).get_data(as_text=True))
        assert data == {
            "state": "failed",
            "progress": {"done": 2, "total": 2, "message": None, "fraction": 1},
            "error": "LookupError: no such\ncolumn",
        }


@pytest.mark.anyio
async def test_reconnecting(app, work) -> None:
    """After the final event of this very task 204 is the answer; after any other the stream goes on."""
    work.release.set()
    async with app.test_app() as test_app:
        client = test_app.test_client()
        task_id = await (await client.post("/")).get_data(as_text=True)
        await app.handle
        for path in (f"/{task_id}", "/handle"):
            response = await client.get(path, headers={"Last-Event-ID": f"end-{task_id}"})
            assert (response.status_code, await response.get_data()) == (204, b"")
        for last in ("1", "end-other", ""):
            response = await client.get("/handle", headers={"Last-Event-ID": last})
            assert [event_id for event_id, _ in parsed(await response.get_data(as_text=True))] == [f"end-{task_id}"]
        assert (await client.get("/unknown")).status_code == 404
        assert (await client.get("/unknown", headers={"Last-Event-ID": f"end-{task_id}"})).status_code == 404


@pytest.mark.anyio
async def test_keep_alive(app, work, monkeypatch) -> None:
    """While nothing happens comments are sent, which no client shows."""
    monkeypatch.setattr(sse, "KEEP_ALIVE_INTERVAL", 0.05)
    async with app.test_app() as test_app:
        client = test_app.test_client()
        await client.post("/")
        await until_on_loop(lambda: app.handle.progress is not None)
        async with client.request("/handle") as connection:
            await connection.send_complete()
            await next_event(connection)
            with anyio.fail_after(TIMEOUT):
                assert [await connection.receive() for _ in range(3)] == [b": keep-alive\n\n"] * 3
            work.release.set()
            assert (await next_event(connection))[0] == f"end-{app.handle.id}"


@pytest.mark.anyio
async def test_a_stream_ends_after_a_while(app, work, monkeypatch) -> None:
    """A stream has an end, so that a server that stops need not wait for the task; the next one goes on."""
    monkeypatch.setattr(sse, "STREAM_DURATION", 0.1)
    async with app.test_app() as test_app:
        client = test_app.test_client()
        await client.post("/")
        await until_on_loop(lambda: app.handle.progress is not None)
        for _ in range(2):
            with anyio.fail_after(TIMEOUT):
                response = await client.get("/handle")
                ((event_id, data),) = parsed(await response.get_data(as_text=True))
                assert (event_id, data["state"]) == ("1", "running")
        assert not app.handle.done()
        work.release.set()


@pytest.mark.anyio
async def test_a_drain_ends_the_stream(app, executor, work) -> None:
    """The stream ends as a drain begins, while the task goes on until its deadline; a new stream has one event."""
    async with app.test_app() as test_app:
        client = test_app.test_client()
        await client.post("/")
        await until_on_loop(lambda: app.handle.progress is not None)

        async def drain() -> None:
            await executor.drain(TIMEOUT)

        async with anyio.create_task_group() as tasks:
            async with client.request("/handle") as connection:
                await connection.send_complete()
                await next_event(connection)
                tasks.start_soon(drain)
                with anyio.fail_after(TIMEOUT):
                    assert await connection.receive() == b""
            assert not app.handle.done()
            assert executor.phase == "draining"
            with anyio.fail_after(TIMEOUT):
                response = await client.get("/handle")
                assert [event_id for event_id, _ in parsed(await response.get_data(as_text=True))] == ["1"]
            work.release.set()
        assert app.handle.result() == "a secret"
        assert not executor._executor._started().on_drain


# --- real servers -----------------------------------------------------------------------------------------------------


@contextmanager
def serve(folder: Path, worker: str = "asyncio", **variables: str) -> Iterator[Server]:
    command = ["-m", "hypercorn", "-b", "127.0.0.1:{port}", "-w", "0", "-k", worker, "followed:app"]
    server = Server(command, find_port(), folder, SERVED_ON=worker, **variables)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def stream(server: Server, path: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
    try:
        connection.request("GET", path, headers={"Accept": "text/event-stream"})
        yield connection.getresponse()
    finally:
        connection.close()


@pytest.mark.parametrize("worker", ["asyncio", "trio"])
def test_under_hypercorn(worker: str, tmp_path: Path) -> None:
    """A stream lasts longer than the response timeout, is kept alive, and ends; an unknown id gets 404."""
    with serve(tmp_path, worker, SERVED_KEEP_ALIVE="0.05") as server:
        task_id = server.request("/start/3/0.5")
        with stream(server, f"/events/{task_id}") as response:
            assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
            text = response.read().decode()
        events = parsed(text)
        assert ": keep-alive\n\n" in text
        assert "secret" not in text
        assert (events[-1][0], events[-1][1]["state"]) == (f"end-{task_id}", "succeeded")
        assert events[-1][1]["progress"]["message"] == "<i>wörk</i>\n\ndata: a lie"
        done = [data["progress"]["done"] for _, data in events if data["progress"]]
        assert done == sorted(done)
        assert set(done) >= {1, 2, 3}
        with stream(server, "/events/unknown") as response:
            assert response.status == 404
        server.signal(signal.SIGTERM)
        assert server.process.wait(TIMEOUT) == 0
        assert "Traceback" not in server.output


@pytest.mark.parametrize("worker", ["asyncio", "uvloop", "trio"])
def test_the_task_goes_on_without_its_client(worker: str, tmp_path: Path) -> None:
    """When the client closes the connection, the task is neither cancelled nor disturbed."""
    with serve(tmp_path, worker) as server:
        task_id = server.request("/start/4/0.1")
        with stream(server, f"/events/{task_id}") as response:
            assert response.readline().startswith(b"id: ")
        until(lambda: server.recorded("step") == ["0", "1", "2", "3"])
        assert "Traceback" not in server.output


def test_a_stop_of_uvicorn_ends_the_stream(tmp_path: Path) -> None:
    """uvicorn ends open streams after its timeout. Then the app stops: the task, which goes on until then, ends."""
    command = ["-m", "uvicorn", "--port", "{port}", "--timeout-graceful-shutdown", "1", "followed:app"]
    server = Server(command, find_port(), tmp_path)
    try:
        task_id = server.request("/start/1000/0.1")
        with stream(server, f"/events/{task_id}") as response:
            assert response.readline().startswith(b"id: ")
            server.signal(signal.SIGTERM)
            with pytest.raises(http.client.IncompleteRead):  # an `EventSource` reconnects, to the next server
                response.read()
        assert server.process.wait(TIMEOUT) in {0, -signal.SIGTERM}
        assert "1 cancelled\ntask 'work'" in server.output
        assert len(server.recorded("step")) < 1000
    finally:
        server.kill()


@pytest.mark.parametrize("worker", ["asyncio", "trio"])
def test_hypercorn_stops_beside_a_stream(worker: str, tmp_path: Path) -> None:
    """Hypercorn waits for open streams, with some versions of Python without a limit: each ends by itself."""
    with serve(tmp_path, worker, SERVED_STREAM_DURATION="0.5") as server:
        task_id = server.request("/start/1000/0.1")
        with stream(server, f"/events/{task_id}") as response:
            assert response.readline().startswith(b"id: ")
            server.signal(signal.SIGTERM)
            response.read()
        assert server.process.wait(TIMEOUT) in {0, -signal.SIGTERM}
        assert "1 cancelled\ntask 'work'" in server.output


if BROWSER is not None:  # optional: the suite also runs without a browser

    def test_in_a_browser(tmp_path: Path) -> None:
        """An EventSource gets the events of a task, reconnects once after the last, is answered with 204, and stops."""
        assert BROWSER is not None
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
        flags += ("--disable-component-update", "--disable-sync", "--disable-quic", "--remote-debugging-port=0")
        with serve(tmp_path) as server:
            command = [BROWSER, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"http://127.0.0.1:{server.port}/"]
            browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
            try:
                (seen,) = until(lambda: server.recorded("seen"))
            finally:
                browser.terminate()
                browser.wait(TIMEOUT)
            requests = server.recorded("events")
        events = json.loads(seen)
        final_id, final = events[-1]
        assert final["state"] == "succeeded"
        assert final["progress"] == {"done": 5, "total": 5, "message": "<i>wörk</i>\n\ndata: a lie", "fraction": 1}
        assert requests == ["-", final_id]
        states = [data["state"] for _, data in events]
        assert states == sorted(states, key=["queued", "running", "succeeded"].index)
        assert states.count("running") >= 3
        assert states.count("succeeded") == 1
