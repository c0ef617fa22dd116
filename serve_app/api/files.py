"""`/v1/files`: videos in, bytes out; OpenAI's file objects with what is known of the video beside them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import InvalidOption
from deployments.validation import parse
from serve_app.api.access import Analyst, Injected, Viewer
from serve_app.api.errors import ErrorAnswer
from serve_app.api.examples import FILE, deleted, page_of, shown
from serve_app.api.form import chunks, field_of, file_of, plain_name, read_form
from serve_app.api.ranges import byte_range, is_known
from serve_app.stored_file import Naming, StoredFile

router = APIRouter(prefix="/v1/files", tags=["files"])

Purpose = Annotated[str, Field(min_length=1, max_length=64, description="for your own use; kept as it is")]


class ExpiresAfter(BaseModel):
    """When the file is to be deleted; the server may delete it earlier, never later."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=60, le=10 * 365 * 24 * 3600)]


class NewFile(BaseModel):
    """The fields beside the file."""

    purpose: Purpose = "user_data"
    expires_after: ExpiresAfter | None = None


class Video(BaseModel):
    """What is shown: duration from the first frame to the end of the last, picture as it appears on a screen."""

    duration_s: float
    width: int
    height: int
    fps: float
    codec: str
    has_audio: bool


class FileObject(BaseModel):
    """OpenAI's file object; `sha256` and `video` are Vidray's. Times are in seconds since 1970."""

    model_config = ConfigDict(json_schema_extra=shown(FILE))

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    sha256: str
    video: Video


class FileList(BaseModel):
    model_config = ConfigDict(json_schema_extra=shown(page_of(FILE, first=FILE["id"], last=FILE["id"])))

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    model_config = ConfigDict(json_schema_extra=shown(deleted(FILE)))

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


_MISSING: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "No such file of yours"}}
REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "No form with one file"},
    408: {"model": ErrorAnswer, "description": "The body stopped coming"},
    413: {"model": ErrorAnswer, "description": "Too many bytes for one request or one file"},
    415: {"model": ErrorAnswer, "description": "Not a video"},
    503: {"model": ErrorAnswer, "description": "The storage is full or does not answer"},
}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"type": "string", "minLength": 1, "maxLength": 64, "default": "user_data"},
                    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                    "expires_after[seconds]": {"type": "integer", "minimum": 60, "maximum": 10 * 365 * 24 * 3600},
                },
            },
            "example": {"file": "(the bytes)", "purpose": "user_data"},
        }
    },
}


def file_object(file: StoredFile) -> FileObject:
    """Return the file as clients see it."""
    video = Video.model_validate(file.video, from_attributes=True)
    return FileObject.model_validate(
        {
            "id": file.id,
            "bytes": file.size_bytes,
            "created_at": file.created_at,
            "expires_at": file.expires_at,
            "filename": file.filename,
            "purpose": file.purpose,
            "sha256": file.sha256,
            "video": video,
        }
    )


@router.post("", status_code=201, responses=REFUSED, openapi_extra={"requestBody": _BODY})
async def create_file(request: Request, principal: Analyst, services: Injected) -> FileObject:
    """Store a video. The bytes decide what it is, not its name; the same bytes are stored once and keep their id.

    One request carries at most 64 MiB; send larger files in parts, by `POST /v1/uploads`.
    """
    async with read_form(request, max_file_bytes=services.uploads.max_part_bytes) as form:
        file = file_of(form, "file")
        expiry = {name: field_of(form, f"expires_after[{name}]") for name in ("anchor", "seconds")}
        fields: dict[str, Any] = {"purpose": field_of(form, "purpose"), "expires_after": _given(expiry) or None}
        asked = parse(NewFile, _given(fields), error=InvalidOption)
        naming = Naming(plain_name(file.filename), asked.purpose, keep_s(asked.expires_after))
        return file_object(await services.files.add(principal, naming, chunks(file), file.size))


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def keep_s(expires_after: ExpiresAfter | None) -> int | None:
    """Return how many seconds the client wants the file to be kept; None: as long as the server keeps files."""
    return None if expires_after is None else expires_after.seconds


@router.get("")
async def list_files(
    principal: Viewer,
    services: Injected,
    after: Annotated[str | None, Query(description="the id behind which to go on")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    order: Annotated[Literal["asc", "desc"], Query(description="by the time of creation")] = "desc",
    purpose: Annotated[str | None, Query(description="only files of this purpose")] = None,
) -> FileList:
    """List your files."""
    page = await services.files.page(principal, after=after, limit=limit, order=order, purpose=purpose)
    data = [file_object(file) for file in page.files]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return FileList(data=data, first_id=first, last_id=last, has_more=page.has_more)


@router.get("/{file_id}", responses=_MISSING)
async def get_file(file_id: str, principal: Viewer, services: Injected) -> FileObject:
    """Show a file."""
    return file_object(await services.files.get(principal, file_id))


@router.delete("/{file_id}", responses=_MISSING)
async def delete_file(file_id: str, principal: Analyst, services: Injected) -> FileDeleted:
    """Delete a file and its bytes."""
    await services.files.delete(principal, file_id)
    return FileDeleted(id=file_id)


_CONTENT = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}, "example": "(the bytes)"}}
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": _CONTENT, "description": "All bytes"},
    206: {"content": _CONTENT, "description": "The bytes of the range"},
    304: {"description": "Unchanged, as `If-None-Match` asked"},
    404: _MISSING[404],
    416: {"model": ErrorAnswer, "description": "No byte of the range exists"},
}


@router.head("/{file_id}/content", include_in_schema=False)
@router.get("/{file_id}/content", responses=_BYTES, response_class=Response)
async def file_content(file_id: str, request: Request, principal: Viewer, services: Injected) -> Response:
    """Download the bytes, all or one `Range` of them. The ETag is the bytes' SHA-256."""
    file = await services.files.get(principal, file_id)
    etag = f'"{file.sha256}"'
    headers = {"Accept-Ranges": "bytes", "ETag": etag, "X-Content-Type-Options": "nosniff"}
    if is_known(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range") if request.headers.get("if-range", etag) == etag else None
    part = byte_range(wanted, file.size_bytes)
    start, end = part or (0, file.size_bytes)
    headers |= {"Content-Length": str(end - start), "Content-Disposition": "attachment"}
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
    if request.method == "HEAD":
        return Response(status_code=206 if part else 200, headers=headers, media_type="application/octet-stream")
    return StreamingResponse(
        services.files.content(file, start, end),
        status_code=206 if part else 200,
        headers=headers,
        media_type="application/octet-stream",
    )
