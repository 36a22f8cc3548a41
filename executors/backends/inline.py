"""The `inline` backend, for tests: sync functions run on the event loop, so that no pool is needed."""

from __future__ import annotations

from executors.backends.base import ExecutorBackend
from executors.backends.loop import LoopBackend


class InlineBackend(LoopBackend):
    """Runs sync functions on the event loop, each as a coroutine: it starts with the loop's next turn, and blocks it.

    Time limits are accepted, but a sync function can't be stopped.
    """

    supports_functions = True
    runs_sync_on_loop = True

    replaces_workers = False
    """Whether it stands in for a backend with worker processes."""

    @classmethod
    def in_place_of(cls, backend: ExecutorBackend | type[ExecutorBackend]) -> InlineBackend:
        """Return a backend that accepts the functions that `backend` accepts, and refuses the others as that does."""
        stand_in = cls()
        stand_in.supports_coroutines = backend.supports_coroutines
        stand_in.supports_functions = backend.supports_functions
        stand_in.supports_resources = backend.supports_resources
        stand_in.supports_priority = backend.supports_priority
        stand_in.supports_streams = backend.supports_streams
        stand_in.supports_progress = backend.supports_progress
        stand_in.replaces_workers = not backend.supports_context
        return stand_in
