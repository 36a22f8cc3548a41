"""The app's configuration: the effect of each key, and the errors for bad values at startup."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from contextvars import ContextVar
from pathlib import Path

import anyio
import background
import pytest
from loops import ON_ASYNCIO
from quart import Quart
from until import until

from executors import ConfigurationError, QueueFullError, task
from executors._control.directory import app_key, find_servers
from executors.backends import LoopBackend, ThreadBackend
from executors.quart.config import settings_of

pytestmark = pytest.mark.anyio

BAD_COUNTS = [-1, 0, 1.0, 2.5, math.nan, math.inf, "4", True, b"4", [1]]
BAD_SECONDS = [-1, -0.001, math.nan, math.inf, "5", True, [5]]

BAD_VALUES = {
    "EXECUTOR_THREADS": BAD_COUNTS,
    "EXECUTOR_PROCESSES": [value for value in BAD_COUNTS if value != 0],
    "EXECUTOR_QUEUE_SIZE": [*BAD_COUNTS, None],
    "EXECUTOR_SHUTDOWN_TIMEOUT": [*BAD_SECONDS, None, 10**400],
    "EXECUTOR_CANCEL_GRACE": [*BAD_SECONDS, None],
    "BACKGROUND_TASK_SHUTDOWN_TIMEOUT": BAD_SECONDS,
    "EXECUTOR_WORKER_NICE": [-1, 20, 1.5, math.nan, "10", True, None],
    "EXECUTOR_WORKER_APP": ["app", ":app", "module:", "", 3, True],
    "EXECUTOR_MAX_TASKS_PER_WORKER": BAD_COUNTS,
    "EXECUTOR_WORKER_MAX_MEMORY_GROWTH": BAD_COUNTS,
    "EXECUTOR_MAX_PAYLOAD": [*BAD_COUNTS, None],
    "EXECUTOR_BACKENDS": ["thread", ["thread"], {"more": 3}, {3: LoopBackend()}, {"loop": ThreadBackend(1)}, 0],
    "EXECUTOR_TAGS": ["cpu", ["cpu"], {"cpu": 3}, {3: "thread"}, 0],
    "EXECUTOR_CONTROL_DIR": ["", 1, True, ["/tmp"]],
    "EXECUTOR_CONTEXTVARS": ["background:variable", ["background"], [3], 3],
}

variable: ContextVar[str] = ContextVar("variable")


@pytest.mark.parametrize("key", BAD_VALUES)
def test_bad_values_are_refused(key):
    """The bad values of each key are refused with an error that names the key and the value."""
    for value in BAD_VALUES[key]:
        with pytest.raises(ConfigurationError) as caught:
            settings_of({"BACKGROUND_TASK_SHUTDOWN_TIMEOUT": 5, key: value})
        shown = value[0] if isinstance(value, list) and key == "EXECUTOR_CONTEXTVARS" else value
        shown = next(iter(shown.values())) if isinstance(shown, dict) and key == "EXECUTOR_BACKENDS" else shown
        assert key in str(caught.value)
        assert repr(shown) in str(caught.value)


async def test_bad_value_prevents_startup(app, executor):
    """An app with a bad value doesn't start; it does once the value is corrected."""
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


async def test_bad_value_fails_the_lifespan_startup(app, executor):
    """For a server, a bad value is a failed startup like any other."""
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
    "EXECUTOR_TYPE": "there are EXECUTOR_THREADS, ",  # resembles EXECUTOR_TAGS only by the common prefix
    "EXECUTOR_XYZZY": "EXECUTOR_",
    "EXECUTOR_": "EXECUTOR_",
}


async def test_unknown_key_is_refused(app, executor):
    """An unknown key is refused with a suggestion."""
    for key, hint in HINTS.items():
        app.config[key] = 1
        with pytest.raises(ConfigurationError) as caught:
            await app.startup()
        assert str(caught.value).startswith(f"there is no setting {key}: ")
        assert hint in str(caught.value)
        del app.config[key]


async def test_bad_value_without_a_lifespan(app, executor):
    """Without a lifespan, the first task is refused with the reason."""
    app.config["EXECUTOR_QUEUE_SIZE"] = "many"
    with pytest.raises(ConfigurationError, match="EXECUTOR_QUEUE_SIZE is 'many'"):
        app.add_background_task(background.triple, 1)


async def test_tag_without_a_backend(app, executor):
    """A tag mapped to an unknown backend is an error at startup, an unmapped tag when it is used."""
    app.config["EXECUTOR_TAGS"] = {"reports": "nowhere"}
    with pytest.raises(ConfigurationError, match=r"'reports' is mapped to 'nowhere'.*there are loop, process, thread"):
        await app.startup()
    del app.config["EXECUTOR_TAGS"]
    async with app.test_app():
        with pytest.raises(ConfigurationError, match=r"tag 'reports'.*EXECUTOR_TAGS"):
            app.add_background_task(task("reports")(lambda: None))


def test_shutdown_timeout():
    """Quart's timeout applies, None means no limit, and `EXECUTOR_SHUTDOWN_TIMEOUT` takes precedence."""
    app = Quart("background")
    assert settings_of(app.config).shutdown_timeout == 5
    assert settings_of({**app.config, "DEBUG": True}).shutdown_timeout == 0.5
    assert settings_of({**app.config, "DEBUG": True, "EXECUTOR_SHUTDOWN_TIMEOUT": 5}).shutdown_timeout == 5
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = None
    assert settings_of(app.config).shutdown_timeout == math.inf
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = 0
    assert settings_of(app.config).shutdown_timeout == 0
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 7
    assert settings_of(app.config).shutdown_timeout == 7
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = "ignored"
    assert settings_of(app.config).shutdown_timeout == 7


async def test_sizes(app, executor):
    """The numbers of threads, processes and queue slots are as configured, and read anew for each run."""
    released = threading.Event()
    app.config.update(EXECUTOR_THREADS=1, EXECUTOR_QUEUE_SIZE=1, EXECUTOR_PROCESSES=3)
    async with app.test_app():
        assert executor.backend("thread").workers == 1
        assert executor.backend("process").workers == 3
        app.add_background_task(released.wait)
        await until(lambda: not executor.snapshot().backends["thread"].queued)
        app.add_background_task(background.triple, 1)
        with pytest.raises(QueueFullError, match=r"full \(limit: 1\)"):
            app.add_background_task(background.triple, 1)
        released.set()
    app.config["EXECUTOR_THREADS"] = 2
    async with app.test_app():
        assert executor.backend("thread").workers == 2


async def test_no_processes(app, executor):
    """Without a process backend, cpu-bound functions are refused, or run on the backend their tag is mapped to."""
    app.config["EXECUTOR_PROCESSES"] = 0
    async with app.test_app():
        with pytest.raises(ConfigurationError, match="number of processes is 0"):
            app.add_background_task(background.double, 1)
    app.config["EXECUTOR_TAGS"] = {"cpu": "thread"}
    async with app.test_app():
        handle = app.add_background_task(background.double, 4)
        assert (handle.backend, await handle) == ("thread", 8)


async def test_backends_and_tags(app, executor):
    """An additional backend runs the tasks whose tag is mapped to it."""
    app.config["EXECUTOR_BACKENDS"] = {"reports": ThreadBackend(1), "loop": LoopBackend(max_running=1)}
    app.config["EXECUTOR_TAGS"] = {"report": "reports"}
    async with app.test_app():
        handle = app.add_background_task(task("report")(lambda: threading.current_thread().ident))
        assert handle.backend == "reports"
        assert await handle != threading.get_ident()
        assert executor.backend("loop").workers == 1


@ON_ASYNCIO
async def test_worker_settings(app, executor):
    """Niceness, payload limit and context variables apply to workers."""
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


@ON_ASYNCIO
@pytest.mark.parametrize(
    ("key", "value"), [("EXECUTOR_MAX_TASKS_PER_WORKER", 1), ("EXECUTOR_WORKER_MAX_MEMORY_GROWTH", 1)]
)
async def test_workers_are_replaced(app, executor, key, value):
    """A worker is replaced after its maximum of tasks, or when it has grown too large."""
    app.config[key] = value
    async with app.test_app():
        assert await app.add_background_task(background.grow) != await app.add_background_task(background.grow)


async def test_name_that_is_no_context_variable(app, executor):
    """A configured name that isn't a context variable is refused at startup."""
    app.config["EXECUTOR_CONTEXTVARS"] = ["background:triple"]
    with pytest.raises(ConfigurationError, match="'background:triple', which is of type function"):
        await app.startup()


async def test_control_directory(app, executor, monkeypatch, caplog):
    """Debug mode turns the control socket on, if its directory can be used. One that is named has to be usable."""
    with tempfile.TemporaryDirectory(prefix="control-", dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        default = f"{folder}/quart-executors"
        assert settings_of(app.config).control_dir is None
        assert settings_of({"DEBUG": True}).control_dir == default
        assert settings_of({"DEBUG": True, "EXECUTOR_CONTROL_DIR": None}).control_dir is None
        app.debug = True
        async with app.test_app():
            assert [server.app for server in find_servers(Path(default))] == [app_key(app.name)]
        assert find_servers(Path(default)) == []
        os.chmod(default, 0o755)
        async with app.test_app():
            pass
        assert "chmod 700" in caplog.text
        app.config["EXECUTOR_CONTROL_DIR"] = default
        with pytest.raises(ConfigurationError, match="chmod 700"):
            await app.startup()
        assert executor.phase == "closed"
