"""Are the timeline's times true? The error of every sampled frame's time, by kind of file. `make bench-timeline`.

Each file's frames show their own number, so the true time of a decoded picture is known from the picture itself.
"""

import tempfile
from pathlib import Path

from benchmarks.results_file import Bar, write_result
from deployments.contracts import FrameBatch
from pipelines.plan import SamplingOptions, plan_clips
from pipelines.sandbox import Sandbox
from tests.unit.pipelines.conftest import WRITERS, Library
from tests.videos import read_index

SAMPLED_FPS = 5.0
FRAMES_PER_S = 25


def errors_in_frames(name: str, library: Library, sandbox: Sandbox) -> list[float]:
    """Return, for every sampled frame, how far its `pts_s` lies from the true time of the picture, in frame times."""
    path = library.path(name)
    video = sandbox.probe(path)
    clips = plan_clips(video, SamplingOptions(clip_duration_s=2.0, fps=SAMPLED_FPS), max_frames=64)
    errors = []
    for clip, batch in sandbox.decode(path, clips, (video.width, video.height)):
        if not isinstance(batch, FrameBatch):
            raise RuntimeError(f"{name}, clip {clip.index}: expected frames, got {batch}")
        for pts_s, picture in zip(batch.pts_s.tolist(), batch.frames, strict=True):
            errors.append(abs(pts_s - _true_s(name, read_index(picture))) * FRAMES_PER_S)
    return errors


def _true_s(name: str, index: int) -> float:
    times_ms = WRITERS[name].get("times_ms")
    return (times_ms[index] - times_ms[0]) / 1000 if times_ms else index / FRAMES_PER_S


def main() -> None:
    """Measure every kind of file, print the table, write benchmarks/results/timeline.json."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox:
        library = Library(Path(folder))
        for name in WRITERS:
            if name == "h264_intra_refresh.mp4":
                continue  # its first pictures are only half there, whoever decodes them
            errors = errors_in_frames(name, library, sandbox)
            figures[name] = {"sampled frames": len(errors), "largest error, frames": max(errors)}
    worst = max(row["largest error, frames"] for row in figures.values())
    write_result(
        "timeline",
        figures,
        {"largest error of a time, all files": Bar(worst, 1.0, "frames", "lower")},
        model="none",
        shape=f"{len(figures)} kinds of file, 25 frames/s or variable, sampled at {SAMPLED_FPS:g} frames/s",
    )


if __name__ == "__main__":
    main()
