"""What the demo checkpoint knows of scenes it has not seen, told twice: from arrays, and from MP4 files through Serve.

`make eval-demo`. Both are asked about the same scenes at the same moments, so that what the files lose on their way
through probe, plan, decode and Serve is the pipeline's loss (or the video encoder's).
"""

import argparse
import asyncio
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import safe_open

from benchmarks.demo_exams import SETS, UNCUT, Exam, write_exams
from benchmarks.demo_pipeline import FORMATS, ask
from benchmarks.model_app import model_app
from benchmarks.results_file import Bar, table, write_result
from deployments.contracts import DescribeRequest, ModelInfo
from deployments.settings import VisionSettings
from deployments.vision.catalog import DEMO_DIR, model_info
from deployments.vision.client import VisionClient, wait_for_model
from deployments.vision.demo.answers import Description
from deployments.vision.demo.scoring import clock_error_s, score_descriptions
from deployments.vision.qwen.engine import TransformersEngine
from serve_app.cluster_app import local_app

MODEL = "demo"
BARS = {"colour": 0.99, "background": 0.99, "shape": 0.97, "motion": 0.97, "count": 0.97, "clock": 0.90}
EXACT_BARS = {"one object": 0.90, "two objects": 0.75}
MOST_LOST = 0.01
_ALL_UNCUT = "one to three objects"
_BATCH_CLIPS = 16
Scores = dict[str, dict[str, float]]


Answer = Callable[[Exam], list[list[str]]]
"""Answers each scene's prompts."""


def app_config(checkpoint: Path) -> dict[str, object]:
    """Return a config that serves the checkpoint on one CPU."""
    return model_app(MODEL, _settings(checkpoint), user_config={"max_batch_clips": _BATCH_CLIPS})


def _settings(checkpoint: Path) -> VisionSettings:
    trained = model_info(MODEL, VisionSettings())
    return VisionSettings(
        checkpoint=str(checkpoint.resolve()),
        dtype="fp32",
        device="cpu",
        min_pixels=trained.frame_spec.min_pixels,
        max_pixels=trained.frame_spec.max_pixels,
        max_frames=trained.max_frames,
    )


def through_files(model: ModelInfo) -> Answer:
    """Return the way through files: the running app answers."""

    async def answer(exam: Exam) -> list[list[str]]:
        client = VisionClient.connect(MODEL)
        await wait_for_model(client, deadline_s=120)
        return await ask(exam.film, exam.prompts, model, client)

    return lambda exam: asyncio.run(answer(exam))


def from_arrays(engine: TransformersEngine, model: ModelInfo) -> Answer:
    """Return the direct way: the engine sees the scenes drawn at the model's own frame size."""

    def answer(exam: Exam) -> list[list[str]]:
        requests = [
            DescribeRequest(clip, prompt)
            for clip, prompts in zip(exam.film.clips(model), exam.prompts, strict=True)
            for prompt in prompts
        ]
        batches = [requests[first : first + _BATCH_CLIPS] for first in range(0, len(requests), _BATCH_CLIPS)]
        texts = iter([caption.text for batch in batches for caption in engine.describe(batch)])
        return [[next(texts) for _ in prompts] for prompts in exam.prompts]

    return answer


def measure(exams: list[Exam], answer: Answer) -> Scores:
    """Return the scores of the answers that come by one way: of each set, of all without a cut, of the questions."""
    truths: dict[str, list[Description]] = {}
    texts: dict[str, list[str]] = {}
    right: dict[str, list[bool]] = {}
    for exam in exams:
        told = answer(exam)
        for name in (exam.name, *([_ALL_UNCUT] if exam.name in UNCUT else [])):
            truths.setdefault(name, []).extend(exam.truths)
            texts.setdefault(name, []).extend(answers[0] for answers in told)
        for questions, (_, *answers) in zip(exam.questions, told, strict=True):
            for question, said in zip(questions, answers, strict=True):
                for figure, held in question.marks(said):
                    right.setdefault(figure, []).append(held)
        print(f"{exam.name}: {exam.film.path.name}, {len(told)} scenes", flush=True)
    scores = {
        name: score_descriptions(truths[name], texts[name])
        | {"clock error, mean s": clock_error_s(truths[name], texts[name])}
        for name in truths
    }
    return scores | {"questions": {kind: sum(held) / len(held) for kind, held in right.items()}}


def lost(arrays: Scores, files: Scores) -> dict[str, float]:
    """Return how much lower each attribute's share is from files than from arrays."""
    drawn, filmed = arrays[_ALL_UNCUT], files[_ALL_UNCUT]
    return {name: drawn[name] - filmed[name] for name in filmed if not name.startswith("clock error")}


def bars(arrays: Scores, files: Scores) -> dict[str, Bar]:
    """Return what the figures are held to."""
    losses = lost(arrays, files)
    worst = max(losses, key=losses.__getitem__)
    return (
        {f"demo model through files: {name}": Bar(files[_ALL_UNCUT][name], bar, "share") for name, bar in BARS.items()}
        | {
            f"demo model through files: {name}, every word": Bar(files[name]["exact"], bar, "share")
            for name, bar in EXACT_BARS.items()
        }
        | {
            f"demo model: most that files lose against arrays ({worst})": Bar(
                losses[worst], MOST_LOST, "share", better="lower"
            )
        }
    )


def named(checkpoint: Path) -> str:
    """Return the name of just these weights."""
    digest = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    return f"demo checkpoint (model.safetensors of sha256 {digest[:12]})"


def _parameters(checkpoint: Path) -> int:
    with safe_open(checkpoint / "model.safetensors", framework="numpy") as weights:
        return sum(int(np.prod(weights.get_slice(name).get_shape())) for name in weights.keys())  # noqa: SIM118


def main() -> None:
    """Parse the command line, measure and write `benchmarks/results/demo_model.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DEMO_DIR)
    parser.add_argument("--scenes", type=int, default=510, help="scenes in each set")
    parser.add_argument("--dry-run", action="store_true", help="print the figures and write no file")
    args = parser.parse_args()
    settings = _settings(args.checkpoint)
    model = model_info(MODEL, settings)
    with tempfile.TemporaryDirectory() as folder:
        exams = list(write_exams(Path(folder), args.scenes, SETS))
        engine = TransformersEngine(settings)
        engine.load()
        arrays = measure(exams, from_arrays(engine, model))
        with local_app(app_config(args.checkpoint), http=False):
            files = measure(exams, through_files(model))
    figures = {
        f"{way}: {name}": {key: round(value, 4) for key, value in row.items()}
        for way, rows in (("arrays", arrays), ("files", files))
        for name, row in rows.items()
    }
    held = bars(arrays, files)
    if args.dry_run:
        print(table(figures, held))
        return
    write_result(
        "demo_model",
        figures,
        held,
        model=f"{named(args.checkpoint)}, {_parameters(args.checkpoint) / 1e6:.2f} M parameters, fp32",
        shape=f"{args.scenes} scenes in each set, of combinations never trained on but where they are of all, in "
        f"{len(FORMATS)} formats of H.264",
    )


if __name__ == "__main__":
    main()
