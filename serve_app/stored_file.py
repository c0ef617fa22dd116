"""An uploaded video as it is known, and what its client says of it."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from pipelines.video import VideoInfo


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An uploaded video.

    `created_at` and `expires_at` are in seconds since 1970; `source` is the object that holds the bytes.
    """

    id: str
    owner: str
    filename: str
    purpose: str
    size_bytes: int
    sha256: str
    created_at: int
    expires_at: int | None
    video: VideoInfo
    source: str

    def dumps(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1).encode()

    @classmethod
    def loads(cls, data: bytes) -> Self:
        fields: dict[str, Any] = json.loads(data)
        return cls(**{**fields, "video": VideoInfo(**fields["video"])})


@dataclass(frozen=True, slots=True)
class Naming:
    """What a client says of a file it sends; `keep_s` asks for it to be deleted after so many seconds."""

    filename: str
    purpose: str = "user_data"
    keep_s: int | None = None
