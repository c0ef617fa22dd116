"""Is memory flat in video length? Peak resident memory of every process, 2 hours of video against 2 minutes.

Each film is analysed by a fresh app on a fresh Ray, so that a peak belongs to one film. `make bench-memory`.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.films import write_film
from benchmarks.pipeline import FRAMES_PER_CLIP, MODEL, OPTIONS, app_config
from benchmarks.process_memory import Sampler, roles, sizes_mib
from benchmarks.results_file import Bar, write_result
from deployments.settings import SimulatedSettings, VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.client import VisionClient, wait_for_model
from pipelines.analysis import open_analysis, plan_analysis
from pipelines.run import run_analyses
from pipelines.sandbox import Sandbox
from pipelines.source import inspect_source
from pipelines.store import open_store
from serve_app.cluster_app import local_app

SHORT_S, MIDDLE_S, LONG_S = 120.0, 600.0, 7200.0
SETTINGS = VisionSettings(
    engine="simulated",
    # As fast as two cores decode: the decoder, not the engine, should set the pace here.
    simulated=SimulatedSettings(frame_s=0.001),
    max_frames=FRAMES_PER_CLIP,
)


Peaks = dict[str, dict[str, float]]


class PeakMemory(Sampler):
    """Follows this process and all its descendants; keeps the highest sizes of each role, in MiB.

    `resident` is the kernel's VmHWM, which counts the pages of Ray's object store that a process has touched as its
    own, though all processes share them; `shared` is the highest sampled RssShmem, those pages alone.
    """

    def __init__(self) -> None:
        super().__init__(every_s=0.2)
        self.peaks_mib: Peaks = defaultdict(lambda: {"resident": 0.0, "shared": 0.0})

    def look(self) -> None:
        for pid, role in roles():
            try:
                # The kernel's own high-water mark: no peak between two looks is missed.
                sizes = sizes_mib(pid, "status")
            except OSError:
                continue
            if "VmHWM" in sizes:
                peaks = self.peaks_mib[role]
                for name, field in (("resident", "VmHWM"), ("shared", "RssShmem")):
                    peaks[name] = max(peaks[name], sizes[field])


async def analyse(film: Path) -> int:
    """Run one analysis as a runner does; return its number of clips."""
    client = VisionClient.connect(MODEL)
    model = model_info(MODEL, SETTINGS)
    await wait_for_model(client, deadline_s=60)
    with tempfile.TemporaryDirectory() as out, Sandbox() as sandbox:
        source = inspect_source(str(film), sandbox)
        clips = plan_analysis(source, model, OPTIONS)
        analysis = await open_analysis(source, model, OPTIONS, clips, open_store(out))
        [result] = await run_analyses([analysis], client, in_flight=asyncio.Semaphore(8))
    if result["status"] != "completed":
        raise RuntimeError(f"expected a completed analysis, got {result['coverage']}")
    return len(clips)


def peaks_mib(film: Path) -> Peaks:
    """Return the peak of each role while the film is analysed."""
    with local_app(app_config(SETTINGS), http=False):
        memory = PeakMemory()
        memory.start()
        asyncio.run(analyse(film))
        memory.stop()
        return dict(memory.peaks_mib)


def measure_apart(film: Path) -> Peaks:
    """Run `peaks_mib` in a process of its own, so that the driver's peak, too, belongs to this film alone."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", str(film)], capture_output=True, text=True, check=True
    )
    peaks: Peaks = json.loads(done.stdout.splitlines()[-1])
    return peaks


def main(long_s: float) -> None:
    """Measure the films, print the table, write benchmarks/results/memory.json.

    The bar is the long film over the short one. The middle one tells a warm-up, which a process goes through once and
    which the short film ends in the middle of, from what grows with the length of a video.
    """
    short, middle, long = (
        measure_apart(write_film(f"720p-{duration_s:g}s", width=1280, height=720, duration_s=duration_s))
        for duration_s in (SHORT_S, MIDDLE_S, long_s)
    )
    roles = sorted(set(short) & set(middle) & set(long))
    figures = {
        role: {
            "short, MiB": short[role]["resident"],
            "middle, MiB": middle[role]["resident"],
            "long, MiB": long[role]["resident"],
            "short, of it shared, MiB": short[role]["shared"],
            "middle, of it shared, MiB": middle[role]["shared"],
            "long, of it shared, MiB": long[role]["shared"],
            "ratio": long[role]["resident"] / short[role]["resident"],
            "ratio to middle": long[role]["resident"] / middle[role]["resident"],
        }
        for role in roles
    }
    write_result(
        "memory" if long_s == LONG_S else "memory-trial",
        figures,
        {f"peak of {role}, long over short": Bar(figures[role]["ratio"], 1.10, "x", "lower") for role in roles},
        model="simulated engine",
        shape=f"H.264 1280x720, {SHORT_S:g} s (short), {MIDDLE_S:g} s (middle) and {long_s:g} s (long), "
        f"clips of 10 s with {FRAMES_PER_CLIP} frames",
    )


if __name__ == "__main__":
    if len(sys.argv) == 2 and Path(sys.argv[1]).exists():
        print(json.dumps(peaks_mib(Path(sys.argv[1]))))
    else:
        main(float(sys.argv[1]) if len(sys.argv) == 2 else LONG_S)
