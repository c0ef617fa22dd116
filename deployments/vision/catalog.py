"""What is known of a checkpoint before it is loaded: the frames it was trained for and what to tell its users."""

from dataclasses import dataclass
from pathlib import Path

from deployments.contracts import FrameSpec, ModelInfo
from deployments.settings import VisionSettings

DEMO_DIR = Path(__file__).parent / "demo" / "checkpoint"
DEMO_NOTICE = (
    "The demo model knows only drawn scenes: a few coloured shapes moving over plain backgrounds. "
    "It cannot describe real footage; configure a Qwen2.5-VL checkpoint for that."
)
SIMULATED_NOTICE = "The simulated engine looks at no pixels; its captions are placeholders for load tests."
_CELL_PIXELS = 28
"""Qwen2.5-VL merges 2x2 patches of 14x14 pixels into one token."""


@dataclass(frozen=True, slots=True)
class _Trained:
    spec: FrameSpec
    max_frames: int


_DEMO = _Trained(FrameSpec(_CELL_PIXELS, min_pixels=168 * 112, max_pixels=160 * 140), max_frames=16)
# The least frame area of Qwen's reference preprocessing (128 tokens) and the area its model card uses for video
# (360x420). 16 such frames are 7 MB, which keeps a row of the decode stage under 10 MB.
_QWEN = _Trained(FrameSpec(_CELL_PIXELS, min_pixels=128 * 28**2, max_pixels=360 * 420), max_frames=64)


def is_demo(settings: VisionSettings) -> bool:
    return settings.engine == "transformers" and settings.checkpoint == "demo"


def model_info(name: str, settings: VisionSettings, choice: str | None = None) -> ModelInfo:
    """Describe the model `name` without loading it; settings win over what the checkpoint was trained for."""
    trained = _DEMO if is_demo(settings) else _QWEN
    spec = FrameSpec(
        multiple=trained.spec.multiple,
        min_pixels=settings.min_pixels or min(trained.spec.min_pixels, settings.max_pixels or trained.spec.min_pixels),
        max_pixels=settings.max_pixels or max(trained.spec.max_pixels, settings.min_pixels or trained.spec.max_pixels),
    )
    notice = None
    if settings.engine == "simulated":
        notice = SIMULATED_NOTICE
    elif is_demo(settings):
        notice = DEMO_NOTICE
    told = (settings.revision or "default", settings.dtype, settings.quantization, settings.attention, settings.device)
    # Only then, so that captions from before there was a choice keep their place.
    parts = (settings.engine, settings.checkpoint, *told, *(["compiled"] if settings.compile else []))
    return ModelInfo(
        name=name,
        engine=settings.engine,
        revision=":".join(parts),
        frame_spec=spec,
        max_frames=settings.max_frames or trained.max_frames,
        notice=notice,
        choice=choice,
    )
