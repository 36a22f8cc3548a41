"""What happened in this process, counted in a module of its own: an app that is imported twice shows here."""

from __future__ import annotations

imports: list[str] = []
heard: list[str] = []
