"""Testing an app: with Quart's own tools, and with the fixture `unseen_failures`."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import textwrap

import anyio
import anyio.lowlevel
import background
import pytest
from quart import current_app
from quart.signals import got_background_exception

from executors import TaskState, cpu_bound, io_bound
from executors.quart import QuartExecutor
from executors.quart.testing import wait_for_tasks

pytestmark = pytest.mark.anyio


# --- Quart's own tools ------------------------------------------------------------------------------------------------


async def test_leaving_test_app_waits(app, executor):
    """Leaving `app.test_app()` waits for background tasks on every backend, as Quart documents."""
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 30  # a worker may start late on a loaded machine
    ended = []

    async def on_loop():
        await app.shutdown_event.wait()
        ended.append(current_app.name)

    def in_thread():
        ended.append(current_app.name)

    @app.post("/")
    async def route():
        handles.extend(map(app.add_background_task, (on_loop, in_thread)))
        handles.append(app.add_background_task(background.double, 2))
        return "", 202

    handles = []
    async with app.test_app() as test_app:
        assert (await test_app.test_client().post("/")).status_code == 202
    assert ended == ["background"] * 2
    assert [handle.state for handle in handles] == [TaskState.SUCCEEDED] * 3


@pytest.mark.parametrize("mark", [io_bound, cpu_bound(timeout=3), lambda function: function])
async def test_task_function_can_be_awaited_directly(app, executor, mark):
    """A coroutine function, marked or not, can be awaited under `app.app_context()`; no executor starts."""

    @mark
    async def task(number):
        await anyio.lowlevel.checkpoint()
        return f"{current_app.name} {number}"

    async with app.app_context():
        assert await task(3) == "background 3"
    assert executor.phase == "new"


async def test_wait_for_tasks_without_a_lifespan(app, executor):
    """Without a lifespan, a request's tasks run as well; `wait_for_tasks` waits for them and their reports."""
    reported, ended = [], []

    async def receiver(sender, exception):
        await anyio.sleep(0.001)
        reported.append(str(exception))
        app.add_background_task(ended.append, "by the receiver")

    @app.post("/")
    async def route():
        app.add_background_task(background.fail, "wrong")
        app.add_background_task(ended.append, "by the route")
        return "", 202

    await wait_for_tasks(app)  # there is no task and no executor yet
    with got_background_exception.connected_to(receiver, app):
        assert (await app.test_client().post("/")).status_code == 202
        await wait_for_tasks(app)
    assert (reported, ended) == (["wrong"], ["by the route", "by the receiver"])
    assert executor.phase == "open"
    await executor.drain()
    await wait_for_tasks(app)


@pytest.mark.usefixtures("no_garbage")
async def test_inline_failures_are_reported(new_app, caplog):
    """Inline failures are reported to the app before `wait_for_tasks` returns and before the app stops."""
    reported = []
    app = new_app(EXECUTOR_INLINE=True)
    QuartExecutor(app)

    async def receiver(sender, exception):
        reported.append(str(exception))

    with got_background_exception.connected_to(receiver, app):
        async with app.test_app():
            app.add_background_task(background.fail, "first")
            await wait_for_tasks(app)
            assert reported == ["first"]
            gc.collect()
            app.add_background_task(background.fail, "second")
    assert reported == ["first", "second"]
    assert [record.name for record in caplog.records] == ["background"] * 2  # and not by `executors`


# --- the fixture ------------------------------------------------------------------------------------------------------

MODULE = """
    import logging
    import anyio
    import pytest
    from quart import Quart
    from quart_trio import QuartTrio
    from executors import Executor, TaskTimeoutError, WorkerLostError, cpu_bound, io_bound
    from executors.quart import QuartExecutor
    import background

    pytestmark = pytest.mark.anyio

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(request):
        return request.param

    @pytest.fixture
    def app(anyio_backend):
        app = (QuartTrio if anyio_backend == "trio" else Quart)("tested")
        app.config.update(EXECUTOR_PROCESSES=1, EXECUTOR_THREADS=1, EXECUTOR_SHUTDOWN_TIMEOUT=60)
        QuartExecutor(app)
        return app

    @pytest.fixture
    async def running(app):
        async with app.test_app():
            yield app

    async def go_wrong(text="wrong"):
        raise ValueError(text)

    def go_wrong_in_thread():
        raise ValueError("wrong in a thread")

    @io_bound(timeout=0.01, name="too long")
    async def too_long():
        await anyio.sleep_forever()

    kept = []

    async def test_bad_background(app):
        async with app.test_app():
            app.add_background_task(go_wrong)

    async def test_bad_in_fixture(running):
        running.add_background_task(go_wrong_in_thread)

    async def test_bad_process(app):
        test_app = app.test_app()
        test_app.shutdown_timeout = 60
        async with test_app:
            app.add_background_task(background.fail, "wrong in a worker")
            app.add_background_task(background.kill_worker)

    async def test_bad_timeout(running):
        running.add_background_task(too_long)

    async def test_bad_submit(running):
        running.extensions["executor"].submit(go_wrong)

    async def test_bad_kept(running):
        handle = running.extensions["executor"].submit(go_wrong)
        kept.append(handle)
        await handle.wait()

    async def test_bad_without_lifespan(app):
        handle = app.add_background_task(go_wrong)
        await handle.wait()

    async def test_bad_inline(app):
        app.config["EXECUTOR_INLINE"] = True
        async with app.test_app():
            app.add_background_task(go_wrong_in_thread)

    async def test_bad_executor_of_its_own():
        async with Executor(processes=0) as executor:
            executor.submit(go_wrong)

    async def test_good_nothing(running):
        await running.add_background_task(anyio.sleep, 0)

    async def test_good_awaited(running):
        executor = running.extensions["executor"]
        for submit in (running.add_background_task, executor.submit, executor.run):
            with pytest.raises(ValueError, match="wrong"):
                await submit(go_wrong)
        with pytest.raises(TaskTimeoutError):
            await running.add_background_task(too_long)
        with pytest.raises(WorkerLostError):
            await running.add_background_task(background.kill_worker)

    async def test_good_retrieved(app):
        async with app.test_app():
            handle = app.add_background_task(go_wrong)
        assert isinstance(handle.exception(), ValueError)

    async def test_good_retrieved_in_callback(running):
        running.add_background_task(go_wrong).add_done_callback(lambda handle: handle.exception())

    async def test_good_inline_retrieved(app):
        app.config["EXECUTOR_INLINE"] = True
        async with app.test_app():
            handle = app.add_background_task(go_wrong_in_thread)
            await handle.wait()
            assert isinstance(handle.exception(), ValueError)

    async def test_good_cancelled(running):
        running.add_background_task(anyio.sleep_forever).cancel()

    async def test_good_expected(app, unseen_failures):
        async with app.test_app():
            app.add_background_task(go_wrong)
            app.add_background_task(go_wrong_in_thread)
        assert sorted((failure.name, str(failure.error)) for failure in unseen_failures) == [
            ("go_wrong", "wrong"), ("go_wrong_in_thread", "wrong in a thread"),
        ]
        unseen_failures.clear()

    def test_good_without_a_loop(unseen_failures):
        assert not unseen_failures

    async def test_good_log_is_unchanged(app, caplog, unseen_failures):
        async with app.test_app():
            app.add_background_task(go_wrong)
        assert [str(record.exc_info[1]) for record in caplog.records if record.name == "tested"] == ["wrong"]
        assert len(unseen_failures) == 1
        unseen_failures.clear()
"""
EXPECTED = {
    "background": ["task 'go_wrong' failed", "ValueError: wrong", "in go_wrong"],
    "in_fixture": ["task 'go_wrong_in_thread' failed", "ValueError: wrong in a thread", "in go_wrong_in_thread"],
    "process": ["task 'fail' failed", "ValueError: wrong in a worker", "task 'kill_worker' failed", "WorkerLostError"],
    "timeout": ["task 'too long' failed", "TaskTimeoutError"],
    "submit": ["task 'go_wrong' failed"],
    "kept": ["task 'go_wrong' failed"],
    "without_lifespan": ["task 'go_wrong' failed"],
    "inline": ["task 'go_wrong_in_thread' failed"],
    "executor_of_its_own": ["task 'go_wrong' failed"],
}
"""The messages expected for each test that leaves a failure unseen."""

LOOPS = ("asyncio", "trio")


@pytest.mark.parametrize(
    ("conftest", "chosen"),
    [('pytest_plugins = ["executors.quart.testing"]', ""), ("from executors.testing import unseen_failures", "own")],
    ids=["plugin of the extension", "import of the core"],
)
@pytest.mark.timeout(120)
def test_unseen_failures(tmp_path, conftest, chosen):
    """A test that leaves a failure unseen fails, with the task's name and traceback; one that retrieves it passes."""
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_them.py").write_text(textwrap.dedent(MODULE))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.path.dirname(background.__file__), *filter(None, sys.path)]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    options = ["-p", "anyio", "-p", "no:cacheprovider", "-W", "error", "-rA", "--color=no", "-k", chosen]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_them.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    output = done.stdout + done.stderr
    outcomes = set(re.findall(r"^(PASSED|ERROR|FAILED) test_them.py::(\w+\[?\w*\]?)", output, re.MULTILINE))
    names = [name for name in re.findall(r"async def (test_\w+)", MODULE) if chosen in name]
    parametrized = [f"{name}[{loop}]" for name in names for loop in LOOPS]
    bad = {("ERROR", name) for name in parametrized if "bad" in name}
    sync = {("PASSED", name) for name in re.findall(r"^    def (test_\w+)", MODULE, re.MULTILINE) if chosen in name}
    assert outcomes == {("PASSED", name) for name in parametrized} | bad | sync, output
    assert {f"test_bad_{name}" for name in EXPECTED if chosen in name} == {name for name in names if "bad" in name}
    for name, parts in EXPECTED.items():
        for loop in LOOPS if chosen in name else ():
            _, _, section = output.partition(f"ERROR at teardown of test_bad_{name}[{loop}]")
            section, _, _ = section.partition("ERROR at teardown")
            assert [part for part in parts if part not in section] == [], section
            assert "check the fixture `unseen_failures`" in section
    assert "its error was never retrieved" not in output.partition("short test summary info")[2]


@pytest.mark.parametrize("module", ["executors, executors.quart", "executors.backends.process, executors.cli"])
def test_library_does_not_import_pytest(module):
    """The modules that an app imports don't import pytest."""
    code = f"import {module}, sys; print([name for name in sys.modules if 'pytest' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "[]\n"
