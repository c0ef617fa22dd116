"""The trainer: batched attention changes nothing, answers sit where `generate` writes them, a step learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.vision.demo.batches import IGNORED, append_answers, make_batch, sample_clip
from deployments.vision.demo.model import build_model
from deployments.vision.demo.prompts import sample_prompt
from deployments.vision.demo.tokenizer import END_OF_TURN, build_tokenizer
from deployments.vision.demo.train import Recipe, Trainer
from deployments.vision.qwen.attention import batch_vision_attention
from deployments.vision.qwen.encode import encode

CPU = torch.device("cpu")
TOKENIZER: Any = build_tokenizer()


@pytest.mark.parametrize("grids", [[[1, 6, 6]] * 3, [[2, 6, 10], [1, 8, 6], [3, 6, 10]]], ids=["equal", "mixed"])
@pytest.mark.parametrize("windows", [False, True], ids=["full", "windowed"])
def test_batched_vision_attention_equals_the_stock_one(grids: list[list[int]], windows: bool) -> None:
    torch.manual_seed(0)
    vision = build_model(TOKENIZER).model.visual.eval()
    if windows:
        vision.fullatt_block_indexes, vision.window_size = [1], 56
    rows = torch.randn(sum(t * h * w for t, h, w in grids), 1176)
    with torch.no_grad():
        stock = vision(rows, torch.tensor(grids)).pooler_output
        batch_vision_attention(vision)
        batched = vision(rows, torch.tensor(grids)).pooler_output
    torch.testing.assert_close(batched, stock, atol=1e-5, rtol=1e-4)


def test_answers_are_trained_at_the_positions_that_generate_uses() -> None:
    torch.manual_seed(0)
    model: Any = build_model(TOKENIZER)
    model.eval()
    rng = np.random.default_rng(0)
    clips = [sample_clip(rng, 10, (84, 84)) for _ in range(2)]
    requests = [clip.request(prompt) for clip, prompt in zip(clips, ("?", "What happens in it?"), strict=True)]
    inputs = encode(TOKENIZER, requests, device=CPU, dtype=torch.float32)
    with torch.no_grad():
        written = model.generate(
            **inputs, max_new_tokens=6, min_new_tokens=6, output_logits=True, return_dict_in_generate=True
        )
    answers = written.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    labels, length = append_answers(inputs, answers, TOKENIZER.pad_token_id)
    with torch.no_grad():
        logits = model(**inputs, logits_to_keep=length + 1).logits[:, :-1]
    torch.testing.assert_close(logits, torch.stack(written.logits, 1), atol=1e-4, rtol=1e-3)
    assert labels[:, -length:].tolist() == answers


def test_labels_are_the_answer_only() -> None:
    batch = make_batch(np.random.default_rng(1), TOKENIZER, 8, radius=(0.2, 0.3), device=CPU)
    texts = [TOKENIZER.decode(row[row != IGNORED]) for row in batch.labels]
    assert all(text.startswith("A") and text.endswith(f"background.{END_OF_TURN}") for text in texts)
    assert (batch.labels[:, : -batch.answer_length] == IGNORED).all()


def test_a_resumed_run_continues_where_it_stopped(tmp_path: Path) -> None:
    recipe = Recipe(steps=3, vision_steps=2, clips=4, peak_rate=1e-3, seed=0)
    straight, resumed = Trainer(recipe), Trainer(recipe)
    straight_losses = [straight.train_step()]
    straight.save(tmp_path / "checkpoint", tmp_path / "state.pt")
    straight_losses += [straight.train_step() for _ in range(2)]
    resumed.resume(tmp_path / "state.pt")
    assert [resumed.train_step() for _ in range(2)] == straight_losses[1:]
    assert "answer" in straight_losses[-1]
    assert "answer" not in straight_losses[0]


def test_prompts_vary() -> None:
    rng = np.random.default_rng(0)
    prompts = [sample_prompt(rng) for _ in range(200)]
    assert len(set(prompts)) > 50
    assert all(prompts)
