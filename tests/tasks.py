"""Functions for tasks of the tests. A module of its own: workers import it."""

from __future__ import annotations
