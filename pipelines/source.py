"""Find out what a video file is: its bytes' identity and what a decoder says of it."""

import hashlib
import os
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
    try:
        if not file.is_file():
            came = "a directory" if file.is_dir() else "no such file" if not file.exists() else "no regular file"
            raise SourceNotFound(f"expected a video file, got {came}: {shown(path)}")
        video = sandbox.probe(os.path.abspath(path))
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            size = content.tell()
    except (OSError, ValueError) as error:
        came = getattr(error, "strerror", None) or type(error).__name__
        raise SourceNotFound(f"expected a readable video file, got {came}: {shown(path)}") from error
    return Source(os.path.abspath(path), shown(file.name), digest, size, video)


def shown(name: str) -> str:
    """Return the name as text: a file's name is bytes, and JSON takes no half characters."""
    return os.fsencode(name).decode("utf-8", "replace")
