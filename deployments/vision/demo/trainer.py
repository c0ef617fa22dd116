"""Train the demo model: lessons in, smaller losses out."""

from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Qwen2_5_VLForConditionalGeneration

from deployments.vision.demo.cells import DIGITS, HEADS, IGNORED
from deployments.vision.demo.coarse import coarse_weights
from deployments.vision.demo.learner import answer, prepare, see
from deployments.vision.demo.lessons import Lesson, make_lesson, make_vision_lesson
from deployments.vision.demo.model import build_model
from deployments.vision.demo.precision import Float32Muon, quick_dtype
from deployments.vision.demo.recipe import Recipe
from deployments.vision.demo.tokenizer import build_tokenizer

_CELL_WEIGHT = 0.5
"""Weight of the cells' losses beside the answers', but for the digits, which are learned last."""
_RATES = (1.0, 0.5)
"""Learning rates of the matrices (Muon) and of everything else (AdamW), as shares of the recipe's."""
_AHEAD = 3
"""Lessons drawn ahead of the step that learns from them."""


def draw(recipe: Recipe, step: int) -> Lesson:
    """Return the step's lesson, which follows from the run's seed and the step alone."""
    rng = np.random.default_rng([recipe.seed, step])
    if step < recipe.vision_steps:
        return make_vision_lesson(rng, recipe.pairs, recipe.mix(step))
    return make_lesson(rng, _tokenizer(), recipe.pairs, recipe.mix(step), recipe.questions)


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    return build_tokenizer()


class Trainer:
    """The model, its optimisers and the heads that read the vision tower while it learns (they are not shipped)."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer: Any = _tokenizer()
        self.model: Qwen2_5_VLForConditionalGeneration = build_model(self.tokenizer).to(self.device)  # type: ignore[arg-type]
        prepare(self.model)
        self.heads = nn.Linear(self.model.config.text_config.hidden_size, sum(HEADS.values())).to(self.device)
        self.parameters = [*self.model.parameters(), *self.heads.parameters()]
        matrices = [
            weight
            for name, weight in self.model.named_parameters()
            if weight.ndim == 2 and "embed" not in name and "lm_head" not in name
        ]
        inside = set(map(id, matrices))
        others = [weight for weight in self.parameters if id(weight) not in inside]
        self._dtype = quick_dtype(self.device)
        muon = torch.optim.Muon if self._dtype is torch.bfloat16 else Float32Muon
        self.optimizers: list[torch.optim.Optimizer] = [
            muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, weight_decay=0.01, betas=(0.9, 0.98)),
        ]
        self.step, self.first_step = 0, 0
        self._drawer = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
        self._drawing: dict[int, Future[Lesson]] = {}

    def losses(self, lesson: Lesson) -> dict[str, torch.Tensor]:
        """Return the named losses of one lesson; "answer" is absent where it has no words."""
        losses = {}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._dtype is torch.bfloat16):
            features = see(self.model, lesson)
            shown = self.heads(features).float()
            if lesson.words is not None:
                logits = answer(self.model, lesson, lesson.words, features).float()
                labels = torch.from_numpy(lesson.words.labels[lesson.words.labels >= 0]).to(self.device)
                losses["answer"] = cross_entropy(logits, labels)
        cells = torch.from_numpy(lesson.cells).to(self.device)
        for (name, _), part, label in zip(HEADS.items(), shown.split([*HEADS.values()], -1), cells.T, strict=True):
            if (label != IGNORED).any():
                losses[name] = cross_entropy(part, label, ignore_index=IGNORED)
        return losses

    def train_step(self) -> dict[str, float]:
        """Learn from the step's lesson and return its losses; the next lessons are drawn meanwhile."""
        for step in range(self.step, min(self.step + _AHEAD, self.recipe.steps)):
            if step not in self._drawing:
                self._drawing[step] = self._drawer.submit(draw, self.recipe, step)
        rate = self.recipe.rate(self.step, self.first_step)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        # Every other step: what is shipped is to be right as it is, too.
        with self._weights(eight_bits=self.step >= self.recipe.again_from and self.step % 2 == 1):
            losses = self.losses(self._drawing.pop(self.step).result())
            whole = ("answer", *DIGITS) if "answer" in losses else tuple(losses)
            total = sum(loss * (1.0 if name in whole else _CELL_WEIGHT) for name, loss in losses.items())
            assert isinstance(total, torch.Tensor)
            total.backward()
        nn.utils.clip_grad_norm_([p for p in self.parameters if p.grad is not None], 1.0)
        for optimizer, share in zip(self.optimizers, _RATES, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = share * rate
            optimizer.step()
        self.step += 1
        return {name: loss.item() for name, loss in losses.items()}

    def _weights(self, *, eight_bits: bool = False) -> AbstractContextManager[None]:
        """Return the context in which the model has the weights that are learned with and shipped at this step."""
        coarse = self.step >= self.recipe.coarse_from
        return coarse_weights(self.model, eight_bits=eight_bits) if coarse else nullcontext()

    def save(self, out: Path, state: Path) -> None:
        """Write the checkpoint to `out` and everything a resumed run needs to `state`, never half a file."""
        files = out.with_name(f"{out.name}.part")
        with self._weights():
            self.model.save_pretrained(files)
        self.tokenizer.save_pretrained(files)
        out.mkdir(parents=True, exist_ok=True)
        for file in files.iterdir():
            file.replace(out / file.name)
        files.rmdir()
        state.parent.mkdir(parents=True, exist_ok=True)
        part = state.with_suffix(".part")
        torch.save(
            {
                "recipe": asdict(self.recipe),
                "model": self.model.state_dict(),
                "heads": self.heads.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "step": self.step,
                "first_step": self.first_step,
            },
            part,
        )
        part.replace(state)

    def resume(self, state: Path) -> None:
        """Continue a run; with another last step than it was started for, a new learning-rate cycle begins.

        Raises ValueError where it was begun with other settings.
        """
        saved = torch.load(state, map_location="cpu")
        ours = asdict(self.recipe) | {"steps": saved["recipe"]["steps"]}
        theirs = dict.fromkeys(ours) | saved["recipe"]
        if other := [f"{name} {value}" for name, value in theirs.items() if ours.get(name) != value]:
            raise ValueError(f"a run goes on with the settings that it began with: {', '.join(other)}")
        self.model.load_state_dict(saved["model"])
        self.heads.load_state_dict(saved["heads"])
        for optimizer, part in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(part)
        self.step = saved["step"]
        self.first_step = saved["first_step"] if saved["recipe"]["steps"] == self.recipe.steps else self.step

    def close(self) -> None:
        """End the process that draws."""
        self._drawer.shutdown(cancel_futures=True)
