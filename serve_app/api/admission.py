"""How many requests of each kind are let in at once: many slow ones of one kind take no place of another's.

Serve's own limit, `max_ongoing_requests`, counts them all together, so that sleeping uploads would keep out the one who
asks how an analysis is going. What is refused is refused before a byte of its body is read.
"""

from collections import Counter
from typing import Literal

from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import Overloaded
from serve_app.api.errors import CLOSED_TRY_AGAIN, refuse
from serve_app.settings import AdmissionSettings

Kind = Literal["uploads", "downloads", "watchers", "chats", "requests"]
_UNBOUND = ("/livez", "/readyz", "/metrics")
"""What tells how busy the gateway is must be answered when it is."""


def kind_of(scope: Scope) -> Kind | None:
    """Return what a request is counted as, None for one that is always let in."""
    path: str = scope["path"]
    if scope["type"] == "websocket":
        return "watchers"
    if path in _UNBOUND:
        return None
    if scope["method"] == "POST" and (path in ("/v1/files", "/v1/analyze") or path.endswith("/parts")):
        return "uploads"
    if scope["method"] == "GET" and path.endswith("/events"):
        return "watchers"
    if scope["method"] == "GET" and path.endswith("/content"):
        return "downloads"
    if path == "/v1/chat/completions":
        return "chats"
    return "requests"


class Admission:
    """ASGI middleware that counts what is under way and answers 503 to what is too much."""

    def __init__(self, app: ASGIApp, *, settings: AdmissionSettings, under_way: Counter[Kind]) -> None:
        self._app = app
        self._settings = settings
        self._under_way = under_way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = kind_of(scope) if scope["type"] in ("http", "websocket") else None
        if kind is None:
            await self._app(scope, receive, send)
            return
        limit: int = getattr(self._settings, kind)
        if self._under_way[kind] >= limit:
            full = Overloaded(f"expected fewer than {limit} {kind} at once, got one more")
            await refuse(full, scope, receive, send, close_code=CLOSED_TRY_AGAIN, close_reason=full.message)
            return
        self._under_way[kind] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way[kind] -= 1
