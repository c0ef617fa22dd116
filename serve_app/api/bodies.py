"""Bodies that are no videos: read whole before the app sees the request, so that none is too large or never ends.

Whatever a body calls itself, most routes read all of it into memory. Those that take a video read it piece by piece and
hold it to bounds of their own; only the route says which they are.
"""

import asyncio

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import AppError, SlowBody, TooLarge
from serve_app.api.admission import kind_of
from serve_app.api.errors import error_answer

MAX_BYTES = 1 << 20
"""Most bytes of such a body. The largest that means something, an analysis with all that it may hold, has a tenth."""
IDLE_BODY_S = 15.0
"""A body that brings nothing for so long is cut: it holds a place that others wait for."""


class SmallBodies:
    """ASGI middleware. What takes videos reads its body itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_small_body(Request(scope)):
            await self._app(scope, receive, send)
            return
        try:
            body = await _read(Request(scope), receive)
        except AppError as error:
            await error_answer(Request(scope), error.http_status, error.message, error.code)(scope, receive, send)
            return
        read = False

        async def receive_read() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_read, send)


def _has_small_body(request: Request) -> bool:
    headers = request.headers
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    return has_body and kind_of(request.scope) != "uploads"


async def _read(request: Request, receive: Receive) -> bytes:
    """Return the body. Raises TooLarge, SlowBody, ClientDisconnect."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BYTES:
        raise _too_large()
    body = bytearray()
    while True:
        try:
            async with asyncio.timeout(IDLE_BODY_S):
                message = await receive()
        except TimeoutError:
            raise SlowBody(f"the body must go on within {IDLE_BODY_S:g} s, got nothing") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > MAX_BYTES:
            raise _too_large()
        if not message.get("more_body", False):
            return bytes(body)


def _too_large() -> TooLarge:
    return TooLarge(f"a body in which no video is expected must have at most {MAX_BYTES} bytes, got more")
