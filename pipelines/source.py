"""Find out what a video file is: its bytes' identity and what a decoder says of it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from deployments.errors import SourceNotFound
from pipelines.sandbox import Sandbox
from pipelines.video import VideoInfo


@dataclass(frozen=True, slots=True)
class Source:
    """A readable video file; `sha256` is over its bytes, in hexadecimal."""

    path: str
    filename: str
    sha256: str
    bytes: int
    video: VideoInfo


def inspect_source(path: str, sandbox: Sandbox) -> Source:
    """Probe and hash the file. Raises SourceNotFound, UnreadableVideo, FrameTooLarge."""
    file = Path(path)
    if not file.is_file():
        came = "a directory" if file.is_dir() else "no such file" if not file.exists() else "no regular file"
        raise SourceNotFound(f"expected a video file, got {came}: {path}")
    video = sandbox.probe(str(file.resolve()))
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            size = content.tell()
    except OSError as error:
        raise SourceNotFound(f"expected a readable video file, got {error.strerror}: {path}") from error
    return Source(str(file.resolve()), file.name, digest, size, video)
