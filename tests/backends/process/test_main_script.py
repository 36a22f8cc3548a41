"""Functions and classes of the main script, however it is run. Each test runs a real program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

DEFINITIONS = dedent("""
    from __future__ import annotations

    import asyncio
    import os
    from dataclasses import dataclass, field
    from enum import Enum
    from typing import ClassVar

    from executors import Executor, cpu_bound


    class OwnError(Exception):
        def __init__(self, code: int, text: str) -> None:
            super().__init__(text)
            self.code = code


    @dataclass
    class Point:
        x: int
        tags: list[str] = field(default_factory=list)
        count: ClassVar[int] = 0


    class Colour(Enum):
        RED = 1


    @cpu_bound
    def move(point: Point, by: int) -> Point:
        assert isinstance(point, Point), type(point)
        return Point(point.x + by, [*point.tags, str(os.getpid())])


    def fail() -> None:
        raise OwnError(7, "from main")


    counter = 0


    def count() -> int:
        global counter
        counter += 1
        return counter


    async def later(colour: Colour) -> Colour:
        await asyncio.sleep(0)
        return colour


    async def main() -> None:
        offset = 5
        async with Executor(threads=1, processes=1) as executor:
            cpu = executor.options(tag="cpu")
            moved = await executor.run(move, Point(1, ["here"]), 2)
            assert type(moved) is Point, type(moved)
            assert moved.x == 3
            assert moved.tags[1] != str(os.getpid())
            assert await cpu.run(later, Colour.RED) is Colour.RED
            assert await cpu.run(lambda x: x + offset, 1) == 6
            assert (await cpu.run(lambda: Point(offset))).x == 5
            assert await cpu.run(Point, 9) == Point(9)
            try:
                await cpu.run(fail)
            except OwnError as error:
                assert type(error) is OwnError
                assert (error.code, str(error)) == (7, "from main")
            else:
                raise AssertionError("no error")
            print("COUNTED", await cpu.run(count), await cpu.run(count))
        print("FINE")
""")

GUARDED = DEFINITIONS + '\nif __name__ == "__main__":\n    asyncio.run(main())\n'
BARE = DEFINITIONS + "\nasyncio.run(main())\n"


def run(*command: object, cwd: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": ""}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        check=False,
        capture_output=True,
        cwd=cwd,
        env=environment,
        input=text,
        text=True,
        timeout=50,
    )


def is_fine(done: subprocess.CompletedProcess[str]) -> bool:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()[-1] == "FINE"


def test_a_script(tmp_path) -> None:
    """`python script.py`, from its folder and from another, with arguments."""
    script = tmp_path / "my script.py"
    script.write_text(GUARDED)
    done = run(script.name, "--argument", cwd=tmp_path)
    assert is_fine(done)
    assert "COUNTED 1 2" in done.stdout  # its globals last from task to task
    (tmp_path / "else").mkdir()
    assert is_fine(run(script, cwd=tmp_path / "else"))


def test_a_script_that_imports_its_neighbours(tmp_path) -> None:
    """A worker finds the modules beside the script."""
    (tmp_path / "neighbour.py").write_text("def double(x):\n    return 2 * x\n")
    script = tmp_path / "script.py"
    script.write_text(
        dedent("""
        import asyncio
        import neighbour
        from executors import Executor

        def four_times(x):
            return 2 * neighbour.double(x)

        async def main():
            async with Executor(threads=1, processes=1) as executor:
                cpu = executor.options(tag="cpu")
                assert await cpu.run(neighbour.double, 2) == 4
                assert await cpu.run(four_times, 2) == 8
            print("FINE")

        if __name__ == "__main__":
            asyncio.run(main())
        """)
    )
    assert is_fine(run(script.name, cwd=tmp_path))


def test_a_module_of_a_package(tmp_path) -> None:
    """`python -m package.module`, and `python -m package` with its `__main__.py`; relative imports work."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "other.py").write_text("VALUE = 1\n")
    relative = GUARDED.replace("\nimport asyncio\n", "\nimport asyncio\nfrom .other import VALUE\n", 1)
    (package / "module.py").write_text(relative)
    (package / "__main__.py").write_text(relative)
    assert is_fine(run("-m", "package.module", cwd=tmp_path))
    assert is_fine(run("-m", "package", cwd=tmp_path))


def test_a_folder(tmp_path) -> None:
    """`python folder` with its `__main__.py`."""
    folder = tmp_path / "application"
    folder.mkdir()
    (folder / "__main__.py").write_text(GUARDED)
    assert is_fine(run("application", cwd=tmp_path))


def test_a_zipped_application(tmp_path) -> None:
    """`python application.pyz`."""
    import zipapp  # noqa: PLC0415

    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "__main__.py").write_text(GUARDED)
    zipapp.create_archive(folder, tmp_path / "application.pyz")
    assert is_fine(run("application.pyz", cwd=tmp_path))


def test_a_command(tmp_path) -> None:
    """`python -c`: functions travel by value."""
    assert is_fine(run("-c", BARE, cwd=tmp_path))


def test_standard_input(tmp_path) -> None:
    """A program read from standard input: functions travel by value."""
    assert is_fine(run("-", cwd=tmp_path, text=BARE))
    assert is_fine(run(cwd=tmp_path, text=BARE))


def test_an_interactive_session(tmp_path) -> None:
    """Definitions typed in an interactive session travel by value."""
    typed = [
        "import asyncio\n",
        "from executors import Executor\n",
        "def double(x):\n    return 2 * x\n\n",
        "async def main():\n",
        "    async with Executor(threads=1, processes=1) as executor:\n",
        "        return await executor.options(tag='cpu').run(double, 21)\n\n",
        "print('ANSWER', asyncio.run(main()))\n",
    ]
    done = run("-i", cwd=tmp_path, text="".join(typed))
    assert "ANSWER 42" in done.stdout, done.stderr


@pytest.mark.parametrize("start", ["asyncio.run(main())", "import trio\ntrio.run(main)"], ids=["asyncio", "trio"])
def test_a_script_without_a_guard(tmp_path, start: str) -> None:
    """It gets an error that says what is missing, and ends."""
    script = tmp_path / "script.py"
    script.write_text(f"{DEFINITIONS}\n{start}\n")
    done = run(script, cwd=tmp_path)
    assert done.returncode == 1
    assert "FINE" not in done.stdout
    assert 'if __name__ == "__main__":' in done.stderr
    assert "executors.errors.ExecutorInWorkerError" in done.stderr


def test_a_script_that_fails_when_imported(tmp_path) -> None:
    """A task that needs it fails with the script's own error; others run."""
    script = tmp_path / "script.py"
    script.write_text(
        dedent("""
        import asyncio
        from executors import Executor

        if __name__ != "__main__":
            raise RuntimeError("not to be imported")

        def own():
            pass

        async def main():
            async with Executor(threads=1, processes=1) as executor:
                cpu = executor.options(tag="cpu")
                for _ in range(2):
                    try:
                        await cpu.run(own)
                    except RuntimeError as error:
                        print(error)
                assert await cpu.run(int, "4") == 4
            print("FINE")

        asyncio.run(main())
        """)
    )
    done = run(script, cwd=tmp_path)
    assert is_fine(done)
    assert done.stdout.count("not to be imported") == 2


def test_the_script_is_imported_where_it_is_needed_alone(tmp_path) -> None:
    """A task whose function is in another module doesn't make the worker import the main script."""
    script = tmp_path / "script.py"
    script.write_text(
        dedent("""
        import asyncio
        import os
        from executors import Executor

        async def main():
            async with Executor(threads=1, processes=1) as executor:
                assert await executor.options(tag="cpu").run(os.getpid) != os.getpid()
            print("FINE")

        asyncio.run(main())
        """)
    )
    assert is_fine(run(script, cwd=tmp_path))


def test_inside_of_a_spawned_process(tmp_path) -> None:
    """A process that `multiprocessing` spawned, as servers do, has its main script under yet another name."""
    script = tmp_path / "script.py"
    script.write_text(
        DEFINITIONS
        + dedent("""
        def serve():
            asyncio.run(main())

        if __name__ == "__main__":
            import multiprocessing
            process = multiprocessing.get_context("spawn").Process(target=serve, daemon=True)
            process.start()
            process.join()
            print("ENDED", process.exitcode)
        """)
    )
    done = run(script, cwd=tmp_path)
    assert "FINE\nENDED 0" in done.stdout, done.stderr
