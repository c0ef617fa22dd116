"""Train the demo checkpoint: `python -m deployments.vision.demo.train --out DIR --steps N [--resume]`."""

import argparse
import csv
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging

from deployments.vision.demo.batches import IGNORED, Batch, make_batch, make_vision_batch
from deployments.vision.demo.model import build_model
from deployments.vision.demo.patch_init import whiten_patch_embedding
from deployments.vision.demo.scenes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES
from deployments.vision.demo.tokenizer import build_tokenizer
from deployments.vision.qwen.attention import batch_vision_attention

STATE_FOLDER = Path("build/demo-model")
"""Where the optimiser's state and the learning curve live; git ignores it."""
_ATTRIBUTES = ("colour", "shape", "motion", "background")
_CLASSES = (len(COLOURS), len(SHAPES), len(MOTIONS), len(BACKGROUNDS))


@dataclass(frozen=True, slots=True)
class Recipe:
    """One run's settings. Steps below `vision_steps` train the vision tower alone, on what each cell shows."""

    steps: int
    vision_steps: int
    clips: int
    peak_rate: float
    seed: int

    def radius(self, step: int) -> tuple[float, float]:
        """Return the range of object sizes: large ones first, because shapes of small ones are not learned at once."""
        share = min(1.0, step / max(1, self.vision_steps))
        return 0.24 - 0.08 * share, 0.30 - 0.03 * share

    def rate(self, step: int, first: int) -> float:
        """Return the learning rate: up over the first tenth, then down along a cosine, for `first` <= step < steps."""
        share = (step - first) / max(1, self.steps - first)
        return self.peak_rate * (
            share / 0.1 if share < 0.1 else 0.02 + 0.49 * (1 + math.cos(math.pi * (share - 0.1) / 0.9))
        )


class Trainer:
    """The model, its optimiser and the heads that read the vision tower while it learns (they are not shipped)."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer: Any = build_tokenizer()
        self.model: Qwen2_5_VLForConditionalGeneration = build_model(self.tokenizer).to(self.device)  # type: ignore[arg-type]
        batch_vision_attention(self.model.model.visual)
        width = self.model.config.text_config.hidden_size
        self.heads = nn.Linear(width, sum(_CLASSES)).to(self.device)
        self.parameters = [*self.model.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=recipe.peak_rate, weight_decay=0.01, betas=(0.9, 0.98))
        self.step, self.first_step = 0, 0
        self._drawer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="draw")
        self._drawing: dict[int, Future[Batch]] = {}

    def draw(self, step: int) -> Batch:
        """Return the step's batch, which follows from the run's seed and the step alone."""
        rng, radius = np.random.default_rng([self.recipe.seed, step]), self.recipe.radius(step)
        if step < self.recipe.vision_steps:
            return make_vision_batch(rng, 2 * self.recipe.clips, radius=radius, device=self.device)
        return make_batch(rng, self.tokenizer, self.recipe.clips, radius=radius, device=self.device)

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the named losses of one batch; "answer" is absent where it has no words."""
        seen: list[torch.Tensor] = []
        hook = self.model.model.visual.register_forward_hook(lambda _, __, output: seen.append(output.pooler_output))
        losses = {}
        try:
            if not batch.answer_length:
                self.model.model.visual(batch.inputs["pixel_values_videos"], batch.inputs["video_grid_thw"])
            else:
                # the answers are the last columns, so only their logits are made
                logits = self.model(**batch.inputs, logits_to_keep=batch.answer_length + 1, use_cache=False).logits
                labels = batch.labels[:, -batch.answer_length :]
                losses["answer"] = cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        finally:
            hook.remove()
        for index, part in enumerate(self.heads(seen[0]).split(_CLASSES, dim=-1)):
            known = batch.cells[:, index] != IGNORED
            if known.any():
                losses[_ATTRIBUTES[index]] = cross_entropy(part[known], batch.cells[known, index])
        return losses

    def train_step(self) -> dict[str, float]:
        """Learn from the step's batch and return its losses; the next batch is drawn meanwhile."""
        recipe = self.recipe
        drawing = self._drawing.pop(self.step, None) or self._drawer.submit(self.draw, self.step)
        self._drawing = {self.step + 1: self._drawer.submit(self.draw, self.step + 1)}
        batch = drawing.result()
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.step, self.first_step)
        losses = self.losses(batch)
        weight = 0.3 if "answer" in losses else 1.0
        total = sum(loss * (1.0 if name == "answer" else weight) for name, loss in losses.items())
        assert isinstance(total, torch.Tensor)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_([p for p in self.parameters if p.grad is not None], 1.0)
        self.optimizer.step()
        self.step += 1
        return {name: loss.item() for name, loss in losses.items()}

    def save(self, out: Path, state: Path) -> None:
        """Write the checkpoint to `out` and everything a resumed run needs to `state`."""
        self.model.save_pretrained(out)
        self.tokenizer.save_pretrained(out)
        state.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "model": self.model.state_dict(),
                "heads": self.heads.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "first_step": self.first_step,
                "last_step": self.recipe.steps,
            },
            state,
        )

    def resume(self, state: Path) -> None:
        """Continue a run; with more `steps` than it was started for, a new learning-rate cycle begins."""
        saved = torch.load(state, map_location=self.device)
        self.model.load_state_dict(saved["model"])
        self.heads.load_state_dict(saved["heads"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]
        self.first_step = saved["first_step"] if saved["last_step"] == self.recipe.steps else self.step


def run(trainer: Trainer, out: Path, folder: Path, *, report_every: int = 25, save_every: int = 200) -> None:
    """Train to the recipe's last step, printing progress and appending the learning curve as CSV."""
    recipe, curve = trainer.recipe, folder / "curve.csv"
    folder.mkdir(parents=True, exist_ok=True)
    sums: dict[str, list[float]] = {}
    begun, begun_step = time.monotonic(), trainer.step
    while trainer.step < recipe.steps:
        for name, value in trainer.train_step().items():
            sums.setdefault(name, []).append(value)
        if trainer.step % report_every == 0 or trainer.step == recipe.steps:
            seconds_per_step = (time.monotonic() - begun) / (trainer.step - begun_step)
            means = {name: sum(values) / len(values) for name, values in sums.items()}
            sums.clear()
            words = " ".join(f"{name} {value:.3f}" for name, value in means.items())
            eta_min = (recipe.steps - trainer.step) * seconds_per_step / 60
            print(
                f"{trainer.step}/{recipe.steps} {words} | {seconds_per_step:.2f} s/step, {eta_min:.0f} min left",
                flush=True,
            )
            with curve.open("a", newline="") as file:
                csv.writer(file).writerows(
                    (trainer.step, name, round(value, 5), round(time.monotonic() - begun, 1))
                    for name, value in means.items()
                )
        if trainer.step % save_every == 0 or trainer.step == recipe.steps:
            trainer.save(out, folder / "state.pt")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, required=True, help="the last step; a resumed run counts on")
    parser.add_argument("--vision-steps", type=int, default=600, help="steps that train the vision tower alone")
    parser.add_argument("--clips", type=int, default=32, help="clips of four frames in a batch")
    parser.add_argument("--rate", type=float, default=7e-4, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--state", type=Path, default=STATE_FOLDER, help="folder for what --resume needs")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    trainer = Trainer(Recipe(args.steps, args.vision_steps, args.clips, args.rate, args.seed))
    if args.resume:
        trainer.resume(args.state / "state.pt")
    else:
        whiten_patch_embedding(trainer.model, np.random.default_rng([args.seed, 2**32 - 1]))
    run(trainer, args.out, args.state)


if __name__ == "__main__":
    main()
