"""Uses of an app's executor, for type checkers. Checked and marked as `typing_api.py`, never run."""

from __future__ import annotations

from functools import partial
from typing import assert_type

import quart

from executors import TaskHandle, cpu_bound
from executors.quart import AppExecutor, Quart, QuartExecutor, current_executor
from executors.quart.dashboard import Dashboard

app = Quart(__name__)
executor = QuartExecutor(app)
plain_app = quart.Quart(__name__)
executor_of_plain_app = QuartExecutor(plain_app, hooks=[])


def plain(x: int, *, text: str = "") -> bytes:
    return text.encode() * x


async def coroutine(x: int) -> list[str]:
    return [str(x)]


@cpu_bound(timeout=3)
def render(report_id: int) -> bytes:
    return bytes(report_id)


@app.post("/app")
async def through_the_app() -> str:
    assert_type(app.add_background_task(plain, 1, text="x"), TaskHandle[bytes])
    assert_type(app.add_background_task(coroutine, 1), TaskHandle[list[str]])
    assert_type(app.add_background_task(render, 1), TaskHandle[bytes])
    assert_type(app.add_background_task(lambda: coroutine(1)), TaskHandle[list[str]])
    assert_type(app.add_background_task(partial(plain, 1), text="x"), TaskHandle[bytes])
    app.add_background_task(plain, "x")  # wrong
    app.add_background_task(plain, 1, 2)  # wrong
    app.add_background_task(plain, 1, texts="x")  # wrong
    app.add_background_task(coroutine)  # wrong
    app.add_background_task(render, "x")  # wrong
    app.add_background_task(plain(1))  # wrong
    return ""


async def through_the_executor() -> None:
    assert_type(executor.add_background_task(plain, 1, text="x"), TaskHandle[bytes])
    assert_type(executor_of_plain_app.add_background_task(coroutine, 1), TaskHandle[list[str]])
    assert_type(current_executor.add_background_task(render, 1), TaskHandle[bytes])
    assert_type(await current_executor.run(render, 1), bytes)
    assert_type(await executor.options(tag="cpu").run(render, 1), bytes)
    assert_type(executor.submit(plain, 1, text="x"), TaskHandle[bytes])
    assert_type(executor.app, quart.Quart)
    assert_type(current_executor, AppExecutor)
    executor.add_background_task(plain, "x")  # wrong
    executor.add_background_task(plain, 1, 2)  # wrong
    executor.add_background_task(coroutine, 1, text="x")  # wrong
    current_executor.add_background_task(render)  # wrong
    current_executor.submit(render, "x")  # wrong
    QuartExecutor(5)  # wrong


async def apps_of_quart_itself() -> None:
    plain_app.add_background_task(plain, "arguments aren't checked")
    plain_app.add_background_task(plain, 1).cancel()  # wrong


async def is_admin(request: quart.Request) -> bool:
    return request.host == "localhost"


def dashboards() -> None:
    app.register_blueprint(Dashboard(executor, authorize=is_admin, actions=True), url_prefix="/executors")
    Dashboard(current_executor, authorize=lambda request: True)
    Dashboard(executor, authorize=5)  # wrong
    Dashboard(app, authorize=is_admin)  # wrong
