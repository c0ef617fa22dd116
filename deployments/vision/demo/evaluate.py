"""Score answers about scenes that were never trained on; `make eval-demo` writes the figures down.

Everything here takes a `Describe`, so that answers which came through a whole pipeline are scored alike.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from deployments.vision.demo.clips import FRAME_SIZES, Clip, sample_clip, sample_shape
from deployments.vision.demo.layout import Mix
from deployments.vision.demo.prompts import DESCRIBE, QUESTIONS, sample_question
from deployments.vision.demo.scoring import score_descriptions
from deployments.vision.prompts import DEFAULT_PROMPT
from deployments.vision.qwen.attention import batch_vision_attention
from deployments.vision.qwen.encode import encode

Describe = Callable[[Sequence[Clip], Sequence[str]], list[str]]
"""Answers each clip's prompt, in order."""
CHECKPOINT = Path(__file__).parent / "checkpoint"
_SEED = 20_000_003
"""Training seeds its scenes with pairs that begin with its own seed, never with this one."""
_BATCH = 32
_PLAIN = Mix(clock=0.0, events=0.0, cut=0.0)
_FULL = Mix(clock=0.5, events=0.3, cut=0.0)


def load(checkpoint: Path) -> tuple[Any, Any]:
    """Return the checkpoint's model in evaluation mode and its tokenizer."""
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    batch_vision_attention(model.model.visual)
    return model.eval(), AutoTokenizer.from_pretrained(checkpoint)


def describer(model: Any, tokenizer: Any) -> Describe:
    """Return the function that asks the model itself, greedily, several clips at a time."""

    def describe(clips: Sequence[Clip], prompts: Sequence[str]) -> list[str]:
        texts: list[str] = []
        for first in range(0, len(clips), _BATCH):
            asked = zip(clips[first : first + _BATCH], prompts[first : first + _BATCH], strict=True)
            inputs = encode(
                tokenizer, [clip.request(prompt) for clip, prompt in asked], device=model.device, dtype=model.dtype
            )
            with torch.inference_mode():
                output = model.generate(**inputs, max_new_tokens=128, do_sample=False)
            texts += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return texts

    return describe


def draw(count: int, seed: int, *, mix: Mix, combinations: str = "held_out", frames: int | None = None) -> list[Clip]:
    """Return `count` clips for this seed, of the frame counts and sizes that training mixes.

    With `frames`, each has so many frames of a 16:9 video that went through H.264, as a file's clips have.
    """
    rng = np.random.default_rng([_SEED, seed])
    clips = []
    for _ in range(count):
        shape, compressed = (sample_shape(rng), 0.35) if frames is None else ((frames, FRAME_SIZES[0]), 1.0)
        clips.append(sample_clip(rng, *shape, mix=mix, combinations=combinations, compressed=compressed))
    return clips


def description_sets(count: int) -> dict[str, list[Clip]]:
    """Return the held-out sets that are scored as descriptions, `count` clips in each."""
    odds = {"one object": (1.0, 0.0, 0.0), "two objects": (0.0, 1.0, 0.0), "three objects": (0.0, 0.0, 1.0)}
    sets = {
        name: draw(count, seed, mix=Mix(objects, clock=0.5, events=0.3, cut=0.0))
        for seed, (name, objects) in enumerate(odds.items(), start=1)
    }
    return sets | {
        "one plain object": draw(count, 4, mix=Mix(odds["one object"], clock=0.0, events=0.0, cut=0.0)),
        "new scenes": draw(count, 5, mix=_FULL, combinations="training"),
        "a clock": draw(count, 6, mix=Mix(clock=1.0, events=0.0, cut=0.0)),
        "appears or disappears": draw(count, 7, mix=Mix(clock=0.0, events=1.0, cut=0.0)),
        "a cut inside": draw(count, 8, mix=Mix(clock=0.3, events=0.0, cut=1.0), frames=10),
        "4 frames, H.264": draw(count, 9, mix=_FULL, frames=4),
        "8 frames, H.264": draw(count, 10, mix=_FULL, frames=8),
        "10 frames, H.264": draw(count, 11, mix=_FULL, frames=10),
    }


def evaluate_descriptions(describe: Describe, count: int) -> dict[str, dict[str, float]]:
    """Return the scores of every set of descriptions, asked with the default prompt."""
    sets = description_sets(count)
    return {
        name: score_descriptions(clips, describe(clips, [DEFAULT_PROMPT] * len(clips))) for name, clips in sets.items()
    } | {"any wording": _score_wordings(describe, count)}


def _score_wordings(describe: Describe, count: int) -> dict[str, float]:
    clips = draw(count, 12, mix=_PLAIN)
    return score_descriptions(clips, describe(clips, [DESCRIBE[place % len(DESCRIBE)] for place in range(count)]))


def evaluate_questions(describe: Describe, count: int) -> dict[str, float]:
    """Return the share of exactly right answers for each kind of question, `count` asked of each."""
    scores = {}
    for seed, kind in enumerate((*QUESTIONS, "unknown"), start=21):
        clips = draw(count, seed, mix=Mix(events=0.6, cut=0.0) if kind == "events" else _FULL)
        rng = np.random.default_rng([_SEED, seed, 1])
        asked = [sample_question(rng, clip.spec, clip.times_s.tolist(), kind) for clip in clips]
        texts = describe(clips, [prompt for _, prompt, _ in asked])
        scores[kind] = sum(text == answer for text, (_, _, answer) in zip(texts, asked, strict=True)) / count
    return scores


def evaluate(model: Any, tokenizer: Any, clips: int) -> dict[str, dict[str, float]]:
    """Return the scores of every held-out set, `clips` scenes in each, of the model on drawn arrays."""
    describe = describer(model, tokenizer)
    scores = evaluate_descriptions(describe, clips) | {"questions": evaluate_questions(describe, clips)}
    for name, figures in scores.items():
        print(name, {key: round(value, 3) for key, value in figures.items()}, flush=True)
    return scores
