"""Measures how late and how busy the event loop is, and finds out who delays it."""

from executors.monitor.monitor import LoopMonitor
from executors.monitor.report import Blame, Lag, LoopReport

__all__ = ["Blame", "Lag", "LoopMonitor", "LoopReport"]
