"""`/v1/analyses`: ask for one and get its id at once, then look at it, watch it, stop it, or have it done again."""

import json
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from deployments.contracts import GenerationOptions
from deployments.errors import AnalysisConflict, InvalidOption
from deployments.validation import parse
from deployments.vision.prompts import DEFAULT_PROMPT
from pipelines.exports import FORMATS, export
from pipelines.plan import SamplingOptions
from serve_app.analyses.request import AnalysisOptions
from serve_app.analyses.service import Asked, View
from serve_app.api.access import Analyst, Injected, Viewer
from serve_app.api.errors import ErrorAnswer

router = APIRouter(prefix="/v1/analyses", tags=["analyses"])

_MAX_METADATA_BYTES = 16_384
_SAMPLING, _GENERATION = SamplingOptions.model_fields, GenerationOptions.model_fields


class NewAnalysis(BaseModel):
    """What to describe, and how. Options that are left out have the values shown; times are seconds of the video."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"file_id": "file_019ab0c1d2e3f4a5b6c7d8e9", "prompt": "What happens here?"}]},
    )

    file_id: Annotated[str, Field(max_length=64)]
    model: Annotated[str | None, Field(max_length=64, description="one of /v1/models; without it, the default")] = None
    prompt: Annotated[str, Field(min_length=1, max_length=16_384)] = DEFAULT_PROMPT
    per: Literal["clip", "frame"] = "clip"
    clip_duration_s: Annotated[float, Field(gt=0.0, le=3600.0)] = 10.0
    clip_overlap_s: Annotated[float, Field(ge=0.0, le=3600.0)] = 0.0
    fps: Annotated[float | None, Field(gt=0.0, le=240.0, description="frames a second; 1 without any option")] = None
    frames_per_clip: Annotated[int | None, Field(ge=1, le=4096, description="instead of fps")] = None
    start_s: Annotated[float, Field(ge=0.0, le=7 * 24 * 3600.0)] = 0.0
    end_s: Annotated[float | None, Field(gt=0.0, le=7 * 24 * 3600.0)] = None
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 128
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    decoder: Literal["pyav", "decord"] = "pyav"
    deadline_s: Annotated[
        float | None, Field(gt=0.0, le=30 * 24 * 3600.0, description="what is not described by then is given up")
    ] = None
    metadata: Annotated[dict[str, JsonValue], Field(description="for your own use; kept as it is")] = {}

    @model_validator(mode="after")
    def _small(self) -> "NewAnalysis":
        size = len(json.dumps(self.metadata))
        if size > _MAX_METADATA_BYTES:
            raise ValueError(f"metadata must have at most {_MAX_METADATA_BYTES} bytes as JSON, got {size}")
        return self

    def options(self, default_model: str) -> AnalysisOptions:
        """Return the options as the analysis knows them. Raises InvalidOption where two do not go together."""
        given = self.model_dump()
        sampling = parse(SamplingOptions, {name: given[name] for name in _SAMPLING}, error=InvalidOption)
        generation = parse(GenerationOptions, {name: given[name] for name in _GENERATION}, error=InvalidOption)
        return AnalysisOptions(
            model=self.model or default_model,
            prompt=self.prompt,
            sampling=sampling,
            generation=generation,
            decoder=self.decoder,
            deadline_s=self.deadline_s,
        )


class ProgressObject(BaseModel):
    """`clips_total` is null until the clips are planned, `eta_s` until the pace is known."""

    clips_done: int
    clips_failed: int
    clips_total: int | None
    fraction: float
    eta_s: float | None


class AnalysisObject(BaseModel):
    """An analysis as it stands. Times (`…_at`) are in seconds since 1970; `coverage` comes with the result."""

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
    object: Literal["list"] = "list"
    data: list[AnalysisObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ClipList(BaseModel):
    """Outcomes in the order in which they came; `last_id` is the `after` of the next call."""

    object: Literal["list"] = "list"
    data: list[dict[str, JsonValue]]
    last_id: int
    has_more: bool


class AnalysisDeleted(BaseModel):
    id: str
    object: Literal["analysis"] = "analysis"
    deleted: Literal[True] = True


_MISSING: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "No such analysis of yours"}}
_CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": ErrorAnswer, "description": "Not in this state"}}
After = Annotated[int, Query(ge=0, lt=2**53, description="the id of the last event you have")]


@router.post(
    "",
    status_code=202,
    responses={
        404: {"model": ErrorAnswer, "description": "No such file of yours, or no such model"},
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
    """Accept an analysis and return its id at once. The same `Idempotency-Key` asks for the same one again."""
    wanted = Asked(asked.file_id, asked.options(services.default_model), asked.metadata, idempotency_key)
    view = await services.analyses.submit(principal, wanted)
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


@router.get("/{analysis_id}", responses=_MISSING)
async def get_analysis(analysis_id: str, principal: Viewer, services: Injected) -> AnalysisObject:
    """Show an analysis with its progress."""
    return analysis_object(await services.analyses.get(principal, analysis_id))


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
        "content": {media: {} for _, media, _ in FORMATS.values()},
    }
}


@router.get("/{analysis_id}/result", responses=_MISSING | _CONFLICT | _FORMAT_ANSWERS, response_class=Response)
async def get_result(
    analysis_id: str,
    principal: Viewer,
    services: Injected,
    format: Annotated[Literal["json", "vtt", "srt", "csv", "md"], Query()] = "json",
) -> Response:
    """Return the timeline, in order, with the account of what was and was not seen; 409 until the analysis is done."""
    view = await services.analyses.get(principal, analysis_id)
    if view.result is None:
        raise AnalysisConflict(f"expected an analysis that is done, got one that is {view.progress.state}")
    text, media_type = export(view.result, format)
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
        options=flat | {"prompt": options.prompt, "decoder": options.decoder, "deadline_s": options.deadline_s},
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
        coverage=None if view.result is None else view.result["coverage"],
        links={"self": here, "file": f"/v1/files/{request.file_id}"}
        | {name: f"{here}/{name}" for name in ("clips", "events", "result", "ws")},
    )
