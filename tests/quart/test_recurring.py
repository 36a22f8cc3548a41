"""Services and schedules of apps: in each server process once, from the app's startup until its shutdown begins."""

from __future__ import annotations

import signal

import anyio
import pytest
from quart import current_app
from quart.signals import got_background_exception
from servers import TIMEOUT, Server
from servers import until as until_server
from until import until

from executors import Retry, TaskState
from executors._core import services
from executors.quart import QuartExecutor, current_executor
from executors.quart.testing import wait_for_tasks

pytestmark = pytest.mark.anyio


class Seen:
    """What services and schedules have recorded."""

    def __init__(self):
        self.polled, self.ticked = [], []

    async def poll(self):
        self.polled.append(current_app.name)
        await anyio.sleep_forever()

    def tick(self):
        self.ticked.append(current_app.name)


@pytest.fixture
def seen():
    return Seen()


async def test_they_run_with_the_app(app, executor, seen):
    """They begin after the app's startup, in its context, and end as its shutdown begins; again after a restart."""
    order = []

    @app.before_serving
    async def open_database():
        await anyio.sleep(0.05)
        order.append("open")

    @app.after_serving
    async def close_database():
        order.append("close")

    @executor.service
    async def poll():
        order.append("poll")
        try:
            await anyio.sleep_forever()
        finally:
            order.append(f"end in {current_app.name}")

    executor.every(0.01)(seen.tick)
    for _ in range(2):
        async with app.test_app():
            await until(lambda: len(seen.ticked) >= 2 and "poll" in order)
            (service,) = executor.snapshot().services
            assert (service.name.rpartition(".")[2], service.state) == ("poll", "running")
        assert order == ["open", "poll", "end in background", "close"]
        assert {*seen.ticked} == {"background"}
        assert executor.drain_report.clean
        assert executor.drain_report.duration < 3
        order.clear()
        seen.ticked.clear()


async def test_not_with_a_test_client_alone(app, executor, seen):
    """Without a lifespan there is no startup, and they don't begin: neither under a test client nor in commands."""
    executor.service(seen.poll)
    executor.every(0.005)(seen.tick)

    @app.get("/")
    async def index():
        return str(await current_executor.run(int))

    assert await (await app.test_client().get("/")).get_data() == b"0"
    await anyio.sleep(0.05)
    assert (seen.polled, seen.ticked) == ([], [])
    await executor.drain(5)


@pytest.mark.parametrize("anyio_backend_name", ["asyncio"])
def test_not_in_commands(new_app, seen):
    """A command that uses the executor runs neither services nor schedules."""
    app = new_app()
    executor = QuartExecutor(app)
    executor.service(seen.poll)
    executor.every(0.005)(seen.tick)
    handles = []

    @app.cli.command("command", with_appcontext=True)
    def command():
        handles.append(app.add_background_task(anyio.sleep, 0.05))

    result = app.test_cli_runner().invoke(args=["command"])
    assert result.exception is None
    assert [handle.state for handle in handles] == [TaskState.SUCCEEDED]
    assert (seen.polled, seen.ticked) == ([], [])


async def test_several_apps(new_app, seen):
    """What is registered on the extension runs for each app in its own context; on an app's executor only there."""
    executor = QuartExecutor()
    apps = [new_app(name) for name in ("first", "second")]
    executor.init_app(apps[0])
    executor.service(seen.poll)
    executor.init_app(apps[1])
    executor.every(0.005)(seen.tick)
    apps[0].extensions["executor"].service(seen.poll)
    async with apps[0].test_app(), apps[1].test_app():
        await until(lambda: {*seen.ticked} == {"first", "second"} and len(seen.polled) == 3)
        executor.service(seen.poll)
        await until(lambda: len(seen.polled) == 5)
        await anyio.sleep(0.01)
        assert sorted(seen.polled) == ["first"] * 3 + ["second"] * 2


async def test_failures_are_reported_to_the_app(app, executor, monkeypatch):
    """Failures of services and periodic tasks arrive as those of background tasks do."""
    monkeypatch.setattr(services, "RESTARTS", Retry(on=Exception, wait=0.01, max_wait=0.01))
    reported = []

    async def receive(sender, exception, **_):
        reported.append(str(exception))

    @executor.service
    async def poll():
        raise LookupError("service")

    @executor.every(0.01)
    def tick():
        raise LookupError("periodic")

    with got_background_exception.connected_to(receive, app):
        async with app.test_app():
            await until(lambda: reported.count("service") >= 2 and reported.count("periodic") >= 2)


async def test_wait_for_tasks_beside_a_service(app, executor, seen):
    """`wait_for_tasks` doesn't wait for services."""
    executor.service(seen.poll)
    async with app.test_app():
        await until(lambda: seen.polled)
        handle = app.add_background_task(anyio.sleep, 0.01)
        with anyio.fail_after(10):
            await wait_for_tasks(app)
        assert handle.done()


async def test_a_direct_start_of_the_executor(app, executor, seen):
    """A direct start of the executor begins them, too, and a later startup of the app doesn't begin them twice."""
    executor.service(seen.poll)
    async with executor:
        await until(lambda: seen.polled)
        async with app.test_app():
            await anyio.sleep(0.02)
            assert seen.polled == ["background"]


def test_two_server_processes(free_port, tmp_path):
    """Each server process runs them once; workers, which import the app, don't; a stop ends them before its timeout."""
    server = Server(["-m", "hypercorn", "-b", "127.0.0.1:{port}", "-w", "2", "recurring:app"], free_port, tmp_path)
    try:

        def processes(what):
            return {line.split()[0] for line in server.recorded(what)}

        until_server(lambda: len(processes("poll")) == len(processes("tick")) == 2)
        polling = processes("poll")
        assert len(server.recorded("poll")) == 2
        assert not polling & processes("tick")
        assert [line.split()[0] for line in server.lines].index("poll") > 0  # after `open`
        server.signal(signal.SIGTERM)
        server.process.wait(timeout=TIMEOUT / 2)
        assert processes("end") == polling
        assert len(server.recorded("poll")) == 2
    finally:
        server.kill()
