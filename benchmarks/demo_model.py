"""What the demo checkpoint knows of scenes it has not seen, told twice: from arrays, and from MP4 files through Serve.

`make eval-demo`. Both are asked about the same scenes at the same moments, so that what the files lose on their way
through probe, plan, decode and Serve is the pipeline's loss (or the video encoder's).
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from benchmarks.demo_pipeline import FORMATS, Film, ask, write_film
from benchmarks.results_file import Bar, write_result
from deployments.contracts import ModelInfo
from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.client import VisionClient, wait_for_model
from deployments.vision.demo.clips import Clip
from deployments.vision.demo.evaluate import CHECKPOINT, Describe, describer, load
from deployments.vision.demo.layout import Mix
from deployments.vision.demo.prompts import QUESTIONS, sample_question
from deployments.vision.demo.scoring import score_descriptions
from deployments.vision.prompts import DEFAULT_PROMPT
from serve_app.cluster_app import local_app

MODEL = "demo"
KINDS = (*QUESTIONS, "unknown", "describe")
BARS = {"colour": 0.99, "background": 0.99, "shape": 0.97, "motion": 0.97, "count": 0.97, "clock": 0.90}
EXACT_BARS = {"one object": 0.90, "two objects": 0.75}
MOST_LOST = 0.01
_SETS = {
    "one object": Mix((1.0, 0.0, 0.0), clock=0.5, events=0.3, cut=0.0),
    "two objects": Mix((0.0, 1.0, 0.0), clock=0.5, events=0.3, cut=0.0),
    "three objects": Mix((0.0, 0.0, 1.0), clock=0.5, events=0.3, cut=0.0),
    "a cut inside": Mix(clock=0.5, events=0.0, cut=1.0),
}
Scores = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt for each scene of a film."""

    film: Film
    prompts: list[str]


Answer = Callable[[Sequence[Asked]], list[list[str]]]
"""Answers the prompts of each film, in order."""


def app_config(checkpoint: Path) -> dict[str, object]:
    """Return a config that serves the checkpoint on one CPU."""
    app = {
        "name": "vidray",
        "route_prefix": "/",
        "import_path": "serve_app.app:build_app",
        "args": {"default_model": MODEL, "models": {MODEL: _settings(checkpoint).model_dump(mode="json")}},
        "deployments": [
            {"name": "gateway", "ray_actor_options": {"num_cpus": 0}},
            {"name": f"vision-{MODEL}", "user_config": {"max_batch_clips": 16}},
        ],
    }
    return {"applications": [app]}


def _settings(checkpoint: Path) -> VisionSettings:
    info = model_info(MODEL, VisionSettings())
    return VisionSettings(
        checkpoint=str(checkpoint.resolve()),
        dtype="fp32",
        device="cpu",
        min_pixels=info.frame_spec.min_pixels,
        max_pixels=info.frame_spec.max_pixels,
        max_frames=info.max_frames,
    )


def through_files(model: ModelInfo) -> Answer:
    """Return the way through files: the running app answers."""

    async def answer(asked: Sequence[Asked]) -> list[list[str]]:
        client = VisionClient.connect(MODEL)
        await wait_for_model(client, deadline_s=120)
        return [await ask(one.film, one.prompts, model, client) for one in asked]

    return lambda asked: asyncio.run(answer(asked))


def from_arrays(describe: Describe, model: ModelInfo) -> Answer:
    """Return the direct way: the model sees the scenes drawn at its own frame size."""
    return lambda asked: [describe(one.film.clips(model), one.prompts) for one in asked]


def measure(films: dict[str, list[Film]], model: ModelInfo, answer: Answer) -> Scores:
    """Return the scores of the answers that come by one way."""
    scores: Scores = {}
    clips: list[Clip] = []
    texts: list[str] = []
    for name, some in films.items():
        seen = [clip for film in some for clip in film.clips(model)]
        said = list(chain.from_iterable(answer([Asked(film, [DEFAULT_PROMPT] * len(film.scenes)) for film in some])))
        scores[name] = score_descriptions(seen, said)
        if name != "a cut inside":
            clips, texts = clips + seen, texts + said
    scores["one to three objects"] = score_descriptions(clips, texts)
    # Every other format has one, two or three objects in turn, which is as many scenes as a set of descriptions has.
    uncut = [some for name, some in films.items() if name != "a cut inside"]
    mixed = [uncut[place % len(uncut)][place] for place in range(len(FORMATS))]
    scores["questions"] = {kind: _score_questions(mixed, model, kind, answer) for kind in KINDS}
    return scores


def _score_questions(films: Sequence[Film], model: ModelInfo, kind: str, answer: Answer) -> float:
    """Return the share of exactly right answers to one question of the kind about every scene."""
    rng = np.random.default_rng([KINDS.index(kind), 1])
    asked, true = [], []
    for film in films:
        drawn = [sample_question(rng, clip.spec, clip.times_s.tolist(), kind) for clip in film.clips(model)]
        asked.append(Asked(film, [prompt for _, prompt, _ in drawn]))
        true += [right for _, _, right in drawn]
    said = list(chain.from_iterable(answer(asked)))
    return sum(a == b for a, b in zip(said, true, strict=True)) / len(true)


def lost(arrays: Scores, files: Scores) -> dict[str, float]:
    """Return how much lower each attribute is from files than from arrays."""
    drawn, filmed = arrays["one to three objects"], files["one to three objects"]
    return {name: drawn[name] - filmed[name] for name in filmed}


def main() -> None:
    """Parse the command line, measure and write `benchmarks/results/demo_model.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--scenes", type=int, default=510, help="scenes in each set")
    parser.add_argument("--dry-run", action="store_true", help="print the figures and write no file")
    args = parser.parse_args()
    weights, tokenizer = load(args.checkpoint)
    model = model_info(MODEL, _settings(args.checkpoint))
    with tempfile.TemporaryDirectory() as folder:
        films = {
            name: [write_film(Path(folder), form, -(-args.scenes // len(FORMATS)), mix, seed) for form in FORMATS]
            for seed, (name, mix) in enumerate(_SETS.items(), start=101)
        }
        arrays = measure(films, model, from_arrays(describer(weights, tokenizer), model))
        with local_app(app_config(args.checkpoint), http=False):
            files = measure(films, model, through_files(model))
    every, losses = files["one to three objects"], lost(arrays, files)
    bars = {f"demo model through files: {name}": Bar(every[name], bar, "share") for name, bar in BARS.items()}
    bars |= {
        f"demo model through files: {name}, every word": Bar(files[name]["exact"], bar, "share")
        for name, bar in EXACT_BARS.items()
    }
    worst = max(losses, key=losses.__getitem__)
    bars["demo model: most that files lose against arrays"] = Bar(losses[worst], MOST_LOST, "share", better="lower")
    figures = {
        f"{way}: {name}": row for way, rows in (("arrays", arrays), ("files", files)) for name, row in rows.items()
    }
    if args.dry_run:
        for name, row in figures.items():
            print(name, {key: round(value, 3) for key, value in row.items()})
        print({name: (round(bar.value, 4), bar.bar) for name, bar in bars.items()})
        return
    parameters = sum(weight.numel() for weight in weights.parameters())
    write_result(
        "demo_model",
        {name: {key: round(value, 4) for key, value in row.items()} for name, row in figures.items()},
        bars,
        model=f"demo checkpoint, {parameters / 1e6:.2f} M parameters, fp32",
        shape=f"{args.scenes} scenes of combinations never trained on in each set, in {len(FORMATS)} formats of H.264",
    )


if __name__ == "__main__":
    main()
