"""An app's loop monitor: when it is enabled, what it blames for delays, and that it stops with the app."""

from __future__ import annotations

import logging
import threading
import time
import warnings

import anyio
import culprits
import pytest
from quart import websocket
from until import until

from executors import ExecutorWarning, cpu_bound, io_bound

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("undisturbed"),
    pytest.mark.filterwarnings("ignore::executors.ExecutorWarning"),
]

BLOCK_TIME = 0.2
INTERVAL = 0.05


def monitor_thread_runs() -> bool:
    return any(thread.name == "executors-monitor" for thread in threading.enumerate())


def block() -> None:
    time.sleep(BLOCK_TIME)


@pytest.mark.parametrize(
    ("debug", "setting", "is_enabled"),
    [(False, None, False), (True, None, True), (True, False, False), (False, True, True)],
)
async def test_monitor_is_enabled(app, executor, debug, setting, is_enabled):
    """The monitor runs in debug mode, or as configured, from the start to the end of the app; otherwise not at all."""
    app.debug = debug
    app.config["EXECUTOR_MONITOR"] = setting
    assert executor.monitor is None
    for _ in range(2):
        async with app.test_app():
            assert (executor.monitor is not None, monitor_thread_runs()) == (is_enabled, is_enabled)
        assert not monitor_thread_runs()


async def test_blocking_code_is_blamed(app, executor):
    """A blocking route is blamed by module, function and line, a blocking task by its name; other code isn't."""
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
        await anyio.sleep(INTERVAL)
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
        await anyio.sleep(2 * INTERVAL)
        await app.add_background_task(task)
        await anyio.sleep(2 * INTERVAL)
        report = executor.monitor.report()
    found = {(blame.kind, blame.name.rpartition(".")[2]): blame for blame in report.blame}
    assert found.keys() == {("route", "blocking"), ("route", "talking"), ("step", "task")}
    blame = found["route", "blocking"]
    assert blame.name == f"{__name__}.test_blocking_code_is_blamed.<locals>.blocking"
    assert blame.where.startswith("time.sleep(BLOCK_TIME) (test_monitor.py:")
    assert blame.count == 2
    assert all(BLOCK_TIME / 2 < blame.worst < 10 * BLOCK_TIME for blame in report.blame)
    assert len(report.advice) == 3


async def test_functions_around_a_request_are_no_routes(app, executor):
    """Functions that run before and after each request are blamed by their names, and not as routes."""
    app.config["EXECUTOR_MONITOR"] = True

    @app.before_request
    async def before():
        block()

    @app.after_request
    async def after(response):
        block()
        return response

    @app.get("/")
    async def index():
        return ""

    async with app.test_app():
        await app.test_client().get("/")
        await anyio.sleep(2 * INTERVAL)
        report = executor.monitor.report()
    assert {(blame.kind, blame.name.rpartition(".")[2]) for blame in report.blame} == {
        ("other", "before"),
        ("other", "after"),
    }


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_a_slow_response_is_blamed_on_its_route(app, executor, sync):
    """The view function is blamed for the time that it takes to make a response of what it has returned."""
    app.config["EXECUTOR_MONITOR"] = True

    def numbers():
        return {"numbers": [0] * 3_000_000}

    async def numbers_async():
        return numbers()

    view = app.get("/")(numbers if sync else numbers_async)
    async with app.test_app():
        for _ in range(5):  # a busy machine may explain a delay
            await app.test_client().get("/")
            await anyio.sleep(2 * INTERVAL)
            if found := [blame for blame in executor.monitor.report().blame if blame.kind == "route"]:
                break
        assert not [blame for blame in executor.monitor.report().blame if "finalize" in blame.name]
    (blame,) = found
    assert blame.name == f"{__name__}.{view.__qualname__}"
    assert blame.where == f"quart.app.Quart.make_response (test_monitor.py:{view.__code__.co_firstlineno})"


@cpu_bound
def marked():
    culprits.compute(BLOCK_TIME)


@cpu_bound
async def marked_coroutine():
    culprits.compute(BLOCK_TIME)


class Report:
    @io_bound
    def fetch(self):
        block()


async def test_a_marked_function_that_is_called(app, executor):
    """The advice on a marked function that is called on the event loop is to hand it over to the executor."""
    app.config["EXECUTOR_MONITOR"] = True

    @app.get("/marked")
    async def of_function():
        marked()
        return ""

    @app.get("/coroutine")
    async def of_coroutine():
        await marked_coroutine()
        return ""

    async def of_method():
        Report().fetch()

    async with app.test_app():
        for path in ("/marked", "/coroutine"):
            await app.test_client().get(path)
            await anyio.sleep(2 * INTERVAL)
        await app.add_background_task(of_method)
        await anyio.sleep(2 * INTERVAL)
        await app.add_background_task(marked)  # as it should be: in a worker process
        report = executor.monitor.report()
    names = {blame.name.rpartition(".")[2]: blame.marked for blame in report.blame if blame.marked}
    assert names == {"of_function": "marked", "of_coroutine": "marked_coroutine", "of_method": "Report.fetch"}
    advice = "hand over the marked function with `await executor.run({}, …)`, instead of calling it"
    for name in names.values():
        assert any(sentence.endswith(advice.format(name)) for sentence in report.advice)


async def test_routes_of_an_installed_package(app, executor):
    """Routes of an installed package are blamed separately, like any others, also behind decorators."""
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
            await anyio.sleep(2 * INTERVAL)
        await until(lambda: len(executor.monitor.report().blame) == 2)
        report = executor.monitor.report()
    assert {blame.name for blame in report.blame} == {"shop.routes.sell", "shop.routes.buy"}
    assert all(blame.where.endswith("(routes.py:3)") for blame in report.blame)


async def test_without_a_lifespan(app, executor):
    """Without a lifespan (a test client only), the app is measured from its first request on."""
    app.config["EXECUTOR_MONITOR"] = True

    @app.get("/")
    async def index():
        return ""

    await app.test_client().get("/")
    await anyio.sleep(3 * INTERVAL)
    assert executor.monitor.report().lag.count > 0
    await executor.drain()
    assert not monitor_thread_runs()
    assert executor.monitor.report().lag.count > 0


async def test_advice_is_issued_as_a_warning(app, executor, monkeypatch):
    """Without a log, advice is issued as an `ExecutorWarning` that points to the line that blocks the loop."""
    app.debug = True
    monkeypatch.setattr(logging.getLogger("executors"), "propagate", False)

    @app.get("/")
    async def index():
        block()
        return ""

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ExecutorWarning)
        async with app.test_app():
            await app.test_client().get("/")
            await until(lambda: caught)
    (warned,) = [warning for warning in caught if warning.category is ExecutorWarning]
    assert warned.filename == __file__
    assert "move that code into a sync function" in str(warned.message)
