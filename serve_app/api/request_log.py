"""Give every request and WebSocket an id, log its end, count requests, and answer for what nobody foresaw."""

import logging
import re
import time
import uuid

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.errors import error_answer
from serve_app.api.metrics import HttpMetrics

logger = logging.getLogger("ray.serve.vidray.gateway")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_QUIET = ("/livez", "/readyz", "/metrics", "/v1/stats")
"""What is asked every few seconds by machines and worth no line when it goes well."""
_GONE = 499
"""What the log says of a client that left before it had an answer; nginx's number for it."""
_ABNORMAL, _UNFORESEEN = 1006, 1011
"""WebSocket close codes: of one that ended without any, and ours for what nobody foresaw (RFC 6455, section 7.4)."""


class RequestLog:
    """ASGI middleware. Serve's proxy puts X-Request-ID on every answer itself: `behind_proxy` leaves it to that.

    A line has no query, header or body: those may hold what is nobody else's business. A WebSocket's `status` is
    the code that it was closed with.
    """

    def __init__(self, app: ASGIApp, *, behind_proxy: bool, metrics: HttpMetrics) -> None:
        self._app = app
        self._behind_proxy = behind_proxy
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._watched(scope, receive, send)
        elif scope["type"] == "http":
            await self._answered(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = HTTPConnection(scope)
        _name(socket)
        accepted, status, begun_s = False, _ABNORMAL, time.perf_counter()

        async def receive_seen() -> Message:
            nonlocal status
            message = await receive()
            if message["type"] == "websocket.disconnect":
                status = message.get("code") or status
            return message

        async def send_seen(message: Message) -> None:
            nonlocal accepted, status
            if message["type"] == "websocket.accept":
                accepted = True
                if not self._behind_proxy:
                    headers = [*message.get("headers", ()), (b"x-request-id", socket.state.request_id.encode())]
                    message = {**message, "headers": headers}
            elif message["type"] == "websocket.close":
                status = message.get("code", 1000)
            await send(message)

        try:
            await self._app(scope, receive_seen, send_seen)
        except Exception as error:
            logger.error("request failed", exc_info=error, extra={"path": socket.url.path})
            if not accepted:
                raise
            await send_seen({"type": "websocket.close", "code": _UNFORESEEN})
        finally:
            self._log(socket, "WEBSOCKET", _route(socket), status, time.perf_counter() - begun_s)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        _name(request)
        status, body_bytes, begun_s = 0, 0, time.perf_counter()
        answered_s: float | None = None

        async def receive_counted() -> Message:
            nonlocal body_bytes
            message = await receive()
            body_bytes += len(message.get("body", b""))
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status, answered_s
            if message["type"] == "http.response.start":
                status, answered_s = message["status"], time.perf_counter()
                if not self._behind_proxy:
                    message["headers"].append((b"x-request-id", request.state.request_id.encode()))
            await send(message)

        try:
            await self._app(scope, receive_counted, send_with_id)
        except ClientDisconnect:
            status = status or _GONE
        except Exception as error:
            logger.error("request failed", exc_info=error, extra={"path": request.url.path})
            if status:
                raise  # the answer is under way: cutting it off is all that is left
            message = "an unexpected error; the log holds it under this request id"
            await error_answer(request, 500, message, "internal_error")(scope, receive, send_with_id)
        finally:
            ended_s = time.perf_counter()
            route = _route(request)
            answer_s = (answered_s or ended_s) - begun_s
            self._metrics.answered(request.method, route, status, answer_s=answer_s, body_bytes=body_bytes)
            if request.url.path not in _QUIET or status >= 400:
                self._log(request, request.method, route, status, ended_s - begun_s)

    def _log(self, request: HTTPConnection, method: str, route: str | None, status: int, took_s: float) -> None:
        fields = {
            "method": method,
            "route": route or "unknown",
            "status": status,
            "took_s": round(took_s, 4),
            "request_id": request.state.request_id,
            "owner": getattr(request.state, "owner", None),
            "reason": getattr(request.state, "reason", None),
        }
        logger.info("request", extra={name: value for name, value in fields.items() if value is not None})


def _name(connection: HTTPConnection) -> None:
    given = connection.headers.get("x-request-id", "")
    connection.state.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _route(connection: HTTPConnection) -> str | None:
    return getattr(connection.scope.get("route"), "path", None)
