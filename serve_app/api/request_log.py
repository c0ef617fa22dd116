"""Give every request an id, log and count its end, and answer for what nobody foresaw."""

import logging
import re
import time
import uuid

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.errors import error_answer
from serve_app.api.metrics import HttpMetrics

logger = logging.getLogger("ray.serve.vidray.gateway")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_QUIET = ("/livez", "/readyz", "/metrics", "/v1/stats")
"""What is asked every few seconds by machines and worth no line when it goes well."""
_GONE = 499
"""What the log says of a client that left before it had an answer; nginx's number for it."""


class RequestLog:
    """ASGI middleware. Serve's proxy puts X-Request-ID on every answer itself: `behind_proxy` leaves it to that.

    A line has no query, header or body: those may hold what is nobody else's business.
    """

    def __init__(self, app: ASGIApp, *, behind_proxy: bool, metrics: HttpMetrics) -> None:
        self._app = app
        self._behind_proxy = behind_proxy
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        given = request.headers.get("x-request-id", "")
        request.state.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
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
            route = getattr(request.scope.get("route"), "path", None)
            answer_s = (answered_s or ended_s) - begun_s
            self._metrics.answered(request.method, route, status, answer_s=answer_s, body_bytes=body_bytes)
            if request.url.path not in _QUIET or status >= 400:
                self._log(request, route, status, ended_s - begun_s)

    def _log(self, request: Request, route: str | None, status: int, took_s: float) -> None:
        fields = {
            "method": request.method,
            "route": route or "unknown",
            "status": status,
            "took_s": round(took_s, 4),
            "request_id": request.state.request_id,
            "owner": getattr(request.state, "owner", None),
            "reason": getattr(request.state, "reason", None),
        }
        logger.info("request", extra={name: value for name, value in fields.items() if value is not None})
