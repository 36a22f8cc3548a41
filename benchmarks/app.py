"""An app whose workers import Quart and numpy, for the benchmark `memory`."""

from __future__ import annotations

import numpy as np
from quart import Quart

from executors.quart import QuartExecutor

app = Quart(__name__)
app.config["EXECUTOR_PROCESSES"] = 2
executor = QuartExecutor(app)
numbers = np.arange(1000)
