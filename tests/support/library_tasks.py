"""Libraries with native threads, used by tasks, and before them by what a worker imports.

The server's process imports none of them: they would start threads there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

USED_AT_IMPORT = "LIBRARY_USED_AT_IMPORT"
"""An environment variable of workers: the library that importing this module uses."""


def numpy() -> bool:
    import numpy as np  # noqa: PLC0415

    matrix = np.eye(300) * 2
    return bool(np.allclose(np.linalg.inv(matrix) @ matrix, np.eye(300)))


def scipy() -> bool:
    import numpy as np  # noqa: PLC0415
    from scipy import fft, linalg  # noqa: PLC0415

    values = np.arange(10_000.0)
    return bool(np.allclose(fft.ifft(fft.fft(values, workers=2), workers=2).real, values)) and bool(
        np.allclose(linalg.svdvals(np.eye(200)), 1)
    )


def sklearn() -> bool:
    import numpy as np  # noqa: PLC0415
    from sklearn.cluster import KMeans  # noqa: PLC0415
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415

    points = np.repeat([[0.0, 0.0], [9.0, 9.0]], 100, axis=0)  # both use OpenMP
    labels = points[:, 0] > 1
    found = KMeans(2, n_init=1, random_state=0).fit(points).labels_
    model = HistGradientBoostingClassifier(max_iter=2).fit(points, labels)
    return len(set(found)) == 2 and bool((model.predict(points) == labels).all())


def polars() -> bool:
    import polars as pl  # noqa: PLC0415

    frame = pl.DataFrame({"number": range(1000)}).lazy()
    return frame.group_by(pl.col("number") % 7).agg(pl.len()).collect()["len"].sum() == 1000  # type: ignore[no-any-return]


def pyarrow() -> bool:
    import pyarrow as pa  # noqa: PLC0415

    table = pa.table({"number": list(range(1000)), "group": [number % 7 for number in range(1000)]})
    return table.group_by("group").aggregate([("number", "sum")]).num_rows == 7  # type: ignore[no-any-return]


def grpc() -> bool:
    """Call a server in this same process."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    import grpc as library  # noqa: PLC0415

    server = library.server(ThreadPoolExecutor(1))
    handler = library.unary_unary_rpc_method_handler(lambda request, _: request.upper())
    server.add_generic_rpc_handlers([library.method_handlers_generic_handler("test", {"upper": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with library.insecure_channel(f"127.0.0.1:{port}") as channel:
            return channel.unary_unary("/test/upper")(b"text", timeout=20) == b"TEXT"
    finally:
        server.stop(None).wait()


LIBRARIES: dict[str, Callable[[], bool]] = {
    each.__name__: each for each in (numpy, scipy, sklearn, polars, pyarrow, grpc)
}


def use(name: str) -> tuple[bool, int]:
    """Use a library; return whether its result is right, and this process's id."""
    return LIBRARIES[name](), os.getpid()


def setup(_worker: Any, name: str) -> Callable[[Any], Any]:
    """Use a library, as an app that does so when it is imported."""
    assert use(name)[0]
    return lambda function: function


if USED_AT_IMPORT in os.environ:
    use(os.environ[USED_AT_IMPORT])
