"""The engine against what people would run instead, on the same weights and clips. `make bench-engine`.

The demo checkpoint and a random-weight Qwen2.5-VL of 0.2 billion parameters; clips of 1, 8 and 16 frames; answers of 32
tokens, and of 8 to 256. The peers and the engine take turns; a ratio is of the medians of one run.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.bar_chart import draw_bars
from benchmarks.engine_peers import Peers
from benchmarks.model_app import model_app
from benchmarks.random_checkpoint import endless_demo, random_model
from benchmarks.results_file import RESULTS, Bar, write_result
from benchmarks.vllm_peer import ask_vllm
from deployments.contracts import DescribeRequest, FrameBatch, GenerationOptions, Question
from deployments.settings import VisionSettings, VisionTuning
from deployments.vision.client import VisionClient, wait_for_model
from deployments.vision.deployment import VisionModel
from deployments.vision.engine import Prepared
from deployments.vision.prompts import DEFAULT_PROMPT, events_prompt
from deployments.vision.qwen.engine import TransformersEngine
from serve_app.cluster_app import local_app

WIDTH, HEIGHT = 196, 112
FRAMES = (1, 8, 16)
EQUAL_TOKENS, LEAST_TOKENS, MOST_TOKENS = 32, 8, 256
UNDER_WAY = VisionTuning().max_batch_clips
"""Most clips that are under way in the engine, as it is shipped; vLLM has 32."""
FIXED_BATCHES = (16, 32)
SINGLE_FRAMES = 8
"""Frames that the loop is timed on; each takes as long as the next one."""
LONE_CLIPS = 25
COMPILED_ROWS = (1, 4, 16)
SATURATION = 4
"""Times that all clips are put to the deployment."""
OURS = "Vidray's engine"
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint to measure and how much to ask of it."""

    name: str
    checkpoint: Path
    clips: int
    repeats: int

    def settings(self) -> VisionSettings:
        return VisionSettings(checkpoint=str(self.checkpoint.resolve()), dtype="fp32", device="cpu")


def clips(count: int, frames: int, *, varying: bool) -> list[DescribeRequest]:
    """Return clips of noise, every run the same; varying lengths are spread evenly over their logarithm."""
    rng = np.random.default_rng([frames, varying])
    lengths = np.exp(rng.uniform(np.log(LEAST_TOKENS), np.log(MOST_TOKENS + 1), count)).astype(int)
    return [
        DescribeRequest(
            FrameBatch(rng.integers(0, 256, (frames, HEIGHT, WIDTH, 3), np.uint8), np.arange(frames, dtype=np.float64)),
            DEFAULT_PROMPT,
            GenerationOptions(max_tokens=int(length) if varying else EQUAL_TOKENS),
        )
        for length in lengths
    ]


def through(engine: TransformersEngine, requests: Sequence[DescribeRequest]) -> list[str]:
    """Return the captions by the bare engine that is kept as full as `UNDER_WAY` allows."""
    waiting = [engine.prepare(request) for request in requests]
    order = {id(one): at for at, one in enumerate(waiting)}
    said = [""] * len(requests)
    under_way = 0
    while waiting or under_way:
        room = UNDER_WAY - under_way
        batch: list[Prepared] = list(waiting[:room])
        if batch:
            engine.start(batch)
            del waiting[:room]
        ended = engine.step()
        under_way += len(batch) - len(ended)
        for one, caption in ended:
            said[order[id(one)]] = caption.text
    return said


def _spread(requests: Sequence[DescribeRequest], count: int) -> list[DescribeRequest]:
    """Return so many of them, short and long answers as in the whole."""
    ordered = sorted(requests, key=lambda one: one.options.max_tokens)
    return [ordered[(2 * at + 1) * len(ordered) // (2 * count)] for at in range(count)]


def timed(call: Callable[[], Answer]) -> tuple[float, Answer]:
    begun_s = time.perf_counter()
    answer = call()
    return time.perf_counter() - begun_s, answer


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
        for size in FIXED_BATCHES:
            runs[f"generate, batches of {size}"] = lambda requests=requests, size=size: peers.fixed_batches(  # type: ignore[misc]
                requests, size
            )
        if name == "1-equal":
            runs[f"pipeline, batches of {FIXED_BATCHES[0]}"] = lambda requests=requests: peers.pipeline(
                requests, FIXED_BATCHES[0]
            )  # type: ignore[misc]
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
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        # Where a second thread has computed before, PyTorch's pools of threads stand in each other's way.
        lone = fresh.submit(lone_latency, model, cases["8-equal"][:LONE_CLIPS]).result()
    if vllm_python is not None:
        for name, taken in ask_vllm(vllm_python, model.checkpoint, cases, model.repeats + 1).items():
            speeds[f"{model.name}, {name}"]["vLLM"] = len(cases[name]) / statistics.median(taken[1:])
    found = {
        "same captions": same / asked,
        "lone": lone,
        "overhead": served(model, engine, cases["8-equal"]),
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


def lone_latency(model: Model, requests: Sequence[DescribeRequest]) -> float:
    """Return the median time of a clip that comes alone to a replica over that of a bare `generate`."""
    return asyncio.run(_lone_latency(model, requests))


async def _lone_latency(model: Model, requests: Sequence[DescribeRequest]) -> float:
    replica = VisionModel("lone", model.settings())
    on_engine = replica.batcher.on_engine
    await replica.describe(requests[0])
    peers = await on_engine(Peers, model.checkpoint)
    ours, plain = [], []
    for request in requests:
        begun_s = time.perf_counter()
        await replica.describe(request)
        ours.append(time.perf_counter() - begun_s)
        plain.append((await on_engine(timed, lambda request=request: peers.fixed_batches([request], 1)))[0])
    return statistics.median(ours) / statistics.median(plain)


def served(model: Model, engine: TransformersEngine, requests: Sequence[DescribeRequest]) -> float:
    """Return what share of the bare engine's speed the deployment takes, at saturation.

    So many clips wait at it that the beginning and the end of a run, when the engine is not full, weigh little.
    """
    requests = [*requests] * SATURATION
    # Ray gives a replica's PyTorch as many threads as CPUs.
    cores = {"num_cpus": len(os.sched_getaffinity(0))}
    config = model_app("engine", model.settings(), ray_actor_options=cores, max_ongoing_requests=2 * len(requests))

    async def ask() -> list[tuple[float, float]]:
        client = VisionClient.connect("engine")
        await wait_for_model(client, deadline_s=120)
        await asyncio.gather(*(client.describe(request) for request in requests[:UNDER_WAY]))
        taken = []
        for _ in range(model.repeats + 1):
            begun_s = time.perf_counter()
            await asyncio.gather(*(client.describe(request) for request in requests))
            through_s = time.perf_counter() - begun_s
            taken.append((through_s, timed(lambda: through(engine, requests))[0]))
        return taken

    with local_app(config, http=False):
        taken = asyncio.run(ask())
    return 1 - statistics.median(bare for _, bare in taken) / statistics.median(whole for whole, _ in taken)


def main() -> None:
    """Measure, print the table, write benchmarks/results/engine.json and its chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["demo", "random 0.2B"], help="measure one model and write no file")
    parser.add_argument("--vllm-python", type=Path, help="an interpreter with vLLM; without one it is left out")
    args = parser.parse_args()
    models = [
        Model("demo", endless_demo(), clips=64, repeats=3),
        Model("random 0.2B", random_model(), clips=32, repeats=1),
    ]
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
        "a lone clip in a replica over a bare generate": Bar(
            max(one["lone"] for one in found.values()), 1.1, "times", better="lower"
        ),
        "what the deployment takes of the engine's speed, random 0.2B": Bar(
            found["random 0.2B"]["overhead"], 0.05, "share", better="lower"
        ),
    }
    write_result(
        "engine",
        {f"clips/s, {case}": row for case, row in speeds.items()}
        | {f"{name} model": one for name, one in found.items()},
        bars,
        model="demo checkpoint and random weights, fp32 on a CPU, answers that do not end by themselves",
        shape=f"64 clips (random model: 32) of 1, 8 and 16 frames of {WIDTH}x{HEIGHT}; {EQUAL_TOKENS} tokens, or "
        f"{LEAST_TOKENS} to {MOST_TOKENS}",
    )
    draw_bars(RESULTS / "engine.png", "clips per second (CPU, fp32)", speeds, ours=OURS)


if __name__ == "__main__":
    main()
