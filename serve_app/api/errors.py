"""How a failure is told: one JSON body for all of them, without traces, paths or addresses."""

import uuid
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from deployments.errors import AppError, StorageFailed, StorageFull
from serve_app.api.examples import ERROR, shown

CLOSED_FORBIDDEN, CLOSED_TRY_AGAIN = 4403, 1013
"""WebSocket close codes: HTTP's 403 in the range for applications, and the registered one for 503."""


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    model_config = ConfigDict(json_schema_extra=shown(ERROR))

    error: ErrorBody
    request_id: str


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)


def error_answer(
    request: Request,
    status: int,
    message: str,
    code: str,
    *,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Return the answer that tells a failure; 503 says when to come back."""
    request_id = getattr(request.state, "request_id", uuid.uuid4().hex)
    body = _body(status, message, code, param, request_id)
    headers = {"Retry-After": "2"} | (headers or {}) if status == 503 else headers
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


async def refuse(
    error: AppError, scope: Scope, receive: Receive, send: Send, *, close_code: int, close_reason: str
) -> None:
    """Answer a request before the app sees it, a WebSocket by a close code."""
    if scope["type"] == "websocket":
        # A close code can be told only to one that was accepted.
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": close_code, "reason": close_reason})
        return
    await error_answer(Request(scope), error.http_status, error.message, error.code)(scope, receive, send)


def error_body(error: AppError, request_id: str) -> ErrorAnswer:
    """Return what a client is told of a failure where the answer's status has gone out already."""
    return _body(error.http_status, _message(error), error.code, error.details.get("param") or None, request_id)


def _body(status: int, message: str, code: str, param: str | None, request_id: str) -> ErrorAnswer:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return ErrorAnswer(error=ErrorBody(message=message, type=kind, param=param, code=code), request_id=request_id)


def _message(error: AppError) -> str:
    """Return what clients may read of it: a storage's own messages name paths and addresses."""
    if isinstance(error, StorageFull):
        return "expected room in the storage, got too little: try again when there is more"
    if isinstance(error, StorageFailed):
        return "expected the storage to answer, got a failure: try again"
    return error.message


async def _app_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AppError)
    if isinstance(error, StorageFailed):
        request.state.reason = error.message
    param, headers = error.details.get("param") or None, error.details.get("headers")
    return error_answer(request, error.http_status, _message(error), error.code, param=param, headers=headers)


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:])
    message = f"{param}: {first['msg']}" if param else str(first["msg"])
    return error_answer(request, 422, message, "invalid_option", param=param or None)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_allowed(request)))
    return error_answer(request, error.status_code, str(error.detail), code, headers=headers)


def _allowed(request: Request) -> set[str]:
    """Return every method of the path; Starlette's own header has those of the first route that fits."""
    routes = [route for router in request.app.state.routers for route in router.routes if isinstance(route, APIRoute)]
    fitting = [route for route in routes if route.path_regex.match(request.url.path)]
    return {method for route in fitting for method in route.methods or ()}
