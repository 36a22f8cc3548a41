"""One contract over every backend."""

from __future__ import annotations

import pytest

from executors.backends import InlineBackend, LoopBackend, ProcessBackend, ThreadBackend
from executors.testing import BackendContract

pytestmark = pytest.mark.anyio


class TestLoopBackend(BackendContract):
    """The loop itself, with a bound."""

    def make_backend(self):
        return LoopBackend(max_running=2)


class TestUnboundedLoopBackend(BackendContract):
    """The loop itself, as it is by default."""

    def make_backend(self):
        return LoopBackend()


class TestThreadBackend(BackendContract):
    """Threads."""

    def make_backend(self):
        return ThreadBackend(2)


class TestProcessBackend(BackendContract):
    """Worker processes."""

    def make_backend(self):
        return ProcessBackend(2)


class TestInlineBackend(BackendContract):
    """In place."""

    runs_in_place = True

    def make_backend(self):
        return InlineBackend()
