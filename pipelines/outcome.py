"""What became of one clip, and how that is written down."""

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any, Self

from deployments.contracts import FrameBatch
from deployments.errors import AppError
from pipelines.events import ClipEvent, EventsError
from pipelines.video import ClipPlan

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClipError:
    """Why a clip has no caption; `retryable` where the reason may pass and a later run should try again."""

    code: str
    message: str
    retryable: bool = False

    @classmethod
    def of(cls, error: AppError) -> Self:
        return cls(code=error.code, message=error.message, retryable=error.retryable)


@dataclass(frozen=True, slots=True)
class ClipOutcome:
    """The one final outcome of one planned clip: a caption (`text`) or an `error`, never both.

    `pts_s` are the true times of the frames that were decoded, empty where none could be; `frames_planned` is how many
    sample times the plan held. A described clip that was asked for events has `events` or an `events_error`, any other
    neither. `tokens`, `prompt_tokens` and `finish_reason` are the caption's, `events_tokens` and `events_prompt_tokens`
    those of the answer about events; `engine_s` is the device time of both, `queue_s` the longer wait. `attempts`
    counts how often the model was called, once for both questions together. `reused`: an earlier analysis made the
    caption, and the figures are those of that time. `served_by` is `local` or `cloud:` and the model's name;
    `usd` is what that cost, None where there is no price for it.
    """

    index: int
    start_s: float
    end_s: float
    frames_planned: int
    pts_s: tuple[float, ...] = ()
    text: str | None = None
    error: ClipError | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: str | None = None
    attempts: int = 0
    served_by: str | None = None
    usd: float | None = 0.0
    decode_s: float = 0.0
    queue_s: float = 0.0
    engine_s: float = 0.0
    reused: bool = False
    events: tuple[ClipEvent, ...] | None = None
    events_error: EventsError | None = None
    events_tokens: int = 0
    events_prompt_tokens: int = 0

    def __post_init__(self) -> None:
        if (self.text is None) == (self.error is None):
            raise ValueError(f"a clip has a text or an error, got text={self.text!r} and error={self.error!r}")
        if self.events is not None and self.events_error is not None:
            raise ValueError(f"a clip has events or an error of theirs, got {self.events!r} and {self.events_error!r}")

    def as_json(self) -> dict[str, Any]:
        """Return the fields that say something: `text` or `error`, not both; events where they were asked for."""
        fields = asdict(self)
        fields["pts_s"] = list(self.pts_s)
        if self.usd == 0.0:
            del fields["usd"]
        del fields["error" if self.error is None else "text"]
        if self.events is not None:
            fields["events"] = [asdict(event) for event in self.events]
            del fields["events_error"]
        elif self.events_error is not None:
            del fields["events"]
        else:
            for name in ("events", "events_error", "events_tokens", "events_prompt_tokens"):
                del fields[name]
        return fields

    def dumps(self) -> bytes:
        return json.dumps(self.as_json(), ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def loads(cls, data: bytes) -> Self:
        fields = json.loads(data)
        if error := fields.get("error"):
            fields["error"] = ClipError(**error)
        if (events := fields.get("events")) is not None:
            fields["events"] = tuple(ClipEvent(**event) for event in events)
        if events_error := fields.get("events_error"):
            fields["events_error"] = EventsError(**events_error)
        fields["pts_s"] = tuple(fields["pts_s"])
        return cls(**fields)


def read_outcome(path: str, data: bytes) -> ClipOutcome | None:
    """Return the outcome that an object holds, None for a damaged one: its clip is one that has no outcome."""
    try:
        return ClipOutcome.loads(data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        _logger.warning("expected a clip's outcome, got a damaged object: %s", path, exc_info=error)
        return None


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """A planned clip of the video `video` with its frames, or with the reason why there are none."""

    video: str
    plan: ClipPlan
    frames: FrameBatch | None
    error: ClipError | None
    decode_s: float
