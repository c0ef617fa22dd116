"""`/v1/uploads`: large videos in parts, as OpenAI's uploads; `GET` says which have arrived, to go on after a cut."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from pipelines.ids import made_at_s
from serve_app.api.access import Analyst, Injected
from serve_app.api.errors import ErrorAnswer
from serve_app.api.examples import PART, UPLOAD, shown
from serve_app.api.files import ExpiresAfter, FileObject, Purpose, file_object, keep_s
from serve_app.api.form import chunks, file_of, plain_name, read_form
from serve_app.stored_file import Naming
from serve_app.uploads import Upload

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])


class NewUpload(BaseModel):
    """What is going to be sent; the parts must have exactly `bytes` bytes in all."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=shown({"filename": "cats.mp4", "bytes": 4470982}))

    filename: Annotated[str, Field(min_length=1, max_length=4096)]
    bytes: Annotated[int, Field(ge=1)]
    purpose: Purpose = "user_data"
    mime_type: Annotated[str | None, Field(max_length=255, description="not used: the bytes decide")] = None
    expires_after: ExpiresAfter | None = None


class Completion(BaseModel):
    """The parts in the order in which they make up the file."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=shown({"part_ids": [PART["id"]]}))

    part_ids: Annotated[list[str], Field(min_length=1, max_length=100_000)]
    md5: Annotated[str | None, Field(pattern=r"^[0-9a-fA-F]{32}$", description="of the whole file, to be checked")] = (
        None
    )


class PartObject(BaseModel):
    """OpenAI's part object; `bytes` is Vidray's."""

    model_config = ConfigDict(json_schema_extra=shown(PART))

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
    bytes: int


class UploadObject(BaseModel):
    """OpenAI's upload object; `parts`, those that have arrived, is Vidray's. Times are in seconds since 1970."""

    model_config = ConfigDict(json_schema_extra=shown(UPLOAD))

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    parts: list[PartObject]
    file: FileObject | None


_MISSING: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "No such upload of yours"}}
_ENDED: dict[int | str, dict[str, Any]] = _MISSING | {409: {"model": ErrorAnswer, "description": "It has ended"}}
_ROOM: dict[int | str, dict[str, Any]] = {
    413: {"model": ErrorAnswer, "description": "Too many bytes, or parts"},
    503: {"model": ErrorAnswer, "description": "The storage is full or does not answer"},
}
_PART_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["data"],
                "properties": {"data": {"type": "string", "format": "binary"}},
            },
            "example": {"data": "(the bytes)"},
        }
    },
}


@router.post("", status_code=201, responses=_ROOM)
async def create_upload(asked: NewUpload, principal: Analyst, services: Injected) -> UploadObject:
    """Announce a video that is to be sent in parts of at most 64 MiB; parts of 4 MiB cost the service least memory."""
    naming = Naming(plain_name(asked.filename), asked.purpose, keep_s(asked.expires_after))
    return _upload_object(await services.uploads.begin(principal, naming, asked.bytes))


@router.get("/{upload_id}", responses=_MISSING)
async def get_upload(upload_id: str, principal: Analyst, services: Injected) -> UploadObject:
    """Show an upload with the parts that have arrived."""
    return _upload_object(await services.uploads.get(principal, upload_id))


@router.post(
    "/{upload_id}/parts",
    status_code=201,
    responses=_ENDED | _ROOM | {400: {"model": ErrorAnswer}, 408: {"model": ErrorAnswer}},
    openapi_extra={"requestBody": _PART_BODY},
)
async def create_part(upload_id: str, request: Request, principal: Analyst, services: Injected) -> PartObject:
    """Send a part, in any order and several at a time. One whose answer was lost can be sent again.

    All of them together may have twice the bytes that were announced and 64 MiB more; there may be 1,000 of them, and
    one more for each MiB announced.
    """
    await services.uploads.require_pending(principal, upload_id)  # before a body comes in for nothing
    async with read_form(request, max_file_bytes=services.uploads.max_part_bytes) as form:
        part = await services.uploads.add_part(principal, upload_id, chunks(file_of(form, "data")))
    return _part_object(upload_id, part.id, part.size_bytes)


@router.post("/{upload_id}/complete", responses=_ENDED | _ROOM | {415: {"model": ErrorAnswer}})
async def complete_upload(upload_id: str, asked: Completion, principal: Analyst, services: Injected) -> UploadObject:
    """Put the parts together. The call can be made again when its answer was lost; a failed one keeps the parts."""
    return _upload_object(await services.uploads.complete(principal, upload_id, asked.part_ids, md5=asked.md5))


@router.post("/{upload_id}/cancel", responses=_ENDED)
async def cancel_upload(upload_id: str, principal: Analyst, services: Injected) -> UploadObject:
    """End the upload; its parts are removed."""
    return _upload_object(await services.uploads.cancel(principal, upload_id))


def _upload_object(upload: Upload) -> UploadObject:
    announced = upload.announced
    return UploadObject(
        id=announced.id,
        bytes=announced.size_bytes,
        created_at=announced.created_at,
        expires_at=announced.expires_at,
        filename=announced.naming.filename,
        purpose=announced.naming.purpose,
        status=upload.state,
        parts=[_part_object(announced.id, part.id, part.size_bytes) for part in upload.parts],
        file=None if upload.file is None else file_object(upload.file),
    )


def _part_object(upload_id: str, part_id: str, size: int) -> PartObject:
    return PartObject(id=part_id, created_at=int(made_at_s(part_id)), upload_id=upload_id, bytes=size)
