"""Results as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from executors.errors import describe
from executors.reports import TaskRecord

if TYPE_CHECKING:
    from executors.handle import TaskHandle

MAX_RESULT = 1024 * 1024
"""The maximum size in bytes of a result as JSON."""

NOT_KEPT = "the result is not kept: it is larger than EXECUTOR_KEEP_RESULTS_SIZE, or can't be pickled"

_encoder = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def as_json(value: object) -> tuple[str | None, str | None]:
    """Return a value as JSON, or an error. Exactly one of them is None. Any thread; takes long for a large value.

    It is encoded a part at a time, which leaves the GIL to other threads, and not beyond the limit.
    """
    parts: list[str] = []
    size = 0
    try:
        for part in _encoder.iterencode(value):
            parts.append(part)
            size += len(part)
            if size > MAX_RESULT:
                return None, f"the result is not kept: as JSON it has more than {MAX_RESULT} bytes"
    except Exception as error:  # noqa: BLE001  (the value's methods are the user's code)
        return None, f"the result is not kept, as it is not JSON: {describe(error)}"
    return "".join(parts), None


def with_result(record: TaskRecord, handle: TaskHandle[Any] | None) -> TaskRecord:
    """Return the record of a task whose value was to be kept, with its value as JSON. Any thread.

    Args:
        record: The record.
        handle: The handle, with the value; None if it was not kept.
    """
    result, error = (None, NOT_KEPT) if handle is None else as_json(handle._value)
    return dataclasses.replace(record, result=result, error=error)
