"""Marks of tests that do not need all three event loops."""

from __future__ import annotations

import pytest

ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For what does not depend on the event loop."""

ON_ASYNCIO_AND_TRIO = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
"""For what depends on Quart or QuartTrio, or on the library of coroutines: to it, uvloop is the same as asyncio."""
