"""The tutorial's last app, from the folder of the server, with what a test needs to see beside it."""

from __future__ import annotations

import os
from pathlib import Path

from app import app  # type: ignore[import-not-found]  # the test writes it
from quart import Response, request

record = Path(os.environ["SERVED_RECORD"])

WATCH = """<!doctype html>
<iframe id="frame" src="/"></iframe>
<script>
const seen = []
frame.addEventListener("load", () => frame.contentDocument.querySelector("button").click(), {once: true})
const timer = setInterval(() => {
  const bar = frame.contentDocument.querySelector("progress")
  const text = frame.contentDocument.querySelector("span")?.textContent
  if (!bar) return
  seen.push([bar.value, text])
  if (!text.endsWith("primes")) return
  clearInterval(timer)
  fetch("/seen", {method: "POST", body: JSON.stringify(seen)})
}, 20)
</script>
"""


def write(line: str) -> None:
    with record.open("a") as file:
        file.write(line)


@app.after_request
async def add_process(response: Response) -> Response:
    """Say which server process has responded."""
    response.headers["Server-Process"] = str(os.getpid())
    return response


@app.get("/watch")
async def watch() -> str:
    """Respond with a page that opens the app in a frame, presses its button, and watches what it shows."""
    return WATCH


@app.post("/seen")
async def seen() -> str:
    """Record what the page has shown."""
    write(f"seen {await request.get_data(as_text=True)}\n")
    return ""
