"""Who has been charged with how much so far, and whom to advise."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from executors.monitor.attribution import Charge, Key
from executors.monitor.report import Blame
from executors.monitor.samples import Place

MAX_NAMES = 1000
"""Names that are kept apart; further ones are left out, so that names made up by the thousand fill no memory."""


@dataclass
class _Account:
    count: int = 0
    total: float = 0.0
    worst: float = 0.0
    cpu: float = 0.0
    run: float = 0.0
    places: dict[Place, float] = field(default_factory=dict)

    def add(self, charge: Charge) -> None:
        self.count += 1
        self.total += charge.seconds
        self.worst = max(self.worst, charge.seconds)
        self.cpu += charge.cpu
        self.run = max(self.run, charge.run)
        for place, seconds in charge.places.items():
            if place in self.places or len(self.places) < MAX_NAMES:
                self.places[place] = self.places.get(place, 0.0) + seconds

    @property
    def place(self) -> Place:
        return max(self.places, key=lambda place: self.places[place])


class Ledger:
    """Adds charges up. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[Key, _Account] = {}

    def add(self, charges: Mapping[Key, Charge]) -> list[tuple[Blame, Place]]:
        """Take in what one delay was charged with; return what that comes to now under each of its names."""
        with self._lock:
            for key, charge in charges.items():
                if key in self._accounts or len(self._accounts) < MAX_NAMES:
                    self._accounts.setdefault(key, _Account()).add(charge)
            return [(_blame(key, account), account.place) for key, account in self._of(charges)]

    def _of(self, charges: Mapping[Key, Charge]) -> Iterator[tuple[Key, _Account]]:
        return ((key, self._accounts[key]) for key in charges if key in self._accounts)

    def worst_first(self) -> list[Blame]:
        """Return everyone's blame."""
        with self._lock:
            found = [_blame(key, account) for key, account in self._accounts.items()]
        return sorted(found, key=lambda blame: blame.total, reverse=True)


def _blame(key: Key, account: _Account) -> Blame:
    kind, name = key
    cpu = account.run if kind == "thread" else account.cpu
    return Blame(name, kind, account.count, account.total, account.worst, cpu, str(account.place))
