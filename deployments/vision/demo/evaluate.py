"""Score the demo checkpoint on scenes it has not seen; `make eval-demo` writes the figures down."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from deployments.vision.demo.batches import Clip, sample_clip, sample_shape
from deployments.vision.demo.model import FRAME_SPEC
from deployments.vision.demo.prompts import sample_prompt
from deployments.vision.demo.sample import FRAMES_PER_S, HEIGHT, SCENE_S, SCENES, WIDTH, write_sample
from deployments.vision.demo.scenes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES
from deployments.vision.prompts import DEFAULT_PROMPT
from deployments.vision.qwen.encode import encode

CHECKPOINT = Path(__file__).parent / "checkpoint"
ATTRIBUTES = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "motion": tuple(MOTIONS),
    "background": BACKGROUNDS,
}
_SEED = 20_000_003
"""Training seeds its scenes with pairs that begin with its own seed, never with this one."""
_BATCH = 32


def load(checkpoint: Path) -> tuple[Any, Any]:
    """Return the checkpoint's model in evaluation mode and its tokenizer."""
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(checkpoint)


def describe(model: Any, tokenizer: Any, clips: Sequence[Clip], prompts: Sequence[str]) -> list[str]:
    """Return the model's greedy caption of each clip, asked with the prompt of the same place."""
    captions: list[str] = []
    for first in range(0, len(clips), _BATCH):
        asked = zip(clips[first : first + _BATCH], prompts[first : first + _BATCH], strict=True)
        inputs = encode(
            tokenizer, [clip.request(prompt) for clip, prompt in asked], device=model.device, dtype=model.dtype
        )
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=32, do_sample=False)
        captions += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return captions


def named(caption: str) -> dict[str, str | None]:
    """Return each attribute that the caption names, None where it names none or several."""
    words = re.findall(r"[a-z]+", caption.lower())
    found = {name: [word for word in words if word in values] for name, values in ATTRIBUTES.items()}
    return {name: values[0] if len(values) == 1 else None for name, values in found.items()}


def score(clips: Sequence[Clip], captions: Sequence[str]) -> dict[str, float]:
    """Return the share of captions right in each attribute and in every word; motion only where there is any to see."""
    right: Counter[str] = Counter()
    moving = sum(len(clip.frames) > 1 for clip in clips)
    for clip, caption in zip(clips, captions, strict=True):
        right["sentence"] += caption == clip.caption
        said, true = named(caption), named(clip.caption)
        for name in ATTRIBUTES:
            right[name] += true[name] is not None and said[name] == true[name]
    totals = dict.fromkeys(("colour", "background", "shape", "sentence"), len(clips)) | {"motion": moving}
    return {name: right[name] / max(1, total) for name, total in totals.items()}


def draw(count: int, seed: int, **options: Any) -> list[Clip]:
    """Return `count` clips of the frame counts and sizes that training mixes, for this seed."""
    rng = np.random.default_rng([_SEED, seed])
    return [sample_clip(rng, *sample_shape(rng), **options) for _ in range(count)]


def draw_like_file(count: int, frames: int, seed: int) -> list[Clip]:
    """Return clips as the sample video yields them: 140x84, `frames` of each, scaled down after lossy coding."""
    rng = np.random.default_rng([_SEED, seed])
    return [sample_clip(rng, frames, (140, 84), combinations="all", compressed=1.0) for _ in range(count)]


def read_clips(path: Path, frames: int) -> list[Clip]:
    """Decode `frames` evenly spaced frames of each scene of a written sample, scaled as the engine's decoder does."""
    step_s = SCENE_S / frames
    wanted = {
        round((index * SCENE_S + place * step_s) * FRAMES_PER_S)
        for index in range(len(SCENES))
        for place in range(frames)
    }
    width, height = FRAME_SPEC.target_size(WIDTH, HEIGHT)
    with av.open(str(path)) as container:
        shown = [
            frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC")
            for index, frame in enumerate(container.decode(video=0))
            if index in wanted
        ]
    times_s = np.asarray(np.arange(frames) * step_s, np.float64)
    return [
        Clip(scene, times_s, np.stack(shown[index * frames : (index + 1) * frames]))
        for index, scene in enumerate(SCENES)
    ]


def evaluate(model: Any, tokenizer: Any, clips: int) -> dict[str, dict[str, float]]:
    """Return the scores of every held-out set, `clips` scenes in each."""
    sets = {
        "held-out combinations": draw(clips, 1, combinations="held_out"),
        "new scenes": draw(clips, 2),
        "any prompt": draw(clips, 3, combinations="held_out"),
        "4 frames, compressed": draw_like_file(clips, 4, 4),
        "8 frames, compressed": draw_like_file(clips, 8, 5),
        "10 frames, compressed": draw_like_file(clips, 10, 6),
    }
    with TemporaryDirectory() as folder:
        write_sample(Path(folder) / "sample.mp4")
        sets |= {f"sample video, {n} frames": read_clips(Path(folder) / "sample.mp4", n) for n in (4, 8, 10)}
    rng = np.random.default_rng([_SEED, 99])
    scores = {}
    for name, drawn in sets.items():
        prompts = [sample_prompt(rng) if name == "any prompt" else DEFAULT_PROMPT for _ in drawn]
        scores[name] = score(drawn, describe(model, tokenizer, drawn, prompts))
        print(name, {key: round(value, 3) for key, value in scores[name].items()}, flush=True)
    return scores
