"""Calls that bring no body and are answered at once: Serve's proxy need not be asked what else comes."""

import asyncio
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

_STREAMS = ("/events", "/content")
"""Ends of paths whose answers take long: there it matters to hear that the client left."""


class ShortCalls:
    """ASGI middleware, the outermost one, so that `receive` is Serve's own.

    While a replica works at a call, Serve has it ask the proxy what else the client sends, in an actor call of Ray's.
    Of a GET that is answered at once that is nothing, and asking takes nearly half of the CPU time of the whole call,
    on both sides. The proxy still cancels a call whose client left.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_short(scope) and hasattr(receive, "_receive_asgi_messages"):
            # Serve's task that asks is started, but has not run yet.
            receive._receive_asgi_messages = _never
        await self._app(scope, receive, send)


def is_short(scope: Scope) -> bool:
    """Say whether a call has no body and an answer that does not stream."""
    return scope["type"] == "http" and scope["method"] == "GET" and not scope["path"].endswith(_STREAMS)


async def _never(_: Any) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError("expected an event that is never set")
