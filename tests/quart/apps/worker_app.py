"""Apps as module attributes, of Quart and Quart-Trio; some record the calls around a task."""

from __future__ import annotations

import sys

import counting
from quart import Quart, appcontext_popped, appcontext_pushed, current_app

from executors.quart import QuartExecutor

counting.imports.append(__name__)


def make(app: Quart) -> Quart:
    app.config.update(EXECUTOR_PROCESSES=1, EXECUTOR_THREADS=1)
    app.config["MARK"] = "configured"
    QuartExecutor(app)
    return app


app = make(Quart(__name__))


def record(one: Quart) -> Quart:
    @one.before_serving
    async def before() -> None:
        counting.calls.append("before_serving")

    @one.teardown_appcontext
    def teardown(error: BaseException | None) -> None:
        counting.calls.append(f"sync teardown {error!r}")

    @one.teardown_appcontext
    async def async_teardown(error: BaseException | None) -> None:
        counting.calls.append(f"async teardown {current_app.name}")

    @one.get("/")
    async def route() -> str:
        return current_app.name

    appcontext_pushed.connect(pushed, one)
    appcontext_popped.connect(popped, one)
    return one


async def pushed(sender: Quart, **_: object) -> None:
    counting.calls.append("pushed")


async def popped(sender: Quart, **_: object) -> None:
    counting.calls.append("popped")


recorded = record(make(Quart("recorded")))


def __getattr__(name: str) -> Quart:
    """Create an app of Quart-Trio when it is first used: the workers of other apps need not import trio."""
    if name == "trio_app":
        found = make(quart_trio(__name__))
    elif name == "trio_recorded":
        found = record(make(quart_trio("recorded")))
    else:
        raise AttributeError(name)
    globals()[name] = found
    return found


def quart_trio(name: str) -> Quart:
    from quart_trio import QuartTrio  # noqa: PLC0415

    return QuartTrio(name)


def create_app() -> Quart:
    counting.imports.append("create_app")
    return make(Quart("made"))


def create_trio_app() -> Quart:
    counting.imports.append("create_app")
    return make(quart_trio("made"))


def create_nothing() -> str:
    return "nothing"


def create_for(name: str) -> Quart:
    return make(Quart(name))


def leave() -> Quart:
    sys.exit(3)
