"""What a captured stack shows of a thread."""

from __future__ import annotations

import queue
import sys
import threading
import time

from executors.monitor.samples import activity_of_thread, capture


def test_a_pool_thread_that_waits_for_work() -> None:
    """A thread that has used the CPU and now waits for its next call runs nobody's code."""
    calls: queue.Queue[None] = queue.Queue()
    thread = threading.Thread(target=calls.get)
    thread.start()
    try:
        while "wait" not in (frame := sys._current_frames()[thread.ident or 0]).f_code.co_name:
            time.sleep(0.001)
        assert activity_of_thread(capture(frame)) is None
    finally:
        calls.put(None)
        thread.join()
