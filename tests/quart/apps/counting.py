"""Records of this process, in a module of their own, which shows whether an app was imported twice."""

from __future__ import annotations

imports: list[str] = []
calls: list[str] = []
