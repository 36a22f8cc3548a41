"""Apps for the tests of durable jobs: those of the Quart tests."""

from __future__ import annotations

import sys
from pathlib import Path

APPS = Path(__file__).parents[1] / "quart" / "apps"
sys.path.append(str(APPS))
