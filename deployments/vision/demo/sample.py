"""Write the sample video of `make demo`, with the truth beside it: `python -m deployments.vision.demo.sample FILE`."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from deployments.vision.demo.answers import truth
from deployments.vision.demo.layout import Mix, sample_spec
from deployments.vision.demo.scenes import SceneSpec
from deployments.vision.demo.video import write_scenes

WIDTH, HEIGHT, FRAMES_PER_S, SCENE_S = 640, 360, 25, 10.0
SEEN_AT_S = tuple(second + 0.0 for second in range(round(SCENE_S)))
"""The moments of a scene at which the truth is told: one frame a second."""

_ONE, _TWO, _THREE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_PLOT = (
    (_ONE, "", 1789), (_TWO, "", 0), (_ONE, "event", 114), (_THREE, "", 6), (_ONE, "", 15), (_TWO, "cut", 213),
    (_TWO, "", 18), (_ONE, "", 21), (_TWO, "event", 18), (_ONE, "", 20), (_THREE, "", 10), (_TWO, "", 16),
)  # fmt: skip
"""Each scene's number of objects, what happens in it, and which draw of these it is."""


def _scene(index: int, odds: tuple[float, float, float], happens: str, seed: int) -> SceneSpec:
    """Return the `index`th scene, whose clock shows the video's own time."""
    mix = Mix(odds, clock=1.0, events=float(happens == "event"), cut=float(happens == "cut"))
    rng = np.random.default_rng([index, seed])
    spec = sample_spec(rng, duration_s=SCENE_S, aspect=WIDTH / HEIGHT, mix=mix, combinations="all")
    assert spec.clock is not None
    return replace(spec, clock=replace(spec.clock, starts_s=index * SCENE_S))


SCENES = tuple(_scene(index, *plot) for index, plot in enumerate(_PLOT))
"""Two minutes in scenes of `SCENE_S` seconds, one after the other with a hard cut between."""


def write_sample(path: Path, scenes: Sequence[SceneSpec] = SCENES) -> list[str]:
    """Write the sample video (MP4, H.264, 640x360 at 25 frames a second) and `truth.json` beside it.

    Every run draws the same pixels. Returns what the demo model should say of each scene.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_scenes(path, scenes, fps=FRAMES_PER_S, size=(WIDTH, HEIGHT))
    truths = [truth(scene, SEEN_AT_S) for scene in scenes]
    rows = [
        {"start_s": index * SCENE_S, "end_s": (index + 1) * SCENE_S, "truth": sentence}
        for index, sentence in enumerate(truths)
    ]
    (path.parent / "truth.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return truths


def main() -> None:
    """Parse the command line, write the video and print its truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="the MP4 to write")
    for sentence in write_sample(parser.parse_args().path):
        print(sentence)


if __name__ == "__main__":
    main()
