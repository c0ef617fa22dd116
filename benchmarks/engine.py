"""The engine against what people would run instead, on the same weights and clips. `make bench-engine`.

The demo checkpoint and a random-weight Qwen2.5-VL of 0.2 billion parameters; clips of 1, 8 and 16 frames; answers of 32
tokens, and of 8 to 256. The peers and the engine take turns; a ratio is of the medians of one run.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.bar_chart import draw_bars
from benchmarks.engine_peers import Peers
from benchmarks.engine_work import (
    EQUAL_TOKENS,
    FRAMES,
    HEIGHT,
    LEAST_TOKENS,
    MOST_TOKENS,
    UNDER_WAY,
    WIDTH,
    Model,
    clips,
    models_to_measure,
    through,
    timed,
)
from benchmarks.results_file import RESULTS, Bar, write_result
from benchmarks.vllm_peer import ask_vllm
from deployments.contracts import DescribeRequest, GenerationOptions, Question
from deployments.vision.prompts import events_prompt
from deployments.vision.qwen.engine import TransformersEngine

FIXED_BATCHES = (8, 16, 32, 64)
"""As far as there are so many clips: the best of them lies between others."""
PIPELINE_BATCH = 16
SINGLE_FRAMES = 8
"""Frames that the loop is timed on; each takes as long as the next one."""
COMPILED_ROWS = (1, 4, 16)
OURS = "Vidray's engine"


def _spread(requests: Sequence[DescribeRequest], count: int) -> list[DescribeRequest]:
    """Return so many of them, short and long answers as in the whole."""
    ordered = sorted(requests, key=lambda one: one.options.max_tokens)
    return [ordered[(2 * at + 1) * len(ordered) // (2 * count)] for at in range(count)]


def measure(model: Model, vllm_python: Path | None) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Return clips/s by case and peer, and the shares and ratios that the bars are about."""
    engine = TransformersEngine(model.settings())
    engine.load()
    peers = Peers(model.checkpoint)
    cases = {
        f"{frames}-{'varying' if varying else 'equal'}": clips(model.clips, frames, varying=varying)
        for varying in (False, True)
        for frames in FRAMES
    }
    speeds: dict[str, dict[str, float]] = {}
    same, asked = 0, 0
    for name, requests in cases.items():
        runs: dict[str, Callable[[], list[str]]] = {OURS: lambda requests=requests: through(engine, requests)}  # type: ignore[misc]
        for size in [size for size in FIXED_BATCHES if size <= len(requests)]:
            runs[f"generate, batches of {size}"] = lambda requests=requests, size=size: peers.fixed_batches(  # type: ignore[misc]
                requests, size
            )
        if name.endswith("equal"):
            runs[f"pipeline, batches of {PIPELINE_BATCH}"] = lambda requests=requests: peers.pipeline(  # type: ignore[misc]
                requests, PIPELINE_BATCH
            )
        seconds: dict[str, list[float]] = {}
        said: dict[str, list[str]] = {}
        for _ in range(model.repeats):
            for peer, run in runs.items():
                taken_s, said[peer] = timed(run)
                seconds.setdefault(peer, []).append(taken_s)
        clip_s = {peer: statistics.median(taken) / len(requests) for peer, taken in seconds.items()}
        few = _spread(requests, max(1, SINGLE_FRAMES // len(requests[0].frames)))
        clip_s["generate, frame by frame"] = timed(lambda few=few: peers.single_frames(few))[0] / len(few)  # type: ignore[misc]
        speeds[f"{model.name}, {name}"] = {peer: 1 / taken for peer, taken in clip_s.items()}
        plain = said[f"generate, batches of {FIXED_BATCHES[0]}"]
        same += sum(a == b for a, b in zip(said[OURS], plain, strict=True))
        asked += len(requests)
        print(f"{model.name}, {name}: {speeds[f'{model.name}, {name}']}", flush=True)
    if vllm_python is not None:
        version, taken = ask_vllm(vllm_python, model.checkpoint, cases, max_clips=UNDER_WAY, repeats=model.repeats + 1)
        for name, requests in cases.items():
            speeds[f"{model.name}, {name}"][f"vLLM {version}"] = len(requests) / statistics.median(taken[name][1:])
    found = {
        "same captions": same / asked,
        "two questions as one request": two_questions(model, engine, cases["8-equal"]),
        "parameters": peers.parameters,
    } | compiled_steps(model, engine, cases["8-equal"])
    return speeds, found


def two_questions(model: Model, engine: TransformersEngine, requests: Sequence[DescribeRequest]) -> float:
    """Return how many times sooner two answers about each clip are there as one request than as two."""
    events = Question(events_prompt(["appears"]), GenerationOptions(max_tokens=EQUAL_TOKENS))
    together = [replace(request, also=(events,)) for request in requests]
    apart = [part for request in together for part in request.apart()]
    ratios = []
    for _ in range(model.repeats):
        apart_s, together_s = timed(lambda: through(engine, apart))[0], timed(lambda: through(engine, together))[0]
        ratios.append(apart_s / together_s)
    return statistics.median(ratios)


def compiled_steps(model: Model, engine: TransformersEngine, requests: Sequence[DescribeRequest]) -> dict[str, float]:
    """Return, by rows under way, how many times faster a step of the engine with `compile: true` is."""
    compiled = TransformersEngine(model.settings().model_copy(update={"compile": True}))
    compiled.load()
    found = {}
    for rows in COMPILED_ROWS:
        plain_s, compiled_s = (_step_s(one, requests[:rows]) for one in (engine, compiled))
        found[f"compiled steps of {rows} rows over plain ones"] = plain_s / compiled_s
    return found


def _step_s(engine: TransformersEngine, requests: Sequence[DescribeRequest]) -> float:
    engine.start([engine.prepare(request) for request in requests])
    steps_s: list[float] = []
    ended = 0
    while ended < len(requests):
        taken_s, captions = timed(engine.step)
        ended += len(captions)
        steps_s.append(taken_s)
    return statistics.median(steps_s)


def main() -> None:
    """Measure, print the table, write benchmarks/results/engine.json and its chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["demo", "random 0.2B"], help="measure one model and write no file")
    parser.add_argument("--vllm-python", type=Path, help="an interpreter with vLLM; without one it is left out")
    args = parser.parse_args()
    models = models_to_measure()
    if args.vllm_python:  # an hour's figures are not to be lost to an interpreter without it
        trial = {"trial": clips(1, 1, varying=False)}
        ask_vllm(args.vllm_python, models[0].checkpoint, trial, max_clips=UNDER_WAY, repeats=1)
    speeds: dict[str, dict[str, float]] = {}
    found: dict[str, dict[str, float]] = {}
    for model in [one for one in models if args.only in (None, one.name)]:
        rows, found[model.name] = measure(model, args.vllm_python)
        speeds |= rows
    if args.only:
        print(found)
        return
    fixed = {
        case: max(speed for peer, speed in row.items() if peer.startswith("generate, batches"))
        for case, row in speeds.items()
    }
    by_lengths = {
        lengths: min(row[OURS] / fixed[case] for case, row in speeds.items() if case.endswith(lengths))
        for lengths in ("equal", "varying")
    }
    loop = min(row[OURS] / row["generate, frame by frame"] for row in speeds.values())
    bars = {
        "engine over the best fixed batches, equal lengths, least of all cases": Bar(by_lengths["equal"], 1.0, "times"),
        "engine over the best fixed batches, 8 to 256 tokens, least of all cases": Bar(
            by_lengths["varying"], 1.5, "times"
        ),
        "engine over a loop of single frames, least of all cases": Bar(loop, 5.0, "times"),
        "captions equal to plain generate": Bar(min(one["same captions"] for one in found.values()), 1.0, "share"),
    }
    write_result(
        "engine",
        {f"clips/s, {case}": row for case, row in speeds.items()}
        | {f"{name} model": one for name, one in found.items()},
        bars,
        model="demo checkpoint and random weights, fp32 on a CPU, answers that do not end by themselves",
        shape=f"{' or '.join(str(one.clips) for one in models)} clips of 1, 8 and 16 frames of {WIDTH}x{HEIGHT}; "
        f"{EQUAL_TOKENS} tokens, or {LEAST_TOKENS} to {MOST_TOKENS}; {UNDER_WAY} under way in the engine and vLLM",
    )
    draw_bars(RESULTS / "engine.png", "clips per second (CPU, fp32)", speeds, ours=OURS)


if __name__ == "__main__":
    main()
