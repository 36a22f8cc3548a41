"""Functions for `map`, also in worker processes, which import this module and not the tests'."""

from __future__ import annotations

import os
import signal

from executors import cpu_bound


class TwoArguments(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


def refuse_thirds(number: int) -> int:
    if number % 3 == 2:
        raise TwoArguments(number, "a third")
    return number


async def refuse_thirds_later(number: int) -> int:
    return refuse_thirds(number)


def die_at_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@cpu_bound(name="squared")
def square(x: int) -> int:
    return x * x


@cpu_bound(name="slowly squared")
async def slow_square(x: int) -> int:
    from anyio.lowlevel import checkpoint  # noqa: PLC0415  (slow)

    await checkpoint()
    return x * x
