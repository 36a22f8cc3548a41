"""CPU time of a process with what it has started."""

from __future__ import annotations

import os
import subprocess
import sys

from executors.bench.cpu import cpu_seconds


def test_cpu_time_is_that_of_children_too() -> None:
    """What a child process has computed counts, while it lives and once it has been waited for."""
    code = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    before = cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        ticks = 2 / os.sysconf("SC_CLK_TCK")
        while_it_lives = cpu_seconds()
        process.communicate(b"\n")
    assert while_it_lives - before >= 0.2 - ticks
    assert cpu_seconds() >= while_it_lives
