"""What to do about who holds the loop up, in a sentence."""

from __future__ import annotations

from executors.monitor.report import Blame

WORST = 0.05
"""Seconds that it is held up for at once, from which on that is worth a word."""

CPU = 0.25
"""CPU seconds of a task's run in a thread, from which on it is better off in a worker process."""


def advise(blame: Blame) -> str | None:
    """Return what to do about it; None while it is little."""
    if blame.cpu < CPU if blame.kind == "thread" else blame.worst < WORST:
        return None
    did, todo = ("computed", _COMPUTED) if blame.cpu > blame.total / 2 else ("blocked", _BLOCKED)
    worst, where = seconds(blame.worst), "in `{}` ({}".format(*(blame.where or "").rsplit(" (", 1))
    match blame.kind:
        case "thread":
            how = f"computed for {seconds(blame.cpu)} on a thread and delayed the loop by up to {worst}"
        case "other":
            how = f"is no task of the executor, {did} and delayed the loop by up to {worst}, {where}"
        case _ if did == "computed":
            how = f"computed for {worst} on the event loop, {where}"
        case _:
            how = f"blocked the loop for {worst} {where}"
    what = f"the route `{blame.name}`" if blame.kind == "route" else f"`{blame.name}`"
    return f"{what} {how}: {todo[blame.kind]}"


_COMPUTED = {
    "thread": "mark it @cpu_bound",
    "step": "mark it @cpu_bound",
    "route": "put that into a function marked @cpu_bound, and await it with `executor.run`",
    "other": "put that into a function marked @cpu_bound, and hand it to the executor",
}
_BLOCKED = {
    "thread": "mark it @cpu_bound",
    "step": "make it a plain function, which runs in a thread",
    "route": "put that into a plain function, and await it with `executor.run`, which runs it in a thread",
    "other": "put that into a plain function, and hand it to the executor, which runs it in a thread",
}


def seconds(value: float) -> str:
    """Write a time as a person would: ``"48 ms"``, ``"2.1 s"``."""
    return f"{value:.1f} s" if value >= 1 else f"{value * 1e3:.0f} ms"
