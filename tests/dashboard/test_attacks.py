"""What must not work: access without authorization, requests of other sites, hostile names, wrong paths."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from asgi_requests import requesting, status_of, text_of
from loops import ON_ASYNCIO
from markupsafe import escape
from quart import Quart
from quart import abort as abort_in_quart
from servers import TIMEOUT
from starlette.exceptions import HTTPException

from executors import ConfigurationError, Executor, TaskState, current_task
from executors._dashboard.pages import STATIC
from executors._dashboard.security import HEADERS, is_same_origin
from executors.asgi.dashboard import Dashboard as MountedDashboard
from executors.quart import QuartExecutor
from executors.quart.dashboard import Dashboard

pytestmark = pytest.mark.anyio
TASK = "0" * 32
OF_THIS_SITE = {"sec_fetch_site": "same-origin", "origin": "http://shop.test"}
PATHS = [
    *(
        ("GET", path)
        for path in ("/", "/events", f"/tasks/{TASK}", "/nothing", *(f"/static/{name}" for name in STATIC))
    ),
    ("POST", f"/tasks/{TASK}/cancel"),
    ("POST", "/"),
    ("HEAD", "/"),
]


def everyone(request: Any) -> bool:
    return True


@pytest.mark.parametrize("authorize", [None, "everyone", True])
async def test_authorize_is_required(authorize: Any) -> None:
    """There is no dashboard without a function that authorizes."""
    for new in (
        lambda **options: Dashboard(QuartExecutor(Quart("shop")), **options),
        lambda **options: MountedDashboard(Executor(), **options),
    ):
        with pytest.raises(ConfigurationError, match="authorize=is_admin"):
            new(authorize=authorize)
        with pytest.raises(ConfigurationError, match="authorize=is_admin"):
            new()


@ON_ASYNCIO
async def test_nothing_without_authorization(new_shop) -> None:
    """Every path is refused, whatever is behind it; the function gets the request."""
    seen = []

    def refuse(request: Any) -> bool:
        seen.append(request if isinstance(request, dict) else request.scope)
        return False

    async def forget(request: Any) -> None:
        refuse(request)

    for authorize in (refuse, forget):
        async with new_shop(authorize=authorize, actions=True) as shop:
            for method, path in PATHS:
                async with requesting(shop.app, f"/executors{path}", method, **OF_THIS_SITE) as answer:
                    assert answer.status == 403, path
                    assert await answer.body() == b"You may not see this dashboard.\n"
                    assert {name.lower(): value for name, value in HEADERS.items()}.items() <= answer.headers.items()
            assert seen.pop()["path"] == "/executors/"  # the last of the paths


@ON_ASYNCIO
@pytest.mark.parametrize("returned", ["yes", 1, {"admin": False}], ids=str)
async def test_only_true_is_true(new_shop, returned: object) -> None:
    """A function that returns neither True nor False is a mistake, and nobody gets in."""
    async with new_shop(authorize=lambda request: returned) as shop:
        with pytest.raises(ConfigurationError, match="must return True or False"):
            await _raise_or_status(shop.app)


@ON_ASYNCIO
async def test_an_authorization_that_fails(new_shop) -> None:
    """What it raises is handled as in a route: an internal error, or the status that it asks for."""

    def broken(request: Any) -> bool:
        raise LookupError("no such session")

    async def unauthorized(request: Any) -> bool:
        if isinstance(request, dict):
            raise HTTPException(401)
        abort_in_quart(401)

    async with new_shop(authorize=broken) as shop:
        with pytest.raises(LookupError):
            await _raise_or_status(shop.app)
    async with new_shop(authorize=unauthorized) as shop:
        assert await status_of(shop.app, "/executors/") == 401


async def _raise_or_status(app: Any) -> int:
    """Return the status, or raise what the app has raised, as Starlette does after its answer and Quart in tests."""
    if isinstance(app, Quart):
        app.config["PROPAGATE_EXCEPTIONS"] = True
    return await status_of(app, "/executors/")


@ON_ASYNCIO
async def test_cancelling_needs_proof_of_the_origin(new_shop) -> None:
    """Only a request that a browser sent for a page of this site cancels a task."""
    async with new_shop(authorize=everyone, actions=True) as shop:
        task = shop.executor.submit(anyio.sleep, 600)
        path = f"/executors/tasks/{task.id}/cancel"
        for headers in (
            {},
            {"sec_fetch_site": "cross-site"},
            {"sec_fetch_site": "same-site"},
            {"sec_fetch_site": "none"},
            {"origin": "http://evil.test"},
            {"origin": "null"},
            {"origin": ""},
            {"origin": "http://shop.test.evil.test"},
            {"origin": "http://shop.test@evil.test"},
            {"origin": "file://shop.test"},
            {"origin": "http://[shop.test"},
            {**OF_THIS_SITE, "origin": "http://evil.test"},
            {**OF_THIS_SITE, "sec_fetch_site": "cross-site"},
        ):
            assert await status_of(shop.app, path, "POST", **headers) == 403, headers
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            assert await status_of(shop.app, path, method, **OF_THIS_SITE) == 405
        assert task.state is TaskState.RUNNING
        assert await status_of(shop.app, path, "POST", **OF_THIS_SITE) == 204
        with anyio.fail_after(TIMEOUT):
            await task.wait()
        assert task.state is TaskState.CANCELLED
        assert await status_of(shop.app, f"/executors/tasks/{TASK}/cancel", "POST", **OF_THIS_SITE) == 404


def test_the_origin() -> None:
    """Each header alone is proof, as not every browser sends both; the scheme is another one behind a proxy."""
    assert is_same_origin({"sec-fetch-site": "same-origin"})
    assert is_same_origin({"origin": "https://Shop.test:8000", "host": "shop.test:8000"})
    assert not is_same_origin({"origin": "https://shop.test", "host": "shop.test:8000"})
    assert not is_same_origin({"origin": "", "host": ""})


@ON_ASYNCIO
async def test_read_only(new_shop) -> None:
    """Without `actions` nothing can be cancelled, and no page has a button for it."""
    async with new_shop(authorize=everyone) as shop:
        task = shop.executor.submit(anyio.sleep, 600)
        assert await status_of(shop.app, f"/executors/tasks/{task.id}/cancel", "POST", **OF_THIS_SITE) == 403
        assert "<button" not in await text_of(shop.app, f"/executors/tasks/{task.id}")
        assert task.state is TaskState.RUNNING
        task.cancel()


WRONG_PATHS = [
    *("static/", "static/../pages.py", "static/%2e%2e/pages.py", "static/..%2fpages.py", "static//etc/passwd"),
    *("static/dashboard.css\x00", "static/dashboard.css/", "static/./dashboard.css", "static/Dashboard.css"),
    *("../", "..%2f", "tasks/", f"tasks/{TASK}/", f"tasks/{TASK}/../../", f"tasks/{TASK.replace('0', 'G')}"),
    *(f"tasks/{TASK}\n", f"tasks/{TASK[:-1]}", f"tasks/{TASK}0", "templates/index.html", "static\\dashboard.css"),
]


@ON_ASYNCIO
async def test_paths_that_lead_nowhere(new_shop) -> None:
    """Files are found by their names in a table, tasks by their ids; everything else is not found."""
    async with new_shop(authorize=everyone, actions=True) as shop:
        for path in WRONG_PATHS:
            async with requesting(shop.app, f"/executors/{path}") as answer:
                body = await answer.body()
                assert answer.status in {404, 308}, body  # Quart redirects to a path without double slashes
                assert b"root:" not in body


def hostile(text: str, release: threading.Event) -> Callable[[str, bool], str]:
    """Return a function whose name, progress and error contain markup. Its arguments and its result are secret."""

    def work(secret: str, fails: bool) -> str:
        current_task().progress(1, 2, text)
        assert release.wait(TIMEOUT)
        if fails:
            raise ValueError(text)
        return "secret result"

    work.__name__ = work.__qualname__ = text
    return work


@ON_ASYNCIO
@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "{{ 7 * 7 }}\ud800"])
async def test_hostile_names(new_shop, text: str) -> None:
    """Names, messages and tracebacks are escaped, and neither arguments nor results appear anywhere."""
    async with new_shop(authorize=everyone) as shop:
        release, printable = threading.Event(), text.replace("\ud800", "?")
        work = hostile(text, release)
        failing, succeeding = (shop.executor.submit(work, "secret argument", fails) for fails in (True, False))
        pages = []
        try:
            while succeeding.progress is None or failing.progress is None:
                await anyio.sleep(0.01)
            for task in (failing, succeeding):
                pages.append(await text_of(shop.app, f"/executors/tasks/{task.id}"))
            assert f'<h1 class="name">{escape(printable)}</h1>' in pages[0]
        finally:
            release.set()
        await succeeding
        with pytest.raises(ValueError, match=r"."):
            await failing
        for task in (failing, succeeding):
            pages.append(await text_of(shop.app, f"/executors/tasks/{task.id}"))
        assert "Traceback" in pages[2]
        async with requesting(shop.app, "/executors/events") as answer:
            pages.append((await answer.part()).decode())
        for page in pages:
            assert "secret" not in page
        for page in pages[:4]:
            assert "<img" not in page
            assert "<script>" not in page
