"""An app that can't be imported."""

from __future__ import annotations

missing_setting = {}["DATABASE"]  # type: ignore[var-annotated]
