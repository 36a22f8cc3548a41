"""The contract of all backends, over a Dask cluster."""

from __future__ import annotations

import pytest
from clusters import Cluster

from executors.backends import DaskBackend, ExecutorBackend
from executors.testing import BackendContract

pytestmark = pytest.mark.anyio


class TestDaskBackend(BackendContract):
    """Two workers."""

    @pytest.fixture(autouse=True)
    def _scheduler(self, cluster: Cluster) -> None:
        self._address = cluster.address

    def make_backend(self) -> ExecutorBackend:
        return DaskBackend(self._address, in_flight=2)
