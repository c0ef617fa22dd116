"""Read a multipart body while it comes in: never more of it in memory than one piece, never longer than it may take."""

import asyncio
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from deployments.errors import InvalidInput, InvalidOption, SlowBody, StorageFull, TooLarge
from pipelines.store import CHUNK_BYTES, is_full
from serve_app.api.bodies import IDLE_BODY_S

_FORM_BYTES = 64 << 10
"""Room for the fields and the form's own lines beside a file."""
_MAX_FIELDS = 64
_UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_MAX_FILENAME = 255


@asynccontextmanager
async def read_form(request: Request, *, max_file_bytes: int) -> AsyncIterator[FormData]:
    """Give the form with its one file spooled to disk, which goes at the end.

    Raises InvalidInput, TooLarge (at once where the length is announced, else while reading), SlowBody, and StorageFull
    where the disk that bodies are spooled to has no room.
    """
    limit_bytes = max_file_bytes + _FORM_BYTES
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise _too_large(max_file_bytes)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidInput("the body must be multipart/form-data, got another content type")
    body = _counted(request, limit_bytes, max_file_bytes)
    parser = MultiPartParser(request.headers, body, max_files=1, max_fields=_MAX_FIELDS, max_part_size=_FORM_BYTES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidInput(
            f"the body must be a form with one file, got one that cannot be read: {error.message}"
        ) from error
    except OSError as error:
        if not is_full(error):
            raise
        raise StorageFull(f"expected room for a request's body in {tempfile.gettempdir()}, got a full disk") from error
    try:
        yield form
    finally:
        await form.close()


async def _counted(request: Request, limit_bytes: int, max_file_bytes: int) -> AsyncGenerator[bytes, None]:
    total, pieces = 0, request.stream()
    while True:
        try:
            async with asyncio.timeout(IDLE_BODY_S):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise SlowBody(f"the body must go on within {IDLE_BODY_S:g} s, got nothing") from None
        if piece is None:
            return
        total += len(piece)
        if total > limit_bytes:
            raise _too_large(max_file_bytes)
        yield piece


def _too_large(max_file_bytes: int) -> TooLarge:
    return TooLarge(
        f"one request must carry at most {max_file_bytes} bytes of a file, got more: send a larger one in parts, by "
        "POST /v1/uploads"
    )


def file_of(form: FormData, name: str) -> UploadFile:
    """Return the form's file of this name. Raises InvalidOption."""
    file = form.get(name)
    if not isinstance(file, UploadFile):
        raise InvalidOption(f"{name} is required as a file, got {'text' if file else 'nothing'}", param=name)
    return file


def field_of(form: FormData, name: str) -> str | None:
    """Return the form's text of this name, None where there is none. Raises InvalidOption where it is a file."""
    text = form.get(name)
    if isinstance(text, UploadFile):
        raise InvalidOption(f"{name} must be text, got a file", param=name)
    return text


async def chunks(file: UploadFile) -> AsyncIterator[bytes]:
    """Yield the file's bytes."""
    while chunk := await file.read(CHUNK_BYTES):
        yield chunk


def plain_name(filename: str | None) -> str:
    """Return a client's file name without folders or what would not show, at most 255 characters long."""
    last = re.split(r"[/\\]", filename or "")[-1]
    return _UNSHOWABLE.sub("_", last).encode("utf-8", "replace").decode()[:_MAX_FILENAME] or "video"
