"""Send a file to a service in parts; sent again, after whatever stopped it, it goes on behind what has arrived."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deployments.errors import InvalidInput, NotFound
from serve_app.local_file import write_whole
from serve_app.service_client import ServiceClient, patiently

PART_BYTES = 4 * 2**20
"""Small enough to cost the service little memory, and a cut little time."""


@dataclass(slots=True)
class _Notes:
    """What is known of a file's way to a service: written after each part, so that a kill costs the one under way."""

    server: str
    size_bytes: int
    changed_ns: int
    upload_id: str | None = None
    part_ids: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    file_id: str | None = None


def send(service: ServiceClient, video: Path, notes: Path, tell: Callable[[int, int], None]) -> str:
    """Return the id of the stored file; `tell` hears the bytes that have arrived and how many there are.

    `notes` is the file in which an interrupted upload is remembered. Raises InvalidInput, ServiceFailed.
    """
    try:
        known = video.stat()
        with video.open("rb") as content:
            here = _Notes(service.url, known.st_size, known.st_mtime_ns)
            earlier = _read(notes)
            if earlier is not None and (earlier.server, earlier.size_bytes, earlier.changed_ns) == (
                here.server,
                here.size_bytes,
                here.changed_ns,
            ):
                here = earlier
            if _is_there(service, here, video.name):
                return str(here.file_id)
            content.seek(here.sent_bytes)
            while here.sent_bytes < here.size_bytes:
                tell(here.sent_bytes, here.size_bytes)
                part = content.read(PART_BYTES)
                if not part:
                    raise InvalidInput(f"expected a video file that stays as it is, got one that shrinks: {video}")
                files = {"data": ("part", part)}
                path = f"/v1/uploads/{here.upload_id}/parts"
                here.part_ids.append(patiently(lambda: service.post(path, files=files))["id"])  # noqa: B023
                here.sent_bytes += len(part)
                _write(notes, here)
            tell(here.size_bytes, here.size_bytes)
            done = patiently(
                lambda: service.post(f"/v1/uploads/{here.upload_id}/complete", {"part_ids": here.part_ids})
            )
    except OSError as error:
        raise InvalidInput(f"expected a video file, got {video}: {error.strerror}") from error
    here.file_id = done["file"]["id"]
    _write(notes, here)
    return str(here.file_id)


def _is_there(service: ServiceClient, here: _Notes, name: str) -> bool:
    """Return whether the service has the whole file; if not, there is an upload to go on with, an old or a new one."""
    if here.upload_id is not None and _there(service, path := f"/v1/uploads/{here.upload_id}"):
        upload = service.get(path)
        if upload["file"] is not None:  # the answer to its completion was lost
            here.file_id = upload["file"]["id"]
        elif upload["status"] == "pending" and {part["id"] for part in upload["parts"]}.issuperset(here.part_ids):
            return False
    if here.file_id is not None and _there(service, f"/v1/files/{here.file_id}"):
        return True
    begun = patiently(lambda: service.post("/v1/uploads", {"filename": name, "bytes": here.size_bytes}))
    here.upload_id, here.part_ids, here.sent_bytes, here.file_id = begun["id"], [], 0, None
    return False


def _there(service: ServiceClient, path: str) -> bool:
    try:
        service.get(path)
    except NotFound:
        return False
    return True


def _read(path: Path) -> _Notes | None:
    try:
        return _Notes(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"expected notes of an upload, got something else: remove {path}") from error


def _write(path: Path, notes: _Notes) -> None:
    write_whole(path, json.dumps(asdict(notes)) + "\n")
