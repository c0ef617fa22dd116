"""Is it alive, can it serve, and with which models."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from deployments.errors import UnknownModel
from deployments.vision.deployment import ModelStatus
from serve_app.api.access import Injected, Viewer
from serve_app.api.errors import ErrorAnswer
from serve_app.api.examples import MODEL, shown
from serve_app.services import Services

router = APIRouter()


class Health(BaseModel):
    model_config = ConfigDict(json_schema_extra=shown({"status": "ok"}))

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """`ready` once every configured model can serve; `waiting_for` names those that cannot yet.

    `stopping`: what is in flight is answered to its end, and what comes next belongs elsewhere.
    """

    model_config = ConfigDict(json_schema_extra=shown({"status": "not_ready", "waiting_for": ["demo"]}))

    status: Literal["ready", "not_ready", "stopping"]
    waiting_for: list[str]


class Model(BaseModel):
    """A model in the form of OpenAI's model object, with Vidray's own fields after it.

    `vision` models describe videos, `chat` models answer questions about them; the latter take no frames.
    `load_progress` is the share of the weights that is there while the state is `loading`; `choice` says why `auto`
    took this checkpoint.
    """

    model_config = ConfigDict(json_schema_extra=shown(MODEL))

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "vidray"
    kind: Literal["vision", "chat"] = "vision"
    state: Literal["cold", "loading", "ready", "failed"]
    engine: str
    max_frames: int | None
    notice: str | None
    error: str | None
    load_progress: float | None = None
    choice: str | None = None


class ModelList(BaseModel):
    model_config = ConfigDict(json_schema_extra=shown({"object": "list", "data": [MODEL]}))

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/livez", tags=["health"])
async def livez() -> Health:
    """Say that the gateway answers."""
    return Health()


@router.get("/readyz", tags=["health"], responses={503: {"model": Readiness}})
async def readyz(response: Response, services: Injected) -> Readiness:
    """Say whether every configured model can serve; 503 until then, and once the app is stopping."""
    stopping = services.draining.begun
    statuses = [] if stopping else await services.model_statuses()
    waiting = [status.info.name for status in statuses if not _can_serve(status)]
    if waiting or stopping:
        response.status_code = 503
        response.headers["Retry-After"] = "2"
    if stopping:
        return Readiness(status="stopping", waiting_for=[])
    return Readiness(status="not_ready" if waiting else "ready", waiting_for=waiting)


@router.get("/v1/models", tags=["models"])
async def list_models(principal: Viewer, services: Injected) -> ModelList:
    """List the vision models and the chat models with their state, of each kind the default one first."""
    return ModelList(data=await _models(services))


@router.get(
    "/v1/models/{model}", tags=["models"], responses={404: {"model": ErrorAnswer, "description": "No such model"}}
)
async def get_model(model: str, principal: Viewer, services: Injected) -> Model:
    """Show a model with its state."""
    models = {one.id: one for one in await _models(services)}
    if model not in models:
        raise UnknownModel(f"expected one of the models {', '.join(sorted(models))}, got {model!r}", param="model")
    return models[model]


async def _models(services: Services) -> list[Model]:
    chats = [
        Model(id=name, kind="chat", state="ready", engine=engine, max_frames=None, notice=None, error=None)
        for name, engine in services.chats.models.items()
    ]
    return [*map(_model, await services.model_statuses()), *chats]


def _can_serve(status: ModelStatus) -> bool:
    # A model that loads when it is asked can serve before and meanwhile: the calls wait for it.
    return status.state == "ready" or (status.state in ("cold", "loading") and status.loads_on_first_use)


def _model(status: ModelStatus) -> Model:
    return Model(
        id=status.info.name,
        state=status.state,
        engine=status.info.engine,
        max_frames=status.info.max_frames,
        notice=status.info.notice,
        error=status.error,
        load_progress=status.load_progress,
        choice=status.info.choice,
    )
