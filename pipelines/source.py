"""Find out what a video file is: its bytes' identity and what a decoder says of it."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from obstore.store import ObjectStore

from deployments.errors import SourceChanged, SourceNotFound
from pipelines.sandbox import Sandbox
from pipelines.video import VideoInfo


@dataclass(frozen=True, slots=True)
class Source:
    """A readable video file; `sha256` is over its bytes, in hexadecimal, `stamp` tells whether it was changed since.

    With a `store`, `path` is that of an object in it, which never changes: then there is no stamp.
    """

    path: str
    filename: str
    sha256: str
    bytes: int
    video: VideoInfo
    stamp: str | None
    store: ObjectStore | None = None


def inspect_source(path: str, sandbox: Sandbox) -> Source:
    """Probe and hash the file. Raises SourceNotFound, UnreadableVideo, FrameTooLarge, SourceChanged."""
    file = Path(path)
    try:
        if not file.is_file():
            came = "a directory" if file.is_dir() else "no such file" if not file.exists() else "no regular file"
            raise SourceNotFound(f"expected a video file, got {came}: {shown(path)}")
        stamp = stamp_of(path)
        video = sandbox.probe(os.path.abspath(path))
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            size = content.tell()
    except (OSError, ValueError) as error:
        came = getattr(error, "strerror", None) or type(error).__name__
        raise SourceNotFound(f"expected a readable video file, got {came}: {shown(path)}") from error
    check_unchanged(path, stamp)
    return Source(os.path.abspath(path), shown(file.name), digest, size, video, stamp)


def stamp_of(path: str) -> str:
    """Return the file's size and time of change, which is no proof but costs nothing. Raises OSError."""
    status = os.stat(path)
    return f"{status.st_size} bytes of {status.st_mtime_ns} ns"


def check_unchanged(path: str, stamp: str) -> None:
    """Raise SourceChanged when the file is not the one of the stamp any more."""
    try:
        came = "another" if stamp_of(path) != stamp else None
    except OSError as error:
        came = (error.strerror or "no file").lower()
    if came:
        raise SourceChanged(
            f"expected the file that was planned to stay as it is, got {came}: {shown(Path(path).name)}"
        )


def shown(name: str) -> str:
    """Return the name as text: a file's name is bytes, and JSON takes no half characters."""
    return os.fsencode(name).decode("utf-8", "replace")
