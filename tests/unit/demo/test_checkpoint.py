"""The shipped checkpoint: small, loadable by the real classes, right about scenes it never saw."""

from typing import Any

import numpy as np
import pytest
import torch

from deployments.settings import VisionSettings
from deployments.vision.catalog import DEMO_DIR
from deployments.vision.demo.answers import NO_CLOCK, UNKNOWN
from deployments.vision.demo.clips import FRAME_SIZES, Clip, sample_clip
from deployments.vision.demo.layout import Mix
from deployments.vision.demo.recipe import DEMO
from deployments.vision.demo.scoring import score_descriptions
from deployments.vision.demo.tokenizer import END_OF_TURN
from deployments.vision.prompts import DEFAULT_PROMPT
from deployments.vision.qwen.engine import TransformersEngine
from deployments.vision.qwen.load import load_checkpoint

pytestmark = pytest.mark.timeout(60)
SETTINGS = VisionSettings(checkpoint="demo", dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    engine = TransformersEngine(SETTINGS)
    engine.load()
    return engine


def unseen(count: int, mix: Mix) -> list[Clip]:
    rng = np.random.default_rng(20_000_003)
    return [sample_clip(rng, 4, FRAME_SIZES[0], mix=mix, combinations="held_out") for _ in range(count)]


def tell(engine: TransformersEngine, clips: list[Clip], prompts: list[str]) -> list[str]:
    requests = [clip.request(prompt) for clip, prompt in zip(clips, prompts, strict=True)]
    return [caption.text for caption in engine.describe(requests)]


def test_it_is_small_and_safe() -> None:
    files = [path for path in DEMO_DIR.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja"}, "no pickles, no code"


def test_the_card_tells_the_recipe() -> None:
    card = (DEMO_DIR.parent / "MODEL_CARD.md").read_text()
    for told in (
        f"seed {DEMO.seed}, {DEMO.steps:,} steps",
        f"| 0 to {DEMO.vision_steps:,} |",
        f"| {DEMO.vision_steps:,} to {DEMO.steps:,} |",
        f"| from {DEMO.coarse_from:,} on |",
        f"| from {DEMO.again_from:,} on |",
        f"frame pairs, {DEMO.pairs} a step",
        "and three questions about it" if DEMO.questions == 3 else "another number of questions",
    ):
        assert told in card


def test_it_is_a_qwen2_5_vl() -> None:
    loaded: tuple[Any, Any, torch.dtype] = load_checkpoint(SETTINGS)
    model, tokenizer, _ = loaded
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert 2e6 < sum(weight.numel() for weight in model.parameters()) < 5e6
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert model.config.text_config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(END_OF_TURN)
    assert model.config.video_token_id == tokenizer.convert_tokens_to_ids("<|video_pad|>")


def test_it_describes_unseen_scenes(engine: TransformersEngine) -> None:
    clips = unseen(24, Mix((0.5, 0.5, 0.0), clock=0.5, events=0.0, cut=0.0))
    scores = score_descriptions([clip.seen for clip in clips], tell(engine, clips, [DEFAULT_PROMPT] * 24))
    assert min(scores["colour"], scores["background"], scores["count"]) >= 0.95
    assert scores["exact"] >= 0.6


def test_it_answers_what_it_is_asked(engine: TransformersEngine) -> None:
    (clip,) = unseen(1, Mix((1.0, 0.0, 0.0), clock=0.0, events=0.0, cut=0.0))
    (thing,) = clip.spec.shots[0].things
    asked = {
        "How many objects are there?": "One.",
        "What does the clock say?": NO_CLOCK,
        f"What colour is the {thing.shape}?": f"{thing.colour.capitalize()}.",
        "List the events as JSON.": "[]",
        "Who is the president?": UNKNOWN,
    }
    assert tell(engine, [clip] * len(asked), list(asked)) == list(asked.values())
