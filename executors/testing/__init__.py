"""Test support: a pytest fixture that reports unseen failures of tasks, and the contract suite for backends.

The fixture `unseen_failures` is a pytest plugin: ``pytest_plugins = ["executors.testing"]`` in `conftest.py`.

The suite is `BackendContract`. Authors of a backend subclass it in a test module; AnyIO's pytest plugin runs it on each
event loop that the fixture `anyio_backend` names::

    class TestMyBackend(BackendContract):
        pytestmark = pytest.mark.anyio

        def make_backend(self):
            return MyBackend(2)
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` is slow to import, and a worker that runs the suite's tasks may do without
if TYPE_CHECKING:
    from typing import Any

    from executors.testing.contract import BackendContract
    from executors.testing.unseen import UnseenFailures, unseen_failures

_MODULE_OF = {"BackendContract": "contract", "UnseenFailures": "unseen", "unseen_failures": "unseen"}

__all__ = ["BackendContract", "UnseenFailures", "unseen_failures"]


def __getattr__(name: str) -> Any:
    try:
        module = _MODULE_OF[name]
    except KeyError:
        raise AttributeError(f"module 'executors.testing' has no attribute {name!r}") from None
    from importlib import import_module  # noqa: PLC0415

    value = globals()[name] = getattr(import_module(f"executors.testing.{module}"), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]  # pytest looks for fixtures here
