"""The drawn scenes: equal specs draw equal pixels, and the words say what the pixels show."""

import numpy as np
import pytest

from deployments.vision.demo.batches import IGNORED, SIZES, Clip, cell_labels, sample_clip
from deployments.vision.demo.model import FRAME_SPEC
from deployments.vision.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SceneSpec,
    Thing,
    centre_at,
    held_out,
    render,
    sample_spec,
    truth,
)


def scene(shape: str = "circle", background: str = "dark", motion: str = "right") -> SceneSpec:
    dx, dy = MOTIONS[motion]
    start, end = (0.5 - 0.2 * dx, 0.5 - 0.2 * dy), (0.5 + 0.2 * dx, 0.5 + 0.2 * dy)
    return SceneSpec(background, (Thing("red", shape, motion, start, end, radius=0.25),), duration_s=10.0, seed=3)


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
def test_the_object_moves_as_the_truth_says(motion: str, times_s: np.ndarray) -> None:
    frames = render(scene(motion=motion), times_s.tolist(), 140, 84).astype(int)
    red = (frames[..., 0] - frames[..., 2]) > 100
    centres = np.array([[axis.mean() for axis in np.nonzero(mask)][::-1] for mask in red]) / (140, 84)
    travelled = (centres[-1] - centres[0]) / 0.4 * 10 / times_s[-1]
    assert np.allclose(travelled, MOTIONS[motion], atol=0.1)
    assert truth(scene(motion=motion)).startswith("A red circle " + ("stays still" if motion == "still" else "moves "))


def test_truth_of_one_frame_tells_no_motion() -> None:
    assert truth(scene()) == "A red circle moves right on a dark background."
    assert truth(scene(), single_frame=True) == "A red circle on a dark background."


def test_objects_stay_in_the_frame() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        spec = sample_spec(rng, combinations="all")
        (thing,) = spec.things
        for time_s in (0.0, spec.duration_s):
            assert all(thing.radius <= share <= 1 - thing.radius for share in centre_at(spec, thing, time_s))


def test_held_out_combinations_are_never_trained_on_yet_their_parts_are() -> None:
    rng = np.random.default_rng(0)
    seen = {(t.colour, t.shape, t.motion) for _ in range(3000) for t in sample_spec(rng).things}
    assert not any(held_out(*combination) for combination in seen)
    assert len(seen) == 144
    assert {t.colour for _ in range(200) for t in sample_spec(rng, combinations="held_out").things} == set(COLOURS)
    (thing,) = sample_spec(rng, combinations="held_out").things
    assert held_out(thing.colour, thing.shape, thing.motion)


def test_frame_sizes_are_those_the_engine_asks_for() -> None:
    videos = ((1920, 1080), (640, 480), (720, 720), (1080, 1920))
    assert tuple(FRAME_SPEC.target_size(*video) for video in videos) == SIZES


def test_cell_labels_lie_where_the_object_is() -> None:
    spec = scene(motion="right")
    times_s = np.array([0.0, 1.0, 9.0])
    labels = cell_labels(Clip(spec, times_s, render(spec, times_s.tolist(), 140, 84))).reshape(2, 3, 5, 4)
    assert (labels[..., 3] == BACKGROUNDS.index("dark")).all()
    left, right = (np.nonzero(pair[..., 0] != IGNORED)[1].mean() for pair in labels)
    assert left < 2 < right
    assert set(labels[0, ..., 2].flat) == {IGNORED, list(MOTIONS).index("right")}
    assert set(labels[1, ..., 2].flat) == {IGNORED}, "one moment shows no motion"
