"""What a training step learns from: labels where the things are, sequences as the engine makes them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.plain_generate import model_inputs
from deployments.vision.demo import lessons
from deployments.vision.demo.cells import HEADS, IGNORED, cell_labels
from deployments.vision.demo.clips import Clip, sample_clip
from deployments.vision.demo.drawing import render
from deployments.vision.demo.layout import Mix
from deployments.vision.demo.learner import answer, prepare, see
from deployments.vision.demo.lessons import PADDING, PREFIX, Lesson, make_lesson, make_vision_lesson, pack
from deployments.vision.demo.model import build_model
from deployments.vision.demo.scenes import BACKGROUNDS, MOTIONS, Clock, SceneSpec, Shot, Thing, held_out
from deployments.vision.demo.tokenizer import END_OF_TURN, build_tokenizer
from deployments.vision.qwen.encode import encode
from deployments.vision.qwen.vision import batch_attention, cut_patches_by_product

CPU = torch.device("cpu")
TOKENIZER: Any = build_tokenizer()
COLUMN = {name: index for index, name in enumerate(HEADS)}
RED = Thing("red", "circle", "large", "right", (0.15, 0.5), (0.85, 0.5), radius=0.2)
BLUE = Thing("blue", "star", "small", "still", (0.8, 0.8), (0.8, 0.8), radius=0.12, enters_s=5.0)


def clip_of(spec: SceneSpec, times_s: list[float]) -> Clip:
    return Clip(spec, np.array(times_s), render(spec, times_s, 196, 112))


def labels_of(clip: Clip) -> Iterator[np.ndarray]:
    """Yield (4, 7, heads) labels of each frame pair of a 196x112 clip."""
    yield from cell_labels(clip).reshape(-1, 4, 7, len(HEADS))


def test_cell_labels_lie_where_the_objects_are() -> None:
    spec = SceneSpec((Shot("dark", (RED, BLUE), 0.0, 10.0, seed=1),))
    first, second, last = labels_of(clip_of(spec, [0.0, 1.0, 4.0, 6.0, 9.0]))
    assert (first[..., COLUMN["background"]] == BACKGROUNDS.index("dark")).all()
    assert np.nonzero(first[..., COLUMN["colour"]] != IGNORED)[1].max() < 4
    assert set(first[..., COLUMN["motion"]].flat) == {IGNORED, list(MOTIONS).index("right")}
    assert set(last[..., COLUMN["motion"]].flat) == {IGNORED}, "one moment shows no motion"
    assert set(second[..., COLUMN["event"]].flat) == {IGNORED, 0, 1}
    assert set(second[..., COLUMN["rank"]].flat) == {IGNORED, 0, 1}
    assert second[3, 5, COLUMN["event"]] == 1, "the blue star appears between the pair's frames"


def test_cell_labels_read_the_clock_of_the_first_frame() -> None:
    spec = SceneSpec((Shot("dark", (), 0.0, 10.0, seed=1),), Clock("bottom right", 754.0))
    (pair,) = labels_of(clip_of(spec, [1.0, 9.0]))
    read = pair[pair[..., COLUMN["content"]] == 2]
    assert len(read)
    assert (read[:, COLUMN["minutes_10"] :] == (1, 2, 3, 5)).all()
    assert (pair[:2, :, COLUMN["minutes_10"] :] == IGNORED).all()


def test_a_pair_across_a_cut_shows_the_cut_alone() -> None:
    spec = SceneSpec((Shot("dark", (RED,), 0.0, 5.0, seed=1), Shot("light", (), 5.0, 10.0, seed=1)))
    first, across = labels_of(clip_of(spec, [0.0, 2.0, 4.0, 6.0]))
    assert (first[..., COLUMN["cut"]] == 0).all()
    assert (across[..., COLUMN["cut"]] == 1).all()
    assert (np.delete(across, COLUMN["cut"], axis=2) == IGNORED).all()


def test_only_answers_are_learned() -> None:
    rng = np.random.default_rng(1)
    words = make_lesson(rng, TOKENIZER, 16, Mix(), questions=2).words
    assert words is not None
    same = []
    for ids, segments, labels in zip(words.ids, words.segments, words.labels, strict=True):
        assert (labels[(segments == PREFIX) | (segments == PADDING)] == IGNORED).all()
        for segment in (1, 2, 3):
            told = labels[segments == segment]
            text = TOKENIZER.decode(told[told != IGNORED])
            assert text.endswith((f".{END_OF_TURN}", f"]{END_OF_TURN}"))
            said = TOKENIZER.decode(ids[segments == segment]).split("assistant\n")[1].split()
            same.append(np.mean([a == b for a, b in zip(said, text.removesuffix(END_OF_TURN).split(), strict=True)]))
    assert 0.9 < np.mean(same) < 1, "few names are misread"


def test_lessons_show_and_tell_no_combination_that_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Clip] = []

    def kept(*args: Any, **kwargs: Any) -> Clip:
        drawn.append(sample_clip(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(lessons, "sample_clip", kept)
    rng, mix = np.random.default_rng(3), Mix(cut=0.5)
    for _ in range(4):
        make_vision_lesson(rng, 48, mix)
        make_lesson(rng, TOKENIZER, 48, mix, questions=1)
    things = [it for clip in drawn for shot in clip.spec.shots for it in shot.things]
    assert len(things) > 400
    assert any(len(clip.spec.shots) > 1 for clip in drawn)
    assert not any(held_out(it.colour, it.shape, it.motion) for it in things)


def test_vision_lessons_are_frame_pairs() -> None:
    lesson = make_vision_lesson(np.random.default_rng(0), 6, Mix())
    clips, count, height, width, _ = lesson.frames.shape
    assert (clips, count) == (6, 2)
    assert lesson.cells.shape == (6 * height * width // 28**2, len(HEADS))


@pytest.mark.parametrize("count", [1, 4, 5, 16])
def test_training_computes_what_generate_computes(count: int) -> None:
    torch.manual_seed(0)
    model: Any = build_model(TOKENIZER).eval()
    rng = np.random.default_rng(count)
    clips = [sample_clip(rng, count, (112, 84)) for _ in range(2)]
    asked = [
        [("?", "A large red circle."), ("What happens in it, all in all?", "Two.")],
        [("Describe.", "First:"), ("How many objects are there?", "I don't know.")],
    ]
    logits = []
    for clip, questions in zip(clips, asked, strict=True):
        for prompt, said in questions:
            ids = TOKENIZER.encode(said + END_OF_TURN, add_special_tokens=False)
            request = clip.request(prompt)
            encoded = encode(TOKENIZER, model.model, request)
            inputs = model_inputs(TOKENIZER, [encoded], [request.frames.seconds_per_frame], torch.float32)
            before = inputs["input_ids"].shape[1]
            with torch.no_grad():
                written = model.generate(
                    **inputs,
                    max_new_tokens=len(ids),
                    output_logits=True,
                    return_dict_in_generate=True,
                    prefix_allowed_tokens_fn=lambda _, so_far, ids=ids, before=before: [ids[len(so_far) - before]],
                )
            logits.append(torch.cat(written.logits))
    words = pack(TOKENIZER, clips, asked)
    spacing = np.asarray([clip.request("").frames.seconds_per_frame for clip in clips], np.float32)
    lesson = Lesson(np.stack([clip.frames for clip in clips]), spacing, np.zeros((0, 0), np.int64), words)
    prepare(model)
    with torch.no_grad():
        trained = answer(model, lesson, words, see(model, lesson))
    torch.testing.assert_close(trained, torch.cat(logits), atol=2e-4, rtol=1e-3)


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
        batch_attention(vision)
        cut_patches_by_product(vision)
        batched = vision(rows, torch.tensor(grids)).pooler_output
    torch.testing.assert_close(batched, stock, atol=1e-5, rtol=1e-4)
