"""Two apps in one module, for asyncio and for trio, each with its own executor settings."""

from __future__ import annotations

from quart import Quart, current_app
from quart_trio import QuartTrio

from executors import cpu_bound, task
from executors.quart import QuartExecutor, current_executor


@cpu_bound
def name_in_process() -> str:
    return current_app.name


@task("reports")
def report() -> str:
    return current_app.name


def new_app(kind: type[Quart], name: str, reports: str, threads: int) -> Quart:
    app = kind(__name__)
    app.name = name
    app.config.update(EXECUTOR_THREADS=threads, EXECUTOR_PROCESSES=1, EXECUTOR_TAGS={"reports": reports})
    app.config.update(EXECUTOR_SHUTDOWN_TIMEOUT=30)
    QuartExecutor(app)

    @app.get("/")
    async def show() -> dict[str, object]:
        reported = app.add_background_task(report)
        names = [await reported, await app.add_background_task(name_in_process)]
        return {
            "names": names,
            "reports": reported.backend,
            "threads": current_executor.backend("thread").workers,
        }

    return app


first = new_app(Quart, "first", "thread", 2)
second = new_app(Quart, "second", "process", 3)
first_on_trio = new_app(QuartTrio, "first", "thread", 2)
second_on_trio = new_app(QuartTrio, "second", "process", 3)
