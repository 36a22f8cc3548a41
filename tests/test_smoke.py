import pytest
from executors import Executor

pytestmark = pytest.mark.anyio


async def double(x: int) -> int:
    return 2 * x


async def test_runs():
    async with Executor(threads=1, processes=1) as executor:
        assert await executor.run(double, 1) == 2
        assert await executor.options(tag="cpu").run(int, "4") == 4
        assert await executor.run(int, "4") == 4
