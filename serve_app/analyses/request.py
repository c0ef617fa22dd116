"""What is asked of an analysis, as it is recorded when it is accepted and never changed after."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from deployments.contracts import GenerationOptions
from deployments.vision.prompts import DEFAULT_PROMPT, MOST_PROMPT_CHARS
from pipelines.describe import DescribeOptions
from pipelines.events import EventKinds
from pipelines.plan import SamplingOptions
from pipelines.video import DecoderName, VideoInfo


class AnalysisOptions(BaseModel):
    """What a client asks: which model, which question, which part of the video and how densely."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    prompt: Annotated[str, Field(min_length=1, max_length=MOST_PROMPT_CHARS)] = DEFAULT_PROMPT
    sampling: SamplingOptions = SamplingOptions()
    generation: GenerationOptions = GenerationOptions()
    decoder: DecoderName = "pyav"
    events: EventKinds = ()
    summary: bool = True
    allow_cloud: bool = False
    """Whether frames, captions and questions may go to models outside."""
    deadline_s: Annotated[float, Field(gt=0.0, le=30 * 24 * 3600.0)] | None = None
    """Seconds from the first attempt's start after which what is not described yet is given up; None: never."""

    def describe_options(self) -> DescribeOptions:
        """Return what the model is asked about each clip."""
        return DescribeOptions(self.prompt, self.generation, event_kinds=self.events)


class AnalysisRequest(BaseModel):
    """An accepted analysis: the options, and the file and the model as they were then."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    id: str
    owner: str
    created_at: float
    """Seconds since 1970."""
    file_id: str
    filename: str
    sha256: str
    size_bytes: int
    source: str
    """The object that holds the video's bytes."""
    video: VideoInfo
    model_revision: str
    options: AnalysisOptions
    metadata: dict[str, Any] = {}
    key_record: str | None = None
    """The object by which the client's Idempotency-Key names this analysis."""
