"""The HTTP app: plain FastAPI over `Services`, ignorant of Ray."""

import importlib.metadata
import logging
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from deployments.errors import AppError
from deployments.vision.deployment import ModelStatus
from serve_app.services import Services

logger = logging.getLogger("ray.serve.vidray.gateway")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """`ready` once every configured model can serve; `waiting_for` names those that cannot yet."""

    status: Literal["ready", "not_ready"]
    waiting_for: list[str]


class Model(BaseModel):
    """A vision model in the form of OpenAI's model object, with Vidray's own fields after it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "vidray"
    kind: Literal["vision"] = "vision"
    state: Literal["cold", "loading", "ready", "failed"]
    engine: str
    max_frames: int
    notice: str | None
    error: str | None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    error: ErrorBody
    request_id: str


def create_app(services: Services, *, behind_proxy: bool = False) -> FastAPI:
    """Return the app; its routes speak to `services` and to nothing else.

    Serve's proxy puts X-Request-ID on every answer by itself, so `behind_proxy` leaves that header to it.
    """
    app = FastAPI(
        title="Vidray",
        version=importlib.metadata.version("vidray"),
        summary="Self-hosted video understanding on Ray",
        responses={422: {"model": ErrorAnswer}, 500: {"model": ErrorAnswer}},
    )

    @app.middleware("http")
    async def with_request_id(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.headers.get("x-request-id", "")
        request.state.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        response = await call_next(request)
        if not behind_proxy:
            response.headers["X-Request-ID"] = request.state.request_id
        return response

    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)

    def get_services() -> Services:
        return services

    Injected = Annotated[Services, Depends(get_services)]  # noqa: N806 (a type)

    @app.get("/livez", tags=["health"])
    async def livez() -> Health:
        """Say that the gateway answers."""
        return Health()

    @app.get("/readyz", tags=["health"], responses={503: {"model": Readiness}})
    async def readyz(response: Response, services: Injected) -> Readiness:
        """Say whether every configured model can serve; 503 until then."""
        waiting = [status.info.name for status in await services.model_statuses() if not _can_serve(status)]
        if waiting:
            response.status_code = 503
            response.headers["Retry-After"] = "2"
        return Readiness(status="not_ready" if waiting else "ready", waiting_for=waiting)

    @app.get("/v1/models", tags=["models"])
    async def list_models(services: Injected) -> ModelList:
        """List the vision models with their state."""
        return ModelList(data=[_model(status) for status in await services.model_statuses()])

    return app


def _can_serve(status: ModelStatus) -> bool:
    # A cold model that loads on first use can serve: it will load then.
    return status.state == "ready" or (status.state == "cold" and status.loads_on_first_use)


def _model(status: ModelStatus) -> Model:
    return Model(
        id=status.info.name,
        state=status.state,
        engine=status.info.engine,
        max_frames=status.info.max_frames,
        notice=status.info.notice,
        error=status.error,
    )


async def _app_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AppError)
    return _answer(request, error.http_status, error.message, error.code, param=error.details.get("param"))


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:])
    return _answer(request, 422, f"{param}: {first['msg']}", "invalid_option", param=param)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    return _answer(request, error.status_code, str(error.detail), code, headers=dict(error.headers or {}))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    logger.error("request failed", exc_info=error, extra={"path": request.url.path})
    return _answer(request, 500, "an unexpected error; the log holds it under this request id", "internal_error")


def _answer(
    request: Request,
    status: int,
    message: str,
    code: str,
    *,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    request_id = getattr(request.state, "request_id", uuid.uuid4().hex)
    body = ErrorAnswer(error=ErrorBody(message=message, type=kind, param=param, code=code), request_id=request_id)
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)
