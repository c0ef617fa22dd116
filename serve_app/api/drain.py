"""Count what is in flight, so that the app can end when nothing is."""

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.draining import Draining


class InFlight:
    """ASGI middleware: requests, streams and sockets."""

    def __init__(self, app: ASGIApp, *, draining: Draining) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        with self._draining.request():
            await self._app(scope, receive, send)
