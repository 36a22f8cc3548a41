"""Options of tasks: their checks, and the decorators."""

from __future__ import annotations

import functools
import math
import pickle
from typing import Any

import pytest

from executors import ConfigurationError, InvalidTaskError, TaskOptions, cpu_bound, io_bound, task
from executors._checks import positive_seconds, whole_number
from executors.options import MARK, NO_OPTIONS

BAD_SECONDS: list[Any] = [-1, 0, -0.0, math.nan, -math.inf, "5", True, [], 10**400]
BAD_COUNTS: list[Any] = [-1, 0, 1.5, math.nan, "3", True, []]


def plain(x: int) -> int:
    return x


@pytest.mark.parametrize("value", BAD_SECONDS, ids=lambda value: str(value)[:10])
@pytest.mark.parametrize("option", ["timeout", "deadline"])
def test_bad_seconds_are_refused(option: str, value: Any) -> None:
    """A limit in time that is not a number above 0 is refused, with its name and value."""
    with pytest.raises(ConfigurationError, match=f"{option} is .*math.inf removes the limit"):
        TaskOptions(**{option: value})  # type: ignore[arg-type]


def test_queue_timeout_may_be_zero() -> None:
    """Zero means not to wait at all; less is refused."""
    assert TaskOptions(queue_timeout=0).queue_timeout == 0
    with pytest.raises(ConfigurationError, match="queue_timeout"):
        TaskOptions(queue_timeout=-1)


LIMITS = ("timeout", "deadline", "queue_timeout", "max_concurrency")


@pytest.mark.parametrize("option", LIMITS)
def test_none_is_not_set_and_infinity_removes_a_limit(option: str) -> None:
    """None leaves the limit of the function's mark as it is; infinity takes precedence over it, and means none."""
    marked = TaskOptions(**{option: 2})  # type: ignore[arg-type]
    assert getattr(TaskOptions(**{option: None}).over(marked), option) == 2
    bound = TaskOptions(name="n").over(TaskOptions(**{option: math.inf}))
    options = bound.over(marked)
    assert getattr(options, option) == math.inf
    assert options.without_infinite_limits() == TaskOptions(name="n")
    assert pickle.loads(pickle.dumps(options)) == options
    assert marked.without_infinite_limits() is marked


@pytest.mark.parametrize("value", BAD_COUNTS, ids=str)
def test_bad_concurrency_is_refused(value: Any) -> None:
    """A concurrency that is not a whole number of at least 1 is refused, with its name and value."""
    with pytest.raises(ConfigurationError, match="max_concurrency"):
        TaskOptions(max_concurrency=value)


@pytest.mark.parametrize("value", ["", 5, b"cpu"], ids=str)
@pytest.mark.parametrize("option", ["tag", "name"])
def test_bad_string_is_refused(option: str, value: Any) -> None:
    """A tag or a name that is empty or not a string is refused."""
    with pytest.raises(ConfigurationError, match=option):
        TaskOptions(**{option: value})  # type: ignore[arg-type]


BAD_RESOURCES: list[Any] = [
    "gpu",
    1,
    ("gpu", 1),
    {"gpu": 0},
    {"gpu": -1},
    {"gpu": "1"},
    {"gpu": math.inf},
    {"": 1},
    {5: 1},
]


@pytest.mark.parametrize("value", BAD_RESOURCES, ids=str)
def test_bad_resources_are_refused(value: Any) -> None:
    """Resources that do not map names to amounts above 0 are refused, with the value."""
    with pytest.raises(ConfigurationError, match="resources"):
        TaskOptions(resources=value)


def test_resources_are_a_value() -> None:
    """Resources are copied, compared by content, and inherited by options that set none."""
    given = {"memory": 2.5, "gpu": 1}
    options = TaskOptions(resources=given)
    del given["gpu"]
    assert options.resources == (("gpu", 1), ("memory", 2.5))
    assert pickle.loads(pickle.dumps(options)) == options == TaskOptions(resources={"gpu": 1, "memory": 2.5})
    assert hash(options) == hash(TaskOptions(resources={"gpu": 1, "memory": 2.5}))
    assert TaskOptions(name="n").over(options).resources == options.resources
    assert TaskOptions(resources={}).over(options).resources == ()


def test_message_names_the_value() -> None:
    """The message has the value and what is allowed."""
    with pytest.raises(ConfigurationError, match=r"-3.*above 0"):
        positive_seconds(-3, "the option timeout")
    with pytest.raises(ConfigurationError, match=r"'x'.*at least 2"):
        whole_number("x", "a size", least=2)


def test_zero_seconds_where_allowed() -> None:
    """A duration that may be 0 may not be negative."""
    assert positive_seconds(0, "a duration", zero=True) == 0.0
    with pytest.raises(ConfigurationError, match="at least 0"):
        positive_seconds(-1, "a duration", zero=True)


def test_unknown_option_is_refused() -> None:
    """An unknown option is refused, with the list of options."""
    with pytest.raises(ConfigurationError, match=r"'time_out'.*max_concurrency.*timeout"):
        TaskOptions(time_out=5)  # type: ignore[call-arg]


def test_options_are_immutable() -> None:
    """Options are immutable."""
    options = TaskOptions(tag="cpu")
    with pytest.raises(AttributeError, match="immutable"):
        options.tag = "io"
    assert options.tag == "cpu"


def test_options_compare_hash_and_pickle() -> None:
    """Options are values: they compare by content, have equal hashes if they are equal, and can be pickled."""
    one, same = TaskOptions(tag="cpu", timeout=5), TaskOptions(tag="cpu", timeout=5.0)
    assert one == same
    assert hash(one) == hash(same)
    assert one != TaskOptions(tag="cpu")
    assert one != "cpu"
    assert pickle.loads(pickle.dumps(one)) == one
    assert repr(one) == "TaskOptions(tag='cpu', timeout=5.0)"


def test_options_over_others() -> None:
    """Options that aren't set are taken from the other options."""
    first, second = TaskOptions(tag="cpu", timeout=5), TaskOptions(timeout=9, name="b")
    assert first.over(second) == TaskOptions(tag="cpu", timeout=5, name="b")
    assert first.over(NO_OPTIONS) == first
    assert NO_OPTIONS.over(second) == second


@pytest.mark.parametrize("mark", [io_bound, cpu_bound])
def test_mark_returns_the_function(mark: Any) -> None:
    """A mark returns the same function, which can still be called and pickled."""

    def function(x: int) -> int:
        return x + 1

    assert mark(function) is function
    assert mark(timeout=3)(function) is function
    assert function(1) == 2
    assert pickle.loads(pickle.dumps(plain)) is plain


def test_marks_store_tag_and_options() -> None:
    """io_bound, cpu_bound and task store the tag, the options, and whether it is a coroutine function."""

    async def function() -> None: ...

    assert getattr(io_bound(function), MARK) == (TaskOptions(tag="io"), True)
    marked = cpu_bound(timeout=3, name="n", max_concurrency=2)(function)
    assert getattr(marked, MARK) == (TaskOptions(tag="cpu", timeout=3, name="n", max_concurrency=2), True)
    assert getattr(task("reports", timeout=1)(lambda: None), MARK) == (TaskOptions(tag="reports", timeout=1), False)


def test_partial_can_be_marked() -> None:
    """A partial has a mark of its own; the function inside isn't marked."""
    partial = cpu_bound(functools.partial(plain, 1))
    assert getattr(partial, MARK)[0] == TaskOptions(tag="cpu")
    assert not hasattr(plain, MARK)


def test_task_without_a_tag_is_refused() -> None:
    """`@task` without a tag is refused with an error that says how to write it."""
    with pytest.raises(ConfigurationError, match="@task"):
        task(plain)  # type: ignore[arg-type]


def test_bad_mark_option_is_refused_at_once() -> None:
    """An option of a mark is checked when the mark is written, not when the task runs."""
    with pytest.raises(ConfigurationError, match="timeout"):
        cpu_bound(timeout=-1)
    with pytest.raises(ConfigurationError, match="'retries'"):
        io_bound(retries=3)  # type: ignore[call-overload]


def test_builtin_is_refused_by_the_mark() -> None:
    """A builtin can't be marked; the error says what to do instead."""
    with pytest.raises(InvalidTaskError, match=r"executor\.options"):
        cpu_bound(len)


def test_generator_function_can_be_marked() -> None:
    """A generator function has a mark, for `executor.stream`, which says whether it is async."""

    def numbers() -> Any:
        yield 1

    async def async_numbers() -> Any:
        yield 1

    assert getattr(cpu_bound(numbers), MARK) == (TaskOptions(tag="cpu"), False)
    assert getattr(cpu_bound(buffersize=4)(async_numbers), MARK) == (TaskOptions(tag="cpu", buffersize=4), True)


def test_bad_buffersize_is_refused() -> None:
    """A buffer has room for at least one item."""
    for value in (0, -1, 1.5, "4", True):
        with pytest.raises(ConfigurationError, match="buffersize"):
            TaskOptions(buffersize=value)  # type: ignore[arg-type]
