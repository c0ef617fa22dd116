"""`/v1/analyses`: ask for one and get its id at once, then look at it, watch it, stop it, or have it done again."""

import asyncio
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, JsonValue

from pipelines.exports import FORMATS, export
from serve_app.analyses.followed import View
from serve_app.analyses.submission import Asked
from serve_app.api.access import Analyst, Injected, Viewer
from serve_app.api.errors import ErrorAnswer
from serve_app.api.examples import ANALYSIS, CLIP, RESULT, RESULT_TEXTS, deleted, page_of, shown
from serve_app.api.files import REFUSED
from serve_app.api.form import plain_name
from serve_app.api.new_analysis import NewAnalysis
from serve_app.principal import Principal
from serve_app.services import Services
from serve_app.stored_file import Naming

router = APIRouter(prefix="/v1/analyses", tags=["analyses"])


class ProgressObject(BaseModel):
    """`clips_total` is null until the clips are planned.

    `eta_s` is the clips left at the pace of those that were lately described or failed in this attempt, reused ones not
    counted, and until some have ended at two moments at that of the model's last analysis: null when that is unknown,
    too, 0 when the analysis is done.
    """

    clips_done: int
    clips_failed: int
    clips_total: int | None
    fraction: float
    eta_s: float | None


class AnalysisObject(BaseModel):
    """An analysis as it stands. Times (`…_at`) are in seconds since 1970; `coverage` comes with the end."""

    model_config = ConfigDict(json_schema_extra=shown(ANALYSIS))

    id: str
    object: Literal["analysis"] = "analysis"
    state: Literal["queued", "running", "completed", "partial", "failed", "cancelled"]
    file_id: str
    filename: str
    model: str
    options: dict[str, JsonValue]
    metadata: dict[str, JsonValue]
    created_at: float
    started_at: float | None
    first_caption_at: float | None
    finished_at: float | None
    attempt: int
    round: int
    progress: ProgressObject
    coverage: dict[str, JsonValue] | None
    links: dict[str, str]


class AnalysisList(BaseModel):
    model_config = ConfigDict(json_schema_extra=shown(page_of(ANALYSIS, first=ANALYSIS["id"], last=ANALYSIS["id"])))

    object: Literal["list"] = "list"
    data: list[AnalysisObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ClipList(BaseModel):
    """Outcomes in the order in which they came; `last_id` is the `after` of the next call."""

    model_config = ConfigDict(
        json_schema_extra=shown({"object": "list", "data": [CLIP], "last_id": 2, "has_more": False})
    )

    object: Literal["list"] = "list"
    data: list[dict[str, JsonValue]]
    last_id: int
    has_more: bool


class AnalysisDeleted(BaseModel):
    model_config = ConfigDict(json_schema_extra=shown(deleted(ANALYSIS)))

    id: str
    object: Literal["analysis"] = "analysis"
    deleted: Literal[True] = True


_MISSING: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "No such analysis of yours"}}
_CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": ErrorAnswer, "description": "Not in this state"}}
After = Annotated[int, Query(ge=0, lt=2**53, description="the id of the last event you have")]


ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "Accepted: it stands, and runs when its turn comes",
        "headers": {"Location": {"description": "where the analysis is shown", "schema": {"type": "string"}}},
    }
}


@router.post(
    "",
    status_code=202,
    responses={
        **ACCEPTED,
        **{status: REFUSED[status] for status in (413, 415, 503)},
        403: {"model": ErrorAnswer, "description": "Not your role, or a url that the server may not read"},
        404: {"model": ErrorAnswer, "description": "No such file of yours, no such model, or nothing at the url"},
        409: {"model": ErrorAnswer, "description": "The Idempotency-Key came with another request before"},
    },
)
async def create_analysis(
    asked: NewAnalysis,
    response: Response,
    principal: Analyst,
    services: Injected,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> AnalysisObject:
    """Accept an analysis and return its id at once. The same `Idempotency-Key` asks for the same one again.

    A video at a `url` becomes a file of yours first, and the answer waits for that; redirects are not followed. A
    client that cannot wait sends the bytes itself, to `/v1/files`.
    """
    options = asked.options(services.default_model)
    services.analyses.model(options.model)
    file_id = asked.file_id or await _fetched(str(asked.url), principal, services)
    return await accept(Asked(file_id, options, asked.metadata, idempotency_key), response, principal, services)


async def _fetched(url: str, principal: Principal, services: Services) -> str:
    async with services.sources.open(url) as found:
        naming = Naming(plain_name(found.name))
        return (await services.files.add(principal, naming, found.content, found.size_bytes)).id


async def accept(asked: Asked, response: Response, principal: Principal, services: Services) -> AnalysisObject:
    """Accept the analysis and say where it is."""
    view = await services.analyses.submit(principal, asked)
    response.headers["Location"] = f"/v1/analyses/{view.request.id}"
    return analysis_object(view)


@router.get("")
async def list_analyses(
    principal: Viewer,
    services: Injected,
    after: Annotated[str | None, Query(description="the id behind which to go on")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AnalysisList:
    """List your analyses, the newest first."""
    page = await services.analyses.page(principal, after=after, limit=limit)
    data = [analysis_object(view) for view in page.views]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return AnalysisList(data=data, first_id=first, last_id=last, has_more=page.has_more)


@router.get("/{analysis_id}", responses=_MISSING, response_model=AnalysisObject)
async def get_analysis(analysis_id: str, principal: Viewer, services: Injected) -> Response:
    """Show an analysis with its progress."""
    shown = analysis_object(await services.analyses.get(principal, analysis_id))
    # It is polled: FastAPI would validate what it has just been given.
    return Response(shown.model_dump_json(), media_type="application/json")


@router.get("/{analysis_id}/clips", responses=_MISSING)
async def list_clips(
    analysis_id: str,
    principal: Viewer,
    services: Injected,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ClipList:
    """List the outcomes so far. A clip that failed and was done again comes twice, the later one counts."""
    events, has_more = await services.analyses.clips(principal, analysis_id, after=after, limit=limit)
    data = [{"event_id": event.id} | event.data for event in events]
    return ClipList(data=data, last_id=events[-1].id if events else after, has_more=has_more)


_FORMAT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The result in the format that was asked for",
        "content": {
            media: {"schema": {"type": "string"}, "example": RESULT_TEXTS[name]}
            for name, (_, media) in FORMATS.items()
            if name in RESULT_TEXTS
        }
        | {"application/json": {"schema": {"type": "object"}, "example": RESULT}},
    }
}


@router.get("/{analysis_id}/result", responses=_MISSING | _CONFLICT | _FORMAT_ANSWERS, response_class=Response)
async def get_result(
    analysis_id: str,
    principal: Viewer,
    services: Injected,
    format: Annotated[Literal["json", "vtt", "srt", "csv", "md"], Query()] = "json",
) -> Response:
    """Return the timeline, in order, with the account of what was and was not seen; 409 until the analysis is done.

    `events` has those of all clips by their time in the video. A clip whose answer about events was no valid list has
    an `events_error` instead, and a `warning` among the analysis's events.
    """
    result = await services.analyses.result(principal, analysis_id)
    text, media_type = await asyncio.to_thread(export, result, format)
    return Response(text, media_type=media_type)


@router.post("/{analysis_id}/cancel", status_code=202, responses=_MISSING)
async def cancel_analysis(analysis_id: str, principal: Analyst, services: Injected) -> AnalysisObject:
    """Stop: no clip is begun any more. What was described stays; `retry` goes on with the rest."""
    return analysis_object(await services.analyses.cancel(principal, analysis_id))


@router.post("/{analysis_id}/retry", status_code=202, responses=_MISSING | _CONFLICT)
async def retry_analysis(analysis_id: str, principal: Analyst, services: Injected) -> AnalysisObject:
    """Have the clips that failed, or were not reached, described again; the others stay as they are."""
    return analysis_object(await services.analyses.retry(principal, analysis_id))


@router.delete("/{analysis_id}", responses=_MISSING | _CONFLICT)
async def delete_analysis(analysis_id: str, principal: Analyst, services: Injected) -> AnalysisDeleted:
    """Delete an analysis that is done."""
    await services.analyses.delete(principal, analysis_id)
    return AnalysisDeleted(id=analysis_id)


def analysis_object(view: View) -> AnalysisObject:
    """Return the analysis as clients see it."""
    request, progress = view.request, view.progress
    options = request.options
    here = f"/v1/analyses/{request.id}"
    flat = options.sampling.model_dump() | options.generation.model_dump()
    eta_s = progress.eta_s(time.time())
    return AnalysisObject(
        id=request.id,
        state=progress.state,
        file_id=request.file_id,
        filename=request.filename,
        model=options.model,
        options=flat
        | {
            "prompt": options.prompt,
            "decoder": options.decoder,
            "events": list(options.events),
            "summary": options.summary,
            "allow_cloud": options.allow_cloud,
            "deadline_s": options.deadline_s,
        },
        metadata=request.metadata,
        created_at=request.created_at,
        started_at=progress.started_at,
        first_caption_at=progress.first_caption_at,
        finished_at=progress.finished_at,
        attempt=progress.attempt,
        round=progress.round,
        progress=ProgressObject(
            clips_done=progress.clips_done,
            clips_failed=progress.clips_failed,
            clips_total=progress.clips_total,
            fraction=round(progress.fraction, 4),
            eta_s=None if eta_s is None else round(eta_s, 1),
        ),
        coverage=progress.coverage,
        links={"self": here, "file": f"/v1/files/{request.file_id}"}
        | {name: f"{here}/{name}" for name in ("clips", "events", "result", "ws")},
    )
