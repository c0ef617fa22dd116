"""Train the demo checkpoint: `python -m deployments.vision.demo.train --out DIR [--resume]`."""

import argparse
import csv
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from deployments.native_heap import keep_every_block
from deployments.vision.demo.curve import write_picture
from deployments.vision.demo.learner import compile_layers
from deployments.vision.demo.patch_init import whiten_patch_embedding
from deployments.vision.demo.recipe import DEMO, Recipe
from deployments.vision.demo.trainer import Trainer

STATE_FOLDER = Path("build/demo-model")
"""Where the optimiser's state and the learning curve live; git ignores it."""


def run(trainer: Trainer, out: Path, folder: Path, *, report_every: int = 25, save_every: int = 200) -> None:
    """Train to the recipe's last step, printing progress; `folder` has the learning curve, as CSV and as a picture."""
    recipe, curve = trainer.recipe, folder / "curve.csv"
    if trainer.step >= recipe.steps:
        print(f"nothing to learn up to step {recipe.steps}: {folder / 'state.pt'} is at step {trainer.step}")
        if not (out / "model.safetensors").exists():
            trainer.save(out, folder / "state.pt")
        return
    folder.mkdir(parents=True, exist_ok=True)
    if trainer.step == 0:
        curve.unlink(missing_ok=True)
    sums: dict[str, list[float]] = {}
    begun = told = time.monotonic()
    told_step = trainer.step
    while trainer.step < recipe.steps:
        for name, value in trainer.train_step().items():
            sums.setdefault(name, []).append(value)
        if trainer.step % report_every == 0 or trainer.step == recipe.steps:
            now = time.monotonic()
            step_s = (now - told) / (trainer.step - told_step)
            told, told_step = now, trainer.step
            means = {name: sum(values) / len(values) for name, values in sums.items()}
            sums.clear()
            words = " ".join(f"{name} {value:.3f}" for name, value in means.items())
            left_min = recipe.left_s(trainer.step, step_s) / 60
            print(f"{trainer.step}/{recipe.steps} {words} | {step_s:.2f} s/step, {left_min:.0f} min left", flush=True)
            with curve.open("a", newline="") as file:
                csv.writer(file).writerows(
                    (trainer.step, name, round(value, 5), round(time.monotonic() - begun, 1))
                    for name, value in means.items()
                )
        if trainer.step % save_every == 0 or trainer.step == recipe.steps:
            trainer.save(out, folder / "state.pt")
            write_picture(curve, folder / "curve.png")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=DEMO.steps, help="the last step; a resumed run counts on")
    parser.add_argument("--vision-steps", type=int, default=DEMO.vision_steps, help="steps that train the tower alone")
    parser.add_argument("--coarse-from", type=int, default=DEMO.coarse_from, help="the first step with NF4 weights")
    parser.add_argument(
        "--again-from", type=int, default=DEMO.again_from, help="the step at which the rate rises again"
    )
    parser.add_argument("--pairs", type=int, default=DEMO.pairs, help="frame pairs in a batch")
    parser.add_argument("--questions", type=int, default=DEMO.questions, help="questions a clip beside its description")
    parser.add_argument("--rate", type=float, default=DEMO.peak_rate, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=DEMO.seed)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--state", type=Path, default=STATE_FOLDER, help="folder for what --resume needs")
    parser.add_argument("--resume", action="store_true", help="go on where the last run stopped, if there was one")
    args = parser.parse_args()
    keep_every_block()
    logging.disable_progress_bar()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the process that draws ends, too
    torch.set_num_threads(args.threads)
    trainer = Trainer(
        Recipe(
            steps=args.steps,
            vision_steps=args.vision_steps,
            coarse_from=args.coarse_from,
            again_from=args.again_from,
            pairs=args.pairs,
            questions=args.questions,
            peak_rate=args.rate,
            seed=args.seed,
        )
    )
    if trainer.device.type == "cpu":
        try:
            compile_layers(trainer.model)
        except RuntimeError as error:
            print(f"steps of the whole model will take longer, torch cannot compile: {str(error).splitlines()[0]}")
    if args.resume and (args.state / "state.pt").exists():
        try:
            trainer.resume(args.state / "state.pt")
        except ValueError as error:
            trainer.close()
            parser.error(f"{args.state}: {error}")
    else:
        whiten_patch_embedding(trainer.model, np.random.default_rng([args.seed, 2**32 - 1]))
    try:
        run(trainer, args.out, args.state)
    finally:
        trainer.close()


if __name__ == "__main__":
    main()
