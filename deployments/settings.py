"""The settings of a vision model: one home for each, with its default, bounds and unit."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

APP_NAME = "vidray"
"""The Serve application's."""
Quantization = Literal["none", "nf4", "int8"]
"""How weights are stored: as they are, in 4 bits (NormalFloat with double quantisation), or in 8."""
MAX_BATCH_CLIPS = 64
MAX_ONGOING_CLIPS = 2 * MAX_BATCH_CLIPS
"""Calls that a replica takes where its config does not say: the next batch waits at the engine."""


def deployment_name(model: str) -> str:
    """Return the name of the Serve deployment of the model `model`, as serve_config.yaml must spell it."""
    return f"vision-{model}"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Failure(_Frozen):
    """A failure that `engine: simulated` shows on demand, for clips whose first frame lies in `[start_s, end_s)`."""

    start_s: Annotated[float, Field(ge=0.0)] = 0.0
    """Where the range begins, in seconds of the video."""
    end_s: Annotated[float, Field(gt=0.0)] = 7 * 24 * 3600.0
    """Where it ends; a first frame at this very time is none of its."""
    kind: Literal["error", "final", "crash", "hang", "device_lost", "invalid_events"] = "error"
    """`error`: EngineFailed; `final`: ClipRejected; `crash`: the replica's process dies; `hang`: no answer;
    `device_lost`: the device is gone for this process; `invalid_events`: events are told as a sentence."""
    times: Annotated[int, Field(ge=1)] | None = None
    """How often a matching clip fails before it succeeds, counted per process and by call; None: always."""


class SimulatedSettings(_Frozen):
    """The cost model of `engine: simulated`, whose time is spent asleep.

    Clips that begin together take `fixed_s + frame_s * their frames` seconds, then each token that all under way write
    takes `token_s`; what is under way takes `token_bytes` for each of its tokens, which are as many in every row of the
    cache as in the longest one.
    """

    fixed_s: Annotated[float, Field(ge=0.0, le=60.0)] = 0.0
    """Seconds for clips that begin together, however many they are."""
    frame_s: Annotated[float, Field(ge=0.0, le=60.0)] = 0.005
    """Seconds for each frame of theirs."""
    token_s: Annotated[float, Field(ge=0.0, le=60.0)] = 0.0
    """Seconds for a token of all that are under way."""
    caption_tokens: Annotated[int, Field(ge=1, le=4096)] = 16
    """Tokens of a caption, where `max_tokens` allows that many."""
    load_s: Annotated[float, Field(ge=0.0, le=600.0)] = 0.0
    """Seconds that a load takes."""
    frame_tokens: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Tokens of a prompt for each of its frames."""
    token_bytes: Annotated[int, Field(ge=1)] = 100_000
    """Memory that a token of what is under way takes."""
    memory_bytes: Annotated[int, Field(ge=1)] | None = None
    """Memory of the simulated device beside the model's; more runs out of it. None: no bound."""
    failures: tuple[Failure, ...] = ()
    call_log: str | None = None
    """A file that gets a line with the first frame's time for each clip that begins, whatever dies afterwards."""


class VisionTuning(_Frozen):
    """What may change while a replica runs: the `user_config` of its deployment."""

    max_batch_clips: Annotated[int, Field(ge=1, le=1024)] | None = MAX_BATCH_CLIPS
    """Most clips under way in the engine; its memory may hold fewer. None: as many as its memory holds."""
    batch_wait_s: Annotated[float, Field(ge=0.0, le=10.0)] = 0.005
    """How long an idle engine waits for a first clip's neighbours, in seconds."""
    call_deadline_s: Annotated[float, Field(gt=0.0, le=24 * 3600.0)] = 600.0
    """An engine call (the reading of new clips, or steps of a quarter of a second) that takes longer is taken for hung:
    the replica reports unhealthy and Serve replaces it."""
    load_deadline_s: Annotated[float, Field(gt=0.0, le=7 * 24 * 3600.0)] = 2 * 3600.0
    """A load that takes longer, what it fetches included, is taken for hung, likewise."""
    idle_unload_s: Annotated[float, Field(gt=0.0)] | None = None
    """After so many seconds without work the weights leave the device; the next clip brings them back. None: never."""


class VisionSettings(_Frozen):
    """What a named model is and how its engine runs."""

    engine: Literal["transformers", "simulated"] = "transformers"
    """`transformers` runs the checkpoint; `simulated` sleeps in place of a GPU, see `simulated`."""
    checkpoint: str = "demo"
    """`demo` (shipped), a directory, a hub id such as `Qwen/Qwen2.5-VL-7B-Instruct`, or `auto`: the largest
    Qwen2.5-VL whose weights leave memory for frames on the replica's device."""
    revision: str | None = None
    """The hub's branch, tag or commit; None: its default branch."""
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Compute type; auto: bf16 on a GPU that has it, fp16 on one that has not, fp32 on a CPU."""
    quantization: Literal["none", "nf4", "int8", "auto"] = "none"
    """Weight storage; auto: the widest of none, int8 and nf4 that leaves memory for frames, on a CPU none; of
    a checkpoint whose size is not known before it is loaded, nf4."""
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    """auto: flash_attention_2 on a GPU where flash-attn is installed, else sdpa."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where PyTorch sees a GPU, else cpu."""
    compile: bool = False
    """Compile the writing of a token with `torch.compile` as the model loads, which needs a C++ compiler (a GPU: Triton
    and a C compiler) and takes from seconds to minutes. May pay where starting kernels takes longer than they run; a
    CPU gives up packed weights."""
    min_pixels: Annotated[int, Field(ge=28 * 28)] | None = None
    """Least area of a frame in pixels; None: what the model was trained for."""
    max_pixels: Annotated[int, Field(ge=28 * 28, le=16_777_216)] | None = None
    """Most area of a frame in pixels; None: what the model was trained for."""
    max_frames: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Most frames in one clip; None: what the model was trained for."""
    load: Literal["startup", "first_use"] = "startup"
    """When the weights are loaded; either way the replica answers status at once."""
    simulated: SimulatedSettings = SimulatedSettings()

    @model_validator(mode="after")
    def _consistent(self) -> "VisionSettings":
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels must be at most max_pixels ({self.max_pixels}), got {self.min_pixels}")
        return self
