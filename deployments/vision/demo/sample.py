"""Write the sample video of `make demo`, with the truth beside it: `python -m deployments.vision.demo.sample FILE`."""

import argparse
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from deployments.vision.demo.scenes import SceneSpec, Thing, render, truth

WIDTH, HEIGHT, FRAMES_PER_S, SCENE_S = 640, 360, 25, 10.0

_LEFT, _RIGHT, _TOP, _BOTTOM, _MIDDLE = (0.26, 0.5), (0.74, 0.5), (0.5, 0.27), (0.5, 0.73), (0.5, 0.5)
SCENES = tuple(
    SceneSpec(background, (Thing(colour, shape, motion, start, end, radius=0.22),), SCENE_S, seed)
    for seed, (colour, shape, motion, background, start, end) in enumerate(
        (
            ("red", "circle", "right", "dark", _LEFT, _RIGHT),
            ("yellow", "star", "up", "starry", _BOTTOM, _TOP),
            ("blue", "square", "left", "light", _RIGHT, _LEFT),
            ("green", "triangle", "still", "striped", _MIDDLE, _MIDDLE),
            ("purple", "circle", "down", "gradient", _TOP, _BOTTOM),
            ("orange", "square", "right", "chequered", _LEFT, _RIGHT),
        )
    )
)
"""Six scenes of `SCENE_S` seconds, one after the other with a hard cut between."""


def write_sample(path: Path) -> list[str]:
    """Write the sample video (MP4, H.264, 60 s of 640x360 at 25 frames a second) and `truth.json` beside it.

    Every run draws the same pixels. Returns one sentence per scene, which is what the demo model should say of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_S, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_S)
        for index, pixels in enumerate(_frames()):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FRAMES_PER_S)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    truths = [truth(scene) for scene in SCENES]
    rows = [
        {"start_s": index * SCENE_S, "end_s": (index + 1) * SCENE_S, "truth": sentence}
        for index, sentence in enumerate(truths)
    ]
    (path.parent / "truth.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return truths


def _frames() -> Iterator[npt.NDArray[np.uint8]]:
    """Yield every frame, uint8 (HEIGHT, WIDTH, 3), a second at a time so that few are in memory at once."""
    for scene in SCENES:
        for second in range(round(SCENE_S)):
            times_s = (second + np.arange(FRAMES_PER_S) / FRAMES_PER_S).tolist()
            yield from render(scene, times_s, WIDTH, HEIGHT)


def main() -> None:
    """Parse the command line, write the video and print its truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="the MP4 to write")
    for sentence in write_sample(parser.parse_args().path):
        print(sentence)


if __name__ == "__main__":
    main()
