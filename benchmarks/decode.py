"""How fast sampled frames come: our sandboxed decoder against the loops a competent user would write.

All decode the same file at the same sample times to the same size, in one run, taking turns. `make bench-decode`.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
import numpy.typing as npt
import psutil

from benchmarks.results_file import Bar, write_result
from deployments.contracts import FrameBatch
from pipelines.plan import SamplingOptions, plan_clips
from pipelines.sandbox import Sandbox
from pipelines.video import ClipPlan

FILMS = Path("build/films")
FILM_S, FRAMES_PER_S = 64, 30
ROUNDS = 5
SHAPES = {
    "360p": (640, 360, (504, 280)),
    "720p": (1280, 720, (756, 420)),
}
"""Film -> width, height, and the (width, height) to decode at: multiples of 28, as Qwen2.5-VL takes them."""
SAMPLINGS = {
    "8_frames_per_clip": SamplingOptions(clip_duration_s=10.0, frames_per_clip=8),
    "1_fps": SamplingOptions(clip_duration_s=10.0, fps=1.0),
}

Pictures = list[npt.NDArray[np.uint8]]
Method = Callable[[Path, Sequence[ClipPlan], tuple[int, int]], Pictures]


def write_film(name: str, width: int, height: int) -> Path:
    """Return a film of a camera panning over a picture with things moving on it, grain on top; made the first time.

    x264's defaults (medium, CRF 23, groups of up to 250 frames, 3 B-frames) at 30 frames/s: no group ends with a clip.
    """
    path = FILMS / f"pan_{name}.mp4"
    if path.exists():
        return path
    FILMS.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(1)
    scene = _scene(dice, width * 2, height * 2)
    grain = dice.integers(-6, 7, (16, height, width, 1), dtype=np.int16)
    things = dice.uniform(0, 1, (12, 6))
    partial = path.with_suffix(".partial.mp4")
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_S)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(FILM_S * FRAMES_PER_S):
            at = number / FRAMES_PER_S
            left, top = (int((0.5 + 0.5 * np.sin(at / r)) * side) for r, side in ((9, width), (13, height)))
            picture = scene[top : top + height, left : left + width].astype(np.int16)
            for x, y, speed_x, speed_y, side, shade in things:
                column = int((x + at * (speed_x - 0.5) / 4) % 1 * (width - 40))
                row = int((y + at * (speed_y - 0.5) / 4) % 1 * (height - 40))
                extent = int(20 + side * height / 8)
                picture[row : row + extent, column : column + extent] = (255 * shade, 255 * x, 255 * y)
            picture += grain[number % len(grain)]
            frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_S)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    partial.rename(path)
    return path


def _scene(dice: np.random.Generator, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return a picture with detail at every scale: noise at many sizes, summed."""
    total = np.zeros((height, width, 3))
    for cell in (256, 64, 16, 4):
        small = dice.normal(0, 1, (height // cell + 2, width // cell + 2, 3))
        rows, columns = np.arange(height) / cell, np.arange(width) / cell
        r, c = rows.astype(int), columns.astype(int)
        fr, fc = (rows - r)[:, None, None], (columns - c)[None, :, None]
        upper = small[r][:, c] * (1 - fc) + small[r][:, c + 1] * fc
        lower = small[r + 1][:, c] * (1 - fc) + small[r + 1][:, c + 1] * fc
        total += (upper * (1 - fr) + lower * fr) * cell**0.5
    scaled: npt.NDArray[np.uint8] = np.clip(128 + total / total.std() * 50, 0, 255).astype(np.uint8)
    return scaled


def pyav_from_end_to_end(path: Path, clips: Sequence[ClipPlan], size: tuple[int, int]) -> Pictures:
    """Decode every frame with automatic threads; keep those that are due."""
    due = [time_s for clip in clips for time_s in clip.sample_times_s]
    pictures: Pictures = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        shown = None
        for frame in container.decode(stream):
            while len(pictures) < len(due) and shown is not None and frame.time > due[len(pictures)] + 0.001:
                pictures.append(_scaled(shown, size))
            if len(pictures) == len(due):
                break
            shown = frame
        while shown is not None and len(pictures) < len(due):
            pictures.append(_scaled(shown, size))
    return pictures


def pyav_seeking_each_clip(path: Path, clips: Sequence[ClipPlan], size: tuple[int, int]) -> Pictures:
    """Seek to each clip's keyframe and decode on with automatic threads until its last sample."""
    pictures: Pictures = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for clip in clips:
            due = list(clip.sample_times_s)
            container.seek(int((due[0] + 0.001) / float(stream.time_base or 1)), stream=stream)
            shown = None
            for frame in container.decode(stream):
                while due and shown is not None and frame.time > due[0] + 0.001:
                    pictures.append(_scaled(shown, size))
                    due.pop(0)
                if not due:
                    break
                shown = frame
            pictures += [_scaled(shown, size) for _ in due if shown is not None]
    return pictures


def _scaled(frame: av.VideoFrame, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    picture = frame.reformat(width=size[0], height=size[1], format="rgb24").to_ndarray()
    return picture.astype(np.uint8, copy=False)


def decord_batches(path: Path, clips: Sequence[ClipPlan], size: tuple[int, int]) -> Pictures:
    """Get each clip's frames in one batch, scaled by decord, with automatic threads."""
    reader = decord.VideoReader(str(path), width=size[0], height=size[1])
    fps = reader.get_avg_fps()
    pictures: Pictures = []
    for clip in clips:
        indices = [min(len(reader) - 1, int((time_s + 0.001) * fps)) for time_s in clip.sample_times_s]
        pictures += list(reader.get_batch(indices).asnumpy())
    return pictures


SINGLE, PER_CORE = "ours, one decoder", "ours, one per core"
OTHERS: dict[str, Method] = {
    "pyav end to end": pyav_from_end_to_end,
    "pyav seek per clip": pyav_seeking_each_clip,
    "decord get_batch": decord_batches,
}


def ours(sandboxes: Sequence[Sandbox]) -> Method:
    """Return our decoder as the chain uses it: warm children of one thread, each with a run of clips."""

    def decode_run(sandbox: Sandbox, path: Path, clips: Sequence[ClipPlan], size: tuple[int, int]) -> Pictures:
        batches = [outcome for _, outcome in sandbox.decode(path, clips, size)]
        return [picture for batch in batches if isinstance(batch, FrameBatch) for picture in batch.frames]

    def decode(path: Path, clips: Sequence[ClipPlan], size: tuple[int, int]) -> Pictures:
        length = -(-len(clips) // len(sandboxes))
        runs = [clips[begin : begin + length] for begin in range(0, len(clips), length)]
        with ThreadPoolExecutor(len(runs)) as pool:
            work = [
                pool.submit(decode_run, sandbox, path, run, size) for sandbox, run in zip(sandboxes, runs, strict=False)
            ]
            return [picture for done in work for picture in done.result()]

    return decode


def cpu_s() -> float:
    """Return the CPU seconds that this process and its children have used."""
    processes = [psutil.Process(), *psutil.Process().children()]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measured(
    methods: dict[str, Method], path: Path, clips: Sequence[ClipPlan], size: tuple[int, int]
) -> Iterator[dict[str, tuple[float, float]]]:
    """Yield, round by round, {method: (frames/s, CPU seconds)}; the first to go changes with the round."""
    names = list(methods)
    for turn in range(ROUNDS):
        times = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            cpu_begun_s, begun_s = cpu_s(), time.perf_counter()
            pictures = methods[name](path, clips, size)
            took_s = time.perf_counter() - begun_s
            times[name] = len(pictures) / took_s, cpu_s() - cpu_begun_s
        yield times


def check_same(methods: dict[str, Method], path: Path, clips: Sequence[ClipPlan], size: tuple[int, int]) -> None:
    """Make sure that all methods give the same frames, up to the scalers' own ways; warms every cache too."""
    truth = methods["pyav end to end"](path, clips, size)
    for name, method in methods.items():
        pictures = method(path, clips, size)
        assert len(pictures) == len(truth) == sum(len(clip.sample_times_s) for clip in clips), name
        differences = [np.abs(a.astype(int) - b).mean() for a, b in zip(pictures, truth, strict=True)]
        assert max(differences) < 8, f"{name} gives other frames: {max(differences):.1f} of 255 apart"


def main() -> None:
    figures: dict[str, Any] = {}
    bars: dict[str, Bar] = {}
    load = os.getloadavg()[0]
    with ExitStack() as open_sandboxes:
        sandboxes = [open_sandboxes.enter_context(Sandbox()) for _ in os.sched_getaffinity(0)]
        methods = {SINGLE: ours(sandboxes[:1]), PER_CORE: ours(sandboxes), **OTHERS}
        for film, (width, height, size) in SHAPES.items():
            path = write_film(film, width, height)
            info = sandboxes[0].probe(path)
            for sampling, options in SAMPLINGS.items():
                clips = plan_clips(info, options, max_frames=64)
                check_same(methods, path, clips, size)
                rounds = list(measured(methods, path, clips, size))
                key = f"{film}, {sampling}"
                figures[key] = {
                    **{f"{name}, frames/s": statistics.median(r[name][0] for r in rounds) for name in methods},
                    **{f"{name}, CPU s": statistics.median(r[name][1] for r in rounds) for name in methods},
                }
                alone = [r[SINGLE][0] / max(r[name][0] for name in OTHERS) for r in rounds]
                whole = [r[PER_CORE][0] / max(r[name][0] for name in OTHERS) for r in rounds]
                per_cpu_s = [min(r[name][1] for name in OTHERS) / r[SINGLE][1] for r in rounds]
                bars[f"{key}: frames/s of one decoder over the best other"] = Bar(statistics.median(alone), 1.0, "x")
                bars[f"{key}: frames/s on the whole machine over the best other"] = Bar(
                    statistics.median(whole), 1.0, "x"
                )
                bars[f"{key}: frames per CPU second over the best other"] = Bar(statistics.median(per_cpu_s), 1.0, "x")
    write_result(
        "decode",
        figures,
        bars,
        model="none",
        shape=f"{FILM_S} s of h264 at {FRAMES_PER_S} frames/s, x264 defaults (GOP 250, B-frames), clips of 10 s; "
        f"360p to 504x280, 720p to 756x420; median of {ROUNDS} interleaved rounds; the others use automatic threads; "
        f"load average {load:.1f} when begun",
    )


if __name__ == "__main__":
    main()
