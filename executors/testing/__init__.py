"""For tests: a fixture that no task's failure goes unseen, and the suite that every backend passes.

The fixture is a pytest plugin's, of ``pytest_plugins = ["executors.testing"]`` in `conftest.py`: `unseen_failures`.

The suite is `BackendContract`, for the author of a backend to subclass in a test module of pytest, where AnyIO's plugin
runs it on each event loop that the fixture `anyio_backend` names::

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
