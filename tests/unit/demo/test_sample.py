"""The sample video: quick to write, the same every time, its truth beside it."""

import json
from pathlib import Path

import av
import numpy as np

from deployments.vision.demo import sample
from deployments.vision.demo.scenes import BACKGROUNDS


def test_scenes_differ_in_what_the_model_names() -> None:
    assert {scene.background for scene in sample.SCENES} == set(BACKGROUNDS)
    assert len({scene.things[0].colour for scene in sample.SCENES}) == len(sample.SCENES)


def test_write_sample(tmp_path: Path) -> None:
    truths = sample.write_sample(tmp_path / "sample.mp4")
    rows = json.loads((tmp_path / "truth.json").read_text())
    assert [row["truth"] for row in rows] == truths
    assert [(row["start_s"], row["end_s"]) for row in rows] == [(10.0 * n, 10.0 * n + 10) for n in range(6)]
    with av.open(str(tmp_path / "sample.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (640, 360)
        assert stream.average_rate == 25
        assert stream.codec_context.name == "h264"
        first = [frame for frame in container.decode(stream) if frame.time in (0, 9, 10, 59)]
    before, after = (frame.to_ndarray(format="rgb24").astype(int) for frame in first[1:3])
    assert len(first) == 4
    assert np.abs(before - after).mean() > 5, "the scene changes at 10 s"
