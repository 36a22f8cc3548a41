"""The loop's monitor of an app: when it is on, whom it blames, and that it ends with the app."""

from __future__ import annotations

import threading
import time
import warnings

import anyio
import pytest
from quart import websocket

from executors import ExecutorWarning

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::executors.ExecutorWarning")]

HELD = 0.2
BEAT = 0.05


def watching() -> bool:
    return any(thread.name == "executors-monitor" for thread in threading.enumerate())


def block() -> None:
    time.sleep(HELD)


@pytest.mark.parametrize(
    ("debug", "setting", "is_on"),
    [(False, None, False), (True, None, True), (True, False, False), (False, True, True)],
)
async def test_when_it_is_on(app, executor, debug, setting, is_on):
    """It is on in debug mode, or as the configuration says, from the start to the end of the app; else nothing is."""
    app.debug = debug
    app.config["EXECUTOR_MONITOR"] = setting
    assert executor.monitor is None
    for _ in range(2):
        async with app.test_app():
            assert (executor.monitor is not None, watching()) == (is_on, is_on)
        assert not watching()


async def test_who_is_blamed(app, executor):
    """A route that blocks is blamed by its module, function and line; tasks by their names; the rest not at all."""
    app.config["EXECUTOR_MONITOR"] = True

    @app.get("/blocking")
    async def blocking():
        block()
        return ""

    @app.websocket("/talking")
    async def talking():
        block()
        await websocket.send("done")

    @app.get("/innocent")
    async def innocent():
        await anyio.sleep(BEAT)
        return ""

    async def task():
        block()

    async with app.test_app():
        client = app.test_client()
        for _ in range(2):
            await client.get("/innocent")
            await client.get("/blocking")
        async with client.websocket("/talking") as talk:
            await talk.receive()
        await anyio.sleep(2 * BEAT)
        await app.add_background_task(task)
        await anyio.sleep(2 * BEAT)
        report = executor.monitor.report()
    found = {(blame.kind, blame.name.rpartition(".")[2]): blame for blame in report.blame}
    assert found.keys() == {("route", "blocking"), ("route", "talking"), ("step", "task")}
    blame = found["route", "blocking"]
    assert blame.name == f"{__name__}.test_who_is_blamed.<locals>.blocking"
    assert blame.where.startswith("time.sleep(HELD) (test_monitor.py:")
    assert blame.count == 2
    assert all(HELD / 2 < blame.worst < 10 * HELD for blame in report.blame)
    assert len(report.advice) == 3


async def test_an_installed_app(app, executor):
    """Routes of an installed package are distinguished like any others, also behind decorators."""
    app.config["EXECUTOR_MONITOR"] = True
    code = "import time\nasync def sell():\n    time.sleep(0.2)\n    return ''\n"
    code += "async def buy():\n    return await sell()\n"
    shop = {"__name__": "shop.routes"}
    exec(compile(code, "/env/lib/site-packages/shop/routes.py", "exec"), shop)
    decorated = {"__name__": "quart_auth.views", "buy": shop["buy"]}
    code = "async def logged_in():\n    return await buy()\n"
    exec(compile(code, "/env/lib/site-packages/quart_auth/views.py", "exec"), decorated)
    app.get("/sell")(shop["sell"])
    app.get("/buy")(decorated["logged_in"])
    async with app.test_app():
        for path in ("/sell", "/buy"):
            await app.test_client().get(path)
            await anyio.sleep(2 * BEAT)
        report = executor.monitor.report()
    assert {blame.name for blame in report.blame} == {"shop.routes.sell", "shop.routes.buy"}
    assert all(blame.where.endswith("(routes.py:3)") for blame in report.blame)


async def test_the_first_request_without_a_lifespan(app, executor):
    """An app that a test client uses without a lifespan is measured, too, from its first request on."""
    app.config["EXECUTOR_MONITOR"] = True

    @app.get("/")
    async def index():
        return ""

    await app.test_client().get("/")
    await anyio.sleep(3 * BEAT)
    assert executor.monitor.report().lag.count > 0
    await executor.drain()
    assert not watching()
    assert executor.monitor.report().lag.count > 0


async def test_advice_is_a_warning(app, executor):
    """Advice comes as an `ExecutorWarning` with the line that holds the loop up."""
    app.debug = True

    @app.get("/")
    async def index():
        block()
        return ""

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ExecutorWarning)
        async with app.test_app():
            await app.test_client().get("/")
            await anyio.sleep(3 * BEAT)
    (warned,) = [warning for warning in caught if warning.category is ExecutorWarning]
    assert warned.filename == __file__
    assert "move that code into a sync function" in str(warned.message)
