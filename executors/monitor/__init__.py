"""How responsive the event loop is, and who is to blame where it isn't."""

from executors.monitor.monitor import LoopMonitor
from executors.monitor.report import Blame, Lag, LoopReport

__all__ = ["Blame", "Lag", "LoopMonitor", "LoopReport"]
