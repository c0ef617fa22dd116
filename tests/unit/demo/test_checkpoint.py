"""The shipped checkpoint: small, loadable by the real classes, right about scenes it never saw."""

from typing import Any

import pytest
import torch

from deployments.vision.demo.answers import NO_CLOCK, UNKNOWN
from deployments.vision.demo.evaluate import CHECKPOINT, describer, draw, load
from deployments.vision.demo.layout import Mix
from deployments.vision.demo.scoring import score_descriptions
from deployments.vision.demo.tokenizer import END_OF_TURN
from deployments.vision.prompts import DEFAULT_PROMPT

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load(CHECKPOINT)


def test_it_is_small_and_safe() -> None:
    files = [path for path in CHECKPOINT.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja"}, "no pickles, no code"


def test_it_is_a_qwen2_5_vl(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert 2e6 < sum(weight.numel() for weight in model.parameters()) < 5e6
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert model.config.text_config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(END_OF_TURN)
    assert model.config.video_token_id == tokenizer.convert_tokens_to_ids("<|video_pad|>")


def test_it_describes_unseen_scenes(loaded: tuple[Any, Any]) -> None:
    clips = draw(24, seed=107, mix=Mix((0.5, 0.5, 0.0), clock=0.5, events=0.0, cut=0.0))
    scores = score_descriptions(clips, describer(*loaded)(clips, [DEFAULT_PROMPT] * 24))
    assert min(scores["colour"], scores["background"], scores["count"]) >= 0.95
    assert scores["exact"] >= 0.6


def test_it_answers_what_it_is_asked(loaded: tuple[Any, Any]) -> None:
    (clip,) = draw(1, seed=109, mix=Mix((1.0, 0.0, 0.0), clock=0.0, events=0.0, cut=0.0), frames=4)
    (thing,) = clip.spec.shots[0].things
    asked = {
        "How many objects are there?": "One.",
        "What does the clock say?": NO_CLOCK,
        f"What colour is the {thing.shape}?": f"{thing.colour.capitalize()}.",
        "List the events as JSON.": "[]",
        "Who is the president?": UNKNOWN,
    }
    assert describer(*loaded)([clip] * len(asked), list(asked)) == list(asked.values())
