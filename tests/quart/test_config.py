"""The app's configuration: each key's effect, and each key's bad values reported when the app starts."""

from __future__ import annotations

import math
import threading
from contextvars import ContextVar

import anyio
import background
import pytest
from until import until

from executors import ConfigurationError, QueueFullError, task
from executors.backends import LoopBackend, ThreadBackend
from executors.quart.config import settings_of

pytestmark = pytest.mark.anyio

NO_COUNTS = [-1, 0, 1.0, 2.5, math.nan, math.inf, "4", True, b"4", [1]]
NO_SECONDS = [-1, -0.001, math.nan, math.inf, "5", True, [5]]

BAD_VALUES = {
    "EXECUTOR_THREADS": NO_COUNTS,
    "EXECUTOR_PROCESSES": [value for value in NO_COUNTS if value != 0],
    "EXECUTOR_QUEUE_SIZE": [*NO_COUNTS, None],
    "EXECUTOR_SHUTDOWN_TIMEOUT": [*NO_SECONDS, None, 10**400],
    "EXECUTOR_CANCEL_GRACE": [*NO_SECONDS, None],
    "BACKGROUND_TASK_SHUTDOWN_TIMEOUT": NO_SECONDS,
    "EXECUTOR_WORKER_NICE": [-1, 20, 1.5, math.nan, "10", True, None],
    "EXECUTOR_WORKER_APP": ["app", ":app", "module:", "", 3, True],
    "EXECUTOR_MAX_TASKS_PER_WORKER": NO_COUNTS,
    "EXECUTOR_WORKER_MAX_MEMORY_GROWTH": NO_COUNTS,
    "EXECUTOR_MAX_PAYLOAD": [*NO_COUNTS, None],
    "EXECUTOR_BACKENDS": ["thread", ["thread"], {"more": 3}, {3: LoopBackend()}, {"loop": ThreadBackend(1)}, 0],
    "EXECUTOR_TAGS": ["cpu", ["cpu"], {"cpu": 3}, {3: "thread"}, 0],
    "EXECUTOR_CONTEXTVARS": ["background:variable", ["background"], [3], 3],
}

variable: ContextVar[str] = ContextVar("variable")


@pytest.mark.parametrize("key", BAD_VALUES)
def test_bad_values(key):
    """Each key's bad values are refused, by an error that names the key and what it is set to."""
    for value in BAD_VALUES[key]:
        with pytest.raises(ConfigurationError) as caught:
            settings_of({"BACKGROUND_TASK_SHUTDOWN_TIMEOUT": 5, key: value})
        shown = value[0] if isinstance(value, list) and key == "EXECUTOR_CONTEXTVARS" else value
        shown = next(iter(shown.values())) if isinstance(shown, dict) and key == "EXECUTOR_BACKENDS" else shown
        assert key in str(caught.value)
        assert repr(shown) in str(caught.value)


async def test_reported_at_startup(app, executor):
    """An app with a bad value doesn't start, and may once the value is mended."""
    good = dict(app.config)
    for key, values in BAD_VALUES.items():
        app.config[key] = values[0]
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=key):
                await app.startup()
            assert executor.phase == "new"
        del app.config[key]
        app.config.update(good)
    async with app.test_app():
        assert await app.add_background_task(background.triple, 1) == 3


async def test_the_server_is_told(app, executor):
    """For a server it is a failed startup like any other."""
    app.config["EXECUTOR_THREADS"] = 0
    sent = []
    with anyio.CancelScope() as scope:
        events = iter([{"type": "lifespan.startup"}])

        async def receive():
            return next(events, None) or await anyio.sleep_forever()

        async def send(message):
            sent.append(message)
            scope.cancel()

        await app({"type": "lifespan", "asgi": {}, "state": {}}, receive, send)
    assert sent == [
        {
            "type": "lifespan.startup.failed",
            "message": "EXECUTOR_THREADS is 0, and must be a whole number of at least 1",
        }
    ]


HINTS = {
    "EXECUTOR_THREAD": "did you mean EXECUTOR_THREADS?",
    "EXECUTOR_PROCESS": "did you mean EXECUTOR_PROCESSES?",
    "EXECUTOR_TIMEOUT": "EXECUTOR_SHUTDOWN_TIMEOUT",
    "EXECUTOR_MAX_WORKERS": "did you mean EXECUTOR_PROCESSES or EXECUTOR_THREADS?",
    "EXECUTOR_TYPE": "there are EXECUTOR_THREADS, ",  # resembles EXECUTOR_TAGS by what all keys begin with
    "EXECUTOR_XYZZY": "EXECUTOR_",
    "EXECUTOR_": "EXECUTOR_",
}


async def test_unknown_key(app, executor):
    """A key that doesn't exist is refused, with what may have been meant."""
    for key, hint in HINTS.items():
        app.config[key] = 1
        with pytest.raises(ConfigurationError) as caught:
            await app.startup()
        assert str(caught.value).startswith(f"there is no setting {key}: ")
        assert hint in str(caught.value)
        del app.config[key]


async def test_bad_value_without_a_lifespan(app, executor):
    """Where the executor starts by itself, the first task that needs it is refused with the reason."""
    app.config["EXECUTOR_QUEUE_SIZE"] = "many"
    with pytest.raises(ConfigurationError, match="EXECUTOR_QUEUE_SIZE is 'many'"):
        app.add_background_task(background.triple, 1)


async def test_tag_without_a_backend(app, executor):
    """A tag that is mapped to nothing is found at startup, one that isn't mapped when it is used."""
    app.config["EXECUTOR_TAGS"] = {"reports": "nowhere"}
    with pytest.raises(ConfigurationError, match=r"'reports' is mapped to 'nowhere'.*there are loop, process, thread"):
        await app.startup()
    del app.config["EXECUTOR_TAGS"]
    async with app.test_app():
        with pytest.raises(ConfigurationError, match=r"tag 'reports'.*EXECUTOR_TAGS"):
            app.add_background_task(task("reports")(lambda: None))


async def test_shutdown_timeout(app):
    """Quart's timeout is the deadline, None is without end, and `EXECUTOR_SHUTDOWN_TIMEOUT` goes before it."""
    assert settings_of(app.config).shutdown_timeout == 5
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = None
    assert settings_of(app.config).shutdown_timeout == math.inf
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = 0
    assert settings_of(app.config).shutdown_timeout == 0
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 7
    assert settings_of(app.config).shutdown_timeout == 7
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = "not looked at"
    assert settings_of(app.config).shutdown_timeout == 7


async def test_sizes(app, executor):
    """Threads, processes and the queue are as large as the app says, in each run anew."""
    released = threading.Event()
    app.config.update(EXECUTOR_THREADS=1, EXECUTOR_QUEUE_SIZE=1, EXECUTOR_PROCESSES=3)
    async with app.test_app():
        assert executor.backend("thread").workers == 1
        assert executor.backend("process").workers == 3
        running = app.add_background_task(released.wait)
        await until(lambda: running.state != "queued")
        app.add_background_task(background.triple, 1)
        with pytest.raises(QueueFullError, match=r"full \(limit: 1\)"):
            app.add_background_task(background.triple, 1)
        released.set()
    app.config["EXECUTOR_THREADS"] = 2
    async with app.test_app():
        assert executor.backend("thread").workers == 2


async def test_no_processes(app, executor):
    """With no process backend cpu-bound functions are refused, or go where their tag is mapped to."""
    app.config["EXECUTOR_PROCESSES"] = 0
    async with app.test_app():
        with pytest.raises(ConfigurationError, match="number of processes is 0"):
            app.add_background_task(background.double, 1)
    app.config["EXECUTOR_TAGS"] = {"cpu": "thread"}
    async with app.test_app():
        handle = app.add_background_task(background.double, 4)
        assert (handle.backend, await handle) == ("thread", 8)


async def test_backends_and_tags(app, executor):
    """A further backend gets the tasks whose tag is mapped to it."""
    app.config["EXECUTOR_BACKENDS"] = {"reports": ThreadBackend(1), "loop": LoopBackend(max_running=1)}
    app.config["EXECUTOR_TAGS"] = {"report": "reports"}
    async with app.test_app():
        handle = app.add_background_task(task("report")(lambda: threading.current_thread().ident))
        assert handle.backend == "reports"
        assert await handle != threading.get_ident()
        assert executor.backend("loop").workers == 1


async def test_workers(app, executor):
    """Niceness, payload limit and context variables reach the workers."""
    app.config.update(
        EXECUTOR_WORKER_NICE=3,
        EXECUTOR_MAX_PAYLOAD=1000,
        EXECUTOR_CONTEXTVARS=["background:variable"],
    )
    background.variable.set("carried")
    async with app.test_app():
        assert await app.add_background_task(background.niceness) == background.niceness() + 3
        assert await app.add_background_task(background.get_variable) == "carried"
        with pytest.raises(Exception, match=r"1000 bytes allowed \(EXECUTOR_MAX_PAYLOAD\)"):
            await executor.run(background.double, b"x" * 1000)


@pytest.mark.parametrize(
    ("key", "value"), [("EXECUTOR_MAX_TASKS_PER_WORKER", 1), ("EXECUTOR_WORKER_MAX_MEMORY_GROWTH", 1)]
)
async def test_replaced_workers(app, executor, key, value):
    """A worker that has done its share, or grown too large, is replaced."""
    app.config[key] = value
    async with app.test_app():
        assert await app.add_background_task(background.grow) != await app.add_background_task(background.grow)


async def test_contextvar_that_is_none(app, executor):
    """What is named as a context variable and is none is refused at startup."""
    app.config["EXECUTOR_CONTEXTVARS"] = ["background:triple"]
    with pytest.raises(ConfigurationError, match="'background:triple', which is of type function"):
        await app.startup()
