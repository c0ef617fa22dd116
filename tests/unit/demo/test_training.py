"""The trainer: a run resumes where it stopped, and leaves a curve to look at."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config

from deployments.vision.demo.curve import draw_curve, read_curve
from deployments.vision.demo.learner import compile_layers
from deployments.vision.demo.lessons import Lesson
from deployments.vision.demo.patch_init import whiten_patch_embedding
from deployments.vision.demo.recipe import Recipe
from deployments.vision.demo.train import main, run
from deployments.vision.demo.trainer import Trainer, draw

pytestmark = pytest.mark.timeout(120)
RECIPE = Recipe(steps=3, vision_steps=2, coarse_from=2, again_from=3, pairs=8, questions=1, peak_rate=1e-3, seed=0)


@pytest.fixture
def trainers() -> Iterator[list[Trainer]]:
    made = [Trainer(RECIPE) for _ in range(2)]
    yield made
    for trainer in made:
        trainer.close()


def test_a_resumed_run_continues_where_it_stopped(trainers: list[Trainer], tmp_path: Path) -> None:
    straight, resumed = trainers
    losses = [straight.train_step()]
    straight.save(tmp_path / "checkpoint", tmp_path / "state.pt")
    saved = [weight.detach().clone() for weight in straight.parameters]
    assert not all(map(torch.equal, saved, resumed.parameters)), "the first step learns"
    losses += [straight.train_step() for _ in range(2)]
    resumed.resume(tmp_path / "state.pt")
    for mine, theirs in zip(resumed.parameters, saved, strict=True):
        assert torch.equal(mine, theirs)
    assert [resumed.train_step() for _ in range(2)] == [pytest.approx(loss, rel=1e-3) for loss in losses[1:]]
    assert "answer" in losses[-1]
    assert "answer" not in losses[0]


@pytest.mark.filterwarnings("default")  # PyTorch's own, as it compiles
def test_compiled_layers_learn_the_same(trainers: list[Trainer]) -> None:
    compile_layers(trainers[1].model)
    losses = [[trainer.train_step() for _ in range(3)] for trainer in trainers]
    assert "answer" in losses[1][-1]
    assert losses[1] == [pytest.approx(loss, rel=0.02, abs=0.02) for loss in losses[0]]
    layers = [trainer.model.model.language_model.layers.parameters() for trainer in trainers]
    for theirs, mine in zip(*layers, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert (mine.grad - theirs.grad).norm() <= 0.1 * theirs.grad.norm()


@pytest.mark.filterwarnings("default")
def test_a_run_without_a_compiler_says_so_and_learns(
    trainers: list[Trainer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "nothing compiled yet"))
    torch._dynamo.reset()
    asked = ["train", "--out", str(tmp_path / "out"), "--state", str(tmp_path), "--pairs", "8", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", asked)
    monkeypatch.setattr("deployments.vision.demo.train.Trainer", lambda _: trainers[0])
    trainers[0].recipe = replace(RECIPE, steps=1)
    with torch._inductor.config.patch("cpp.cxx", (None, str(tmp_path / "no compiler"))):
        main()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("steps of the whole model will take longer, torch cannot compile: InvalidCxxCompiler: ")
    assert said[1].startswith("1/1 ")


def test_a_run_leaves_its_curve(trainers: list[Trainer], tmp_path: Path) -> None:
    run(trainers[0], tmp_path / "checkpoint", tmp_path, report_every=1)
    losses = read_curve(tmp_path / "curve.csv")
    assert [step for step, _ in losses["shape"]] == [1, 2, 3]
    assert [step for step, _ in losses["answer"]] == [3]
    picture = np.asarray(draw_curve(losses))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 5
    assert (tmp_path / "state.pt").exists()
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_begins_goes_on_and_has_nothing_left_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, state = tmp_path / "checkpoint", tmp_path / "state"

    monkeypatch.setattr("deployments.vision.demo.train.compile_layers", lambda _: None)

    def train(steps: int) -> str:
        asked = ["train", "--out", str(out), "--state", str(state), "--resume", "--pairs", "8", "--steps", str(steps)]
        monkeypatch.setattr(sys, "argv", asked)
        main()
        return capsys.readouterr().out

    assert train(1).startswith("1/1 ")
    assert train(2).startswith("2/2 "), "a second leg"
    written = (state / "state.pt").read_bytes()
    assert "nothing to learn up to step 1" in train(1)
    assert "nothing to learn up to step 2" in train(2)
    assert (state / "state.pt").read_bytes() == written
    weights = (out / "model.safetensors").read_bytes()
    shutil.rmtree(out)
    assert "nothing to learn up to step 2" in train(2)
    assert (out / "model.safetensors").read_bytes() == weights, "what was asked for is there"


def test_equal_steps_draw_equal_lessons() -> None:
    one, other = (draw(RECIPE, 2) for _ in range(2))
    assert isinstance(one, Lesson)
    assert np.array_equal(one.frames, other.frames)
    assert one.words is not None
    assert other.words is not None
    assert np.array_equal(one.words.ids, other.words.ids)
    assert draw(RECIPE, 1).words is None


def test_the_rate_rises_and_falls() -> None:
    recipe = Recipe(
        steps=1000, vision_steps=0, coarse_from=1000, again_from=1000, pairs=8, questions=1, peak_rate=1.0, seed=0
    )
    rates = [recipe.rate(step, 0) for step in (0, 20, 40, 520, 999)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0], abs=0.015)
    assert 0 < recipe.rate(500, 500) < recipe.rate(510, 500)
    assert rates[-1] > 0


def test_the_rate_rises_once_more_half_as_high() -> None:
    recipe = replace(RECIPE, steps=1500, again_from=1000, peak_rate=1.0)
    assert recipe.rate(520, 0) == pytest.approx(0.5, abs=0.015), "as if there were no second cycle"
    again = [recipe.rate(step, 0) for step in (999, 1000, 1020, 1260, 1499)]
    assert again == pytest.approx([0.0, 0.0, 0.5, 0.25, 0.0], abs=0.015)
    assert [recipe.rate(step, 1000) for step in (1000, 1020)] == again[1:3], "where it is all that a resumed run is for"
    assert recipe.rate(1400, 1400) < recipe.rate(1404, 1400), "a leg of another length has a cycle of its own"
    assert replace(recipe, steps=500).rate(260, 0) == pytest.approx(0.5, abs=0.015)


def test_the_time_that_is_left_counts_steps_of_the_whole_model_as_two() -> None:
    recipe = Recipe(
        steps=100, vision_steps=40, coarse_from=80, again_from=100, pairs=8, questions=1, peak_rate=1.0, seed=0
    )
    assert recipe.left_s(10, 1.5) == pytest.approx(1.5 * (30 + 2 * 60))
    assert recipe.left_s(40, 3.0) == pytest.approx(3.0 * 60)
    assert replace(recipe, steps=30).left_s(10, 1.5) == pytest.approx(1.5 * 20), "it ends in the tower's steps"


def test_a_run_is_not_resumed_with_other_settings(
    trainers: list[Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, state = tmp_path / "checkpoint", tmp_path / "state.pt"
    trainers[0].save(out, state)
    asked = ["train", "--out", str(out), "--state", str(tmp_path), "--resume", "--pairs", "9", "--seed", "0"]
    monkeypatch.setattr(sys, "argv", asked)
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err.splitlines()[-1]
    assert "goes on with the settings that it began with: vision_steps 2, coarse_from 2, again_from 3, pairs 8" in said


def test_a_run_of_another_recipe_is_not_resumed(trainers: list[Trainer], tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    trainers[0].save(tmp_path / "checkpoint", state)
    saved = torch.load(state)
    for change in ({"again_from": None}, {"a setting that is gone": 7}):
        other = saved["recipe"] | change
        torch.save(saved | {"recipe": {name: value for name, value in other.items() if value is not None}}, state)
        with pytest.raises(ValueError, match=f"{next(iter(change))} {next(iter(change.values()))}$"):
            trainers[1].resume(state)


def test_scenes_get_harder() -> None:
    recipe = Recipe(
        steps=1000, vision_steps=400, coarse_from=1000, again_from=1000, pairs=8, questions=1, peak_rate=1.0, seed=0
    )
    easy, hard = recipe.mix(0), recipe.mix(200)
    assert easy.objects == (1.0, 0.0, 0.0)
    assert (easy.small, easy.clock, easy.events, easy.cut) == (0.0, 0.0, 0.0, 0.0)
    assert sum(hard.objects) == pytest.approx(1.0)
    assert hard == recipe.mix(900)


def test_whitened_patches_have_even_features(trainers: list[Trainer]) -> None:
    model = trainers[0].model
    whiten_patch_embedding(model, np.random.default_rng(0))
    weight = model.model.visual.patch_embed.proj.weight
    assert torch.isfinite(weight).all()
    products = weight.flatten(1) @ weight.flatten(1).T
    assert (products - products.diag().diag()).abs().max() < 1e-3 * products.diag().max()
