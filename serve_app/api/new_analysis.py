"""What a client may ask of an analysis, as JSON or as the fields of a form."""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from deployments.contracts import GenerationOptions
from deployments.errors import InvalidOption
from deployments.validation import parse
from deployments.vision.prompts import DEFAULT_PROMPT, MOST_PROMPT_CHARS
from pipelines.events import EventKinds
from pipelines.plan import SamplingOptions
from serve_app.analyses.request import AnalysisOptions

_MAX_METADATA_BYTES = 16_384
_MAX_METADATA_DEPTH = 32
_SAMPLING, _GENERATION = SamplingOptions.model_fields, GenerationOptions.model_fields


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(_MAX_METADATA_DEPTH):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)]
    if level:
        raise ValueError(f"expected at most {_MAX_METADATA_DEPTH} levels of lists and objects, got more")


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


class NewAnalysisOptions(BaseModel):
    """How to describe a video. Options that are left out have the values shown; times are seconds of the video."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str | None, Field(max_length=64, description="one of /v1/models; without it, the default")] = None
    prompt: Annotated[str, Field(min_length=1, max_length=MOST_PROMPT_CHARS)] = DEFAULT_PROMPT
    per: Literal["clip", "frame"] = "clip"
    clip_duration_s: Annotated[float, Field(gt=0.0, le=3600.0)] = 10.0
    clip_overlap_s: Annotated[float, Field(ge=0.0, le=3600.0)] = 0.0
    fps: Annotated[float | None, Field(gt=0.0, le=240.0, description="frames a second; 1 without any option")] = None
    frames_per_clip: Annotated[int | None, Field(ge=1, le=4096, description="instead of fps")] = None
    start_s: Annotated[float, Field(ge=0.0, le=7 * 24 * 3600.0)] = 0.0
    end_s: Annotated[float | None, Field(gt=0.0, le=7 * 24 * 3600.0)] = None
    max_tokens: Annotated[int, Field(ge=1, le=4096, description="of a caption")] = 128
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    decoder: Literal["pyav", "decord"] = "pyav"
    deadline_s: Annotated[
        float | None, Field(gt=0.0, le=30 * 24 * 3600.0, description="what is not described by then is given up")
    ] = None
    events: Annotated[
        EventKinds,
        Field(description="kinds of events to list with their times, in words: a second question about each clip"),
    ] = ()
    summary: Annotated[
        bool, Field(description="whether the result has a summary: captions that say most, quoted with their places")
    ] = True
    allow_cloud: Annotated[
        bool, Field(description="whether frames, captions and questions may be sent to models outside")
    ] = False
    metadata: Annotated[dict[str, JsonValue], Field(description="for your own use; kept as it is")] = {}

    @field_validator("metadata", mode="before")
    @classmethod
    def _storable(cls, metadata: Any) -> Any:
        # Before anything else looks at it: what is nested too deep can be written down, and never read again.
        _require_shallow(metadata)
        try:
            size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode())
        except UnicodeEncodeError:
            raise ValueError("expected text that can be written in UTF-8, got half a character") from None
        except (ValueError, TypeError):
            raise ValueError("expected numbers that JSON has, got NaN or an infinity") from None
        if size > _MAX_METADATA_BYTES:
            raise ValueError(f"expected at most {_MAX_METADATA_BYTES} bytes as JSON, got {size}")
        return metadata

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
            events=self.events,
            summary=self.summary,
            allow_cloud=self.allow_cloud,
            deadline_s=self.deadline_s,
        )


class NewAnalysis(NewAnalysisOptions):
    """What to describe, a file or a url, and how. Times are seconds of the video."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"file_id": "file_019ab0c1d2e3f4a5b6c7d8e9", "prompt": "What happens here?"},
                {"file_id": "file_019ab0c1d2e3f4a5b6c7d8e9", "events": ["a person falls", "a door opens"]},
                {"url": "https://videos.example.com/films/cats.mp4", "clip_duration_s": 5},
            ]
        },
    )

    file_id: Annotated[str | None, Field(max_length=64, description="one of /v1/files")] = None
    url: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=4096,
            description="instead of file_id: http(s):// of a host or file:// below a directory that the server allows",
        ),
    ] = None

    @model_validator(mode="after")
    def _one_source(self) -> "NewAnalysis":
        if (self.file_id is None) == (self.url is None):
            raise ValueError(f"expected file_id or url, got {'neither' if self.url is None else 'both'}")
        return self
