"""Tasks that write to, read from, truncate or close what their worker and the server share: whom that costs what."""

from __future__ import annotations

import os
import socket

import anyio
import pytest
import stray_tasks
import worker_tasks as tasks
from faults import PATIENCE, PROMPTLY, run_script, under_fault

from executors import Executor, WorkerLostError
from executors._wire.frames import FrameType, frame
from executors.backends.process import prefetch
from executors.backends.process.worker_process import JOB_SOCKET_TYPE

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("long_prefetch_window"),
    pytest.mark.skipif(JOB_SOCKET_TYPE.name != "SOCK_SEQPACKET", reason="needs sealed memory and kept messages"),
]

ON_ONE_LOOP = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
"""Where the loop makes no difference."""

# --- the memory with the id of the entered task -----------------------------------------------------------


def test_a_task_that_truncates_every_file() -> None:
    """It loses its own worker; the server, which reads the shared memory then, lives on."""
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


@ON_ONE_LOOP
@pytest.mark.parametrize("data", [b"\xff", b"\0" * 8, os.urandom(8)], ids=["a byte", "zeros", "random"])
async def test_a_task_that_overwrites_every_file_runs_once(line, tmp_path, data: bytes) -> None:
    """Whatever it writes, and although it ends its worker then, it counts as entered."""
    path = tmp_path / "runs"
    async with under_fault(line, survives=False) as fault:
        error = await fault.error_of(stray_tasks.overwrite_everything, str(path), data, within=PROMPTLY)
        assert isinstance(error, WorkerLostError)
    assert path.read_text() == "run\n"


@ON_ONE_LOOP
@pytest.mark.parametrize("number", [0, 2**63], ids=["none", "unknown"])
async def test_a_task_that_changes_the_number_of_the_entered_task_runs_once(line, tmp_path, number: int) -> None:
    """Whatever the number is, if it isn't that of the task before, the task counts as entered; those behind it run."""
    path = tmp_path / "runs"
    async with under_fault(line, survives=False) as fault:
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


@pytest.mark.parametrize("data", STRAY.values(), ids=STRAY.keys())
async def test_a_task_that_writes_to_the_connection(line, data: bytes) -> None:
    """It is lost, by the right error, although it returns, and its worker is replaced; those behind it go on."""
    async with under_fault(line, survives=False) as fault:
        error = await fault.error_of(stray_tasks.send_stray, data, within=PROMPTLY)
        assert isinstance(error, WorkerLostError)
        assert "garbled" in str(error)


@ON_ONE_LOOP
@pytest.mark.parametrize("what", sorted(STRAY.keys() - {"a part of a frame", "a frame and a part"}))
async def test_a_task_that_writes_to_the_connection_and_stays(line, what: str) -> None:
    """It is killed, unless what it has written may be the beginning of an answer."""
    async with under_fault(line, survives=False) as fault:
        error = await fault.error_of(stray_tasks.send_stray_and_stay, STRAY[what], line().path, within=PROMPTLY)
        assert isinstance(error, WorkerLostError)
        assert "garbled" in str(error)


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR], ids=["in", "out", "both"])
async def test_a_task_that_shuts_the_connection_down(line, how: int) -> None:
    """It is lost if its answer can't be sent any more; those behind it go on."""
    async with under_fault(line, survives=False) as fault:
        if how == socket.SHUT_RD:
            handles = [fault.cpu.submit(stray_tasks.shut_connection, how), fault.cpu.submit(tasks.identity)]
            with anyio.fail_after(PATIENCE):
                assert [await handle for handle in handles] == [None, None]
        else:
            error = await fault.error_of(stray_tasks.shut_connection, how, within=PROMPTLY)
            assert isinstance(error, WorkerLostError)


async def test_a_task_that_takes_a_message_of_its_worker(line) -> None:
    """It has its value; the task whose message it has taken runs in another worker."""
    async with under_fault(line, survives=False) as fault:
        handles = [fault.cpu.submit(stray_tasks.read_connection)]
        handles += [fault.cpu.submit(tasks.identity, number) for number in range(3)]
        with anyio.fail_after(PATIENCE):
            assert [await handle for handle in handles] == [None, 0, 1, 2]


@ON_ONE_LOOP
async def test_a_task_that_takes_a_message_of_its_worker_and_stays(line) -> None:
    """It is killed, so that the task whose message it has taken runs."""
    async with under_fault(line, survives=False) as fault:
        error = await fault.error_of(stray_tasks.read_connection_and_stay, line().path)
        assert isinstance(error, WorkerLostError)
        assert "garbled" in str(error)


@ON_ONE_LOOP
async def test_a_task_whose_message_was_taken_does_not_wait_for_the_one_behind_it(line, monkeypatch) -> None:
    """While the worker runs that one, the other runs in another worker."""
    says, hears, to_bystander = line(), line(), line()
    async with Executor(threads=1, processes=2) as executor:
        cpu = executor.options(tag="cpu")
        bystander = cpu.submit(tasks.talk, says.path, to_bystander.path)
        await says.hear()
        await cpu.run(tasks.pid)
        cpu.submit(stray_tasks.read_connection)
        taken = cpu.submit(tasks.pid)
        behind = cpu.submit(tasks.talk, says.path, hears.path)
        worker = int(await says.hear())
        monkeypatch.setattr(prefetch, "PREFETCH_WINDOW", 0.005)
        to_bystander.tell()
        with anyio.fail_after(PATIENCE):
            assert await taken == await bystander != worker
        hears.tell()
        assert await behind == worker


@ON_ONE_LOOP
async def test_a_task_that_closes_and_replaces_every_descriptor(line, tmp_path) -> None:
    """The answer doesn't go to whatever has the socket's number now, and a thread doesn't keep the worker alive."""
    path = tmp_path / "received"
    async with under_fault(line, survives=False) as fault:
        error = await fault.error_of(stray_tasks.replace_descriptors, str(path), within=PROMPTLY)
        assert isinstance(error, WorkerLostError)
        assert error.exitcode == 1
    assert not path.exists()
