"""Which backend a callable runs on: its kind, its mark, the call's options, the tags."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Generator
from typing import Any

import pytest

from executors import ConfigurationError, InvalidTaskError, TaskOptions, cpu_bound, io_bound, task
from executors._callables import innermost, is_coroutine_function, name_of
from executors._core.router import Decision, decide, mark_of
from executors.options import NO_OPTIONS

TAGS = {"cpu": "process"}


def plain() -> None: ...


async def coroutine() -> None: ...


@types.coroutine
def old_style() -> Generator[None]:
    yield


def returns_coroutine() -> Any:
    return coroutine()


class Plain:
    def method(self) -> None: ...

    async def async_method(self) -> None: ...

    @classmethod
    async def async_classmethod(cls) -> None: ...

    @staticmethod
    async def async_staticmethod() -> None: ...

    def __call__(self) -> None: ...


class Async:
    async def __call__(self) -> None: ...


def wrapping(function: Callable[..., Any], *, asynchronous: bool) -> Callable[..., Any]:
    if asynchronous:

        @functools.wraps(function)
        async def wrapper(*args: Any) -> Any: ...
    else:

        @functools.wraps(function)
        def wrapper(*args: Any) -> Any: ...

    return wrapper


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        pytest.param(plain, False, id="function"),
        pytest.param(coroutine, True, id="coroutine function"),
        pytest.param(functools.partial(plain), False, id="partial"),
        pytest.param(functools.partial(coroutine), True, id="partial of a coroutine function"),
        pytest.param(functools.partial(functools.partial(coroutine), 1), True, id="partial of a partial"),
        pytest.param(Plain().method, False, id="method"),
        pytest.param(Plain().async_method, True, id="async method"),
        pytest.param(Plain.async_classmethod, True, id="async classmethod"),
        pytest.param(Plain.async_staticmethod, True, id="async staticmethod"),
        pytest.param(functools.partial(Plain().async_method), True, id="partial of an async method"),
        pytest.param(Plain(), False, id="callable object"),
        pytest.param(Async(), True, id="async __call__"),
        pytest.param(functools.partial(Async()), True, id="partial of an async __call__"),
        pytest.param(types.MethodType(Async(), 1), True, id="method of an async __call__"),
        pytest.param(Async, False, id="class whose instances are async"),
        pytest.param(returns_coroutine, False, id="function that returns a coroutine"),
        pytest.param(len, False, id="builtin"),
        pytest.param([].append, False, id="builtin method"),
        pytest.param(functools.lru_cache(coroutine), False, id="cached coroutine function"),
        pytest.param(old_style, True, id="types.coroutine"),
        pytest.param(wrapping(plain, asynchronous=True), True, id="async wrapper of a plain function"),
        pytest.param(wrapping(coroutine, asynchronous=False), False, id="plain wrapper of an async function"),
    ],
)
def test_kind(function: Callable[..., Any], expected: bool) -> None:
    """The outermost callable determines the kind, through partials, methods and __call__, never __wrapped__."""
    assert is_coroutine_function(function) is expected


def numbers() -> Generator[int]:
    yield 1


class GeneratorMethod:
    def __call__(self) -> Generator[int]:
        yield 1


async def async_numbers() -> Any:
    yield 1


@pytest.mark.parametrize(
    "function",
    [numbers, async_numbers, functools.partial(numbers), GeneratorMethod()],
    ids=["plain", "async", "partial", "method"],
)
def test_generator_function_is_refused(function: Callable[..., Any]) -> None:
    """A generator function is refused, and the error names it and an alternative."""
    with pytest.raises(InvalidTaskError, match=r"generator function.*executor\.stream.*executor\.map"):
        decide(function, NO_OPTIONS, TAGS)


def test_coroutine_object_is_refused() -> None:
    """A coroutine object is refused; the error shows how to write the call."""
    under_way = coroutine()
    with pytest.raises(InvalidTaskError, match=r"submit\(fn, x\)"):
        decide(under_way, NO_OPTIONS, TAGS)  # type: ignore[arg-type]
    under_way.close()


@pytest.mark.parametrize("value", [None, 5, "render", b"", ()], ids=repr)
def test_what_is_not_callable_is_refused(value: Any) -> None:
    """What is not callable is refused, with its value and type."""
    with pytest.raises(InvalidTaskError, match=type(value).__name__):
        decide(value, NO_OPTIONS, TAGS)


def test_kinds_without_tags() -> None:
    """Without tags the kind decides: coroutine functions run on the loop, others in threads."""
    assert decide(plain, NO_OPTIONS, TAGS) == Decision("thread", NO_OPTIONS, False)
    assert decide(coroutine, NO_OPTIONS, TAGS) == Decision("loop", NO_OPTIONS, True)


def test_io_tag_goes_by_kind() -> None:
    """The io tag does not change the backend."""
    assert decide(io_bound(lambda: None), NO_OPTIONS, TAGS).backend == "thread"

    @io_bound
    async def fetch() -> None: ...

    assert decide(fetch, NO_OPTIONS, TAGS).backend == "loop"
    assert decide(fetch, NO_OPTIONS, {"io": "pool"}).backend == "pool"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_cpu_tag_goes_to_processes(asynchronous: bool) -> None:
    """A function marked cpu runs on the process backend, sync or async."""
    function = cpu_bound(wrapping(plain, asynchronous=asynchronous))
    assert decide(function, NO_OPTIONS, TAGS) == Decision("process", TaskOptions(tag="cpu"), asynchronous)


def test_precedence() -> None:
    """The call's options override the mark, the mark overrides the kind; other options stay unset."""

    @task("reports", timeout=5, name="marked")
    def report() -> None: ...

    tags = {**TAGS, "reports": "pool"}
    assert decide(report, NO_OPTIONS, tags) == Decision(
        "pool", TaskOptions(tag="reports", timeout=5, name="marked"), False
    )
    found = decide(report, TaskOptions(tag="cpu", timeout=1), tags)
    assert found == Decision("process", TaskOptions(tag="cpu", timeout=1, name="marked"), False)
    assert decide(report, TaskOptions(tag="io"), tags).backend == "thread"


def test_unknown_tag_is_refused() -> None:
    """A tag without a backend is refused; the error has the task, the tag and the known tags."""
    with pytest.raises(ConfigurationError, match=r"plain.*'reports'.*cpu, io"):
        decide(plain, TaskOptions(tag="reports"), TAGS)


def test_marks_are_found_through_partials_and_methods() -> None:
    """A mark is found under partials, on methods and on __call__."""

    class Renderer:
        @cpu_bound
        def render(self) -> None: ...

        @cpu_bound
        async def __call__(self) -> None: ...

    expected = TaskOptions(tag="cpu")
    assert mark_of(Renderer().render, is_coroutine=False) == expected
    assert mark_of(functools.partial(Renderer().render), is_coroutine=False) == expected
    assert mark_of(Renderer(), is_coroutine=True) == expected
    assert mark_of(functools.partial(Renderer()), is_coroutine=True) == expected


@pytest.mark.parametrize("inner", [False, True], ids=["plain inside", "async inside"])
@pytest.mark.parametrize("outer", [False, True], ids=["plain outside", "async outside"])
def test_wraps_inherits_between_one_kind_only(inner: bool, outer: bool) -> None:
    """A mark copied by functools.wraps counts only if wrapper and wrapped function are of one kind."""
    wrapper = wrapping(cpu_bound(wrapping(plain, asynchronous=inner)), asynchronous=outer)
    expected = "process" if inner is outer else "loop" if outer else "thread"
    assert decide(wrapper, NO_OPTIONS, TAGS).backend == expected


def test_names() -> None:
    """A task is named after the innermost callable."""
    assert name_of(plain) == "plain"
    assert name_of(functools.partial(plain)) == "plain"
    assert name_of(Plain().method) == "Plain.method"
    assert name_of(Async()) == "Async.__call__"
    assert name_of(len) == "len"
    assert name_of(Plain) == "Plain"
    assert innermost(functools.partial(Plain().method)) is Plain.method
