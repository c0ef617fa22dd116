"""The sample video: the same every time, its truth beside it, everything the model can say in it."""

import json
from pathlib import Path

import av
import numpy as np

from deployments.vision.demo import sample
from deployments.vision.demo.answers import truth
from deployments.vision.demo.scenes import BACKGROUNDS, SHAPES


def test_scenes_show_all_that_the_model_names() -> None:
    told = " ".join(truth(scene, sample.SEEN_AT_S) for scene in sample.SCENES)
    for word in (*BACKGROUNDS, *SHAPES, "small", "large", "appears", "disappears", "First:", "Then:", "stays still"):
        assert word in told, word
    assert {len(shot.things) for scene in sample.SCENES for shot in scene.shots} == {1, 2, 3}


def test_the_clock_shows_the_time_of_the_video() -> None:
    for index, scene in enumerate(sample.SCENES):
        assert scene.clock is not None
        assert scene.clock.reading_s(3.0) == 10 * index + 3


def test_write_sample(tmp_path: Path) -> None:
    truths = sample.write_sample(tmp_path / "sample.mp4", sample.SCENES[:2])
    rows = json.loads((tmp_path / "truth.json").read_text())
    assert [row["truth"] for row in rows] == truths
    assert [(row["start_s"], row["end_s"]) for row in rows] == [(0.0, 10.0), (10.0, 20.0)]
    with av.open(str(tmp_path / "sample.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (640, 360)
        assert stream.average_rate == 25
        assert stream.codec_context.name == "h264"
        first = [frame for frame in container.decode(stream) if frame.time in (0, 9, 10, 19)]
    before, after = (frame.to_ndarray(format="rgb24").astype(int) for frame in first[1:3])
    assert len(first) == 4
    assert np.abs(before - after).mean() > 5, "the scene changes at 10 s"
