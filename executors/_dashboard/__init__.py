"""The dashboard without any framework: requests in, responses out. `quart.dashboard` and `asgi.dashboard` serve it."""
