"""The app of the guide, served: a report from its upload to its result."""

from __future__ import annotations

import json
import re
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from servers import TIMEOUT, Server, until

GUIDE = Path(__file__).parents[2] / "docs" / "how_to_guides" / "fastapi.md"
LONG = b"a few words\n" * 1_500_000


@pytest.fixture
def server(free_port, tmp_path):
    """Serve the first block of the guide."""
    found = re.search(r"```python\n(# reports\.py\n.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found
    assert found[1].count("\n") <= 60
    (tmp_path / "reports.py").write_text(found[1])
    server = Server(["-m", "uvicorn", "--port", "{port}", "reports:app"], free_port, tmp_path)
    yield server
    server.kill()


def test_report(server):
    """A report has progress, then a result; another is cancelled; a third is finished before the server stops."""

    def call(path, method="GET", data=None):
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            return response.status, json.load(response)

    def state(path):
        return call(path)[1]["state"]

    status, created = call("/reports", "POST", b"to be or not to be")
    path = f"/reports/{created['id']}"
    assert status == 202
    until(lambda: state(path) == "succeeded")
    assert call(path)[1]["progress"] == {"done": 1.0, "total": 1.0, "message": "counting"}
    assert call(path)[1]["attempts"] == 1
    assert call(f"{path}/result")[1] == {"to": 2, "be": 2, "or": 1}

    path = f"/reports/{call('/reports', 'POST', LONG)[1]['id']}"
    until(lambda: (call(path)[1]["progress"] or {"done": 0})["done"] > 1)
    with pytest.raises(urllib.error.HTTPError) as caught:
        call(f"{path}/result")
    with caught.value as error:
        assert (error.code, json.load(error)) == (409, {"detail": "The report is running."})
    assert call(path, "DELETE")[1] == {"cancelled": True}
    until(lambda: state(path) == "cancelled")

    call("/reports", "POST", b"the last one")
    server.signal(signal.SIGTERM)
    assert server.process.wait(TIMEOUT) == -signal.SIGTERM
    assert "Application shutdown complete" in server.output
    assert "Traceback" not in server.output
