"""Apps as module attributes, of Quart and Quart-Trio; some record the calls around a task."""

from __future__ import annotations

import sys

import counting
from quart import Quart, appcontext_popped, appcontext_pushed, current_app
from quart_trio import QuartTrio

from executors.quart import QuartExecutor

counting.imports.append(__name__)


def make(app: Quart) -> Quart:
    app.config.update(EXECUTOR_PROCESSES=1, EXECUTOR_THREADS=1)
    app.config["MARK"] = "configured"
    QuartExecutor(app)
    return app


app = make(Quart(__name__))
trio_app = make(QuartTrio(__name__))


def record(one: Quart) -> None:
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


async def pushed(sender: Quart, **_: object) -> None:
    counting.calls.append("pushed")


async def popped(sender: Quart, **_: object) -> None:
    counting.calls.append("popped")


recorded = make(Quart("recorded"))
trio_recorded = make(QuartTrio("recorded"))
for one in (recorded, trio_recorded):
    record(one)
    appcontext_pushed.connect(pushed, one)
    appcontext_popped.connect(popped, one)


def create_app() -> Quart:
    counting.imports.append("create_app")
    return make(Quart("made"))


def create_trio_app() -> Quart:
    counting.imports.append("create_app")
    return make(QuartTrio("made"))


def create_nothing() -> str:
    return "nothing"


def create_for(name: str) -> Quart:
    return make(Quart(name))


def leave() -> Quart:
    sys.exit(3)
