"""Small calls: the short encoding gives the same call as pickle, and only suitable calls use it."""

from __future__ import annotations

import functools
import math

import pytest
import worker_tasks as tasks
from hypothesis import given
from hypothesis import strategies as st
from loops import ON_ASYNCIO

from executors import Executor, SerializationError
from executors._wire.pickling import is_small
from executors._wire.small_calls import SmallCalls

ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()


class Text(str):
    """Not a plain type: its class determines how it is pickled."""


@given(st.text(), st.lists(ATOMS, max_size=5))
def test_calls_come_back(name, args) -> None:
    """Name, function, arguments and kind are preserved, the first time and the second."""
    sender, receiver = SmallCalls(), SmallCalls()
    for function, is_coroutine in 2 * [(tasks.identity, False), (tasks.add_later, True)]:
        data = sender.dump(name, function, tuple(args))
        assert data is not None
        assert receiver.load(data) == (name, function, tuple(args), is_coroutine)


def test_extreme_arguments_come_back() -> None:
    """Every value of a plain type is what it was, and of its own type."""
    args = ("\ud800 \0 \U0001f600", b"\0\xff", -0.0, math.nan, 5e-324, 2**31, -(2**63), 7**999, True, None, -1j)
    data = SmallCalls().dump("name", tasks.identity, args)
    assert data is not None
    _, _, found, _ = SmallCalls().load(data)
    assert repr(found) == repr(args)  # which also tells -0.0 from 0, and NaN equals itself


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (lambda: None, ()),
        (functools.partial(tasks.identity, 1), ()),
        (print, ()),
        (tasks.identity, ("x" * 1000,)),
        (tasks.identity, ([],)),
        (tasks.identity, (Text("x"),)),
        (tasks.identity, (1,) * 101),
    ],
)
def test_other_calls_are_pickled(function, args) -> None:
    """Functions that can't be imported by name, and arguments that aren't small and plain, are pickled."""
    calls = SmallCalls()
    assert calls.dump("name", function, args) is None
    assert calls.dump("name", function, args) is None


def test_functions_of_the_main_script_are_pickled(monkeypatch) -> None:
    """The worker has to import the script for them."""
    monkeypatch.setattr(tasks.identity, "__module__", "__main__")
    assert SmallCalls().dump("name", tasks.identity, ()) is None


def test_at_most_a_thousand_functions_are_cached() -> None:
    """The cache of functions is bounded, for programs that keep creating them."""
    calls = SmallCalls()
    for _ in range(3):
        assert calls.dump("name", tasks.identity, ()) is not None
    assert len(calls._pickles) == 1
    calls._pickles.update(dict.fromkeys(range(1000)))  # type: ignore[misc]
    assert calls.dump("name", tasks.pid, ()) is not None
    assert len(calls._pickles) == 1


def test_what_is_small() -> None:
    """Plain values of bounded size."""
    assert all(map(is_small, (1, 1.5, None, True, 1j, "x" * 999, b"")))
    assert not any(map(is_small, ("x" * 1000, [], (), Text("x"), object())))


@pytest.mark.anyio
@ON_ASYNCIO
async def test_a_small_call_may_be_too_large(anyio_backend) -> None:
    """The payload limit applies to them, too."""
    async with Executor(threads=1, processes=1, max_payload=500) as executor:
        cpu = executor.options(tag="cpu")
        assert await cpu.run(tasks.length, "x" * 100) == 100
        with pytest.raises(SerializationError, match="500 bytes"):
            await cpu.run(tasks.length, "x" * 900)
