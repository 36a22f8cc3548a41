"""Functions for background tasks that use the current app, in a module that worker processes import."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import counting
from quart import Quart, current_app, g, has_app_context

from executors import Executor, cpu_bound
from executors.quart import current_executor


@cpu_bound
def app_name() -> str:
    return current_app.name


@cpu_bound
def the_app() -> Quart:
    return current_app  # the proxy: its class has every special method, `__await__` as well


def nth_app(number: int) -> Quart:
    return the_app()


@cpu_bound
async def app_name_async() -> str:
    return current_app.name


@cpu_bound
def mark_g(mark: str) -> str:
    before: str = g.get("mark", "nothing")
    g.mark = mark
    return before


@cpu_bound
def take_calls() -> list[str]:
    taken, counting.calls[:] = list(counting.calls), []
    return taken


@cpu_bound
def imports() -> list[str]:
    return counting.imports


@cpu_bound
def has_context() -> bool:
    return has_app_context() or bool(current_app)


@cpu_bound
async def in_context_of_its_own() -> str:
    async with Quart("own").app_context():
        return current_app.name


@cpu_bound
def configured() -> str:
    value: str = current_app.config["MARK"]
    return value


@cpu_bound
def fail_with(text: str) -> None:
    raise LookupError(text)


@cpu_bound
async def sleep_on_its_loop() -> str:
    await anyio.lowlevel.checkpoint()
    return f"{current_app.name} on {type(current_app.event_class()).__module__.partition('.')[0]}"


def _use(how: str) -> object:
    if how == "run":
        return current_executor.run(app_name)
    return {"submit": current_executor.submit, "add_background_task": current_app.add_background_task}[how](app_name)


@cpu_bound
def use_executor(how: str) -> None:
    _use(how)


@cpu_bound
async def use_executor_async(how: str) -> None:
    await _use(how)  # type: ignore[misc]


@cpu_bound
def start_app() -> None:
    asyncio.run(current_app.startup())


@cpu_bound
def run_app() -> None:
    current_app.run()


@cpu_bound
async def own_executor() -> int:
    async with Executor(threads=1) as executor:
        return await executor.run(len, "four")


@cpu_bound
async def request_self() -> str:
    response = await current_app.test_client().get("/")
    text: str = await response.get_data(as_text=True)
    return text


def context_in_items(number):
    """Yield the app's name and how many items its `g` has counted."""
    for _ in range(number):
        g.count = g.get("count", 0) + 1
        yield current_app.name, g.count


async def context_in_items_later(number):
    for item in context_in_items(number):
        yield item


def lines(number):
    for each in range(number):
        yield f"{each}\n"
