"""A server to be killed, which runs a task of `worker_tasks` in a worker, and never ends by itself.

Arguments: the task's name, ``idle`` or ``starting``, and the named pipe for the worker's process id.
"""

from __future__ import annotations

import asyncio
import sys

import named_pipes
import worker_tasks

from executors import Executor
from executors.backends import ProcessBackend


async def main(task: str, path: str) -> None:
    if task == "starting":
        backend = ProcessBackend(1, setup=("worker_tasks:setup_stays", (path,)))
    else:
        backend = ProcessBackend(1)
    async with Executor(threads=1, backends={"process": backend}) as executor:
        cpu = executor.options(tag="cpu")
        if task == "idle":
            named_pipes.send(path, await cpu.run(worker_tasks.pid))
        elif task == "starting":
            cpu.submit(worker_tasks.pid)
        else:
            cpu.submit(getattr(worker_tasks, task), path)
        await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
