"""The pixels show what the specification says, also after a real encoder."""

from pathlib import Path

import av
import numpy as np
import pytest

from deployments.vision.demo.clips import sample_clip
from deployments.vision.demo.drawing import render
from deployments.vision.demo.scenes import BACKGROUNDS, COLOURS, CORNERS, MOTIONS, SHAPES, Clock, SceneSpec, Shot, Thing
from deployments.vision.demo.video import recode, write_scenes


def scene(shape: str = "circle", background: str = "dark", motion: str = "right", **options: object) -> SceneSpec:
    dx, dy = MOTIONS[motion]
    start, end = (0.5 - 0.2 * dx, 0.5 - 0.2 * dy), (0.5 + 0.2 * dx, 0.5 + 0.2 * dy)
    thing = Thing("red", shape, "large", motion, start, end, radius=0.25)
    return SceneSpec((Shot(background, (thing,), 0.0, 10.0, seed=3),), **options)  # type: ignore[arg-type]


def test_equal_seeds_draw_equal_pixels() -> None:
    one, other = (sample_clip(np.random.default_rng(7), 4, (140, 84), compressed=1.0) for _ in range(2))
    assert one.spec == other.spec
    assert np.array_equal(one.frames, other.frames)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_object_has_its_colour(shape: str, background: str) -> None:
    frame = render(scene(shape, background), [5.0], 140, 84)[0]
    middle = frame[38:46, 66:74].reshape(-1, 3).mean(axis=0)
    assert np.allclose(middle, COLOURS["red"], atol=3)
    border = np.concatenate([frame[:4].reshape(-1, 3), frame[-4:].reshape(-1, 3)]).astype(int)
    assert np.ptp(border, axis=1).mean() < 30, "backgrounds are nearly grey"


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("times_s", [np.arange(10.0), np.arange(8) * 1.25, np.arange(4) * 2.5], ids=len)
def test_the_object_moves_as_the_specification_says(motion: str, times_s: np.ndarray) -> None:
    frames = render(scene(motion=motion), times_s.tolist(), 140, 84).astype(int)
    red = (frames[..., 0] - frames[..., 2]) > 100
    centres = np.array([[axis.mean() for axis in np.nonzero(mask)][::-1] for mask in red]) / (140, 84)
    travelled = (centres[-1] - centres[0]) / 0.4 * 10 / times_s[-1]
    assert np.allclose(travelled, MOTIONS[motion], atol=0.1)


@pytest.mark.parametrize("corner", CORNERS)
def test_the_clock_changes_where_it_is_and_nowhere_else(corner: str) -> None:
    spec = scene(motion="still", clock=Clock(corner, 5.0))
    now, same, later = render(spec, [1.0, 1.9, 2.0], 196, 112).astype(int)
    assert np.array_equal(now, same)
    rows, columns = np.nonzero(np.abs(now - later).sum(axis=2))
    left, top, right, bottom = Clock(corner, 5.0).box(196, 112)
    assert left - 1 <= columns.min() <= columns.max() <= right + 1
    assert top - 1 <= rows.min() <= rows.max() <= bottom + 1
    assert len(rows) > 20


def test_all_digits_look_different() -> None:
    clock = Clock("top left", 0.0)
    frames = render(scene(motion="still", clock=clock), [float(second) for second in range(10)], 196, 112).astype(int)
    for one in range(10):
        for other in range(one):
            assert (np.abs(frames[one] - frames[other]).sum(axis=2) > 150).sum() > 8


def test_a_cut_changes_the_picture_at_its_time() -> None:
    shots = Shot("dark", (), 0.0, 4.0, seed=1), Shot("light", (), 4.0, 8.0, seed=2)
    frames = render(SceneSpec(shots), [0.0, 3.9, 4.0], 56, 28).astype(int)
    assert np.array_equal(frames[0], frames[1])
    assert (frames[2] - frames[1]).mean() > 100


def test_recoding_keeps_the_scene_and_changes_the_pixels() -> None:
    small = render(scene(), [0.0, 5.0], 196, 112).astype(int)
    coarse, fine = (recode(render(scene(), [0.0, 5.0], 392, 224), crf, (196, 112)).astype(int) for crf in (34, 18))
    assert coarse.shape == small.shape
    assert 0.2 < np.abs(fine - small).mean() < np.abs(coarse - small).mean() < 8


def test_write_scenes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "two.mp4", [scene(), scene(background="light")], fps=5, size=(128, 96), crf=20)
    with av.open(str(tmp_path / "two.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (128, 96)
        assert stream.average_rate == 5
        assert stream.codec_context.name == "h264"
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(stream)]
    assert len(frames) == 100
    drawn = render(scene(background="light"), [9.8], 128, 96)[0].astype(int)
    assert np.abs(frames[99] - drawn).mean() < 6
