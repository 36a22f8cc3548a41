"""Apps that workers can't import: the errors of their tasks, and the log record, which is written once."""

from __future__ import annotations

import logging

import in_app
import pytest
from loops import ON_ASYNCIO

from executors import BackendUnavailableError, ConfigurationError, WorkerLostError
from executors.errors import AppNotFoundError
from executors.quart import QuartExecutor
from executors.quart.worker import import_app

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Run on asyncio and trio: to a worker, uvloop is the same as asyncio."""
    return request.param


async def test_tasks_without_an_app_in_the_worker(app, executor):
    """Tasks run without an app in the worker; the error of one that uses `current_app` or `g` says what to set."""
    async with app.test_app():
        for function in (in_app.app_name, in_app.app_name_async):
            with pytest.raises(AppNotFoundError, match=r"Set EXECUTOR_WORKER_APP to 'package\.module:app'"):
                await app.add_background_task(function)
        with pytest.raises(AppNotFoundError, match="EXECUTOR_WORKER_APP"):
            await app.add_background_task(in_app.mark_g, "mark")
        assert await app.add_background_task(in_app.own_executor) == 4
        assert not await app.add_background_task(in_app.has_context)
        assert await app.add_background_task(in_app.in_context_of_its_own) == "own"


@ON_ASYNCIO
async def test_unknown_app_is_logged_once(app, executor, caplog):
    """The first task for a worker without the app logs a warning that says what to set."""

    def warnings():
        return [record for record in caplog.records if "EXECUTOR_WORKER_APP" in record.getMessage()]

    async with app.test_app():
        await app.add_background_task(lambda: None)
        assert not warnings()
        for _ in range(2):
            await app.add_background_task(in_app.has_context)
        (warning,) = warnings()
    assert "the app 'background' is no variable of a module" in warning.getMessage()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("broken_app:app", ["broken_app.py", "KeyError: 'DATABASE'", "loading the app from 'broken_app:app'"]),
        ("no_such_module:app", ["No module named 'no_such_module'", "EXECUTOR_WORKER_APP"]),
        ("worker_app:create_nothing()", ["EXECUTOR_WORKER_APP is 'worker_app:create_nothing()', which is of type str"]),
        ("worker_app:create_for()", ["TypeError: create_for() missing 1 required", "'worker_app:create_for()'"]),
        ("worker_app:leave()", ["SystemExit: 3", "worker_app.py", "loading the app from 'worker_app:leave()'"]),
    ],
)
@ON_ASYNCIO
async def test_app_that_fails_to_load(app, executor, caplog, path, expected):
    """Each task fails with the worker's error, which is logged once."""
    app.config.update(EXECUTOR_WORKER_APP=path, EXECUTOR_PROCESSES=2)
    async with app.test_app():
        for handle in [executor.submit(in_app.app_name) for _ in range(3)]:
            with pytest.raises(WorkerLostError) as caught:
                await handle
            assert [part for part in expected if part not in str(caught.value)] == []
        with pytest.raises(BackendUnavailableError, match="worker processes fail to start") as refused:
            executor.submit(in_app.app_name)
        assert [part for part in expected if part not in str(refused.value)] == []
    (logged,) = [record for record in caplog.records if "worker processes fail to start" in record.getMessage()]
    assert (logged.levelno, logged.name) == (logging.ERROR, "executors")
    assert [part for part in expected if part not in logged.getMessage()] == []
    assert logged.getMessage().count("which is of type") <= 1  # an error without a traceback isn't repeated


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("no_such_module:app", "No module named 'no_such_module'"),
        ("worker_app:missing", "EXECUTOR_WORKER_APP is 'worker_app:missing', and 'worker_app' has no 'missing'"),
        ("worker_app:create_nothing()", "is of type str and not a Quart app"),
        ("worker_app:create_app", r"is of type function and not a Quart app.*create_app\(\)'"),
        (
            "worker_app:create_for(name)",
            r"'worker_app:create_for\(name\)', and must be .* whose arguments are literals",
        ),
        ("worker_app:create_for('a') + 1", "whose arguments are literals"),
        ("worker_app:create_for('a'", "whose arguments are literals"),
        ("worker_app.app", "EXECUTOR_WORKER_APP is 'worker_app.app', which should look like"),
    ],
)
def test_invalid_paths(path, expected):
    """The error says what `EXECUTOR_WORKER_APP` refers to if that isn't an app."""
    with pytest.raises((ConfigurationError, ImportError), match=expected):
        import_app(None, path)


@pytest.mark.parametrize("arguments", ["'made'", "name='made'", " 'ma' 'de', "])
def test_arguments_of_a_factory(arguments):
    """A factory is called with the literal arguments of the path."""
    assert import_app(None, f"worker_app:create_for({arguments})").name == "made"


async def test_second_executor_is_refused(app, executor):
    """A second executor for an app is refused; the first keeps working."""
    with pytest.raises(ConfigurationError, match="'background' has an executor already, and an app has only one"):
        QuartExecutor(app)
    with pytest.raises(ConfigurationError, match="'background' has an executor already"):
        executor.init_app(app)
    async with app.test_app():
        assert await app.add_background_task(lambda: 3) == 3
