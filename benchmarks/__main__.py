"""Run a benchmark by name: `python -m benchmarks dispatch [--rounds N] [--json FILE]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import dispatch

BENCHMARKS = {"dispatch": dispatch}


def main() -> None:
    """Measure, print a table, and write JSON where asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmark", choices=sorted(BENCHMARKS))
    parser.add_argument("--rounds", type=int, default=7, help="how often each arm is measured, in turn (default 7)")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    arguments = parser.parse_args()
    results = asyncio.run(BENCHMARKS[arguments.benchmark].measure(arguments.rounds))
    machine = f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}"
    table = Table(title=f"{arguments.benchmark} ({machine}; medians of {arguments.rounds} rounds)")
    for column in ("what", "arm", "median", "least to most", "ratio"):
        table.add_column(column, justify="left" if column in {"what", "arm"} else "right", no_wrap=True)
    for result in results:
        table.add_row(
            result.what,
            result.arm,
            f"{result.median:,.0f} {result.unit}",
            f"{result.least:,.0f} to {result.most:,.0f}",
            f"{result.ratio:.2f}",
        )
    Console().print(table)
    if arguments.json:
        record = {"machine": machine, "results": [result._asdict() for result in results]}
        arguments.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
