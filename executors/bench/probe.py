"""The probe's process: ``python -m executors.bench.probe PARENT``.

Its first order is a port, a path and a number of connections, which it opens and uses once each. The next one is a
rate, seconds and a bound, and it answers with what it saw. Nothing else runs in it, so that its clock is as good as the
machine's.
"""

from __future__ import annotations

import asyncio
import gc

from executors.bench.client import Client, probe
from executors.bench.orders import Parent, run


async def main(parent: Parent) -> None:
    """Do as ordered."""
    port, path, connections = await parent.order()
    client = Client(port)
    await client.connect(connections)
    await asyncio.gather(*(client.request("GET", path) for _ in range(connections)), return_exceptions=True)
    parent.answer("ready")
    gc.collect()
    gc.disable()
    rate, seconds, bound = await parent.order()
    parent.answer((await probe(client, path, rate, seconds, bound))._asdict())
    await parent.order()


if __name__ == "__main__":
    run(main)
