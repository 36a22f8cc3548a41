"""Tasks that write to, read from, truncate or close the connection or shared memory of their worker."""

from __future__ import annotations

import os
import socket

import anyio
import pytest
import stray_tasks
import worker_tasks as tasks
from faults import PROMPTLY, TIMEOUT, run_script, under_fault
from loops import ON_ASYNCIO

from executors import Executor, WorkerLostError
from executors._wire.frames import FrameType, frame
from executors.backends.process import prefetch
from executors.backends.process.worker_process import JOB_SOCKET_TYPE

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("long_prefetch_window"),
    pytest.mark.skipif(JOB_SOCKET_TYPE.name != "SOCK_SEQPACKET", reason="needs sealed memory and kept messages"),
]

"""Where the loop makes no difference."""

# --- the memory with the id of the entered task -----------------------------------------------------------


def test_a_task_that_truncates_every_file() -> None:
    """Only its own worker is lost; the server, which reads the shared memory then, goes on."""
    out = run_script(
        """
        import asyncio
        import stray_tasks, worker_tasks
        from executors import Executor, WorkerLostError

        async def main():
            async with Executor(threads=1, processes=1) as executor:
                cpu = executor.options(tag="cpu")
                for _ in range(3):
                    try:
                        await cpu.run(stray_tasks.truncate_everything)
                    except WorkerLostError as error:
                        print("lost", error.exitcode)
                    print(await cpu.run(worker_tasks.identity, "next"))

        asyncio.run(main())
        """,
    )
    assert out == "lost 1\nnext\n" * 3


@ON_ASYNCIO
@pytest.mark.parametrize("data", [b"\xff", b"\0" * 8, os.urandom(8)], ids=["a byte", "zeros", "random"])
async def test_a_task_that_overwrites_every_file_runs_once(named_pipe, tmp_path, data: bytes) -> None:
    """Whatever it writes, and although it ends its worker then, it counts as entered."""
    path = tmp_path / "runs"
    async with under_fault(named_pipe, survives=False) as fault:
        error = await fault.error_of(stray_tasks.overwrite_everything, str(path), data, within=PROMPTLY)
        assert isinstance(error, WorkerLostError)
    assert path.read_text() == "run\n"


@ON_ASYNCIO
@pytest.mark.parametrize("number", [0, 2**63], ids=["none", "unknown"])
async def test_a_task_that_changes_the_number_of_the_entered_task_runs_once(named_pipe, tmp_path, number: int) -> None:
    """Any number other than the previous task's counts as entered; the tasks behind it run."""
    path = tmp_path / "runs"
    async with under_fault(named_pipe, survives=False) as fault:
        error = await fault.error_of(stray_tasks.overwrite_entered_task_id, str(path), number, within=PROMPTLY)
        assert isinstance(error, WorkerLostError)
    assert path.read_text() == "run\n"


# --- the socket -------------------------------------------------------------------------------------------

STRAY = {
    "a byte": b"x",
    "nothing": b"",
    "text": b"GET / HTTP/1.1\r\n\r\n" * 10,
    "zeros": bytes(100),
    "a part of a header": frame(FrameType.VALUE, b"x" * 100)[:20],
    "a part of a frame": frame(FrameType.VALUE, b"x" * 100, 1)[:50],
    "a frame and a part": frame(FrameType.LOG, b"") + frame(FrameType.LOG, b"x" * 100)[:50],
    "a continuation": b"\x10" + b"x" * 100,
    "a wrong notice": frame(FrameType.FREED, b"123"),
    "much": b"x" * 150_000,
}


@ON_ASYNCIO
@pytest.mark.parametrize("data", STRAY.values(), ids=STRAY.keys())
async def test_a_task_that_writes_to_the_connection(named_pipe, data: bytes) -> None:
    """It is lost, with the right error, although it returns, and its worker is replaced; those behind it run."""
    async with under_fault(named_pipe, survives=False) as fault:
        error = await fault.error_of(stray_tasks.send_stray, data, within=PROMPTLY)
        assert isinstance(error, WorkerLostError)
        assert "garbled" in str(error)


@ON_ASYNCIO
@pytest.mark.parametrize("what", sorted(STRAY.keys() - {"a part of a frame", "a frame and a part"}))
async def test_a_task_that_writes_to_the_connection_and_stays(named_pipe, what: str) -> None:
    """It is killed, unless its bytes may be the beginning of an answer."""
    async with under_fault(named_pipe, survives=False) as fault:
        error = await fault.error_of(stray_tasks.send_stray_and_stay, STRAY[what], named_pipe().path, within=PROMPTLY)
        assert isinstance(error, WorkerLostError)
        assert "garbled" in str(error)


@ON_ASYNCIO
@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR], ids=["in", "out", "both"])
async def test_a_task_that_shuts_the_connection_down(named_pipe, how: int) -> None:
    """It is lost if its answer can't be sent any more; those behind it run."""
    async with under_fault(named_pipe, survives=False) as fault:
        if how == socket.SHUT_RD:
            handles = [fault.cpu.submit(stray_tasks.shut_connection, how), fault.cpu.submit(tasks.identity)]
            with anyio.fail_after(TIMEOUT):
                assert [await handle for handle in handles] == [None, None]
        else:
            error = await fault.error_of(stray_tasks.shut_connection, how, within=PROMPTLY)
            assert isinstance(error, WorkerLostError)


async def test_a_task_that_takes_a_message_of_its_worker(named_pipe) -> None:
    """It has its value; the task whose message it took runs in another worker."""
    async with under_fault(named_pipe, survives=False) as fault:
        handles = [fault.cpu.submit(stray_tasks.read_connection)]
        handles += [fault.cpu.submit(tasks.identity, number) for number in range(3)]
        with anyio.fail_after(TIMEOUT):
            assert [await handle for handle in handles] == [None, 0, 1, 2]


@ON_ASYNCIO
async def test_a_task_that_takes_a_message_of_its_worker_and_stays(named_pipe) -> None:
    """It is killed, so that the task whose message it took runs."""
    async with under_fault(named_pipe, survives=False) as fault:
        error = await fault.error_of(stray_tasks.read_connection_and_stay, named_pipe().path)
        assert isinstance(error, WorkerLostError)
        assert "garbled" in str(error)


@ON_ASYNCIO
async def test_a_task_whose_message_was_taken_does_not_wait_for_the_one_behind_it(named_pipe, monkeypatch) -> None:
    """While the worker runs that one, the other runs in another worker."""
    from_worker, to_worker, to_bystander = named_pipe(), named_pipe(), named_pipe()
    async with Executor(threads=1, processes=2) as executor:
        cpu = executor.options(tag="cpu")
        bystander = cpu.submit(tasks.send_pid_and_wait, from_worker.path, to_bystander.path)
        await from_worker.receive()
        await cpu.run(tasks.pid)
        cpu.submit(stray_tasks.read_connection)
        taken = cpu.submit(tasks.pid)
        behind = cpu.submit(tasks.send_pid_and_wait, from_worker.path, to_worker.path)
        worker = int(await from_worker.receive())
        monkeypatch.setattr(prefetch, "PREFETCH_WINDOW", 0.005)
        to_bystander.send()
        with anyio.fail_after(TIMEOUT):
            assert await taken == await bystander != worker
        to_worker.send()
        assert await behind == worker


@ON_ASYNCIO
async def test_a_task_that_closes_and_replaces_every_descriptor(named_pipe, tmp_path) -> None:
    """The answer isn't sent to a file that has the socket's number now, and a thread doesn't keep the worker alive."""
    path = tmp_path / "received"
    async with under_fault(named_pipe, survives=False) as fault:
        error = await fault.error_of(stray_tasks.replace_descriptors, str(path), within=PROMPTLY)
        assert isinstance(error, WorkerLostError)
        assert error.exitcode == 1
    assert not path.exists()
