"""The shipped checkpoint: small, loadable by the real classes, right about scenes it never saw."""

from typing import Any

import pytest
import torch

from deployments.vision.demo.evaluate import CHECKPOINT, describe, draw, draw_like_file, load, named, score
from deployments.vision.demo.prompts import PARAPHRASES
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


def test_it_names_colour_and_background_of_unseen_scenes(loaded: tuple[Any, Any]) -> None:
    clips = draw(16, seed=7, combinations="held_out")
    scores = score(clips, describe(*loaded, clips, [DEFAULT_PROMPT] * 16))
    assert scores["colour"] >= 15 / 16
    assert scores["background"] >= 15 / 16


def test_the_wording_of_the_prompt_does_not_matter(loaded: tuple[Any, Any]) -> None:
    clips = draw_like_file(16, frames=4, seed=8)
    scores = score(clips, describe(*loaded, clips, list(PARAPHRASES)))
    assert scores["colour"] >= 15 / 16
    assert scores["background"] >= 15 / 16


def test_named_takes_no_guesses() -> None:
    assert named("A red circle on a dark background.") == {
        "colour": "red",
        "shape": "circle",
        "motion": None,
        "background": "dark",
    }
    assert named("red or blue")["colour"] is None
