"""Which code of Quart calls an app's request handlers, for the monitor of its event loop."""

from __future__ import annotations

import inspect
from types import CodeType, FrameType, FunctionType
from typing import Any

from quart import Quart

HANDLER_CALLERS = ("dispatch_request", "dispatch_websocket")
"""The methods of an app that call a request's handler, and not the functions registered to run before and after it."""


def request_handlers(app: Quart) -> frozenset[CodeType]:
    """Return the code that calls an app's request handlers, of the app's class and its bases."""
    methods = [vars(cls).get(name) for cls in type(app).__mro__ for name in HANDLER_CALLERS]
    return frozenset(code for method in methods if (code := getattr(method, "__code__", None)) is not None)


def endpoint(frame: FrameType) -> FunctionType | None:
    """Return the view function whose result becomes a response, given a frame of `Quart.make_response`.

    None if the app calls that itself, or if the view is no function.
    """
    caller = frame.f_back
    if caller is None or caller.f_code is not Quart.finalize_request.__code__:
        return None
    context: Any = caller.f_locals.get("ctx") or caller.f_locals.get("request_context")  # Quart 0.23, or older
    try:
        request = context.request
        view = frame.f_locals["self"].view_functions[request.endpoint]
        methods = getattr(view, "view_class", None)
        view = inspect.unwrap(view if methods is None else getattr(methods, request.method.lower()))
    except Exception:  # noqa: BLE001  (without a route, or the request is of a class of the app's own)
        return None
    return view if isinstance(view, FunctionType) else None


RESPONDERS = {Quart.make_response.__code__: endpoint}
