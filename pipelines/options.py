"""What is asked of a video, whatever the video."""

from dataclasses import dataclass, field

from deployments.contracts import GenerationOptions
from deployments.vision.prompts import DEFAULT_PROMPT
from pipelines.describe import DescribeOptions
from pipelines.plan import SamplingOptions
from pipelines.video import DecoderName


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """How it is cut, what is asked about each clip, and how the answers are written."""

    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    prompt: str = DEFAULT_PROMPT
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    decoder: DecoderName = "pyav"
    event_kinds: tuple[str, ...] = ()

    def describe_options(self) -> DescribeOptions:
        """Return what the model is asked about each clip."""
        return DescribeOptions(self.prompt, self.generation, event_kinds=self.event_kinds)
