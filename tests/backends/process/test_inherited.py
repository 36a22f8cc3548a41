"""What workers inherit from the server: standard streams, which may be closed there, and the `multiprocessing` key."""

from __future__ import annotations

import pytest
from faults import run_script

SERVER = """
    import asyncio, os, sys
    from executors import Executor
    from executors.backends import ProcessBackend

    async def main():
        for function in ("launching:log", "launching:log_and_keep_thread"):  # forked, or not
            backend = ProcessBackend(1, setup=(function, ("text",)))
            async with Executor(threads=1, backends={"process": backend}) as executor:
                cpu = executor.options(tag="cpu")
                assert await cpu.run(pow, 2, 3) == 8
                for fd in range(3):
                    assert await cpu.run(os.write, fd, b"text") == 4

    asyncio.run(main())
"""


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", ">&- 2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_a_server_without_standard_streams(closed: str) -> None:
    """Workers start and work although the server's own descriptors have the numbers of closed streams."""
    run_script(SERVER, before=["/bin/sh", "-c", f'exec "$@" {closed}', "sh"])


@pytest.mark.parametrize("setup", ["None", '("launching:keep_thread", ())'], ids=["forked", "of its own"])
def test_proxies_of_a_manager(setup: str) -> None:
    """A task uses a list and a lock of the server's `multiprocessing.Manager`, which requires the server's key."""
    run_script(
        f"""
        import asyncio, multiprocessing, worker_tasks
        from executors import Executor
        from executors.backends import ProcessBackend

        async def main():
            backend = ProcessBackend(1, setup={setup})
            with multiprocessing.Manager() as manager:
                values, lock = manager.list(), manager.Lock()
                async with Executor(threads=1, backends={{"process": backend}}) as executor:
                    assert await executor.options(tag="cpu").run(worker_tasks.append_locked, values, lock, 5) == [5]
                assert list(values) == [5]

        if __name__ == "__main__":
            asyncio.run(main())
        """
    )
